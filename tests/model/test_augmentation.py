from unittest.mock import Mock, patch

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae.datasets import synthetic
from scivae.model import _augmentation, _drawing
from scivae.model._drawing import class_covariance
from scivae.module import Covariates, Posterior


def test_what_comes_back(trained):
    cells = trained.augment("beta", 30, key_added=None)
    assert cells.shape == (30, trained.adata.n_vars)
    counts = cells.layers["counts"].toarray()
    assert (counts == counts.round()).all()
    assert counts.min() >= 0
    for column, value in {
        "cell_type": "beta",
        "civae_kind": "augmented",
        "civae_predicted": "beta",
    }.items():
        assert (cells.obs[column] == value).all()
    assert cells.obs["civae_t"].between(0, 1).all()
    assert cells.obs["civae_t"].nunique() == 30
    assert (cells.obs["civae_margin"] > 0).all()
    assert cells.uns["civae"]["values"] == "sampled"
    assert cells.obs_names.is_unique


def test_every_cell_lies_on_a_line_between_two_cells_of_the_class(trained):
    cells = trained.augment("beta", 30, key_added=None)
    adata = trained.adata
    z = dict(zip(adata.obs_names, trained.get_latent_representation(), strict=True))
    for row, latent in zip(cells.obs.itertuples(), cells.obsm["X_civae"], strict=True):
        assert row.civae_source != row.civae_target
        ends = [adata.obs.loc[name, "cell_type"] for name in (row.civae_source, row.civae_target)]
        assert ends == ["beta", "beta"]
        line = (1 - row.civae_t) * z[row.civae_source] + row.civae_t * z[row.civae_target]
        np.testing.assert_allclose(latent, line, atol=1e-5)


def test_normal_cells_lie_in_the_region_of_the_class(trained):
    cells = trained.augment("beta", 200, method="normal", key_added=None)
    assert cells.uns["civae"]["method"] == "normal"
    assert (cells.obs["cell_type"] == "beta").all()
    code = list(trained.classes).index("beta")
    assert (trained.linear_classes.predict(cells.obsm["X_civae"]) == code).all()
    assert cells.obs["civae_t"].isna().all()
    sources = trained.adata.obs.loc[cells.obs["civae_source"].astype(str)]
    assert (sources["cell_type"] == "beta").all()
    assert (cells.obs["civae_source"].astype(str) == cells.obs["civae_target"].astype(str)).all()
    again = trained.augment({"alpha": 5, "beta": 200}, method="normal", key_added=None)[5:]
    np.testing.assert_array_equal(again.obsm["X_civae"], cells.obsm["X_civae"])


def test_normal_cells_have_the_moments_of_the_class(trained):
    cells = trained.codec.encode(
        trained.adata, np.flatnonzero(trained.adata.obs["cell_type"] == "beta")
    )
    shared = _drawing.shared_covariance(trained, trained.adata)
    z = trained.get_latent_representation()
    labels = trained.adata.obs["cell_type"]
    within = sum((labels == c).sum() * np.cov(z[labels == c].T, bias=True) for c in labels.unique())
    np.testing.assert_allclose(shared, within / (len(z) - labels.nunique()), rtol=1e-4, atol=1e-6)
    n = len(cells.mean)
    expected = ((n - 1) * np.cov(cells.mean.T) + 20 * shared) / (n - 1 + 20)
    expected += np.diag((cells.scale**2).mean(axis=0))
    covariance = class_covariance(cells, shared)
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-6)
    # where the region is all there is, the points drawn have them, too
    source = _augmentation._source(
        trained, trained.adata, list(trained.classes).index("beta"), None
    )
    whole = source._replace(cells=cells, covariance=covariance)
    everywhere = trained.linear_classes._replace(weights=np.zeros((3, z.shape[1])))
    code = int(everywhere.predict(np.zeros(z.shape[1])))
    with patch.object(type(trained), "linear_classes", everywhere):
        drawn = _drawing.in_class(
            trained, whole._replace(code=code), covariance, 50_000, np.random.default_rng(0)
        )
    assert drawn.rejected == 0
    np.testing.assert_allclose(drawn.z.mean(axis=0), cells.mean.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.z.T), covariance, atol=0.05)


