import errno
import json
import os
import time
from pathlib import PurePath

import numpy as np
import pytest
from scvi.model import SCVI
from tests.conftest import make_adata, make_model
from tests.model.make_saved_model import SAVED, outputs

from scivae.data import files as _files
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


@pytest.mark.parametrize("version", sorted(p.name for p in SAVED.iterdir()))
def test_what_an_earlier_version_saved(version):
    """Made by ``make_saved_model``; the numbers are those of the version that saved it."""
    model = CIVAE.load(SAVED / version, adata=make_adata())
    assert sum(p.stat().st_size for p in (SAVED / version).iterdir()) < 200_000
    expected = json.loads((SAVED / version / "outputs.json").read_text())
    found = outputs(model)
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, rtol=1e-4, atol=1e-5, err_msg=name)
    assert model.setup.unlabeled_category == "gamma"
    assert model.setup.continuous == ("age",)


def test_saved_with_its_cells(adata, tmp_path):
    model = make_model(adata)
    model.save(tmp_path / "model", prefix="my_", save_anndata=True)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"my_model.pt", "my_adata.h5ad"}
    again = CIVAE.load(tmp_path / "model", prefix="my_")
    np.testing.assert_array_equal(
        again.get_latent_representation(), model.get_latent_representation()
    )
    assert CIVAE.load_registry(tmp_path / "model", "my_")["model_name"] == "CIVAE"
    model.save(tmp_path / "model", prefix="another_", overwrite=True)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "my_model.pt",
        "my_adata.h5ad",
        "another_model.pt",
    }
    with pytest.raises(ValueError, match="already exists; pass overwrite=True"):
        model.save(tmp_path / "model")


def test_folder_may_be_bytes(trained, tmp_path):
    folder = os.fsencode(tmp_path / "model")
    trained.save(folder)
    again = CIVAE.load(folder, trained.adata)
    np.testing.assert_array_equal(
        again.get_latent_representation(), trained.get_latent_representation()
    )
    assert CIVAE.load_registry(folder)["model_name"] == "CIVAE"


def test_minified_is_saved_too(adata, tmp_path):
    model = make_model(adata)
    adata.obsm["m"], adata.obsm["v"] = model.get_latent_representation(return_dist=True)
    model.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    model.save(tmp_path / "model", save_anndata=True)
    again = CIVAE.load(tmp_path / "model")
    assert again.minified_data_type == model.minified_data_type is not None
    np.testing.assert_array_equal(
        again.get_latent_representation(), model.get_latent_representation()
    )


def test_query_of_a_saved_model(trained, tmp_path):
    trained.save(tmp_path / "model")
    mapped = CIVAE.load_query_data(make_adata(seed=5), tmp_path / "model")
    for name, weights in trained.module.state_dict().items():
        np.testing.assert_array_equal(mapped.module.state_dict()[name], weights, err_msg=name)


def test_what_has_no_plain_form_needs_trust(trained, tmp_path):
    trained.note_ = PurePath("here")
    try:
        with pytest.warns(UserWarning, match="can only be loaded with trusted=True"):
            trained.save(tmp_path / "model")
    finally:
        del trained.note_
    with pytest.raises(ValueError, match="names 'pathlib"):
        CIVAE.load(tmp_path / "model", adata=make_adata())
    again = CIVAE.load(tmp_path / "model", adata=make_adata(), trusted=True)
    assert again.note_ == PurePath("here")


def test_full_disk(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "model")
    before = (tmp_path / "model" / "model.pt").read_bytes()

    def full(path, value):
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_files, "write", full)
    for folder in ("model", "new"):
        with pytest.raises(OSError, match=r"cannot write \(No space left.*untouched") as caught:
            trained.save(tmp_path / folder, overwrite=True)
        assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["model.pt"]
    assert (tmp_path / "model" / "model.pt").read_bytes() == before


def test_what_a_killed_process_left_is_swept_up_after_a_day(trained, tmp_path):
    old, young = tmp_path / ".model.saving-old", tmp_path / ".model.saving-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    trained.save(tmp_path / "model")
    assert not old.exists()
    assert young.exists()


def test_checkpoints_of_scvi_tools(adata, tmp_path):
    from scvi.train import SaveCheckpoint

    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4, n_hidden=16)
    best = SaveCheckpoint(dirpath=str(tmp_path), monitor="elbo_validation", load_best_on_end=True)
    model.train(max_epochs=3, batch_size=32, callbacks=[best], enable_progress_bar=False)
    again = CIVAE.load(best.best_model_path, adata=make_adata())
    np.testing.assert_array_equal(
        again.get_latent_representation(), model.get_latent_representation()
    )


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_another_class_is_said_to_be_one(tmp_path):
    adata = make_adata()
    SCVI.setup_anndata(adata, layer="counts")
    other = SCVI(adata, n_latent=2)
    other.save(tmp_path / "model")
    for call in (CIVAE.load, CIVAE.load_registry):
        with pytest.raises(
            ValueError, match="of a CIVAE, but .* is of 'SCVI'; nothing was executed"
        ):
            call(tmp_path / "model")
    with pytest.raises(TypeError, match="must be a CIVAE or its folder, got SCVI"):
        CIVAE.load_query_data(make_adata(), other)
    with pytest.raises(ValueError, match="column of the labels, but SCVI made it without one"):
        CIVAE(registry=other.registry)


def test_values_of_another_kind_are_told_what_the_model_was_trained_on(trained, tmp_path):
    trained.save(tmp_path / "model")
    adata = make_adata()
    adata.layers["counts"] = np.log1p(adata.layers["counts"])
    with pytest.raises(ValueError, match=r"log-normalized .* put the raw counts there"):
        CIVAE.load(tmp_path / "model", adata)
