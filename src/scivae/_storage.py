"""Read values into memory from any storage: dense, sparse, backed by a file, or dask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse


def in_memory(values: Any) -> Any:
    """Return values in memory as an array or a sparse matrix (CSR or CSC).

    Entries of a sparse matrix that are stored twice are summed, in a copy: what is read from its ``data``
    would otherwise not be its values.

    Parameters
    ----------
    values
        Dense, sparse, backed by a file, or a dask array with dense or sparse chunks.
    """
    if hasattr(values, "compute"):  # dask
        values = values.compute()
    if hasattr(values, "to_memory"):  # sparse, backed by a file
        values = values.to_memory()
    if sparse.issparse(values):
        return summed(values if values.format in ("csr", "csc") else values.tocsr())
    if isinstance(values, np.ma.MaskedArray):
        return values  # kept masked, so that later checks find missing values
    return np.asarray(values)


def summed(matrix: Any, *, copy: bool = True) -> Any:
    """Return a CSR or CSC matrix with each entry stored once and sorted columns, which files do not guarantee.

    A matrix that is so already is returned as it is. Others are changed in a copy, or in place without
    ``copy``.
    """
    if not matrix.has_canonical_format:
        matrix = matrix.copy() if copy else matrix
        matrix.sum_duplicates()
    return matrix


def rows_of(values: Any, index: Any) -> Any:
    """Read some rows into memory; see :func:`in_memory`."""
    if (
        sparse.issparse(values)
        and values.format == "csr"
        and values.indptr.dtype != values.indices.dtype
    ):
        return in_memory(_rows_of_mixed(values, index))
    return in_memory(values[index])


def _rows_of_mixed(matrix: Any, index: Any) -> Any:
    """Rows of a CSR matrix whose pointers and columns differ in type, as h5ad files of many cells give them.

    For every slice, scipy would first convert the columns of the whole matrix.
    """
    n = matrix.shape[0]
    rows = np.arange(*index.indices(n)) if isinstance(index, slice) else np.arange(n)[index]
    if rows.ndim != 1:
        return matrix[index]
    starts = matrix.indptr[rows]
    bounds = np.concatenate([[0], np.cumsum(matrix.indptr[rows + 1] - starts)])
    at = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], np.diff(bounds))
    parts = matrix.data[at], matrix.indices[at], bounds
    return type(matrix)(parts, shape=(len(rows), matrix.shape[1]))


def dense(values: Any) -> np.ndarray:
    """Return values as a dense array, from any storage."""
    values = in_memory(values)
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


def row_blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows that cover n of them."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def iter_blocks(x: Any, n_rows: int = 4096) -> Iterator[tuple[int, Any]]:
    """Iterate over blocks of rows in memory, with the index of their first row."""
    for start in range(0, x.shape[0], n_rows):
        yield start, rows_of(x, slice(start, start + n_rows))
