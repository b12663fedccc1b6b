from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scivae.stats import measured_curves, switch_position

GRID = np.linspace(0, 1, 501)


def simulate(seed=0, n_cells=1200, n_genes=120, donor_sd=0.0, n_donors=1):
    """Counts of genes that switch at known positions, and the true curves."""
    rng = np.random.default_rng(seed)
    t, donor = rng.random(n_cells), rng.integers(0, n_donors, n_cells)
    at, width = rng.uniform(0.2, 0.8, n_genes), rng.choice([0.06, 0.15], n_genes)
    change = rng.choice([-1.3, 1.3], n_genes)
    share = rng.lognormal(0, 0.7, n_genes)
    share /= share.sum()

    def rate(x):
        return share[:, None] * np.exp(
            change[:, None] / (1 + np.exp(-(x - at[:, None]) / width[:, None]))
        )

    effect = rng.normal(0, donor_sd, (n_genes, n_donors))
    library = rng.lognormal(7, 0.3, n_cells)
    mean = library * rate(t) * np.exp(effect[:, donor])
    counts = sparse.csr_matrix(rng.negative_binomial(2, 2 / (2 + mean)).astype(np.float32))
    truth = np.log1p(1e4 * rate(GRID)).T
    return counts, t, library, donor, truth


def test_intervals_hold_the_truth():
    found = []
    for seed in range(3):
        counts, t, library, _, truth = simulate(seed)
        curves = measured_curves(counts, t, library=library, seed=seed)
        switch = switch_position(truth, GRID)
        held = (curves.switch_low <= switch) & (switch <= curves.switch_high)
        change = truth[-1] - truth[0]
        held_change = (curves.change_low <= change) & (change <= curves.change_high)
        inner = np.stack([np.interp(curves.t, GRID, c) for c in truth.T], axis=1)
        band = (curves.low <= inner) & (inner <= curves.high)
        found.append([held.mean(), held_change.mean(), band.mean()])
        assert curves.resolved.mean() > 0.5
    coverage = np.mean(found, axis=0)
    assert (coverage > 0.85).all(), coverage
    assert (coverage < 0.97).all(), coverage


def test_donors_are_the_units():
    """Donors that differ make curves unsure, however many cells there are."""
    counts, t, library, donor, truth = simulate(1, donor_sd=0.4, n_donors=6)
    by_donor = measured_curves(counts, t, library=library, donor=donor)
    by_cell = measured_curves(counts, t, library=library, group=donor)
    assert (by_donor.unit, by_cell.unit) == ("donor", "cell")
    level = np.median(by_donor.high - by_donor.low) / np.median(by_cell.high - by_cell.low)
    assert level > 2
    held = (by_donor.low <= by_donor.fit) & (by_donor.fit <= by_donor.high)
    assert held.all()
    assert by_donor.group_variance > 0.03


def test_effects_of_donors_do_not_bend_curves():
    """Donors of different depth along the path: with their effects the truth is found."""
    rng = np.random.default_rng(0)
    n = 3000
    donor = rng.integers(0, 4, n)
    t = rng.beta(*np.array([[1, 3], [3, 1], [2, 2], [1, 1]])[donor].T)
    effect = np.array([-1.0, 1.0, 0.3, -0.3])[donor]
    counts = rng.poisson(np.exp(1 + effect))[None]
    flat = measured_curves(counts, t, library=np.full(n, 1e4), donor=donor, n_bootstraps=0)
    bent = measured_curves(counts, t, library=np.full(n, 1e4), n_bootstraps=0)
    assert np.ptp(flat.fit) < 0.4
    assert np.ptp(bent.fit) > 0.6


def test_the_middle_without_cells_is_not_resolved():
    """Curves run smoothly through a gap, but nothing is known of it."""
    rng = np.random.default_rng(0)
    t = np.r_[rng.uniform(0, 0.2, 600), rng.uniform(0.8, 1, 600)]
    counts = rng.poisson(np.where(t < 0.5, 2, 20))[None]
    curves = measured_curves(counts, t, library=np.full(1200, 1e4))
    assert curves.switch_low[0] < 0.21
    assert curves.switch_high[0] > 0.79
    assert not curves.resolved[0]


def test_free_ends_have_their_own_level():
    rng = np.random.default_rng(0)
    t = np.r_[np.zeros(500), rng.uniform(0.01, 0.99, 1500), np.ones(500)]
    mean = np.where(t == 0, 2.0, np.where(t < 0.7, 6.0, 12.0))
    counts = rng.poisson(mean)[None]
    curves = measured_curves(counts, t, library=np.full(2500, 1e4), free_ends=True, n_bootstraps=20)
    assert np.expm1(curves.fit[0, 0]) == pytest.approx(2, rel=0.1)
    assert np.expm1(curves.fit[10:50, 0]) == pytest.approx(6, rel=0.15)
    # half of the change on the log scale is done at once
    assert curves.switch[0] < 0.05


def test_positions_are_fitted_anew():
    counts, t, library, _, _ = simulate(2, n_genes=30)
    seen = []

    def place(weights):
        seen.append(weights)
        shift = 0 if weights is None else 0.1 * np.sin(100 * weights[0])
        return np.clip(t + shift, 0, 1)

    moved = measured_curves(counts, place, library=library, n_bootstraps=40)
    still = measured_curves(counts, t, library=library, n_bootstraps=40)
    assert len(seen) == 41
    assert seen[0] is None
    assert all(w.mean() == pytest.approx(1) for w in seen[1:])
    np.testing.assert_allclose(moved.switch, still.switch)
    spread = np.median(moved.switches.std(axis=1)) / np.median(still.switches.std(axis=1))
    assert spread > 1.2


def test_continuous_values():
    rng = np.random.default_rng(0)
    t = rng.random(800)
    values = np.stack([np.sin(3 * t), 5 - 4 * (t > 0.5)]) + rng.normal(0, 0.3, (2, 800))
    curves = measured_curves(values, t, library=None, n_bootstraps=50)
    np.testing.assert_allclose(curves.fit[:, 0], np.sin(3 * curves.t), atol=0.12)
    assert curves.switch[1] == pytest.approx(0.5, abs=0.03)
    assert np.isnan(curves.dispersion).all()


def test_bad_input():
    counts = np.ones((2, 30))
    good = {"library": np.ones(30)}
    with pytest.raises(ValueError, match=r"position must lie in \[0, 1\], got 1.5"):
        measured_curves(counts, np.full(30, 1.5), **good)
    with pytest.raises(ValueError, match="donor must hold an integer for each of 30 cells"):
        measured_curves(counts, np.linspace(0, 1, 30), donor=np.ones(30), **good)
    with pytest.raises(ValueError, match=r"position must have the shape \(30,\), got \(29,\)"):
        measured_curves(counts, np.linspace(0, 1, 29), **good)
