"""Moderated t-tests: the variances of all genes share a prior."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_TREND_KNOTS = 4


# Fewest genes from which the spread of variances between genes is estimated.
_MIN_GENES = 10


# Quantiles at which the prior must be at least as large as the observed variances.
_TAIL = (0.9, 0.95, 0.99, 0.995)


class VariancePrior(NamedTuple):
    """Prior distribution of gene variances: ``variance · df / χ²(df)``.

    Attributes
    ----------
    variance
        Prior variance of each gene, shape ``(n_genes,)``.
    df
        Prior degrees of freedom; infinite if variances differ between genes only by chance.
    """

    variance: np.ndarray
    df: float


class ModeratedTest(NamedTuple):
    """Test of a contrast for each gene, with moderated (shrunken) standard errors.

    Attributes
    ----------
    estimate
        The contrast, shape ``(n_genes,)``.
    t
        Estimate divided by its standard error.
    df
        Degrees of freedom of ``t``.
    p_value
        Two-sided p-value.
    sd
        Shrunken residual standard deviation.
    prior
        The variance prior that was used.
    """

    estimate: np.ndarray
    t: np.ndarray
    df: float
    p_value: np.ndarray
    sd: np.ndarray
    prior: VariancePrior


def variance_prior(
    variance: np.ndarray, df: float, covariate: np.ndarray | None = None
) -> VariancePrior:
    """Estimate the prior distribution of variances from the sample variances of many genes.

    Parameters
    ----------
    variance
        Sample variances, shape ``(n_genes,)``.
    df
        Degrees of freedom of each sample variance.
    covariate
        Mean expression of each gene. The prior variance is then a smooth function (natural cubic
        spline) of it. ``None``: one prior variance for all genes.

    Returns
    -------
    The prior, fitted to the moments of the log variances. ``df`` is then lowered until the prior's
    90, 95, 99 and 99.5 % quantiles are at least as large as the observed ones: real variances have
    heavier tails than the moments suggest, and highly variable genes would otherwise be called too
    often. With fewer than 10 genes there is no shrinkage (``df`` is 0).

    References
    ----------
    Smyth, "Linear models and empirical Bayes methods for assessing differential expression in
    microarray experiments", Statistical Applications in Genetics and Molecular Biology 3 (2004),
    section 6.2.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import variance_prior
    >>> rng = np.random.default_rng(0)
    >>> true = 0.3 * 8 / rng.chisquare(8, 20_000)
    >>> prior = variance_prior(true * rng.chisquare(4, 20_000) / 4, 4)
    >>> bool(abs(prior.df - 8) < 1), bool(abs(prior.variance[0] - 0.3) < 0.02)
    (True, True)
    """
    from scipy.special import digamma, polygamma

    usable = variance > 0
    if not usable.any():
        return VariancePrior(np.zeros(len(variance)), np.inf)
    if len(variance) < _MIN_GENES:
        return VariancePrior(np.asarray(variance, dtype=float), 0.0)
    # log(0) is undefined: zero variances are raised to a small floor, as in limma.
    floor = 1e-5 * np.median(variance[usable])
    log = np.log(np.maximum(variance, floor)) - digamma(df / 2) + np.log(df / 2)
    distinct = 0 if covariate is None else len(np.unique(covariate))
    n_knots = min(_TREND_KNOTS if len(log) >= 30 else _TREND_KNOTS - 1, distinct)
    if n_knots >= 2:
        basis = _natural_spline(np.asarray(covariate), n_knots)
        mean = basis @ np.linalg.lstsq(basis, log, rcond=None)[0]
    else:
        n_knots, mean = 1, np.full(len(log), log.mean())
    spread = ((log - mean) ** 2).sum() / (len(log) - n_knots) - polygamma(1, df / 2)
    prior_df = 2 * _inverse_trigamma(float(spread)) if spread > 0 else np.inf
    prior_df = _with_tail(np.maximum(variance, floor) / np.exp(mean), df, prior_df)
    return VariancePrior(np.exp(mean) * _scale(prior_df), prior_df)


def _scale(prior_df: float) -> float:
    """Prior variance divided by exp(mean log variance)."""
    from scipy.special import digamma

    if np.isinf(prior_df):
        return 1.0
    return float(np.exp(digamma(prior_df / 2) - np.log(prior_df / 2)))


def _with_tail(ratio: np.ndarray, df: float, most: float) -> float:
    """Largest prior degrees of freedom that cover the upper quantiles of variance / trend."""
    from scipy.optimize import brentq
    from scipy.stats import chi2, f

    least, prior_df = 0.5, most
    for q, seen in zip(_TAIL, np.quantile(ratio, _TAIL), strict=True):

        def lacks(
            d: float, q: float = q, seen: float = seen
        ) -> float:  # positive where the tail is too light
            quantile = chi2.ppf(q, df) / df if np.isinf(d) else f.ppf(q, df, d)
            return seen - _scale(d) * float(quantile)

        if lacks(prior_df) <= 0:
            continue
        high = min(prior_df, 1e4)
        if lacks(high) <= 0:
            prior_df = high
        elif lacks(least) >= 0:
            return least
        else:
            prior_df = float(brentq(lacks, least, high, xtol=1e-6))
    return prior_df


def moderated_test(
    values: np.ndarray,
    design: np.ndarray,
    contrast: np.ndarray | None = None,
    *,
    trend: bool = True,
    sampling: np.ndarray | None = None,
) -> ModeratedTest:
    """Test a contrast in a linear model of each gene, with variances shrunk toward a trend.

    Parameters
    ----------
    values
        Shape ``(n_samples, n_genes)``, on a scale where effects are additive (such as log).
    design
        Shape ``(n_samples, n_coefficients)``, of full rank.
    contrast
        Weights of the coefficients, shape ``(n_coefficients,)``. ``None``: the last coefficient.
    trend
        Let the prior variance depend on the mean expression of a gene.
    sampling
        Known part of the variance of each value, such as that due to sampling cells, shape
        ``(n_samples, n_genes)``. ``None``: unknown.

    Returns
    -------
    The test. Statistics are NaN for a gene with the same value in all samples.

    Raises
    ------
    ValueError
        If there are no residual degrees of freedom, or the design is not of full rank.

    Notes
    -----
    The variance of a gene is pooled over samples. The samples of a contrast can have a larger sampling
    variance than the pooled residuals, for example if one group has few cells. The difference is then added.
    The variance of a contrast is never below its sampling variance.

    References
    ----------
    Smyth (2004), as for :func:`variance_prior`; Law et al., "voom: precision weights unlock linear
    model analysis tools for RNA-seq read counts", Genome Biology 15 (2014), for the trend.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import moderated_test
    >>> rng = np.random.default_rng(0)
    >>> values = rng.normal(size=(8, 100))
    >>> values[4:, 0] += 5
    >>> design = np.column_stack([np.ones(8), np.repeat([0, 1], 4)])
    >>> test = moderated_test(values, design)
    >>> int(test.p_value.argmin())
    0
    """
    n, n_coefficients = design.shape
    if np.linalg.matrix_rank(design) < n_coefficients:
        raise ValueError(
            f"design must be of full rank, got rank {np.linalg.matrix_rank(design)} with "
            f"{n_coefficients} columns; drop columns that are combinations of others."
        )
    if n <= n_coefficients:
        raise ValueError(
            f"design must have fewer columns than samples, got {n_coefficients} columns for {n} "
            "samples; add samples or drop columns."
        )
    if contrast is not None:  # other coefficients, of which the contrast is the last one
        left = np.arange(n_coefficients) != np.abs(contrast).argmax()
        design = design @ np.linalg.inv(np.vstack([np.eye(n_coefficients)[left], contrast]))
    others, last = design[:, :-1], design[:, -1]
    return LastCoefficient(values, others, trend=trend, sampling=sampling).test(last)


class LastCoefficient:
    """Moderated tests of the last coefficient, for designs that differ in their last column.

    The values and each last column are taken without their parts in the space of the other columns (theorem of
    Frisch, Waugh and Lovell). For values, this is done once, so that tests of permuted labels do not fit the donors.

    Parameters
    ----------
    values, trend, sampling
        As for :func:`moderated_test`.
    others
        The other columns, shape ``(n_samples, n_coefficients - 1)``, of full rank.
    """

    def __init__(
        self,
        values: np.ndarray,
        others: np.ndarray,
        *,
        trend: bool = True,
        sampling: np.ndarray | None = None,
    ):
        self.varies = np.ptp(values, axis=0) > 1e-12 * np.maximum(np.abs(values).max(axis=0), 1e-12)
        values = values[:, self.varies]
        self.df = values.shape[0] - others.shape[1] - 1
        self.mean = values.mean(axis=0) if trend else None
        self.basis = np.linalg.qr(others)[0]
        self.rest = self._without_others(values)
        self.free = 1 - (self.basis**2).sum(axis=1)  # (n_samples,), share that the columns leave
        self.known = None if sampling is None else np.nan_to_num(sampling[:, self.varies])

    def _without_others(self, x: np.ndarray) -> np.ndarray:
        return x - self.basis @ (self.basis.T @ x)

    def test(self, column: np.ndarray) -> ModeratedTest:
        """The test with this last column of the design, shape ``(n_samples,)``."""
        from scipy import stats

        n_genes = len(self.varies)
        t, p_value, sd, whole = (np.full(n_genes, np.nan) for _ in range(4))
        estimate = np.zeros(n_genes)
        if not self.varies.any():
            return ModeratedTest(estimate, t, np.nan, p_value, sd, VariancePrior(whole, np.nan))
        own = self._without_others(column.astype(float))
        scale = own @ own
        effect = own @ self.rest / scale
        variance = ((self.rest - own[:, None] * effect) ** 2).sum(axis=0) / self.df
        prior = variance_prior(variance, self.df, self.mean)
        if np.isinf(prior.df):
            shrunk = prior.variance
        else:
            shrunk = (prior.df * prior.variance + self.df * variance) / (prior.df + self.df)
        if self.known is not None:
            # Mean known variance, weighted by the effect of a sample on the contrast, or on the residuals.
            in_residual = self.free - own**2 / scale
            of_contrast = own**2 @ self.known / scale
            pooled = in_residual @ self.known / in_residual.sum()
            shrunk = np.maximum(shrunk + np.maximum(of_contrast - pooled, 0), of_contrast)
        # The total degrees of freedom cannot exceed the residual degrees of freedom of all genes.
        total = min(self.df + prior.df, self.df * int(self.varies.sum()))
        estimate[self.varies] = effect
        sd[self.varies] = np.sqrt(np.maximum(shrunk, np.finfo(float).tiny))
        t[self.varies] = effect / (sd[self.varies] / np.sqrt(scale))
        p_value[self.varies] = 2 * stats.t.sf(np.abs(t[self.varies]), total)
        whole[self.varies] = prior.variance
        return ModeratedTest(estimate, t, float(total), p_value, sd, VariancePrior(whole, prior.df))


def _natural_spline(x: np.ndarray, n_knots: int) -> np.ndarray:
    """Basis of natural cubic splines with knots at quantiles, shape ``(len(x), n_knots)``."""
    from scipy.interpolate import CubicSpline

    knots = np.unique(np.quantile(x, np.linspace(0, 1, n_knots)))
    if len(knots) < 3:  # a straight line
        return np.column_stack([np.ones(len(x)), x - x.mean()])
    return CubicSpline(knots, np.eye(len(knots)), bc_type="natural")(x)


def _inverse_trigamma(y: float) -> float:
    """Solve trigamma(x) = y for x by Newton's method on 1 / trigamma."""
    from scipy.special import polygamma

    x = 0.5 + 1 / y  # from below, where the iteration is monotone
    for _ in range(50):
        value = float(polygamma(1, x))
        step = value * (1 - value / y) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