def test_a_normal_distribution_outside_of_its_class_is_an_error(trained):
    classes = trained.linear_classes
    never = classes._replace(bias=classes.bias - 1e6 * (trained.classes == "beta"))
    with (
        patch.object(type(trained), "linear_classes", never),
        pytest.warns(UserWarning, match="fewer than two 'beta' cells"),
        pytest.raises(RuntimeError, match="only 0 of "),
    ):
        trained.augment("beta", 5, method="normal", key_added=None)


def test_accepted_by_the_stated_rule(trained):
    cells = trained.augment("gamma", 50, key_added=None)
    summary = cells.uns["civae"]["classes"].loc["gamma"]
    soft = trained.predict(cells, soft=True)
    np.testing.assert_allclose(soft["gamma"], cells.obs["civae_confidence"], atol=1e-5)
    assert (soft["gamma"] >= summary["min_confidence"] - 1e-6).all()
    assert summary["yield"] == pytest.approx(50 / summary["n_drawn"])
    # Fewer than 20 cells were held out in all (12), so all labeled cells set the threshold.
    codes = trained.adata.obs["_scvi_labels"].to_numpy()
    real = trained.predict(soft=True).to_numpy()[np.arange(len(codes)), codes]
    assert summary["n_threshold_cells"] == len(codes)
    assert summary["min_confidence"] == pytest.approx(np.quantile(real, 0.05), abs=1e-6)


def test_held_out_cells_set_the_threshold(adata):
    model = make_model(adata, epochs=30)
    alpha = np.flatnonzero(adata.obs["cell_type"] == "alpha")
    model.validation_indices = alpha[:25]
    summary = model.augment("alpha", 5).uns["civae"]["classes"].loc["alpha"]
    held_out = model.predict(indices=alpha[:25], soft=True)["alpha"]
    assert summary["n_threshold_cells"] == 25
    assert summary["min_confidence"] == pytest.approx(np.quantile(held_out, 0.05), abs=1e-6)
    # A class with too few held-out cells goes by those of all classes.
    other = model.augment("beta", 5).uns["civae"]["classes"].loc["beta"]
    assert other["n_threshold_cells"] == 25
    assert other["min_confidence"] == pytest.approx(np.quantile(held_out, 0.05), abs=1e-6)


def test_several_classes(trained):
    cells = trained.augment({"gamma": 4, "alpha": 7}, key_added=None)
    assert cells.obs["cell_type"].tolist() == ["gamma"] * 4 + ["alpha"] * 7
    assert cells.uns["civae"]["classes"].index.tolist() == ["gamma", "alpha"]


def test_reproducible_whatever_else_draws(trained):
    first = trained.augment("alpha", 20, seed=3, key_added=None)
    torch.manual_seed(9), np.random.seed(9)  # noqa: NPY002
    second = trained.augment({"beta": 5, "alpha": 20}, seed=3, key_added=None)[5:]
    np.testing.assert_array_equal(
        first.layers["counts"].toarray(), second.layers["counts"].toarray()
    )
    third = trained.augment("alpha", 20, seed=4, key_added=None)
    assert (first.layers["counts"] != third.layers["counts"]).nnz


def test_expected_values_are_those_of_the_latent_points(trained):
    cells = trained.augment("alpha", 10, sample=False, key_added=None)
    assert cells.uns["civae"]["values"] == "expected"
    values = np.asarray(cells.layers["counts"])
    library = values.sum(axis=1)
    decoded = trained.decode(cells.obsm["X_civae"], library_size=library)
    np.testing.assert_allclose(values, decoded, rtol=1e-4)
    totals = pd.Series(
        np.asarray(trained.adata.layers["counts"].sum(axis=1)).ravel(), trained.adata.obs_names
    )
    ends = np.stack(
        [totals[cells.obs[end].astype(str)] for end in ("civae_source", "civae_target")]
    )
    assert (np.abs(ends / library - 1).min(axis=0) < 1e-4).all()  # the library of one of the ends


