"""Values in memory, however they are stored: dense, sparse, in a file, as a lazy array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse


def in_memory(values: Any) -> Any:
    """Values as an array or as a sparse matrix, by rows or by columns; read where they are not yet.

    Parameters
    ----------
    values
        Dense, sparse, backed by a file, or an array of dask whose chunks are dense or sparse.
    """
    if hasattr(values, "compute"):  # of dask
        values = values.compute()
    if hasattr(values, "to_memory"):  # a sparse matrix of a file
        values = values.to_memory()
    if sparse.issparse(values):
        return values if values.format in ("csr", "csc") else values.tocsr()
    if isinstance(values, np.ma.MaskedArray):
        return values  # a missing value is no number: this is for a check to say
    return np.asarray(values)


def rows_of(values: Any, index: Any) -> Any:
    """Some rows of values stored in any way, in memory; see :func:`in_memory`."""
    return in_memory(values[index])


def dense(values: Any) -> np.ndarray:
    """Values stored in any way as an array."""
    values = in_memory(values)
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


def iter_blocks(x: Any, n_rows: int = 4096) -> Iterator[tuple[int, Any]]:
    """Blocks of rows of an array of any kind (dense, sparse, backed, dask), in memory."""
    for start in range(0, x.shape[0], n_rows):
        yield start, rows_of(x, slice(start, start + n_rows))
