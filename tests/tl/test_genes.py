from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from anndata import AnnData
from statsmodels.stats.multitest import multipletests
from tests.conftest import make_model

from scivae import tl
from scivae.datasets import synthetic
from scivae.tl._genes import describe

T = np.linspace(0, 1, 101)
CURVES = {
    "rise": (1 / (1 + np.exp(-(T - 0.3) / 0.03)), "up", 1.0, 0.3),
    "fall": (2 - 2 / (1 + np.exp(-(T - 0.7) / 0.03)), "down", -2.0, 0.7),
    "line": (3 * T, "up", 3.0, 0.5),
    "peak": (np.exp(-0.5 * ((T - 0.4) / 0.1) ** 2), "transient", 0.0, 0.4),
    "dip": (1 - np.exp(-0.5 * ((T - 0.6) / 0.1) ** 2), "transient", 0.0, 0.6),
    "still": (np.full(101, 5.0), "flat", 0.0, np.nan),
    "nearly still": (5 + 0.05 * T, "flat", 0.05, np.nan),
}


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
        curves = {name: curve for name, (curve, *_) in CURVES.items()}
        for name, curve in curves.items():
            expected = sum(abs(b - a) for a, b in zip(curve[:-1], curve[1:], strict=True))
            assert table.loc[name, "total_variation"] == pytest.approx(expected)
        assert table.loc["peak", "excursion"] == pytest.approx(1, abs=1e-3)
        assert table.loc["dip", "excursion"] == pytest.approx(-1, abs=1e-3)
        assert table.loc["rise", "excursion"] == pytest.approx(0, abs=1e-6)

    def test_between_two_steps_the_switch_is_interpolated(self):
        table = describe(np.array([[0.0], [0.2], [1.0]]), np.array([0, 0.5, 1.0]), 0.1)
        assert table["switch"].iloc[0] == pytest.approx(0.5 + 0.5 * 0.3 / 0.8)


def make_trends(curves, values, group, *, donors=None, scale="log1p of counts per 10,000"):
    """Trends with given means (n_steps, n_genes) and measured cells (n_genes, n_cells)."""
    said = {
        "kind": "trends",
        "scale": scale,
        "donors": np.array(list(donors or ()), dtype=str),
        "null": {"group": group, "donor": np.zeros(len(group), int)},
    }
    layers = {"mean": curves, **{f"mean_{name}": m for name, m in (donors or {}).items()}}
    return AnnData(
        curves,
        obs=pd.DataFrame({"civae_t": np.linspace(0, 1, len(curves))}),
        layers=layers,
        varm={"civae_null": values},
        uns={"civae": said},
    )


@pytest.fixture
def trends():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 2], 20)
    values = rng.normal(size=(30, 40))
    values[:5, 20:] += 2
    curves = np.linspace(0, 1, 11)[:, None] * np.r_[np.full(5, 2.0), rng.normal(0, 0.3, 25)]
    donors = {"a": curves, "b": -curves, "c": curves * 2}
    return make_trends(curves, values, group, donors=donors)


