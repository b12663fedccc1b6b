from __future__ import annotations

import doctest

import numpy as np
import pytest
from scipy import sparse

from scivae.stats import change_counts, dispersion, transfer, transfer_change


def test_examples_run():
    assert doctest.testmod(transfer).failed == 0


class TestTransfer:
    def test_a_group_like_one_other_changes_as_that_one(self):
        rng = np.random.default_rng(0)
        source = rng.normal(size=(3, 50)) * 3
        target = source + rng.normal(size=(3, 50))
        found = transfer_change(source, target, source[1])
        np.testing.assert_allclose(found.weights, [0, 1, 0])
        np.testing.assert_allclose(found.change, target[1] - source[1])

    def test_power_zero_is_the_mean(self):
        source, target = np.arange(6.0).reshape(3, 2), np.ones((3, 2))
        found = transfer_change(source, target, np.zeros(2), power=0)
        np.testing.assert_allclose(found.change, (target - source).mean(axis=0))

    def test_weights_are_inverse_distances(self):
        source = np.array([[1.0, 1.0], [0.0, 2.0], [4.0, 0.0]])
        found = transfer_change(source, source, np.zeros(2), power=2)
        d = np.sqrt((source**2).mean(axis=1))
        np.testing.assert_allclose(found.distances, d)
        np.testing.assert_allclose(found.weights, d**-2 / (d**-2).sum())

    @pytest.mark.parametrize("local", [True, False])
    def test_the_power_is_chosen_on_the_other_groups(self, local):
        """Changes follow the source profile, or do not: near groups count, or all alike."""
        rng = np.random.default_rng(1)
        place = np.repeat([0.0, 4.0], 4)[:, None] + rng.normal(0, 0.3, (8, 40))
        change = place * 2 if local else rng.normal(0, 0.2, 40) + rng.normal(0, 1, (8, 40))
        found = transfer_change(place, place + change, np.zeros(40))
        assert (found.power >= 3) if local else (found.power <= 1)
        near = found.weights[:4].sum()
        assert (near > 0.9) if local else (near < 0.8)

    def test_two_groups_are_too_few_to_choose(self):
        found = transfer_change(np.eye(2), np.eye(2) + 1, np.zeros(2))
        assert found.power == 2


class TestCounts:
    def test_means_become_those_of_the_target(self):
        rng = np.random.default_rng(2)
        source = rng.dirichlet(np.ones(30))
        target = source * np.exp(rng.normal(0, 1, 30))
        target[0] = 0
        counts = rng.poisson(source * rng.lognormal(7, 0.3, (4000, 1)))
        changed = change_counts(counts, source, target, np.full(30, 0.5), rng=rng)
        expected = target / source * counts.mean(axis=0)
        np.testing.assert_allclose(changed.mean(axis=0), expected, rtol=0.1, atol=0.02)
        assert (changed[:, 0] == 0).all()
        assert (changed >= 0).all()

    def test_a_gene_without_source_counts_can_appear(self):
        rng = np.random.default_rng(3)
        counts = np.column_stack([np.full(3000, 100), np.zeros(3000)])
        changed = change_counts(
            counts, np.array([1.0, 0]), np.array([1.0, 0.05]), np.zeros(2), rng=rng
        )
        assert changed[:, 1].mean() == pytest.approx(5, rel=0.05)
        assert changed[:, 1].var() == pytest.approx(5, rel=0.15)

    @pytest.mark.parametrize("true", [0.0, 0.2, 1.0])
    @pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
    def test_dispersion(self, true, make):
        rng = np.random.default_rng(4)
        rates = np.full((2, 50), 1 / 50)
        shape = 1 / max(true, 1e-9)
        factor = rng.gamma(shape, 1 / shape, (4000, 50)) if true else 1.0
        counts = rng.poisson(10.0 * np.ones((4000, 50)) * factor).astype(float)
        found = dispersion(make(counts), np.arange(4000) % 2, rates)
        # A cell's total, of 50 genes, varies with them: a fiftieth is not seen.
        assert np.median(found) == pytest.approx(true, abs=0.03 + 0.05 * true)
