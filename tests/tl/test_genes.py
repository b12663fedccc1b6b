from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from anndata import AnnData
from statsmodels.stats.multitest import multipletests
from tests.conftest import make_model

from scivae import pl, stats, tl
from scivae.datasets import synthetic
from scivae.tl._genes import describe

T = np.linspace(0, 1, 101)
CURVES = {
    "rise": (1 / (1 + np.exp(-(T - 0.3) / 0.03)), "up", 1.0, 0.3),
    "fall": (2 - 2 / (1 + np.exp(-(T - 0.7) / 0.03)), "down", -2.0, 0.7),
    "line": (3 * T, "up", 3.0, 0.5),
    "still": (np.full(101, 5.0), "flat", 0.0, np.nan),
    "nearly still": (5 + 0.05 * T, "flat", 0.05, np.nan),
}
PEAK = np.exp(-0.5 * ((T - 0.4) / 0.1) ** 2)


class TestDescribe:
    @pytest.fixture
    def table(self):
        mean = np.stack([curve for curve, *_ in CURVES.values()], axis=1)
        table = describe(mean, T, 0.1)
        table.index = pd.Index(CURVES)
        return table

    @pytest.mark.parametrize("name", CURVES)
    def test_closed_forms(self, table, name):
        _, shape, change, switch = CURVES[name]
        row = table.loc[name]
        assert row["shape"] == shape
        assert row["change"] == pytest.approx(change, abs=2e-3)
        np.testing.assert_allclose(row["switch"], switch, atol=2e-3)

    def test_variation_and_excursion(self, table):
        for name, (curve, *_) in CURVES.items():
            expected = sum(abs(b - a) for a, b in zip(curve[:-1], curve[1:], strict=True))
            assert table.loc[name, "total_variation"] == pytest.approx(expected)
        peaks = describe(np.stack([PEAK, 1 - PEAK], axis=1), T, 0.1)
        np.testing.assert_allclose(peaks["excursion"], [1, -1], atol=1e-3)
        assert table.loc["rise", "excursion"] == pytest.approx(0, abs=1e-6)

    def test_a_curve_alone_is_never_transient(self):
        assert not describe(PEAK[:, None], T, 0.1)["shape"].eq("transient").any()

    def test_between_two_steps_the_switch_is_interpolated(self):
        table = describe(np.array([[0.0], [0.2], [1.0]]), np.array([0, 0.5, 1.0]), 0.1)
        assert table["switch"].iloc[0] == pytest.approx(0.5 + 0.5 * 0.3 / 0.8)


def make_trends(
    curves, values, group, *, donor=None, scale="log1p of counts per 10,000", sums=None, var=None
):
    """Trends with given curves (n_steps, n_genes) and measured cells (n_genes, n_cells).

    Samples are means of the cells, or the given table and sums (n_genes, n_samples).
    """
    named = donor is not None
    donor = np.zeros(len(group), int) if donor is None else donor
    if sums is None:
        keys = sorted({(d, g) for d, g in zip(donor, group, strict=True)})
        members = [(donor == d) & (group == g) for d, g in keys]
        sums = np.stack([values[:, m].sum(axis=1) for m in members], axis=1)
        samples = pd.DataFrame(
            {
                "donor": [f"d{d}" if named else "" for d, _ in keys],
                "group": [("source", "between", "target")[g] for _, g in keys],
                "n_cells": [m.sum() for m in members],
            }
        )
        if scale.startswith("units"):
            sums = sums / samples["n_cells"].to_numpy()
    else:
        samples, sums = sums
    samples["total"] = sums.sum(axis=0)
    return AnnData(
        curves,
        obs=pd.DataFrame(
            {"civae_t": np.linspace(0, 1, len(curves))}, index=[str(i) for i in range(len(curves))]
        ),
        var=pd.DataFrame(var, index=[str(i) for i in range(curves.shape[1])]),
        layers={"mean": curves},
        varm={"civae_null": values, "civae_samples": sums},
        uns={
            "civae": {
                "kind": "trends",
                "scale": scale,
                "null": {"group": group, "donor": donor},
                "samples": samples,
            }
        },
    )