class TestRankGenes:
    def test_columns_and_order(self, trends):
        genes = tl.rank_genes(trends)
        assert list(genes.columns) == [
            "shape", "change", "total_variation", "excursion", "switch", "observed", "z",
            "z_between", "p_value", "fdr", "agreement",
        ]  # fmt: skip
        assert set(genes.index[:5]) == set(trends.var_names[:5])
        assert (genes["fdr"].iloc[:5] < 0.05).all()
        assert genes["p_value"].is_monotonic_increasing
        np.testing.assert_allclose(genes["change"].iloc[:5], 2 / np.log(2))
        expected = multipletests(genes["p_value"], method="fdr_bh")[1]
        np.testing.assert_allclose(genes["fdr"], expected)

    def test_observed_in_the_units_of_the_change(self, trends):
        values = trends.varm["civae_null"]
        expected = (values[:, 20:].mean(axis=1) - values[:, :20].mean(axis=1)) / np.log(2)
        found = tl.rank_genes(trends).loc[trends.var_names, "observed"]
        np.testing.assert_allclose(found, expected)
        trends.uns["civae"]["scale"] = "units of the data"
        found = tl.rank_genes(trends).loc[trends.var_names]
        np.testing.assert_allclose(found["observed"], expected * np.log(2))
        np.testing.assert_allclose(found["change"].iloc[:5], 2)

    def test_agreement_of_donors(self, trends):
        assert tl.rank_genes(trends)["agreement"].iloc[0] == pytest.approx(2 / 3)

    def test_agreement_of_donors_on_a_peak(self):
        peak = np.exp(-0.5 * ((np.linspace(0, 1, 21) - 0.5) / 0.1) ** 2)[:, None]
        rng = np.random.default_rng(0)
        trends = make_trends(
            peak, rng.normal(size=(1, 20)), np.repeat([0, 2], 10), donors={"a": peak, "b": -peak}
        )
        genes = tl.rank_genes(trends, n_permutations=0)
        assert genes["shape"].iloc[0] == "transient"
        assert genes["agreement"].iloc[0] == 0.5

    def test_seed(self, trends):
        first, second = (tl.rank_genes(trends, seed=3) for _ in range(2))
        pd.testing.assert_frame_equal(first, second)

    def test_without_a_test(self, trends):
        genes = tl.rank_genes(trends, n_permutations=0)
        assert genes["p_value"].isna().all()
        assert genes["fdr"].isna().all()
        span = genes["change"].abs()
        assert span.is_monotonic_decreasing

    def test_some_genes(self, trends):
        genes = tl.rank_genes(trends[:, 3:9])
        assert len(genes) == 6

    def test_too_few_cells(self, trends):
        few = np.r_[:6, 20:26]
        trends.varm["civae_null"] = trends.varm["civae_null"][:, few]
        null = trends.uns["civae"]["null"]
        null["group"], null["donor"] = null["group"][few], null["donor"][few]
        message = "at least 1000 ways.*6 sources and 6 targets.*allow 924; pair more cells"
        with pytest.raises(ValueError, match=message):
            tl.rank_genes(trends)
        assert len(tl.rank_genes(trends, n_permutations=0)) == 30

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"n_permutations": 50}, ValueError, "n_permutations must be at least 100, or 0"),
            ({"n_permutations": -1}, ValueError, "n_permutations must be at least 0"),
            ({"min_change": -1}, ValueError, "min_change must lie in"),
            ({"seed": 0.5}, TypeError, "seed must be an integer"),
        ],
    )
    def test_bad_input(self, trends, change, error, message):
        with pytest.raises(error, match=message):
            tl.rank_genes(trends, **change)

    def test_not_trends(self, trends):
        with pytest.raises(TypeError, match="trends must be an AnnData"):
            tl.rank_genes(trends.obs)
        del trends.varm["civae_null"]
        with pytest.raises(ValueError, match="the null needs the measured cells"):
            tl.rank_genes(trends)
        trends.uns["civae"]["kind"] = "interpolated"
        with pytest.raises(ValueError, match="what scivae.tl.gene_trends returns"):
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
        600, 100, 2, layout="across", n_donors=2, fraction_flat=0.7, seed=1, size_spread=0.2
    )
    _, genes = run(adata, epochs=20, donor_key="donor")
    kind = adata.var["kind"].astype(str)
    changing = kind.isin(["up", "down", "transient"])
    assert (genes["fdr"] < 0.05)[changing].mean() >= 0.9
    monotone = kind.isin(["up", "down"]) & (genes["fdr"] < 0.05)
    assert (genes["shape"].astype(str) == kind)[monotone].mean() >= 0.95
    # The truth between the two thirds, where counts are normalised.
    grid = adata.uns["synthetic"]["position"]
    curves = adata.uns["synthetic"]["curves"][0]
    curves = np.log1p(1e4 * curves / curves.sum(axis=1, keepdims=True))
    true = curves[grid > 2 / 3].mean(axis=0) - curves[grid < 1 / 3].mean(axis=0)
    assert np.corrcoef(true, genes["change"])[0, 1] > 0.9
    assert (genes["agreement"][monotone] == 1).mean() > 0.9


@pytest.mark.slow
def test_without_differences_few_whole_runs_report_a_gene():
    n_runs, reported = 100, 0
    for seed in range(n_runs):
        adata = synthetic(120, 40, 2, layout="across", effect=0, n_donors=2, seed=seed)
        _, genes = run(adata, epochs=2)
        reported += (genes["fdr"] < 0.05).any()
    assert reported <= scipy.stats.binom.ppf(0.999, n_runs, 0.05)
