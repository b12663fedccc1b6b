"""Statistics of measured cells: trends, donor tests, order of genes. Arrays in, results out."""

from __future__ import annotations

from .curves import Curves, measured_curves, switch_position
from .donors import DonorDesign, donor_design, donor_test, testable
from .gaussian import fit_gaussian
from .moderated import moderated_test, variance_prior
from .multiple import false_discovery_rate, intersection_union, sign_test
from .negative_binomial import RegressionFit, dispersion_trend, fit_negative_binomial
from .order import partial_order
from .permutation import permute_donors
from .pseudobulk import SampleSums, log_cpm, size_factors, sum_by
from .splines import roughness_penalty, spline_basis
from .transfer import change_counts, dispersion, transfer_change

__all__ = [
    "Curves",
    "DonorDesign",
    "RegressionFit",
    "SampleSums",
    "change_counts",
    "dispersion",
    "dispersion_trend",
    "donor_design",
    "donor_test",
    "false_discovery_rate",
    "fit_gaussian",
    "fit_negative_binomial",
    "intersection_union",
    "log_cpm",
    "measured_curves",
    "moderated_test",
    "partial_order",
    "permute_donors",
    "roughness_penalty",
    "sign_test",
    "size_factors",
    "spline_basis",
    "sum_by",
    "switch_position",
    "testable",
    "transfer_change",
    "variance_prior",
]
