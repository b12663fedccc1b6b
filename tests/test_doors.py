"""Every way by which cells enter a model, with every change that has befallen them: right, or one clear error.

Each public method that reads cells has a line in ``CALLS``, each that reads none in ``NO_CELLS``. A method that
is new, here or in scvi-tools, has neither, and fails :func:`test_every_public_method_has_a_line`.
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse
from tests.conftest import N_CELLS, make_adata, make_model

import scivae
from scivae import tl
from scivae.model import CIVAE, BlockDataModule
from scivae.model._civae import FROM_SETUP

PACKAGE = str(Path(scivae.__file__).parent)
OURS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, NotImplementedError)
SETUP = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["site"],
    "continuous_covariate_keys": ["age"],
}
GENES = ["gene_7", "gene_3"]


def path_values(path):
    return path.layers["counts"]


def trends(model, adata):
    pairs = pd.DataFrame({"source": ["cell_0", "cell_6"], "target": ["cell_30", "cell_36"]})
    curves = {"evidence": "decoded", "n_steps": 3, "n_bootstraps": 0, "key_added": None}
    return tl.gene_trends(model, pairs, adata=adata, **curves).X


def placed(model, adata):
    path = model.interpolate("cell_0", "cell_30", n_steps=5, key_added=None)
    cells = model.adata if adata is None else adata
    return tl.project(cells, path, model=model, key_added=None)["civae_distance"].to_numpy()


def condition(model, adata):
    return tl.predict_condition(model, "site", "left", "right", level="alpha", adata=adata).layers[
        "counts"
    ]


def attributions(model, adata):
    genes = tl.attribute(model, "alpha", adata=adata, n_steps=2)
    return genes["attribution"].reindex(model.setup.genes).to_numpy()


def checks(model, adata):
    """Only figures that no random split enters."""
    pairs = pd.DataFrame({"source": ["cell_0", "cell_6"], "target": ["cell_30", "cell_36"]})
    table = tl.check_paths(model, pairs, adata=adata, n_permutations=20)
    return table["n_cells"].to_numpy()


def encoded(model, adata):
    """What functions that build on the model are given."""
    with model.reading(adata) as cells:
        return model.codec.encode(cells, np.arange(cells.n_obs)).mean


# What each public method gives for cells (``None``: the model's own). Those whose name ends in a star give
# a row a cell without a random draw, which follows the cell wherever it lies.
CALLS = {
    "predict*": lambda m, a: m.predict(a, soft=True).to_numpy(),
    "get_latent_representation*": lambda m, a: m.get_latent_representation(a),
    "novelty*": lambda m, a: m.novelty(a).to_numpy(),
    "reading": lambda m, a: encoded(m, a),
    "interpolate": lambda m, a: path_values(
        m.interpolate("cell_0", "cell_30", n_steps=3, adata=a, key_added=None)
    ),
    "augment": lambda m, a: m.augment(
        "alpha", 4, adata=a, min_confidence=0.0, method="normal", key_added=None
    ).layers["counts"],
    "calibrate": lambda m, a: calibrated(m, a),
    "differential_abundance": lambda m, a: abundance(m, a),
    "differential_expression": lambda m, a: m.differential_expression(
        a, groupby="cell_type", group1="alpha", group2="beta", silent=True, n_samples_overall=50
    )["scale1"].to_numpy(),
    "get_aggregated_posterior": lambda m, a: m.get_aggregated_posterior(
        a, indices=[3, 1, 2]
    ).component_distribution.base_dist.loc.numpy(),
    "get_batch_representation*": lambda m, a: getattr(m, "twin", m).get_batch_representation(a),
    "get_elbo": lambda m, a: np.asarray(m.get_elbo(a)),
    "get_feature_correlation_matrix": lambda m, a: m.get_feature_correlation_matrix(
        a, n_samples=2
    ).to_numpy(),
    "get_importance_weights": lambda m, a: m.get_normalized_expression(
        a, indices=np.arange(10), n_samples_overall=20, weights="importance"
    ),
    "get_latent_library_size*": lambda m, a: m.get_latent_library_size(a, give_mean=False),
    "get_likelihood_parameters": lambda m, a: m.get_likelihood_parameters(a)["mean"],
    "get_marginal_ll": lambda m, a: np.asarray(m.get_marginal_ll(a, n_mc_samples=2)),
    "get_normalized_expression": lambda m, a: m.get_normalized_expression(
        a, gene_list=GENES
    ).to_numpy(),
    "get_reconstruction_error": lambda m, a: np.asarray(
        m.get_reconstruction_error(a)["reconstruction_loss"]
    ),
    "posterior_predictive_sample": lambda m, a: m.posterior_predictive_sample(a).todense(),
    "transfer_fields": lambda m, a: transferred(m, a),
    "minify_adata": lambda m, a: minified(m, a),
    "train": lambda m, a: trained_again(m, a),
    "annotate*": lambda m, a: annotated(m, a),
    "load*": lambda m, a: loaded(m, a),
    "load_query_data": lambda m, a: mapped(m, a),
    "prepare_query_anndata": lambda m, a: prepared(m, a),
    "tl.attribute": lambda m, a: attributions(m, a),
    "tl.gene_trends": trends,
    "tl.check_paths": checks,
    "tl.project*": placed,
    "tl.predict_condition": condition,
}
# What reads no cells, or only names of slots.
NO_CELLS = {
    "convert_legacy_save",
    "data_registry",
    "decode",
    "deregister_manager",
    "get_anndata_manager",
    "get_from_registry",
    "get_setup_arg",
    "get_state_registry",
    "get_var_names",
    "load_registry",
    "prepare_query_mudata",
    "register_manager",
    "save",
    "setup_anndata",
    "setup_annbatch",
    "to_device",
    "update_setup_method_args",
    "view_anndata_setup",
    "view_registry",
    "view_setup_args",
    "view_setup_method_args",
}
# Methods that only take cells of others, or only the model's own.
ONLY_OTHERS = {"transfer_fields", "annotate", "load", "load_query_data", "prepare_query_anndata"}
ONLY_OWN = {"minify_adata", "train"}


class SkipError(Exception):
    """A method that does not take cells by this way."""


def calibrated(model, adata):
    before = model.temperature_, model.calibration_
    try:
        model.calibrate(adata, indices=np.arange(30))
        return model.calibration_["scores"]
    finally:
        model.temperature_, model.calibration_ = before


def abundance(model, adata):
    cells = model.adata if adata is None else adata
    try:
        model.differential_abundance(adata, sample_key="batch")
        return cells.obsm["da_log_probs"].to_numpy()
    finally:
        cells.obsm.pop("da_log_probs", None)


def transferred(model, adata):
    model.transfer_fields(adata)
    return adata.obs[["_scvi_labels", "_scvi_batch"]].to_numpy()


def minified(model, adata):
    if model.minified_data_type is not None:
        raise SkipError
    mean, variance = model.get_latent_representation(return_dist=True)
    model.adata.obsm["m"], model.adata.obsm["v"] = mean, variance
    model.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    raise AssertionError("changed cells were minified")


def trained_again(model, adata):
    model.train(max_epochs=1, enable_progress_bar=False)
    raise AssertionError("changed cells were trained on")


def annotated(model, adata):
    model.annotate(adata)
    return adata.obsm["X_civae"]


def loaded(model, adata):
    return CIVAE.load(model.folder, adata).get_latent_representation()


def mapped(model, adata):
    network = CIVAE.load_query_data(adata, model)
    network.is_trained_ = True
    return network.get_latent_representation()


def prepared(model, adata):
    query = CIVAE.prepare_query_anndata(adata, model, inplace=False)
    return model.get_latent_representation(query.copy())


def public_methods():
    methods = {n for n in dir(CIVAE) if not n.startswith("_") and callable(getattr(CIVAE, n))}
    takes_model = {n for n in tl.__all__ if "model" in inspect.signature(getattr(tl, n)).parameters}
    return methods | {f"tl.{name}" for name in takes_model}


def test_every_public_method_has_a_line():
    known = {name.rstrip("*") for name in CALLS} | NO_CELLS
    assert public_methods() - known == set(), "add a line to CALLS, or the name to NO_CELLS"
    assert {name.rstrip("*") for name in CALLS} <= public_methods()


def test_what_is_inherited_is_wrapped():
    """All that takes cells passes our check first, whoever wrote it."""
    for name in public_methods() - NO_CELLS:
        if name.startswith("tl."):
            continue
        owner = next(c for c in CIVAE.__mro__ if name in vars(c))
        assert owner.__module__.startswith("scivae"), f"{name} is as scvi-tools left it"


@pytest.mark.parametrize(
    "name", sorted(set(inspect.signature(scvi.module.VAE).parameters) - {"kwargs"})
)
def test_arguments_of_the_network_of_scvi_tools(name):
    """Each is passed on, or refused in words: scvi-tools passes some of them, too."""
    default = inspect.signature(scvi.module.VAE).parameters[name].default
    value = 1 if default is inspect.Parameter.empty else default
    adata = make_adata()
    CIVAE.setup_anndata(adata, "cell_type", layer="counts")
    refused = name == "gene_likelihood" or name in FROM_SETUP
    words = "leave it out|is called likelihood here"
    with pytest.raises(TypeError, match=words) if refused else nullcontext():
        CIVAE(adata, **{name: value})


# --- changes ----------------------------------------------------------------------------------------


def counts(function):
    def change(adata):
        adata.layers["counts"] = sparse.csr_matrix(
            function(adata.layers["counts"].toarray()).astype(np.float32)
        )

    return change


def in_place(function):
    """A change of the very array that was checked."""

    def change(adata):
        function(adata.layers["counts"])

    return change


def log_normalize(x):
    return np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)


def one_cell(x):
    x.data[x.indptr[7] : x.indptr[8]] *= 2


def genes(order):
    return lambda adata: adata._inplace_subset_var(order(np.arange(adata.n_vars)))


def rename_genes(function):
    def change(adata):
        adata.var_names = [function(name) for name in adata.var_names]

    return change


def swap_columns(adata):
    """The values of all genes in another order, under the old names."""
    adata.layers["counts"] = adata.layers["counts"][:, ::-1].tocsr()


def scale_in_place(x):
    x.data *= 0.5


def no_layer(adata):
    del adata.layers["counts"]


# Changes after which no number can be right.
WRONG = {
    "genes reversed": genes(lambda g: g[::-1]),
    "genes subset": genes(lambda g: g[:30]),
    "genes renamed": rename_genes(lambda n: f"ENSG{n}"),
    "genes in another case": rename_genes(str.upper),
    "layer gone": no_layer,
    "log-normalized": counts(log_normalize),
    "normalized": counts(lambda x: x / x.sum(axis=1, keepdims=True) * 1e4),
    "log1p in place": in_place(lambda x: np.log1p(x.data, out=x.data)),
    "scaled in place": in_place(scale_in_place),
    "z-scores": counts(lambda x: (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)),
    "negative": counts(lambda x: x - 1),
    "NaN": in_place(lambda x: x.data.__setitem__(3, np.nan)),
    "an empty cell": counts(lambda x: np.where(np.arange(N_CELLS)[:, None] == 7, 0, x)),
}
# Those that are wrong for cells that the model was trained on, and no more than other cells elsewhere.
WRONG_FOR_OWN = {
    "one cell doubled": in_place(one_cell),
    "all doubled": counts(lambda x: 2 * x),
    "columns swapped": swap_columns,
    "expected counts": counts(lambda x: x + 0.37),
}


def reverse_cells(adata):
    adata._inplace_subset_obs(np.arange(adata.n_obs)[::-1])


def every_third(adata):
    adata._inplace_subset_obs(np.arange(0, adata.n_obs, 2))


def store(convert):
    def change(adata):
        adata.layers["counts"] = convert(adata.layers["counts"])

    return change


def other_setup(adata):
    CIVAE.setup_anndata(adata, labels_key="site", batch_key="cell_type")


def unused_categories(adata):
    for column in ("batch", "site", "cell_type"):
        adata.obs[column] = adata.obs[column].cat.add_categories(["phantom"])


# Changes that mean nothing, and where each cell lies after them.
RIGHT = {
    "cells reversed": (reverse_cells, np.arange(N_CELLS)[::-1]),
    "cells subset": (every_third, np.arange(0, N_CELLS, 2)),
    "dense": (store(lambda x: x.toarray()), np.arange(N_CELLS)),
    "by columns": (store(lambda x: x.tocsc()), np.arange(N_CELLS)),
    "double precision": (store(lambda x: x.astype(np.float64)), np.arange(N_CELLS)),
    "integers": (store(lambda x: x.astype(np.int64)), np.arange(N_CELLS)),
    "rounding errors": (store(lambda x: x.astype(np.float64) * (1 + 1e-7)), np.arange(N_CELLS)),
    "another setup": (other_setup, np.arange(N_CELLS)),
    "unused categories": (unused_categories, np.arange(N_CELLS)),
    "X normalized": (lambda a: setattr(a, "X", a.X / 3), np.arange(N_CELLS)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained model on cells with batches and covariates."""
    model = make_model(make_adata(), epochs=20, setup=SETUP)
    # The same cells, by a model that embeds batches.
    model.twin = CIVAE(model.adata, n_latent=4, n_hidden=16, batch_representation="embedding")
    model.folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(model.folder)
    return model


