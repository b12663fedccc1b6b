"""Treated cells that were not measured, predicted from untreated ones."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.conftest import assert_unchanged, make_model, snapshot

from scivae import tl
from scivae.datasets import synthetic


def make(**kwargs):
    adata = synthetic(900, 60, 3, layout="across", seed=3, size_spread=0.2)
    adata.obs["stage"] = adata.obs["stage"].cat.as_unordered()
    return make_model(adata, epochs=10, n_latent=5, **kwargs)


@pytest.fixture(scope="module")
def model():
    """Treated cells of class_0 take no part in training."""
    adata = synthetic(900, 60, 3, layout="across", seed=3, size_spread=0.2)
    missing = (adata.obs["stage"] == "late") & (adata.obs["cell_type"] == "class_0")
    return make_model(adata[~missing].copy(), epochs=20, n_latent=5)


@pytest.fixture(scope="module")
def truth():
    adata = synthetic(900, 60, 3, layout="across", seed=3, size_spread=0.2)
    return adata[(adata.obs["stage"] == "late") & (adata.obs["cell_type"] == "class_0")]


def log_profile(counts):
    total = np.asarray(counts.sum(axis=0)).ravel()
    return np.log2(1 + 1e4 * total / total.sum())


def predict(model, **kwargs):
    return tl.predict_condition(model, "stage", "early", "late", level="class_0", **kwargs)


@pytest.mark.parametrize(
    ("method", "at_least"), [("transfer", 0.9), ("arithmetic", 0.6), ("ot", 0.6)]
)
def test_the_change_is_that_of_cells_that_nobody_saw(model, truth, method, at_least):
    cells = predict(model, method=method)
    adata = model.adata
    own = adata[(adata.obs["stage"] == "early") & (adata.obs["cell_type"] == "class_0")]
    before = log_profile(own.layers["counts"])
    measured = log_profile(truth.layers["counts"]) - before
    made = log_profile(cells.layers["counts"]) - before
    assert np.corrcoef(made, measured)[0, 1] > at_least
    np.testing.assert_allclose(cells.var["change"], made, atol=1e-6)
    none = predict(model, method="none")
    error = np.square(made - measured).mean()
    assert error < 0.7 * np.square(measured).mean()
    np.testing.assert_array_equal(none.layers["counts"], own.layers["counts"].toarray())


def test_what_comes_back(model, tmp_path):
    adata = model.adata
    before = snapshot(adata)
    cells = predict(model)
    assert_unchanged(adata, before)
    own = adata.obs_names[(adata.obs["stage"] == "early") & (adata.obs["cell_type"] == "class_0")]
    assert cells.obs["civae_source"].tolist() == own.tolist()
    assert (cells.obs["stage"] == "late").all()
    assert (cells.obs["civae_kind"] == "condition").all()
    assert cells.var_names.tolist() == adata.var_names.tolist()
    counts = cells.layers["counts"]
    assert (counts == np.rint(counts)).all()
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(cells.X, expected, rtol=1e-5)
    np.testing.assert_allclose(
        cells.obsm["X_civae"], model.get_latent_representation(cells.copy()), atol=1e-4
    )
    cells.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert back.uns["civae"]["weights"]["weight"].sum() == pytest.approx(1)


def test_the_error_is_of_levels_that_were_left_out(model):
    said = predict(model).uns["civae"]
    held_out = said["held_out"]
    assert set(held_out["level"]) == {"class_1", "class_2"}
    ours = held_out[held_out["method"] == "transfer"]
    none = held_out[held_out["method"] == "none"]
    assert (ours["r2"].to_numpy() > none["r2"].to_numpy()).all()
    assert said["held_out_r"] == pytest.approx(ours["r"].mean())
    # By hand: class_1 is predicted from class_2 alone.
    obs, counts = model.adata.obs, model.adata.layers["counts"]
    profile = {
        (k, s): log_profile(counts[((obs["cell_type"] == k) & (obs["stage"] == s)).to_numpy()])
        for k in ("class_1", "class_2")
        for s in ("early", "late")
    }
    change = profile["class_2", "late"] - profile["class_2", "early"]
    measured = profile["class_1", "late"] - profile["class_1", "early"]
    row = ours.set_index("level").loc["class_1"]
    assert row["r"] == pytest.approx(np.corrcoef(change, measured)[0, 1])


def test_target_cells_of_the_level_are_not_used():
    """Turning them into anything changes nothing."""
    model = make()
    first = predict(model)
    own = (model.adata.obs["stage"] == "late") & (model.adata.obs["cell_type"] == "class_0")
    adata = model.adata.copy()
    counts = adata.layers["counts"].toarray()
    counts[own.to_numpy()] = np.random.default_rng(0).poisson(50, (own.sum(), 60))
    adata.layers["counts"] = counts
    second = predict(model, adata=adata)
    np.testing.assert_array_equal(
        np.asarray(first.layers["counts"]), np.asarray(second.layers["counts"])
    )


def test_seed(model):
    a, b, c = (predict(model, seed=seed).layers["counts"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_donors_as_levels(model):
    adata = model.adata.copy()
    adata.obs["donor"] = np.array(["a", "b", "c"])[np.arange(adata.n_obs) % 3]
    cells = tl.predict_condition(
        model, "stage", "early", "late", level="a", by="donor", adata=adata
    )
    assert (cells.obs["donor"] == "a").all()
    assert list(cells.uns["civae"]["weights"].index) == ["b", "c"]


def test_one_other_level_has_no_error(model):
    adata = model.adata[(model.adata.obs["cell_type"] != "class_2").to_numpy()].copy()
    with pytest.warns(UserWarning, match="only 'class_1' has cells of both conditions") as told:
        said = predict(model, adata=adata).uns["civae"]
    assert len(told) == 1
    assert len(said["held_out"]) == 0
    assert np.isnan(said["held_out_r"])


def test_levels_that_respond_in_opposite_directions_are_told(model):
    """The stages of one of two other levels are exchanged, so neither predicts the other."""
    adata = model.adata.copy()
    stage, one = adata.obs["stage"].astype(str), (adata.obs["cell_type"] == "class_1")
    exchanged = stage.map({"early": "late", "late": "early"}).fillna("middle")
    adata.obs["stage"] = stage.where(~one, exchanged).astype("category")
    with pytest.warns(UserWarning, match="no better than no change"):
        predict(model, adata=adata)


def test_values_that_are_no_counts():
    model = make(setup={"layer": "X"}, likelihood="normal")
    cells = predict(model)
    own = model.adata[
        (model.adata.obs["stage"] == "early") & (model.adata.obs["cell_type"] == "class_0")
    ]
    moved = np.asarray(cells.X) - (own.X.toarray() if hasattr(own.X, "toarray") else own.X)
    assert np.abs(moved - moved[0]).max() < 1e-5  # one difference for all cells
    np.testing.assert_allclose(cells.var["change"], moved[0], atol=1e-5)
    assert predict(model, method="arithmetic").shape == cells.shape


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"level": "class_9"}, ValueError, "level must be a value that occurs in .*class_9"),
        ({"by": "stage", "level": "early"}, ValueError, "by must be another column than groupby"),
        ({"by": "nobody"}, KeyError, "by must be a column"),
        ({"target": "early"}, ValueError, "two conditions, got 'early' twice"),
        ({"target": "never"}, ValueError, "target must be a value"),
        ({"method": "scgen"}, ValueError, "method must be one of"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_input(model, change, error, message):
    arguments = {"source": "early", "target": "late", "level": "class_0", **change}
    before = snapshot(model.adata)
    with pytest.raises(error, match=message) as caught:
        tl.predict_condition(model, "stage", **arguments)
    assert "\n" not in str(caught.value)
    assert_unchanged(model.adata, before)


def test_nothing_to_learn_from(model):
    adata = model.adata[(model.adata.obs["cell_type"] == "class_0").to_numpy()].copy()
    with pytest.raises(ValueError, match="target must be a value|at least one other value"):
        predict(model, adata=adata)
    adata = model.adata.copy()
    adata.obs["cell_type"] = pd.Categorical(["class_0"] * adata.n_obs, model.classes)
    with pytest.raises(ValueError, match="at least one other value of adata.obs"):
        predict(model, adata=adata)
    adata = model.adata[~(
        (model.adata.obs["cell_type"] == "class_0") & (model.adata.obs["stage"] == "early")
    ).to_numpy()].copy()  # fmt: skip
    with pytest.raises(ValueError, match="must have cells of source='early'"):
        predict(model, adata=adata)
