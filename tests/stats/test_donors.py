from __future__ import annotations

import doctest
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import statsmodels.api as sm
from scipy import sparse
from scipy.special import polygamma
from statsmodels.stats.multitest import multipletests
from tests.conftest import data_file

from scivae.stats import donors, moderated, multiple, permutation, pseudobulk


def paired(n):
    """Codes of n donors with both groups, and which samples are targets."""
    return np.tile(np.arange(n), 2), np.repeat([False, True], n)


def unpaired(n, m):
    return np.arange(n + m), np.repeat([False, True], [n, m])


def samples(rng, donor, target, *, n_genes=300, donor_sd=0.2, sample_sd=0.0, effect=None, cells=60):
    """Sums of overdispersed counts per cell, with effects of donors and of samples on each gene."""
    mean = np.exp(rng.normal(-1.5, 1.5, n_genes))
    effect = np.zeros(n_genes) if effect is None else effect
    of_donor = rng.normal(0, donor_sd, (donor.max() + 1, n_genes))
    rows = []
    for d, t in zip(donor, target, strict=True):
        n = rng.integers(cells // 2, cells * 2)
        rate = mean * np.exp(of_donor[d] + rng.normal(0, sample_sd, n_genes) + t * effect)
        size = np.exp(rng.normal(0, 0.3, n))[:, None]
        rows.append(rng.poisson(size * rate * rng.gamma(2, 0.5, (n, n_genes))).sum(axis=0))
    return np.array(rows, dtype=float)


def test_examples_run():
    assert doctest.testmod(donors).failed == 0


class TestSums:
    @pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csr_array])
    def test_against_a_loop(self, make):
        rng = np.random.default_rng(0)
        x, codes = rng.poisson(2, (30, 7)).astype(np.float32), rng.integers(-1, 4, 30)
        found = pseudobulk.sum_by(make(x), codes, 5)
        expected = np.stack([x[codes == code].sum(axis=0) for code in range(5)])
        np.testing.assert_array_equal(found, expected)
        assert type(found) is np.ndarray
        assert found.dtype == np.float64

    @pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
    def test_variance_of_sums_against_a_loop_and_in_blocks(self, make):
        rng = np.random.default_rng(16)
        x, codes = rng.poisson(2, (40, 5)).astype(np.float32), rng.integers(-1, 3, 40)
        size = x.sum(axis=1) + rng.poisson(20, 40)
        whole = pseudobulk.SampleSums.of(make(x), codes, 3, size)
        for code in range(3):
            cells = codes == code
            rate = x[cells].sum(axis=0) / size[cells].sum()
            expected = ((x[cells] - size[cells, None] * rate) ** 2).sum(axis=0)
            np.testing.assert_allclose(whole.variance[code], expected, rtol=1e-6)
        parts = [pseudobulk.SampleSums.of(make(x)[i : i + 9], codes[i : i + 9], 3, size[i : i + 9])
                 for i in range(0, 40, 9)]  # fmt: skip
        added = parts[0]
        for part in parts[1:]:
            added = added.plus(part)
        np.testing.assert_allclose(added.variance, whole.variance, rtol=1e-6)

    def test_variance_of_sums_is_that_of_other_cells(self):
        """Drawn again and again, sums vary by about what one draw says."""
        rng = np.random.default_rng(17)
        found, sums = [], []
        for _ in range(400):
            x = rng.poisson(rng.gamma(1, 3, (50, 4)))
            size = np.full(50, 100.0)
            found.append(pseudobulk.SampleSums.of(x, np.zeros(50, int), 1, size).variance[0])
            sums.append(x.sum(axis=0))
        np.testing.assert_allclose(np.mean(found, axis=0), np.var(sums, axis=0), rtol=0.2)

    def test_sizes_are_those_of_genes_that_do_not_change(self):
        """A third of the genes rises tenfold: totals would say that all others fall."""
        rng = np.random.default_rng(1)
        mean = rng.gamma(2, 100, 300)
        changed = np.r_[np.full(100, 10.0), np.ones(200)]
        depth = np.array([1, 2, 0.5, 1])
        counts = rng.poisson(depth[:, None] * mean * np.where([[0], [0], [1], [1]], changed, 1))
        factors = pseudobulk.size_factors(counts, counts.sum(axis=1))
        np.testing.assert_allclose(factors, depth / np.exp(np.log(depth).mean()), rtol=0.06)
        y = pseudobulk.log_cpm(counts.astype(float), counts.sum(axis=1))
        assert abs(y[2:, 100:].mean() - y[:2, 100:].mean()) < 0.15
        assert (y[2:, :100].mean() - y[:2, :100].mean()) == pytest.approx(np.log2(10), abs=0.15)

    def test_where_no_gene_is_everywhere_totals_are_the_size(self):
        counts = np.diag([3.0, 5.0, 7.0])
        factors = pseudobulk.size_factors(counts, np.array([10, 20, 40]))
        np.testing.assert_allclose(factors, [0.5, 1, 2])


