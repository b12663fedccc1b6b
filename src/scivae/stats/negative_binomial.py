"""Negative binomial regression of many genes on one shared design matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_integer, check_number
from .._validate.arrays import as_design, as_vector
from ._matrices import as_counts, as_weights, dense, over_blocks
from ._normal_equations import NormalEquations

FloatArray = npt.NDArray[np.float64]

# Largest change of the log mean in one iteration.
_LARGEST_STEP = 4.0
# Log rate of a gene without counts.
_NO_COUNTS = -30.0
# Dispersion of all genes in the first fit; the residuals of that fit give the estimate.
_FIRST_DISPERSION = 0.1
# Genes of similar mean per bin of the dispersion trend, and fewest counts of a gene that is used.
_GENES_PER_BIN, _MIN_COUNTS = 50, 20
# Number of genes, evenly spread over the means, from which the dispersion trend is estimated.
_GENES_OF_TREND = 2000
MIN_DISPERSION = 1e-4


class RegressionFit(NamedTuple):
    """Fitted coefficients of every gene, on the natural log scale.

    Attributes
    ----------
    coefficients
        One for each column of the design, shape ``(n_genes, n_columns)``.
    group_effects
        Effect of each group, shape ``(n_genes, n_groups)``; ``n_groups`` is 0 if no groups are
        given.
    deviance
        Twice the log likelihood ratio to the saturated model, shape ``(n_genes,)``.
    effective_df
        Effective degrees of freedom, shape ``(n_genes,)``. Without a penalty this is the number of
        columns.
    converged
        Whether the fit of each gene converged, shape ``(n_genes,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import fit_negative_binomial
    >>> fit = fit_negative_binomial(
    ...     np.array([[2, 4, 6]]), np.ones((3, 1)), library=[100, 100, 100], dispersion=0.1
    ... )
    >>> np.exp(fit.coefficients).round(3)  # 12 of 300 counts
    array([[0.04]])
    """

    coefficients: FloatArray
    group_effects: FloatArray
    deviance: FloatArray
    effective_df: FloatArray
    converged: npt.NDArray[np.bool_]


def fit_negative_binomial(
    counts: Any,
    design: npt.ArrayLike,
    *,
    library: npt.ArrayLike,
    dispersion: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
    group_precision: float = 0.0,
    penalty: npt.ArrayLike | None = None,
    dispersion_scale: npt.ArrayLike | None = None,
    start: RegressionFit | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-10,
) -> RegressionFit:
    """Regress the counts of every gene on one design matrix, with a log link and an offset.

    The count of gene g in cell i is modeled as negative binomial with mean ``library[i] ·
    exp(design[i] @ b[g] + u[g, group[i]])`` and variance ``mean + dispersion[g] · mean²``.

    Parameters
    ----------
    counts
        Shape ``(n_genes, n_cells)``, dense or sparse. Sparse counts are converted one block of
        genes at a time, so memory use does not grow with the number of genes.
    design
        Shape ``(n_cells, n_columns)``.
    library
        Library size of each cell, positive, shape ``(n_cells,)``.
    dispersion
        Dispersion of each gene, or one value for all genes.
    weights
        Weight of each cell, shape ``(n_cells,)``. ``None``: equal weights.
    group
        Group code of each cell, shape ``(n_cells,)``; negative for cells without a group. Groups
        are usually donors, or donor × batch. Each group has a random effect on the log mean, normal
        with mean zero.
    group_precision
        One over the variance of the group effects. Must be positive if groups are given.
    penalty
        Positive semidefinite matrix ``S``, shape ``(n_columns, n_columns)``; ``b' S b / 2`` is
        subtracted from the log likelihood.
    dispersion_scale
        Factor on the dispersion of each cell, shape ``(n_cells,)``. For the sum of n similar cells
        it is 1 / n.
    start
        Starting values: a fit of the same genes with the same columns.
    max_iterations
        Maximum number of iterations for a gene. 1 gives the one-step estimate from ``start``.
    tolerance
        A gene has converged when a step increases its log likelihood by less than this.

    Returns
    -------
    RegressionFit

    Raises
    ------
    ValueError
        If shapes do not match or a value is out of range.

    Notes
    -----
    Iteratively reweighted least squares (Fisher scoring) [1]_. The normal equations of a block of
    genes are built by one matrix product. Group effects are eliminated from them, which is possible
    because a cell belongs to at most one group. Without groups and penalty, this is the generalized
    linear model that statsmodels fits one gene at a time.

    References
    ----------
    .. [1] P. McCullagh and J. A. Nelder. Generalized Linear Models. Chapman and Hall, 1989.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import fit_negative_binomial, spline_basis
    >>> t = np.linspace(0, 1, 200)
    >>> counts = np.exp(5 + 2 * t).round()[None]
    >>> fit = fit_negative_binomial(
    ...     counts, spline_basis(t, 4), library=np.ones(200), dispersion=0.01
    ... )
    >>> (fit.coefficients @ spline_basis([0, 1], 4).T).round(1)
    array([[5., 7.]])
    """
    matrix = as_counts(counts)
    n_genes, n_cells = matrix.shape
    x = as_design(design, n_cells)
    size = as_vector("library", library, n_cells)
    if (size <= 0).any():
        raise ValueError(f"library must be positive, got {size.min():g}; remove empty cells.")
    alpha = np.broadcast_to(np.asarray(dispersion, dtype=np.float64), (n_genes,))
    if not (np.isfinite(alpha) & (alpha >= 0)).all():
        raise ValueError(
            f"dispersion must be finite and not negative, got {alpha.min():g}; "
            "estimate it with dispersion_trend."
        )
    equations = NormalEquations.of(x, group, group_precision, penalty)
    weight = as_weights(weights, n_cells)
    scale = None
    if dispersion_scale is not None:
        scale = as_vector("dispersion_scale", dispersion_scale, n_cells)[equations.order]
    max_iterations = check_integer("max_iterations", max_iterations, minimum=1)
    tolerance = check_number("tolerance", tolerance, minimum=0)
    if start is not None and start.coefficients.shape != (n_genes, x.shape[1]):
        raise ValueError(
            f"start must hold coefficients of shape {(n_genes, x.shape[1])}, got "
            f"{start.coefficients.shape}; pass a fit of the same genes and columns."
        )
    problem = _Problem(equations, np.log(size)[equations.order], weight[equations.order], scale)

    out = RegressionFit(
        np.empty((n_genes, x.shape[1])),
        np.empty((n_genes, equations.n_groups)),
        np.empty(n_genes),
        np.empty(n_genes),
        np.empty(n_genes, dtype=bool),
    )

    def one(rows: slice) -> None:
        y = dense(matrix, rows)[:, equations.order]
        begin = None
        if start is not None:
            begin = start.coefficients[rows], start.group_effects[rows]
        found = problem.fit(y, alpha[rows], begin, max_iterations, tolerance)
        for all_genes, block in zip(out, found, strict=True):
            all_genes[rows] = block

    over_blocks(one, n_genes, n_cells, "fitting genes")
    return out


class _Problem(NamedTuple):
    """The part of the regression that all genes share. Cells are sorted by group."""

    equations: NormalEquations
    log_library: FloatArray
    weights: FloatArray
    dispersion_scale: FloatArray | None

    def fit(
        self,
        y: FloatArray,
        alpha: FloatArray,
        begin: tuple[FloatArray, FloatArray] | None,
        max_iterations: int,
        tolerance: float,
    ) -> RegressionFit:
        """Fit a block of genes, ``y`` of shape ``(n_genes, n_cells)``."""
        equations = self.equations
        total = y @ self.weights
        library = float(np.exp(self.log_library) @ self.weights)
        known = total > 0
        log_share = np.where(known, np.log(np.where(known, total, 1) / library), _NO_COUNTS)
        if begin is None:
            b = log_share[:, None] * equations.constant
            u = np.zeros((len(y), equations.n_groups))
        else:
            b, u = begin[0].copy(), begin[1].copy()
        b[~known], u[~known] = _NO_COUNTS * equations.constant, 0
        edf, converged = np.zeros(len(y)), ~known
        active = np.flatnonzero(known)
        damping = np.ones(len(y))
        last_gain = np.full(len(y), np.inf)
        for _ in range(max_iterations):
            if not len(active):
                break
            # All rows as a slice: an array of their numbers would copy them.
            rows = slice(None) if len(active) == len(y) else active
            mu = self.mean(b[rows], u[rows])
            factor = self._factor(mu, alpha[rows])
            residual = (y[rows] - mu) * factor
            np.multiply(mu, factor, out=mu)  # now the weight of each cell in the equations
            step_b, step_u, gain, df = equations.solve(mu, residual, b[active], u[active])
            edf[active] = df
            # If the gain grew, the last step was too long: halve the next one.
            damping[active] = np.where(gain > last_gain[active], 0.5 * damping[active], 1.0)
            last_gain[active] = gain
            largest = equations.largest(step_b, step_u)
            length = np.minimum(1, _LARGEST_STEP / np.maximum(largest, 1e-300)) * damping[active]
            b[active] += length[:, None] * step_b
            u[active] += length[:, None] * step_u
            done = gain <= tolerance
            converged[active[done]] = True
            active = active[~done]
        return RegressionFit(b, u, self.deviance(y, b, u, alpha), edf, converged)

    def mean(self, b: FloatArray, u: FloatArray) -> FloatArray:
        """Expected counts, shape ``(n_genes, n_cells)``."""
        eta = self.equations.predict(b, u)
        eta += self.log_library
        return np.exp(eta, out=eta)

    def _factor(self, mu: FloatArray, alpha: FloatArray) -> FloatArray:
        """Weight of each cell divided by (1 + dispersion · mean)."""
        scaled = mu * alpha[:, None]
        if self.dispersion_scale is not None:
            scaled *= self.dispersion_scale
        scaled += 1
        return np.divide(self.weights, scaled, out=scaled)

    def deviance(
        self, y: FloatArray, b: FloatArray, u: FloatArray, alpha: FloatArray
    ) -> FloatArray:
        """Deviance of each gene."""
        from scipy.special import xlog1py, xlogy

        mu = self.mean(b, u)
        scaled = np.maximum(alpha, 1e-10)[:, None]
        if self.dispersion_scale is not None:
            scaled = scaled * self.dispersion_scale
        # y log(y / mu) − (y + 1/α) log((1 + α y) / (1 + α mu)); xlog1py avoids cancellation in the
        # second term
        unit = xlogy(y, y / mu) - xlog1py(y + 1 / scaled, scaled * (y - mu) / (1 + scaled * mu))
        return 2 * (unit @ self.weights)


def dispersion_trend(
    counts: Any,
    design: npt.ArrayLike,
    *,
    library: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
    group_precision: float = 0.0,
    penalty: npt.ArrayLike | None = None,
) -> FloatArray:
    """Estimate the dispersion of every gene from a trend over mean expression.

    Parameters
    ----------
    counts, design, library, weights, group, group_precision, penalty
        As for :func:`fit_negative_binomial`.

    Returns
    -------
    Shape ``(n_genes,)``.

    Notes
    -----
    At most 2,000 genes, evenly spread over the means, are fitted first. Their residuals give a
    method-of-moments dispersion for each gene. The trend is the median over bins of 50 genes with
    similar means, interpolated between bins on log scales. Genes with fewer than 20 counts are not
    used for the trend; they get its value at the lowest mean.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import dispersion_trend
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.negative_binomial(2, 2 / (2 + 10.0), size=(200, 500))  # dispersion ½
    >>> found = dispersion_trend(counts, np.ones((500, 1)), library=np.ones(500))
    >>> bool(np.all(np.abs(found - 0.5) < 0.05))
    True
    """
    everything = as_counts(counts)
    n_cells = everything.shape[1]
    weight = as_weights(weights, n_cells)
    all_means = np.asarray(everything @ weight).ravel() / weight.sum()
    by_mean = np.argsort(all_means, kind="stable")
    chosen = by_mean[np.unique(np.linspace(0, len(by_mean) - 1, _GENES_OF_TREND).astype(int))]
    matrix, n_genes = everything[chosen], len(chosen)
    settings: dict[str, Any] = {
        "library": library,
        "weights": weights,
        "group": group,
        "group_precision": group_precision,
        "penalty": penalty,
    }
    first = fit_negative_binomial(
        matrix, design, dispersion=_FIRST_DISPERSION, tolerance=1e-4, **settings
    )
    equations = NormalEquations.of(as_design(design, n_cells), group, group_precision, penalty)
    weight = weight[equations.order]
    log_library = np.log(as_vector("library", library, n_cells))[equations.order]
    problem = _Problem(equations, log_library, weight, None)
    used = weight.sum() ** 2 / (weight**2).sum()
    moments, totals = np.empty(n_genes), np.empty(n_genes)

    def one(rows: slice) -> None:
        y = dense(matrix, rows)[:, equations.order]
        mu = problem.mean(first.coefficients[rows], first.group_effects[rows])
        spare = used / np.maximum(used - first.effective_df[rows], 1)
        excess = spare * (((y - mu) ** 2) @ weight) - mu @ weight
        moments[rows] = excess / np.maximum((mu**2) @ weight, 1e-300)
        totals[rows] = y.sum(axis=1)

    over_blocks(one, n_genes, n_cells, "fitting dispersions")
    return _trend(moments, all_means[chosen], totals, all_means)


def _trend(
    moments: FloatArray, means: FloatArray, totals: FloatArray, wanted: FloatArray
) -> FloatArray:
    """Median dispersion in bins of genes with similar means, interpolated on log scales."""
    telling = np.flatnonzero((totals >= _MIN_COUNTS) & np.isfinite(moments))
    if not len(telling):
        return np.full(len(wanted), _FIRST_DISPERSION)
    order = telling[np.argsort(means[telling], kind="stable")]
    bins = np.array_split(order, max(1, round(len(order) / _GENES_PER_BIN)))
    at = np.array([np.median(np.log(means[genes])) for genes in bins])
    level = np.array([max(np.median(moments[genes]), MIN_DISPERSION) for genes in bins])
    return np.exp(np.interp(np.log(np.maximum(wanted, 1e-300)), at, np.log(level)))
