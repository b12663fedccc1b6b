"""Process blocks of genes on several cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

from .._progress import track

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

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
    """The BLAS of this process. Finding it reads the list of all its libraries, so it is kept."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
