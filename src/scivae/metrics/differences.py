"""Agreement of predicted with observed changes in expression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arrays import as_vector, check_finite, check_same_shape


class LogFoldChangeAgreement(NamedTuple):
    """Result of :func:`log_fold_change_agreement`.

    Attributes
    ----------
    pearson
        Pearson correlation over genes, in [−1, 1].
    slope
        Slope of the regression of predicted on observed changes: below 1 if changes are
        underestimated.
    intercept
        Predicted change at an observed change of zero, in log units.
    n_genes
        Number of genes compared.

    Examples
    --------
    >>> from scivae.metrics import log_fold_change_agreement
    >>> log_fold_change_agreement([1.0, 0.0, -1.0], [2.0, 0.0, -2.0]).slope
    0.5
    """

    pearson: float
    slope: float
    intercept: float
    n_genes: int


def log_fold_change_agreement(
    predicted: npt.ArrayLike, observed: npt.ArrayLike, *, min_observed: float = 0.0
) -> LogFoldChangeAgreement:
    """Correlation and slope of predicted against observed log fold changes.

    The regression is ordinary least squares, with an intercept, of *predicted on observed*. Noise
    in ``observed`` (few held-out cells) biases the slope toward 0; noise in ``predicted`` does not.
    A slope below 1 can therefore be due to noise in the observed changes. For comparison, also
    report the slope between two halves of the observed cells.

    Parameters
    ----------
    predicted
        Predicted log fold change of each gene, ``(n_genes,)``.
    observed
        Observed log fold change, to the same base, of the same genes, ``(n_genes,)``.
    min_observed
        Compare only genes whose observed change is at least this large in either direction. This
        does not bias the slope but raises the correlation, so state it when you report one.

    Returns
    -------
    :class:`LogFoldChangeAgreement`.

    Raises
    ------
    ValueError
        If the two differ in length or contain NaN or infinity, if fewer than three genes remain, or
        if one of the two is constant.

    References
    ----------
    Lotfollahi, Wolf and Theis, "scGen predicts single-cell perturbation responses", Nature Methods
    16 (2019), which compares predicted and observed expression this way.

    Examples
    --------
    >>> from scivae.metrics import log_fold_change_agreement
    >>> agreement = log_fold_change_agreement([-0.5, 0.0, 1.0, 0.5], [-1.0, 0.0, 2.0, 1.0])
    >>> round(agreement.pearson, 6), round(agreement.slope, 6), agreement.n_genes
    (1.0, 0.5, 4)
    """
    guess, truth = as_vector("predicted", predicted), as_vector("observed", observed)
    check_same_shape("predicted", guess, "observed", truth)
    check_finite("min_observed", np.asarray(min_observed, dtype=np.float64))
    kept = np.abs(truth) >= min_observed
    guess, truth = guess[kept], truth[kept]
    if guess.size < 3:
        raise ValueError(
            f"at least 3 genes must be compared, got {guess.size} of {kept.size} with an observed "
            f"change of at least {min_observed}; lower min_observed or pass more genes."
        )
    for values, name in ((guess, "predicted"), (truth, "observed")):
        if np.ptp(values) == 0:
            raise ValueError(
                f"{name} must differ between genes, got {values[0]} for all {values.size}; pass "
                "more genes, or check the two groups that were compared."
            )
    centered_guess, centered_truth = guess - guess.mean(), truth - truth.mean()
    covariance = centered_guess @ centered_truth
    variance = centered_truth @ centered_truth
    slope = float(covariance / variance)
    pearson = float(covariance / np.sqrt(variance * (centered_guess @ centered_guess)))
    return LogFoldChangeAgreement(
        pearson=min(1.0, max(-1.0, pearson)),
        slope=slope,
        intercept=float(guess.mean() - slope * truth.mean()),
        n_genes=int(guess.size),
    )