class TestPrior:
    @pytest.mark.parametrize(("true_df", "variance"), [(3.0, 0.2), (10.0, 2.0)])
    def test_against_the_likelihood(self, true_df, variance):
        """Variances over their prior are F-distributed: scipy's maximum likelihood finds the same."""
        rng = np.random.default_rng(2)
        df = 5
        true = variance * true_df / rng.chisquare(true_df, 20_000)
        found = moderated.variance_prior(true * rng.chisquare(df, 20_000) / df, df)
        assert found.df == pytest.approx(true_df, rel=0.1)
        np.testing.assert_allclose(found.variance, variance, rtol=0.05)

    def test_a_trend_with_the_mean(self):
        rng = np.random.default_rng(3)
        x = rng.uniform(0, 10, 20_000)
        true = np.exp(-0.3 * x) * 6 / rng.chisquare(6, 20_000)
        s2 = true * rng.chisquare(4, 20_000) / 4
        found = moderated.variance_prior(s2, 4, x)
        assert found.df == pytest.approx(6, rel=0.1)
        np.testing.assert_allclose(np.log(found.variance), -0.3 * x, atol=0.15)
        assert moderated.variance_prior(s2, 4).df < 4  # without a trend, genes seem to differ more

    def test_equal_variances_are_borrowed_whole(self):
        s2 = np.random.default_rng(4).chisquare(4, 50) / 4
        s2 = s2[np.argsort(np.abs(s2 - 1))[:40]]  # closer to each other than chance allows
        found = moderated.variance_prior(s2, 4)
        assert np.isinf(found.df)

    def test_heavy_tails_lower_what_is_borrowed(self):
        """Five of a hundred genes vary tenfold: moments alone would shrink them towards the others."""
        rng = np.random.default_rng(18)
        s2 = rng.chisquare(4, 4000) / 4 * np.where(np.arange(4000) < 200, 10, 1)
        found = moderated.variance_prior(s2, 4)
        log = np.log(s2) - scipy.special.digamma(2) + np.log(2)
        moments = 2 * moderated._inverse_trigamma(log.var(ddof=1) - polygamma(1, 2))
        assert found.df < 0.7 * moments
        tail = scipy.stats.f.ppf(0.995, 4, found.df) * found.variance[0]
        assert tail >= 0.999 * np.quantile(s2, 0.995)

    def test_genes_without_variance(self):
        assert np.isinf(moderated.variance_prior(np.zeros(5), 3).df)
        found = moderated.variance_prior(np.r_[np.zeros(3), np.ones(100)], 3)
        assert np.isfinite(found.variance).all()

    @pytest.mark.parametrize("y", [1e-6, 0.01, 1.0, 50.0, 1e6])
    def test_inverse_of_the_trigamma_function(self, y):
        assert polygamma(1, moderated._inverse_trigamma(y)) == pytest.approx(y, rel=1e-8)

    def test_spline_is_natural(self):
        x = np.linspace(0, 1, 400) ** 2
        basis = moderated._natural_spline(x, 4)
        fitted = basis @ np.linalg.lstsq(basis, 3 - 2 * x, rcond=None)[0]
        np.testing.assert_allclose(fitted, 3 - 2 * x, atol=1e-10)
        assert np.linalg.matrix_rank(basis) == 4