def donor_counts(design, seed=0, *, n_genes=200, n_true=20, effect=1.5, sample_sd=0.2, middle=None):
    """Trends of counts of donors: ``design`` is a list of (donor, group); 30 cells each."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.normal(-0.5, 1, n_genes))
    up = np.zeros(n_genes)
    up[:n_true] = effect * np.tile([1, -1], n_true)[:n_true]
    peak = np.zeros(n_genes) if middle is None else middle
    of_donor = rng.normal(0, 0.2, (20, n_genes))
    values, group, donor = [], [], []
    for d, g in design:
        at = {0: 0, 1: 0.5 * up + peak, 2: up}[g]
        rate = mean * np.exp(of_donor[d] + rng.normal(0, sample_sd, n_genes) + at)
        values.append(rng.poisson(rate, (30, n_genes)).T)
        group += [g] * 30
        donor += [d] * 30
    x = np.concatenate(values, axis=1).astype(float)
    steps = np.linspace(0, 1, 11)[:, None]
    curves = steps * up + np.sin(np.pi * steps) * peak + 1
    return make_trends(curves, x, np.array(group), donor=np.array(donor))


def pairs_of(n, groups=(0, 2)):
    return [(d, g) for g in groups for d in range(n)]


@pytest.fixture
def trends():
    """Cells of one sample a group; five of thirty genes differ."""
    rng = np.random.default_rng(0)
    group = np.repeat([0, 2], 20)
    values = rng.poisson(20, size=(30, 40)).astype(float)
    values[:5, 20:] *= 3
    curves = np.linspace(0, 1, 11)[:, None] * np.r_[np.full(5, 2.0), rng.normal(0, 0.3, 25)]
    return make_trends(curves, values, group)


COLUMNS = ["shape", "change", "total_variation", "excursion", "switch", "observed", "z"]
AFTER = ["p_transient", "fdr_transient", "agreement", "agreement_p"]


class TestOneSample:
    def test_columns_and_order(self, trends):
        genes = tl.rank_genes(trends)
        assert list(genes.columns) == [*COLUMNS, "p_cells", "fdr_cells", *AFTER]
        assert set(genes.index[:5]) == set(trends.var_names[:5])
        assert (genes["fdr_cells"].iloc[:5] < 0.05).all()
        assert genes["p_cells"].is_monotonic_increasing
        np.testing.assert_allclose(genes["change"].iloc[:5], 2 / np.log(2))
        expected = multipletests(genes["p_cells"], method="fdr_bh")[1]
        np.testing.assert_allclose(genes["fdr_cells"], expected)
        assert genes["agreement"].isna().all()

    def test_the_table_says_that_no_donors_are_given(self, trends):
        genes = tl.rank_genes(trends)
        assert genes.attrs["unit"] == "cells"
        text = "one sample per group, as no donors are given; cells are permuted"
        assert genes.attrs["unit_text"] == text
        assert "not for other donors" in str(tl.describe(genes))
        trends.uns["civae"]["donor_candidate"] = "patient"
        assert "donor_key='patient'" in tl.rank_genes(trends).attrs["note"]

    @pytest.mark.parametrize(
        ("design", "donors"),
        [
            (pairs_of(2), "2 donors with source and 2 with target"),
            ([(0, 0), (1, 0), (2, 2), (3, 2)], "2 donors with source and 2 with target"),
            ([(0, 0), (1, 2), (2, 2), (3, 2)], "1 donor with source and 3 with target"),
            (
                [(0, 0), (1, 0), (0, 2), (1, 2), (2, 0), (3, 0)],
                "4 donors with source and 2 with target",
            ),
        ],
    )
    def test_too_few_donors(self, design, donors):
        text = f"{donors}, 3 of each are needed; cells are permuted instead"
        with pytest.warns(UserWarning, match=donors) as told:
            genes = tl.rank_genes(donor_counts(design))
        ours = [warning for warning in told if warning.category is UserWarning]
        assert [str(warning.message) for warning in ours] == [
            f"cells are tested instead of donors: {text}, so p-values hold for these samples, not for other donors."
        ]
        assert "p_cells" in genes
        assert "p_value" not in genes
        assert genes.attrs["unit_text"] == text

    def test_observed_in_the_units_of_the_change(self, trends):
        values = trends.varm["civae_null"]
        sums = np.stack([values[:, :20].sum(axis=1), values[:, 20:].sum(axis=1)])
        log = np.log2(1 + 1e4 * sums / sums.sum(axis=1, keepdims=True))
        found = tl.rank_genes(trends).loc[trends.var_names, "observed"]
        np.testing.assert_allclose(found, log[1] - log[0])

    def test_units_of_the_data(self):
        rng = np.random.default_rng(1)
        values = rng.normal(size=(10, 40))
        trends = make_trends(
            np.zeros((3, 10)), values, np.repeat([0, 2], 20), scale="units of the data"
        )
        genes = tl.rank_genes(trends).loc[trends.var_names]
        expected = values[:, 20:].mean(axis=1) - values[:, :20].mean(axis=1)
        np.testing.assert_allclose(genes["observed"], expected)
        assert (genes["shape"] == "flat").all()

    def test_seed(self, trends):
        first, second = (tl.rank_genes(trends, seed=3) for _ in range(2))
        pd.testing.assert_frame_equal(first, second)

    def test_without_a_test(self, trends):
        genes = tl.rank_genes(trends, n_permutations=0)
        assert genes["p_cells"].isna().all()
        assert genes["change"].abs().is_monotonic_decreasing

    def test_some_genes(self, trends):
        assert len(tl.rank_genes(trends[:, 3:9])) == 6

    def test_too_few_cells(self, trends):
        few = np.r_[:6, 20:26]
        trends.varm["civae_null"] = trends.varm["civae_null"][:, few]
        null = trends.uns["civae"]["null"]
        null["group"], null["donor"] = null["group"][few], null["donor"][few]
        message = "at least 1000 ways.*6 sources and 6 targets.*at least 7 and 7"
        with pytest.raises(ValueError, match=message):
            tl.rank_genes(trends)
        assert len(tl.rank_genes(trends, n_permutations=0)) == 30


class TestDonors:
    @pytest.mark.parametrize(
        ("design", "text"),
        [
            (pairs_of(5), "5 donors with both groups, paired moderated t-test"),
            ([(d, 2 * (d > 3)) for d in range(8)], "4 donors with source against 4 with target"),
        ],
    )
    def test_differences_are_found_and_named(self, design, text):
        trends = donor_counts(design)
        genes = tl.rank_genes(trends)
        assert list(genes.columns) == [*COLUMNS, "p_value", "fdr", *AFTER]
        assert genes.attrs["unit"] == "donors"
        assert text in genes.attrs["unit_text"]
        assert text in str(tl.describe(genes))
        genes = genes.loc[trends.var_names]
        assert (genes["fdr"] < 0.05)[:20].mean() > 0.8
        assert (genes["fdr"] < 0.05)[20:].mean() < 0.03
        assert (np.sign(genes["observed"]) == np.sign(genes["change"]))[:20].all()

    def test_p_values_are_those_of_the_statistics(self):
        trends = donor_counts(pairs_of(4))
        genes = tl.rank_genes(trends).loc[trends.var_names]
        said = trends.uns["civae"]["samples"]
        expected = stats.donor_test(
            trends.varm["civae_samples"].T,
            said["total"].to_numpy(),
            pd.factorize(said["donor"])[0],
            (said["group"] == "target").to_numpy(),
        )
        np.testing.assert_allclose(genes["p_value"], expected.p_value)
        np.testing.assert_allclose(genes["z"], expected.z)

    def test_deseq2(self):
        pytest.importorskip("pydeseq2")
        trends = donor_counts([(d, 2 * (d > 3)) for d in range(8)], n_genes=60)
        genes = tl.rank_genes(trends, test="deseq2").loc[trends.var_names]
        assert "PyDESeq2" in genes.attrs["unit_text"]
        assert (genes["fdr"] < 0.05)[:20].mean() > 0.7

    def test_cells_as_units_would_call_what_donors_do_not(self):
        """No true effect, donors differ: the fault that the columns are named for."""
        design = [(d, 2 * (d > 2)) for d in range(6)]
        by_donor, by_cell = [], []
        for seed in range(20):
            trends = donor_counts(design, seed, n_true=0)
            by_donor.append((tl.rank_genes(trends)["fdr"] < 0.05).sum())
            group = trends.uns["civae"]["null"]["group"]
            pooled = make_trends(trends.layers["mean"], trends.varm["civae_null"], group)
            genes = tl.rank_genes(pooled, n_permutations=200)
            by_cell.append((genes["fdr_cells"] < 0.05).sum())
        assert min(by_cell) > 5
        assert np.median(by_cell) > 15
        assert (np.array(by_donor) > 0).sum() <= scipy.stats.binom.ppf(0.999, 20, 0.05)

    def test_few_cells_of_a_donor_leave_it_out(self):
        trends = donor_counts(pairs_of(4))
        trends.uns["civae"]["samples"].loc[0, "n_cells"] = 4
        genes = tl.rank_genes(trends)
        assert "3 donors with both groups" in genes.attrs["unit_text"]
        assert "fewer than 5 cells are left out there: d0" in genes.attrs["note"]
        assert "4 donors with both" in tl.rank_genes(trends, min_cells=4).attrs["unit_text"]

    def test_donors_that_are_too_few_are_told(self):
        trends = donor_counts(pairs_of(3))
        trends.uns["civae"]["samples"].loc[0, "n_cells"] = 4
        with pytest.warns(UserWarning, match="cells are tested instead of .* smaller min_cells"):
            genes = tl.rank_genes(trends, n_permutations=0)
        assert genes.attrs["unit"] == "cells"

    def test_donors_with_one_group_are_said_to_be_left_out(self):
        genes = tl.rank_genes(donor_counts([*pairs_of(3), (7, 0), (8, 2)]))
        assert genes.attrs["note"] == "2 donors with one group only are left out"

    def test_agreement_is_of_measured_differences(self):
        trends = donor_counts(pairs_of(6), effect=3)
        genes = tl.rank_genes(trends).loc[trends.var_names]
        strong = trends.varm["civae_samples"].sum(axis=1)[:20] > 500
        np.testing.assert_array_equal(genes["agreement"][:20][strong], 1)
        np.testing.assert_allclose(genes["agreement_p"][:20][strong], 2 / 2**6)
        # Nothing decoded enters: turned curves change no agreement.
        trends.layers["mean"] = -trends.layers["mean"]
        turned = tl.rank_genes(trends).loc[trends.var_names]
        np.testing.assert_array_equal(turned["agreement"], genes["agreement"])
        assert 0.5 < genes["agreement"][20:].mean() < 0.8

    def test_agreement_of_two_donors_is_no_test(self):
        genes = tl.rank_genes(donor_counts(pairs_of(2)))
        assert genes["agreement"].notna().any()
        assert genes["agreement_p"].min() >= 0.5

    def test_permutation_of_donors_is_reported_where_there_are_enough(self):
        check = tl.rank_genes(donor_counts(pairs_of(6))).attrs["permutation"]
        assert check["n_permutations"] == 31
        assert check["called"] > 10
        assert check["called_permuted"] <= 2
        assert check["p_value"] == pytest.approx(1 / 32)
        assert tl.rank_genes(donor_counts(pairs_of(4))).attrs["permutation"] is None

    def test_minified(self):
        trends = donor_counts(pairs_of(4))
        trends.varm["civae_samples"] = np.zeros((200, 0))
        trends.uns["civae"]["samples"] = trends.uns["civae"]["samples"][:0]
        with pytest.raises(ValueError, match="measured cells are needed.*minified"):
            tl.rank_genes(trends)


class TestTransient:
    PEAKS = np.r_[np.zeros(20), np.full(10, 2.0), np.full(10, -2.0), np.zeros(160)]

    @pytest.mark.parametrize("n_donors", [5, 1])
    def test_shown_by_groups_in_between(self, n_donors):
        trends = donor_counts(pairs_of(n_donors, (0, 1, 2)), middle=self.PEAKS, sample_sd=0.1)
        genes = tl.rank_genes(trends).loc[trends.var_names]
        assert ("p_cells" in genes) == (n_donors == 1)
        shape = genes["shape"]
        assert (shape[20:40] == "transient").mean() > 0.6
        assert not (shape[:20] == "transient").any()
        others = shape[40:] == "transient"
        assert others.mean() < 0.03
        # Peaks stand among the surest, though the ends are equal.
        ranked = tl.rank_genes(trends).index
        assert np.mean([name in ranked[:60] for name in trends.var_names[20:40]]) > 0.6

    def test_not_without_cells_in_between(self):
        """The curve has a peak; no measured group lies there."""
        trends = donor_counts(pairs_of(5), middle=self.PEAKS)
        genes = tl.rank_genes(trends)
        assert not (genes["shape"] == "transient").any()
        assert genes["p_transient"].isna().all()
        assert genes.attrs["transient"] == (
            "not tested: no samples of groups in between; name them in gene_trends(between=...), "
            "or make the column of the groups an ordered categorical"
        )
        assert genes["excursion"].abs().max() > 1

    def test_a_middle_near_one_end_is_not_transient(self):
        """Cells in between are like the target: both differences are there, of opposite sign or not at all."""
        trends = donor_counts(pairs_of(5, (0, 1, 2)), middle=np.zeros(200), effect=2)
        assert (tl.rank_genes(trends)["shape"] == "transient").mean() < 0.02

    def test_the_units_of_the_middle_are_those_of_the_ends(self):
        """Five donors have both ends, one has cells in between: that is not tested at all."""
        trends = donor_counts([*pairs_of(5), (0, 1)], middle=self.PEAKS)
        genes = tl.rank_genes(trends)
        assert "p_value" in genes
        assert genes["p_transient"].isna().all()
        assert not (genes["shape"] == "transient").any()


class TestFit:
    def test_change_and_switch_are_those_of_the_fit(self, trends):
        n = trends.n_vars
        for i, name in enumerate(
            ("change", "change_low", "change_high", "switch", "switch_low", "switch_high")
        ):
            trends.var[name] = np.linspace(-1, 1, n) + i / 10
        trends.var["resolved"] = np.arange(n) % 2 == 0
        trends.layers["fit"] = np.asarray(trends.layers["mean"]) * 2
        genes = tl.rank_genes(trends)
        assert list(genes.columns[:8]) == [
            "shape", "change", "change_low", "change_high", "switch", "switch_low", "switch_high",
            "resolved",
        ]  # fmt: skip
        genes = genes.loc[trends.var_names]
        for name in genes.columns[1:8]:
            np.testing.assert_array_equal(genes[name], trends.var[name])
        flat = genes["shape"] == "flat"
        np.testing.assert_array_equal(
            (genes["shape"] == "up")[~flat], (trends.var["change"] >= 0)[~flat]
        )
        span = np.ptp(trends.layers["fit"], axis=0) / np.log(2)
        np.testing.assert_allclose(genes["total_variation"], span, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_permutations": 50}, ValueError, "n_permutations must be at least 100, or 0"),
        ({"n_permutations": -1}, ValueError, "n_permutations must be at least 0"),
        ({"min_change": -1}, ValueError, "min_change must lie in"),
        ({"min_cells": 0}, ValueError, "min_cells must be at least 1"),
        ({"test": "wilcoxon"}, ValueError, "test must be one of 'moderated', 'deseq2'"),
        ({"seed": 0.5}, TypeError, "seed must be an integer"),
    ],
)
def test_bad_input(trends, change, error, message):
    with pytest.raises(error, match=message):
        tl.rank_genes(trends, **change)


@pytest.mark.parametrize(
    ("t", "culprit"),
    [(lambda t: 3 * t, "got 1[.0-9]+ at step"), (lambda t: t - 0.5, "got -0.5 at step 0"), (lambda t: 1 - t, "got 0[.0-9]+ at step 1"), (lambda t: t * np.nan, "got nan at step 0")],
)  # fmt: skip
def test_positions_outside_of_the_path(trends, t, culprit):
    trends.obs["civae_t"] = t(trends.obs["civae_t"])
    for function in (tl.rank_genes, tl.gene_order, pl.trend_heatmap):
        with pytest.raises(
            ValueError, match=rf"civae_t'\] must increase within \[0, 1\], {culprit}"
        ):
            function(trends)


def test_not_trends(trends):
    with pytest.raises(TypeError, match="trends must be an AnnData"):
        tl.rank_genes(trends.obs)
    del trends.varm["civae_null"]
    with pytest.raises(ValueError, match="the permutation of cells needs measured cells"):
        tl.rank_genes(trends)
    trends.uns["civae"]["kind"] = "interpolated"
    with pytest.raises(
        ValueError,
        match=r"must be made by scivae.tl.gene_trends\(model, pairs\), got an AnnData of kind",
    ):
        tl.rank_genes(trends)


def run(adata, *, epochs, source="early", target="late", donor_key=None, **kwargs):
    model = make_model(adata, epochs=epochs, n_latent=6, n_hidden=32, n_layers=2, **kwargs)
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = tl.pair_cells(
        adata, "stage", source, target, label="class_0", donor_key=donor_key, method="ot"
    )
    trends = tl.gene_trends(model, pairs, n_steps=21)
    return trends, tl.rank_genes(trends).loc[adata.var_names]


def test_known_trends_are_found():
    adata = synthetic(
        900, 200, 2, layout="across", n_donors=4, fraction_flat=0.7, seed=1, size_spread=0.2
    )
    _, genes = run(adata, epochs=20, donor_key="donor")
    kind = adata.var["kind"].astype(str)
    assert genes.attrs["unit"] == "donors"
    monotone = kind.isin(["up", "down"])
    called = genes["fdr"] < 0.05
    assert called[monotone].mean() >= 0.95
    assert called[kind == "flat"].mean() <= 0.05
    assert (genes["shape"].astype(str) == kind)[monotone & called].mean() >= 0.95
    # "middle" lies between "early" and "late" (thirds): its cells show the peaks that are well inside.
    inside = (kind == "transient") & adata.var["switch"].between(0.4, 0.6)
    assert inside.sum() >= 3
    assert (genes["p_transient"] < 0.01)[inside].all()
    assert (genes["shape"] == "transient")[inside].all()
    assert (genes["shape"] == "transient")[kind != "transient"].mean() <= 0.05
    # The truth between the two thirds, where counts are normalized.
    grid = adata.uns["synthetic"]["position"]
    curves = adata.uns["synthetic"]["curves"][0]
    curves = np.log1p(1e4 * curves / curves.sum(axis=1, keepdims=True))
    true = curves[grid > 2 / 3].mean(axis=0) - curves[grid < 1 / 3].mean(axis=0)
    assert np.corrcoef(true, genes["observed"])[0, 1] > 0.95
    assert (genes["agreement"][monotone & called] == 1).mean() > 0.9


@pytest.mark.slow
def test_without_differences_few_whole_runs_report_a_gene():
    n_runs, reported = 100, 0
    for seed in range(n_runs):
        adata = synthetic(
            240, 40, 2, layout="across", effect=0, n_donors=6, donor_effect=0.3, seed=seed
        )
        _, genes = run(adata, epochs=2, donor_key="donor")
        reported += (genes["fdr"] < 0.05).any()
    assert reported <= scipy.stats.binom.ppf(0.999, n_runs, 0.05)
