"""Matrices of many genes, genes × cells: checked once, and read as dense blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._validate.arrays import check_finite

FloatArray = npt.NDArray[np.float64]


def genes_by_cells(values: Any, name: str) -> Any:
    """Finite numbers as a dense array or CSR, shape ``(n_genes, n_cells)``, of their own dtype."""
    from scipy import sparse

    if sparse.issparse(values):
        matrix, stored = sparse.csr_matrix(values), values.data
    else:
        matrix = stored = np.asarray(values)
    if matrix.ndim != 2 or stored.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} must be a matrix of numbers, genes × cells, got shape {matrix.shape} and "
            f"dtype {stored.dtype}; convert it, or transpose cells × genes."
        )
    check_finite(name, stored)
    return matrix


def as_counts(counts: Any) -> Any:
    """Check counts; return a dense array or CSR matrix, shape ``(n_genes, n_cells)``."""
    matrix = genes_by_cells(counts, "counts")
    stored = matrix.data if hasattr(matrix, "toarray") else matrix
    if stored.size and stored.min() < 0:
        raise ValueError(
            f"counts must not be negative, got {stored.min():g}; pass raw counts, not scaled "
            "values."
        )
    return matrix


def dense(matrix: Any, rows: slice) -> FloatArray:
    """Selected genes as a dense float64 array."""
    part = matrix[rows]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float64)
