"""Differences between two groups with donors as the units. Arrays in, tables out.

Cells of one donor resemble each other, so they are no independent observations of a condition. Counts
are summed within each donor and group (a *sample*), and samples are compared: within donors where a
donor has both groups, between donors otherwise.
"""

from __future__ import annotations

from itertools import combinations, product
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd

from .moderated import (
    moderated_test,
)
from .multiple import false_discovery_rate
from .pseudobulk import PRIOR_COUNT, log_cpm

METHODS = ("moderated", "deseq2")
# Donors with both groups, or donors on each side, below which there is no test between donors.
MIN_DONORS = 3
# Counts of a gene over all samples below which its logarithms are mostly rounding.
MIN_COUNT = 10
# Assignments of donors below which their permutation could not reach 5 %.
MIN_PERMUTATIONS = 20
_MAX_PERMUTATIONS = 200


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
