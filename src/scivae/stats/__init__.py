"""Statistics of measured cells: trends, donors, orders. Arrays in, tables and arrays out."""

from __future__ import annotations

from .donors import (
    DonorDesign,
    donor_design,
    donor_test,
    false_discovery_rate,
    intersection_union,
    log_cpm,
    moderated_test,
    permute_donors,
    sign_test,
    size_factors,
    sum_by,
    variance_prior,
)
from .negative_binomial import CountFit, dispersion_trend, fit_negative_binomial
from .splines import roughness_penalty, spline_basis

__all__ = [
    "CountFit",
    "DonorDesign",
    "dispersion_trend",
    "donor_design",
    "donor_test",
    "false_discovery_rate",
    "fit_negative_binomial",
    "intersection_union",
    "log_cpm",
    "moderated_test",
    "permute_donors",
    "roughness_penalty",
    "sign_test",
    "size_factors",
    "spline_basis",
    "sum_by",
    "variance_prior",
]
