"""Partial order of genes by the position at which they change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_integer, check_number
from .curves import MIN_UNITS, half_width


def partial_order(
    switches: npt.ArrayLike,
    *,
    switch: npt.ArrayLike | None = None,
    level: float = 0.9,
    n_donors: int | None = None,
) -> npt.NDArray[np.bool_]:
    r"""Order genes by the position of their switch, as far as the resamples support it.

    Parameters
    ----------
    switches
        Switch position of each gene in each resample, shape ``(n_genes, n_resamples)``.
    switch
        Switch position of each gene, shape ``(n_genes,)``; ``None`` for the mean over resamples.
    level
        Confidence level. Two genes are ordered if the interval of their difference excludes 0.
    n_donors
        Number of donors, if these were resampled; ``None`` if cells were.

    Returns
    -------
    Boolean, shape ``(n_genes, n_genes)``: True if the row's gene switches before the column's gene.

    Raises
    ------
    ValueError
        If there are fewer than two resamples or three donors, a value is not finite, or the shapes do not
        agree.

    Notes
    -----
    The interval of a difference is :math:`d \pm c\, s` with the standard deviation :math:`s` of the
    difference over resamples, so that errors which two genes share cancel. The factor :math:`c` is a
    quantile of the normal distribution, or of Student's t for few donors, widened as the intervals of
    :func:`measured_curves` are. The result is made transitive: if a is before b and b before c, but the
    interval of a and c includes 0, the pair (a, b) is dropped.

    Examples
    --------
    >>> from scivae.stats import partial_order
    >>> partial_order([[0.1, 0.2, 0.1], [0.5, 0.6, 0.7], [0.1, 0.9, 0.8]])
    array([[False,  True, False],
           [False, False, False],
           [False, False, False]])
    """
    values = np.asarray(switches, dtype=np.float64)
    level = check_number("level", level, minimum=0, maximum=1)
    if n_donors is not None:
        n_donors = check_integer("n_donors", n_donors, minimum=MIN_UNITS)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(
            f"switches must have the shape (n_genes, n_resamples) with at least two resamples, got "
            f"{values.shape}; pass Curves.switches of a fit with n_bootstraps > 1."
        )
    center = values.mean(axis=1) if switch is None else np.asarray(switch, dtype=np.float64)
    if center.shape != values.shape[:1]:
        raise ValueError(
            f"switch must have one value for each of the {len(values)} genes, got the shape "
            f"{center.shape}; pass Curves.switch of the same fit."
        )
    if not (np.isfinite(values).all() and np.isfinite(center).all()):
        missing = ~(np.isfinite(values).all(axis=1) & np.isfinite(center))
        raise ValueError(
            f"switches must be finite, got {int(missing.sum())} genes with values that are not; "
            "remove genes without a switch."
        )
    around = values - values.mean(axis=1, keepdims=True)
    covariance = around @ around.T / (values.shape[1] - 1)
    variance = np.diag(covariance)
    spread = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0))
    later = center - center[:, None]
    before = (later > 0) & (later > half_width(level, n_donors) * spread)
    while True:
        # (a, b) violates transitivity if some c is after b but not after a.
        after = before.astype(np.float32)
        broken = before & (((1 - after) @ after.T) > 0)
        if not broken.any():
            return before
        before &= ~broken
