"""The model."""

from __future__ import annotations

from .._progress import without_widgets

with without_widgets():  # scvi-tools imports the widgets of tqdm
    from ..data.datamodule import BlockDataModule
    from ._civae import CIVAE

__all__ = ["CIVAE", "BlockDataModule"]
