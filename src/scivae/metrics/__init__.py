"""Measures of latent spaces, paths and synthetic cells. Arrays in, numbers out."""

from __future__ import annotations

from .faithfulness import Judge, Purity, cycle_consistency, fit_judges, path_purity
from .separability import linear_separability

__all__ = [
    "Judge",
    "Purity",
    "cycle_consistency",
    "fit_judges",
    "linear_separability",
    "path_purity",
]
