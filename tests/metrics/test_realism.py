import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from scivae.metrics import classifier_two_sample_test, copying_test, gene_gene_correlation


def normal(n, p=4, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, p)) + shift


# --- classifier two-sample test -----------------------------------------------------------------


@pytest.mark.parametrize("n_generated", [400, 120])
def test_one_population_is_told_apart_at_chance(n_generated):
    result = classifier_two_sample_test(normal(400), normal(n_generated, seed=1), n_trees=50)
    # standard error of an area under the curve by chance: √((n + m + 1) / (12 n m))
    standard_error = np.sqrt((400 + n_generated + 1) / (12 * 400 * n_generated))
    assert result.auc == pytest.approx(0.5, abs=4 * standard_error)
    assert len(result.fold_aucs) == 5
    assert np.mean(result.fold_aucs) == pytest.approx(result.auc)


def test_two_gaussians_come_near_the_best_possible_area():
    # likelihood ratios of N(0, 1) and N(m, 1) give an area of Φ(m / √2); no classifier beats it
    result = classifier_two_sample_test(
        normal(1500, p=1), normal(1500, p=1, seed=1, shift=2.0), n_trees=100
    )
    best = stats.norm.cdf(2 / np.sqrt(2))
    assert best - 0.06 < result.auc < best + 0.02


def test_different_correlations_are_seen_though_each_gene_is_alike():
    x, y = normal(400, p=2), normal(400, p=2, seed=1)
    y[:, 1] = 0.95 * y[:, 0] + np.sqrt(1 - 0.95**2) * y[:, 1]
    assert classifier_two_sample_test(x, y, n_trees=50).auc > 0.75


def test_copies_fall_below_chance():
    x = normal(200)
    assert classifier_two_sample_test(x, x, n_trees=50).auc < 0.3


def test_sparse_seeds_and_subsampling():
    rng = np.random.default_rng(0)
    x, y = rng.poisson(1.0, (90, 5)), rng.poisson(1.3, (60, 5))

    def auc(a=x, b=y, **kwargs):
        return classifier_two_sample_test(a, b, n_trees=20, **kwargs).auc

    assert auc() == auc(sparse.csr_matrix(x), sparse.csr_matrix(y)) == auc(sparse.csr_matrix(x))
    assert auc(seed=1) != auc()
    assert auc(max_points=90) == auc() != auc(max_points=40)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"generated": normal(4)}, "generated must have at least 5 rows, got 4"),
        (
            {"generated": normal(9, p=3)},
            "real and generated must have the same columns, got 4 and 3",
        ),
        ({"n_folds": 1}, "n_folds must be at least 2, got 1"),
        ({"n_trees": 0}, "n_trees must be at least 1, got 0"),
        ({"max_points": 3}, "max_points must be at least 5, got 3"),
        ({"real": normal(9) * np.nan}, "real must be finite"),
    ],
)
def test_two_sample_test_refuses_in_one_clear_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        classifier_two_sample_test(**({"real": normal(9), "generated": normal(9)} | kwargs))
    assert "\n" not in str(error.value)


# --- gene-gene correlation ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_is_pandas_correlation_of_the_genes_that_vary_in_both(method):
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, (50, 8)) @ rng.uniform(size=(8, 8))
    y = rng.poisson(2.0, (70, 8)) @ rng.uniform(size=(8, 8))
    x[:, 2], y[:, 5] = 0.3, 0.0
    result = gene_gene_correlation(x, sparse.csr_matrix(y), method=method)
    kept = [0, 1, 3, 4, 6, 7]
    pairs = [(i, j) for i in range(6) for j in range(i)]
    a, b = (pd.DataFrame(z[:, kept]).corr(method=method).to_numpy() for z in (x, y))
    a, b = (np.array([c[pair] for pair in pairs]) for c in (a, b))
    assert result.n_genes == 6
    assert result.pearson == pytest.approx(stats.pearsonr(a, b).statistic)
    assert result.mean_absolute_difference == pytest.approx(np.abs(a - b).mean())
    assert result == pytest.approx(gene_gene_correlation(y, x, method=method))


def test_agreement_is_of_correlations_and_nothing_else():
    x = normal(100) @ normal(4, seed=2)
    moved = x * [1, 10, 0.1, 5] + [5, 0, 1, 2]
    assert gene_gene_correlation(x, moved) == pytest.approx((1, 0, 4), abs=1e-9)
    monotone = gene_gene_correlation(x, np.exp(x), method="spearman")
    assert monotone == pytest.approx((1, 0, 4), abs=1e-9)
    assert gene_gene_correlation(x, np.exp(x)).mean_absolute_difference > 0.01


