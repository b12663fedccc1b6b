"""Differences between two groups with donors as the units. Arrays in, tables out.

Cells of one donor resemble each other, so they are no independent observations of a condition. Counts
are summed within each donor and group (a *sample*), and samples are compared: within donors where a
donor has both groups, between donors otherwise.
"""

from __future__ import annotations

from itertools import combinations, product
from math import comb
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

METHODS = ("moderated", "deseq2")
# Donors with both groups, or donors on each side, below which there is no test between donors.
MIN_DONORS = 3
# Counts of a gene over all samples below which its logarithms are mostly rounding.
MIN_COUNT = 10
# Added to a count before the logarithm, in a sample of mean library size (as limma and edgeR do).
PRIOR_COUNT = 2.0
# Assignments of donors below which their permutation could not reach 5 %.
MIN_PERMUTATIONS = 20
_MAX_PERMUTATIONS = 200
_TREND_KNOTS = 4
# Genes below which too little is known of how variances differ between genes.
_MIN_GENES = 10
# Quantiles at which the prior must allow for variances as large as are seen.
_TAIL = (0.9, 0.95, 0.99, 0.995)


class VariancePrior(NamedTuple):
    """Distribution of the variances of genes: ``variance · df / χ²(df)``.

    Attributes
    ----------
    variance
        Prior variance of each gene, shape ``(n_genes,)``.
    df
        Degrees of freedom; infinite where genes differ in variance no more than by chance.
    """

    variance: np.ndarray
    df: float


class ModeratedTest(NamedTuple):
    """A contrast of each gene, over a standard error that borrows from other genes.

    Attributes
    ----------
    estimate
        The contrast, shape ``(n_genes,)``.
    t
        Estimate over its standard error.
    df
        Degrees of freedom of t.
    p_value
        Two-sided.
    sd
        Standard deviation of a sample, shrunk.
    prior
        What was borrowed.
    """

    estimate: np.ndarray
    t: np.ndarray
    df: float
    p_value: np.ndarray
    sd: np.ndarray
    prior: VariancePrior


class SignTest(NamedTuple):
    """How many donors differ in the direction of most.

    Attributes
    ----------
    agreement
        Proportion of the donors that differ at all, shape ``(n_genes,)``; NaN where none does.
    p_value
        Two-sided, of the binomial distribution with probability 1/2.
    """

    agreement: np.ndarray
    p_value: np.ndarray


class DonorPermutation(NamedTuple):
    """How many genes are called once the groups of the donors are exchanged.

    Attributes
    ----------
    called
        Genes at the level with the groups as they are.
    permuted
        The same for each other assignment, shape ``(n_permutations,)``.
    p_value
        Proportion of the assignments, the true one included, with at least as many genes.
    """

    called: int
    permuted: np.ndarray
    p_value: float


def sum_by(values: Any, codes: np.ndarray, n: int) -> np.ndarray:
    """Sum rows by code.

    Parameters
    ----------
    values
        Dense or sparse, shape ``(n_rows, n_columns)``.
    codes
        Code of each row, from 0 to ``n - 1``; rows of code -1 are left out.
    n
        Number of codes.

    Returns
    -------
    Shape ``(n, n_columns)``, double precision.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import sum_by
    >>> sum_by(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1]), 2)
    array([[3., 4.],
           [6., 8.]])
    """
    from scipy import sparse

    rows = np.flatnonzero(codes >= 0)
    shape = (n, len(codes))
    members = sparse.csr_matrix((np.ones(len(rows)), (codes[rows], rows)), shape=shape)
    out = members @ values
    return out.toarray() if sparse.issparse(out) else np.asarray(out)


