"""Batches and covariates: what reaches the network, by whichever way cells come."""

import warnings

import numpy as np
import pandas as pd
import pytest
from tests.conftest import N_CELLS, make_adata, make_model
from tests.model.make_saved_model import SAVED

from scivae.data.fields import used_categories
from scivae.model import CIVAE, BlockDataModule

KEYS = {"continuous_covariate_keys": ["age"]}


def with_age(values):
    adata = make_adata()
    adata.obs["age"] = values
    return adata


def standardized(values):
    values = np.asarray(values, dtype=float)
    return (values - values.mean()) / values.std()


YEAR = 2019.0 + np.arange(N_CELLS) % 3
RAW = {
    "year": YEAR,
    "seconds since 1970": 1.5e9 + 1e5 * np.random.default_rng(0).normal(size=N_CELLS),
    "tiny": 1e-9 * np.random.default_rng(0).normal(size=N_CELLS),
    "negative": -5e4 * np.random.default_rng(0).random(N_CELLS),
}


@pytest.mark.parametrize("name", RAW)
def test_the_scale_of_a_covariate_does_not_matter(name):
    """The very losses of a covariate that was standardized beforehand."""
    raw = make_model(with_age(RAW[name]), epochs=3, setup=KEYS)
    before = make_model(with_age(standardized(RAW[name])), epochs=3, setup=KEYS)
    for loss in ("train_loss", "validation_loss", "reconstruction_loss_validation"):
        found, expected = (m.history[loss].to_numpy(float) for m in (raw, before))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_every_way_gives_the_network_the_same(tmp_path):
    adata = with_age(YEAR)
    model = make_model(adata, epochs=2, setup=KEYS)
    seen = adata.obsm["_scvi_extra_continuous_covs"]["age"].to_numpy()
    np.testing.assert_allclose(seen, standardized(YEAR), atol=1e-6)
    np.testing.assert_array_equal(adata.obs["age"], YEAR)  # is left as it was

    some = with_age(YEAR)[:40].copy()  # other cells have another mean: that of training holds
    model.predict(some)
    np.testing.assert_allclose(some.obsm["_scvi_extra_continuous_covs"]["age"], seen[:40])
    some.write_h5ad(tmp_path / "some.h5ad")
    data = BlockDataModule(tmp_path / "some.h5ad", registry=model.registry)
    np.testing.assert_allclose(data.fields["extra_continuous_covs"][:, 0], seen[:40], atol=1e-6)
    encoded = model.codec.encode(adata, np.arange(40))
    np.testing.assert_allclose(encoded.covariates.continuous[:, 0], seen[:40], atol=1e-6)

    model.save(tmp_path / "model")
    again = CIVAE.load(tmp_path / "model", some)
    np.testing.assert_allclose(again.setup.location, [YEAR.mean()])
    np.testing.assert_allclose(some.obsm["_scvi_extra_continuous_covs"]["age"], seen[:40])
    np.testing.assert_array_equal(
        again.decode(np.zeros((1, 4)), pd.DataFrame({"age": [2021]})),
        model.decode(np.zeros((1, 4)), pd.DataFrame({"age": [2021]})),
    )
    query = make_adata(seed=4)
    query.obs["age"] = 2030.0
    mapped = CIVAE.load_query_data(query, model)
    np.testing.assert_allclose(mapped.setup.scale, [YEAR.std()])
    expected = (2030 - YEAR.mean()) / YEAR.std()
    np.testing.assert_allclose(query.obsm["_scvi_extra_continuous_covs"]["age"], expected)


def test_decode_takes_own_units_and_the_mean_by_default():
    model = make_model(with_age(YEAR), epochs=5, setup=KEYS)
    z = np.random.default_rng(0).normal(size=(3, 4))

    def at(year):
        return model.decode(z, pd.DataFrame({"age": [year] * 3}))

    np.testing.assert_allclose(model.decode(z), at(YEAR.mean()), rtol=1e-5)
    assert not np.allclose(at(2019), at(2021), rtol=1e-3)
    path = model.interpolate(0, 2, n_steps=5, key_added=None)  # from 2019 to 2021
    np.testing.assert_allclose(path.obs["age"], np.linspace(2019, 2021, 5), rtol=1e-9)
    assert path.obs["age"].tolist()[::4] == [2019.0, 2021.0]
    cells = model.augment("alpha", 10, min_confidence=0.0, key_added=None)
    assert set(cells.obs["age"]) <= {2019.0, 2020.0, 2021.0}
    # What was made goes straight back in, and is seen as it was made.
    encoded = model.codec.encode(model._validate_anndata(path), np.arange(5))
    np.testing.assert_allclose(
        encoded.covariates.continuous[:, 0],
        (np.linspace(2019, 2021, 5) - YEAR.mean()) / YEAR.std(),
        atol=1e-5,
    )


