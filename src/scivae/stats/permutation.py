"""Tests by permutation: of the groups of cells within donors, and of the groups of donors."""

from __future__ import annotations

from itertools import combinations, product
from math import comb, lgamma
from typing import Any, NamedTuple

import numpy as np

from .._progress import track
from .donors import DonorDesign
from .moderated import LastCoefficient
from .multiple import false_discovery_rate

# With fewer possible assignments of cells to groups, no p-value can be below 0.001.
MIN_ASSIGNMENTS = 1000
# If fewer permutations than this exceed the statistic of a gene, the null distributions of genes
# with similar kurtosis are pooled. If still fewer do, the tail of a fitted gamma distribution is
# used.
_MIN_BEYOND = 10
_GENES_PER_NULL = 100
_VALUES_PER_BLOCK = 2**23
_ROUNDING = 1e-5  # relative rounding error of the null, in float32
# Fewest possible assignments of donors for a permutation: with fewer, p < 0.05 is impossible.
MIN_PERMUTATIONS = 20
_MAX_PERMUTATIONS = 200


class Evidence(NamedTuple):
    """Difference between the groups for each gene; arrays of shape ``(n_genes,)``.

    Attributes
    ----------
    difference
        Mean of the targets minus mean of the sources, weighted over donors.
    z
        The difference divided by its standard deviation under permutation.
    p_value
        Two-sided p-value; NaN for a gene without variation.
    """

    difference: np.ndarray
    z: np.ndarray
    p_value: np.ndarray


class _Design(NamedTuple):
    """Weight of each cell in the difference. Weights sum to zero within a donor."""

    strata: list[np.ndarray]  # indices of the cells of each donor
    weights: np.ndarray  # (n_cells,)
    log_n_assignments: float  # natural logarithm of the number of possible assignments of labels


def design(target: np.ndarray, donor: np.ndarray) -> _Design:
    """Compute the weights of the difference between two groups of cells, stratified by donor.

    Each donor is weighted by the precision of its difference. Cells of donors that lack one of the
    groups, and cells without a donor, have weight zero.

    Parameters
    ----------
    target
        Boolean, shape ``(n_cells,)``: True for target cells, False for source cells.
    donor
        Donor code of each cell; -1 for cells without a donor. Cells are permuted within donors.
    """
    weights = np.zeros(len(target))
    strata, total, log_assignments = [], 0.0, 0.0
    for code in np.unique(donor[donor >= 0]):
        cells = np.flatnonzero(donor == code)
        n_target = int(target[cells].sum())
        n_source = len(cells) - n_target
        if not (n_source and n_target):
            continue
        strata.append(cells)
        log_assignments += lgamma(len(cells) + 1) - lgamma(n_source + 1) - lgamma(n_target + 1)
        precision = n_source * n_target / len(cells)
        weights[cells] = precision * np.where(target[cells], 1 / n_target, -1 / n_source)
        total += precision
    return _Design(strata, weights / (total or 1), log_assignments)


