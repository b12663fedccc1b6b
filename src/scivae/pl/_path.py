"""Plot of paths on an embedding of real cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys
from .._validate.arguments import check_integer
from .._validate.tables import check_adata, check_basis, check_obs, check_paths, column
from ._scatter import (
    Legend,
    check_legend,
    color_points,
    dots,
    is_categorical,
    legend_height,
    point_size,
)
from ._style import HEIGHT, OKABE_ITO, T_CMAP, WIDTH, colorbar, drawing

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

# Smallest length of a path per arrowhead, in points.
POINTS_PER_ARROW = 25
# With more paths than this, paths are drawn as thin, translucent lines.
FEW = 10
# Number of paths with an arrowhead if there are many paths.
WITH_HEAD = 5
# Zoom in if the paths take less than this fraction of both directions.
SHORT = 1 / 3


def path(
    joint: AnnData,
    *,
    basis: str = "umap",
    color: str | None = None,
    paths: str | int | list[str | int] | None = None,
    within: str | None = None,
    dimensions: tuple[int, int] = (0, 1),
    n_arrows: int = 3,
    zoom: bool | None = None,
    size: float | None = None,
    legend: Legend = True,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot paths with arrows over the real cells, on any embedding.

    Parameters
    ----------
    joint
        Real and generated cells, from :func:`scivae.tl.embed`.
    basis
        Embedding in ``obsm``: ``"umap"`` for ``obsm["X_umap"]``.
    color
        Column of ``obs`` or gene that colors the real cells; ``None`` draws them gray.
    paths
        Names or positions of the paths to draw; ``None`` for all.
    within
        Column of ``obs`` with classes: only cells of the classes of the paths are drawn. ``None``: in
        a close-up, ``color`` if it is a column of classes that the paths have; otherwise all cells.
    dimensions
        The two dimensions of the embedding to show.
    n_arrows
        Number of arrowheads on each path; fewer on short paths. With more than ten paths, five of
        them have one.
    zoom
        Whether to show only the region around the paths. ``None``: yes, if the paths take less than
        a third of both width and height of all cells that are drawn.
    size
        Area of the point of a real cell, in points squared. ``None``: set from the number of cells.
    legend
        Whether to draw a legend and a color bar. ``"on data"`` writes class names on the cells.
        This is always done in axes that you pass. More than eight classes are numbered on the cells and
        in the legend, which takes at most 40 % of the height; names of up to three letters stand on the
        cells themselves.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. A path goes from the open circle to the filled one, colored by position t. Augmented
    cells in ``joint`` are triangles.

    Raises
    ------
    ValueError
        If ``joint`` contains no generated cells, or ``within`` has no class of the paths.
    KeyError, IndexError
        If the embedding, a path, ``color`` or ``within`` is not found.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> joint = scivae.tl.embed(adata, model.interpolate(0, 5))
    >>> ax = scivae.pl.path(joint, color="cell_type")
    >>> ax.get_xlabel()
    'UMAP 1'
    """
    check_adata("joint", joint)
    check_obs(joint, (_keys.KIND, _keys.PATH, _keys.T), "joint", "joint")
    check_integer("n_arrows", n_arrows, minimum=0)
    check_legend(legend)
    if zoom is not None and not isinstance(zoom, bool | np.bool_):
        raise TypeError(f"zoom must be True, False or None, got {zoom!r}; pass one of these.")
    if within is not None:
        column(joint, "within", within)
    points = check_basis(
        joint, basis, dimensions, "Run scivae.tl.embed(adata, path) to embed real and new cells."
    )
    kind = joint.obs[_keys.KIND].astype(str).to_numpy()
    walked, augmented = kind == _keys.INTERPOLATED, kind == _keys.AUGMENTED
    if not (walked | augmented).any():
        raise ValueError(
            f"joint must contain generated cells, got none with obs[{_keys.KIND!r}] == "
            f"{_keys.INTERPOLATED!r} or {_keys.AUGMENTED!r}; pass the path to scivae.tl.embed too."
        )
    names = joint.obs[_keys.PATH].astype(str).to_numpy()
    wanted = check_paths(list(dict.fromkeys(names[walked])), paths) if walked.any() else []
    t = joint.obs[_keys.T].to_numpy(dtype=float)

    size_of_figure = (WIDTH, HEIGHT + legend_height(joint, color, legend=legend))
    with drawing(ax, size=size_of_figure, show=show) as drawn:
        own = walked & np.isin(names, wanted)
        close = points[own]
        real = ~(walked | augmented)
        if within is None and wanted and zoom is not False:
            far = zoom or _close_up(points[real], close, always=False) is not None
            key = _classes_of_paths(joint, color, own) if far else None
        else:
            key = within
        if key is not None:
            inside = joint.obs[key].isin(joint.obs[key][own].dropna().unique()).to_numpy()
            if not (inside & real).any():
                raise ValueError(
                    f"within must be a column with the classes of the paths, got {key!r}, in which "
                    "no real cell has a class of theirs; pass the labels_key of the model."
                )
            real, augmented = real & inside, augmented & inside
        area = point_size(real.sum()) if size is None else size
        view = None
        if wanted and zoom is not False:
            view = _close_up(points[real], close, always=bool(zoom))
        named = (
            real if view is None else real & ((points >= view[0]) & (points <= view[1])).all(axis=1)
        )
        color_points(
            drawn, joint, points, real, color, area=area, legend=legend, own=ax is None, fade=True,
            named=named,
        )  # fmt: skip
        if augmented.any():
            dots(
                drawn, points[augmented], s=2.5 * area, marker="^", c=OKABE_ITO[3], lw=0, zorder=3,
                label="augmented",
            )  # fmt: skip
        drawn.update_datalim(points[walked])
        drawn.autoscale_view()
        if view is not None:  # arrows depend on the view
            drawn.set_xlim(view[0][0], view[1][0])
            drawn.set_ylim(view[0][1], view[1][1])
        few = len(wanted) <= FEW
        with_head = np.linspace(0, len(wanted) - 1, WITH_HEAD).astype(int)
        for i, name in enumerate(wanted):
            rows = np.flatnonzero(walked & (names == name))
            rows = rows[np.argsort(t[rows], kind="stable")]
            heads = n_arrows if few else min(n_arrows, int(i in with_head))
            _draw_path(drawn, points[rows], t[rows], heads, few=few)
        if legend and wanted:
            colorbar(_position_colors(), drawn, "position along path, t", ticks=[0, 0.5, 1])
        if view is None:
            drawn.autoscale_view()
        drawn.set(xticks=[], yticks=[])
        for axis, dimension in zip((drawn.xaxis, drawn.yaxis), dimensions, strict=True):
            axis.set_label_text(f"{axis_name(basis)} {dimension + 1}")
    return drawn


