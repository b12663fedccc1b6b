from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, sparse

from scivae.stats import dispersion_trend, fit_negative_binomial, roughness_penalty, spline_basis
from scivae.stats import negative_binomial as module

N_CELLS, N_GENES = 400, 30


def make(seed=0, n_genes=N_GENES, n_cells=N_CELLS, dispersion=0.5):
    """Positions, library sizes, donors, and counts that follow a wave."""
    rng = np.random.default_rng(seed)
    t = rng.random(n_cells)
    library = rng.lognormal(8, 0.4, n_cells)
    donor = rng.integers(0, 4, n_cells)
    share = rng.lognormal(-6, 1, n_genes)
    wave = rng.normal(0, 1, (n_genes, 1)) * np.sin(3 * t)
    effect = rng.normal(0, 0.3, (n_genes, 4))[:, donor]
    mean = share[:, None] * np.exp(wave + effect) * library
    counts = rng.negative_binomial(1 / dispersion, 1 / (1 + dispersion * mean))
    return t, library, donor, sparse.csr_matrix(counts.astype(np.float32))


def test_every_gene_is_the_glm_of_statsmodels():
    t, library, donor, counts = make()
    design = np.c_[spline_basis(t, 6), donor[:, None] == np.arange(1, 4)]
    weights = np.random.default_rng(1).random(N_CELLS)
    dispersion = np.linspace(0.1, 1, N_GENES)
    fit = fit_negative_binomial(
        counts, design, library=library, dispersion=dispersion, weights=weights
    )
    assert fit.converged.all()
    for g in range(0, N_GENES, 3):
        expected = sm.GLM(
            counts[[g]].toarray().ravel(),
            design,
            family=sm.families.NegativeBinomial(alpha=dispersion[g]),
            offset=np.log(library),
            freq_weights=weights,
        ).fit(tol=1e-12, maxiter=200)
        np.testing.assert_allclose(fit.coefficients[g], expected.params, atol=1e-6)
        np.testing.assert_allclose(fit.deviance[g], expected.deviance, rtol=1e-6)
        assert fit.effective_df[g] == pytest.approx(design.shape[1])


def test_penalized_fits_maximize_the_penalized_likelihood():
    t, library, donor, counts = make(n_genes=3)
    design = spline_basis(t, 6)
    penalty, precision, alpha = 2.0 * roughness_penalty(6), 7.0, 0.4
    group = np.where(donor == 3, -1, donor)  # the cells of one donor have no effect
    settings = {"penalty": penalty, "group": group, "group_precision": precision}
    fit = fit_negative_binomial(counts, design, library=library, dispersion=alpha, **settings)
    member = (group[:, None] == np.arange(3)).astype(float)

    def cost(p, y):
        eta = design @ p[:6] + member @ p[6:] + np.log(library)
        mu = np.exp(eta)
        likelihood = (y * eta - (y + 1 / alpha) * np.log1p(alpha * mu)).sum()
        value = -likelihood + 0.5 * p[:6] @ penalty @ p[:6] + 0.5 * precision * (p[6:] ** 2).sum()
        score = (y - mu) / (1 + alpha * mu)
        slope = np.r_[-design.T @ score + penalty @ p[:6], -member.T @ score + precision * p[6:]]
        return value, slope

    for g in range(3):
        y = counts[[g]].toarray().ravel()
        start = np.r_[np.full(6, np.log(y.sum() / library.sum())), np.zeros(3)]
        best = optimize.minimize(cost, start, (y,), jac=True, options={"gtol": 1e-8})
        found = np.r_[fit.coefficients[g], fit.group_effects[g]]
        np.testing.assert_allclose(found, best.x, atol=1e-5)
        # effective degrees of freedom: the trace of the smoother
        whole = np.c_[design, member]
        mu = np.exp(whole @ found + np.log(library))
        data = whole.T @ ((mu / (1 + alpha * mu))[:, None] * whole)
        shrunk = data.copy()
        shrunk[:6, :6] += penalty
        shrunk[6:, 6:] += precision * np.eye(3)
        edf = np.trace(np.linalg.solve(shrunk, data))
        assert fit.effective_df[g] == pytest.approx(edf, rel=1e-5)


def test_dense_and_sparse_and_blocks_agree(monkeypatch):
    t, library, donor, counts = make()
    settings = {
        "library": library,
        "dispersion": 0.5,
        "group": donor,
        "group_precision": 5.0,
        "penalty": roughness_penalty(6),
    }
    design = spline_basis(t, 6)
    whole = fit_negative_binomial(counts.toarray(), design, **settings)
    monkeypatch.setattr("scivae.stats._matrices._VALUES_PER_BLOCK", 7 * N_CELLS)
    parts = fit_negative_binomial(sparse.csc_matrix(counts), design, **settings)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_a_weight_is_a_number_of_cells():
    t, library, _, counts = make(n_genes=4)
    twice = np.r_[np.arange(N_CELLS), np.arange(100)]
    design = spline_basis(t, 5)
    weighted = fit_negative_binomial(
        counts, design, library=library, dispersion=0.3, weights=np.bincount(twice).astype(float)
    )
    repeated = fit_negative_binomial(
        counts[:, twice], design[twice], library=library[twice], dispersion=0.3
    )
    np.testing.assert_allclose(weighted.coefficients, repeated.coefficients, atol=1e-8)


