"""The model."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Of tqdm, for the bars of scvi-tools in notebooks: those of this package need no widgets.
    warnings.filterwarnings("ignore", message="IProgress not found")
    from ._blocks import BlockDataModule
    from ._civae import CIVAE

__all__ = ["CIVAE", "BlockDataModule"]
