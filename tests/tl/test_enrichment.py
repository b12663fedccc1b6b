from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.tl.test_genes import make_trends, pairs_of

from scivae import tl

dc = pytest.importorskip("decoupler")
GENES = [str(g) for g in range(60)]
SETS = {f"set_{i}": [str(g) for g in range(10 * i, 10 * i + 10)] for i in range(6)}


def correlated_trends(seed: int, shift: float = 0.0):
    """Sixty genes in six correlated sets, of which the first differs between groups by ``shift``."""
    rng = np.random.default_rng(seed)
    group = np.repeat([0, 2], 30)
    values = np.repeat(rng.normal(size=(6, 60)), 10, axis=0) + 0.5 * rng.normal(size=(60, 60))
    values[:10, 30:] += shift
    values -= values.min()
    steps = np.linspace(0, 1, 11)[:, None] ** 2  # half way at 0.71
    curves = steps * np.r_[np.full(10, shift), np.zeros(50)] + 1
    return make_trends(curves, values, group)


class TestEnrich:
    def test_finds_the_set_that_changes(self):
        table = tl.enrich(correlated_trends(0, shift=2.0), SETS)
        assert list(table.columns) == ["score", "z", "p_cells", "fdr_cells", "switch", "n_genes"]
        assert table.index[0] == "set_0"
        first = table.iloc[0]
        assert first["fdr_cells"] < 0.05
        assert first["score"] > 0
        assert first["n_genes"] == 10
        assert first["switch"] == pytest.approx(0.5**0.5, abs=0.01)
        assert table.loc["set_1":"set_5", "switch"].isna().all() or (table["switch"].count() == 1)

    def test_score_is_that_of_decoupler(self):
        trends = correlated_trends(1, shift=1.0)
        z = tl.rank_genes(trends, n_permutations=100)["z"].to_frame().T.astype(float)
        net = pd.DataFrame(
            [(s, g) for s, genes in SETS.items() for g in genes], columns=["source", "target"]
        )
        expected = dc.mt.ulm(z, net)[0].iloc[0]
        found = tl.enrich(trends, net, n_permutations=100)["score"]
        pd.testing.assert_series_equal(
            found[expected.index], expected, check_names=False, rtol=1e-4
        )

    def test_keeps_its_level_where_genes_are_correlated(self):
        """Nothing differs. Genes taken for independent are found in most runs, shuffled cells in few."""
        ours, theirs = [], []
        for seed in range(40):
            trends = correlated_trends(seed)
            ours.append(tl.enrich(trends, SETS, n_permutations=200, seed=seed)["p_cells"])
            z = tl.rank_genes(trends, n_permutations=100)["z"].to_frame().T.astype(float)
            net = pd.DataFrame(
                [(s, g) for s, genes in SETS.items() for g in genes], columns=["source", "target"]
            )
            theirs.append(dc.mt.ulm(z, net)[1].to_numpy().ravel())
        assert np.mean(np.concatenate(theirs) < 0.05) > 0.4
        # 240 p-values, dependent within a run: 5 % ± 2 standard errors and a margin.
        assert np.mean(np.concatenate(ours) < 0.05) < 0.09

    def test_weights_count_either_way(self):
        net = pd.DataFrame(
            {
                "source": "both",
                "target": [str(g) for g in range(20)],
                "weight": [1.0] * 10 + [-1.0] * 10,
            }
        )
        trends = correlated_trends(2, shift=2.0)
        table = tl.enrich(trends, net)
        assert table.loc["both", "score"] > 0
        assert tl.enrich(trends, net.assign(weight=-net["weight"])).loc["both", "score"] < 0

    @pytest.mark.parametrize("method", ["mlm", "zscore"])
    def test_methods(self, method):
        sets = {name: SETS[name] for name in list(SETS)[:5]}  # all six would leave mlm no freedom
        table = tl.enrich(correlated_trends(3, shift=2.0), sets, method=method, n_permutations=100)
        assert table.index[0] == "set_0"
        assert table["fdr_cells"].iloc[0] < 0.06  # 100 permutations of five sets: at least 0.0495

    def test_sets_that_a_method_cannot_tell_apart(self):
        with pytest.raises(ValueError, match="cannot score these 6 sets on 60 genes.*'ulm', which"):
            tl.enrich(correlated_trends(3), SETS, method="mlm")

    def test_a_set_of_all_genes_is_left_out(self):
        trends = correlated_trends(0, shift=2.0)
        with pytest.warns(UserWarning, match=r"all 60 genes of the trends \('all'\).*left out"):
            table = tl.enrich(trends, {"all": GENES, **SETS}, n_permutations=100)
        pd.testing.assert_frame_equal(table, tl.enrich(trends, SETS, n_permutations=100))

    def test_sets_that_are_not_in_the_trends_are_named(self):
        trends = correlated_trends(0, shift=2.0)
        odd = {"unknown": ["x", "y"], "short": GENES[:2]}
        with pytest.warns(
            UserWarning, match=r"2 of 8 sets are left out \('unknown', 'short'\)"
        ) as told:
            table = tl.enrich(trends, {**SETS, **odd}, n_permutations=100)
        assert len(told) == 1
        assert (table.attrs["left_out"], len(table)) == (2, 6)

    def test_without_donors_it_says_one_sample_per_group(self):
        table = tl.enrich(correlated_trends(0), SETS, n_permutations=100)
        assert table.attrs["unit_text"].startswith("one sample per group, as no donors are given")

    @pytest.mark.parametrize(
        ("net", "arguments", "error", "message"),
        [
            ({"a": ["x", "y"]}, {}, ValueError, "a set with at least min_size=5 genes of the trends"),
            ({}, {}, ValueError, "net must have rows and the columns 'source' and 'target', got 0"),
            ({"all": GENES}, {}, ValueError, "must leave some genes out.*'all' has all 60 genes"),
            (pd.DataFrame({"source": ["a"]}), {}, ValueError, "without 'target'"),
            (["hallmark"], {}, TypeError, "net must be a dict of genes, a GMT file or decoupler's DataFrame, got list"),
            ("hallmark.gmt", {}, ValueError, "net must be a file, got hallmark.gmt, which does not exist"),
            (SETS, {"method": "gsea"}, ValueError, "method must be one of"),
            (SETS, {"min_size": 0}, ValueError, "min_size must be at least 1"),
            (SETS, {"min_cells": 0}, ValueError, "min_cells must be at least 1"),
            (SETS, {"n_permutations": 10}, ValueError, "n_permutations must be at least 100"),
        ],
    )  # fmt: skip
    def test_bad_input(self, net, arguments, error, message):
        with pytest.raises(error, match=message):
            tl.enrich(correlated_trends(0), net, **arguments)

    def test_without_decoupler(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "decoupler", None)
        with pytest.raises(ImportError, match="pip install decoupler"):
            tl.enrich(correlated_trends(0), SETS)


