import numpy as np
import pytest
import torch
from tests.conftest import make_adata, make_model

import scivae
from scivae.model import _dispersion, _drawing
from scivae.model._dispersion import WithinClasses, overdispersion_factor
from scivae.module import LIKELIHOODS, Covariates, Posterior
from scivae.nb.distributions import NegativeBinomial


def variance_within(values, labels):
    """Pooled over classes, one class at a time."""
    groups = [values[labels == label] for label in np.unique(labels)]
    total = sum(((x - x.mean(axis=0)) ** 2).sum(axis=0) for x in groups)
    return total / (len(values) - len(groups))


def test_variance_within_classes_block_by_block():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 101)
    codes[codes == 2] = 1  # a class without cells
    x = rng.poisson(3 + 5 * codes[:, None], (101, 7))
    sums = WithinClasses(4, 7)
    for rows in np.array_split(np.arange(101), 6):
        sums.add(x[rows].astype(np.float32), codes[rows])
    np.testing.assert_allclose(sums.variance, variance_within(x, codes), rtol=1e-10)
    assert sums.degrees_of_freedom == 98


def test_factor_finds_the_true_dispersion():
    """Real cells of dispersion 2, which a decoder takes for 0.5, with the right expected values."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(2.0, 3.0, (200_000, 1))
    real = rng.poisson(rng.gamma(2.0, mean / 2.0))
    factor = overdispersion_factor(
        real.var(axis=0), mean.var(axis=0), mean.mean(axis=0), (mean**2 / 0.5).mean(axis=0)
    )
    np.testing.assert_allclose(factor, 0.5 / 2.0, rtol=0.05)


def test_factor_has_bounds():
    one = np.ones(1)
    assert overdispersion_factor(one, one, one, one) == _dispersion.LEAST
    assert overdispersion_factor(1e9 * one, one, one, one) == 1.0


@pytest.mark.parametrize("factor", [1e-6, 0.3, 4.0])
def test_a_factor_scales_the_overdispersion_of_samples(factor):
    mean, theta = torch.full((200_000, 1), 6.0), torch.tensor([2.0])
    px = NegativeBinomial(mean, theta, mean)
    sampled = LIKELIHOODS["nb"].draw(px, np.random.default_rng(0), np.array([factor]))
    np.testing.assert_allclose(sampled.var(), 6 + factor * 36 / 2, rtol=0.03)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("method", ["linear", "normal"])
def test_generated_cells_vary_as_real_ones_do(likelihood, method, monkeypatch):
    adata = scivae.datasets.synthetic(400, 60, 3, layout="across")
    model = make_model(adata, epochs=30, likelihood=likelihood)
    real = variance_within(adata.layers["counts"].toarray(), adata.obs["cell_type"].to_numpy())

    def ratio():
        n = adata.obs["cell_type"].value_counts() * 30
        cells = model.augment(
            n.to_dict(), method=method, min_confidence=0.0, key_added=None, seed=1
        )
        labels = cells.obs["cell_type"].to_numpy()
        return np.median(variance_within(cells.layers["counts"].toarray(), labels) / real)

    matched = ratio()
    monkeypatch.setattr("scivae.model._augmentation.match_dispersion", lambda *args: 1.0)
    decoders_own = ratio()
    assert abs(np.log(matched)) < 0.3
    assert abs(np.log(decoders_own)) > 2 * abs(np.log(matched))


def test_few_cells_leave_the_decoders_dispersion(trained):
    few = trained.adata[:4].copy()
    few.obs["cell_type"] = trained.classes[0]
    adata = trained._validate_anndata(few)
    drawn = []

    def draw_points(code, cells):
        drawn.append(len(cells.mean))
        z = np.zeros((len(cells.mean), trained.module.n_latent), dtype=np.float32)
        return type("", (), {"z": z, "covariates": cells.covariates})()

    factor = _dispersion.match_dispersion(trained, adata, draw_points)
    assert drawn == [4]
    assert factor.shape == (trained.adata.n_vars,)
    assert factor.min() >= 20 / 23  # 20 cells say 1, three degrees of freedom something else


def test_only_negative_binomials_have_a_dispersion():
    model = make_model(make_adata(), likelihood="poisson")
    assert _dispersion.match_dispersion(model, model.adata, None) == 1.0


@pytest.mark.parametrize(
    ("n", "kept"), [(5, 2 / 3), (10, 2 / 3), (25, 1 - 0.4 / 1.8), (500, 6 / 7)]
)
def test_lines_keep_variance_between_cells(n, kept):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, 3)).astype(np.float32)
    covariates = Covariates(np.zeros(n), np.zeros(n, dtype=np.int64), *np.empty((2, n, 0)))
    pool = Posterior(z, np.ones_like(z), np.zeros(n, dtype=np.int64), covariates)
    source = _drawing.Source(0, "", pool, np.empty(0, dtype=str), 0.0, None, {})
    new = _drawing.on_lines(source, 200_000, rng)
    np.testing.assert_allclose(((1 - new.t) ** 2 + new.t**2).mean(), kept, rtol=0.01)
    line = (1 - new.t[:, None]) * z[new.first] + new.t[:, None] * z[new.last]
    np.testing.assert_allclose(new.z, line, atol=1e-5)