@pytest.fixture(scope="module")
def expected(model):
    """What each method gives for cells that nothing has befallen."""
    found = {}
    for name, call in CALLS.items():
        plain = name.rstrip("*")
        if plain in ONLY_OWN:
            continue
        cells = make_adata() if plain in ONLY_OTHERS else None
        found[name] = dense(call(model, cells))
    return found


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def said_by_us(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    one_line = len(str(error.args[0]).splitlines()) == 1
    return isinstance(error, OURS) and last.filename.startswith(PACKAGE) and one_line


def outcomes(model, cells, others, left_out=()):
    """What each method gives, or the error it raises."""
    found = {}
    for name, call in CALLS.items():
        plain = name.rstrip("*")
        if plain in (ONLY_OWN if others else ONLY_OTHERS) or plain in left_out:
            continue
        adata = cells() if others else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[name] = dense(call(model, adata))
            except SkipError:
                continue
            except Exception as error:  # noqa: BLE001
                found[name] = error
    return found


def assert_all_refuse(found):
    for name, result in found.items():
        assert isinstance(result, Exception), f"{name} gave a number"
        assert said_by_us(result), f"{name} raised {result!r}"


def assert_all_right(found, expected, place):
    for name, result in found.items():
        if isinstance(result, Exception):
            raise AssertionError(f"{name} raised {result!r}") from result
        if name.endswith("*"):
            np.testing.assert_allclose(
                result, expected[name][place], rtol=1e-3, atol=1e-4, err_msg=name
            )
        elif len(place) == N_CELLS and (np.diff(place) == 1).all():
            # Sampled, by the seed of the model: the same cells give the same numbers.
            np.testing.assert_allclose(result, expected[name], rtol=2e-2, atol=1e-3, err_msg=name)


class Changed:
    """The model's own AnnData after a change, put back at the end."""

    def __init__(self, model, change):
        self.model, self.change = model, change

    def __enter__(self):
        self.backup = self.model.adata.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.change(self.model.adata)
        return self.model

    def __exit__(self, *error):
        self.model.adata._init_as_actual(self.backup)


@pytest.mark.parametrize("change", [*WRONG, *WRONG_FOR_OWN])
def test_own_cells_changed_after_training(model, expected, change):
    with Changed(model, {**WRONG, **WRONG_FOR_OWN}[change]):
        assert_all_refuse(outcomes(model, None, others=False))
    np.testing.assert_array_equal(  # put back, all is well again
        model.get_latent_representation(), expected["get_latent_representation*"]
    )


def changed_cells(change):
    def make():
        adata = make_adata()
        change(adata)
        return adata

    return make


@pytest.mark.parametrize("change", WRONG)
def test_cells_of_others(model, change):
    found = outcomes(model, changed_cells(WRONG[change]), others=True)
    if change == "genes reversed":  # which this method is there for
        result = found.pop("prepare_query_anndata")
        np.testing.assert_allclose(result, model.get_latent_representation(make_adata()), atol=1e-5)
    if change == "genes subset":
        assert found.pop("prepare_query_anndata").shape == (N_CELLS, 4)  # zeros for the others
    if change in ("log-normalized", "normalized", "scaled in place", "log1p in place"):
        found.pop("transfer_fields")  # which reads no values
    for name in ("z-scores", "negative", "NaN", "an empty cell", "layer gone"):
        if change == name and name != "layer gone":
            found.pop("transfer_fields")
    assert_all_refuse(found)


@pytest.mark.parametrize("change", WRONG)
def test_cells_that_were_seen_before(model, change):
    """An AnnData that was in order once, and is passed again."""

    def cells():
        adata = make_adata()
        model.get_latent_representation(adata)
        WRONG[change](adata)
        return adata

    calls = {name: CALLS[name] for name in ("predict*", "get_elbo", "differential_expression")}
    for name, call in calls.items():
        with pytest.raises(OURS) as caught:
            call(model, cells())
        assert said_by_us(caught.value), f"{name} raised {caught.value!r}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", RIGHT)