def _classes_of_paths(joint: AnnData, color: str | None, own: np.ndarray) -> str | None:
    """``color`` if it is a column of classes that the paths have, else ``None``."""
    if color is None or color not in joint.obs.columns:
        return None
    values = joint.obs[color]
    known = values[~joint.obs[_keys.KIND].isin([_keys.INTERPOLATED, _keys.AUGMENTED])]
    return color if is_categorical(values) and known.isin(values[own]).any() else None


def _close_up(
    cells: np.ndarray, paths: np.ndarray, *, always: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper limits of a view of short paths, each of shape ``(2,)``; ``None`` for long ones."""
    low, high = paths.min(axis=0), paths.max(axis=0)
    whole = np.ptp(cells, axis=0) if len(cells) else np.zeros(2)
    if not always and ((high - low) >= SHORT * whole).any():
        return None
    # Same zoom factor in both directions, to keep shapes.
    part = max(float(((high - low) / np.where(whole > 0, whole, 1)).max()), 0.05)
    half = 0.9 * part * np.where(whole > 0, whole, 1)
    middle = (low + high) / 2
    return middle - half, middle + half


def axis_name(basis: str) -> str:
    """Name of the axes of an embedding."""
    name = basis.removeprefix("X_")
    return {"umap": "UMAP", "pca": "PC", "tsne": "t-SNE", _keys.KEY_ADDED: "z"}.get(name, name)


def _draw_path(ax: Axes, points: np.ndarray, t: np.ndarray, n_arrows: int, *, few: bool) -> None:
    """Draw a path as segments colored by t, with ends and arrowheads."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    segments = np.stack([points[:-1], points[1:]], axis=1)
    width = 2.0 if few else 0.8
    lines = LineCollection(
        list(segments), cmap=T_CMAP, norm=Normalize(0, 1), lw=width, zorder=4, alpha=None if few else 0.6,
        capstyle="round",
    )  # fmt: skip
    lines.set_array((t[:-1] + t[1:]) / 2)
    if few:
        ax.plot(*points.T, color="white", lw=width + 1.6, zorder=3.5, solid_capstyle="round")
    ax.add_collection(lines)
    # On a short path, arrowheads and ends must not cover the colors.
    length = _length_in_points(ax, points)
    n_arrows = min(n_arrows, int(length / POINTS_PER_ARROW))
    if few:
        size = float(np.clip(length / 12, 2.8, 4.5))
        ends: dict[str, Any] = {"mec": "black", "mew": 0.2 * size, "ms": size, "zorder": 6}
        ax.plot(*points[0], "o", mfc="white", **ends)
        ax.plot(*points[-1], "o", mfc="black", **ends)
    for start, end in arrow_heads(points, n_arrows):
        ax.annotate(
            "", xy=tuple(end), xytext=tuple(start), zorder=5,
            arrowprops={
                "arrowstyle": "-|>,head_width=0.22,head_length=0.4",
                "color": "black", "lw": 0.0, "shrinkA": 0, "shrinkB": 0,
                "mutation_scale": 10 if few else 6,
            },
        )  # fmt: skip


def _length_in_points(ax: Axes, points: np.ndarray) -> float:
    """Length of a path on the page, in points."""
    figure: Any = ax.get_figure()
    steps = np.diff(ax.transData.transform(points), axis=0)
    return float(np.linalg.norm(steps, axis=1).sum() * 72 / figure.dpi)


def _position_colors() -> ScalarMappable:
    """Colors of t, for the color bar."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, 1), T_CMAP)


def arrow_heads(points: np.ndarray, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Start and end points of arrowheads, evenly spaced along a path.

    Parameters
    ----------
    points
        Shape ``(n_steps, 2)``.
    n
        Number of arrowheads; a path of length zero has none.
    """
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    if length[-1] == 0:
        return []
    heads = []
    for share in (np.arange(n) + 1) / (n + 1):
        # The direction is averaged over a twentieth of the path, so that noise in one step does not
        # affect it.
        at = np.array([share - 0.025, share + 0.025]) * length[-1]
        start, end = (np.array([np.interp(a, length, points[:, k]) for k in (0, 1)]) for a in at)
        if (start != end).any():
            heads.append((start, end))
    return heads