def test_a_constant_covariate_is_none():
    with pytest.warns(UserWarning, match="'age' is the same in all cells, so it has no effect"):
        model = make_model(with_age(2020.0), epochs=2, setup=KEYS)
    query = with_age(3.0)
    np.testing.assert_array_equal(model.predict(query), model.predict())
    assert model.interpolate(0, 3, n_steps=2, key_added=None).obs["age"].tolist() == [2020.0] * 2


def test_a_covariate_beyond_all_numbers_is_refused():
    adata = with_age(np.where(np.arange(N_CELLS) == 5, 1e200, 1.0))
    with pytest.raises(
        ValueError, match=r"numbers within ±1e\+15, .* is 1e\+200 for cell 'cell_5'"
    ):
        CIVAE.setup_anndata(adata, **KEYS)


@pytest.mark.parametrize("version", sorted(p.name for p in SAVED.iterdir()))
def test_models_of_earlier_versions_have_covariates_as_they_come(version):
    adata = make_adata()
    model = CIVAE.load(SAVED / version, adata)
    if model.setup.scale is not None:
        pytest.skip("standardizes")
    np.testing.assert_array_equal(
        adata.obsm["_scvi_extra_continuous_covs"]["age"], adata.obs["age"]
    )
    z = np.zeros((1, model.module.n_latent))
    default, zero = model.decode(z), model.decode(z, pd.DataFrame({"age": [0.0]}))
    np.testing.assert_array_equal(default, zero)
    path = model.interpolate(0, 3, n_steps=2, key_added=None)
    np.testing.assert_allclose(path.obs["age"], adata.obs["age"].iloc[[0, 3]], rtol=1e-6)


# --- categories ---------------------------------------------------------------------------------------


def phantoms(adata):
    for key, position in (("batch", 0), ("site", 1)):
        names = adata.obs[key].cat.categories.tolist()
        names.insert(position, "phantom")
        adata.obs[key] = pd.Categorical(adata.obs[key].astype(str), categories=names)
    return adata


def test_categories_without_cells_are_none():
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["site"]}
    plain = make_model(make_adata(), epochs=2, setup=setup)
    adata = phantoms(make_adata())
    before = adata.obs.copy()
    model = make_model(adata, epochs=2, setup=setup)
    pd.testing.assert_frame_equal(adata.obs[before.columns], before)
    assert model.setup.batches.tolist() == ["one", "two"]
    assert model.setup.categorical["site"].tolist() == ["left", "right"]
    z = np.zeros((2, 4))
    np.testing.assert_array_equal(model.decode(z), plain.decode(z))
    np.testing.assert_array_equal(model.predict(phantoms(make_adata())), plain.predict())
    for call in (
        lambda: model.interpolate(0, 3, transform_batch="phantom"),
        lambda: model.get_normalized_expression(transform_batch="phantom"),
        lambda: model.decode(z, pd.DataFrame({"site": ["phantom"] * 2})),
    ):
        with pytest.raises((KeyError, ValueError), match="got 'phantom'"):
            call()
    data = BlockDataModule(phantoms(make_adata()), **setup)
    assert data.setup_.batches.tolist() == ["one", "two"]


def test_categories_in_the_order_they_have():
    column = pd.Series(pd.Categorical(["b", "a"], categories=["c", "b", "a"]))
    assert used_categories(column).tolist() == ["b", "a"]
    assert used_categories(pd.Series(["b", "a", "b"])).tolist() == ["a", "b"]


@pytest.mark.parametrize("key", ["batch", "site"])
def test_categories_that_no_file_can_hold_are_refused(key):
    adata = make_adata()
    adata.obs[key] = pd.cut(np.arange(N_CELLS), 3)
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["site"]}
    with pytest.raises(TypeError, match="holds Interval; convert the column"):
        CIVAE.setup_anndata(adata, **setup)


def test_a_new_category_of_query_cells():
    model = make_model(make_adata(), setup={"batch_key": "batch"})
    query = make_adata(seed=5)
    query.obs["batch"] = "One"
    with pytest.raises(
        ValueError, match=r"batch .* \('one', 'two'\).*holds 'One'.*Did you mean 'one'"
    ):
        model.predict(query)


