"""Checks of points, paths and positions in latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import check_unit_interval

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]


def finite(name: str, value: ArrayLike) -> FloatArray:
    """Return `value` as a finite floating array of the same precision."""
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        raise ValueError(
            f"{name} must hold real numbers, got dtype {array.dtype}; pass a float array."
        )
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"{name} must be finite, got {array[where]} at index {where}; "
            "drop or replace such values first."
        )
    return array


def points(name: str, value: ArrayLike, ndim: int, n_latent: int | None = None) -> FloatArray:
    """Return `value` as finite points with `ndim` axes, the last one of length `n_latent`."""
    array = finite(name, value)
    layout = {1: "(n_latent,)", 2: "(n, n_latent)", 3: "(n, n_steps, n_latent)"}[ndim]
    if array.ndim != ndim:
        raise ValueError(
            f"{name} must have shape {layout}, got shape {array.shape}; reshape the array."
        )
    last_axis(name, array, n_latent)
    return array


def last_axis(name: str, array: FloatArray, n_latent: int | None) -> None:
    """Raise a ValueError unless the last axis of points has length `n_latent`, at least 1."""
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"the last axis of {name} must hold the latent dimensions, got shape {array.shape}; "
            "pass points with at least one dimension."
        )
    if n_latent is not None and array.shape[-1] != n_latent:
        raise ValueError(
            f"the last axis of {name} must have length n_latent = {n_latent}, got shape "
            f"{array.shape}; pass points of the same latent space."
        )


def ends(
    start: ArrayLike, end: ArrayLike, n_latent: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the two ends of n segments, each of shape (n, n_latent) and of the same dtype."""
    first, last = finite("start", start), finite("end", end)
    if first.ndim not in (1, 2) or first.shape != last.shape:
        raise ValueError(
            "start and end must have the same shape, (n, n_latent) or (n_latent,), got "
            f"{first.shape} and {last.shape}; pass one end for every start."
        )
    last_axis("start", first, n_latent)
    dtype = np.result_type(first, last)
    return np.atleast_2d(first).astype(dtype, copy=False), np.atleast_2d(last).astype(
        dtype, copy=False
    )


def paths(value: ArrayLike, n_latent: int | None = None) -> FloatArray:
    """Return `value` as n paths of at least two points, (n, n_steps, n_latent)."""
    array = points("points", value, 3, n_latent)
    if array.shape[1] < 2:
        raise ValueError(
            f"a path must have at least 2 points, got shape {array.shape} with n_steps = "
            f"{array.shape[1]}; pass at least the two ends."
        )
    return array


def times(t: ArrayLike) -> FloatArray:
    """Return positions along a path: one axis, at least one value, all in [0, 1]."""
    array = finite("t", t)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"t must have shape (n_steps,) with n_steps >= 1, got shape {array.shape}; "
            "pass, for example, np.linspace(0, 1, 50)."
        )
    check_unit_interval("t", array, "paths are not extrapolated, so clip or rescale t")
    return array


def labels(label: ArrayLike, n_classes: int, shape: tuple[int, ...]) -> IntArray:
    """Return class indices in [0, n_classes), broadcast to `shape`."""
    array = np.asarray(label)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"label must be the integer index of a class, got dtype {array.dtype}; "
            "convert class names to indices first."
        )
    outside = (array < 0) | (array >= n_classes)
    if outside.any():
        raise ValueError(
            f"label must lie in [0, {n_classes}) for {n_classes} classes, got "
            f"{int(array[outside].flat[0])}; pass the index of a class."
        )
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"label must broadcast to shape {shape}, one class per point, got shape "
            f"{array.shape}; pass one integer, or one for each point."
        ) from None
