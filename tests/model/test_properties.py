"""What holds whatever the order, the storage and the names of cells, genes and classes."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from tests.conftest import CLASSES, N_CELLS, N_GENES, make_adata, make_model

from scivae import tl
from scivae.model import CIVAE

few = settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 2**32 - 1)


def query():
    """Cells that the model was not trained on, by names that tell them apart."""
    adata = make_adata(seed=3)
    adata.obs_names = [f"query_{i}" for i in range(N_CELLS)]
    return adata


def answers(model, adata):
    """What the model makes of cells, each cell, pair and gene by its name."""
    walk = {"n_steps": 3, "adata": adata, "key_added": None}
    names = ["query_0", "query_4"], ["query_3", "query_1"]
    pairs = pd.DataFrame({"source": names[0] * 4, "target": names[1] * 4})
    latent = model.get_latent_representation(adata)
    return {
        "latent": pd.DataFrame(latent, index=adata.obs_names),
        "soft": model.predict(adata, soft=True),
        "path": model.interpolate(*names, **walk).to_df("counts"),
        "bent": model.interpolate(*names, method="spherical", **walk).to_df("counts"),
        "bands": model.interpolate(*names, n_samples=5, **walk).to_df("q95"),
        "trends": tl.gene_trends(model, pairs, n_steps=3, adata=adata, evidence="decoded").to_df(
            "q95"
        ),
    }


def agree(found, expected, atol=1e-4):
    for name, table in expected.items():
        pd.testing.assert_frame_equal(
            found[name].loc[table.index, table.columns],
            table,
            check_dtype=False,
            rtol=1e-4,
            atol=atol,
            obj=name,
        )


@pytest.fixture(scope="module")
def expected(trained):
    return answers(trained, query())


@few
@given(seed=seeds)
def test_order_of_the_cells(trained, expected, seed):
    order = np.random.default_rng(seed).permutation(N_CELLS)
    agree(answers(trained, query()[order].copy()), expected)


@few
@given(batch_size=st.integers(1, 200), seed=seeds)
def test_batch_size(trained, expected, batch_size, seed):
    adata = query()
    index = np.random.default_rng(seed).integers(N_CELLS, size=50)
    np.testing.assert_allclose(
        trained.get_latent_representation(adata, index, batch_size=batch_size),
        expected["latent"].to_numpy()[index],
        atol=1e-5,
    )
    soft = trained.predict(adata, index, soft=True, batch_size=batch_size)
    np.testing.assert_allclose(soft, expected["soft"].iloc[index], atol=1e-5)
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-9)


def frame(x):
    return pd.DataFrame(x, index=[f"query_{i}" for i in range(N_CELLS)], columns=GENES)


GENES = [f"gene_{i}" for i in range(N_GENES)]
STORAGE = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "int64": lambda x: x.astype(np.int64),
    "sparse uint8": lambda x: sparse.csr_matrix(x.astype(np.uint8)),
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian int": lambda x: x.astype(">i4"),
    "frame": frame,
}


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("slot", ["layer", "X"])
def test_storage(trained, expected, storage, slot):
    adata = query()
    stored = STORAGE[storage](adata.layers["counts"].toarray())
    if slot == "layer":
        adata.layers["counts"] = stored
        agree(answers(trained, adata), expected)
    else:  # the same numbers, trained on
        adata = anndata.AnnData(X=stored, obs=adata.obs, var=adata.var)
        reference = query()
        latents = [make_model(a).get_latent_representation() for a in (adata, reference)]
        np.testing.assert_allclose(*latents, atol=1e-4)


@pytest.mark.parametrize("kind", ["view", "view of genes", "h5ad", "zarr", "backed", "dask"])
def test_storage_elsewhere(trained, expected, kind, tmp_path):
    adata = query()
    if kind.startswith("view"):
        more = make_adata(seed=8, n_cells=150, n_genes=50 if "genes" in kind else N_GENES)
        more.obs_names = [f"query_{i}" for i in range(150)]
        counts = more.layers["counts"].toarray()
        counts[:N_CELLS, :N_GENES] = adata.layers["counts"].toarray()
        more.layers["counts"] = counts
        adata = more[:N_CELLS, :N_GENES]
        assert adata.is_view
    elif kind == "dask":
        dask = pytest.importorskip("dask.array")
        adata.layers["counts"] = dask.from_array(adata.layers["counts"].toarray(), chunks=(50, -1))
    else:
        write = "zarr" if kind == "zarr" else "h5ad"
        getattr(adata, f"write_{write}")(tmp_path / "adata")
        backed = {"backed": "r"} if kind == "backed" else {}
        adata = getattr(anndata, f"read_{write}")(tmp_path / "adata", **backed)
    agree(answers(trained, adata), expected)


def reordered(model, adata, size, order):
    """A model of other data with the weights of a model, one axis of them in another order."""
    CIVAE.setup_anndata(adata)
    other = CIVAE(adata, n_latent=4, n_hidden=16)
    state = {}
    for name, weights in model.module.state_dict().items():
        for axis in range(weights.ndim):
            if weights.shape[axis] == size:  # no other axis is as long
                weights = weights.index_select(axis, order)
        state[name] = weights
    other.module.load_state_dict(state)
    other.module.eval()
    other.is_trained_, other.temperature_ = True, model.temperature_
    return other


@few
@given(seed=seeds)
def test_permuting_the_genes_permutes_the_answers(trained, expected, seed):
    import torch

    order = np.random.default_rng(seed).permutation(N_GENES)
    other = reordered(trained, make_adata()[:, order].copy(), N_GENES, torch.as_tensor(order))
    found = answers(other, query()[:, order].copy())
    assert found["path"].columns.tolist() == [GENES[i] for i in order]
    del found["bands"]  # samples, drawn gene by gene
    agree(found, {name: table for name, table in expected.items() if name != "bands"})


@few
@given(order=st.permutations(range(3)))
def test_permuting_the_labels_permutes_the_answers(trained, expected, order):
    import torch

    adata = make_adata()
    names = [CLASSES[i] for i in order]
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.reorder_categories(names)
    other = reordered(trained, adata, 3, torch.as_tensor(order))
    assert other.classes.tolist() == names
    assert other.predict(soft=True).columns.tolist() == names
    agree(answers(other, query()), expected)
    path, same = (m.interpolate(0, 4, n_steps=7, key_added=None).obs for m in (other, trained))
    assert path["civae_predicted"].tolist() == same["civae_predicted"].tolist()
    np.testing.assert_allclose(path["civae_margin"], same["civae_margin"], atol=1e-5)


def test_renaming_the_labels_renames_the_answers():
    new = {"alpha": "x/1", "beta": "Ω", "gamma": ""}
    renamed = make_adata()
    renamed.obs["cell_type"] = renamed.obs["cell_type"].cat.rename_categories(new)
    one, other = make_model(make_adata()), make_model(renamed)
    np.testing.assert_array_equal(
        one.get_latent_representation(), other.get_latent_representation()
    )
    assert [new[label] for label in one.predict()] == other.predict().tolist()
    cells = [m.augment(m.predict()[0], 4, min_confidence=0.0) for m in (one, other)]
    assert (cells[0].X != cells[1].X).nnz == 0
    assert set(cells[1].obs["cell_type"]) == {new[one.predict()[0]]}


@few
@given(label=st.sampled_from(CLASSES), n=st.integers(1, 40), seed=st.integers(0, 2**70))
def test_augment_draws_from_its_label_alone(trained, label, n, seed):
    cells = trained.augment(label, n, seed=seed, key_added=None)
    labels = trained.adata.obs["cell_type"]
    for end in ("civae_source", "civae_target"):
        assert (labels[cells.obs[end].astype(str)] == label).all()
    assert (cells.obs["civae_source"].astype(str) != cells.obs["civae_target"].astype(str)).all()
    assert cells.obs["civae_t"].between(0, 1).all()
    assert (cells.obs["cell_type"] == label).all()
    assert (cells.obs["civae_predicted"] == label).all()
    assert cells.n_obs == n


@few
@given(n_pairs=st.integers(1, 40), seed=seeds)
def test_quantiles_lie_where_mean_and_spread_allow(trained, n_pairs, seed):
    """The band holds the median always, the mean not: a few far paths may pull it out.

    How far is bounded. At least ``k + 1`` of n values lie at or below a quantile at place ``k`` and
    ``n - k - 1`` at or above it, so that by Cantelli's inequality it lies within
    ``sd · sqrt((n - k - 1) / (k + 1))`` below the mean and ``sd · sqrt((k + 1) / (n - k - 1))`` above.
    """
    rng = np.random.default_rng(seed)
    ends = rng.integers(N_CELLS, size=(2, n_pairs))
    names = trained.adata.obs_names
    pairs = pd.DataFrame({"source": names[ends[0]], "target": names[ends[1]]})
    trends = tl.gene_trends(trained, pairs, n_steps=3, evidence="decoded")
    path = trained.interpolate(*ends.tolist(), n_steps=3, key_added=None)
    values = path.to_df("counts").to_numpy().astype(float)
    values = np.log1p(1e4 * values / values.sum(axis=1, keepdims=True))
    values = values.reshape(n_pairs, 3, -1)
    mean, sd, low, high = (trends.layers[k] for k in ("mean", "sd", "q05", "q95"))
    slack = 1e-3
    assert (values.min(axis=0) - slack <= low).all()
    assert (low <= np.median(values, axis=0) + slack).all()
    assert (np.median(values, axis=0) <= high + slack).all()
    assert (high <= values.max(axis=0) + slack).all()
    assert (values.min(axis=0) - slack <= mean).all()
    assert (mean <= values.max(axis=0) + slack).all()
    for q, quantile in ((0.05, low), (0.95, high)):
        k = min(int(q * (n_pairs - 1)), n_pairs - 2)
        if n_pairs == 1:
            np.testing.assert_allclose(quantile, mean, atol=slack)
            continue
        assert (mean - sd * np.sqrt((n_pairs - k - 1) / (k + 1)) - slack <= quantile).all()
        assert (quantile <= mean + sd * np.sqrt((k + 1) / (n_pairs - k - 1)) + slack).all()


def same(a, b, where=""):
    """Raise unless two entries of ``uns`` hold the same, whichever container a file gives back."""
    if hasattr(a, "keys") and not isinstance(a, pd.DataFrame):
        assert set(a) == set(b), where
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, pd.DataFrame):
        # As what text is stored is up to pandas: object, or its own type from pandas 3 on.
        pd.testing.assert_frame_equal(a, b, check_names=False, check_index_type=False)
    else:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=where)


@pytest.mark.parametrize("write", ["h5ad", "zarr"])
@pytest.mark.parametrize("made", ["path", "cells", "trends", "adata"])
def test_round_trips(trained, write, made, tmp_path):
    adata = trained.adata.copy()
    path = trained.interpolate([0, 4], [3, 1], n_steps=3, n_samples=3, adata=adata)
    cells = trained.augment({"alpha": 3, "gamma": 2}, adata=adata)
    pairs = pd.DataFrame({"source": ["cell_0", "cell_3"], "target": ["cell_1", "cell_4"]})
    trends = tl.gene_trends(trained, pairs, n_steps=3, key_added=None)
    before = {"path": path, "cells": cells, "trends": trends, "adata": adata}[made]
    getattr(before, f"write_{write}")(tmp_path / made)
    after = getattr(anndata, f"read_{write}")(tmp_path / made)
    pd.testing.assert_frame_equal(after.obs, before.obs)
    pd.testing.assert_frame_equal(after.var, before.var)
    pd.testing.assert_frame_equal(after.to_df(), before.to_df())
    assert after.layers.keys() == before.layers.keys()
    for layer in before.layers.keys() - {"X"}:
        pd.testing.assert_frame_equal(after.to_df(layer), before.to_df(layer))
    for slot in ("obsm", "varm"):
        same(*({k: as_array(v) for k, v in getattr(x, slot).items()} for x in (before, after)))
    same(before.uns, after.uns)
    # What was read goes on to work.
    if made in ("path", "cells"):
        assert trained.predict(after).shape == (after.n_obs,)
    elif made == "adata":
        trained.interpolate(0, 6, n_steps=3, adata=after)
        assert len(after.uns["civae"]["paths"]) == 2


def as_array(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)
