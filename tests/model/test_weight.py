"""``discriminator_weight="auto"``."""

import anndata
import numpy as np
import pytest
from scipy import sparse
from tests.conftest import make_adata

from scivae.model import CIVAE
from scivae.model._weight import SHARE, auto_discriminator_weight


def factors(n_obs=4000, n_vars=60, rank=3, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(rank, n_vars))
    x = rng.normal(size=(n_obs, rank)) @ loadings + noise * rng.normal(size=(n_obs, n_vars))
    nats = 0.5 * np.log1p((loadings**2).sum(axis=0) / noise**2).sum()
    return x, nats


def test_it_is_what_a_linear_code_tells():
    x, nats = factors()
    assert auto_discriminator_weight(x, 3, counts=False) == pytest.approx(SHARE * nats, rel=0.03)
    fewer = auto_discriminator_weight(x, 1, counts=False)
    assert fewer < 0.6 * SHARE * nats


def test_units_do_not_matter_and_noise_tells_nothing():
    x, _ = factors()
    weight = auto_discriminator_weight(x, 3, counts=False)
    scaled = x * np.geomspace(0.5, 2, x.shape[1]) + 7
    assert auto_discriminator_weight(1e4 * x, 3, counts=False) == pytest.approx(weight, rel=1e-3)
    assert auto_discriminator_weight(scaled, 3, counts=False) == pytest.approx(weight, rel=0.05)
    noise = np.random.default_rng(0).normal(size=(2000, 50))
    # a dimension holds one of the 50 variables, so ten of them half a nat each, and no more
    assert auto_discriminator_weight(noise, 10, counts=False) < 0.75 * 10 * SHARE
    constant = np.c_[x, np.ones((len(x), 5))]
    assert auto_discriminator_weight(constant, 3, counts=False) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_storage_does_not_matter(kind):
    counts = make_adata().layers["counts"]
    expected = auto_discriminator_weight(sparse.csr_matrix(counts), 4, counts=True)
    assert auto_discriminator_weight(kind(sparse.csr_matrix(counts).toarray()), 4, counts=True) == (
        pytest.approx(expected, rel=1e-4)
    )


def test_a_model_takes_it_and_keeps_it(adata, tmp_path):
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4, discriminator_weight="auto")
    expected = auto_discriminator_weight(adata.layers["counts"], 4, counts=True)
    assert model.module.discriminator_weight == pytest.approx(expected)
    assert f"discriminator_weight: {expected}" in model._model_summary_string
    model.is_trained_ = True
    model.save(tmp_path / "model")
    few = adata[:30].copy()  # would give another
    loaded = CIVAE.load(tmp_path / "model", adata=few)
    assert loaded.module.discriminator_weight == model.module.discriminator_weight


def test_what_it_cannot_do(adata):
    CIVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match=r"must be one of 'auto', got 'best'"):
        CIVAE(adata, discriminator_weight="best")
    with pytest.raises(ValueError, match="'auto' reads the data, but there is none"):
        CIVAE(
            registry=CIVAE(adata).registry_,
            likelihood="nb",
            sigmoid=False,
            discriminator_weight="auto",
        )
    few = anndata.AnnData(np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]], dtype="float32"))
    few.obs["cell_type"] = ["a", "b", "a"]
    CIVAE.setup_anndata(few)
    assert CIVAE(few, discriminator_weight="auto").module.discriminator_weight >= 1
