"""Statistics of measured cells: trends, donors, orders. Arrays in, tables and arrays out."""

from __future__ import annotations

from .negative_binomial import CountFit, dispersion_trend, fit_negative_binomial
from .splines import roughness_penalty, spline_basis

__all__ = [
    "CountFit",
    "dispersion_trend",
    "fit_negative_binomial",
    "roughness_penalty",
    "spline_basis",
]