def test_few_cells_of_a_batch_are_named():
    adata = make_adata()
    adata.obs["batch"] = np.where(np.arange(N_CELLS) == 7, "lonely", "rest")
    with pytest.warns(UserWarning, match=r"batches with fewer than 3 cells \('lonely'\)"):
        CIVAE.setup_anndata(adata, batch_key="batch")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("new_in", ["batch", "site", "both"])
def test_reference_cells_stay_where_they_were_beside_new_categories(new_in):
    """Weights of a category stay with it when a query brings batches or categories before it."""
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["site"]}
    model = make_model(make_adata(), epochs=5, setup=setup)
    query = make_adata(seed=5)
    for key in ("batch", "site"):
        if new_in in (key, "both"):
            query.obs[key] = "another"
    mapped = CIVAE.load_query_data(query, model)
    mapped.is_trained_ = True
    z = np.random.default_rng(0).normal(size=(4, 4))
    known = pd.DataFrame({"batch": ["one", "one", "two", "two"], "site": ["left", "right"] * 2})
    np.testing.assert_allclose(mapped.decode(z, known), model.decode(z, known), rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_reference_of_one_batch_stays_where_it_was():
    adata = make_adata()
    adata.obs["batch"] = "one"
    model = make_model(adata, epochs=5, setup={"batch_key": "batch"})
    query = make_adata(seed=5)
    query.obs["batch"] = "two"
    mapped = CIVAE.load_query_data(query, model)
    mapped.is_trained_ = True
    z = np.zeros((1, 4))
    np.testing.assert_allclose(
        mapped.decode(z, pd.DataFrame({"batch": ["one"]})), model.decode(z), rtol=1e-5
    )


# --- columns that change after the setup -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "what"),
    [("cell_type", "labels"), ("batch", "batches"), ("age", "continuous covariates"),
     ("site", "categorical covariates"), ("size", "size factors")],
)  # fmt: skip
def test_columns_that_were_changed_are_told_of_once(column, what):
    setup = {
        "batch_key": "batch",
        "categorical_covariate_keys": ["site"],
        "continuous_covariate_keys": ["age"],
        "size_factor_key": "size",
    }
    adata = make_adata()
    model = make_model(adata, epochs=2, setup=setup)
    before = model.predict(soft=True)
    adata.obs[column] = adata.obs[column].to_numpy()[::-1].copy()
    np.testing.assert_array_equal(model.predict(soft=True), before)
    with pytest.warns(
        UserWarning, match=f"hold the {what} were changed after setup_anndata"
    ) as told:
        model.augment("alpha", 2, min_confidence=0.0, key_added=None)
    assert sum("were changed" in str(w.message) for w in told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.augment("alpha", 2, min_confidence=0.0, key_added=None)


def test_codes_that_a_user_changed_are_put_back():
    setup = {"batch_key": "batch", "continuous_covariate_keys": ["age"], "size_factor_key": "size"}
    adata = make_adata()
    model = make_model(adata, epochs=2, setup=setup)
    slots = [s for s in model.adata_manager.slots if s[0] in ("obs", "obsm")]
    assert len(slots) == 4
    before = model.get_normalized_expression()
    for attribute, key in slots:
        getattr(adata, attribute)[key] = getattr(adata, attribute)[key].to_numpy()[::-1].copy()
    np.testing.assert_array_equal(model.get_normalized_expression(), before)


def test_two_models_on_one_anndata():
    """The setup of a second model overwrites what the first has written; both go on as they were."""
    adata = make_adata()
    first = make_model(adata, epochs=20, setup={"batch_key": "batch"})
    before = first.predict(soft=True)
    # A class that comes first in the order: codes that were written anew would be other classes.
    second = make_model(adata, epochs=2, setup={"labels_key": "site", "batch_key": "cell_type"})
    other = second.predict(soft=True)
    for _ in range(2):
        np.testing.assert_array_equal(first.predict(soft=True), before)
        np.testing.assert_array_equal(second.predict(soft=True), other)
    assert first.classes.tolist() == ["alpha", "beta", "gamma"]
    made = first.augment("beta", 2, min_confidence=0.0, key_added=None)
    assert made.obs["cell_type"].tolist() == ["beta", "beta"]


def test_a_copy_that_is_set_up_does_not_take_the_place_of_its_original():
    adata = make_adata()
    CIVAE.setup_anndata(adata)
    copy = adata.copy()
    CIVAE.setup_anndata(copy)
    assert CIVAE(adata, n_latent=2).adata is adata
    assert CIVAE(copy, n_latent=2).adata is copy