class SampleSums(NamedTuple):
    """Sums over the cells of each sample, which add up over blocks of cells.

    Attributes
    ----------
    values
        Of the values, shape ``(n_samples, n_genes)``.
    squares
        Of their squares.
    crossed
        Of the values times the size of the cell.
    size, size_squared
        Of the sizes of the cells and of their squares, shape ``(n_samples, 1)``.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import SampleSums
    >>> sums = SampleSums.of(np.array([[1.0], [3.0]]), np.array([0, 0]), 1, np.array([4.0, 4.0]))
    >>> sums.variance
    array([[2.]])
    """

    values: np.ndarray
    squares: np.ndarray
    crossed: np.ndarray
    size: np.ndarray
    size_squared: np.ndarray

    @classmethod
    def of(cls, values: Any, codes: np.ndarray, n: int, size: np.ndarray) -> SampleSums:
        """Sum the cells of each sample.

        Parameters
        ----------
        values
            Dense or sparse, shape ``(n_cells, n_genes)``.
        codes
            Code of the sample of each cell, from 0 to ``n - 1``; -1 for none.
        n
            Number of samples.
        size
            Counts of each cell over all genes, of which a gene is expected to have its part; ones for
            values that are no counts. Shape ``(n_cells,)``.
        """
        from scipy import sparse

        if sparse.issparse(values):
            values = sparse.csr_array(values, dtype=np.float64)
            squares, crossed = values.power(2), sparse.diags_array(size) @ values
        else:
            values = np.asarray(values, dtype=np.float64)
            squares, crossed = values**2, values * size[:, None]
        sizes = np.column_stack([size, size**2])
        total = sum_by(sizes, codes, n)
        return cls(
            sum_by(values, codes, n),
            sum_by(squares, codes, n),
            sum_by(crossed, codes, n),
            total[:, :1],
            total[:, 1:],
        )

    def plus(self, other: SampleSums) -> SampleSums:
        """Sums of two blocks of cells.

        Parameters
        ----------
        other
            Sums of other cells, of the same genes and samples.
        """
        return SampleSums(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def variance(self) -> np.ndarray:
        """Variance of the sums due to which cells were measured, shape ``(n_samples, n_genes)``.

        The sum of the squared differences of cells from what their size lets expect.
        """
        rate = self.values / np.maximum(self.size, 1e-300)
        out = self.squares - 2 * rate * self.crossed + rate**2 * self.size_squared
        return np.maximum(out, 0)


def size_factors(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Size of each sample: the median ratio of its counts to the geometric mean of all samples.

    Parameters
    ----------
    counts
        Shape ``(n_samples, n_genes)``.
    totals
        Counts of each sample over all genes, shape ``(n_samples,)``: used in place of the ratios where
        fewer than 20 genes have counts in every sample.

    Returns
    -------
    Shape ``(n_samples,)``, with geometric mean 1.

    References
    ----------
    Anders and Huber, "Differential expression analysis for sequence count data", Genome Biology 11
    (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import size_factors
    >>> counts = np.outer([1, 2, 4], np.arange(1, 31))
    >>> size_factors(counts, counts.sum(axis=1))
    array([0.5, 1. , 2. ])
    """
    present = (counts > 0).all(axis=0)
    if present.sum() >= 20:
        log = np.log(counts[:, present])
        factors = np.exp(np.median(log - log.mean(axis=0), axis=1))
    else:
        factors = np.maximum(totals, 1.0)
    return factors / np.exp(np.log(factors).mean())


def log_cpm(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """log2 of counts per million, corrected for composition, with a prior count of 2.

    Parameters
    ----------
    counts
        Shape ``(n_samples, n_genes)``.
    totals
        Counts of each sample over all genes, shape ``(n_samples,)``.

    Returns
    -------
    Shape ``(n_samples, n_genes)``. The prior count grows with the size of a sample, so that a gene
    without counts is equal in all samples.

    References
    ----------
    Robinson, McCarthy and Smyth, "edgeR: a Bioconductor package for differential expression analysis
    of digital gene expression data", Bioinformatics 26 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import log_cpm
    >>> log_cpm(np.array([[0.0, 10.0], [0.0, 20.0]]), np.array([1e6, 2e6])).round(2)
    array([[0.42, 3.5 ],
           [0.42, 3.5 ]])
    """
    factors = size_factors(counts, totals)
    size = factors * np.exp(np.log(np.maximum(totals, 1.0)).mean())
    prior = PRIOR_COUNT * size / size.mean()
    return np.log2((counts + prior[:, None]) / (size + 2 * prior)[:, None] * 1e6)


def variance_prior(
    variance: np.ndarray, df: float, covariate: np.ndarray | None = None
) -> VariancePrior:
    """Distribution of true variances, from the sample variances of many genes.

    Parameters
    ----------
    variance
        Sample variances, shape ``(n_genes,)``.
    df
        Degrees of freedom of each.
    covariate
        Mean expression of each gene, with which the prior variance may change smoothly (a natural
        cubic spline); ``None``: one prior variance for all.

    Returns
    -------
    The prior. Its moments are those of the logarithms of the variances, but ``df`` is lowered until the
    90, 95, 99 and 99.5 % quantiles are as large as those of the variances: real genes have heavier tails
    than moments tell, and genes that vary a lot would be called too often. With fewer than 10 genes
    nothing is borrowed (``df`` is 0).

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
    # A variance of zero has no logarithm: it is raised to far below what is usual, as in limma.
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
    """Prior variance over the exponential of the mean logarithm."""
    from scipy.special import digamma

    if np.isinf(prior_df):
        return 1.0
    return float(np.exp(digamma(prior_df / 2) - np.log(prior_df / 2)))


def _with_tail(ratio: np.ndarray, df: float, most: float) -> float:
    """Largest degrees of freedom that allow for the largest ratios of variances to their trend."""
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
    contrast: np.ndarray,
    *,
    trend: bool = True,
    least: np.ndarray | None = None,
) -> ModeratedTest:
    """Test a contrast of a linear model of each gene, with variances shrunk towards their trend.

    Parameters
    ----------
    values
        Shape ``(n_samples, n_genes)``, on a scale on which effects add up.
    design
        Shape ``(n_samples, n_coefficients)``, of full rank.
    contrast
        Weights of the coefficients, shape ``(n_coefficients,)``.
    trend
        Let the prior variance change with the mean of a gene.
    least
        What the variance of each gene is at least, shape ``(n_genes,)``, such as that between the cells
        of a sample; ``None``: zero.

    Returns
    -------
    The test: NaN for a gene that is equal in all samples.

    Raises
    ------
    ValueError
        If no degree of freedom is left for the variance, or the design is not of full rank.

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
    >>> test = moderated_test(values, design, np.array([0, 1]))
    >>> int(test.p_value.argmin())
    0
    """
    from scipy import stats

    n, n_coefficients = design.shape
    df = n - n_coefficients
    if np.linalg.matrix_rank(design) < n_coefficients:
        raise ValueError(
            f"design must be of full rank, but its {n_coefficients} columns have rank "
            f"{np.linalg.matrix_rank(design)}; drop the columns that follow from others."
        )
    if df < 1:
        raise ValueError(
            f"design must leave degrees of freedom for the variance, but has {n_coefficients} columns "
            f"for {n} samples; add samples or drop columns."
        )
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values  # (n_coefficients, n_genes)
    residual = ((values - design @ coefficients) ** 2).sum(axis=0)
    varies = np.ptp(values, axis=0) > 1e-12 * np.maximum(np.abs(values).max(axis=0), 1e-12)
    estimate = np.where(varies, contrast @ coefficients, 0.0)
    t, p_value, sd, whole = (np.full(values.shape[1], np.nan) for _ in range(4))
    if not varies.any():
        return ModeratedTest(estimate, t, np.nan, p_value, sd, VariancePrior(whole, np.nan))
    variance = residual[varies] / df
    prior = variance_prior(variance, df, values.mean(axis=0)[varies] if trend else None)
    if np.isinf(prior.df):
        shrunk = prior.variance
    else:
        shrunk = (prior.df * prior.variance + df * variance) / (prior.df + df)
    if least is not None:
        shrunk = np.maximum(shrunk, np.nan_to_num(least[varies]))
    # Borrowed degrees of freedom are at most those that all genes have together.
    total = min(df + prior.df, df * int(varies.sum()))
    sd[varies] = np.sqrt(np.maximum(shrunk, np.finfo(float).tiny))
    t[varies] = estimate[varies] / (sd[varies] * np.sqrt(contrast @ inverse @ contrast))
    p_value[varies] = 2 * stats.t.sf(np.abs(t[varies]), total)
    whole[varies] = prior.variance
    return ModeratedTest(estimate, t, float(total), p_value, sd, VariancePrior(whole, prior.df))


class DonorDesign(NamedTuple):
    """Which samples are compared, and how.

    Attributes
    ----------
    kind
        ``"paired"``, ``"unpaired"``, or ``"too few"`` where donors are too few for a test.
    samples
        Positions of the samples that are compared, shape ``(n_used,)``.
    donor
        Codes of their donors.
    target
        Which of them are targets.
    n_donors
        Donors with both groups where these are paired, else donors with source and with target.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import donor_design
    >>> donor_design(np.array([0, 1, 2, 0, 1, 2]), np.repeat([False, True], 3)).matrix.shape
    (6, 4)
    """

    kind: str
    samples: np.ndarray
    donor: np.ndarray
    target: np.ndarray
    n_donors: tuple[int, ...]

    @property
    def matrix(self) -> np.ndarray:
        """Design of a linear model whose last coefficient is the difference, target minus source."""
        target = self.target.astype(float)[:, None]
        if self.kind == "paired":
            return np.hstack([(self.donor[:, None] == np.unique(self.donor)).astype(float), target])
        return np.hstack([np.ones_like(target), target])


class DonorTest(NamedTuple):
    """Differences between two groups, tested between donors; arrays of shape ``(n_genes,)``.

    Attributes
    ----------
    design
        What was compared.
    method
        ``"moderated"`` or ``"deseq2"``.
    estimate
        Target minus source: log2 fold change for counts, else in the units of the values.
    statistic
        Estimate over its standard error.
    z
        Normal quantile of the p-value, with the sign of the estimate.
    p_value
        Two-sided; NaN for a gene that is not tested.
    """

    design: DonorDesign
    method: str
    estimate: np.ndarray
    statistic: np.ndarray
    z: np.ndarray
    p_value: np.ndarray


def donor_design(donor: np.ndarray, target: np.ndarray) -> DonorDesign:
    """Choose between pairs within donors and groups of donors.

    Pairs are used where at least three donors have both groups; donors with one group are then left out.
    Otherwise all donors are used if there are at least three on each side. A donor on both sides then
    counts on both, which makes the test conservative: its samples resemble each other, which the
    variance between donors does not allow for.

    Parameters
    ----------
    donor
        Code of the donor of each sample, shape ``(n_samples,)``; a donor has at most one sample in
        each group.
    target
        Which samples are of the target group.

    Raises
    ------
    ValueError
        If a donor has several samples in a group.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import donor_design
    >>> donor_design(np.array([0, 1, 2, 0, 1, 2, 3]), np.repeat([False, True], [3, 4])).n_donors
    (3,)
    >>> donor_design(np.array([0, 1, 2, 3]), np.repeat([False, True], 2)).kind
    'too few'
    """
    sides = [donor[~target], donor[target]]
    for side in sides:
        if len(np.unique(side)) < len(side):
            raise ValueError(
                "each donor must have one sample a group, but a donor has several; sum them first."
            )
    both = np.intersect1d(*sides)
    if len(both) >= MIN_DONORS:
        samples = np.flatnonzero(np.isin(donor, both))
        return DonorDesign("paired", samples, donor[samples], target[samples], (len(both),))
    kind = "unpaired" if min(map(len, sides)) >= MIN_DONORS else "too few"
    samples = np.arange(len(donor))
    return DonorDesign(kind, samples, donor, target, (len(sides[0]), len(sides[1])))


def donor_test(
    values: np.ndarray,
    totals: np.ndarray | None,
    donor: np.ndarray,
    target: np.ndarray,
    *,
    method: str = "moderated",
    cell_variance: np.ndarray | None = None,
) -> DonorTest:
    """Test every gene for a difference between two groups, with donors as the units.

    Parameters
    ----------
    values
        Sums of counts, or mean values, of each sample. Shape ``(n_samples, n_genes)``.
    totals
        Counts of each sample over all genes, shape ``(n_samples,)``; ``None``: the values are no
        counts.
    donor, target
        As for :func:`donor_design`.
    method
        ``"moderated"``: a moderated t-test of log2 counts per million (:func:`log_cpm`), with the
        donors as effects where they are paired. ``"deseq2"``: negative binomial regression by
        PyDESeq2, with the same effects.
    cell_variance
        Variance of each value due to its cells (``SampleSums.variance``), shape
        ``(n_samples, n_genes)``. The moderated test takes no gene to vary less between samples than
        its cells say; ``None``: it does not know.

    Returns
    -------
    The test. Genes with fewer than 10 counts, or with counts in fewer samples than the smaller group
    has, are not tested.

    Notes
    -----
    The moderated test is the default because it keeps its level where genes differ in how much they
    vary between donors: with three donors a side, PyDESeq2 then calls genes in four of ten runs in which
    nothing differs. Where all genes vary alike, both have the same power at the same level.

    Raises
    ------
    ImportError
        If PyDESeq2 is asked for and not installed.
    ValueError
        If donors are too few, or ``"deseq2"`` is asked for values that are no counts.

    References
    ----------
    Squair et al., "Confronting false discoveries in single-cell differential expression", Nature
    Communications 12 (2021), for the units; Smyth (2004) for the moderated test; Love, Huber and
    Anders, "Moderated estimation of fold change and dispersion for RNA-seq data with DESeq2", Genome
    Biology 15 (2014), and Muzellec et al., "PyDESeq2: a python package for bulk RNA-seq differential
    expression analysis", Bioinformatics 39 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import donor_test
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(50, size=(8, 100)).astype(float)
    >>> counts[4:, 0] *= 4
    >>> test = donor_test(counts, counts.sum(axis=1), np.tile(range(4), 2), np.repeat([False, True], 4))
    >>> test.design.kind, test.method, int(test.p_value.argmin())
    ('paired', 'moderated', 0)
    """
    from scipy import stats

    design = donor_design(donor, target)
    if design.kind == "too few":
        raise ValueError(
            f"a test between donors needs at least {MIN_DONORS} donors with both groups, or "
            f"{MIN_DONORS} on each side, got {design.n_donors[0]} and {design.n_donors[1]}."
        )
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    if method == "deseq2" and totals is None:
        raise ValueError("method='deseq2' needs counts; use 'moderated' for other values.")
    used = values[design.samples]
    tested = np.isfinite(used).all(axis=0)
    if totals is not None:
        smaller = min(design.target.sum(), (~design.target).sum())
        tested &= (used.sum(axis=0) >= MIN_COUNT) & ((used > 0).sum(axis=0) >= smaller)
    estimate, statistic, p_value = (np.full(values.shape[1], np.nan) for _ in range(3))
    if tested.any():
        if method == "deseq2":
            found = _deseq2(used[:, tested], design)
        else:
            y = on_log_scale(used, totals, design)[:, tested]
            least = least_variance(values, totals, cell_variance, design)
            found = _last_coefficient(y, design.matrix, None if least is None else least[tested])
        estimate[tested], statistic[tested], p_value[tested] = found
    with np.errstate(invalid="ignore"):
        z = np.sign(statistic) * stats.norm.isf(np.maximum(p_value, 1e-300) / 2)
    return DonorTest(design, method, estimate, statistic, z, p_value)


def on_log_scale(values: np.ndarray, totals: np.ndarray | None, design: DonorDesign) -> np.ndarray:
    """Values of the samples of a design on the scale of the moderated test.

    Parameters
    ----------
    values
        Of these samples, shape ``(n_used, n_genes)``.
    totals
        Of all samples, as for :func:`donor_test`.
    design
        From :func:`donor_design`.
    """
    return values if totals is None else log_cpm(values, totals[design.samples])


def least_variance(
    values: np.ndarray,
    totals: np.ndarray | None,
    cell_variance: np.ndarray | None,
    design: DonorDesign,
) -> np.ndarray | None:
    """Variance of each gene on the scale of the moderated test that cells alone make.

    Parameters
    ----------
    values, totals, cell_variance
        Of all samples, as for :func:`donor_test`.
    design
        From :func:`donor_design`.
    """
    if cell_variance is None:
        return None
    own = cell_variance[design.samples]
    if totals is not None:  # of a logarithm: that of the sum over its square
        own = own / ((values[design.samples] + PRIOR_COUNT) * np.log(2)) ** 2
    return own.mean(axis=0)


def _last_coefficient(
    y: np.ndarray, matrix: np.ndarray, least: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """Estimate, t and p-value of the last coefficient of a design."""
    contrast = np.zeros(matrix.shape[1])
    contrast[-1] = 1
    test = moderated_test(y, matrix, contrast, least=least)
    return test.estimate, test.t, test.p_value


def _deseq2(counts: np.ndarray, design: DonorDesign) -> tuple[np.ndarray, ...]:
    """Log2 fold change, Wald statistic and p-value by PyDESeq2."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pydeseq2.dds import DeseqDataSet
            from pydeseq2.default_inference import DefaultInference
            from pydeseq2.ds import DeseqStats
    except ImportError as error:
        raise ImportError(
            "the negative binomial test between donors needs pydeseq2, which is not installed; pip "
            "install pydeseq2, or use the moderated test."
        ) from error
    names = [f"sample_{i}" for i in range(len(counts))]
    table = pd.DataFrame(
        np.rint(counts).astype(int), index=names, columns=[f"g{i}" for i in range(counts.shape[1])]
    )
    samples = pd.DataFrame(
        {
            "group": np.where(design.target, "target", "source"),
            "donor": [f"d{code}" for code in design.donor],
        },
        index=names,
    )
    formula = "~donor + group" if design.kind == "paired" else "~group"
    inference = DefaultInference(n_cpus=1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of fits that fall back on another method, and of pandas
        data = DeseqDataSet(
            counts=table, metadata=samples, design=formula, quiet=True, inference=inference
        )
        data.deseq2()
        found = DeseqStats(
            data, contrast=["group", "target", "source"], quiet=True, inference=inference
        )
        found.summary()
    results = found.results_df
    return tuple(results[c].to_numpy(dtype=float) for c in ("log2FoldChange", "stat", "pvalue"))


def differences_of_donors(values: np.ndarray, design: DonorDesign) -> np.ndarray:
    """Target minus source of each donor that has both, shape ``(n_donors, n_genes)``.

    Parameters
    ----------
    values
        Of the samples of the design, shape ``(n_used, n_genes)``, on a scale on which effects add up.
    design
        From :func:`donor_design`.
    """
    both = np.intersect1d(design.donor[design.target], design.donor[~design.target])
    rows = [
        np.flatnonzero((design.donor == code) & (design.target == side))[0]
        for side in (True, False)
        for code in both
    ]
    return values[rows[: len(both)]] - values[rows[len(both) :]]


def sign_test(differences: np.ndarray) -> SignTest:
    """Test whether donors differ in one direction.

    Parameters
    ----------
    differences
        Of each donor, shape ``(n_donors, n_genes)``. A difference of zero counts for neither side.

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
    """P-value of two differences of one sign: both must be there.

    A gene is transient only if it differs from both ends in the same direction. Neither test needs a
    correction, since each must reject (Berger).

    Parameters
    ----------
    first, second
        The differences, shape ``(n_genes,)``.
    p_first, p_second
        Their two-sided p-values.

    Returns
    -------
    The larger p-value where the signs agree, else 1; NaN where one is not tested.

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
    """Adjust the p-values of tested genes by Benjamini and Hochberg's method.

    Parameters
    ----------
    p_value
        Shape ``(n_genes,)``; NaN for a gene that is not tested, which stays NaN.

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


def permute_donors(
    values: np.ndarray,
    design: DonorDesign,
    *,
    level: float = 0.05,
    least: np.ndarray | None = None,
    seed: int = 0,
) -> DonorPermutation | None:
    """Check a result by exchanging the groups of donors.

    The moderated test is repeated for other assignments of the groups: exchanged within some donors
    where these are paired, other donors on each side otherwise. If nothing differs, the true assignment
    calls no more genes than the others.

    Parameters
    ----------
    values
        Of the samples of the design, shape ``(n_used, n_genes)``, on a scale on which effects add up.
    design
        From :func:`donor_design`.
    level
        False discovery rate at which a gene is called.
    least
        As for :func:`moderated_test`.
    seed
        Seed of the choice of 200 assignments, where there are more.

    Returns
    -------
    Genes called; ``None`` where there are fewer than 20 assignments, of which no proportion would mean
    much: five pairs, or three donors against three.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import donor_design, permute_donors
    >>> rng = np.random.default_rng(0)
    >>> values = rng.normal(size=(16, 200))
    >>> values[8:, :20] += 4
    >>> design = donor_design(np.tile(range(8), 2), np.repeat([False, True], 8))
    >>> check = permute_donors(values, design)
    >>> check.called >= 20, int(np.median(check.permuted)), len(check.permuted)
    (True, 0, 127)
    """
    rng = np.random.default_rng(seed)
    others = _other_assignments(design, rng)
    if others is None:
        return None
    called = []
    for target in [design.target, *others]:
        matrix = design._replace(target=target).matrix
        p_value = _last_coefficient(values, matrix, least)[2]
        called.append(int((false_discovery_rate(p_value) <= level).sum()))
    permuted = np.array(called[1:])
    p_value = (1 + (permuted >= called[0]).sum()) / (1 + len(permuted))
    return DonorPermutation(called[0], permuted, float(p_value))


def _other_assignments(design: DonorDesign, rng: np.random.Generator) -> list[np.ndarray] | None:
    """Other targets than the true ones; ``None`` where there are too few.

    To exchange all pairs, or both sides of equal size, would only turn every sign.
    """
    target = design.target
    if design.kind == "paired":
        donors = np.unique(design.donor)
        n_all = 2 ** (len(donors) - 1)
        if n_all < MIN_PERMUTATIONS:
            return None
        if n_all - 1 <= _MAX_PERMUTATIONS:
            flips = np.array(list(product([False, True], repeat=len(donors) - 1)))[1:]
            flips = np.hstack([np.zeros((len(flips), 1), dtype=bool), flips])
        else:
            flips = rng.random((_MAX_PERMUTATIONS, len(donors))) < 0.5
        return [target ^ np.isin(design.donor, donors[flip]) for flip in flips]
    n, n_target = len(target), int(target.sum())
    halves = 2 * n_target == n
    n_all = comb(n, n_target) // (2 if halves else 1)
    if n_all < MIN_PERMUTATIONS:
        return None
    if n_all - 1 <= _MAX_PERMUTATIONS:
        chosen = [
            np.isin(np.arange(n), c)
            for c in combinations(range(n), n_target)
            if not halves or c[0] == 0
        ]
        return [c for c in chosen if (c != target).any() and (~c != target).any()]
    return [rng.permutation(target) for _ in range(_MAX_PERMUTATIONS)]


def _natural_spline(x: np.ndarray, n_knots: int) -> np.ndarray:
    """Basis of natural cubic splines with knots at quantiles, shape ``(len(x), n_knots)``."""
    from scipy.interpolate import CubicSpline

    knots = np.unique(np.quantile(x, np.linspace(0, 1, n_knots)))
    if len(knots) < 3:  # a straight line
        return np.column_stack([np.ones(len(x)), x - x.mean()])
    return CubicSpline(knots, np.eye(len(knots)), bc_type="natural")(x)


def _inverse_trigamma(y: float) -> float:
    """The x at which the trigamma function is y, by Newton's method on its reciprocal."""
    from scipy.special import polygamma

    x = 0.5 + 1 / y  # from below, where the iteration is monotone
    for _ in range(50):
        value = float(polygamma(1, x))
        step = value * (1 - value / y) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
