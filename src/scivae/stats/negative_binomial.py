"""Negative binomial regression of many genes on one design, all at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_integer, check_number
from .._validate.arrays import as_design, as_vector
from ._normal_equations import NormalEquations
from ._parallel import over_blocks

FloatArray = npt.NDArray[np.float64]

# The logarithm of the mean changes by no more than this in one iteration.
_LARGEST_STEP = 4.0
# Log mean share of a gene without counts.
_NO_COUNTS = -30.0
# Dispersion of genes for the first fit, whose residuals tell of the dispersion.
_FIRST_DISPERSION = 0.1
# Genes of similar mean whose dispersions are taken together.
_GENES_PER_BIN, _MIN_COUNTS = 50, 20
# Genes, evenly spread over all means, that the trend of the dispersion is taken from.
_GENES_OF_TREND = 2000
MIN_DISPERSION = 1e-4


class RegressionFit(NamedTuple):
    """Coefficients of every gene, on the scale of the natural logarithm.

    Attributes
    ----------
    coefficients
        Of the columns of the design, shape ``(n_genes, n_columns)``.
    group_effects
        Of the groups, shape ``(n_genes, n_groups)``; no columns without groups.
    deviance
        Twice the log likelihood ratio to the saturated model, shape ``(n_genes,)``.
    effective_df
        Effective degrees of freedom, shape ``(n_genes,)``: the number of columns where nothing is
        penalized.
    converged
        Whether the iterations of a gene came to rest, shape ``(n_genes,)``.

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
    """Regress the counts of every gene on one design, with a log link and an offset.

    The count of gene g in cell i is taken to be negative binomial with the mean
    ``library[i] · exp(design[i] @ b[g] + u[g, group[i]])`` and the variance
    ``mean + dispersion[g] · mean²``.

    Parameters
    ----------
    counts
        Shape ``(n_genes, n_cells)``, dense or sparse. Sparse counts are read a block of genes at a
        time, so that memory does not grow with the number of genes.
    design
        Shape ``(n_cells, n_columns)``.
    library
        Library size of each cell, positive, shape ``(n_cells,)``.
    dispersion
        Of each gene, or one for all.
    weights
        How much each cell counts, shape ``(n_cells,)``; ``None``: all alike.
    group
        Code of each cell, shape ``(n_cells,)``, negative for none: donors, or donors in batches. Each
        group has an effect of its own on the logarithm of the mean, normally distributed about zero.
    group_precision
        One over the variance of these effects. Must be positive where there are groups.
    penalty
        Positive semidefinite matrix ``S``, shape ``(n_columns, n_columns)``; ``b' S b / 2`` is
        subtracted from the log likelihood.
    dispersion_scale
        Factor of the dispersion in each cell, shape ``(n_cells,)``. A sum of n alike cells has 1 / n.
    start
        Where iterations begin: a fit of the same genes and columns.
    max_iterations
        Most iterations for a gene. 1 gives the one-step estimate from ``start``.
    tolerance
        A gene is done when a step gains less than this in log likelihood.

    Returns
    -------
    RegressionFit

    Raises
    ------
    ValueError
        If shapes disagree, or a value is out of its range.

    Notes
    -----
    Iteratively reweighted least squares (Fisher scoring) [1]_: the weighted sums of products of
    columns are one matrix product for a block of genes, and effects of groups are eliminated from the
    equations, since no cell has two. Without groups and penalty this is the generalized linear model
    that statsmodels fits gene by gene.

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
        raise ValueError(f"library must be positive, got {size.min():g}; leave empty cells out.")
    alpha = np.broadcast_to(np.asarray(dispersion, dtype=np.float64), (n_genes,))
    if not (np.isfinite(alpha) & (alpha >= 0)).all():
        raise ValueError(f"dispersion must be finite and not negative, got {alpha.min():g}.")
    equations = NormalEquations.of(x, group, group_precision, penalty)
    weight = np.ones(n_cells) if weights is None else as_vector("weights", weights, n_cells)
    if (weight < 0).any() or not weight.any():
        raise ValueError("weights must not be negative, and at least one must be positive.")
    scale = None
    if dispersion_scale is not None:
        scale = as_vector("dispersion_scale", dispersion_scale, n_cells)[equations.order]
    max_iterations = check_integer("max_iterations", max_iterations, minimum=1)
    tolerance = check_number("tolerance", tolerance, minimum=0)
    if start is not None and start.coefficients.shape != (n_genes, x.shape[1]):
        raise ValueError(
            f"start must hold coefficients of shape {(n_genes, x.shape[1])}, got "
            f"{start.coefficients.shape}."
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
    """What all genes have in common; cells are in the order of their groups."""

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
            every = len(active) == len(y)
            mu = self.mean(b, u) if every else self.mean(b[active], u[active])
            part = y if every else y[active]
            factor = self._factor(mu, alpha if every else alpha[active])
            residual = (part - mu) * factor
            np.multiply(mu, factor, out=mu)  # now the weight of each cell in the equations
            step_b, step_u, gain, df = equations.solve(mu, residual, b[active], u[active])
            edf[active] = df
            # A gain that grows shows a step that went too far.
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
        """Weight of a cell over one plus dispersion times mean."""
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
        # y log(y / mu) − (y + 1/α) log((1 + α y) / (1 + α mu)), the second without cancellation
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
    """Dispersion of every gene, from a trend over genes of similar mean.

    Parameters
    ----------
    counts, design, library, weights, group, group_precision, penalty
        As for :func:`fit_negative_binomial`.

    Returns
    -------
    Shape ``(n_genes,)``.

    Notes
    -----
    A first fit of at most 2,000 genes, evenly spread over the means, gives the residuals. The dispersion of a gene by the method of moments is that at which
    they have the variance they should; the median over 50 genes of similar mean count is the
    trend at their mean, and between such means it is interpolated on log scales. Genes with fewer
    than 20 counts say nothing and are given the dispersion of those with the lowest means.

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
    weight = np.ones(n_cells) if weights is None else as_vector("weights", weights, n_cells)
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
    """Medians of dispersions over genes of similar mean, interpolated on log scales."""
    telling = np.flatnonzero((totals >= _MIN_COUNTS) & np.isfinite(moments))
    if not len(telling):
        return np.full(len(wanted), _FIRST_DISPERSION)
    order = telling[np.argsort(means[telling], kind="stable")]
    bins = np.array_split(order, max(1, round(len(order) / _GENES_PER_BIN)))
    at = np.array([np.median(np.log(means[genes])) for genes in bins])
    level = np.array([max(np.median(moments[genes]), MIN_DISPERSION) for genes in bins])
    return np.exp(np.interp(np.log(np.maximum(wanted, 1e-300)), at, np.log(level)))


def as_matrix(values: Any, name: str) -> Any:
    """Finite numbers as a dense array or CSR, shape ``(n_genes, n_cells)``."""
    from scipy import sparse

    if sparse.issparse(values):
        matrix, stored = sparse.csr_matrix(values), values.data
    else:
        matrix = stored = np.asarray(values)
    if matrix.ndim != 2 or stored.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} must be a matrix of numbers, genes × cells, got shape {matrix.shape} of dtype "
            f"{stored.dtype}."
        )
    if not np.isfinite(stored).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return matrix


def as_counts(counts: Any) -> Any:
    """Counts as a dense array or CSR, shape ``(n_genes, n_cells)``."""
    matrix = as_matrix(counts, "counts")
    stored = matrix.data if hasattr(matrix, "toarray") else matrix
    if stored.size and stored.min() < 0:
        raise ValueError(f"counts must not be negative, got {stored.min():g}.")
    return matrix


def dense(matrix: Any, rows: slice) -> FloatArray:
    """Some genes as a dense array of double precision."""
    part = matrix[rows]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float64)