def test_genes_without_counts_and_with_few():
    counts = np.zeros((3, 50))
    counts[1, 10], counts[2, 30:] = 1, 2  # none, one, none in the first half
    t = np.linspace(0, 1, 50)
    fit = fit_negative_binomial(
        counts,
        spline_basis(t, 6),
        library=np.full(50, 1000.0),
        dispersion=0.5,
        penalty=0.1 * roughness_penalty(6) + 0.01 * roughness_penalty(6, order=1),
    )
    curves = 1000 * np.exp(spline_basis(t, 6) @ fit.coefficients.T)
    assert fit.converged.all()
    assert curves[:, 0].max() < 1e-6
    assert curves[:, 1].mean() == pytest.approx(1 / 50, rel=0.05)
    assert curves[:15, 2].max() < 0.1
    assert curves[40:, 2].mean() == pytest.approx(2, rel=0.15)


def test_one_step_from_the_solution_stays_there():
    t, library, donor, counts = make(n_genes=5)
    settings = {"library": library, "dispersion": 0.5, "group": donor, "group_precision": 5.0}
    design = spline_basis(t, 5)
    fit = fit_negative_binomial(counts, design, **settings)
    again = fit_negative_binomial(counts, design, **settings, start=fit, max_iterations=1)
    np.testing.assert_allclose(again.coefficients, fit.coefficients, atol=1e-5)
    np.testing.assert_allclose(again.group_effects, fit.group_effects, atol=1e-5)


def test_sums_of_cells_are_worth_their_cells():
    """Counts of ten alike cells, taken together, give the fit of the ten, and its information."""
    rng = np.random.default_rng(0)
    t = np.repeat(np.linspace(0, 1, 40), 10)
    counts = rng.negative_binomial(2, 2 / (2 + 3 * np.exp(t)))
    penalty = roughness_penalty(5)
    cells = fit_negative_binomial(
        counts[None], spline_basis(t, 5), library=np.ones(400), dispersion=0.5, penalty=penalty
    )
    sums = fit_negative_binomial(
        counts.reshape(40, 10).sum(axis=1)[None],
        spline_basis(t[::10], 5),
        library=np.full(40, 10.0),
        dispersion=0.5,
        dispersion_scale=np.full(40, 0.1),
        penalty=penalty,
    )
    np.testing.assert_allclose(sums.coefficients, cells.coefficients, atol=1e-6)
    np.testing.assert_allclose(sums.effective_df, cells.effective_df, rtol=1e-6)


def test_memory_does_not_grow_with_dense_genes(monkeypatch):
    n_genes, n_cells = 4000, 1000  # dense: 32 MB
    counts = sparse.random(n_genes, n_cells, 0.02, format="csr", random_state=0)
    counts.data[:] = 1
    monkeypatch.setattr("scivae.stats._matrices._VALUES_PER_BLOCK", 2**16)
    tracemalloc.start()
    fit_negative_binomial(
        counts, spline_basis(np.linspace(0, 1, n_cells), 6), library=np.ones(n_cells), dispersion=1,
        penalty=roughness_penalty(6), max_iterations=2,
    )  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


class TestDispersion:
    def test_follows_the_trend_over_genes(self):
        rng = np.random.default_rng(0)
        means = np.exp(np.linspace(-2, 3, 400))
        truth = 0.2 + 0.5 / means
        size = 1 / truth[:, None]
        counts = rng.negative_binomial(size, size / (size + means[:, None]), (400, 600))
        found = dispersion_trend(counts, np.ones((600, 1)), library=np.ones(600))
        inner = slice(50, 350)
        assert np.abs(np.log(found[inner] / truth[inner])).max() < 0.25

    def test_poisson_counts_have_next_to_none(self):
        counts = np.random.default_rng(0).poisson(5, (100, 400))
        found = dispersion_trend(counts, np.ones((400, 1)), library=np.ones(400))
        assert found.max() < 0.01
        assert found.min() >= module.MIN_DISPERSION

    def test_genes_that_say_nothing_get_that_of_rare_ones(self):
        counts = np.zeros((3, 100), dtype=int)
        counts[0] = np.random.default_rng(0).negative_binomial(2, 0.3, 100)
        counts[1, 0] = 1
        found = dispersion_trend(counts, np.ones((100, 1)), library=np.ones(100))
        np.testing.assert_allclose(found, found[0])
        nothing = dispersion_trend(counts[1:], np.ones((100, 1)), library=np.ones(100))
        assert np.isfinite(nothing).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"counts": -np.ones((2, 5))}, ValueError, "counts must not be negative, got -1"),
        ({"counts": np.full((2, 5), np.nan)}, ValueError, "counts must be finite"),
        ({"counts": np.ones(5)}, ValueError, "counts must be a matrix"),
        ({"design": np.ones((4, 2))}, ValueError, r"design must have the shape \(5, n_columns\)"),
        ({"library": np.zeros(5)}, ValueError, "library must be positive, got 0"),
        ({"dispersion": -1.0}, ValueError, "dispersion must be finite and not negative, got -1"),
        ({"weights": np.zeros(5)}, ValueError, "weights must not be negative and at least one"),
        (
            {"weights": np.ones(4)},
            ValueError,
            r"weights must have 5 values, one for each cell, got 4",
        ),
        ({"penalty": np.eye(3)}, ValueError, r"penalty must be a finite matrix of shape \(1, 1\)"),
        ({"group": np.zeros(5, int)}, ValueError, "group_precision must be positive"),
        ({"group": np.zeros(5)}, ValueError, "group must hold an integer for each of 5 cells"),
    ],
)
def test_bad_input(change, error, message):
    good = {
        "counts": np.ones((2, 5)),
        "design": np.ones((5, 1)),
        "library": np.ones(5),
        "dispersion": 0.1,
    }
    arguments = {**good, **change}
    with pytest.raises(error, match=message) as caught:
        fit_negative_binomial(arguments.pop("counts"), arguments.pop("design"), **arguments)
    assert "\n" not in str(caught.value)
