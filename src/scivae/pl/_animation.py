"""Animations of paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys
from .._errors import shortened
from .._validate.arguments import check_integer
from .._validate.tables import (
    check_adata,
    check_basis,
    check_genes,
    check_obs,
    check_paths,
    check_trends,
    gene_symbols_of,
)
from ..tl import curve_layers
from ._path import FEW, axis_name
from ._pixels import image_shape, limits, matrix
from ._scatter import color_points, dots, point_size
from ._style import EMPTY, HEIGHT, WIDTH, panels
from ._trends import gene_trends

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes

FORMATS = (".gif", ".mp4", ".html")
HEAD = "black"
# Letters of the name of a group below an axis of positions.
LETTERS = 15
# Genes beside the map, at most.
MOST_GENES = 6


def animate(
    generated: AnnData,
    *,
    filename: str | os.PathLike[str] | None = None,
    basis: str | None = None,
    shape: Sequence[int] | None = None,
    paths: str | int | Sequence[str | int] | None = 0,
    color: str | None = None,
    trends: AnnData | None = None,
    genes: str | Sequence[str] | None = None,
    gene_symbols: str | None = None,
    layer: str | None = None,
    fps: int = 10,
    bounce: bool = True,
    ax: Any = None,
    show: bool = False,
) -> FuncAnimation:
    """Animate a path as a changing image, or as points that move on an embedding.

    Parameters
    ----------
    generated
        Images: a path from :meth:`~scivae.model.CIVAE.interpolate`. Cells: real and generated ones
        from :func:`scivae.tl.embed`, with ``basis``.
    filename
        Output file: ``.gif``, ``.mp4`` (needs ffmpeg), or ``.html`` with playback controls. ``None``:
        no file.
    basis
        Embedding in ``obsm`` on which points move; ``None`` shows images.
    shape
        Height and width of an image. ``None``: ``uns["image"]["shape"]`` if present, otherwise
        derived from ``var_names`` such as ``pixel_27_27``.
    paths
        Names or positions of the paths; ``None`` for all. Images show the first.
    color
        Column of ``obs`` or gene that colors real cells on an embedding.
    trends
        From :func:`scivae.tl.gene_trends`, with the same source and target as the paths. With
        ``genes`` and ``basis``.
    genes
        Up to six genes of ``trends``. Their curves are drawn beside the embedding, with a marker at
        the position of the moving points.
    gene_symbols
        Column of ``trends.var`` with the names to show; ``genes`` may be such names, too.
    layer
        Layer of the pixels; ``None`` for X.
    fps
        Frames per second.
    bounce
        Play the path forward and backward, so that the loop has no jump.
    ax
        Axes to draw in; with ``genes`` an array, the embedding first. ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The animation. A new figure is closed after the file is written. Keep a reference to the
    animation while it plays. In a notebook, ``IPython.display.HTML(animation.to_jshtml())`` plays
    it.

    Raises
    ------
    ValueError
        If ``filename`` has another extension, there is no path, the shape of images is unknown, or
        ``trends`` and ``genes`` are not passed together and with ``basis``.
    KeyError, IndexError
        If a path, a gene or the embedding is not found.
    RuntimeError
        If ffmpeg is not found for ``.mp4``.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.digits()
    >>> scivae.model.CIVAE.setup_anndata(adata, labels_key="digit")
    >>> model = scivae.model.CIVAE(adata, likelihood="bernoulli")
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> path = model.interpolate(0, 10, n_steps=5)
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     animation = scivae.pl.animate(path, filename=f"{folder}/zero.gif")
    """
    from matplotlib import pyplot as plt

    check_adata("generated", generated)
    check_obs(generated, (_keys.KIND, _keys.PATH, _keys.T), "generated", "generated")
    check_integer("fps", fps, minimum=1)
    target = None if filename is None else _checked_target(Path(filename))
    names = _checked_genes(trends, genes, basis, gene_symbols)
    walked = (generated.obs[_keys.KIND].astype(str) == _keys.INTERPOLATED).to_numpy()
    name = generated.obs[_keys.PATH].astype(str).to_numpy()
    t = generated.obs[_keys.T].to_numpy(dtype=float)
    if not walked.any():
        raise ValueError(
            f"generated must contain a path, got no rows with obs[{_keys.KIND!r}] == "
            f"{_keys.INTERPOLATED!r}; make one with model.interpolate(cell_a, cell_b)."
        )
    walks = []
    for one in check_paths(list(dict.fromkeys(name[walked])), paths):
        rows = np.flatnonzero(walked & (name == one))
        walks.append(rows[np.argsort(t[rows], kind="stable")])
    n_steps = min(len(rows) for rows in walks)
    frames = [*range(n_steps), *(range(n_steps - 2, 0, -1) if bounce else ())]

    panel = (WIDTH * 0.6, WIDTH * 0.6 + 0.25) if basis is None else (WIDTH, HEIGHT)
    places = None
    if names:
        places = _places(len(names))
        panel = (WIDTH / 2, 2.7 / len(places))
    with panels(ax, 1 + len(names), panel=panel, places=places) as axes:
        drawn, beside = axes[0], axes[1:]
        if basis is None:
            height, width = image_shape(generated, shape)
            pixels = matrix(generated, layer)[walks[0]].reshape(-1, height, width)
            update = _moving_image(drawn, pixels, t[walks[0]])
        else:
            points = check_basis(
                generated, basis, (0, 1), "scivae.tl.embed(adata, path) makes one."
            )
            real = generated.obs[_keys.KIND].astype(str).to_numpy() == _keys.REAL
            color_points(
                drawn, generated, points, real, color, area=point_size(int(real.sum())),
                legend="on data" if names else False, own=ax is None, fade=True,
            )  # fmt: skip
            drawn.set(
                xticks=[], yticks=[],
                xlabel=f"{axis_name(basis)} 1", ylabel=f"{axis_name(basis)} 2",
            )  # fmt: skip
            update = _moving_points(drawn, [points[rows] for rows in walks], t[walks[0]])
            if trends is not None:
                update = _with_genes(update, beside, trends, names, t[walks[0]], gene_symbols)
    animation = _animation(drawn, update, frames, fps, target, show)
    if ax is None and target is not None and not show:
        plt.close(drawn.figure)
    return animation


def _checked_target(target: Path) -> Path:
    """The file; raise unless it can be written with what is installed."""
    from matplotlib.animation import writers

    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"filename must end in .gif, .mp4 or .html, got {target.name!r}; change the extension."
        )
    if suffix == ".mp4" and not writers.is_available("ffmpeg"):
        raise RuntimeError(
            f"an .mp4 file needs ffmpeg, got {target.name!r} and no ffmpeg on the path; install it, or "
            "write a .gif."
        )
    return target


def _checked_genes(
    trends: Any, genes: Any, basis: str | None, gene_symbols: str | None
) -> list[str]:
    """Names of genes to draw beside the embedding; none without trends."""
    if trends is None and genes is None:
        return []
    if trends is None or genes is None or basis is None:
        given = {"trends": trends, "genes": genes, "basis": basis}
        raise ValueError(
            "trends, genes and basis must be passed together, got only "
            f"{' and '.join(k for k, v in given.items() if v is not None)}; pass all three."
        )
    check_trends("trends", trends)
    names = check_genes(trends, genes, symbols=gene_symbols_of(trends.var, gene_symbols))
    if len(names) > MOST_GENES:
        raise ValueError(
            f"genes must name at most {MOST_GENES} genes, got {len(names)}; choose some of them."
        )
    return names


def _places(n_genes: int) -> np.ndarray:
    """Grid of a figure: the embedding at the left, genes in one or two columns at the right."""
    n_cols = 1 if n_genes <= 2 else 2
    n_rows = -(-n_genes // n_cols)
    right = np.arange(1, n_rows * n_cols + 1).reshape(n_rows, n_cols)
    right[right > n_genes] = EMPTY
    return np.hstack([np.zeros((n_rows, 2), dtype=int), right])


def _animation(
    ax: Axes, update: Any, frames: list[int], fps: int, target: Path | None, show: bool
) -> FuncAnimation:
    """Create the animation and write it to the file, if one is given."""
    from matplotlib import pyplot as plt
    from matplotlib.animation import FuncAnimation

    figure: Any = ax.get_figure()
    animation = FuncAnimation(figure, update, frames=frames, interval=1000 / fps, blit=False)
    if target is not None and target.suffix.lower() != ".html":
        writer = "pillow" if target.suffix.lower() == ".gif" else "ffmpeg"
        animation.save(target, writer=writer, fps=fps)
    elif target is not None:
        target.write_text(animation.to_jshtml(fps=fps, default_mode="loop"), encoding="utf-8")
    if show:
        plt.show()
    return animation


def _moving_image(ax: Axes, pixels: np.ndarray, t: np.ndarray) -> Any:
    """Draw the first image; return the function that updates it."""
    low, high = limits(pixels)
    image = ax.imshow(pixels[0], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    title = ax.set_title(f"t = {t[0]:.2f}", loc="center")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)

    def update(step: int) -> tuple:
        image.set_data(pixels[step])
        title.set_text(f"t = {t[step]:.2f}")
        return image, title

    return update


def _moving_points(ax: Axes, walks: list[np.ndarray], t: np.ndarray) -> Any:
    """Draw paths at their first points; return the function that moves them."""
    few = len(walks) <= FEW
    look: dict[str, Any] = {"color": "black", "lw": 0.9 if few else 0.5, "alpha": 1 if few else 0.4}
    trails = [ax.plot(*walk[:1].T, zorder=4, **look)[0] for walk in walks]
    heads = dots(
        ax, np.stack([walk[0] for walk in walks]), s=26 if few else 14, c=HEAD, ec="white",
        lw=0.8 if few else 0.5, zorder=5,
    )  # fmt: skip
    title = ax.set_title(f"t = {t[0]:.2f}", loc="center")
    ax.update_datalim(np.concatenate(walks))
    ax.autoscale_view()

    def update(step: int) -> tuple:
        for trail, walk in zip(trails, walks, strict=True):
            trail.set_data(*walk[: step + 1].T)
        heads.set_offsets(np.stack([walk[step] for walk in walks]))
        title.set_text(f"t = {t[step]:.2f}")
        return (*trails, heads, title)

    return update


def _with_genes(
    update: Any,
    axes: np.ndarray,
    trends: AnnData,
    genes: list[str],
    t: np.ndarray,
    gene_symbols: str | None,
) -> Any:
    """Draw curves of genes; return a function that moves a marker on each, after ``update``."""
    gene_trends(trends, genes, decoded=False, donors=False, gene_symbols=gene_symbols, ax=axes)
    said = trends.uns[_keys.UNS]
    ends = [
        shortened(str(said.get(end) or t), LETTERS) for end, t in (("source", 0), ("target", 1))
    ]
    for ax in axes:
        if ax.get_legend() is not None:
            ax.get_legend().remove()
        if ax.get_xlabel():  # at the bottom
            ax.set_xticks([0, 1], ends)
            for label, side in zip(ax.get_xticklabels(), ("left", "right"), strict=True):
                label.set_horizontalalignment(side)
            ax.set_xlabel("")
        else:
            ax.set_xticks([0, 1], ["", ""])
        ax.set_ylabel(ax.get_ylabel().replace(" of ", " of\n"), fontsize="small")
    columns = trends.var_names.get_indexer(genes)
    curves = np.asarray(trends.layers[curve_layers(trends)[0]], dtype=float)[:, columns]
    at = trends.obs[_keys.T].to_numpy(dtype=float)
    levels = np.stack([np.interp(t, at, curve) for curve in curves.T], axis=1)
    lines = [ax.axvline(t[0], color="0.6", lw=0.6, zorder=1) for ax in axes]
    markers = [
        ax.plot(t[0], level, "o", color=HEAD, ms=5, mec="white", mew=0.8, zorder=5, clip_on=False)[
            0
        ]
        for ax, level in zip(axes, levels[0], strict=True)
    ]

    def update_all(step: int) -> tuple:
        moved = update(step)
        for line, marker, level in zip(lines, markers, levels[step], strict=True):
            line.set_xdata([t[step], t[step]])
            marker.set_data([t[step]], [level])
        return (*moved, *lines, *markers)

    return update_all
