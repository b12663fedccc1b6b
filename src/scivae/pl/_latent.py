"""Plots of the latent space, and of synthetic with real cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from .. import _keys
from .._errors import near_matches, shown
from .._names import layer_names, same_names
from .._validate.arguments import check_integer
from .._validate.tables import check_adata
from ._path import axis_name
from ._scatter import (
    RASTERIZE_FROM,
    Legend,
    check_legend,
    class_handles,
    class_legend,
    color_points,
    dots,
    is_categorical,
    legend_height,
    point_size,
    values_of,
)
from ._style import GRAY, HEIGHT, OKABE_ITO, PALE, WIDTH, category_colors, drawing
from .embedding import Method, check_method, embed_points, principal_components, some_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def latent(
    adata: AnnData,
    *,
    method: Method = "umap",
    n_components: int = 2,
    color: str | None = _keys.LABELS_KEY,
    key: str = _keys.LATENT,
    size: float | None = None,
    legend: Legend = True,
    max_cells: int = 20_000,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot the latent space in two or three dimensions, as in Figure 5 of the paper.

    Parameters
    ----------
    adata
        AnnData with latent points (z) in ``obsm[key]``.
    method
        Method of dimension reduction. The embedding is not stored.
    n_components
        2 or 3.
    color
        Column of ``obs`` or gene; ``None`` draws all cells gray.
    key
        Slot of z in ``obsm``.
    size
        Area of a point, in points squared. ``None``: set from the number of cells.
    legend
        Whether to draw a legend, or a color bar for numbers. ``"on data"`` writes class names on
        the cells; as is always done in axes that you pass. More than eight classes are numbered on
        the cells and in the legend, which takes at most 40 % of the height; names of up to three
        letters stand on the cells themselves.
    max_cells
        Largest number of cells; if there are more, a random subset is drawn.
    seed
        Seed of the embedding and of the random subset.
    ax
        Axes to draw in, three-dimensional for three components; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes.

    Raises
    ------
    KeyError
        If z or ``color`` is not found.
    ValueError
        If ``method`` or ``n_components`` is unknown.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> ax = scivae.pl.latent(adata, method="pca")
    >>> ax.get_xlabel()
    'PC 1 of z'
    """
    check_adata("adata", adata)
    check_method(method, n_components)
    check_legend(legend)
    check_integer("max_cells", max_cells, minimum=1)
    if key not in adata.obsm:
        raise KeyError(
            f"key must be a slot of obsm, got {key!r}; available: {shown(adata.obsm) or 'none'}."
            f"{near_matches(key, adata.obsm)} Set adata.obsm[{key!r}] = "
            "model.get_latent_representation() first."
        )
    if color is not None:
        values_of(adata, color)  # check the name before the slow embedding
    cells = some_of(adata.n_obs, max_cells, seed)
    points = np.full((adata.n_obs, n_components), np.nan)
    points[cells] = embed_points(np.asarray(adata.obsm[key])[cells], method, n_components, seed)
    rows = np.isin(np.arange(adata.n_obs), cells)
    height = HEIGHT + legend_height(adata, color, legend=legend)
    projection = "3d" if n_components == 3 else None
    with drawing(ax, size=(WIDTH, height), projection=projection, show=show) as drawn:
        area = point_size(len(cells)) if size is None else size
        color_points(drawn, adata, points, rows, color, area=area, legend=legend, own=ax is None)
        _name_axes(drawn, method, n_components, " of z")
    return drawn


