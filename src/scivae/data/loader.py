"""Minibatches of the cells of an AnnData, in memory or backed by a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, AnnTorchDataset
from scvi.dataloaders import AnnDataLoader
from torch.utils.data import Subset, get_worker_info

from .._storage import rows_of


class CellsDataset(AnnTorchDataset):
    """Cells of an AnnData by position, in the requested order.

    scvi-tools' own data set sorts the positions if the AnnData is backed by a file, so shuffled cells, and
    results in a requested order, would be in the wrong order.
    """

    @cached_property
    def data(self) -> dict[str, Any]:
        """Registered values by key."""
        found = {key: self.adata_manager.get_from_registry(key) for key in self.keys_and_dtypes}
        x = found.get(REGISTRY_KEYS.X_KEY)
        # If column indices and row pointers have different dtypes, as anndata can leave them, scipy copies all
        # indices whenever rows are read. This matrix has equal dtypes, and shares the memory of the values.
        if isinstance(x, sparse.csr_matrix) and x.indices.dtype != x.indptr.dtype:
            found[REGISTRY_KEYS.X_KEY] = sparse.csr_matrix(
                (x.data, x.indices, x.indptr), shape=x.shape
            )
        return found

    @cached_property
    def in_memory(self) -> bool:
        """Whether all values are in memory, so that rows can be read in any order at the same cost."""
        kinds = (np.ndarray, pd.DataFrame, str)
        return all(isinstance(v, kinds) or sparse.issparse(v) for v in self.data.values())

    def __getitem__(self, indexes: Any) -> dict[str, Any]:
        """Registered values of n cells by key, each ``(n, ...)``.

        Parameters
        ----------
        indexes
            A position, positions or a slice.
        """
        restore = None
        if not isinstance(indexes, slice):
            indexes = np.atleast_1d(np.asarray(indexes))
            if not self.in_memory and (np.diff(indexes) <= 0).any():
                indexes, restore = np.unique(
                    indexes, return_inverse=True
                )  # files are read in increasing order
        read: dict[str, Any] = {}
        for key, dtype in self.keys_and_dtypes.items():
            values = self.data[key]
            if isinstance(values, str):  # the type of minified data, which is not a value per cell
                continue
            if isinstance(values, pd.DataFrame):
                rows = values.iloc[indexes].to_numpy()
            else:
                rows = rows_of(values, indexes)
            if restore is not None:
                rows = rows[restore]
            rows = rows.astype(dtype, copy=False)
            if sparse.issparse(rows):
                rows = _sparse_tensor(rows) if self.load_sparse_tensor else rows.toarray()
            read[key] = rows
        return read

    def open_again(self) -> None:
        """Reopen the file of a backed AnnData, which each new process must do before it reads."""
        adata = self.adata_manager.adata
        if adata.isbacked:
            adata.file.close()
            adata.file.open()
            self.__dict__.pop("data", None)


def _sparse_tensor(rows: Any) -> torch.Tensor:
    """A CSR matrix as a CSR tensor that shares its memory."""
    rows = rows.tocsr()
    indptr, indices, values = map(torch.as_tensor, (rows.indptr, rows.indices, rows.data))
    return torch.sparse_csr_tensor(indptr, indices, values, size=rows.shape)


class _OrderKept:
    """scvi-tools' manager of an AnnData as its loader uses it, but with :class:`CellsDataset`."""

    def __init__(self, manager: AnnDataManager):
        self.manager = manager
        self.adata = manager.adata

    def create_torch_dataset(
        self,
        indices: np.ndarray | None = None,
        data_and_attributes: Any = None,
        load_sparse_tensor: bool = False,
    ) -> CellsDataset | Subset:
        """A data set of the cells at these positions."""
        cells = CellsDataset(self.manager, data_and_attributes, load_sparse_tensor)
        return cells if indices is None else Subset(cells, indices)  # type: ignore[arg-type]


def _start_worker(then: Callable[[int], None] | None, number: int) -> None:
    """Initialize a worker process of a loader."""
    info: Any = get_worker_info()
    getattr(info.dataset, "dataset", info.dataset).open_again()
    if then is not None:
        then(number)


class CellsLoader(AnnDataLoader):
    """scvi-tools' loader, but with cells in the requested order and without unnecessary copies.

    Parameters
    ----------
    adata_manager
        Manager of the AnnData.
    *args, **kwargs
        Passed to :class:`scvi.dataloaders.AnnDataLoader`.
    """

    def __init__(self, adata_manager: AnnDataManager, *args, **kwargs):
        kwargs["worker_init_fn"] = partial(_start_worker, kwargs.get("worker_init_fn"))
        super().__init__(_OrderKept(adata_manager), *args, **kwargs)


# Values of the expression matrix that are read at once (32 MB as float32).
BLOCK_VALUES = 2**23
