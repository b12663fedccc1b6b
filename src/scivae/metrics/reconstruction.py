"""Reconstruction error of decoded cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._validate.arguments import check_positive
from .._validate.arrays import MatrixLike, as_matrix, check_same_shape

_BLOCK_ROWS = 1024


class Reconstruction(NamedTuple):
    """Result of :func:`reconstruction_error`.

    Attributes
    ----------
    mae
        Mean absolute error over all entries, in the units of ``x``.
    value_range
        The range that :attr:`percent` refers to, in the units of ``x``.

    Examples
    --------
    >>> from scivae.metrics import reconstruction_error
    >>> reconstruction_error([[0.0, 4.0]], [[0.0, 3.0]]).mae
    0.5
    """

    mae: float
    value_range: float

    @property
    def percent(self) -> float:
        """Mean absolute error as a percentage of the range."""
        return 100 * self.mae / self.value_range


def reconstruction_error(
    x: MatrixLike, x_reconstructed: MatrixLike, *, value_range: float | None = None
) -> Reconstruction:
    """Mean absolute error of a reconstruction, in absolute units and as a percentage of the range.

    Parameters
    ----------
    x
        Input values, ``(n, p)``, dense or sparse.
    x_reconstructed
        Reconstructed values, ``(n, p)``, dense or sparse, in the same units.
    value_range
        Highest minus lowest possible value, such as 1 for pixels in [0, 1]. None: the range
        observed in ``x``.

    Returns
    -------
    :class:`Reconstruction`; 0 is best.

    Raises
    ------
    ValueError
        If the two differ in shape or contain NaN or infinity, or if the range is not above 0.

    References
    ----------
    The CI-VAE paper, Table 1 ("reconstruction MAE", in per cent of the range of the pixels).

    Examples
    --------
    >>> from scivae.metrics import reconstruction_error
    >>> error = reconstruction_error([[0.0, 4.0], [1.0, 2.0]], [[0.0, 3.0], [1.0, 3.0]])
    >>> error.mae, error.value_range, error.percent
    (0.5, 4.0, 12.5)
    """
    truth, guess = as_matrix("x", x), as_matrix("x_reconstructed", x_reconstructed)
    check_same_shape("x", truth, "x_reconstructed", guess)
    if value_range is None:
        span = float(truth.max()) - float(truth.min())
        if span == 0:
            raise ValueError(
                f"the range of x must be above 0, got {float(truth.max())} for every value; "
                "pass value_range=."
            )
    else:
        span = check_positive("value_range", value_range)
    total = 0.0
    for start in range(0, truth.shape[0], _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        # sparse minus dense is a numpy matrix; sparse minus sparse stays sparse
        difference = truth[rows] - guess[rows]
        total += float(np.abs(difference).sum(dtype=np.float64))
    return Reconstruction(mae=total / (truth.shape[0] * truth.shape[1]), value_range=span)
