"""The model."""

from __future__ import annotations

from ._blocks import BlockDataModule
from ._civae import CIVAE

__all__ = ["CIVAE", "BlockDataModule"]
