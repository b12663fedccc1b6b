"""What another version of anndata or pandas wrote, or would make, gives the same results.

anndata 0.13 and pandas 3 store text as ``str`` or ``string``, list X among the layers under ``None``
and hand out read-only arrays; anndata 0.12 and pandas 2 do none of this.
"""

from __future__ import annotations

import ast
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from packaging.version import Version
from tests.conftest import make_adata, make_model

import scivae
from scivae._names import layer_names, native_text, same_names
from scivae.data.plain import from_plain, to_plain
from scivae.model import CIVAE

TESTS = Path(__file__).parent
FILES = sorted(
    file
    for folder in ("src", "benchmarks", "tutorials")
    for file in (TESTS.parent / folder).rglob("*.py")
)
WRITTEN = sorted((TESTS / "written").glob("*.zip"))
PANDAS_2 = pd.__version__.startswith("2.")
TEXT = {"object": np.dtype(object), "string": pd.StringDtype()}
if not pd.__version__.startswith("2.2"):
    TEXT["str"] = pd.StringDtype(na_value=np.nan)


def equal(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def dense(adata, layer="counts"):
    values = adata.layers[layer]
    return values if isinstance(values, np.ndarray) else values.toarray()


# ---- files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=WRITTEN, ids=lambda path: path.stem)
def folder(request, tmp_path_factory):
    """Files that written/make.py wrote, with pandas 2 or with pandas 3."""
    folder = tmp_path_factory.mktemp(request.param.stem)
    shutil.unpack_archive(request.param, folder)
    return folder


@pytest.fixture
def cells(folder):
    return anndata.read_h5ad(folder / "model" / "adata.h5ad")


@pytest.fixture
def model(folder, cells):
    return CIVAE.load(folder / "model", cells)


@pytest.fixture
def made_here():
    """The cells of the files, made by the versions that run this test."""
    adata = scivae.datasets.synthetic(n_cells=40, n_genes=12)
    adata.obs["run"] = np.array(["one", "two"])[np.arange(40) % 2]
    return adata


@pytest.fixture
def generated(folder):
    """Generated cells from a zarr store of the format of zarr 3."""
    if Version(version("zarr")) < Version("3"):
        pytest.skip("zarr 2 does not read the format of zarr 3")
    return anndata.read_zarr(folder / "cells.zarr")


def test_both_directions_are_tested():
    assert [path.stem for path in WRITTEN] == ["pandas2", "pandas3"]


@pytest.mark.parametrize("source", ["saved with it", "file", "backed", "made here"])
def test_a_saved_model_takes_the_same_cells_from_everywhere(folder, cells, made_here, source):
    path = folder / "model" / "adata.h5ad"
    adata = {
        "saved with it": lambda: None,
        "file": lambda: anndata.read_h5ad(path),
        "backed": lambda: anndata.read_h5ad(path, backed="r"),
        "made here": lambda: made_here,
    }[source]()
    loaded = CIVAE.load(folder / "model", adata)
    equal(loaded.get_latent_representation(), cells.obsm["X_civae"])


def test_a_model_takes_cells_it_has_not_seen_and_query_cells(folder, cells, model, made_here):
    z = cells.obsm["X_civae"]
    equal(model.get_latent_representation(made_here), z)
    equal(model.get_latent_representation(made_here[:, model.get_var_names()].copy()), z)
    query = made_here[:, ::-1].copy()
    with pytest.raises(ValueError, match="in another order"):
        model.get_latent_representation(query)
    with pytest.raises(ValueError, match="1 are missing"):
        model.get_latent_representation(made_here[:, 1:].copy())
    CIVAE.prepare_query_anndata(query, folder / "model")
    equal(model.get_latent_representation(query), z)
    mapped = CIVAE.load_query_data(made_here, folder / "model")
    mapped.is_trained = True
    equal(mapped.get_latent_representation(), z)


def test_files_of_generated_cells_go_back_into_the_model(folder, cells, model, generated):
    path, made = anndata.read_h5ad(folder / "path.h5ad"), generated
    equal(model.interpolate(0, 1, n_steps=4, key_added=None).layers["counts"], dense(path))
    assert set(model.predict(made)) <= set(model.classes)
    cells.obsm["X_umap"] = np.zeros((40, 2), dtype=np.float32)
    for adata in (path, made):
        joint = scivae.tl.embed(cells, adata)
        assert joint.n_obs == 40 + adata.n_obs
        assert list(joint.obs_names[:40]) == list(cells.obs_names)
        equal(joint.layers["counts"][40:].toarray(), dense(adata))


def test_results_from_such_cells_can_be_written(cells, model, generated, tmp_path):
    cells.obsm["X_umap"] = np.zeros((40, 2), dtype=np.float32)
    pairs = scivae.tl.pair_cells(cells, "run", "one", "two")
    few = scivae.tl.pair_cells(cells, "run", "one", "two", label=model.classes[0])
    results = {
        "path": model.interpolate(0, 1, n_steps=3),
        "cells": model.augment(model.classes[0], 5),
        "trends": scivae.tl.gene_trends(model, pairs, n_steps=3, n_bootstraps=20),
        "decoded": scivae.tl.gene_trends(model, few, n_steps=3, evidence="decoded"),
        "embedding": scivae.tl.embed(cells, generated),
    }
    for name, adata in results.items():
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        back = anndata.read_h5ad(tmp_path / f"{name}.h5ad")
        assert list(back.obs_names) == list(adata.obs_names)
        assert list(back.var_names) == list(adata.var_names)
    model.save(tmp_path / "model", save_anndata=True)
    equal(CIVAE.load(tmp_path / "model").get_latent_representation(), cells.obsm["X_civae"])


# ---- types of text --------------------------------------------------------------------------


def retyped(adata, dtype):
    """A copy whose text, names included, is stored as a type."""
    adata = adata.copy()
    for name, column in adata.obs.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            categories = pd.Index(column.cat.categories.astype(object), dtype=dtype)
            adata.obs[name] = column.cat.rename_categories(categories)
        elif not pd.api.types.is_numeric_dtype(column.dtype):
            adata.obs[name] = column.astype(object).astype(dtype)
    adata.obs_names = pd.Index(adata.obs_names.astype(object), dtype=dtype)
    adata.var_names = pd.Index(adata.var_names.astype(object), dtype=dtype)
    return adata


def everything(model, adata):
    """What a model says of cells, and what is made of them."""
    adata.obsm["X_civae"] = model.get_latent_representation(adata)
    adata.obsm["X_umap"] = adata.obsm["X_civae"][:, :2].copy()
    adata.uns["cell_type_colors"] = ["#0072b2", "#d55e00", "#009e73"]
    made = model.augment("alpha", 6, adata=adata, min_confidence=0.0, key_added=None)
    path = model.interpolate("cell_0", "cell_4", adata=adata, n_steps=3, key_added=None)
    pairs = scivae.tl.pair_cells(adata, "site", "left", "right", label="alpha", n_pairs=4)
    trends = scivae.tl.gene_trends(model, pairs, adata=adata, n_steps=3, n_bootstraps=2)
    joint = scivae.tl.embed(adata, made)
    return {
        "z": adata.obsm["X_civae"],
        "predicted": model.predict(adata).astype(str),
        "made": dense(made),
        "colors": made.uns["cell_type_colors"],
        "path": dense(path),
        "pairs": pairs[["source", "target"]].to_numpy().astype(str),
        "trends": trends.X,
        "joint": joint.obs["cell_type"].to_numpy().astype(str),
        "site": joint.obs["site"].astype(object).fillna("none").to_numpy().astype(str),
    }


def plain_text():
    adata = make_adata()
    adata.obs["site"] = adata.obs["site"].astype(str)  # text that is not categorical
    return adata


@pytest.fixture(scope="module")
def of_plain_text():
    return everything(
        make_model(plain_text(), epochs=20, setup={"batch_key": "batch"}), plain_text()
    )


@pytest.mark.parametrize("trained_on", TEXT)
@pytest.mark.parametrize("asked_about", TEXT)
def test_the_type_of_text_changes_no_result(of_plain_text, trained_on, asked_about):
    adata = retyped(plain_text(), TEXT[trained_on])
    model = make_model(adata, epochs=20, setup={"batch_key": "batch"})
    found = everything(model, retyped(plain_text(), TEXT[asked_about]))
    for name, values in of_plain_text.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("dtype", TEXT)
def test_a_missing_label_is_unlabeled_whatever_the_type_of_text(dtype):
    adata = make_adata()
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[::5] = None
    labels.iloc[1::5] = "Unknown"
    adata.obs["cell_type"] = labels.astype(TEXT[dtype])
    model = make_model(adata, setup={"unlabeled_category": "Unknown"})
    assert list(model.classes) == ["alpha", "beta", "gamma"]
    wanted = np.isin(np.arange(120) % 5, [0, 1])
    np.testing.assert_array_equal(adata.obs["_scvi_labels"] == 3, wanted)


@pytest.mark.skipif(not PANDAS_2, reason="pandas 3 always does this")
def test_arrays_that_pandas_2_hands_out_read_only_and_text_that_it_infers_as_pandas_3():
    wanted = everything(make_model(make_adata()), make_adata())
    options = ["mode.copy_on_write", True]
    if "str" in TEXT:
        options += ["future.infer_string", True]
    with pd.option_context(*options):
        found = everything(make_model(make_adata()), make_adata())
        model = make_model(make_adata(), setup={"unlabeled_category": "gamma"})
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert list(model.classes) == ["alpha", "beta"]


def test_names_are_compared_by_what_they_say():
    names = ["b", "a", "c"]
    for one in TEXT.values():
        for other in TEXT.values():
            assert same_names(pd.Index(names, dtype=one), pd.Index(names, dtype=other))
            assert not same_names(pd.Index(names, dtype=one), pd.Index(names[::-1], dtype=other))
            assert not same_names(pd.Index(names, dtype=one), pd.Index(names[:2], dtype=other))
    assert same_names(np.array(names), pd.Index(names))


def test_layers_are_named_without_x():
    assert layer_names(make_adata()) == ["counts"]


@pytest.mark.parametrize("dtype", TEXT)
def test_text_is_given_the_type_of_this_pandas(dtype):
    text = pd.Series(["a", None], index=pd.Index(["x", "y"], dtype=TEXT[dtype]), dtype=TEXT[dtype])
    frame = pd.DataFrame({"text": text, "kind": text.astype("category"), "n": [1, 2]})
    before = frame.copy()
    native = native_text(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert list(native.index) == ["x", "y"]
    assert native["text"].iloc[0] == native["kind"].iloc[0] == "a"
    assert native.isna().to_numpy().tolist() == [[False, False, False], [True, True, False]]
    if PANDAS_2:
        assert native.index.dtype == native["text"].dtype == object
        assert native["kind"].cat.categories.dtype == object


@pytest.mark.parametrize("dtype", TEXT)
def test_a_table_of_a_model_file_is_read_as_this_pandas_makes_it(dtype):
    table = pd.DataFrame({"name": pd.Series(["a", "b"], dtype=TEXT[dtype]), "n": [1, 2]})
    plain = to_plain(table)
    assert plain["dtypes"][0] in ("object", "str")
    back = from_plain(plain)
    assert list(back["name"]) == ["a", "b"]
    if plain["dtypes"][0] == "str":
        assert back["name"].dtype == pd.Series(["a"]).dtype


# ---- the source -----------------------------------------------------------------------------


def nodes(file):
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def test_layers_are_listed_in_one_place():
    """From anndata 0.13 on, a plain loop over the layers meets the key None."""
    for file in FILES:
        if file.name == "_names.py":
            continue
        every = nodes(file)
        fine = {id(node.value) for node in every if isinstance(node, ast.Subscript)}
        for node in every:
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
                fine |= {id(part) for part in node.comparators}
        for node in every:
            # Results of our own have a plain dict of this name.
            own = isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "result")
            if isinstance(node, ast.Attribute) and node.attr == "layers" and not own:
                assert id(node) in fine, f"{file}:{node.lineno} lists layers; use layer_names"


def test_indices_are_not_compared_with_their_types():
    for file in FILES:
        for node in nodes(file):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of_names = re.search("names|genes|index|categories|columns", ast.unparse(node))
                compared = node.func.attr == "equals" and of_names
                assert not compared, f"{file}:{node.lineno}: use same_names"


def of_pandas(node):
    """Whether an expression is an array that pandas may still own, and then hands out read-only."""
    if isinstance(node, ast.Attribute):
        return node.attr == "values"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        copied = any(k.arg == "copy" for k in node.keywords)
        return node.func.attr == "to_numpy" and not copied
    return False


def written_to(function):
    """Names of which a function changes the values in place, and where."""
    for node in ast.walk(function):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.lineno
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AugAssign) else targets
        for target in targets:
            if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                yield target.value.id, node.lineno


def faults(tree):
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        owned = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and of_pandas(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        yield from ((name, line) for name, line in written_to(function) if name in owned)


def test_arrays_of_pandas_are_not_written_to():
    for file in FILES:
        found = list(faults(ast.parse(file.read_text(encoding="utf-8"))))
        assert not found, f"{file}: {found}; copy first, or use x = x & y"


@pytest.mark.parametrize(
    "line", ["x &= y", "x[0] = 1", "x[y] += 1", "x = a.isna().to_numpy(dtype=bool)\n    x |= y"]
)
def test_such_a_line_is_found(line):
    assert list(faults(ast.parse(f"def f(a, y):\n    x = a.to_numpy()\n    {line}")))
    copied = f"def f(a, y):\n    x = a.to_numpy(copy=True)\n    {line}"
    assert bool(list(faults(ast.parse(copied)))) == ("isna" in line)
