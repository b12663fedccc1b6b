"""``discriminator_weight="auto"``."""

import anndata
import numpy as np
import pytest
from scipy import sparse
from tests.conftest import make_adata

import scivae
from scivae.data import information
from scivae.data.information import pca_information
from scivae.model import CIVAE, BlockDataModule, _weights
from scivae.model._weights import DEFAULT_WEIGHT, FRACTION


def weight_of(x, n_latent, *, counts):
    """The weight before it is rounded to three digits."""
    information = pca_information(x, counts=counts)
    exact = FRACTION * information[min(n_latent, len(information)) - 1]
    assert _weights.auto_discriminator_weight(information, n_latent) == float(f"{exact:.3g}")
    return exact


def factors(n_obs=4000, n_vars=60, rank=3, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(rank, n_vars))
    x = rng.normal(size=(n_obs, rank)) @ loadings + noise * rng.normal(size=(n_obs, n_vars))
    information = 0.5 * np.log1p((loadings**2).sum(axis=0) / noise**2).sum()
    return x, information


def test_it_is_what_a_linear_code_tells():
    x, information = factors()
    assert weight_of(x, 3, counts=False) == pytest.approx(FRACTION * information, rel=0.03)
    fewer = weight_of(x, 1, counts=False)
    assert fewer < 0.6 * FRACTION * information


def test_units_do_not_matter_and_noise_tells_nothing():
    x, _ = factors()
    weight = weight_of(x, 3, counts=False)
    scaled = x * np.geomspace(0.5, 2, x.shape[1]) + 7
    assert weight_of(1e4 * x, 3, counts=False) == pytest.approx(weight, rel=1e-3)
    assert weight_of(scaled, 3, counts=False) == pytest.approx(weight, rel=0.05)
    noise = np.random.default_rng(0).normal(size=(2000, 50))
    # a dimension holds one of the 50 variables, so ten of them half a nat each, and no more
    assert weight_of(noise, 10, counts=False) < 0.75 * 10 * FRACTION
    constant = np.c_[x, np.ones((len(x), 5))]
    assert weight_of(constant, 3, counts=False) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_storage_does_not_matter(kind):
    counts = make_adata().layers["counts"]
    expected = weight_of(sparse.csr_matrix(counts), 4, counts=True)
    assert weight_of(kind(sparse.csr_matrix(counts).toarray()), 4, counts=True) == (
        pytest.approx(expected, rel=1e-4)
    )


def test_more_cells_than_are_looked_at():
    x, known = factors(n_obs=5000)
    seen = information.spread_over(len(x))
    assert len(seen) == len(set(seen)) == information.MAX_CELLS
    assert (seen.min(), seen.max()) == (0, len(x) - 1)
    x[np.setdiff1d(np.arange(len(x)), seen)] = 1e6
    assert weight_of(x, 3, counts=False) == pytest.approx(FRACTION * known, rel=0.03)


def test_code_of_more_dimensions_than_are_told_apart():
    x, _ = factors(n_vars=200)
    told = pca_information(x, counts=False)
    assert len(told) == information.MAX_COMPONENTS
    assert (np.diff(told[:3]) > 0).all()
    assert weight_of(x, 1000, counts=False) == pytest.approx(FRACTION * told[-1])


def test_cells_on_the_disk_have_the_weight_of_those_in_memory(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(information, "MAX_CELLS", 40)  # fewer than there are
    monkeypatch.setattr(information, "SIDE_BY_SIDE", 4)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    CIVAE.setup_anndata(adata)
    for likelihood in ("auto", "nb"):
        data = BlockDataModule(tmp_path / "cells.h5ad")
        model = CIVAE(registry=data.registry, likelihood=likelihood, n_latent=3)
        expected = CIVAE(adata, n_latent=3).module.discriminator_weight
        assert expected > 1
        assert model.module.discriminator_weight == pytest.approx(expected)
    unread = BlockDataModule(tmp_path / "cells.h5ad", check=False)
    model = CIVAE(registry=unread.registry, likelihood="nb", sigmoid=False)
    assert model.module.discriminator_weight == DEFAULT_WEIGHT


def test_a_model_takes_it_and_keeps_it(adata, tmp_path):
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4)
    information = pca_information(adata.layers["counts"], counts=True)
    expected = _weights.auto_discriminator_weight(information, 4)
    assert model.module.discriminator_weight == pytest.approx(expected)
    assert f"discriminator_weight: {expected}" in model._model_summary_string
    model.is_trained_ = True
    model.save(tmp_path / "model")
    few = adata[:30].copy()  # would give another
    loaded = CIVAE.load(tmp_path / "model", adata=few)
    assert loaded.module.discriminator_weight == model.module.discriminator_weight


def test_wrong_labels_are_not_memorized(tmp_path):
    """Of cells that were trained on: 40 % of them have a label drawn at random from the other classes."""
    adata = scivae.datasets.synthetic(n_cells=600, n_genes=60, n_classes=3, n_donors=2, seed=3)
    true = adata.obs["cell_type"].to_numpy().astype(str)
    rng = np.random.default_rng(0)
    names, given = np.unique(true), true.copy()
    for i in rng.permutation(len(true))[: int(0.4 * len(true))]:
        given[i] = rng.choice(names[names != true[i]])
    adata.obs["given"] = given
    CIVAE.setup_anndata(adata, labels_key="given", layer="counts")
    right = {}
    for robustness in (0.0, 0.7):
        model = CIVAE(adata, label_robustness=robustness)
        model.train(120, train_size=1.0, enable_progress_bar=False)
        right[robustness] = float((model.predict() == true).mean())
    assert right[0.7] > right[0.0] + 0.1
    assert right[0.7] > 0.85
    model.save(tmp_path / "model")
    loaded = CIVAE.load(tmp_path / "model", adata=adata)
    assert loaded.module.label_robustness == 0.7
    assert "labels doubted (0.7)" in str(loaded)


def test_labels_that_are_doubted_weigh_a_tenth(adata):
    CIVAE.setup_anndata(adata)
    trusted, doubted = (CIVAE(adata, label_robustness=q).module for q in (0.0, 0.7))
    assert doubted.discriminator_weight == pytest.approx(
        max(1.0, trusted.discriminator_weight / 10), rel=0.01
    )
    assert (
        CIVAE(adata, label_robustness=0.7, discriminator_weight=9).module.discriminator_weight == 9
    )
    with pytest.raises(ValueError, match="label_robustness must lie in"):
        CIVAE(adata, label_robustness=1.5)


def test_what_it_cannot_do(adata):
    CIVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match=r"must be one of 'auto', got 'best'"):
        CIVAE(adata, discriminator_weight="best")
    registry = CIVAE(adata).registry_
    unread = CIVAE(registry=registry, likelihood="nb", sigmoid=False)
    assert unread.module.discriminator_weight == DEFAULT_WEIGHT
    few = anndata.AnnData(np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]], dtype="float32"))
    few.obs["cell_type"] = ["a", "b", "a"]
    CIVAE.setup_anndata(few)
    assert CIVAE(few).module.discriminator_weight >= 1
