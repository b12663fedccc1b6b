"""Reading of zarr stores by annbatch, which makes many requests at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def read_pools(matrix: Any, pools: Iterable[list[tuple[int, int]]]) -> Iterator[Any]:
    """Rows of each pool as float32, as :func:`.sources.read_pools` gives them.

    Parameters
    ----------
    matrix
        Of a zarr store, CSR or array.
    pools
        For each pool, first row of each stretch, and the row after its last.

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
        """Each pool is one batch, in the order of the file: what becomes of it is decided here."""

        batch_size = None
        shuffle = False

        def n_batches(self, n_obs: int) -> int:
            """Not asked for."""
            raise NotImplementedError

        def validate(self, n_obs: int) -> None:
            """Nothing to do: all rows are there."""

        def _sample(self, n_obs: int) -> Iterator[dict[str, Any]]:
            for spans in pools:
                rows = np.concatenate([np.arange(*span) for span in spans])
                yield {"requests": rows, "splits": [np.arange(len(rows))]}

    for batch in Loader(batch_sampler=Pools(), preload_to_gpu=False).add_dataset(matrix):
        values = batch["X"].astype(np.float32, copy=False)
        if hasattr(values, "sum_duplicates"):  # which need not be in order in a file
            values.sum_duplicates()
        yield values