def augmentation(
    real: AnnData,
    synthetic: AnnData,
    *,
    withheld: AnnData | None = None,
    method: Method = "tsne",
    color: str | None = _keys.LABELS_KEY,
    layer: str | None = None,
    n_pcs: int = 50,
    size: float | None = None,
    legend: bool = True,
    max_cells: int = 10_000,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot real and synthetic cells in one embedding of gene space, as in Figure 8 of the paper.

    Parameters
    ----------
    real
        Real cells.
    synthetic
        Samples from :meth:`~scivae.model.CIVAE.augment`, with the same variables. Expected values
        are not allowed: they lack sampling noise, so they do not overlap with real cells.
    withheld
        Real cells that the model was not trained on, with the same variables; ``None`` for none.
        Synthetic cells should lie where these do.
    method
        Method of the joint embedding.
    color
        Column of ``obs`` in both with the classes; ``None`` for no classes.
    layer
        Layer of the values in all. ``None``: ``counts`` if all have it, otherwise X. Counts are
        log-normalized (counts per 10,000).
    n_pcs
        Number of principal components, fitted on the real cells, from which the embedding is
        calculated.
    size
        Area of a point, in points squared. ``None``: set from the number of cells.
    legend
        Whether to draw a legend.
    max_cells
        Largest number of cells of each kind; if there are more, a random subset is drawn.
    seed
        Seed of the embedding and of the random subset.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. Real cells are pale dots, synthetic cells are triangles, withheld cells are open circles.

    Raises
    ------
    ValueError
        If ``synthetic`` has expected values, or the variables differ.
    KeyError
        If ``layer`` or ``color`` is not found.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=5, enable_progress_bar=False)
    >>> cells = model.augment("Dendritic", 50)
    >>> ax = scivae.pl.augmentation(adata, cells, method="pca")
    >>> ax.get_ylabel()
    'PC 2'
    """
    kinds = {"real": real, "synthetic": synthetic}
    if withheld is not None:
        kinds["withheld"] = withheld
    for argument, data in kinds.items():
        check_adata(argument, data)
        if data.n_obs == 0:
            raise ValueError(f"{argument} must have at least one cell, got none; pass cells.")
    check_method(method, 2)
    check_integer("n_pcs", n_pcs, minimum=2)
    check_integer("max_cells", max_cells, minimum=1)
    _check_samples(synthetic)
    for argument, data in kinds.items():
        if not same_names(real.var_names, data.var_names):
            raise ValueError(
                f"real and {argument} must have the same variables in the same order, got "
                f"{real.n_vars} and {data.n_vars}; use real[:, {argument}.var_names]."
            )
    if color is not None:
        for data in kinds.values():
            if not is_categorical(values_of(data, color)):
                raise ValueError(
                    f"color must be a column of classes, got numbers in {color!r}; pass another "
                    "column, or color=None."
                )
    kept = {argument: some_of(data.n_obs, max_cells, seed) for argument, data in kinds.items()}
    x = _comparable(kinds, layer, kept)
    x = principal_components(x[: len(kept["real"])], x, n_pcs)
    points = embed_points(x, method, 2, seed)
    ends = np.cumsum([len(cells) for cells in kept.values()])
    placed = dict(zip(kept, np.split(points, ends[:-1]), strict=True))

    height = HEIGHT + 0.15 + legend_height(real, color, legend=legend)
    with drawing(ax, size=(WIDTH, height), show=show) as drawn:
        area = point_size(len(points)) if size is None else size
        colors, categories = _colors(kinds, color)
        for kind, data in kinds.items():
            _draw_cells(drawn, data, kept[kind], placed[kind], color, colors, area=area, kind=kind)
        _name_axes(drawn, method, 2)
        if legend:
            _legend(drawn, list(kinds), categories, colors, own=ax is None)
            if ax is None and categories:
                names = np.concatenate(
                    [d.obs[color].to_numpy(dtype=object)[kept[k]] for k, d in kinds.items()]
                )
                groups = {c: names == c for c in categories}
                class_legend(
                    drawn, points, {c: g for c, g in groups.items() if g.any()}, colors, below=True
                )
    return drawn


def _draw_cells(
    ax: Axes,
    data: AnnData,
    cells: np.ndarray,
    points: np.ndarray,
    color: str | None,
    colors: dict[Any, str],
    *,
    area: float,
    kind: str,
) -> None:
    """Draw cells of a kind, in random order: pale dots, outlined triangles, or open circles."""
    order = np.random.default_rng(0).permutation(len(cells))
    if color is None:
        plain = {"real": GRAY, "synthetic": OKABE_ITO[3], "withheld": OKABE_ITO[0]}
        faces = [plain[kind]] * len(cells)
    else:
        names = data.obs[color].to_numpy(dtype=object)[cells]
        faces = [colors.get(names[i], PALE) for i in order]
    look: dict[str, Any] = {
        "real": {"s": area, "c": faces, "lw": 0, "alpha": 0.35, "zorder": 2},
        "synthetic": {
            "s": 3 * area,
            "c": faces,
            "marker": "^",
            "ec": "white",
            "lw": 0.25,
            "zorder": 3,
        },
        "withheld": {"s": 3 * area, "c": "none", "ec": faces, "lw": 0.6, "zorder": 4},
    }[kind]
    dots(ax, points[order], rasterized=len(cells) > RASTERIZE_FROM, **look)


def _legend(
    ax: Axes, kinds: list[str], categories: list, colors: dict[Any, str], *, own: bool
) -> None:
    """Draw a legend of shapes; in axes of the user, of colors too."""
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {
        "real": {"marker": "o", "color": GRAY, "alpha": 0.6},
        "synthetic": {"marker": "^", "mfc": GRAY, "mec": "white", "mew": 0.3},
        "withheld": {"marker": "o", "mfc": "none", "mec": "0.3", "mew": 0.6},
    }
    shapes = [Line2D([], [], ls="", ms=4, label=kind, **look[kind]) for kind in kinds]
    if own:
        figure: Any = ax.get_figure()
        figure.legend(handles=shapes, loc="outside upper left", ncols=len(shapes))
    else:
        ax.legend(handles=shapes + class_handles(categories, colors), fontsize="x-small")


def _check_samples(synthetic: AnnData) -> None:
    said = synthetic.uns.get(_keys.UNS, {})
    values = said.get("values") if hasattr(said, "get") else None
    if values == "expected":
        raise ValueError(
            "synthetic must hold samples, got expected values, which do not overlap with real "
            "cells in gene space; use model.augment(label, n, sample=True), or compare them in "
            "latent space with scivae.tl.embed."
        )


def _comparable(
    kinds: dict[str, AnnData], layer: str | None, kept: dict[str, np.ndarray]
) -> np.ndarray:
    """Values of all kinds of cells, normalized the same way, shape ``(n_cells, n_vars)``."""
    from ..data.generated import log_normalize
    from ..data.likelihoods import are_counts

    if layer is None and all(_keys.COUNTS_LAYER in d.layers for d in kinds.values()):
        layer = _keys.COUNTS_LAYER
    parts: list[Any] = []
    for argument, data in kinds.items():
        names = layer_names(data)
        if layer is not None and layer not in names:
            raise KeyError(
                f"layer must be a layer of {' and '.join(kinds)}, got {layer!r}, which is not in "
                f"{argument}; available: {shown(names) or 'none'}.{near_matches(layer, names)}"
            )
        values = (data.X if layer is None else data.layers[layer])[kept[argument]]
        parts.append(values if sparse.issparse(values) else np.asarray(values))
    if all(are_counts(p) for p in parts):
        parts = [log_normalize(p.astype(np.float32)) for p in parts]
    dense = [p.toarray() if sparse.issparse(p) else p for p in parts]
    return np.concatenate(dense).astype(float)


def _colors(kinds: dict[str, AnnData], color: str | None) -> tuple[dict[Any, str], list]:
    """Color of each class, and the classes that occur."""
    if color is None:
        return {}, []
    real = kinds["real"]
    values = real.obs[color]
    categories = (
        list(values.cat.categories)
        if isinstance(values.dtype, pd.CategoricalDtype)
        else sorted(values.dropna().unique(), key=str)
    )
    present = dict.fromkeys(c for data in kinds.values() for c in data.obs[color].dropna().unique())
    new = [c for c in present if c not in categories]
    colors = category_colors([*categories, *new], real.uns, color)
    return colors, [c for c in colors if c in present]


def _name_axes(ax: Any, method: str, n_components: int, what: str = "") -> None:
    """Label the axes, without tick labels: coordinates have no meaning."""
    flat = n_components == 2
    if not flat:
        ax.set_box_aspect((4, 4, 3.2), zoom=1.08)
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis._axinfo["grid"].update(color="0.88", linewidth=0.5)
            axis.set_pane_color((1, 1, 1, 0))
    for axis, number in zip("xyz", range(1, n_components + 1), strict=False):
        name = f"{axis_name(method)} {number}{what}"
        getattr(ax, f"set_{axis}label")(name, **({} if flat else {"labelpad": -10}))
        if flat:
            getattr(ax, f"set_{axis}ticks")([])
        else:
            getattr(ax, f"set_{axis}ticklabels")([])