class TestModerated:
    def test_against_statsmodels(self):
        """Without the borrowed part it is the t of ordinary least squares, gene by gene."""
        rng = np.random.default_rng(5)
        y = rng.normal(size=(10, 40)) * rng.gamma(2, 0.5, 40)
        design = np.column_stack([np.ones(10), rng.normal(size=10), np.repeat([0, 1], 5)])
        contrast = np.array([0.0, 0.5, 1.0])
        test = moderated.moderated_test(y, design, contrast)
        for gene in range(40):
            fit = sm.OLS(y[:, gene], design).fit()
            plain = fit.t_test(contrast)
            df, prior = fit.df_resid, test.prior
            shrunk = (prior.df * prior.variance[gene] + df * fit.scale) / (prior.df + df)
            assert test.estimate[gene] == pytest.approx(plain.effect.item())
            assert test.t[gene] == pytest.approx(
                plain.tvalue.item() * np.sqrt(fit.scale / shrunk), rel=1e-6
            )
        assert test.df == pytest.approx(7 + test.prior.df)
        np.testing.assert_allclose(test.p_value, 2 * scipy.stats.t.sf(abs(test.t), test.df))

    def test_pairs_are_differences(self):
        rng = np.random.default_rng(6)
        y = rng.normal(size=(12, 50))
        donor, target = paired(6)
        design = donors.donor_design(donor, target)
        with_donors = moderated.moderated_test(y, design.matrix, np.eye(7)[-1], trend=False)
        differences = y[6:] - y[:6]
        alone = moderated.moderated_test(differences, np.ones((6, 1)), np.ones(1), trend=False)
        np.testing.assert_allclose(with_donors.t, alone.t)
        np.testing.assert_allclose(with_donors.p_value, alone.p_value)
        np.testing.assert_allclose(differences, donors.differences_of_donors(y, design))

    @pytest.mark.parametrize("kind", ["paired", "unpaired"])
    def test_permuted_labels_are_tested_as_in_a_fit_of_their_own(self, kind):
        rng = np.random.default_rng(9)
        y, sampling = rng.normal(size=(16, 60)), rng.gamma(1.0, size=(16, 60))
        donor = np.tile(np.arange(8), 2) if kind == "paired" else np.arange(16)
        design = donors.donor_design(donor, np.repeat([False, True], 8))
        tests = moderated.LastCoefficient(y, design.matrix[:, :-1], sampling=sampling)
        for target in (design.target, np.roll(design.target, 3)):
            matrix = design._replace(target=target).matrix
            inverse = np.linalg.inv(matrix.T @ matrix)
            left = y - matrix @ inverse @ matrix.T @ y
            found = tests.test(target)
            np.testing.assert_allclose(found.estimate, (inverse @ matrix.T @ y)[-1])
            df = 16 - matrix.shape[1]
            mean, variance = y.mean(axis=0), (left**2).sum(axis=0) / df
            prior = moderated.variance_prior(variance, df, mean)
            shrunk = (prior.df * prior.variance + df * variance) / (prior.df + df)
            # variance by sampling: of the contrast, and of the residuals
            hat = matrix @ inverse @ matrix.T
            weight = (matrix @ inverse[-1]) ** 2
            of_contrast = weight @ sampling / weight.sum()
            pooled = (1 - np.diag(hat)) @ sampling / (1 - np.diag(hat)).sum()
            shrunk = np.maximum(shrunk + np.maximum(of_contrast - pooled, 0), of_contrast)
            se = np.sqrt(shrunk * inverse[-1, -1])
            np.testing.assert_allclose(found.t, found.estimate / se)

    def test_p_values_are_uniform_where_the_model_holds(self):
        rng = np.random.default_rng(7)
        variance = 0.5 * 4 / rng.chisquare(4, 20_000)
        y = rng.normal(size=(6, 20_000)) * np.sqrt(variance)
        design = np.column_stack([np.ones(6), np.repeat([0, 1], 3)])
        p = moderated.moderated_test(y, design, np.array([0, 1]), trend=False).p_value
        assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
        assert (p < 1e-3).mean() == pytest.approx(1e-3, rel=0.35)

    def test_equal_genes_have_no_p_value(self):
        y = np.random.default_rng(8).normal(size=(6, 20))
        y[:, 3] = 1.5
        design = np.column_stack([np.ones(6), np.repeat([0, 1], 3)])
        test = moderated.moderated_test(y, design, np.array([0, 1]))
        assert np.isnan(test.p_value).tolist() == [i == 3 for i in range(20)]
        assert np.isnan(moderated.moderated_test(y[:, [3]], design, np.array([0, 1])).p_value).all()

    @pytest.mark.parametrize(
        ("design", "message"),
        [
            (np.ones((4, 2)), "of full rank, got rank 1 with 2 columns"),
            (np.eye(4), "fewer columns than samples, got 4 columns for 4 samples"),
        ],
    )
    def test_designs_that_cannot_be_fitted(self, design, message):
        with pytest.raises(ValueError, match=message):
            moderated.moderated_test(np.zeros((4, 3)), design, np.ones(design.shape[1]))


