"""Least-squares regression of many genes on one shared design matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._validate.arrays import as_design
from ._matrices import as_weights, dense, genes_by_cells, over_blocks
from ._normal_equations import NormalEquations
from .negative_binomial import RegressionFit


def fit_gaussian(
    values: Any,
    design: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
    group_precision: float = 0.0,
    penalty: npt.ArrayLike | None = None,
) -> RegressionFit:
    """Fit continuous values of every gene by weighted least squares on one design matrix.

    Parameters
    ----------
    values
        Shape ``(n_genes, n_cells)``, dense or sparse.
    design, weights, group, group_precision, penalty
        As for :func:`fit_negative_binomial`. Precision and penalty are relative to one over the
        residual variance of a gene, so they have the same effect on genes of any scale.

    Returns
    -------
    RegressionFit
        The ``deviance`` is the weighted sum of squared residuals.

    Raises
    ------
    ValueError
        If shapes do not match or a value is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import fit_gaussian, spline_basis
    >>> t = np.linspace(0, 1, 50)
    >>> fit = fit_gaussian(t[None] ** 2, spline_basis(t, 5))
    >>> (fit.coefficients @ spline_basis([0.5], 5).T).round(6)
    array([[0.25]])
    """
    matrix = genes_by_cells(values, "values")
    n_genes, n_cells = matrix.shape
    x = as_design(design, n_cells)
    equations = NormalEquations.of(x, group, group_precision, penalty)
    weight = as_weights(weights, n_cells)
    weight = weight[equations.order]
    b = np.zeros((n_genes, x.shape[1]))
    u = np.zeros((n_genes, equations.n_groups))
    deviance = np.empty(n_genes)
    # The matrix is the same for all genes, so the degrees of freedom are calculated once.
    edf = equations.solve(weight[None], 0 * weight[None], b[:1], u[:1])[3]

    def one(rows: slice) -> None:
        y = dense(matrix, rows)[:, equations.order]
        b[rows], u[rows] = equations.solve_all(weight, y * weight)
        deviance[rows] = ((y - equations.predict(b[rows], u[rows])) ** 2) @ weight

    over_blocks(one, n_genes, n_cells, "fitting genes")
    return RegressionFit(b, u, deviance, np.full(n_genes, edf[0]), np.ones(n_genes, dtype=bool))
