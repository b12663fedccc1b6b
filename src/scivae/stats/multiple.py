"""Multiple testing: false discovery rate, intersection-union test, sign test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SignTest(NamedTuple):
    """Agreement between donors on the direction of a difference.

    Attributes
    ----------
    agreement
        Proportion of donors in the majority direction, among donors with a nonzero difference.
        Shape ``(n_genes,)``; NaN if no donor differs.
    p_value
        Two-sided p-value of the binomial distribution with probability 1/2.
    """

    agreement: np.ndarray
    p_value: np.ndarray


def sign_test(differences: np.ndarray) -> SignTest:
    """Test whether donors agree on the direction of a difference.

    Parameters
    ----------
    differences
        Difference in each donor, shape ``(n_donors, n_genes)``. Differences of zero are ignored.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import sign_test
    >>> sign_test(np.array([[1.0, 1.0], [2.0, -1.0], [0.5, 1.0], [3.0, 0.0]]))
    SignTest(agreement=array([1.        , 0.66666667]), p_value=array([0.125, 1.   ]))
    """
    from scipy.stats import binom

    up, down = (differences > 0).sum(axis=0), (differences < 0).sum(axis=0)
    n, most = up + down, np.maximum(up, down)
    p_value = np.minimum(2 * binom.sf(most - 1, np.maximum(n, 1), 0.5), 1.0)
    agreement = most / np.maximum(n, 1)
    return SignTest(np.where(n > 0, agreement, np.nan), np.where(n > 0, p_value, np.nan))


def intersection_union(
    first: np.ndarray, p_first: np.ndarray, second: np.ndarray, p_second: np.ndarray
) -> np.ndarray:
    """Combine two tests into one p-value that is small only if both differences exist.

    Used for transient genes, which must differ from both ends of a path in the same direction. The
    p-values need no correction because both tests must reject (Berger).

    Parameters
    ----------
    first, second
        The differences, shape ``(n_genes,)``.
    p_first, p_second
        Their two-sided p-values.

    Returns
    -------
    The larger of the two p-values if the signs agree, otherwise 1; NaN if either is NaN.

    References
    ----------
    Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24 (1982).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import intersection_union
    >>> intersection_union(*(np.array(v) for v in ([1.0, 1.0], [0.01, 0.01], [2.0, -2.0], [0.04, 0.04])))
    array([0.04, 1.  ])
    """
    p_value = np.where(np.sign(first) == np.sign(second), np.maximum(p_first, p_second), 1.0)
    return np.where(np.isnan(p_first) | np.isnan(p_second), np.nan, p_value)


def false_discovery_rate(p_value: np.ndarray) -> np.ndarray:
    """Adjust p-values by the Benjamini–Hochberg method.

    Parameters
    ----------
    p_value
        Shape ``(n_genes,)``. NaN (gene not tested) stays NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import false_discovery_rate
    >>> false_discovery_rate(np.array([0.01, np.nan, 0.04]))
    array([0.02,  nan, 0.04])
    """
    from statsmodels.stats.multitest import multipletests

    out = np.full(len(p_value), np.nan)
    tested = np.isfinite(p_value)
    if tested.any():
        out[tested] = multipletests(p_value[tested], method="fdr_bh")[1]
    return out