class TestDesign:
    def test_pairs_come_first(self):
        design = donors.donor_design(
            np.array([0, 1, 2, 5, 1, 2, 0, 7]), np.repeat([False, True], 4)
        )
        assert design.kind == "paired"
        assert design.n_donors == (3,)
        assert set(design.donor) == {0, 1, 2}

    def test_too_few_pairs_but_enough_donors(self):
        design = donors.donor_design(np.array([0, 1, 2, 0, 3, 4]), np.repeat([False, True], 3))
        assert (design.kind, design.n_donors) == ("unpaired", (3, 3))

    def test_too_few(self):
        donor, target = unpaired(2, 8)
        assert donors.donor_design(donor, target).kind == "too few"
        with pytest.raises(ValueError, match="at least 3 donors with both groups.*got 2 and 8"):
            donors.donor_test(np.ones((10, 4)), None, donor, target)

    def test_a_donor_with_two_samples(self):
        with pytest.raises(ValueError, match="at most one sample per group"):
            donors.donor_design(np.array([0, 0, 1, 2]), np.repeat([False, True], 2))


class TestDonorTest:
    @pytest.mark.parametrize("design", [paired(6), unpaired(3, 3), unpaired(3, 9)])
    @pytest.mark.parametrize("cells", [(300, 10), (10, 300)])
    def test_groups_of_few_cells_differ_in_nothing(self, design, cells):
        """Nothing changes, but the mean logarithm of few counts is low, and noisy."""
        donor, target = design
        called, tested = [], []
        for seed in range(6):
            rng = np.random.default_rng([seed, 3])
            x = rng.normal(-1.5, 1.5, 300)
            rows, noise = [], rng.normal(0, 0.2, (donor.max() + 1, 300))
            for d, t in zip(donor, target, strict=True):
                mean = np.exp(x + noise[d] + rng.normal(0, 0.2, 300)) * cells[int(t)]
                shape = 2 * cells[int(t)]  # of the sum of as many cells
                rows.append(rng.poisson(mean * rng.gamma(shape, 1 / shape, 300)))
            counts = np.array(rows, dtype=float)
            size = np.array([cells[int(t)] for t in target])[:, None]
            test = donors.donor_test(
                counts,
                counts.sum(axis=1),
                donor,
                target,
                cell_variance=counts + counts**2 / (2 * size),
            )
            called.append((multiple.false_discovery_rate(test.p_value) <= 0.05).sum())
            tested.append(np.isfinite(test.p_value).sum())
        assert np.mean(called) < 1
        assert 20 < np.mean(tested) < 200

    def test_equally_many_cells_leave_nothing_out(self):
        rng = np.random.default_rng(4)
        donor, target = unpaired(4, 4)
        counts = rng.poisson(3, (8, 50)).astype(float)
        counts[:, 0] = rng.multinomial(2400, np.ones(8) / 8)  # totals that are nearly equal
        assert donors.testable(counts, counts.sum(axis=1), donors.donor_design(donor, target)).all()

    def test_genes_without_counts_are_not_tested(self):
        rng = np.random.default_rng(9)
        donor, target = paired(4)
        counts = rng.poisson(30, (8, 60)).astype(float)
        counts[:, 0] = 0
        counts[:, 1] = [1, 0, 0, 0, 1, 0, 0, 0]
        counts[:, 2] = [90, 0, 0, 0, 0, 0, 0, 0]  # one sample alone
        test = donors.donor_test(counts, counts.sum(axis=1), donor, target)
        assert np.flatnonzero(np.isnan(test.p_value)).tolist() == [0, 1, 2]

    def test_values_that_are_no_counts(self):
        rng = np.random.default_rng(10)
        donor, target = unpaired(4, 5)
        values = rng.normal(size=(9, 200))
        values[4:, :5] += 6
        test = donors.donor_test(values, None, donor, target)
        assert test.method == "moderated"
        assert set(np.argsort(test.p_value)[:5]) == set(range(5))
        np.testing.assert_allclose(test.estimate, values[4:].mean(axis=0) - values[:4].mean(axis=0))
        with pytest.raises(ValueError, match="must be 'moderated' for values that are not counts"):
            donors.donor_test(values, None, donor, target, method="deseq2")
        with pytest.raises(ValueError, match="method must be one of 'moderated', 'deseq2'"):
            donors.donor_test(values, None, donor, target, method="edger")

    @pytest.mark.parametrize("method", ["moderated", "deseq2"])
    @pytest.mark.parametrize("design", [paired(4), unpaired(4, 4)])
    def test_true_fold_changes(self, method, design):
        rng = np.random.default_rng(11)
        effect = np.zeros(300)
        effect[:20] = np.tile([1.5, -1.5], 10)
        donor, target = design
        counts = samples(rng, donor, target, effect=effect, donor_sd=0.1)
        test = donors.donor_test(counts, counts.sum(axis=1), donor, target, method=method)
        tested = np.isfinite(test.p_value)
        fdr = multiple.false_discovery_rate(test.p_value)
        assert (fdr[:20][tested[:20]] < 0.05).mean() > 0.8
        assert (fdr[20:][tested[20:]] < 0.05).mean() < 0.02
        strong = (counts.sum(axis=0) > 300) & (effect != 0)
        np.testing.assert_allclose(test.estimate[strong], effect[strong] / np.log(2), atol=0.6)
        np.testing.assert_allclose(
            2 * scipy.stats.norm.sf(np.abs(test.z[tested])), test.p_value[tested], rtol=1e-6
        )
        assert (np.sign(test.z[strong]) == np.sign(effect[strong])).all()

    def test_pydeseq2_gets_the_counts_and_the_design(self):
        """A straight call of PyDESeq2 on the same sums gives the same numbers."""
        dds, ds = (pytest.importorskip(f"pydeseq2.{name}") for name in ("dds", "ds"))
        donor, target = paired(4)
        counts = samples(np.random.default_rng(12), donor, target, n_genes=80)
        found = donors.donor_test(counts, counts.sum(axis=1), donor, target, method="deseq2")
        tested = np.isfinite(found.estimate)
        names = [f"s{i}" for i in range(8)]
        table = pd.DataFrame(counts[:, tested].astype(int), index=names)
        table.columns = table.columns.astype(str)
        obs = pd.DataFrame({"x": np.where(target, "t", "s"), "d": [f"d{d}" for d in donor]}, names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dds.DeseqDataSet(counts=table, metadata=obs, design="~d + x", quiet=True)
            data.deseq2()
            alone = ds.DeseqStats(data, contrast=["x", "t", "s"], quiet=True)
            alone.summary()
        np.testing.assert_allclose(found.p_value[tested], alone.results_df["pvalue"])
        np.testing.assert_allclose(found.estimate[tested], alone.results_df["log2FoldChange"])

    def test_without_pydeseq2(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pydeseq2.dds", None)
        donor, target = unpaired(3, 3)
        counts = samples(np.random.default_rng(13), donor, target, n_genes=50)
        with pytest.raises(ImportError, match="pip install pydeseq2, or use method='moderated'"):
            donors.donor_test(counts, counts.sum(axis=1), donor, target, method="deseq2")
        moderated = donors.donor_test(counts, counts.sum(axis=1), donor, target)
        assert np.isfinite(moderated.p_value).any()

    def test_no_gene_varies_less_than_its_cells(self):
        """One cell holds half of the counts of a gene; by chance, samples without it are alike."""
        rng = np.random.default_rng(19)
        donor, target = unpaired(3, 3)
        counts = rng.poisson(100, (6, 300)).astype(float)
        counts[:, 0] = [100, 101, 100, 150, 151, 150]
        variance = counts.copy()
        variance[:, 0] = 60.0**2
        blind = donors.donor_test(counts, counts.sum(axis=1), donor, target)
        knowing = donors.donor_test(
            counts, counts.sum(axis=1), donor, target, cell_variance=variance
        )
        assert multiple.false_discovery_rate(blind.p_value)[0] < 0.05
        assert knowing.p_value[0] > 0.1
        np.testing.assert_allclose(knowing.estimate, blind.estimate)

    def test_level_on_real_cells(self):
        """Control cells of one type, split at random into three parts against three."""
        anndata = pytest.importorskip("anndata")
        adata = anndata.read_h5ad(data_file("pbmc_kang.h5ad"))
        adata = adata[
            (adata.obs["condition"] == "ctrl") & (adata.obs["cell_type"] == "CD14+ Monocytes")
        ]
        counts = adata.layers["counts"].tocsr()
        size = np.asarray(counts.sum(axis=1)).ravel()
        reported = 0
        for run in range(30):
            part = np.random.default_rng([run, 3]).permutation(np.arange(adata.n_obs) % 6)
            sums = pseudobulk.SampleSums.of(counts, part, 6, size)
            totals = sums.values.sum(axis=1)
            p = donors.donor_test(
                sums.values, totals, *unpaired(3, 3), cell_variance=sums.variance
            ).p_value
            reported += np.nanmin(multiple.false_discovery_rate(p)) <= 0.05
        assert reported <= scipy.stats.binom.ppf(0.999, 30, 0.05)

    def test_level_where_genes_vary_unalike_between_donors(self):
        n_runs, reported = 40, 0
        donor, target = unpaired(3, 3)
        for run in range(n_runs):
            rng = np.random.default_rng([run, 2])
            sd = 0.3 * np.sqrt(4 / rng.chisquare(4, 300))
            counts = samples(rng, donor, target, donor_sd=sd)
            p = donors.donor_test(counts, counts.sum(axis=1), donor, target).p_value
            reported += np.nanmin(multiple.false_discovery_rate(p)) <= 0.05
        assert reported <= scipy.stats.binom.ppf(0.999, n_runs, 0.05)

    @pytest.mark.parametrize(
        ("design", "sample_sd"),
        [
            (unpaired(3, 3), 0.0),
            (paired(6), 0.0),
            (paired(6), 0.2),
            (paired(6), 0.4),
            (paired(3), 0.2),
        ],
    )
    def test_level(self, design, sample_sd):
        """Donors and samples differ, groups do not. Cells as units would call genes in every run."""
        n_runs, reported, small = 40, 0, []
        for run in range(n_runs):
            counts = samples(np.random.default_rng([run, 1]), *design, sample_sd=sample_sd)
            p = donors.donor_test(counts, counts.sum(axis=1), *design).p_value
            p = p[np.isfinite(p)]
            reported += multipletests(p, method="fdr_bh")[1].min() <= 0.05
            small.append((p < 0.05).mean())
        assert reported <= scipy.stats.binom.ppf(0.999, n_runs, 0.05)
        assert 0.04 < np.mean(small) < 0.06


class TestSigns:
    def test_against_scipy(self):
        differences = np.random.default_rng(14).normal(0.5, 1, (7, 30))
        found = multiple.sign_test(differences)
        for gene in range(30):
            up = int((differences[:, gene] > 0).sum())
            assert found.p_value[gene] == pytest.approx(scipy.stats.binomtest(up, 7).pvalue)
            assert found.agreement[gene] == max(up, 7 - up) / 7

    def test_no_difference_at_all(self):
        assert np.isnan(multiple.sign_test(np.zeros((4, 2))).agreement).all()

    def test_intersection_union_keeps_its_level(self):
        """Equal to one end, far from the other: the worst case of two tests at once."""
        rng = np.random.default_rng(15)
        first, second = rng.normal(0, 1, 40_000), rng.normal(8, 1, 40_000)
        p = multiple.intersection_union(
            first, 2 * scipy.stats.norm.sf(abs(first)), second, 2 * scipy.stats.norm.sf(abs(second))
        )
        assert (p < 0.05).mean() == pytest.approx(0.025, abs=0.004)

    def test_intersection_union_without_one_test(self):
        one = np.ones(1)
        assert np.isnan(multiple.intersection_union(one, one * np.nan, one, one * 0.01)).all()


class TestPermutation:
    @pytest.mark.parametrize(
        ("design", "n"),
        [(paired(6), 31), (paired(8), 127), (unpaired(4, 4), 34), (unpaired(3, 4), 34),
         (paired(12), 200), (paired(5), None), (unpaired(3, 3), None)],
    )  # fmt: skip
    def test_other_assignments(self, design, n):
        plan = donors.donor_design(*design)
        others = permutation._other_assignments(plan, np.random.default_rng(0))
        if n is None:
            assert others is None
            return
        assert len(others) == n
        if n == 200:
            return
        keys = {tuple(t) for t in others} | {tuple(~t) for t in others}
        assert tuple(plan.target) not in keys
        if plan.target.sum() * 2 == len(plan.target):
            assert len(keys) == 2 * n  # no assignment twice, nor its mirror image
        assert {t.sum() for t in others} == {plan.target.sum()}

    def test_p_values_without_differences(self):
        found = []
        plan = donors.donor_design(*paired(6))
        for run in range(60):
            rng = np.random.default_rng([run, 3])
            # Genes move together, so that some runs call many.
            y = rng.normal(size=(12, 1)) * rng.normal(size=100) + rng.normal(size=(12, 100))
            found.append(permutation.permute_donors(y, plan).p_value)
        assert np.mean(np.array(found) <= 0.05) < 0.15
