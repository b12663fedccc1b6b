"""What values are: counts, nearly counts, counts that were normalized; and what is said of them."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.conftest import N_CELLS, data_file, make_adata, make_model

from scivae.data.manager import rounded
from scivae.data.profile import summarize
from scivae.model import CIVAE, BlockDataModule


def counts_of(seed=0):
    return make_adata(seed).layers["counts"].toarray().astype(np.float64)


def per_cell(x):
    return x / x.sum(axis=1, keepdims=True)


KINDS = {
    "counts": lambda x: x,
    "near counts": lambda x: np.expm1(np.log1p(x.astype(np.float32))),
    "log-normalized": lambda x: np.log1p(1e4 * per_cell(x)),
    "normalized": lambda x: 1e4 * per_cell(x),
    "square-root": lambda x: np.sqrt(1e4 * per_cell(x)),
    "scaled": lambda x: np.log1p(1e4 * per_cell(x)) / np.log1p(1e4 * per_cell(x)).std(axis=0),
    "signed": lambda x: x - x.mean(axis=0),
    "unit": per_cell,
    "fractions": lambda x: np.maximum(x - 0.13 * x.mean(axis=0), 0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_what_was_done_to_counts(kind, storage):
    values = KINDS[kind](counts_of()).astype(np.float32)
    assert summarize(storage(values)).kind == kind


@pytest.mark.parametrize("base", [2, 10, np.e])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logarithms_of_any_base(base, dtype):
    values = np.log1p(1e4 * per_cell(counts_of())) / np.log(base)
    assert summarize(values.astype(dtype)).kind == "log-normalized"


@pytest.mark.parametrize("name", ["colon_crc", "intestine_haber", "pbmc_kang"])
def test_real_cells(name):
    adata = anndata.read_h5ad(data_file(f"{name}.h5ad"))
    assert summarize(adata.layers["counts"]).kind == "counts"
    assert summarize(adata.X).kind == "log-normalized"
    few = adata[:200, np.random.default_rng(0).permutation(adata.n_vars)[:300]]
    assert summarize(few.X).kind == "log-normalized"


def test_a_few_fractions_among_counts_are_no_normalization():
    values = counts_of()
    values[3, 5] = 0.5
    assert summarize(values).kind == "fractions"


def on_x(values, labels=None):
    adata = make_adata()
    new = anndata.AnnData(X=values, obs=adata.obs, var=adata.var)
    if labels is not None:
        new.obs["cell_type"] = labels
    return new


def chosen(adata):
    """The likelihood that was chosen, and what was said of it."""
    CIVAE.setup_anndata(adata)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        likelihood = CIVAE(adata, n_latent=2, n_hidden=8).likelihood
    return likelihood, [str(w.message) for w in told if "SparseEff" not in str(w.category)]


@pytest.mark.parametrize(
    ("kind", "likelihood", "text"),
    [
        ("counts", "nb", None),
        ("near counts", "nb", "adata.X holds whole numbers apart from rounding errors; they are rounded, and modeled as counts (likelihood 'nb')."),
        ("log-normalized", "normal", "likelihood='auto' chose 'normal', because adata.X holds log-normalized values, not counts. Pass layer= with the name of the raw counts to setup_anndata if there are some."),
        ("fractions", "normal", "likelihood='auto' chose 'normal', because adata.X holds values that are neither whole numbers nor in [0, 1], not counts. Round adata.X if these are counts that were corrected for ambient RNA."),
        ("unit", "bernoulli", "likelihood='auto' chose 'bernoulli', because adata.X holds proportions, not counts. Pass layer= with the name of the raw counts to setup_anndata if there are some."),
        ("signed", "normal", None),
    ],
)  # fmt: skip
def test_what_auto_chose_is_said_where_it_may_surprise(kind, likelihood, text):
    found, told = chosen(on_x(KINDS[kind](counts_of()).astype(np.float32)))
    assert found == likelihood
    assert told == ([] if text is None else [text])


def test_counts_that_lie_elsewhere_are_pointed_at():
    logs = KINDS["log-normalized"](counts_of()).astype(np.float32)
    adata = on_x(logs)
    adata.layers["raw_counts"] = counts_of()
    assert "Pass layer='raw_counts' to setup_anndata, which holds counts." in chosen(adata)[1][0]
    adata = on_x(counts_of())
    adata.raw = adata
    adata.X = logs
    assert "adata.raw[:, adata.var_names].X first: adata.raw holds counts" in chosen(adata)[1][0]
    adata = on_x(counts_of())
    adata.layers["counts"] = logs
    assert "Pass layer='X' to setup_anndata, which holds counts." in chosen(adata)[1][0]
    adata.X = logs
    told = chosen(adata)[1]
    assert len(told) == 1
    assert (
        "adata.layers['counts'] holds log-normalized values, not counts. Put the raw counts"
        in told[0]
    )
    adata = on_x(logs - logs.mean(axis=0))  # scaled
    adata.layers["umi"] = counts_of()
    assert "negative values, not counts. Pass layer='umi'" in chosen(adata)[1][0]
    adata = on_x(logs)
    adata.layers["counts"] = counts_of()
    CIVAE.setup_anndata(adata, layer="X")  # X was asked for, though there are counts
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert CIVAE(adata, n_latent=2).likelihood == "normal"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_near_counts_train_as_the_counts_they_are(storage, tmp_path):
    near = KINDS["near counts"](counts_of())
    assert not (near == np.round(near)).all()
    plain = make_model(on_x(storage(counts_of())), epochs=3)
    adata = on_x(storage(near))
    model = make_model(adata, epochs=3)
    np.testing.assert_array_equal(model.history["train_loss"], plain.history["train_loss"])
    np.testing.assert_array_equal(model.predict(soft=True), plain.predict(soft=True))
    values = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    np.testing.assert_array_equal(values, near)  # the AnnData of the user stays as it was
    cells = model.augment(model.predict()[0], 4, min_confidence=0.0, key_added=None)
    assert summarize(cells.X).integer
    if storage is np.asarray:
        adata.write_h5ad(tmp_path / "near.h5ad")
        data = BlockDataModule(tmp_path / "near.h5ad", batch_size=32)
        block = next(iter(data.train_dataloader()))["X"].to_dense()
        assert (block == block.round()).all()
        backed = anndata.read_h5ad(tmp_path / "near.h5ad", backed="r")
        CIVAE.setup_anndata(backed)
        with pytest.raises(ValueError, match="rounding errors, and is not in memory"):
            CIVAE(backed)


def test_expected_counts_are_encoded_and_told_of(trained):
    query = make_adata(seed=2)
    query.layers["counts"] = KINDS["fractions"](counts_of(2)).astype(np.float32)
    with pytest.warns(UserWarning, match="they are taken as expected counts"):
        trained.predict(query)
    path = trained.interpolate(0, 3, n_steps=4, key_added=None)  # expected counts of our own
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        z = trained.get_latent_representation(path)
    assert np.isfinite(z).all()


@pytest.mark.parametrize(
    "kind", ["log-normalized", "normalized", "square-root", "scaled", "signed", "unit"]
)
def test_a_model_of_counts_takes_no_normalized_cells(trained, kind):
    query = make_adata(seed=2)
    query.layers["counts"] = KINDS[kind](counts_of(2)).astype(np.float32)
    word = {"signed": "negative", "unit": "proportions"}.get(kind, kind)
    with pytest.raises(ValueError, match=f"needs raw counts, but .* holds {word} values"):
        trained.predict(query)


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_normalized_values_takes_no_counts():
    model = make_model(make_adata(), setup={"layer": "X"})
    query = make_adata(seed=2)
    assert len(model.predict(query)) == N_CELLS
    query = make_adata(seed=2)
    query.X = counts_of(2)
    with pytest.raises(
        ValueError, match="training cells, .* but adata.X holds whole numbers up to"
    ):
        model.predict(query)


def test_values_of_another_scale_are_told_of():
    model = make_model(make_adata(), setup={"layer": "X"})
    query = make_adata(seed=2)
    query.X = query.X * 5 + 0.01
    with pytest.warns(
        UserWarning, match="those of training in .*; check that both were normalized"
    ):
        model.predict(query)
    cells = model.augment("alpha", 5, min_confidence=0.0, key_added=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.predict(cells)  # samples of a normal likelihood may be negative


# --- labels ---------------------------------------------------------------------------------------------


def labeled(values):
    adata = make_adata()
    adata.obs["cell_type"] = values
    return adata


LABELS = {
    "a score": (np.random.default_rng(0).random(N_CELLS), "looks like a measurement, not like classes: 120 different numbers in 120 cells"),
    "a rounded score": (np.random.default_rng(0).random(N_CELLS).round(2), "looks like a measurement"),
    "counts of genes": (np.random.default_rng(0).permutation(N_CELLS), "looks like a measurement"),
    "barcodes": ([f"cell {i}" for i in range(N_CELLS)], r"about as many classes \(120\) as labeled cells \(120\)"),
    "few of a class": (["a"] * 4 + ["b"] * 9 + ["c"] * 107, r"fewer than 10 cells \('a': 4, 'b': 9\)"),
    "enough": (["a"] * 10 + ["b"] * 110, None),
    "clusters": (np.arange(N_CELLS) % 5, None),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_are_hardly_classes_are_told_of_once(case):
    values, text = LABELS[case]
    adata = labeled(values)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        CIVAE.setup_anndata(adata)
    assert len(told) == (text is not None)
    if text is not None:
        with pytest.warns(UserWarning, match=text):
            CIVAE.setup_anndata(adata)
        assert told[0].filename == __file__  # the line of the user
        assert "\n" not in str(told[0].message)


def test_query_cells_are_not_asked_for_enough_labels(trained):
    query = make_adata(seed=3)[:12].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained.predict(query)


def test_unlabeled_cells_do_not_count():
    values = pd.Series(["a"] * 5 + ["b"] * 50 + ["?"] * 65)
    with pytest.warns(UserWarning, match=r"fewer than 10 cells \('a': 5\)"):
        CIVAE.setup_anndata(labeled(values.to_numpy()), unlabeled_category="?")


def in_parts(x: np.ndarray, low: float) -> sparse.csr_matrix:
    """The same values as CSR, of which each above ``low`` is stored in two parts."""
    rows, columns = np.nonzero(x)
    values, above = x[rows, columns], x[rows, columns] > low
    rows, columns = np.r_[rows, rows[above]], np.r_[columns, columns[above]]
    values = np.r_[np.minimum(values, low), values[above] - low]
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(len(x) + 1))
    return sparse.csr_matrix((values[order], columns[order], starts), shape=x.shape)


def test_values_stored_in_parts_are_their_sums():
    """Parts between 0 and 1 are not values between 0 and 1, and parts of counts may be no counts."""
    counts = np.random.default_rng(0).poisson(1.0, (60, 5)).astype(np.float32)
    logs, near = np.log1p(counts), counts + 1e-5
    for values, low in ((logs, 0.6), (counts, 0.5), (near, 1.5)):
        parts = in_parts(values, low)
        before = parts.data.copy()
        found, expected = summarize(parts), summarize(sparse.csr_matrix(values))
        assert (found.minimum, found.integer) == (expected.minimum, expected.integer)
        assert found.maximum == pytest.approx(expected.maximum)
        assert found.near_integer == expected.near_integer
        assert found.transformed == expected.transformed
        np.testing.assert_array_equal(parts.data, before)
    np.testing.assert_array_equal(rounded(in_parts(near, 1.5)).toarray(), counts)
    adata = anndata.AnnData(in_parts(logs, 0.6))
    adata.obs["cell_type"] = pd.Categorical(np.arange(60) % 3).rename_categories(["a", "b", "c"])
    CIVAE.setup_anndata(adata)
    assert CIVAE(adata).likelihood == "normal"