def test_notes_the_yield_and_round_trips(trained, tmp_path):
    adata = trained.adata.copy()
    cells = trained.augment("alpha", 6, adata=adata)
    assert adata.uns["civae"]["augmented"].loc["alpha", "n"] == 6
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.write_zarr(tmp_path / "cells.zarr")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert again.uns["civae"]["classes"].loc["alpha", "n"] == 6
    np.testing.assert_array_equal(
        anndata.read_zarr(tmp_path / "cells.zarr").layers["counts"].toarray(),
        cells.layers["counts"].toarray(),
    )


def test_sampled_counts_have_the_mean_of_the_decoder(trained):
    z = np.repeat(trained.get_latent_representation(indices=[0]), 4000, axis=0)
    samples = trained.decode(z, library_size=200.0, sample=True)
    mean = trained.decode(z[:1], library_size=200.0)[0]
    theta = trained.module.px_r.exp().detach().numpy()
    error = np.sqrt((mean + mean**2 / theta) / len(z))
    assert (np.abs(samples.mean(axis=0) - mean) < 5 * error + 1e-3).all()
    variance = mean + mean**2 / theta
    np.testing.assert_allclose(samples.var(axis=0)[mean > 1], variance[mean > 1], rtol=0.25)


def test_conditions_of_a_cell_are_those_of_one_of_its_ends():
    model = make_model(make_adata(), epochs=20, setup={"batch_key": "batch"})
    cells = model.augment("alpha", 300, min_confidence=0.0).obs
    source, target = (
        model.adata.obs["batch"].loc[cells[end].astype(str)].astype(str).to_numpy()
        for end in ("civae_source", "civae_target")
    )
    batch, t = cells["batch"].astype(str).to_numpy(), cells["civae_t"].to_numpy()
    assert ((batch == source) | (batch == target)).all()
    differ = source != target
    of_target = batch[differ] == target[differ]
    # how often it is the target's is its place between them
    assert abs(of_target.mean() - t[differ].mean()) < 3 * np.sqrt(0.25 / differ.sum())
    near = np.abs(t[differ] - of_target) < 0.5
    expected = np.maximum(t, 1 - t)[differ].mean()  # 0.75 were places uniform
    assert near.mean() == pytest.approx(expected, abs=0.12)


