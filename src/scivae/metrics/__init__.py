"""Metrics of latent spaces, paths and synthetic cells. Arrays in, numbers out."""

from __future__ import annotations

from .calibration import Calibration, calibration_error, expected_calibration_error
from .classification import f1_per_class, macro_f1
from .conformal import SetCoverage, conformal_p_values, conformal_thresholds, set_coverage
from .differences import LogFoldChangeAgreement, log_fold_change_agreement
from .faithfulness import Purity, cycle_consistency, path_purity
from .judges import Judge, fit_judges
from .manifold import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from .populations import energy_distance, maximum_mean_discrepancy, wasserstein_1
from .realism import (
    CopyingTest,
    GeneGeneAgreement,
    TwoSampleTest,
    classifier_two_sample_test,
    copying_test,
    gene_gene_correlation,
)
from .reconstruction import Reconstruction, reconstruction_error
from .separability import linear_separability
from .smoothness import Smoothness, interpolation_smoothness

__all__ = [
    "Calibration",
    "CopyingTest",
    "DensityCoverage",
    "GeneGeneAgreement",
    "Judge",
    "LogFoldChangeAgreement",
    "PrecisionRecall",
    "Purity",
    "Reconstruction",
    "SetCoverage",
    "Smoothness",
    "TwoSampleTest",
    "calibration_error",
    "classifier_two_sample_test",
    "conformal_p_values",
    "conformal_thresholds",
    "copying_test",
    "cycle_consistency",
    "density_coverage",
    "energy_distance",
    "expected_calibration_error",
    "f1_per_class",
    "fit_judges",
    "gene_gene_correlation",
    "interpolation_smoothness",
    "linear_separability",
    "log_fold_change_agreement",
    "macro_f1",
    "maximum_mean_discrepancy",
    "path_purity",
    "precision_recall",
    "reconstruction_error",
    "set_coverage",
    "wasserstein_1",
]