class TestDonors:
    """Each donor shifts whole sets: donors are the units of a set, as of a gene."""

    def trends(self, seed, design, shift=0.0):
        rng = np.random.default_rng(seed)
        mean = rng.gamma(2, 5, 100)
        of_donor = np.repeat(rng.normal(0, 0.6, (20, 10)), 10, axis=1)  # a set moves as one
        values, group, donor = [], [], []
        for d, g in design:
            of_sample = np.repeat(rng.normal(0, 0.2, 10), 10)
            up = np.r_[np.full(10, shift if g == 2 else 0.0), np.zeros(90)]
            values.append(rng.poisson(mean * np.exp(of_donor[d] + of_sample + up), (10, 100)).T)
            group += [g] * 10
            donor += [d] * 10
        x = np.concatenate(values, axis=1).astype(float)
        curves = np.linspace(0, 1, 5)[:, None] * np.r_[np.full(10, shift), np.zeros(90)] + 1
        return make_trends(curves, x, np.array(group), donor=np.array(donor))

    SETS = {f"set_{i}": [str(g) for g in range(10 * i, 10 * i + 10)] for i in range(10)}

    @pytest.mark.parametrize("design", [pairs_of(6), [(d, 2 * (d > 4)) for d in range(10)]])
    def test_finds_the_set_that_changes(self, design):
        trends = self.trends(0, design, shift=2.0)
        table = tl.enrich(trends, self.SETS)
        assert list(table.columns) == ["score", "z", "p_value", "fdr", "switch", "n_genes"]
        assert table.index[0] == "set_0"
        assert table["fdr"].iloc[0] < 0.01
        assert table.loc["set_0", "score"] > 0
        assert table.loc["set_0", "z"] > 0
        assert table.attrs["unit"] == "donors"
        assert table.attrs["unit_text"] == tl.rank_genes(trends).attrs["unit_text"]

    def test_keeps_its_level_where_donors_shift_sets(self):
        small, by_cell = [], []
        design = [(d, 2 * (d > 2)) for d in range(6)]
        for seed in range(40):
            trends = self.trends(seed, design)
            small.append(tl.enrich(trends, self.SETS)["p_value"].to_numpy() < 0.05)
            if seed < 10:
                group = trends.uns["civae"]["null"]["group"]
                pooled = make_trends(trends.layers["mean"], trends.varm["civae_null"], group)
                table = tl.enrich(pooled, self.SETS, n_permutations=100)
                by_cell.append(table["p_cells"].to_numpy() < 0.05)
        assert np.mean(by_cell) > 0.1
        assert np.mean(small) < 0.075  # 400 p-values: 5 % and two standard errors
