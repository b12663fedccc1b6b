import numpy as np
import pytest
from tests.conftest import make_adata, make_model

from scivae.model import CIVAE


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saved_and_loaded_is_the_same_to_the_bit(trained, tmp_path):
    trained.save(tmp_path / "model")
    again = CIVAE.load(tmp_path / "model", adata=make_adata())
    np.testing.assert_array_equal(
        again.get_latent_representation(), trained.get_latent_representation()
    )
    np.testing.assert_array_equal(again.predict(soft=True), trained.predict(soft=True))
    for call in (
        lambda m: m.interpolate(0, 3, n_steps=4, n_samples=5, key_added=None).layers["q95"],
        lambda m: m.augment("alpha", 5, key_added=None).layers["counts"].toarray(),
    ):
        np.testing.assert_array_equal(call(again), call(trained))
    assert again.history.keys() == trained.history.keys()


def test_what_auto_chose_is_saved(adata, tmp_path):
    model = make_model(adata)
    model.save(tmp_path / "model")
    ones = make_adata()
    ones.layers["counts"] = (ones.layers["counts"] > 0).astype(np.float32)  # "auto" would differ
    ones.layers["counts"][:, 0] = 1
    assert CIVAE.load(tmp_path / "model", adata=ones).likelihood == "nb"


def test_load_query_data(trained):
    query = make_adata(seed=5)
    query.obs["cell_type"] = np.nan
    mapped = CIVAE.load_query_data(query, trained)
    mapped.train(max_epochs=2, enable_progress_bar=False)
    truth = make_adata(seed=5).obs["cell_type"].to_numpy()
    assert (mapped.predict() == truth).mean() > 0.8


def test_query_of_a_new_batch():
    model = make_model(make_adata(), epochs=20, setup={"batch_key": "batch"})
    query = make_adata(seed=5)
    query.obs["batch"] = "three"
    mapped = CIVAE.load_query_data(query, model)
    mapped.train(max_epochs=2, enable_progress_bar=False)
    assert mapped.setup.batches.tolist() == ["one", "two", "three"]
    assert (mapped.interpolate(0, 3, n_steps=3).obs["batch"] == "three").all()


def test_minified(adata):
    model = make_model(adata, epochs=10)
    full = model.interpolate(0, 3, n_steps=4, key_added=None)
    z, variance = model.get_latent_representation(return_dist=True)
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = z, variance
    model.minify_adata(use_latent_qzm_key="X_latent_qzm", use_latent_qzv_key="X_latent_qzv")
    np.testing.assert_allclose(model.get_latent_representation(), z, atol=1e-6)
    small = model.interpolate(0, 3, n_steps=4, key_added=None)
    np.testing.assert_allclose(small.layers["counts"], full.layers["counts"], rtol=1e-4)
    assert model.augment("alpha", 3, key_added=None).n_obs == 3


def test_class_discriminator_is_exposed(trained):
    weights = trained.discriminator_weights
    assert weights.index.tolist() == trained.classes.tolist()
    assert weights.columns.tolist() == [f"latent_{i}" for i in range(4)]
