"""Convert AnnData to images, and arrange images in a mosaic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from .._errors import shown
from .._names import layer_names


def image_shape(data: Any, shape: Sequence[int] | None = None) -> tuple[int, int]:
    """Height and width of the images in the rows of an AnnData or array.

    Parameters
    ----------
    data
        AnnData, or an array of shape ``(n, n_pixels)``.
    shape
        Shape given by the user. ``None``: ``uns["image"]["shape"]`` if present, otherwise derived
        from the names of the variables (``pixel_0_0`` to ``pixel_27_27``), as set by
        :func:`scivae.datasets.from_images`.
    """
    n_pixels = data.shape[1]
    if shape is None:
        shape = getattr(data, "uns", {}).get("image", {}).get("shape")
    if shape is None:
        # Generated AnnData keep the variable names; the last pixel gives the last row and column.
        last = str(data.var_names[-1]) if hasattr(data, "var_names") else ""
        place = re.fullmatch(r"pixel_(\d+)_(\d+)", last)
        if place is None:
            raise ValueError(
                f"shape must be given for images with {n_pixels} pixels, got None and no "
                "uns['image']['shape']; pass shape=(height, width)."
            )
        shape = (int(place[1]) + 1, int(place[2]) + 1)
    found = tuple(int(s) for s in shape)
    if len(found) != 2 or found[0] * found[1] != n_pixels:
        raise ValueError(
            f"shape must be (height, width) of images with {n_pixels} pixels, got {found}; their "
            "product must be the number of pixels."
        )
    return found[0], found[1]


def matrix(data: Any, layer: str | None = None) -> np.ndarray:
    """Dense values of an AnnData or array, shape ``(n, n_vars)``."""
    if hasattr(data, "obs_names"):
        names = layer_names(data)
        if layer is not None and layer not in names:
            raise KeyError(
                f"layer must be a key of layers, got {layer!r}; available: "
                f"{shown(names) or 'none'}."
            )
        data = data.X if layer is None else data.layers[layer]
    dense = data.toarray() if sparse.issparse(data) else np.asarray(data)
    if dense.ndim != 2:
        raise ValueError(
            f"values must have two dimensions, images × pixels, got shape {dense.shape}; reshape "
            "them."
        )
    return dense.astype(float)


def mosaic(images: np.ndarray, *, gap: int = 1, fill: float = np.nan) -> np.ndarray:
    """Arrange images in one mosaic.

    Parameters
    ----------
    images
        Shape ``(n_rows, n_cols, height, width)``.
    gap
        Pixels between images.
    fill
        Value of the gaps.

    Returns
    -------
    Shape ``(n_rows · (height + gap) − gap, n_cols · (width + gap) − gap)``.
    """
    n_rows, n_cols, height, width = images.shape
    out = np.full((n_rows * (height + gap) - gap, n_cols * (width + gap) - gap), fill)
    for i in range(n_rows):
        for j in range(n_cols):
            top, left = i * (height + gap), j * (width + gap)
            out[top : top + height, left : left + width] = images[i, j]
    return out


def centers(n: int, size: int, gap: int = 1) -> np.ndarray:
    """Centers of n images along one side of a mosaic, shape ``(n,)``."""
    return np.arange(n) * (size + gap) + (size - 1) / 2


def limits(values: np.ndarray) -> tuple[float, float]:
    """Range of the gray scale: [0, 1] if all pixels lie in it, otherwise that of the values."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
