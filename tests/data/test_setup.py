import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.conftest import (
    CLASSES,
    N_CELLS,
    assert_unchanged,
    make_adata,
    make_model,
    snapshot,
)

from scivae.model import CIVAE


def test_layer_counts_is_the_default(adata):
    CIVAE.setup_anndata(adata)
    assert CIVAE(adata).setup.layer == "counts"


def test_x_can_be_asked_for(adata):
    CIVAE.setup_anndata(adata, layer="X")
    model = CIVAE(adata)
    assert model.setup.layer == "X"
    assert model.likelihood == "normal"


def test_unused_categories_make_no_class(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["phantom"])
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata)
    assert model.classes.tolist() == list(CLASSES)
    assert model.discriminator_weights.shape == (3, 20)


def test_classes_keep_the_order_of_the_categories(adata):
    order = ["gamma", "alpha", "beta"]
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.reorder_categories(order)
    CIVAE.setup_anndata(adata)
    assert CIVAE(adata).classes.tolist() == order


@pytest.mark.parametrize("missing", ["Unknown", np.nan])
def test_unlabeled_and_missing_labels_are_masked(adata, missing):
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[:30] = missing
    adata.obs["cell_type"] = labels
    CIVAE.setup_anndata(adata, unlabeled_category="Unknown")
    model = CIVAE(adata)
    assert model.classes.tolist() == list(CLASSES)
    assert (adata.obs["_scvi_labels"].iloc[:30] == 3).all()
    pd.testing.assert_series_equal(adata.obs["cell_type"], labels)
    model.train(max_epochs=1, enable_progress_bar=False)
    assert set(model.predict()) <= set(CLASSES)


def test_numeric_labels(adata):
    adata.obs["cell_type"] = np.arange(N_CELLS) % 3
    CIVAE.setup_anndata(adata)
    assert CIVAE(adata).classes.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lambda x: x, "nb"),
        (lambda x: np.minimum(x, 1), "bernoulli"),
        (lambda x: x / x.max(), "bernoulli"),
        (lambda x: np.log1p(x), "normal"),
        (lambda x: x - 1, "normal"),
    ],
)
def test_auto_likelihood(adata, values, expected):
    adata.layers["values"] = values(adata.layers["counts"].toarray())
    CIVAE.setup_anndata(adata, layer="values")
    assert CIVAE(adata).likelihood == expected


@pytest.mark.parametrize("storage", ["csr", "csc", "dense", "int", "float64"])
def test_results_do_not_depend_on_storage(storage):
    adata, reference = make_adata(), make_adata()
    counts = adata.layers["counts"]
    adata.layers["counts"] = {
        "csr": lambda: counts,
        "csc": lambda: counts.tocsc(),
        "dense": lambda: counts.toarray(),
        "int": lambda: counts.astype(np.int32),
        "float64": lambda: counts.astype(np.float64),
    }[storage]()
    np.testing.assert_allclose(
        make_model(adata).get_latent_representation(),
        make_model(reference).get_latent_representation(),
        atol=1e-5,
    )


def labels(**changes):
    def change(adata):
        column = adata.obs["cell_type"].astype(object)
        for i, value in changes.items():
            column.iloc[int(i[1:])] = value
        adata.obs["cell_type"] = column

    return change


