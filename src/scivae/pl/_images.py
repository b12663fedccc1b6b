"""Plots of images: paths and reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys
from .._validate.arguments import check_integer
from .._validate.tables import check_adata, check_obs, check_paths
from ._pixels import centers, image_shape, limits, matrix, mosaic
from ._style import (
    SIGNED_CMAP,
    SMALLEST,
    WIDTH,
    colorbar,
    drawing,
    height_in_points,
    width_in_points,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def traversal_images(
    generated: AnnData,
    *,
    shape: Sequence[int] | None = None,
    n_rows: int = 10,
    n_steps: int = 10,
    paths: str | int | Sequence[str | int] | None = None,
    layer: str | None = None,
    cmap: str = "gray",
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot images along paths, one row per path, as in Figure 7 of the paper.

    Parameters
    ----------
    generated
        Paths from :meth:`~scivae.model.CIVAE.interpolate`, or new images from
        :meth:`~scivae.model.CIVAE.augment`, with one row per class.
    shape
        Height and width of an image. ``None``: ``uns["image"]["shape"]`` if present, otherwise
        derived from ``var_names`` such as ``pixel_27_27``.
    n_rows
        Maximum number of rows.
    n_steps
        Maximum number of images per row, evenly spaced along the path, including both ends.
    paths
        Names or positions of the paths to draw; ``None`` for the first ``n_rows``.
    layer
        Layer of the values; ``None`` for X.
    cmap
        Colormap of the pixels.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes, with all images in one mosaic. Rows are labeled with the predicted classes of both
    ends.

    Raises
    ------
    ValueError
        If the shape is unknown or does not match, or ``generated`` is not generated data.
    KeyError, IndexError
        If a path is not found.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.digits()
    >>> scivae.model.CIVAE.setup_anndata(adata, labels_key="digit")
    >>> model = scivae.model.CIVAE(adata, likelihood="bernoulli")
    >>> model.train(max_epochs=8, enable_progress_bar=False)
    >>> path = model.interpolate([0, 1], [10, 11])
    >>> ax = scivae.pl.traversal_images(path)
    >>> ax.get_xlabel()
    'position along path, t'
    """
    check_adata("generated", generated)
    columns = (_keys.KIND, _keys.PATH, _keys.T, _keys.PREDICTED)
    check_obs(generated, columns, "generated", "generated")
    check_integer("n_rows", n_rows, minimum=1)
    check_integer("n_steps", n_steps, minimum=2)
    height, width = image_shape(generated, shape)
    pixels = matrix(generated, layer).reshape(-1, height, width)
    walked = (generated.obs[_keys.KIND].astype(str) == _keys.INTERPOLATED).to_numpy()
    if walked.any():
        rows, names, t = _path_rows(generated, walked, paths, n_rows, n_steps)
    else:
        rows, names = _class_rows(generated, n_rows, n_steps)
        t = None
    n_cols = max(len(r) for r in rows)
    tiles = np.full((len(rows), n_cols, height, width), np.nan)
    for i, row in enumerate(rows):
        tiles[i, : len(row)] = pixels[row]
    low, high = limits(pixels[np.concatenate(rows)])
    inches = (WIDTH, WIDTH * 0.88 * len(rows) * height / (n_cols * width) + 0.4)
    with drawing(ax, size=inches, show=show) as drawn:
        drawn.imshow(mosaic(tiles), cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        _tile_axes(drawn)
        high = _tile_width(drawn, len(rows), n_cols, height, width) * height / width
        drawn.set_yticks(centers(len(rows), height), names, fontsize=_fitting(drawn, high))
        drawn.set_ylabel("predicted class")
        if t is None:
            drawn.set_xticks([])
            drawn.set_xlabel("generated images of each class")
        else:
            # Ticks at both ends, and as many evenly spaced ticks between them as fit.
            last = n_cols - 1
            every = next(k for k in range(1, n_cols + 1) if last % k == 0 and last <= 7 * k)
            some = np.arange(0, n_cols, every)
            drawn.set_xticks(centers(n_cols, width)[some], [f"{v:.2g}" for v in t[some]])
            drawn.set_xlabel("position along path, t")
    return drawn


def reconstruction(
    real: Any,
    reconstructed: Any,
    *,
    shape: Sequence[int] | None = None,
    n: int = 8,
    layer: str | None = None,
    cmap: str = "gray",
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot real images, reconstructions and differences, as in Figure 6 of the paper.

    Parameters
    ----------
    real, reconstructed
        AnnData or arrays of shape ``(n_images, n_pixels)``, pixels in row-major order.
    shape
        Height and width of an image. ``None``: ``uns["image"]["shape"]`` of ``real`` if present,
        otherwise derived from ``var_names`` such as ``pixel_27_27``.
    n
        Maximum number of images, evenly spaced among all.
    layer
        Layer of the values in AnnData; ``None`` for X.
    cmap
        Colormap of the pixels.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. The mean absolute error, in % of the gray scale, is shown below each image.

    Raises
    ------
    ValueError
        If the two differ in shape, or the shape of the images is unknown or does not match.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.digits()
    >>> scivae.model.CIVAE.setup_anndata(adata, labels_key="digit")
    >>> model = scivae.model.CIVAE(adata, likelihood="bernoulli")
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> decoded = model.decode(model.get_latent_representation())
    >>> ax = scivae.pl.reconstruction(adata, decoded)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['real', 'reconstructed', 'difference']
    """
    from matplotlib.ticker import MaxNLocator

    check_integer("n", n, minimum=1)
    first, second = matrix(real, layer), matrix(reconstructed, layer)
    if first.shape != second.shape:
        raise ValueError(
            "real and reconstructed must have the same images and pixels, got shapes "
            f"{first.shape} and {second.shape}; select the same images in both."
        )
    if len(first) == 0:
        raise ValueError("real must hold at least one image, got none; pass images.")
    height, width = image_shape(real, shape)
    rows = np.unique(np.linspace(0, len(first) - 1, min(n, len(first))).round().astype(int))
    first, second = (x[rows].reshape(-1, height, width) for x in (first, second))
    low, high = limits(first)
    difference = second - first
    bound = float(np.abs(difference).max()) or 1.0
    error = 100 * np.abs(difference).mean(axis=(1, 2)) / (high - low or 1.0)
    inches = (WIDTH, WIDTH * 0.7 * 3 * height / (len(rows) * width) + 0.45)
    with drawing(ax, size=inches, show=show) as drawn:
        gray = mosaic(np.stack([first, second, np.full_like(first, np.nan)]))
        signed = mosaic(np.stack([np.full_like(first, np.nan)] * 2 + [difference]))
        drawn.imshow(gray, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        shade = drawn.imshow(
            signed, cmap=SIGNED_CMAP, vmin=-bound, vmax=bound, interpolation="nearest"
        )
        _tile_axes(drawn)
        # Errors below all images, or below every second, third, … if labels would overlap.
        size = float(drawn.xaxis.get_ticklabels()[0].get_fontsize())
        tile = _tile_width(drawn, 3, len(rows), height, width)
        names = ["real", "reconstructed", "difference"]
        drawn.set_yticks(centers(3, height), names, fontsize=_fitting(drawn, tile * height / width))
        every = max(1, int(np.ceil(2.2 * size / tile))) if ax is not None else 1
        some = np.arange(0, len(rows), every)
        drawn.set_xticks(centers(len(rows), width)[some], [f"{error[i]:.1f}" for i in some])
        drawn.set_xlabel("mean absolute error (% of the gray scale)")
        # Color bar next to the images, with the same height.
        beside = drawn.inset_axes((1.02, 0.0, 0.025, 1.0))
        bar = colorbar(shade, drawn, "gray level", cax=beside)
        bar.locator = MaxNLocator(3, symmetric=True)
        bar.update_ticks()
    return drawn


def _tile_axes(ax: Axes) -> None:
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _tile_width(ax: Axes, n_rows: int, n_cols: int, height: int, width: int) -> float:
    """Approximate width of an image on the page, in points, without the space for labels."""
    across, down = 0.65 * width_in_points(ax), 0.65 * height_in_points(ax)
    return min(across / n_cols, down / n_rows * width / height)


def _fitting(ax: Axes, row: float) -> float:
    """Font size that fits next to rows of this height, both in points."""
    usual = float(ax.yaxis.get_ticklabels()[0].get_fontsize())
    return min(usual, max(SMALLEST, 0.8 * row))


def _path_rows(
    generated: AnnData, walked: np.ndarray, paths: Any, n_rows: int, n_steps: int
) -> tuple[list[np.ndarray], list[str], np.ndarray]:
    """Rows of the AnnData for each path, names of the paths, and the positions of the steps."""
    name = generated.obs[_keys.PATH].astype(str).to_numpy()
    t = generated.obs[_keys.T].to_numpy(dtype=float)
    predicted = generated.obs[_keys.PREDICTED].astype(str).to_numpy()
    wanted = check_paths(list(dict.fromkeys(name[walked])), paths)[:n_rows]
    chosen, names = [], []
    for one in wanted:
        rows = np.flatnonzero(walked & (name == one))
        rows = rows[np.argsort(t[rows], kind="stable")]
        steps = np.linspace(0, len(rows) - 1, min(n_steps, len(rows))).round().astype(int)
        chosen.append(rows[steps])
        ends = predicted[rows[[0, -1]]]
        names.append(ends[0] if ends[0] == ends[1] else f"{ends[0]} → {ends[1]}")
    return chosen, names, t[max(chosen, key=len)]


def _class_rows(generated: AnnData, n_rows: int, n_cols: int) -> tuple[list[np.ndarray], list[str]]:
    """The first images of each class."""
    predicted = generated.obs[_keys.PREDICTED].astype(str).to_numpy()
    names = list(dict.fromkeys(predicted))[:n_rows]
    return [np.flatnonzero(predicted == one)[:n_cols] for one in names], names
