"""Process blocks of genes on several cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .._progress import track

# Values in one block of genes, small enough for a processor's cache.
_VALUES_PER_BLOCK = 2**18


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
    from threadpoolctl import threadpool_limits

    # The block size must not depend on the number of cores, which would change how sums are
    # rounded.
    rows = max(1, _VALUES_PER_BLOCK // max(n_cells, 1))
    blocks = [slice(first, min(first + rows, n_genes)) for first in range(0, n_genes, rows)]
    # One thread per block: multithreaded BLAS would synchronize after every small matrix product.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_cores()) as pool:
        for _ in track(pool.map(one, blocks), what, len(blocks), unit="blocks of genes"):
            pass