def test_cells_made_gene_by_gene_lose_the_correlations():
    x = normal(500, p=6) @ normal(6, p=6, seed=2)
    rng = np.random.default_rng(3)
    shuffled = rng.permuted(x, axis=0)
    again = normal(500, p=6, seed=4) @ normal(6, p=6, seed=2)
    assert gene_gene_correlation(x, again).pearson > 0.95
    assert abs(gene_gene_correlation(x, shuffled).pearson) < 0.7
    assert (
        gene_gene_correlation(x, shuffled).mean_absolute_difference
        > 5 * gene_gene_correlation(x, again).mean_absolute_difference
    )


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (normal(9), normal(9, p=3), "same columns, got 4 and 3"),
        (normal(2), normal(9), "real must have at least 3 rows, got 2"),
        (normal(9, p=2), normal(9, p=2), "at least 3 genes must vary .*got 2 of 2"),
        (normal(9), normal(9) * [0, 0, 1, 1], "at least 3 genes must vary .*got 2 of 4"),
        (
            normal(9),
            normal(9)[:, [0, 0, 0, 0]],
            "correlations of generated must not all be equal, got 1 for all pairs;",
        ),
    ],
)
def test_gene_gene_correlation_refuses_in_one_clear_line(real, generated, message):
    with pytest.raises(ValueError, match=message) as error:
        gene_gene_correlation(real, generated)
    assert "\n" not in str(error.value)


def test_gene_gene_correlation_refuses_unknown_methods():
    with pytest.raises(ValueError, match="method must be one of 'pearson', 'spearman', got 'tau'"):
        gene_gene_correlation(normal(9), normal(9), method="tau")


# --- copying ------------------------------------------------------------------------------------


def test_is_the_plain_loop_and_scipys_rank_test():
    rng = np.random.default_rng(0)
    new, old, fresh = (rng.integers(0, 4, (n, 3)).astype(float) for n in (30, 25, 20))

    def nearest(cell):
        return min(sum((cell - other) ** 2) ** 0.5 for other in old)

    a, b = [nearest(cell) for cell in new], [nearest(cell) for cell in fresh]
    closer = np.mean([(s < t) + 0.5 * (s == t) for s in a for t in b])
    result = copying_test(new, old, sparse.csr_matrix(fresh))
    assert result.share_closer == pytest.approx(closer)
    assert result.n_exact == sum(s == 0 for s in a) > 0
    assert result.median_ratio == pytest.approx(np.median(a) / np.median(b))
    assert result.p_value == pytest.approx(
        stats.mannwhitneyu(np.round(a, 9), np.round(b, 9), alternative="less").pvalue
    )


def test_p_values_of_fresh_cells_are_uniform_given_the_training_cells():
    training = normal(100, seed=10_000)
    p = [
        copying_test(normal(40, seed=2 * i), training, normal(40, seed=2 * i + 1)).p_value
        for i in range(150)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_value_is_that_of_permuted_labels():
    training, new, fresh = normal(80), normal(25, seed=1) * 0.8, normal(30, seed=2)
    result = copying_test(new, training, fresh)
    pooled = np.vstack([new, fresh])
    nearest = np.array([np.linalg.norm(training - cell, axis=1).min() for cell in pooled])
    ranks = stats.rankdata(nearest)
    rng = np.random.default_rng(0)
    sums = np.array([rng.permutation(ranks)[:25].sum() for _ in range(4000)])
    assert 0.001 < result.p_value < 0.5
    assert result.p_value == pytest.approx((sums <= ranks[:25].sum()).mean(), abs=0.02)


def test_memory_is_caught_and_inventions_are_not_called_memory():
    training, fresh = normal(300), normal(100, seed=1)
    copied = copying_test(training[:100] + 0.01, training, fresh)
    assert copied.share_closer > 0.95
    assert copied.p_value < 1e-6
    assert copied.median_ratio < 0.1
    assert copied.n_exact == 0
    assert copying_test(training[:100], training, fresh).n_exact == 100
    far = copying_test(fresh + 50, training, fresh)
    assert far.share_closer == 0
    assert far.p_value == pytest.approx(1)


@pytest.mark.parametrize(
    ("generated", "training", "held_out", "message"),
    [
        (normal(5, p=3), normal(9), normal(5), "generated and training must have the same columns"),
        (normal(5), normal(9), normal(5, p=3), "held_out and training must have the same columns"),
        (normal(5), normal(9), normal(9)[:4], "held_out must not overlap .*4 of 4"),
        (normal(0), normal(9), normal(5), "generated must have at least 1 rows, got 0"),
    ],
)
def test_copying_test_refuses_in_one_clear_line(generated, training, held_out, message):
    with pytest.raises(ValueError, match=message) as error:
        copying_test(generated, training, held_out)
    assert "\n" not in str(error.value)
