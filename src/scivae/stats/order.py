"""Which genes change before which others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_number

# Values of one block of differences.
_VALUES_PER_BLOCK = 2**22


def partial_order(switches: npt.ArrayLike, *, level: float = 0.9) -> npt.NDArray[np.bool_]:
    """Which genes switch before which others, as far as resamples agree.

    Parameters
    ----------
    switches
        Positions of the switch of each gene in each resample, shape ``(n_genes, n_resamples)``.
    level
        Level of the interval of a difference, which must not hold 0.

    Returns
    -------
    Shape ``(n_genes, n_genes)``: whether the gene of the row switches before that of the column.

    Raises
    ------
    ValueError
        If there are no resamples, or values that are not finite.

    Notes
    -----
    The interval is that of the percentiles of the difference. What is left is made an order:
    where a is before b and b before c, but the interval of a and c holds 0, the pair a, b is dropped.

    Examples
    --------
    >>> from scivae.stats import partial_order
    >>> partial_order([[0.1, 0.2, 0.1], [0.5, 0.6, 0.7], [0.1, 0.9, 0.8]])
    array([[False,  True, False],
           [False, False, False],
           [False, False, False]])
    """
    values = np.asarray(switches, dtype=np.float32)
    level = check_number("level", level, minimum=0, maximum=1)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"switches must have the shape (n_genes, n_resamples) with at least one resample, got "
            f"{values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError("switches must be finite; leave out genes without a switch.")
    n, n_resamples = values.shape
    before = np.zeros((n, n), dtype=bool)
    allowed = np.floor((1 - level) / 2 * n_resamples + 1e-9)  # resamples that may say otherwise
    rows = max(1, _VALUES_PER_BLOCK // max(1, n * n_resamples))
    for first in range(0, n, rows):
        block = values[first : first + rows, None]  # (rows, 1, n_resamples)
        before[first : first + rows] = (block >= values).sum(axis=2) <= allowed
    np.fill_diagonal(before, False)
    while True:
        # (a, b) breaks the order if there is a c after b that is not after a.
        after = before.astype(np.float32)
        broken = before & (((1 - after) @ after.T) > 0)
        if not broken.any():
            return before
        before &= ~broken
