"""Calibration: whether predicted probabilities match observed frequencies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_integer
from .._validate.arrays import Labels, Points, as_labels, as_points, check_known, check_rows

_SUM_TOLERANCE = 1e-3  # single precision over many classes


class Calibration(NamedTuple):
    """Made by :func:`calibration_error`.

    Attributes
    ----------
    expected_error
        Mean absolute difference between accuracy and confidence over bins, weighted by the number
        of cells per bin, in [0, 1].
    maximum_error
        The largest such difference over non-empty bins, in [0, 1].
    brier
        Mean squared distance between probabilities and one-hot labels, in [0, 2].
    accuracy
        Proportion of cells whose most probable class is correct, in [0, 1].
    confidence
        Mean probability of the most probable class. A value above :attr:`accuracy` means the model
        is overconfident.

    Examples
    --------
    >>> from scivae.metrics import calibration_error
    >>> found = calibration_error([[0.9, 0.1], [0.6, 0.4]], ["a", "b"], classes=["a", "b"])
    >>> found.accuracy, found.confidence
    (0.5, 0.75)
    """

    expected_error: float
    maximum_error: float
    brier: float
    accuracy: float
    confidence: float


def calibration_error(
    probabilities: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    classes: npt.ArrayLike | None = None,
    n_bins: int = 15,
) -> Calibration:
    """Calibration of class probabilities.

    Confidence is the probability of the most probable class (the first one in a tie). Cells are
    binned by confidence into bins of equal width, ``(0, 1/n_bins], …, (1 − 1/n_bins, 1]``.

    Parameters
    ----------
    probabilities
        Probability of each class for each cell, ``(n, n_classes)``; rows sum to 1.
    y
        True labels, ``(n,)``.
    classes
        Label of each column, ``(n_classes,)``. None: the labels are the numbers of the columns.
    n_bins
        Number of bins.

    Returns
    -------
    :class:`Calibration`. For all errors, 0 is best.

    Raises
    ------
    ValueError
        If lengths do not match, rows are not probabilities, a label has no column, or ``classes``
        has duplicates.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", International Conference on Machine
    Learning (2017), equations 3 and 5; Brier, "Verification of forecasts expressed in terms of
    probability", Monthly Weather Review 78 (1950).

    Examples
    --------
    >>> from scivae.metrics import calibration_error
    >>> result = calibration_error([[0.75, 0.25]] * 4, ["a", "a", "a", "b"], classes=["a", "b"])
    >>> result.expected_error, result.accuracy, result.brier
    (0.0, 0.75, 0.375)
    """
    chances = as_points("probabilities", probabilities)
    truth = as_labels("y", y)
    check_rows("y", truth, "probabilities", chances)
    check_integer("n_bins", n_bins, minimum=1)
    _check_probabilities(chances)
    columns = _columns(chances, classes)
    check_known("y", truth, "the columns of probabilities (classes)", columns)
    order = np.argsort(columns)
    true_column = order[np.searchsorted(columns, truth, sorter=order)]

    n_cells = truth.size
    one_hot = np.zeros_like(chances)
    one_hot[np.arange(n_cells), true_column] = 1
    confidence = chances.max(axis=1)
    hit = chances.argmax(axis=1) == true_column
    upper = np.linspace(0, 1, n_bins + 1)[1:]
    bins = np.minimum(np.searchsorted(upper, confidence, side="left"), n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    surplus = np.bincount(bins, weights=hit - confidence, minlength=n_bins)
    filled = count > 0
    return Calibration(
        expected_error=float(np.abs(surplus).sum() / n_cells),
        maximum_error=float(np.abs(surplus[filled] / count[filled]).max()),
        brier=float(((chances - one_hot) ** 2).sum(axis=1).mean()),
        accuracy=float(hit.mean()),
        confidence=float(confidence.mean()),
    )


def expected_calibration_error(
    probabilities: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    classes: npt.ArrayLike | None = None,
    n_bins: int = 15,
) -> float:
    """Expected calibration error: :attr:`Calibration.expected_error` of :func:`calibration_error`.

    Parameters
    ----------
    probabilities
        Probability of each class for each cell, ``(n, n_classes)``; rows sum to 1.
    y
        True labels, ``(n,)``.
    classes
        Label of each column, ``(n_classes,)``. None: the labels are the numbers of the columns.
    n_bins
        Number of bins.

    Returns
    -------
    The error, in [0, 1]; 0 is best.

    Raises
    ------
    ValueError
        As :func:`calibration_error`.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", International Conference on Machine
    Learning (2017), equation 3.

    Examples
    --------
    >>> from scivae.metrics import expected_calibration_error
    >>> expected_calibration_error([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    0.5
    """
    return calibration_error(probabilities, y, classes=classes, n_bins=n_bins).expected_error


def _check_probabilities(chances: Points) -> None:
    off = (chances < 0).any(axis=1) | (np.abs(chances.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if off.any():
        row = int(np.argmax(off))
        raise ValueError(
            f"each row of probabilities must be at least 0 and sum to 1, got {int(off.sum())} of "
            f"{off.size} rows that do not, the first is row {row} (minimum "
            f"{chances[row].min():.3g}, sum {chances[row].sum():.3g}); apply softmax to logits."
        )


def _columns(chances: Points, classes: npt.ArrayLike | None) -> Labels:
    if classes is None:
        return np.arange(chances.shape[1])
    columns = as_labels("classes", classes)
    if columns.size != chances.shape[1] or np.unique(columns).size != columns.size:
        raise ValueError(
            f"classes must name each column of probabilities once, got {columns.size} names "
            f"({np.unique(columns).size} different) for {chances.shape[1]} columns; "
            "pass them in the order of the columns."
        )
    return columns
