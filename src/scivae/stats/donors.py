"""Differences between two groups, with donors as replicates. Arrays in, tables out.

Cells of one donor are correlated, so they are not independent replicates. Counts are summed within
each donor and group (a *sample*), and samples are compared: within donors if donors have both
groups, between donors otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from .._validate.arguments import check_choice
from .moderated import (
    moderated_test,
)
from .pseudobulk import log_cpm, prior_count

METHODS = ("moderated", "deseq2")
# Fewest donors with both groups, or fewest donors in each group, for a test between donors.
MIN_DONORS = 3
# Fewest counts of a gene over all samples, and in a sample of a group of few cells, for a test.
MIN_COUNT = 10


class DonorDesign(NamedTuple):
    """Samples of a comparison, and whether donors are compared with themselves or with each other.

    Attributes
    ----------
    kind
        ``"paired"``, ``"unpaired"``, or ``"too few"`` if there are too few donors for a test.
    samples
        Indices of the samples that are compared, shape ``(n_used,)``.
    donor
        Donor codes of these samples.
    target
        Which of these samples belong to the target group.
    n_donors
        If paired, the number of donors with both groups; otherwise the numbers of donors with
        source and with target.

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
        """Design matrix of a linear model whose last coefficient is target minus source."""
        target = self.target.astype(float)[:, None]
        if self.kind == "paired":
            return np.hstack([(self.donor[:, None] == np.unique(self.donor)).astype(float), target])
        return np.hstack([np.ones_like(target), target])


class DonorTest(NamedTuple):
    """Test between donors for each gene; arrays of shape ``(n_genes,)``.

    Attributes
    ----------
    design
        The samples that were compared.
    method
        ``"moderated"`` or ``"deseq2"``.
    estimate
        Target minus source: log2 fold change for counts, otherwise in the units of the values.
    statistic
        Estimate divided by its standard error.
    z
        Standard normal quantile of the p-value, with the sign of the estimate.
    p_value
        Two-sided p-value; NaN for a gene that is not tested.
    """

    design: DonorDesign
    method: str
    estimate: np.ndarray
    statistic: np.ndarray
    z: np.ndarray
    p_value: np.ndarray


def donor_design(donor: np.ndarray, target: np.ndarray) -> DonorDesign:
    """Choose between a paired (within donors) and an unpaired (between donors) design.

    The design is paired if at least three donors have both groups; donors with only one group are
    then left out. Otherwise it is unpaired, if each group has at least three donors. A donor with
    both groups is then used in both, which makes the test conservative: its two samples are
    correlated, and the test treats them as independent.

    Parameters
    ----------
    donor
        Donor code of each sample, shape ``(n_samples,)``. A donor has at most one sample per group.
    target
        Which samples belong to the target group.

    Raises
    ------
    ValueError
        If a donor has several samples in the same group.

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
                "each donor must have at most one sample per group, got a donor with several; "
                "sum them first."
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
    """Test every gene for a difference between two groups, with donors as replicates.

    Parameters
    ----------
    values
        Summed counts or mean values of each sample. Shape ``(n_samples, n_genes)``.
    totals
        Total counts of each sample, shape ``(n_samples,)``. ``None``: the values are not counts.
    donor, target
        As for :func:`donor_design`.
    method
        ``"moderated"``: a moderated t-test on log2 counts per million (:func:`log_cpm`), with donor
        effects in a paired design. ``"deseq2"``: negative binomial regression by PyDESeq2, with the
        same effects.
    cell_variance
        Variance of each value due to sampling cells (``SampleSums.variance``), shape ``(n_samples,
        n_genes)``. The moderated test takes into account that samples of few cells vary more.
        ``None``: the values of all samples are equally precise.

    Returns
    -------
    The test. Genes that :func:`testable` leaves out have NaN.

    Notes
    -----
    The moderated test is the default because it controls false positives even if genes differ in
    how much they vary between donors. With three donors per group, PyDESeq2 often calls genes in
    such data although nothing differs. If all genes vary to the same degree, both tests have the
    same power. No test is safe if one group has few donors that vary much more than those of the other.

    Raises
    ------
    ImportError
        If ``method="deseq2"`` and PyDESeq2 is not installed.
    ValueError
        If there are too few donors, or ``method="deseq2"`` and the values are not counts.

    References
    ----------
    Squair et al., "Confronting false discoveries in single-cell differential expression", Nature
    Communications 12 (2021), for donors as replicates; Smyth (2004) for the moderated test; Love,
    Huber and Anders, "Moderated estimation of fold change and dispersion for RNA-seq data with
    DESeq2", Genome Biology 15 (2014), and Muzellec et al., "PyDESeq2: a python package for bulk
    RNA-seq differential expression analysis", Bioinformatics 39 (2023).

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
            f"a test between donors must have at least {MIN_DONORS} donors with both groups, or "
            f"{MIN_DONORS} in each group, got {design.n_donors[0]} and {design.n_donors[1]}; add "
            "donors, or compare cells with permutation_test."
        )
    check_choice("method", method, METHODS)
    if method == "deseq2" and totals is None:
        raise ValueError(
            "method must be 'moderated' for values that are not counts, got 'deseq2'; pass totals "
            "if the values are counts."
        )
    used = values[design.samples]
    tested = testable(values, totals, design)
    estimate, statistic, p_value = (np.full(values.shape[1], np.nan) for _ in range(3))
    if tested.any():
        if method == "deseq2":
            found = _deseq2(used[:, tested], design)
        else:
            y = on_log_scale(used, totals, design)[:, tested]
            sampling = sampling_variance(values, totals, cell_variance, design)
            sampling = None if sampling is None else sampling[:, tested]
            test = moderated_test(y, design.matrix, sampling=sampling)
            found = test.estimate, test.t, test.p_value
        estimate[tested], statistic[tested], p_value[tested] = found
    with np.errstate(invalid="ignore"):
        z = np.sign(statistic) * stats.norm.isf(np.maximum(p_value, 1e-300) / 2)
    return DonorTest(design, method, estimate, statistic, z, p_value)