def missing_batch(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(object).where(np.arange(N_CELLS) > 1)


def negative_size(adata):
    adata.obs.loc["cell_2", "size"] = -1.0


SETUP_ERRORS = {
    "unknown batch_key": (None, {"batch_key": "bacth"}, KeyError, "batch_key must be .*Did you mean 'batch'"),
    "unknown covariate": (None, {"categorical_covariate_keys": ["sit"]}, KeyError, "categorical_covariate_keys must be"),
    "missing batch": (missing_batch, {"batch_key": "batch"}, ValueError, r"adata.obs\['batch'\] is missing in 2 of 120"),
    "size factor below zero": (negative_size, {"size_factor_key": "size"}, ValueError, "positive numbers.*cell 'cell_2'"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETUP_ERRORS)
def test_bad_setup_says_why_and_changes_nothing(adata, case):
    change, arguments, error, message = SETUP_ERRORS[case]
    if change is not None:
        change(adata)
    before = snapshot(adata)
    with pytest.raises(error, match=message):
        CIVAE.setup_anndata(adata, **arguments)
    assert_unchanged(adata, before)


MODEL_ERRORS = {
    "likelihood misspelt": (None, {"likelihood": "laplac"}, ValueError, "Did you mean 'laplace'"),
    "no latent": (None, {"n_latent": 0}, ValueError, "n_latent must be at least 1, got 0"),
    "fractional latent": (None, {"n_latent": 2.5}, TypeError, "n_latent must be an integer, got 2.5"),
    "negative weight": (None, {"discriminator_weight": -1}, ValueError, r"discriminator_weight must lie in \[0, inf\], got -1"),
    "NaN weight": (None, {"kl_weight": np.nan}, ValueError, "kl_weight must lie in"),
    "weight of an unknown class": (None, {"class_weights": {"alpa": 2}}, KeyError, "Did you mean 'alpha'"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODEL_ERRORS)
def test_bad_model_says_why_and_changes_nothing(adata, case):
    change, arguments, error, message = MODEL_ERRORS[case]
    if change is not None:
        change(adata)
    CIVAE.setup_anndata(adata)
    before = snapshot(adata)
    with pytest.raises(error, match=message):
        CIVAE(adata, **arguments)
    assert_unchanged(adata, before)


def test_model_needs_a_setup(adata):
    with pytest.raises(ValueError, match="must be set up.*call CIVAE.setup_anndata on it first"):
        CIVAE(adata)


def test_model_of_a_copy_or_part_says_what_to_call(adata):
    CIVAE.setup_anndata(adata)
    read_back = anndata.AnnData(X=adata.X, obs=adata.obs, uns=dict(adata.uns), layers=adata.layers)
    for other in (adata.copy(), adata[:50].copy(), read_back):
        with pytest.raises(
            ValueError, match=r"is a copy.*call CIVAE\.setup_anndata on it first\.$"
        ):
            CIVAE(other)
    CIVAE(adata)


def test_size_factors_are_for_counts(adata):
    CIVAE.setup_anndata(adata, size_factor_key="size", layer="X")
    with pytest.raises(ValueError, match="size_factor_key is for counts"):
        CIVAE(adata, likelihood="normal")


def test_balanced_weights_weigh_classes_alike(adata):
    adata = adata[np.r_[0:120:3, 1:30:3, 2:60:3]].copy()
    CIVAE.setup_anndata(adata)
    weights = CIVAE(adata).module.class_weights.numpy()
    sizes = adata.obs["cell_type"].value_counts()[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(weights * sizes, len(adata) / 3, rtol=1e-6)
    assert CIVAE(adata, class_weights={"beta": 4}).module.class_weights.tolist() == [1, 4, 1]


def test_a_few_cells_are_moved_with_no_more_than_a_quarter_of_their_number(adata):
    y = adata.obs["cell_type"].astype(str).to_numpy()
    few = np.concatenate(
        [np.flatnonzero(y == c)[:n] for c, n in zip(CLASSES, (5, 8, 27), strict=True)]
    )
    small = adata[few].copy()
    CIVAE.setup_anndata(small)
    network = CIVAE(small).module
    balanced = np.array([40 / 15, 40 / 24, 40 / 81])
    np.testing.assert_allclose(network.class_weights.numpy(), balanced, rtol=1e-6)
    np.testing.assert_allclose(
        network.latent_grad_scale.numpy() * balanced, [5 / 4, 40 / 24, 40 / 81], rtol=1e-6
    )
    for weights in ("none", {"alpha": 9.0}):
        assert CIVAE(small, class_weights=weights).module.latent_grad_scale.tolist() == [1, 1, 1]

    more = adata.copy()  # the same labels, and unlabeled cells that are presumably of these classes
    label = np.full(len(y), "unknown", dtype=object)
    label[few] = y[few]
    more.obs["cell_type"] = label
    CIVAE.setup_anndata(more, unlabeled_category="unknown")
    assert more.n_obs / 40 * 5 / 4 > 40 / 15
    assert CIVAE(more).module.latent_grad_scale.tolist() == [1, 1, 1]


def test_view_is_refused_and_its_parent_left_alone(adata):
    before = snapshot(adata)
    with pytest.raises(ValueError, match=r"pass adata.copy\(\)"):
        CIVAE.setup_anndata(adata[:90])
    assert_unchanged(adata, before)


def test_backed_data(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    model = make_model(backed, epochs=30)
    in_memory = adata.copy()
    assert (model.predict(in_memory) == in_memory.obs["cell_type"]).mean() > 0.9
    np.testing.assert_allclose(
        model.predict(indices=[7, 3, 90, 3], soft=True),
        model.predict(in_memory, indices=[7, 3, 90, 3], soft=True),
        atol=1e-5,
    )


def test_sparse_and_dense_summaries_agree():
    from scivae.data.profile import summarize

    x = sparse.random(50, 20, 0.2, format="csr", random_state=0) - 0.0
    a, b = summarize(x), summarize(x.toarray())
    assert a._replace(zero_rows=None) == b._replace(zero_rows=None)
    np.testing.assert_array_equal(a.zero_rows, b.zero_rows)


@pytest.mark.parametrize(
    ("load", "arguments", "likelihood", "n_classes"),
    [
        (lambda d: d.pbmc(), {}, "nb", 10),
        (lambda d: d.synthetic(200, 30), {}, "nb", 3),
        (lambda d: d.digits(), {"labels_key": "digit"}, "bernoulli", 10),
    ],
)
def test_data_sets_are_taken_as_they_are(load, arguments, likelihood, n_classes):
    from scivae import datasets

    adata = load(datasets)
    CIVAE.setup_anndata(adata, **arguments)
    model = CIVAE(adata)
    assert model.likelihood == likelihood
    assert len(model.classes) == n_classes


def test_colon_is_taken_as_it_is():
    """The loader's own tests read miniatures of the real files; here, the real cells."""
    from tests.conftest import data_file

    adata = anndata.read_h5ad(data_file("colon_crc.h5ad"))
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata)
    assert (model.likelihood, len(model.classes), model.setup.layer) == ("nb", 12, "counts")


@pytest.mark.parametrize("given", [None, "unlabeled", "beta"])
def test_a_class_that_reads_like_no_label_is_told_whatever_is_given(adata, given):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"alpha": "unlabelled"})
    with pytest.warns(UserWarning, match="holds 'unlabelled'.*unlabeled_category='unlabelled'"):
        CIVAE.setup_anndata(adata, unlabeled_category=given)


def test_an_unlabeled_category_in_another_case_is_told(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"alpha": "unk"})
    with pytest.warns(
        UserWarning, match=r"='Unk' is not spelled like 'unk'.*unlabeled_category='unk'"
    ):
        CIVAE.setup_anndata(adata, unlabeled_category="Unk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CIVAE.setup_anndata(adata, unlabeled_category="unk")
        CIVAE.setup_anndata(adata, unlabeled_category="Unknown")


@pytest.mark.parametrize(
    "columns", [{"batch_key": "cell_type"}, {"categorical_covariate_keys": ["site", "cell_type"]}]
)
def test_labels_that_are_a_batch_too_are_told(adata, columns):
    adata.obs["site"] = np.resize(["a", "b"], adata.n_obs)
    with pytest.warns(UserWarning, match=f"^{next(iter(columns))} and labels_key both name"):
        CIVAE.setup_anndata(adata, **columns)


def test_the_seed_of_scvi_tools_is_told_to_have_no_effect(adata, monkeypatch):
    CIVAE.setup_anndata(adata)
    monkeypatch.setattr("scvi.settings._seed", 3)
    with pytest.warns(UserWarning, match=r"scvi.settings.seed=3 has no effect .* seed=3\)"):
        CIVAE(adata, n_latent=2, n_hidden=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CIVAE(adata, n_latent=2, n_hidden=4, seed=0)


def test_a_device_that_is_not_there_is_named(trained):
    with pytest.raises(ValueError, match="device must be one that torch finds, got 'gpu9'"):
        trained.to_device("gpu9")
