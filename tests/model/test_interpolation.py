import re
import threading

import anndata
import numpy as np
import pytest
import scanpy as sc
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae import geometry, tl
from scivae.geometry import LinearClasses
from scivae.geometry.methods import PATH_METHODS, PathMethod
from scivae.model import CIVAE


@pytest.fixture(scope="module")
def conditioned():
    """A model with batches and both kinds of covariates."""
    return make_model(
        make_adata(),
        epochs=20,
        setup={
            "batch_key": "batch",
            "categorical_covariate_keys": ["site"],
            "continuous_covariate_keys": ["age"],
        },
    )


def library(adata, cell):
    return float(adata.layers["counts"][cell].sum())


def test_what_comes_back(trained):
    path = trained.interpolate("cell_0", "cell_3", n_steps=7, key_added=None)
    adata = trained.adata
    assert path.shape == (7, adata.n_vars)
    assert path.var_names.equals(adata.var_names)
    np.testing.assert_allclose(path.obs["civae_t"], np.linspace(0, 1, 7))
    for column, value in {
        "cell_type": "alpha",
        "civae_kind": "interpolated",
        "civae_path": "cell_0 → cell_3",
        "civae_source": "cell_0",
        "civae_target": "cell_3",
    }.items():
        assert (path.obs[column] == value).all()
    assert path.uns["civae"]["values"] == "expected"
    np.testing.assert_allclose(
        path.X,
        np.log1p(path.layers["counts"] / path.layers["counts"].sum(1, keepdims=True) * 1e4),
        rtol=1e-4,
    )


