"""Cubic B-splines on [0, 1] and the penalty that keeps their curves smooth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_integer
from .._validate.arrays import as_positions

FloatArray = npt.NDArray[np.float64]


def spline_basis(t: npt.ArrayLike, n_basis: int = 10, *, degree: int = 3) -> FloatArray:
    """Evaluate B-splines with equally spaced knots on [0, 1].

    Parameters
    ----------
    t
        Positions in [0, 1], shape ``(n,)``.
    n_basis
        Number of basis functions, at least ``degree + 1``.
    degree
        Degree of the polynomials.

    Returns
    -------
    Shape ``(n, n_basis)``. Values are not negative and each row sums to one. The first basis
    function equals one at 0, and the last equals one at 1.

    Raises
    ------
    ValueError
        If a position is outside [0, 1], or ``n_basis`` is too small for the degree.

    References
    ----------
    C. de Boor. A Practical Guide to Splines. Springer, 1978. Calculated with
    :class:`scipy.interpolate.BSpline`.

    Examples
    --------
    >>> from scivae.stats import spline_basis
    >>> spline_basis([0.0, 0.5, 1.0], 4).round(3)
    array([[1.   , 0.   , 0.   , 0.   ],
           [0.125, 0.375, 0.375, 0.125],
           [0.   , 0.   , 0.   , 1.   ]])
    """
    from scipy.interpolate import BSpline

    degree = check_integer("degree", degree, minimum=0)
    n_basis = check_integer("n_basis", n_basis, minimum=degree + 1)
    inner = np.linspace(0, 1, n_basis - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    return BSpline.design_matrix(as_positions("t", t), knots, degree).toarray()


def roughness_penalty(n_basis: int, *, order: int = 2) -> FloatArray:
    """P-spline penalty matrix ``S``: ``b' S b`` is the sum of squared differences of ``b``.

    Parameters
    ----------
    n_basis
        Number of coefficients.
    order
        Order of the differences. With 2, straight lines are not penalized.

    Returns
    -------
    Shape ``(n_basis, n_basis)``.

    Raises
    ------
    ValueError
        If ``n_basis`` is not greater than ``order``.

    References
    ----------
    P. H. C. Eilers and B. D. Marx. Flexible smoothing with B-splines and penalties. Statistical
    Science 11 (1996).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import roughness_penalty
    >>> b = np.array([0.0, 1.0, 4.0])
    >>> float(b @ roughness_penalty(3) @ b)  # (0 − 2 · 1 + 4)²
    4.0
    """
    order = check_integer("order", order, minimum=1)
    n_basis = check_integer("n_basis", n_basis, minimum=order + 1)
    difference = np.diff(np.eye(n_basis), n=order, axis=0)
    return difference.T @ difference
