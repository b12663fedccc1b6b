from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from scipy import sparse
from statsmodels.stats.multitest import multipletests

from scivae.stats.permutation import design, permutation_test


def groups(*sizes, n_donors=1, seed=0):
    """Which of two groups of cells are targets, and their donors."""
    target = np.repeat([False, True], sizes)
    return target, np.random.default_rng(seed).integers(n_donors, size=len(target))


def counts(rng, n_genes, n_cells, scale=2.0):
    """Log-normalized overdispersed counts of correlated genes that know of no group."""
    mean = rng.gamma(0.5, size=n_genes)[:, None] * scale + 1e-3
    mean = mean * np.exp(rng.normal(0, 0.3, (n_genes, 3)) @ rng.normal(size=(3, n_cells)))
    x = rng.poisson(rng.gamma(5, size=mean.shape) / 5 * mean)
    return np.log1p(1e4 * x / np.maximum(x.sum(axis=0), 1))


def test_differences_are_those_of_means():
    target, donor = groups(20, 15)
    x = np.random.default_rng(0).normal(size=(7, 35))
    difference = permutation_test(x, target, donor, n_permutations=100).difference
    np.testing.assert_allclose(difference, x[:, target].mean(axis=1) - x[:, ~target].mean(axis=1))


def test_differences_are_taken_within_donors():
    target, donor = groups(30, 30, n_donors=3)
    x = np.random.default_rng(0).normal(size=(5, 60))
    moved = x + 100 * donor
    found = [permutation_test(v, target, donor, n_permutations=100) for v in (x, moved)]
    np.testing.assert_allclose(found[0].z, found[1].z, rtol=1e-8)
    per_donor, precision = [], []
    for d in range(3):
        a, b = (x[:, (donor == d) & (target == side)] for side in (False, True))
        per_donor.append(b.mean(axis=1) - a.mean(axis=1))
        precision.append(1 / (1 / a.shape[1] + 1 / b.shape[1]))
    expected = np.average(per_donor, axis=0, weights=precision)
    np.testing.assert_allclose(found[0].difference, expected)


def test_standard_deviation_under_permutation_is_exact():
    """Against every one of the assignments of a small design."""
    target = np.repeat([False, True], [3, 4])
    x = np.random.default_rng(1).gamma(1.0, size=7)
    all_of_them = []
    for chosen in itertools.combinations(range(7), 3):
        source = np.isin(np.arange(7), chosen)
        all_of_them.append(x[~source].mean() - x[source].mean())
    found = permutation_test(x[None], target, np.zeros(7, int), n_permutations=100)
    np.testing.assert_allclose(found.difference[0] / found.z[0], np.std(all_of_them))


@pytest.mark.parametrize("sizes", [(25, 25), (15, 60)])
def test_p_values_are_those_of_scipy(sizes):
    target, donor = groups(*sizes)
    rng = np.random.default_rng(2)
    x = counts(rng, 40, len(target), scale=5)
    x[:20, target] += rng.uniform(0, 1.5, 20)[:, None]
    found = permutation_test(x, target, donor, n_permutations=2000).p_value
    for gene in range(0, 40, 4):
        expected = scipy.stats.permutation_test(
            (x[gene, ~target], x[gene, target]),
            lambda a, b, axis: (b.mean(axis=axis) - a.mean(axis=axis)) ** 2,
            vectorized=True,
            n_resamples=4000,
            alternative="greater",
            rng=np.random.default_rng(0),
        ).pvalue
        tolerance = 4 * np.sqrt(expected * (1 - expected) / 2000) + 0.002
        assert np.isnan(found[gene]) or abs(found[gene] - expected) < tolerance


def test_far_tail_is_that_of_the_normal_distribution():
    target, donor = groups(300, 300)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 600))
    x[:, target] += np.linspace(0, 0.55, 200)[:, None]
    found = permutation_test(x, target, donor)
    expected = 2 * scipy.stats.norm.sf(np.abs(found.z))
    far = (expected < 1e-5) & (expected > 1e-9)
    assert far.sum() > 20
    assert np.abs(np.log10(found.p_value[far] / expected[far])).max() < 1.0


def test_sparse_and_blocks(monkeypatch):
    target, donor = groups(20, 25, n_donors=2)
    x = counts(np.random.default_rng(6), 30, 45)
    dense = permutation_test(x, target, donor, n_permutations=100)
    monkeypatch.setattr("scivae.stats.permutation._VALUES_PER_BLOCK", 1)
    blocks = permutation_test(sparse.csr_matrix(x), target, donor, n_permutations=100)
    np.testing.assert_allclose(blocks.p_value, dense.p_value, atol=1e-3)  # ties


def test_a_gene_without_variation_has_no_p_value():
    target, donor = groups(20, 20)
    x = np.random.default_rng(7).normal(size=(5, 40))
    x[2] = 1.5
    found = permutation_test(x, target, donor, n_permutations=100)
    assert np.isnan(found.p_value).tolist() == [False, False, True, False, False]


def test_donors_with_one_group_have_no_weight():
    target = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1], dtype=bool)
    donor = np.array([0, 0, 0, 0, 0, 0, 1, 1, -1])
    plan = design(target, donor)
    assert not plan.weights[6:].any()
    assert np.exp(plan.log_n_assignments) == pytest.approx(20)
    assert plan.weights.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("sizes", "n_donors", "scale"), [((25, 25), 1, 2.0), ((15, 90), 1, 0.3), ((40, 30), 3, 1)]
)  # fmt: skip
def test_without_differences_few_runs_report_a_gene(sizes, n_donors, scale):
    n_runs, reported, small = 120, 0, []
    for run in range(n_runs):
        target, donor = groups(*sizes, n_donors=n_donors, seed=run)
        x = counts(np.random.default_rng(run), 120, len(target), scale=scale)
        p = permutation_test(x, target, donor, n_permutations=400, seed=run).p_value
        p = p[np.isfinite(p)]
        reported += multipletests(p, method="fdr_bh")[1].min() < 0.05
        small.append((p < 0.05).mean())
    # 5 % of 120 runs, and what chance adds to it in one of a thousand tests.
    assert reported <= scipy.stats.binom.ppf(0.999, n_runs, 0.05)
    assert 0.03 < np.mean(small) < 0.055  # ties make p-values larger


def test_among_differences_the_false_ones_are_controlled():
    shares, power = [], []
    for run in range(40):
        target, donor = groups(30, 30, seed=run)
        rng = np.random.default_rng(run)
        x = counts(rng, 200, 60)
        sd = x.std(axis=1)
        x[:40, target] += 1.5 * sd[:40, None]
        p = permutation_test(x, target, donor, n_permutations=400, seed=run).p_value
        found = multipletests(np.nan_to_num(p, nan=1), method="fdr_bh")[0]
        shares.append(found[40:].sum() / max(found.sum(), 1))
        power.append(found[:40][np.isfinite(p[:40])].mean())
    assert np.mean(shares) < 0.06
    assert np.mean(power) > 0.9