def permutation_test(
    values: Any,
    target: np.ndarray,
    donor: np.ndarray,
    *,
    n_permutations: int = 1000,
    seed: int = 0,
) -> Evidence:
    """Test every gene for a difference between two groups of cells.

    The statistic is the squared z. Its null distribution is obtained by permuting group labels
    among the cells of each donor. If fewer than ten permutations of a gene reach its statistic, the
    permutations of 100 genes with similar kurtosis are pooled (all statistics are standardized). If
    these are still too few, the tail of a gamma distribution fitted to them is used.

    Parameters
    ----------
    values
        Measured values, dense or CSR, shape ``(n_genes, n_cells)``.
    target, donor
        As for :func:`design`.
    n_permutations
        Number of permutations.
    seed
        Seed of the permutations.
    """
    plan = design(target, donor)
    n_genes, n_cells = values.shape
    assigned = _permuted_weights(plan, n_permutations, np.random.default_rng(seed))
    rows = max(1, _VALUES_PER_BLOCK // max(n_cells, n_permutations))
    difference, z, kurtosis = (np.full(n_genes, np.nan) for _ in range(3))
    null = np.empty((n_genes, n_permutations), dtype=np.float32)
    n_used = sum(len(cells) for cells in plan.strata)
    for first in track(range(0, n_genes, rows), "shuffling groups", unit="blocks of genes"):
        block = slice(first, min(first + rows, n_genes))
        x, sd = _centered(values[block], plan)
        total = np.where(np.isfinite(sd), (x**2).sum(axis=1), np.nan)  # NaN: no variation
        kurtosis[block] = (x**4).sum(axis=1) * n_used / total**2
        difference[block] = x @ plan.weights
        z[block] = difference[block] / sd
        null[block] = np.square((x.astype(np.float32) @ assigned) / sd[:, None].astype(np.float32))

    statistic = np.square(np.where(np.isfinite(z), z, 0))
    floor = np.exp(-min(plan.log_n_assignments, 700.0))
    p_value = np.full(n_genes, np.nan)
    tested = np.flatnonzero(np.isfinite(kurtosis))
    order = tested[np.argsort(kurtosis[tested], kind="stable")]
    for part in np.array_split(order, max(1, len(order) // _GENES_PER_NULL)):
        beyond = (null[part] >= statistic[part, None] * (1 - _ROUNDING)).sum(axis=1)
        p_value[part] = np.where(
            beyond >= _MIN_BEYOND,
            (1 + beyond) / (1 + n_permutations),
            np.minimum(_tail(statistic[part], null[part].ravel()), 1),
        )
    return Evidence(difference, z, np.maximum(p_value, floor))


def permuted_z(
    values: Any, target: np.ndarray, donor: np.ndarray, *, n_permutations: int, seed: int
) -> np.ndarray:
    """Standardized difference between targets and sources, observed and under permutation.

    Parameters
    ----------
    values, target, donor, n_permutations, seed
        As for :func:`permutation_test`.

    Returns
    -------
    Shape ``(1 + n_permutations, n_genes)``. The first row is the observed one. 0 for a gene without
    variation.
    """
    plan = design(target, donor)
    assigned = _permuted_weights(plan, n_permutations, np.random.default_rng(seed))
    weights = np.column_stack([plan.weights.astype(np.float32), assigned])
    out = np.empty((1 + n_permutations, values.shape[0]), dtype=np.float32)
    rows = max(1, _VALUES_PER_BLOCK // max(values.shape[1], n_permutations))
    for first in track(range(0, len(out[0]), rows), "shuffling groups", unit="blocks of genes"):
        block = slice(first, min(first + rows, values.shape[0]))
        x, sd = _centered(values[block], plan)
        out[:, block] = np.nan_to_num((x.astype(np.float32) @ weights) / sd[:, None]).T
    return out


def _centered(values: Any, plan: _Design) -> tuple[np.ndarray, np.ndarray]:
    """Center values by donor; also return the standard deviation of the permuted difference.

    Shapes ``(n_genes, n_cells)`` and ``(n_genes,)``; NaN for a gene that does not vary. Cells that
    are not used are 0.
    """
    from scipy import sparse

    x = np.array(values.toarray() if sparse.issparse(values) else values, dtype=np.float64)
    variance, inside = np.zeros(len(x)), np.zeros(x.shape[1], dtype=bool)
    for cells in plan.strata:
        x[:, cells] -= x[:, cells].mean(axis=1, keepdims=True)
        inside[cells] = True
        square = (x[:, cells] ** 2).sum(axis=1) / max(len(cells) - 1, 1)
        variance += (plan.weights[cells] ** 2).sum() * square
    x[:, ~inside] = 0
    varies = (x**2).sum(axis=1) > 1e-12 * inside.sum()
    return x, np.sqrt(np.where(varies & inside.any(), variance, np.nan))


def _permuted_weights(plan: _Design, n: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the cells after each permutation, shape ``(n_cells, n_permutations)``."""
    out = np.zeros((len(plan.weights), n), dtype=np.float32)
    for cells in plan.strata:
        order = rng.random((n, len(cells)), dtype=np.float32).argsort(axis=1).T
        out[cells] = plan.weights[cells][order]
    return out


def _tail(statistic: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Proportion of the null at or above each statistic; far tail from a gamma distribution.

    The gamma distribution has the mean, variance and skewness of the null (Pearson's type III).
    """
    from scipy.stats import pearson3

    null = np.sort(null.astype(np.float64))
    beyond = len(null) - np.searchsorted(null, statistic * (1 - _ROUNDING), side="left")
    counted = (1 + beyond) / (1 + len(null))
    centered = null - null.mean()
    sd = centered.std()
    if sd == 0:
        return counted
    skew = (centered**3).mean() / sd**3
    fitted = pearson3.sf(statistic, max(skew, 1e-2), loc=null.mean(), scale=sd)
    most = (1 + _MIN_BEYOND) / (1 + len(null))
    return np.where(beyond >= _MIN_BEYOND, counted, np.minimum(fitted, most))


class DonorPermutation(NamedTuple):
    """Number of genes called significant when group labels are permuted between donors.

    Attributes
    ----------
    called
        Number of significant genes with the true groups.
    permuted
        Number of significant genes in each permutation, shape ``(n_permutations,)``.
    p_value
        Proportion of assignments (including the true one) with at least as many significant genes.
    """

    called: int
    permuted: np.ndarray
    p_value: float


def permute_donors(
    values: np.ndarray,
    design: DonorDesign,
    *,
    level: float = 0.05,
    sampling: np.ndarray | None = None,
    seed: int = 0,
) -> DonorPermutation | None:
    """Check a result by permuting group labels between donors.

    The moderated test is repeated with permuted group labels: swapped within some of the donors if
    the design is paired, reassigned between donors otherwise. If nothing differs between the
    groups, the true labels give no more significant genes than permuted ones.

    Parameters
    ----------
    values
        Values of the samples of the design, shape ``(n_used, n_genes)``, on a scale on which effects add up.
    design
        From :func:`donor_design`.
    level
        False discovery rate at which a gene is called significant.
    sampling
        As for :func:`moderated_test`.
    seed
        Seed for drawing 200 assignments, if there are more.

    Returns
    -------
    Numbers of significant genes, or ``None`` if fewer than 20 assignments are possible, as with
    five pairs or with three donors against three.

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
    tests = LastCoefficient(values, design.matrix[:, :-1], sampling=sampling)
    for target in [design.target, *others]:
        p_value = tests.test(target).p_value
        called.append(int((false_discovery_rate(p_value) <= level).sum()))
    permuted = np.array(called[1:])
    p_value = (1 + (permuted >= called[0]).sum()) / (1 + len(permuted))
    return DonorPermutation(called[0], permuted, float(p_value))


def _other_assignments(design: DonorDesign, rng: np.random.Generator) -> list[np.ndarray] | None:
    """Permuted target labels, without the true ones; ``None`` if there are too few.

    Swapping all pairs, or two groups of equal size, is left out: it only flips every sign.
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