def on_log_scale(values: np.ndarray, totals: np.ndarray | None, design: DonorDesign) -> np.ndarray:
    """Compute log2 counts per million of the samples in a design.

    Values that are not counts are returned as they are.

    Parameters
    ----------
    values
        Values of the samples in the design, shape ``(n_used, n_genes)``.
    totals
        Total counts of all samples, shape ``(n_samples,)``. ``None``: the values are not counts.
    design
        From :func:`donor_design`.
    """
    return values if totals is None else log_cpm(values, totals[design.samples])


def testable(values: np.ndarray, totals: np.ndarray | None, design: DonorDesign) -> np.ndarray:
    """Which genes have enough counts for a test, shape ``(n_genes,)``.

    Parameters
    ----------
    values
        Values of all samples, shape ``(n_samples, n_genes)``, as for :func:`donor_test`.
    totals
        Total counts of all samples, shape ``(n_samples,)``. ``None``: the values are not counts.
    design
        From :func:`donor_design`.

    Notes
    -----
    If the values are not counts, all genes with finite values are tested. Otherwise a gene needs 10 counts in
    all, and counts in at least as many samples as the smaller group has. If the samples of one group have r
    times fewer counts than those of the other, a gene also needs :math:`10 (1 - 1/r)` expected counts in each
    of them (harmonic mean). The mean logarithm of few counts is too low, which would look like a difference.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import donor_design, testable
    >>> design = donor_design(np.arange(6), np.repeat([False, True], 3))
    >>> counts = np.array([[180.0, 20.0]] * 3 + [[18.0, 2.0]] * 3)
    >>> testable(counts, counts.sum(axis=1), design)
    array([ True, False])
    """
    used = values[design.samples]
    enough = np.isfinite(used).all(axis=0)
    if totals is None:
        return enough
    total, target = np.maximum(totals[design.samples], 1.0), design.target
    smaller = min(target.sum(), (~target).sum())
    enough &= (used.sum(axis=0) >= MIN_COUNT) & ((used > 0).sum(axis=0) >= smaller)
    low, high = sorted(1 / (1 / total[side]).mean() for side in (target, ~target))
    expected = used.sum(axis=0) / total.sum() * low
    return enough & (expected >= MIN_COUNT * (1 - low / high))


def sampling_variance(
    values: np.ndarray,
    totals: np.ndarray | None,
    cell_variance: np.ndarray | None,
    design: DonorDesign,
) -> np.ndarray | None:
    """Variance of each value due to sampling cells, on the scale of the moderated test.

    The variance of a count is at least its mean (the variance of a Poisson count), which is estimated
    from all samples, as if the groups did not differ.

    Parameters
    ----------
    values, totals, cell_variance
        Values of all samples, as for :func:`donor_test`.
    design
        From :func:`donor_design`.
    """
    if cell_variance is None:
        return None
    own = cell_variance[design.samples]
    if totals is None:
        return own
    total = np.maximum(totals[design.samples], 1.0)[:, None]
    mean = values[design.samples].sum(axis=0) / total.sum() * total
    prior = prior_count(total)
    # delta method: Var(log x) ≈ Var(x) / x²
    return np.maximum(own, mean) / ((mean + prior) * np.log(2)) ** 2


def _deseq2(counts: np.ndarray, design: DonorDesign) -> tuple[np.ndarray, ...]:
    """Log2 fold change, Wald statistic and p-value from PyDESeq2."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pydeseq2.dds import DeseqDataSet
            from pydeseq2.default_inference import DefaultInference
            from pydeseq2.ds import DeseqStats
    except ImportError as error:
        raise ImportError(
            "method='deseq2' needs pydeseq2, which is not installed; run pip install pydeseq2, or "
            "use method='moderated'."
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
        warnings.simplefilter("ignore")  # about fallback fits, and from pandas
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
    """Target minus source for each donor with both groups, shape ``(n_donors, n_genes)``.

    Parameters
    ----------
    values
        Values of the samples of the design, shape ``(n_used, n_genes)``, on a scale on which effects add up.
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
