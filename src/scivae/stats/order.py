"""Partial order of genes by the position at which they change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_number

# Values in one block of differences.
_VALUES_PER_BLOCK = 2**22


def partial_order(switches: npt.ArrayLike, *, level: float = 0.9) -> npt.NDArray[np.bool_]:
    """Order genes by the position of their switch, as far as the resamples support it.

    Parameters
    ----------
    switches
        Switch position of each gene in each resample, shape ``(n_genes, n_resamples)``.
    level
        Confidence level. Two genes are ordered if the interval of their difference excludes 0.

    Returns
    -------
    Boolean, shape ``(n_genes, n_genes)``: True if the row's gene switches before the column's gene.

    Raises
    ------
    ValueError
        If there are no resamples, or a value is not finite.

    Notes
    -----
    Intervals are percentiles of the difference over resamples. The result is made transitive: if a
    is before b and b before c, but the interval of a and c includes 0, the pair (a, b) is dropped.

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
            f"{values.shape}; pass Curves.switches of a fit with n_bootstraps > 0."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"switches must be finite, got {int((~np.isfinite(values)).sum())} values that are "
            "not; remove genes without a switch."
        )
    n, n_resamples = values.shape
    before = np.zeros((n, n), dtype=bool)
    allowed = np.floor((1 - level) / 2 * n_resamples + 1e-9)  # resamples that may disagree
    rows = max(1, _VALUES_PER_BLOCK // max(1, n * n_resamples))
    for first in range(0, n, rows):
        block = values[first : first + rows, None]  # (rows, 1, n_resamples)
        before[first : first + rows] = (block >= values).sum(axis=2) <= allowed
    np.fill_diagonal(before, False)
    while True:
        # (a, b) violates transitivity if some c is after b but not after a.
        after = before.astype(np.float32)
        broken = before & (((1 - after) @ after.T) > 0)
        if not broken.any():
            return before
        before &= ~broken
