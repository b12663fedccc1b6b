"""Cells reach the network in the order asked for, from memory and from files."""

import anndata
import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from tests.conftest import make_adata

from scivae.data.loader import CellsLoader
from scivae.model import CIVAE
from scivae.train import steps
from scivae.train.compiled_step import CompiledStep

STORES = ("csr", "array", "csr of 64 bits", "backed csr", "backed array")


def stored(store, folder):
    """Cells sorted by class, with counts in X, stored in a way."""
    adata = make_adata()
    adata = adata[np.argsort(adata.obs["cell_type"].cat.codes, kind="stable")].copy()
    adata.X = adata.layers.pop("counts")
    if "array" in store:
        adata.X = adata.X.toarray()
    if "64" in store:
        adata.X.indptr = adata.X.indptr.astype(np.int64)
    if "backed" not in store:
        return adata
    path = folder / f"{store}.h5ad"
    if not path.exists():
        adata.write_h5ad(path)
    return anndata.read_h5ad(path, backed="r")


def model_of(adata, **kwargs):
    CIVAE.setup_anndata(adata)
    return CIVAE(adata, **{"n_latent": 4, "n_hidden": 16, **kwargs})


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("store", STORES)
def test_cells_come_in_the_order_asked_for(store, as_tensor, num_workers, tmp_path):
    adata = stored(store, tmp_path)
    indices = np.array([80, 3, 3, 119, 0, 41, 2])
    loader = CellsLoader(
        model_of(adata).adata_manager,
        indices=indices,
        batch_size=3,
        load_sparse_tensor=as_tensor,
        num_workers=num_workers,
    )
    found = list(loader)
    assert [len(part["X"]) for part in found] == [3, 3, 1]
    counts = np.concatenate([part["X"].to_dense().numpy() for part in found])
    np.testing.assert_array_equal(counts, stored("array", tmp_path).X[indices])
    codes = np.concatenate([part[REGISTRY_KEYS.LABELS_KEY].numpy().ravel() for part in found])
    np.testing.assert_array_equal(codes, adata.obs["_scvi_labels"].iloc[indices])


@pytest.fixture
def minibatches(monkeypatch):
    """How many cells of each class the minibatches of training hold."""
    seen = []
    step = steps.take_step

    def noted(plan, tensors, *args, **kwargs):
        if plan.training:
            codes = tensors[REGISTRY_KEYS.LABELS_KEY].long().ravel()
            seen.append(torch.bincount(codes, minlength=3).tolist())
        return step(plan, tensors, *args, **kwargs)

    gradients = CompiledStep._gradients

    def noted_in_loops(self, cells, labels, *args):
        seen.append(torch.bincount(labels, minlength=3).tolist())
        return gradients(self, cells, labels, *args)

    monkeypatch.setattr(steps, "take_step", noted)
    monkeypatch.setattr(CompiledStep, "_gradients", noted_in_loops)
    return seen


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_training_does_not_depend_on_where_cells_lie(likelihood, minibatches, tmp_path):
    """The cells of the file are sorted by class: a block that is cut as it lies there has one class."""
    found = []
    for store in STORES:
        for num_workers in (0, 2) if store in ("csr", "backed csr") else (0,):
            minibatches.clear()
            model = model_of(stored(store, tmp_path), likelihood=likelihood)
            model.train(
                3,
                batch_size=16,
                enable_progress_bar=False,
                datasplitter_kwargs={"num_workers": num_workers},
            )
            found.append((list(minibatches), model.history, model.module.state_dict()))
    seen, history, weights = found[0]
    assert min(min(counts) for counts in seen if sum(counts) == 16) > 0
    for others, other_history, other_weights in found[1:]:
        assert others == seen
        for name, column in history.items():
            assert column.equals(other_history[name]), name
        for name, values in weights.items():
            assert torch.equal(values, other_weights[name]), name


def test_results_come_in_the_order_asked_for(tmp_path):
    """Of methods that scvi-tools has and this package inherits, too."""
    indices = np.array([80, 3, 119, 0, 41])
    models = [model_of(stored(store, tmp_path)) for store in ("csr", "backed csr")]
    for model in models:
        model.train(2, batch_size=16, enable_progress_bar=False)
    for call in (
        lambda m: m.get_latent_representation(indices=indices),
        lambda m: m.get_latent_representation(indices=indices, return_dist=True)[1],
        lambda m: m.predict(indices=indices, soft=True),
        lambda m: m.get_normalized_expression(indices=indices),
        lambda m: m.get_latent_library_size(indices=indices, give_mean=False),
        lambda m: m.get_likelihood_parameters(indices=indices)["mean"],
    ):
        memory, backed = map(np.asarray, map(call, models))
        np.testing.assert_array_equal(memory, backed)


def test_a_process_that_loads_starts_as_the_user_says(tmp_path):
    ran = tmp_path / "ran"
    model = model_of(stored("csr", tmp_path))  # which holds the cells
    loader = CellsLoader(
        model.adata_manager,
        batch_size=60,
        num_workers=2,
        worker_init_fn=lambda number: ran.with_suffix(f".{number}").touch(),
    )
    assert len(list(loader)) == 2
    assert sorted(p.name for p in tmp_path.glob("ran*")) == ["ran.0", "ran.1"]
