"""Read zarr stores with annbatch, which sends many requests at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def read_pools(
    matrix: Any, pools: Iterable[list[tuple[int, int]]], within: tuple[int, int]
) -> Iterator[Any]:
    """Rows of each pool as float32; same results as :func:`.sources.read_pools`.

    Parameters
    ----------
    matrix
        A matrix in a zarr store, CSR or array.
    pools
        For each pool, the row ranges to read: first row, and the row after the last.
    within
        Row range that holds all pools; not used.

    Raises
    ------
    ImportError
        If annbatch is not installed.
    """
    try:
        from annbatch import Loader
        from annbatch.abc import Sampler
    except ImportError as error:
        raise ImportError(
            "reader='annbatch' needs Python 3.12 or later and the package annbatch, which cannot be "
            f"imported here ({error}); run pip install annbatch, or use reader='anndata'."
        ) from error

    class Pools(Sampler):
        """Each pool is one batch of annbatch, in the order of the file."""

        batch_size = None
        shuffle = False

        def n_batches(self, n_obs: int) -> int:
            """Not used by annbatch here."""
            raise NotImplementedError

        def validate(self, n_obs: int) -> None:
            """Accept any number of cells; all rows exist."""

        def _sample(self, n_obs: int) -> Iterator[dict[str, Any]]:
            for spans in pools:
                rows = np.concatenate([np.arange(*span) for span in spans])
                yield {"requests": rows, "splits": [np.arange(len(rows))]}

    for batch in Loader(batch_sampler=Pools(), preload_to_gpu=False).add_dataset(matrix):
        values = batch["X"].astype(np.float32, copy=False)
        if hasattr(values, "sum_duplicates"):  # columns in a file can be unsorted
            values.sum_duplicates()
        yield values
