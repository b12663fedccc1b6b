from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pl.conftest import make_joint, make_trends

from scivae import tl
from scivae.stats import partial_order, switch_position


class TestPartialOrder:
    def test_pairs_are_ordered_where_resamples_agree(self):
        rng = np.random.default_rng(0)
        middle = np.array([0.1, 0.15, 0.5, 0.9])
        switches = middle[:, None] + rng.normal(0, 0.04, (4, 400))
        before = partial_order(switches, switch=middle)
        for a in range(4):
            for b in range(4):
                # the 90 % interval of the difference, widened by a quarter
                low = 1.25 * (
                    np.quantile(switches[b] - switches[a], 0.05) - (middle[b] - middle[a])
                )
                assert before[a, b] == (middle[b] - middle[a] + low > 0), (a, b)

    @pytest.mark.parametrize("n_donors", [3, 6, 20])
    def test_genes_that_change_together_are_rarely_ordered(self, n_donors):
        """Bayesian bootstrap of few donors that differ: a tenth of the ties at most, for any number."""
        rng = np.random.default_rng(0)
        wrong = []
        for _ in range(40):
            donors = rng.normal(0.5, 0.1, (30, n_donors))  # switches of genes that change at 0.5
            weights = rng.dirichlet(np.ones(n_donors), 100)
            before = partial_order(
                donors @ weights.T, switch=donors.mean(axis=1), n_donors=n_donors
            )
            wrong.append(before.sum() / (30 * 29 / 2))
        assert 0.005 < np.mean(wrong) < 0.1
        early = np.concatenate([donors - 0.45, donors])
        ordered = partial_order(early @ weights.T, switch=early.mean(axis=1), n_donors=n_donors)
        assert ordered[:30, 30:].mean() > (0.2 if n_donors == 3 else 0.95)

    def test_shared_errors_cancel(self):
        """Genes that move together in every resample are ordered though their intervals overlap."""
        shift = np.random.default_rng(0).normal(0, 0.2, 200)
        assert partial_order(np.stack([0.4 + shift, 0.45 + shift])).tolist() == [
            [False, True],
            [False, False],
        ]

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10_000), n=st.integers(2, 12), spread=st.floats(0.01, 1))
    def test_it_is_an_order(self, seed, n, spread):
        rng = np.random.default_rng(seed)
        before = partial_order(rng.random((n, 1)) + rng.normal(0, spread, (n, 30)))
        assert not np.diag(before).any()
        assert not (before & before.T).any()
        chained = (before.astype(int) @ before) > 0
        assert (before | ~chained).all()

    def test_bad_input(self):
        with pytest.raises(ValueError, match="at least two resamples, got"):
            partial_order(np.empty((3, 0)))
        with pytest.raises(ValueError, match="switch must have one value for each of the 3 genes"):
            partial_order(np.zeros((3, 4)), switch=[0.5])
        with pytest.raises(ValueError, match="n_donors must be at least 3, got 2"):
            partial_order(np.zeros((3, 4)), n_donors=2)
        with pytest.raises(ValueError, match="switches must be finite"):
            partial_order([[np.nan, 1.0]])


class TestSwitch:
    T = np.linspace(0, 1, 101)

    @pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
    def test_one_crossing(self, at):
        curve = 3 / (1 + np.exp(-(self.T - at) / 0.02))
        found = switch_position(np.stack([curve, 7 - curve], axis=1), self.T)
        np.testing.assert_allclose(found, at, atol=1e-3)

    def test_several_crossings_add_up(self):
        curve = np.array([0.0, 1.0, 0.0, 1.0])[:, None]  # below one half for half of the path
        assert switch_position(curve, [0, 1 / 3, 2 / 3, 1])[0] == pytest.approx(0.5)

    def test_no_change(self):
        assert np.isnan(switch_position(np.ones((3, 1)), [0, 0.5, 1])[0])


class TestGeneOrder:
    def test_order_of_resolved_genes(self):
        trends = make_trends()
        order = tl.gene_order(trends)
        assert order.genes.index.tolist() == ["early", "late"]
        assert order.genes["direction"].tolist() == ["down", "up"]
        assert order.genes["level"].tolist() == [0, 1]
        assert order.pairs.to_numpy().tolist() == [["early", "late"]]
        assert order.fraction_ordered == 1
        trends.var["resolved"] = True
        assert tl.gene_order(trends, ["middle", "late"]).genes.index.tolist() == ["middle", "late"]
        table = pd.DataFrame(index=["late"])
        assert tl.gene_order(trends, table).genes.index.tolist() == ["late"]

    def test_pairs_leave_out_what_follows_from_others(self):
        genes = pd.DataFrame(index=list("abc"))
        before = np.triu(np.ones((3, 3), dtype=bool), 1)
        assert tl.GeneOrder(genes, before).pairs.to_numpy().tolist() == [["a", "b"], ["b", "c"]]

    def test_bad_input(self):
        trends = make_trends()
        with pytest.raises(KeyError, match="got 'lat'. Did you mean 'late'"):
            tl.gene_order(trends, ["lat"])
        with pytest.raises(ValueError, match="no interval of 1 switches is narrower than 0.3"):
            tl.gene_order(trends, ["flat"])
        with pytest.raises(ValueError, match="needs the switches of resamples"):
            tl.gene_order(make_trends(evidence="decoded"))
        with pytest.raises(ValueError, match="must be made by scivae.tl.gene_trends"):
            tl.gene_order(make_joint())
