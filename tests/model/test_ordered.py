import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_adata, make_model

import scivae
from scivae.model import CIVAE, BlockDataModule
from scivae.module import OrderedLinear


def ordered_adata(**kwargs):
    adata = make_adata(**kwargs)
    order = ["gamma", "alpha", "beta"]
    adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"], order, ordered=True)
    return adata


@pytest.fixture(scope="module")
def ordered():
    return make_model(ordered_adata(), epochs=20, setup={"ordered": True})


def test_paths_cross_the_classes_in_their_order(ordered):
    assert isinstance(ordered.module.discriminator, OrderedLinear)
    assert ordered.classes.tolist() == ["gamma", "alpha", "beta"]
    labels = ordered.adata.obs["cell_type"]
    first = np.flatnonzero(labels == "gamma")[:20]
    last = np.flatnonzero(labels == "beta")[:20]
    paths = ordered.interpolate(first, last, n_steps=200, key_added=None)
    seen = paths.obs.groupby("civae_path", observed=True)["civae_predicted"]
    n_crossed = 0
    for _, predicted in seen:
        codes = pd.Categorical(predicted, ordered.classes).codes
        steps = np.diff(codes.astype(int))
        assert (steps >= 0).all() or (steps <= 0).all()
        n_crossed += set(codes) == {0, 1, 2}
    assert n_crossed > 10  # most paths run from the first class to the last


def test_a_loaded_model_keeps_the_order(ordered, tmp_path):
    ordered.save(tmp_path / "model")
    loaded = CIVAE.load(tmp_path / "model", ordered_adata())
    np.testing.assert_array_equal(loaded.predict(), ordered.predict())
    pd.testing.assert_frame_equal(loaded.discriminator_weights, ordered.discriminator_weights)


def test_numbers_have_an_order(adata):
    adata.obs["time"] = np.arange(adata.n_obs) % 3 * 24
    model = make_model(adata, setup={"labels_key": "time", "ordered": True})
    assert model.classes.tolist() == [0, 24, 48]
    assert isinstance(model.module.discriminator, OrderedLinear)


def test_text_has_no_order(adata):
    with pytest.raises(ValueError, match="ordered=True needs ordered classes, got no order"):
        CIVAE.setup_anndata(adata, ordered=True)
    with pytest.raises(TypeError, match="ordered must be True or False"):
        CIVAE.setup_anndata(adata, ordered="yes")


def test_an_order_is_used_only_where_it_is_asked_for():
    adata = ordered_adata()
    CIVAE.setup_anndata(adata)
    assert not isinstance(CIVAE(adata).module.discriminator, OrderedLinear)


def test_cells_on_the_disk_can_have_an_order(tmp_path):
    ordered_adata().write_h5ad(tmp_path / "cells.h5ad")
    data = BlockDataModule(tmp_path / "cells.h5ad", ordered=True)
    model = CIVAE(registry=data.registry, n_latent=4)
    model.train(datamodule=data, max_epochs=2, enable_progress_bar=False)
    assert isinstance(model.module.discriminator, OrderedLinear)


def test_without_a_discriminator_one_class_is_enough(adata):
    adata.obs["one"] = pd.Categorical(["only"] * adata.n_obs, ordered=True)
    CIVAE.setup_anndata(adata, "one", ordered=True)
    CIVAE(adata, discriminator_weight=0.0)


def test_synthetic_stages_are_learned():
    adata = scivae.datasets.synthetic(n_cells=600, n_genes=60)
    CIVAE.setup_anndata(adata, "stage", ordered=True)
    model = CIVAE(adata, n_latent=4)
    model.train(max_epochs=40, enable_progress_bar=False)
    assert (model.predict() == adata.obs["stage"]).mean() > 0.85
