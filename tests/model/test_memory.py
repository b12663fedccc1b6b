"""What nobody holds any more is freed; what is held stays whole."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from tests.conftest import make_adata, make_model

from scivae.model import CIVAE, BlockDataModule


def alive(refs):
    gc.collect()
    return sum(ref() is not None for ref in refs)


def test_cells_of_others_are_freed(trained):
    refs = []
    for seed in range(4):
        query = make_adata(seed=seed, n_cells=30)
        trained.predict(query)
        trained.get_normalized_expression(query)
        trained.interpolate(0, 3, n_steps=2, adata=query)
        view = make_adata(seed=seed, n_cells=30)[:20]
        trained.predict(view)
        refs += [weakref.ref(query), weakref.ref(view)]
    del query, view
    assert alive(refs) == 0
    assert len(CIVAE._per_instance_manager_store[trained.id]) == 1


def test_models_are_freed_with_their_cells(tmp_path):
    refs = []
    for seed in range(3):
        adata = make_adata(seed=seed)
        model = make_model(adata, epochs=1)
        model.save(tmp_path / str(seed))
        again = CIVAE.load(tmp_path / str(seed), make_adata(seed=seed))
        mapped = CIVAE.load_query_data(make_adata(seed=9), model)
        refs += [weakref.ref(x) for x in (adata, model, model.module, again, again.adata, mapped)]
        stores = CIVAE._per_instance_manager_store
        assert model.id in stores
    del adata, model, again, mapped
    assert alive(refs) == 0
    assert all(m.adata is not None for m in CIVAE._setup_adata_manager_store.values())


def test_setups_without_a_model_are_freed():
    before = len(CIVAE._setup_adata_manager_store)
    refs = []
    for seed in range(3):
        adata = make_adata(seed=seed)
        CIVAE.setup_anndata(adata)
        refs.append(weakref.ref(adata))
        BlockDataModule(make_adata(seed=seed))
    del adata
    assert alive(refs) == 0
    assert len(CIVAE._setup_adata_manager_store) <= before


def test_a_model_holds_its_own_cells():
    model = make_model(make_adata(), epochs=1)
    gc.collect()
    assert model.predict().shape == (120,)
    assert model.adata_manager.adata is model.adata


def test_in_another_process_the_cells_come_along(trained):
    """Workers get the manager pickled, and nobody else there holds the cells."""
    manager = pickle.loads(pickle.dumps(trained.adata_manager))
    gc.collect()
    assert manager.adata.shape == trained.adata.shape
    np.testing.assert_array_equal(
        manager.get_from_registry("X").toarray(), trained.adata.layers["counts"].toarray()
    )
    again = copy.deepcopy(trained.adata_manager)
    gc.collect()
    assert again.adata.shape == trained.adata.shape


@pytest.mark.filterwarnings("ignore")
def test_held_out_cells_follow_their_names():
    adata = make_adata()
    model = make_model(adata, epochs=2)
    names = set(adata.obs_names[model.validation_indices])
    classes = model.augment("alpha", 2, key_added=None).uns["civae"]["classes"]
    threshold = classes["min_confidence"].iloc[0]
    adata._inplace_subset_obs(np.random.default_rng(0).permutation(adata.n_obs))
    assert set(adata.obs_names[model.validation_indices]) == names
    moved = (
        model.augment("alpha", 2, key_added=None).uns["civae"]["classes"]["min_confidence"].iloc[0]
    )
    assert moved == pytest.approx(threshold, abs=1e-6)
    adata._inplace_subset_obs(np.arange(0, adata.n_obs, 2))
    assert set(adata.obs_names[model.validation_indices]) == names & set(adata.obs_names)
    assert len(model.train_indices) + len(model.validation_indices) == adata.n_obs
    model.train(max_epochs=1, enable_progress_bar=False)
    assert model.validation_indices.max() < adata.n_obs


@pytest.mark.filterwarnings("ignore")
def test_held_out_cells_of_a_loaded_model_follow_their_names(tmp_path):
    adata = make_adata()
    model = make_model(adata, epochs=2)
    model.save(tmp_path / "model")
    names = set(adata.obs_names[model.validation_indices])
    reordered = make_adata()[::-1].copy()
    again = CIVAE.load(tmp_path / "model", reordered)
    assert set(reordered.obs_names[again.validation_indices]) == names


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_model_encode_as_it_does(trained, copied):
    expected = trained.get_latent_representation()
    np.testing.assert_array_equal(copied(trained).get_latent_representation(), expected)
