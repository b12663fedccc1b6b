"""Animations of paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys
from .._validate.arguments import check_integer
from .._validate.tables import check_adata, check_basis, check_obs, check_paths
from ._path import axis_name
from ._pixels import image_shape, limits, matrix
from ._scatter import color_points, dots, point_size
from ._style import HEIGHT, OKABE_ITO, WIDTH, drawing

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes

FORMATS = (".gif", ".html")


def animate(
    generated: AnnData,
    *,
    filename: str | os.PathLike[str] | None = None,
    basis: str | None = None,
    shape: Sequence[int] | None = None,
    paths: str | int | Sequence[str | int] | None = 0,
    color: str | None = None,
    layer: str | None = None,
    fps: int = 10,
    bounce: bool = True,
    ax: Axes | None = None,
    show: bool = False,
) -> FuncAnimation:
    """Animate a path as a changing image, or as a point that moves on an embedding.

    Parameters
    ----------
    generated
        Images: a path from :meth:`~scivae.model.CIVAE.interpolate`. Cells: real and generated ones
        from :func:`scivae.tl.embed`, with ``basis``.
    filename
        Output file: ``.gif``, or ``.html`` with playback controls. ``None``: no file.
    basis
        Embedding in ``obsm`` on which points move; ``None`` shows images.
    shape
        Height and width of an image. ``None``: ``uns["image"]["shape"]`` if present, otherwise
        derived from ``var_names`` such as ``pixel_27_27``.
    paths
        Names or positions of the paths; ``None`` for all. Images show the first.
    color
        Column of ``obs`` or gene that colors real cells on an embedding.
    layer
        Layer of the pixels; ``None`` for X.
    fps
        Frames per second.
    bounce
        Play the path forward and backward, so that the loop has no jump.
    ax
        Axes to draw in; ``None`` creates a figure.
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
        If ``filename`` has another extension, there is no path, or the shape of images is unknown.
    KeyError, IndexError
        If a path or the embedding is not found.

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
    target = None if filename is None else Path(filename)
    if target is not None and target.suffix.lower() not in FORMATS:
        raise ValueError(
            f"filename must end in .gif or .html, got {target.name!r}; change the extension."
        )
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

    size = (WIDTH * 0.6, WIDTH * 0.6 + 0.25) if basis is None else (WIDTH, HEIGHT)
    with drawing(ax, size=size, show=False) as drawn:
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
                legend=False, own=ax is None, fade=True,
            )  # fmt: skip
            drawn.set(
                xticks=[], yticks=[],
                xlabel=f"{axis_name(basis)} 1", ylabel=f"{axis_name(basis)} 2",
            )  # fmt: skip
            update = _moving_points(drawn, [points[rows] for rows in walks], t[walks[0]])
        animation = _animation(drawn, update, frames, fps, target, show)
    if ax is None and target is not None and not show:
        plt.close(drawn.figure)  # type: ignore[arg-type]
    return animation


def _animation(
    ax: Axes, update: Any, frames: list[int], fps: int, target: Path | None, show: bool
) -> FuncAnimation:
    """Create the animation and write it to the file, if one is given."""
    from matplotlib import pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure: Any = ax.get_figure()
    animation = FuncAnimation(figure, update, frames=frames, interval=1000 / fps, blit=False)
    if target is not None and target.suffix.lower() == ".gif":
        animation.save(target, writer=PillowWriter(fps=fps))
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
    trails = [ax.plot(*walk[:1].T, color="black", lw=0.9, zorder=4)[0] for walk in walks]
    heads = dots(
        ax, np.stack([walk[0] for walk in walks]), s=26, c=OKABE_ITO[3], ec="white", lw=0.8,
        zorder=5,
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