def test_changes_that_mean_nothing(model, expected, change):
    function, place = RIGHT[change]
    with Changed(model, function):
        refused = change == "rounding errors"  # which are other values than it was trained on
        found = outcomes(model, None, others=False, left_out=() if refused else ONLY_OWN)
        if refused:
            assert_all_refuse(found)
        else:
            assert_all_right(found, expected, place)
    found = outcomes(model, changed_cells(function), others=True)
    assert_all_right(found, expected, place)


@pytest.mark.filterwarnings("ignore")
def test_copies_and_views(model, expected):
    copies = outcomes(model, lambda: model.adata.copy(), others=True)
    assert_all_right(copies, expected, np.arange(N_CELLS))
    place = np.arange(N_CELLS)[::-1]
    for name in ("predict*", "get_latent_representation*", "novelty*"):
        view = make_adata()[place]
        np.testing.assert_allclose(
            CALLS[name](model, view), expected[name][place], rtol=1e-3, atol=1e-4
        )


@pytest.mark.filterwarnings("ignore")
def test_a_file_sorted_by_type(model, expected, tmp_path):
    """Cells on the disk, in any order, by position or all of them."""
    adata = make_adata()
    place = np.argsort(adata.obs["cell_type"].cat.codes, kind="stable").to_numpy()
    adata = adata[place].copy()
    adata.X = adata.layers["counts"]
    del adata.layers["counts"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model = make_model(make_adata_on_x(), epochs=10, setup={**SETUP, "layer": "X"})
    cells = {
        "memory": anndata.read_h5ad(tmp_path / "cells.h5ad"),
        "file": anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r"),
    }
    for name in ("predict*", "get_latent_representation*", "get_latent_library_size*"):
        for adata in cells.values():
            found, all_of_them = CALLS[name](model, adata), CALLS[name](model, None)
            np.testing.assert_allclose(found, all_of_them[place], rtol=1e-3, atol=1e-4)
    some = [7, 3, 90, 50, 3]
    for call in (
        lambda a: model.predict(a, some, soft=True).to_numpy(),
        lambda a: model.get_latent_representation(a, some, return_dist=True)[0],
        lambda a: model.get_latent_library_size(a, some, give_mean=False),
        lambda a: model.get_normalized_expression(a, some).to_numpy(),
        lambda a: model.get_elbo(a, some, return_mean=False),
    ):
        np.testing.assert_allclose(call(cells["file"]), call(cells["memory"]), rtol=1e-4)


def make_adata_on_x():
    adata = make_adata()
    adata.X = adata.layers["counts"]
    del adata.layers["counts"]
    return adata


# --- files, dataloaders and datamodules -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("check", [True, False])
def test_files(model, change, check, tmp_path):
    """A file read by the registry of the model, or by a setup of its own."""
    adata = changed_cells(WRONG[change])()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    sources = {
        "registry": lambda: BlockDataModule(
            tmp_path / "cells.h5ad", registry=model.registry, check=check
        ),
        "its own": lambda: BlockDataModule(
            tmp_path / "cells.h5ad", **SETUP, layer="counts", check=check
        ),
    }
    uses = {
        "predict": lambda d: model.predict(dataloader=d.inference_dataloader()),
        "latent": lambda d: model.get_latent_representation(dataloader=d.inference_dataloader()),
        "elbo": lambda d: model.get_elbo(dataloader=d.inference_dataloader()),
        "annotate": model.annotate,
        "train": lambda d: CIVAE(registry=model.registry, likelihood="nb").train(
            datamodule=d, max_epochs=1, enable_progress_bar=False
        ),
    }
    for source, make in sources.items():
        for name, use in uses.items():
            with pytest.raises((*OURS, FloatingPointError)) as caught:
                use(make())
            last = traceback.extract_tb(caught.value.__traceback__)[-1]
            assert last.filename.startswith(PACKAGE), f"{source}, {name}: {caught.value!r}"


def test_loaders_of_others(model):
    """Tensors that a loader of somebody else yields."""
    own = list(BlockDataModule(make_adata(), registry=model.registry).inference_dataloader())
    np.testing.assert_allclose(
        model.get_latent_representation(dataloader=own),
        model.get_latent_representation(make_adata()),
        atol=1e-5,
    )
    for change, text in (
        (lambda t: t | {"X": t["X"][:, :30]}, "must yield the 40 genes of the model"),
        (lambda t: t | {"X": torch.log1p(t["X"].to_dense() / 3)}, "holds log-normalized values"),
        (lambda t: t | {"X": -t["X"].to_dense()}, "holds negative values"),
        (lambda t: t | {"batch": t["batch"] + 5}, "codes of the 2 batches"),
        (lambda t: {"x": t["X"]}, "with the values under 'X'"),
        (lambda t: t["X"], "must yield dicts of tensors"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            model.predict(dataloader=[change(dict(t)) for t in own])
    with pytest.raises(TypeError, match="dataloader must yield minibatches"):
        model.predict(dataloader=3)
    for method in (model.predict, model.get_latent_representation, model.get_elbo):
        with pytest.raises(ValueError, match="replaces adata and indices"):
            method(make_adata(), dataloader=own)


def test_a_datamodule_of_cells_that_have_changed(model):
    adata = make_adata()
    data = BlockDataModule(adata, registry=model.registry)
    before = model.predict(dataloader=data.inference_dataloader())
    adata.layers["counts"].data[5] += 1
    for use in (model.annotate, lambda d: model.predict(dataloader=d.inference_dataloader())):
        with pytest.raises(ValueError, match="adata must not change after the datamodule"):
            use(data)
    adata.layers["counts"].data[5] -= 1
    np.testing.assert_array_equal(model.predict(dataloader=data.inference_dataloader()), before)


def test_a_loader_of_another_setup(model):
    other = make_adata()
    other.obs["batch"] = other.obs["batch"].cat.rename_categories({"one": "uno"})
    data = BlockDataModule(other, **SETUP)
    for use in (model.annotate, lambda d: model.predict(dataloader=d.inference_dataloader())):
        with pytest.raises(
            ValueError, match=r"must have the batches of the model \('one', 'two'\)"
        ):
            use(data)


# --- minified -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_minified():
    """A model without counts: what it can say is what it said, and it says what it cannot."""
    model = make_model(make_adata(), epochs=20, setup=SETUP)
    before = {
        name: dense(CALLS[name](model, None))
        for name in ("predict*", "get_latent_representation*", "interpolate")
    }
    full = model.adata
    full.obsm["m"], full.obsm["v"] = model.get_latent_representation(return_dist=True)
    full.obsm["wrong"] = full.obsm["m"] + 1
    with pytest.raises(ValueError, match=r"adata.obsm\['wrong'\] must hold the posterior"):
        model.minify_adata(use_latent_qzm_key="wrong", use_latent_qzv_key="v")
    with pytest.raises(KeyError, match="use_latent_qzv_key must be a key of adata.obsm"):
        model.minify_adata(use_latent_qzm_key="m")
    model.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    for name, result in outcomes(model, None, others=False).items():
        if name in before:
            np.testing.assert_allclose(result, before[name], rtol=1e-3, atol=1e-3, err_msg=name)
        elif isinstance(result, Exception):
            by_scvi = "does not support minified" in str(result).replace("currently ", "")
            assert by_scvi or said_by_us(result), f"{name} raised {result!r}"
        else:
            assert np.isfinite(result).all(), name
    with pytest.raises(ValueError, match="train function does not support minified data"):
        model.train(max_epochs=1)
    with pytest.raises(ValueError, match="model is minified .* but adata is not"):
        model.predict(make_adata())
    whole = make_model(make_adata(), epochs=1, setup=SETUP)
    with pytest.raises(ValueError, match="adata is minified .* the model is not"):
        whole.predict(model.adata.copy())
    np.testing.assert_allclose(
        model.predict(model.adata.copy(), soft=True).to_numpy(), before["predict*"], atol=1e-3
    )


# --- arguments of inherited methods -------------------------------------------------------------------


BAD_ARGUMENTS = {
    "gene unknown": (lambda m: m.get_normalized_expression(gene_list=["gene_77"]), KeyError, "'gene_77' is not. Did you mean"),
    "gene in another case": (lambda m: m.get_normalized_expression(gene_list=["GENE_7"]), KeyError, "Did you mean 'gene_7'"),
    "gene twice": (lambda m: m.posterior_predictive_sample(gene_list=["gene_7", "gene_7"]), ValueError, "each gene once"),
    "no genes": (lambda m: m.get_normalized_expression(gene_list=[]), ValueError, "at least one gene"),
    "genes of another name": (lambda m: m.get_normalized_expression(genes=GENES), TypeError, "got 'genes'"),
    "group unknown": (lambda m: m.differential_expression(groupby="cell_type", group1="alfa"), ValueError, "got 'alfa'; available values: 'alpha', 'beta', 'gamma'. Did you mean 'alpha'"),
    "second group unknown": (lambda m: m.differential_expression(groupby="cell_type", group1="alpha", group2="delta"), ValueError, "group2 must be a value"),
    "groups alike": (lambda m: m.differential_expression(groupby="cell_type", group1="alpha", group2="alpha"), ValueError, "different groups"),
    "column unknown": (lambda m: m.differential_expression(groupby="celltype"), KeyError, "Did you mean 'cell_type'"),
    "no groups": (lambda m: m.differential_expression(), ValueError, "needs groups"),
    "idx2 alone": (lambda m: m.differential_expression(idx2=[1, 2]), ValueError, "pass idx1, too"),
    "short mask": (lambda m: m.differential_expression(idx1=[True, False]), TypeError, "idx1 must be integer positions"),
    "groups that share cells": (lambda m: m.differential_expression(idx1=[1, 2], idx2=[2, 3]), ValueError, "no cell in common"),
    "query": (lambda m: m.differential_expression(idx1="celltype == 3"), ValueError, "idx1 must be a mask, positions or a query"),
    "mode": (lambda m: m.differential_expression(groupby="cell_type", mode="chnge"), ValueError, "mode must be one of 'vanilla', 'change'.*Did you mean 'change'"),
    "batch of a group": (lambda m: m.differential_expression(groupby="cell_type", batchid1=["three"]), KeyError, "batchid1 must be a batch"),
    "sample unknown": (lambda m: m.differential_abundance(sample_key="donr"), KeyError, "sample_key must be a column"),
    "no sample": (lambda m: m.differential_abundance(), ValueError, "sample_key must name"),
    "batch": (lambda m: m.get_normalized_expression(transform_batch="three"), KeyError, "'one', 'two'"),
    "batches": (lambda m: m.get_feature_correlation_matrix(transform_batch=["one", "three"]), KeyError, "'one', 'two'"),
    "indices outside": (lambda m: m.get_elbo(indices=[500]), IndexError, r"must lie in \[0, 119\]"),
    "indices empty": (lambda m: m.get_aggregated_posterior(indices=[]), ValueError, "at least one cell"),
    "indices short mask": (lambda m: m.get_normalized_expression(indices=[True]), TypeError, "a mask of shape"),
    "batch_size": (lambda m: m.get_elbo(batch_size=0), ValueError, "batch_size must be at least 1"),
    "n_samples": (lambda m: m.get_normalized_expression(n_samples=1.5), TypeError, "n_samples must be an integer"),
    "flag": (lambda m: m.get_elbo(return_mean="no"), TypeError, "return_mean must be True or False"),
    "library_size": (lambda m: m.get_normalized_expression(library_size="observed"), ValueError, "must be one of 'latent'"),
    "library_size zero": (lambda m: m.get_normalized_expression(library_size=0), ValueError, "library_size must lie in"),
    "correlation": (lambda m: m.get_feature_correlation_matrix(correlation_type="kendall"), ValueError, "must be one of 'spearman', 'pearson'"),
    "misspelt": (lambda m: m.get_elbo(batchsize=3), TypeError, "got 'batchsize'"),
    "misspelt for the latent space": (lambda m: m.get_latent_representation(give_men=True), TypeError, "got 'give_men'"),
    "of MuData": (lambda m: m.prepare_query_mudata(None, m), NotImplementedError, "use|pass"),
    "embedding": (lambda m: make_plain(m).get_batch_representation(), ValueError, "batch_representation='embedding'"),
    "no reference": (lambda m: CIVAE.load_query_data(make_adata(), None), TypeError, "reference_model must be a CIVAE"),
    "no query": (lambda m: CIVAE.load_query_data(None, m), ValueError, "pass adata="),
}  # fmt: skip


def make_plain(model):
    adata = make_adata()
    CIVAE.setup_anndata(adata)
    return CIVAE(adata, n_latent=4, n_hidden=16)


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_of_inherited_methods(model, case):
    call, error, text = BAD_ARGUMENTS[case]
    columns = list(model.adata.obs)
    with pytest.raises(error, match=text) as caught:
        call(model)
    assert said_by_us(caught.value)
    assert list(model.adata.obs) == columns


def test_genes_keep_the_order_asked_for(model):
    whole = model.get_normalized_expression()
    some = model.get_normalized_expression(gene_list=GENES)
    assert some.columns.tolist() == GENES
    np.testing.assert_array_equal(some, whole[GENES])
    drawn = model.get_normalized_expression(gene_list=GENES, n_samples=3, return_mean=False)
    every = model.get_normalized_expression(n_samples=3, return_mean=False)
    np.testing.assert_array_equal(drawn, every[..., [7, 3]])
    loader = BlockDataModule(make_adata(), registry=model.registry).inference_dataloader()
    np.testing.assert_allclose(
        model.get_normalized_expression(dataloader=loader, gene_list=GENES).shape, (N_CELLS, 2)
    )


def test_a_mask_is_taken_for_cells(model):
    mask = np.arange(N_CELLS) % 3 == 0
    by_mask = model.get_normalized_expression(indices=mask)
    assert by_mask.index.tolist() == model.adata.obs_names[mask].tolist()
    assert (
        len(model.get_aggregated_posterior(indices=mask).mixture_distribution.probs) == mask.sum()
    )


@pytest.mark.filterwarnings("ignore")
def test_groups_without_cells_are_no_groups(model):
    with Changed(model, unused_categories):
        found = model.differential_expression(
            groupby="cell_type", silent=True, n_samples_overall=20
        )
    assert set(found["group1"]) == {"alpha", "beta", "gamma"}


@pytest.mark.filterwarnings("ignore")
def test_nobodys_random_state_and_mode(model):
    """Whatever is inherited draws by the seed of the model, and leaves the network as it was."""

    def state():
        return np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002

    for name, call in CALLS.items():
        if name.rstrip("*") in ONLY_OTHERS | ONLY_OWN:
            continue
        torch.rand(3), np.random.rand(3)  # noqa: NPY002
        before = state()
        first = dense(call(model, None))
        assert state() == before, name
        torch.rand(3), np.random.rand(3)  # noqa: NPY002
        np.testing.assert_array_equal(dense(call(model, None)), first, err_msg=name)
    model.module.train()
    try:
        samples = [model.get_normalized_expression().to_numpy() for _ in range(2)]
        np.testing.assert_array_equal(*samples)
        assert model.module.training
    finally:
        model.module.eval()


def test_signatures_are_those_of_scvi_tools():
    for name in public_methods() - NO_CELLS:
        if name.startswith("tl."):
            continue
        theirs = getattr(scvi.model.SCVI, name, None)
        if theirs is None or name in ("train", "load", "load_query_data", "prepare_query_anndata"):
            continue
        ours = inspect.signature(getattr(CIVAE, name)).parameters
        for parameter in inspect.signature(theirs).parameters:
            takes_all = any(p.kind is p.VAR_KEYWORD for p in ours.values())
            assert parameter in ours or takes_all, f"{name} lost {parameter}"
