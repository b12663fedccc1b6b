"""Matrices of many genes, genes × cells: checked once, and read in dense blocks on several cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._progress import track
from .._validate.arrays import as_vector, check_finite

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

FloatArray = npt.NDArray[np.float64]
# Values in one block of genes, small enough for a processor's cache.
_VALUES_PER_BLOCK = 2**18


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


def as_weights(weights: Any, n: int) -> FloatArray:
    """Weights of n cells; ones for ``None``. Raise unless they are numbers of which none is negative."""
    weight = np.ones(n) if weights is None else as_vector("weights", weights, n)
    if (weight < 0).any() or not weight.any():
        raise ValueError(
            f"weights must not be negative and at least one must be positive, got a minimum of "
            f"{weight.min():g} and a maximum of {weight.max():g}; remove cells instead of "
            "weighting them below zero."
        )
    return weight


def dense(matrix: Any, rows: slice = slice(None)) -> FloatArray:
    """Selected genes (default: all) as a dense float64 array."""
    part = matrix[rows]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float64)


def n_cores() -> int:
    """Number of cores that this process may use."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(int(limit) if limit.isdigit() else 64, here or 1))


def over_blocks(one: Callable[[slice], None], n_genes: int, n_cells: int, what: str) -> None:
    """Call ``one`` for every block of genes, each on one core.

    Parameters
    ----------
    one
        Takes the slice of genes in a block and stores its own results.
    n_genes, n_cells
        Size of the data.
    what
        Title of the progress bar.
    """
    # The block size must not depend on the number of cores, which would change how sums are
    # rounded.
    rows = max(1, _VALUES_PER_BLOCK // max(n_cells, 1))
    blocks = [slice(first, min(first + rows, n_genes)) for first in range(0, n_genes, rows)]
    n_threads = min(n_cores(), len(blocks))
    # One thread per block: multithreaded BLAS would synchronize after every small matrix product.
    with _loaded_libraries().limit(limits=1, user_api="blas"):
        if n_threads == 1:  # no thread has to be started
            for block in track(blocks, what, unit="blocks of genes"):
                one(block)
            return
        with ThreadPoolExecutor(n_threads) as pool:
            done = pool.map(one, blocks)
            for _ in track(done, what, len(blocks), unit="blocks of genes"):
                pass


@cache
def _loaded_libraries() -> ThreadpoolController:
    """The BLAS library of this process; cached, because the search reads the list of all libraries."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
