"""Figures: each takes ``ax``, returns it, and changes nothing else."""

from __future__ import annotations

from ._history import history
from ._margin import class_margin
from ._path import path
from ._trends import gene_trends, trend_heatmap

__all__ = [
    "class_margin",
    "gene_trends",
    "history",
    "path",
    "trend_heatmap",
]