@pytest.mark.parametrize("method", PATH_METHODS)
def test_ends_are_the_decoded_cells(trained, method):
    path = trained.interpolate([0, 1], [3, 2], n_steps=5, method=method, key_added=None)
    z = trained.get_latent_representation(indices=[0, 3, 1, 2])
    sizes = [library(trained.adata, cell) for cell in (0, 3, 1, 2)]
    expected = trained.decode(z, library_size=np.array(sizes))
    rows = [0, 4, 5, 9]
    np.testing.assert_allclose(path.layers["counts"][rows], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(path.obsm["X_civae"][rows], z, atol=1e-6)


def test_steps_have_the_label_of_the_ends_only_where_it_is_guaranteed():
    """With a boundary that the arc between two cells of a class crosses, and the line does not."""
    model = make_model(make_adata(seed=2), epochs=10)  # of its own: its boundary is moved
    adata = model.adata
    cells = np.flatnonzero(adata.obs["cell_type"] == "alpha")
    z = model.get_latent_representation(indices=cells).astype(float)
    i, j = np.triu_indices(len(z), 1)
    top = geometry.spherical(z[i], z[j], [0.5])[:, 0]
    outwards = (z[i] + z[j]) / np.linalg.norm(z[i] + z[j], axis=1, keepdims=True)
    heights = np.stack([(outwards * points).sum(1) for points in (z[i], z[j], top)])
    rise = heights[2] - heights[:2].max(axis=0)
    best = int(rise.argmax())
    assert rise[best] > 0.01
    layer, code = model.module.discriminator, list(model.classes).index("alpha")
    weight, bias = torch.zeros_like(layer.weight), torch.full_like(layer.bias, -1e3)
    beyond = (code + 1) % 3
    weight[beyond] = torch.from_numpy(outwards[best])
    bias[code], bias[beyond] = 0, -(heights[2, best] - rise[best] / 2)
    layer.weight.data, layer.bias.data = weight, bias

    ends = int(cells[i[best]]), int(cells[j[best]])
    for method, found in PATH_METHODS.items():
        path = model.interpolate(*ends, n_steps=9, method=method, key_added=None)
        predicted = path.obs["civae_predicted"].astype(str)
        assert (path.obs["cell_type"].astype(str) == predicted).all()
        assert (predicted == "alpha").all() == found.stays_in_class


def test_the_methods_of_the_table_are_in_signatures_and_documentation():
    for function in (CIVAE.interpolate, tl.gene_trends):
        choices = re.findall(r"\w+", function.__annotations__["method"])
        assert choices == ["Literal", *PATH_METHODS]
    for method in PATH_METHODS:
        assert f'``"{method}"``' in CIVAE.interpolate.__doc__


def test_paths_that_depend_on_cells_are_those_of_the_table(trained, monkeypatch):
    def through_the_mean(start, end, n_steps, *, data, classes, label):
        assert classes is None
        assert label is None  # the ends are of two classes
        middle = np.broadcast_to(data.mean(axis=0), start.shape)
        return np.stack([start, middle, end], axis=1)

    method = PathMethod(None, straight=False, stays_in_class=False, of_cells=through_the_mean)
    monkeypatch.setitem(PATH_METHODS, "mean", method)
    path = trained.interpolate(0, 1, n_steps=3, method="mean", key_added=None)
    z = trained.get_latent_representation()
    both = trained.adata.obs["cell_type"].isin(["alpha", "beta"])
    np.testing.assert_allclose(path.obsm["X_civae"][1], z[both].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_geodesic_bends_and_stays_in_its_class(trained):
    alpha = np.flatnonzero(
        (trained.adata.obs["cell_type"] == "alpha") & (trained.predict() == "alpha")
    )
    pairs = alpha[:12], alpha[-12:]
    path = trained.interpolate(*pairs, n_steps=9, method="geodesic", key_added=None)
    assert (path.obs["civae_predicted"] == "alpha").all()
    line = trained.interpolate(*pairs, n_steps=9, key_added=None)
    assert not np.allclose(path.obsm["X_civae"], line.obsm["X_civae"], atol=1e-3)


def test_library_is_interpolated_on_the_log_scale(trained):
    path = trained.interpolate(0, 3, n_steps=3, key_added=None)
    sizes = library(trained.adata, 0), library(trained.adata, 3)
    middle = path.layers["counts"][1].sum()
    assert middle == pytest.approx(np.sqrt(sizes[0] * sizes[1]), rel=1e-4)
    fixed = trained.interpolate(0, 3, n_steps=3, library_size=500, key_added=None)
    np.testing.assert_allclose(fixed.layers["counts"].sum(axis=1), 500, rtol=1e-4)


def test_many_pairs_are_the_single_ones(trained):
    both = trained.interpolate([0, 1], [3, 7], n_steps=4, key_added=None)
    for i, pair in enumerate([(0, 3), (1, 7)]):
        one = trained.interpolate(*pair, n_steps=4, key_added=None)
        rows = slice(4 * i, 4 * i + 4)
        np.testing.assert_allclose(both.layers["counts"][rows], one.layers["counts"], rtol=1e-4)
        np.testing.assert_allclose(
            both.obs["civae_margin"][rows], one.obs["civae_margin"], rtol=1e-4
        )


def test_margin_is_the_discriminators(trained):
    path = trained.interpolate(0, 1, n_steps=9, key_added=None)
    layer = trained.module.discriminator
    weights, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
    logits = path.obsm["X_civae"] @ weights.T + bias
    others = np.delete(logits, 0, axis=1).max(axis=1)
    np.testing.assert_allclose(path.obs["civae_margin"], logits[:, 0] - others, atol=1e-4)
    assert path.obs["civae_predicted"].tolist() == [trained.classes[k] for k in logits.argmax(1)]


def test_crossings_are_where_two_logits_are_equal(trained):
    adata = trained.adata.copy()
    trained.interpolate([0, 0], [1, 3], n_steps=5, adata=adata)
    (entry,) = adata.uns["civae"]["paths"].values()
    crossings = entry["crossings"]
    assert len(crossings["t"])
    z = trained.get_latent_representation(adata)[[0, 1]]
    code = {name: i for i, name in enumerate(trained.classes)}
    assert set(crossings["path"]) == {0}  # the second walk stays in its class
    for t, before, after in zip(
        crossings["t"], crossings["before"], crossings["after"], strict=True
    ):
        logits = trained.linear_classes.logits((1 - t) * z[0] + t * z[1])
        assert logits[code[before]] == pytest.approx(logits[code[after]], abs=1e-4)
        assert logits.max() == pytest.approx(logits[code[before]], abs=1e-4)


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.integers(2, 8), n_latent=st.integers(1, 6))
def test_margins_on_a_straight_path_are_least_at_an_end(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = LinearClasses(rng.normal(size=(n_classes, n_latent)), rng.normal(size=n_classes))
    points = rng.normal(size=(50, n_latent)) * 3
    code = classes.predict(points)
    same = np.flatnonzero(code == code[0])
    ends = points[same[[0, -1]]]
    path = geometry.linear(ends[0], ends[1], np.linspace(0, 1, 101))[0]
    margins = classes.margin(path, code[0])
    assert margins.min() >= min(margins[0], margins[-1]) - 1e-9
    assert margins.min() >= 0
    crossings = geometry.segment_crossings(classes, ends[:1], ends[1:])
    assert len(crossings.t) == 0


def test_written_back(trained):
    adata = trained.adata.copy()
    n_obs = adata.n_obs
    path = trained.interpolate("cell_0", "cell_3", n_steps=5, adata=adata, key_added="walk")
    assert adata.n_obs == n_obs
    (name,) = adata.uns["walk"]["paths"]
    assert name == "cell_0 → cell_3"
    entry = adata.uns["walk"]["paths"][name]
    points = entry["points"]
    np.testing.assert_array_equal(points.filter(like="latent_"), path.obsm["X_civae"])
    np.testing.assert_allclose(points["margin"], path.obs["civae_margin"])
    assert points["t"].tolist() == path.obs["civae_t"].tolist()
    position = adata.obs["walk_t"]
    assert position[adata.obs["cell_type"] == "alpha"].between(0, 1).all()
    assert position[adata.obs["cell_type"] != "alpha"].isna().all()
    assert position["cell_0"] == pytest.approx(0, abs=1e-6)
    assert position["cell_3"] == pytest.approx(1, abs=1e-6)


def test_position_is_the_projection_onto_the_line(trained):
    adata = trained.adata.copy()
    trained.interpolate(0, 3, n_steps=5, adata=adata)
    z = trained.get_latent_representation(adata).astype(float)
    alpha = (adata.obs["cell_type"] == "alpha").to_numpy()
    along = (z - z[0]) @ (z[3] - z[0]) / ((z[3] - z[0]) ** 2).sum()
    np.testing.assert_allclose(adata.obs["civae_t"][alpha], along[alpha].clip(0, 1), atol=1e-5)


def test_file_formats_hold_it(trained, tmp_path):
    adata = trained.adata.copy()
    adata.obs_names = ["a/b", *adata.obs_names[1:]]
    path = trained.interpolate("a/b", "cell_4", n_steps=3, adata=adata, n_samples=4)
    path.write_h5ad(tmp_path / "path.h5ad")
    path.write_zarr(tmp_path / "path.zarr")
    adata.write_h5ad(tmp_path / "adata.h5ad")
    for again in (
        anndata.read_h5ad(tmp_path / "path.h5ad"),
        anndata.read_zarr(tmp_path / "path.zarr"),
    ):
        np.testing.assert_array_equal(again.layers["q95"], path.layers["q95"])
        assert again.obs["civae_t"].tolist() == path.obs["civae_t"].tolist()
        assert again.uns["civae"]["seed"] == 0
    entry = anndata.read_h5ad(tmp_path / "adata.h5ad").uns["civae"]["paths"]["a|b → cell_4"]
    assert entry["pairs"]["source"].tolist() == ["a/b"]


def test_goes_back_into_every_method(conditioned):
    path = conditioned.interpolate([0, 4], [3, 1], n_steps=3, key_added=None)
    assert conditioned.get_latent_representation(path).shape == (6, 4)
    assert conditioned.predict(path).shape == (6,)
    assert conditioned.get_normalized_expression(path).shape == path.shape
    assert np.isfinite(conditioned.get_elbo(path))
    assert conditioned.interpolate(0, 5, n_steps=2, adata=path).n_obs == 2
    assert len(conditioned.differential_expression(path, groupby="civae_source", silent=True))


def test_covariates_at_the_ends_and_between(conditioned):
    adata = conditioned.adata
    a, b = 0, 5  # of different batches
    assert adata.obs["batch"].iloc[a] != adata.obs["batch"].iloc[b]
    path = conditioned.interpolate(a, b, n_steps=5, key_added=None)
    assert path.obs["batch"].tolist() == ["one", "one", "two", "two", "two"]
    np.testing.assert_allclose(
        path.obs["age"],
        np.linspace(adata.obs["age"].iloc[a], adata.obs["age"].iloc[b], 5),
        rtol=1e-5,
    )
    # In the middle: half of what either batch (with its site) would give.
    z, age = path.obsm["X_civae"][2:3], path.obs["age"].iloc[2]
    size = np.sqrt(library(adata, a) * library(adata, b))
    halves = [
        conditioned.decode(
            z, adata.obs[["batch", "site"]].iloc[[cell]].assign(age=age), library_size=size
        )
        for cell in (a, b)
    ]
    np.testing.assert_allclose(path.layers["counts"][2:3], np.mean(halves, axis=0), rtol=1e-4)


def test_transform_batch(conditioned):
    path = conditioned.interpolate(0, 5, n_steps=3, transform_batch="two", key_added=None)
    assert (path.obs["batch"] == "two").all()
    same_site = conditioned.adata.obs["site"].iloc[[0, 5]].nunique() == 1
    rows = slice(None) if same_site else [0, 2]
    decoded = conditioned.decode(
        path.obsm["X_civae"][rows],
        path.obs[["batch", "site", "age"]].iloc[rows],
        library_size=path.layers["counts"][rows].sum(axis=1),
    )
    np.testing.assert_allclose(path.layers["counts"][rows], decoded, rtol=1e-4)
    other = conditioned.interpolate(0, 5, n_steps=3, transform_batch="one", key_added=None)
    assert np.abs(other.layers["counts"] / path.layers["counts"] - 1).max() > 0.01


def test_bands_hold_real_noise(trained):
    path = trained.interpolate(0, 3, n_steps=3, n_samples=400, key_added=None)
    low, mean, high = path.layers["q05"], path.layers["counts"], path.layers["q95"]
    assert (low <= high).all()
    assert (high[mean > 3] > mean[mean > 3]).all()
    again = trained.interpolate(0, 3, n_steps=3, n_samples=400, key_added=None)
    np.testing.assert_array_equal(again.layers["q05"], low)
    # Draws of the likelihood at the first point, without posterior noise, lie outside as often as
    # 5 % and 95 % quantiles allow; ties of counts and posterior noise make it less, not more.
    draws = np.stack(
        [
            trained.decode(
                path.obsm["X_civae"][:1],
                library_size=library(trained.adata, 0),
                sample=True,
                seed=i,
            )[0]
            for i in range(400)
        ]
    )
    above, below = (draws > high[0]).mean(), (draws < low[0]).mean()
    assert 0.005 < above < 0.06
    assert 0.001 < below < 0.06


def test_misclassified_end_is_named(adata):
    model = make_model(adata, epochs=30)
    wrong = adata.copy()
    wrong.obs["cell_type"] = wrong.obs["cell_type"].astype(object)
    wrong.obs.loc["cell_1", "cell_type"] = "alpha"
    with pytest.warns(UserWarning, match="'cell_1' is labeled 'alpha' but classified as 'beta'"):
        model.interpolate("cell_0", "cell_1", adata=wrong, n_steps=3)
    with pytest.warns(UserWarning, match="'cell_1' is labeled 'alpha'"):
        path = model.interpolate("cell_0", "cell_1", adata=wrong, n_steps=5, method="geodesic")
    assert path.obs["civae_predicted"].tolist()[::4] == ["alpha", "beta"]


def test_unlabeled_ends_take_their_predicted_class(trained):
    query = make_adata()
    del query.obs["cell_type"]
    path = trained.interpolate(0, 3, n_steps=3, adata=query)
    assert (path.obs["cell_type"] == "alpha").all()


def test_draws_umap(trained):
    path = trained.interpolate(0, 1, n_steps=30, key_added=None)
    sc.pp.neighbors(path, use_rep="X_civae", n_neighbors=5)
    sc.tl.umap(path)
    assert sc.pl.umap(path, color=["cell_type", "civae_t"], show=False)


def test_two_threads_give_what_each_gives_alone(trained):
    def walk(i):
        return trained.interpolate(i, i + 3, n_steps=20, n_samples=5, key_added=None)

    alone = [walk(0), walk(1)]
    together = [None, None]
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, walk(i))) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.layers["counts"], b.layers["counts"])
        np.testing.assert_array_equal(a.layers["q05"], b.layers["q05"])


