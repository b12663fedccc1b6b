"""Minibatches of cells that lie in memory."""

from __future__ import annotations

from typing import Any

from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader


class CellsLoader(AnnDataLoader):
    """scvi-tools' loader, which reads some rows of a sparse matrix without a copy of all of its indices.

    That is what scipy makes each time where column indices and row pointers are of different types, as
    anndata can leave them. The matrix of the user stays as it is; this one shares its memory, but for row pointers
    and, beyond 2³¹ values, column indices.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`scvi.dataloaders.AnnDataLoader`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        dataset: Any = self.dataset
        data = getattr(dataset, "dataset", dataset).data  # of all cells, whichever were chosen
        x = data.get(REGISTRY_KEYS.X_KEY)
        if isinstance(x, sparse.csr_matrix) and x.indices.dtype != x.indptr.dtype:
            data[REGISTRY_KEYS.X_KEY] = sparse.csr_matrix(
                (x.data, x.indices, x.indptr), shape=x.shape
            )
