"""What the statistics ask of their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def as_vector(name: str, value: Any, n: int | None = None) -> FloatArray:
    """Finite numbers, shape ``(n,)``; a ValueError names the first that is wrong."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}.")
    if array.ndim != 1 or (n is not None and len(array) != n):
        wanted = "(n,)" if n is None else f"({n},)"
        raise ValueError(f"{name} must have the shape {wanted}, got {array.shape}.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        first = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{name} must be finite, got {array[first]} at position {first}.")
    return array


def as_positions(value: Any, name: str) -> FloatArray:
    """Positions in [0, 1], shape ``(n,)``; a ValueError names the first outside."""
    array = as_vector(name, value)
    outside = (array < 0) | (array > 1)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"{name} must lie in [0, 1], got {array[first]:g} at position {first}; "
            "scale positions, or clip them."
        )
    return array


def as_design(value: Any, n: int) -> FloatArray:
    """A dense matrix of finite numbers, shape ``(n, n_columns)``."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != n or array.shape[1] == 0:
        raise ValueError(
            f"design must have the shape ({n}, n_columns), a row for each cell, got {array.shape}."
        )
    if not np.isfinite(array).all():
        raise ValueError("design must be finite, got NaN or infinity.")
    return array