BAD = {
    "unseen label": (("delta", 5), {}, KeyError, "label must be a class that the model was trained on, got 'delta'"),
    "zero": (("alpha", 0), {}, ValueError, "n must be at least 1, got 0"),
    "fraction": (({"alpha": 2.5},), {}, TypeError, "n must be an integer, got 2.5"),
    "method": (("alpha", 5), {"method": "spherical"}, ValueError, "method must be one of 'linear'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_say_why_and_change_nothing(trained, case):
    arguments, keywords, error, message = BAD[case]
    before = snapshot(trained.adata)
    with pytest.raises(error, match=message):
        trained.augment(*arguments, **keywords)
    assert_unchanged(trained.adata, before)


@pytest.mark.parametrize("n_left", [0, 1])
def test_class_of_one_cell_or_none(trained, n_left):
    adata = make_adata()
    keep = (adata.obs["cell_type"] != "alpha").to_numpy(copy=True)
    keep[:n_left] = True
    with pytest.raises(ValueError, match=f"'alpha' has {n_left} in adata"):
        trained.augment("alpha", 3, adata=adata[keep].copy())


def test_a_threshold_out_of_reach(adata):
    model = make_model(adata, epochs=1)
    with pytest.raises(RuntimeError, match="only 0 of .* drawn for 'alpha'.*lower min_confidence"):
        model.augment("alpha", 2, min_confidence=1.0)


@pytest.fixture
def short_rounds(monkeypatch):
    """Rounds of a few cells, so that stores are appended to."""
    monkeypatch.setattr("scivae.model._augmentation.DRAWS_PER_ROUND", 16)


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("layer", ["counts", "X"])
def test_a_store_holds_the_same_cells(adata, tmp_path, short_rounds, sample, layer):
    if layer == "X":
        adata.X = adata.layers.pop("counts")
    setup = {"batch_key": "batch", "continuous_covariate_keys": ["age"]}
    model = make_model(adata, epochs=30, setup=setup)
    arguments = {"min_confidence": 0.0, "sample": sample, "seed": 3}
    expected = model.augment({"beta": 40, "alpha": 25}, **arguments)
    path = model.augment({"beta": 40, "alpha": 25}, store=tmp_path / "cells.zarr", **arguments)
    assert path == tmp_path / "cells.zarr"
    assert [entry.name for entry in tmp_path.iterdir()] == ["cells.zarr"]
    cells = anndata.read_zarr(path)
    assert cells.obs_names.equals(expected.obs_names)
    assert cells.var_names.equals(expected.var_names)
    pd.testing.assert_frame_equal(
        cells.obs, expected.obs, check_dtype=False, check_categorical=False
    )
    for column in ("cell_type", "civae_kind", "civae_predicted", "batch"):
        assert cells.obs[column].dtype == expected.obs[column].dtype
    names = ["X"] if layer == "X" else ["X", "counts"]
    for name in names:
        found, wanted = (a.X if name == "X" else a.layers[name] for a in (cells, expected))
        assert sparse.issparse(found) == sparse.issparse(wanted) == sample
        found, wanted = (m.toarray() if sparse.issparse(m) else m for m in (found, wanted))
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(cells.obsm["X_civae"], expected.obsm["X_civae"])
    pd.testing.assert_frame_equal(cells.uns["civae"]["classes"], expected.uns["civae"]["classes"])
    assert cells.uns["civae"]["versions"] == expected.uns["civae"]["versions"]
    assert model.predict(cells).shape == (65,)


def test_a_store_is_there_whole_or_not_at_all(adata, tmp_path, short_rounds, monkeypatch):
    model = make_model(adata, epochs=30)
    before = snapshot(adata)
    target = tmp_path / "new" / "cells.zarr"
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("scivae.data.writers._append", Mock(side_effect=full))
        with pytest.raises(OSError, match="cannot write .No space left on device"):
            model.augment("alpha", 20, min_confidence=0.0, store=target)
    assert not target.exists()
    assert not list(tmp_path.glob("new/*"))
    assert_unchanged(adata, before)
    target.mkdir()
    with pytest.raises(ValueError, match="cells.zarr already exists; delete it, or choose another"):
        model.augment("alpha", 5, store=target)
    with pytest.raises(ValueError, match="folder of a zarr store, got .*cells.h5ad.*'cells.zarr'"):
        model.augment("alpha", 5, store=tmp_path / "cells.h5ad")
    with pytest.raises(TypeError, match="store must be a path, got bool"):
        model.augment("alpha", 5, store=True)
    assert_unchanged(adata, before)


def variance_within(values, labels):
    """Pooled over classes, one class at a time."""
    groups = [values[labels == label] for label in np.unique(labels)]
    total = sum(((x - x.mean(axis=0)) ** 2).sum(axis=0) for x in groups)
    return total / (len(values) - len(groups))


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_variance_of_generated_cells_is_nearer_with_dispersions_from_moments(
    likelihood, monkeypatch
):
    adata = synthetic(400, 60, 3, layout="across")
    n = {label: 3 * size for label, size in adata.obs["cell_type"].value_counts().items()}
    real = variance_within(adata.layers["counts"].toarray(), adata.obs["cell_type"].to_numpy())

    def excess(method):
        """Logarithm of the ratio of variances within classes, the median over genes."""
        cells = model.augment(n, method=method, min_confidence=0.0, key_added=None, seed=1)
        labels = cells.obs["cell_type"].to_numpy()
        return np.log(np.median(variance_within(cells.layers["counts"].toarray(), labels) / real))

    model = make_model(adata, epochs=30, likelihood=likelihood)
    lines, normal = excess("linear"), excess("normal")
    monkeypatch.setattr("scivae.model._train.start_dispersions", lambda *args: [])
    model = make_model(adata, epochs=30, likelihood=likelihood)
    assert abs(lines) < min(0.2, excess("linear") - 0.05)
    assert 0 < normal < excess("normal") - 0.05


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
