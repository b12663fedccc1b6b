"""Which cells are trained on, and how they reach the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scvi.dataloaders import DataSplitter

from ..data.loader import CellsLoader
from .device import DeviceDataset, IndexBatch, IndexLoader
from .engines import Engine


class CellsSplitter(DataSplitter):
    """scvi-tools' splitter, which leaves sparse counts as they are, and all cells on a GPU that holds them.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`scvi.dataloaders.DataSplitter`.
    engine
        How the steps of this training are taken.
    """

    data_loader_cls = CellsLoader

    def __init__(self, *args, engine: Engine | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.engine = engine
        self.on_device: DeviceDataset | None = None

    def train_dataloader(self):
        """Loader of the cells to train on."""
        if self.engine is not None:
            self.on_device = self.engine.place(self.trainer, self.adata_manager)
        return self._index_loader(self.train_idx, shuffle=True) or super().train_dataloader()

    def val_dataloader(self):
        """Loader of the cells that are held out."""
        return self._index_loader(self.val_idx, shuffle=False) or super().val_dataloader()

    def _index_loader(self, indices: np.ndarray, shuffle: bool) -> IndexLoader | None:
        size = None if self.engine is None else self.engine.minibatch_size
        if self.on_device is None or size is None or not len(indices):
            return None
        return IndexLoader(self.on_device, indices, size, shuffle)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int):
        """Nothing is copied that is there."""
        if isinstance(batch, IndexBatch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int):
        """Nothing is made dense."""
        return batch

    def teardown(self, stage: str | None = None) -> None:
        """Give back the memory of the device: the trainer, which the model keeps, still has the loaders."""
        if self.on_device is not None:
            self.on_device.free()
        self.on_device = None
