"""Which cells are trained on, and how they reach the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scvi.dataloaders import DataSplitter

from ..data.loader import CellsLoader
from .device import Chosen, ChosenLoader, Resident, can_hold


class CellsSplitter(DataSplitter):
    """scvi-tools' splitter, which leaves sparse counts as they are, and all cells on a GPU that holds them.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`scvi.dataloaders.DataSplitter`.
    minibatch_size
        Of the training plan.
    """

    data_loader_cls = CellsLoader

    def __init__(self, *args, minibatch_size: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.minibatch_size = minibatch_size
        self.resident: Resident | None = None

    def train_dataloader(self):
        """Loader of the cells to train on."""
        if self.minibatch_size is not None and not self.drop_last and can_hold(self.trainer):
            self.resident = Resident.of(self.adata_manager, self.trainer.strategy.root_device)
        return self._chosen(self.train_idx, shuffle=True) or super().train_dataloader()

    def val_dataloader(self):
        """Loader of the cells that are held out."""
        return self._chosen(self.val_idx, shuffle=False) or super().val_dataloader()

    def _chosen(self, indices: np.ndarray, shuffle: bool) -> ChosenLoader | None:
        if self.resident is None or self.minibatch_size is None or not len(indices):
            return None
        return ChosenLoader(self.resident, indices, self.minibatch_size, shuffle)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int):
        """Nothing is copied that is there."""
        if isinstance(batch, Chosen):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int):
        """Nothing is made dense."""
        return batch

    def teardown(self, stage: str | None = None) -> None:
        """Give back the memory of the device: the trainer, which the model keeps, still has the loaders."""
        if self.resident is not None:
            self.resident.free()
        self.resident = None
