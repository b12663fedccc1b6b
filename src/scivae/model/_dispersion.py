"""Initial inverse dispersions of a new model, from its training cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS

from .._quiet import quiet_about_sparse_tensors
from .._random import seeded
from ..data import checks
from ..data.datamodule import BlockDataModule
from ..train.dispersion import (
    StartDispersions,
    cells_of_moments,
    has_dispersions,
    starting_dispersions,
)
from ._base import CellsModel


def start_dispersions(
    model: CellsModel, indexing: Sequence[np.ndarray] | None, datamodule: Any, seed: int
) -> list[StartDispersions]:
    """Make the callback that sets the initial inverse dispersions of a new model.

    The list is empty if the model has no such parameters, was trained before, or has a datamodule that does
    not say which are its training cells.
    """
    if model.is_trained_ or model.mapped_ or not has_dispersions(model.module):
        return []
    adata, n_classes, found = model.adata, len(model.classes), None
    with seeded(seed), quiet_about_sparse_tensors():
        if adata is not None and indexing is not None:
            labeled = np.asarray(adata.obs[checks.LABEL_CODES]) < n_classes
            cells = cells_of_moments(np.asarray(indexing[0]), labeled)
            found = starting_dispersions(model.module, model._minibatches(adata, cells))
        elif isinstance(datamodule, BlockDataModule):
            labeled = datamodule.fields[REGISTRY_KEYS.LABELS_KEY].ravel() < n_classes
            cells = cells_of_moments(datamodule.train_idx, labeled)
            found = starting_dispersions(model.module, datamodule.inference_dataloader(cells))
    return [] if found is None else [found]