BAD = {
    "unknown name": (("cell_x", 0), {}, KeyError, "cell_a must be among adata.obs_names, but 'cell_x' is not. Did you mean"),
    "negative position": ((-1, 0), {}, IndexError, "got -1"),
    "boolean": (([True], [0]), {}, TypeError, r"\(int\), got bool"),
    "fractional steps": ((0, 1), {"n_steps": 5.0}, TypeError, "n_steps must be an integer"),
    "seed": ((0, 1), {"seed": -1}, ValueError, "seed must be at least 0"),
    "batch": ((0, 1), {"transform_batch": "three"}, KeyError, "transform_batch must be a batch"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_say_why_and_change_nothing(trained, case):
    cells, arguments, error, message = BAD[case]
    before = snapshot(trained.adata)
    with pytest.raises(error, match=message):
        trained.interpolate(*cells, **arguments)
    assert_unchanged(trained.adata, before)


def test_name_of_two_cells(trained):
    adata = trained.adata.copy()
    adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]
    with pytest.raises(ValueError, match="'twin' is the name of 2; pass an integer position"):
        trained.interpolate("twin", "cell_5", adata=adata)
    assert trained.interpolate(0, 5, adata=adata, n_steps=2).n_obs == 2


def test_cells_of_another_model(trained):
    assert isinstance(trained, CIVAE)
    with pytest.raises(ValueError, match="5 are missing"):
        trained.interpolate(0, 1, adata=make_adata(n_genes=35))
