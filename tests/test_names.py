"""Names of cells, genes, groups and columns are data: any text, or numbers that stand for it."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_adata, make_model

import scivae
from scivae._names import as_text, same_names, write_plain
from scivae.cli import main
from scivae.commands.cells import as_words
from scivae.model import CIVAE, BlockDataModule

N = 120
INDEXES = {
    "integers": lambda n: pd.RangeIndex(n),
    "integers in another order": lambda n: pd.Index(np.arange(n)[::-1]),
    "floats": lambda n: pd.Index(np.arange(n) / 2),
    "dates": lambda n: pd.date_range("2020-01-01", periods=n),
    "categories": lambda n: pd.CategoricalIndex([f"c{i}" for i in range(n)]),
    "an empty one": lambda n: pd.Index(["", *(f"c{i}" for i in range(n - 1))]),
    "long ones": lambda n: pd.Index([f"{'x' * 5000}{i}" for i in range(n)]),
    "signs": lambda n: pd.Index([f"a/b|c:d\n🧬 → .. {i}" for i in range(n)]),
}


@pytest.fixture(scope="module")
def model():
    return make_model(make_adata(), epochs=10, setup={"batch_key": "batch"})


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_text_is_written_as_other_programs_read_it(tmp_path, suffix, missing):
    """As plain strings, with any pandas, also if text is missing in a table of ``uns``."""
    adata, file = make_adata(), tmp_path / f"cells{suffix}"
    adata.obs["note"] = pd.array(["a", None] * (N // 2), dtype="string")
    notes = pd.array(["a", None if missing else "b"], dtype="string")
    adata.uns["table"] = pd.DataFrame({"note": notes}, index=["x", "y"])
    dtype = adata.obs_names.dtype
    write_plain(adata, file)
    zarr = pytest.importorskip("zarr")
    stored = h5py.File(file) if suffix == ".h5ad" else zarr.open(file, mode="r")
    kinds = {stored[name].attrs["encoding-type"] for name in ("obs/_index", "var/_index")}
    assert kinds == {"string-array"}
    assert stored["obs/cell_type/categories"].attrs["encoding-type"] == "string-array"
    assert adata.obs_names.dtype == dtype
    read = (anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr)(file)
    assert as_text(read.obs_names).tolist() == as_text(adata.obs_names).tolist()
    assert read.obs["note"].isna().tolist() == [False, True] * (N // 2)
    assert read.uns["table"]["note"].isna().tolist() == [False, missing]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", INDEXES)
def test_names_of_cells(model, kind, tmp_path):
    adata, plain = make_adata(), make_adata()
    adata.obs.index = INDEXES[kind](N)
    names = as_text(adata.obs_names)
    by_name = model.interpolate(names[8], names[10], n_steps=3, adata=adata)
    by_position = model.interpolate(8, 10, n_steps=3, adata=plain)
    np.testing.assert_array_equal(by_name.obsm["X_civae"], by_position.obsm["X_civae"])
    for cells in (adata, plain):
        cells.obsm["X_civae"] = model.get_latent_representation(cells)
        cells.obsm["X_umap"] = cells.obsm["X_civae"][:, :2].copy()
    pairs, expected = (
        scivae.tl.pair_cells(cells, "batch", "one", "two", n_pairs=20) for cells in (adata, plain)
    )
    assert (
        pairs["source"].tolist() == names[plain.obs_names.get_indexer(expected["source"])].tolist()
    )
    # A row of the table is a walk between those two cells, whatever they are called.
    row = pairs.loc[0, ["source", "target"]]
    again = model.interpolate(*row, n_steps=2, adata=adata, key_added=None)
    z = plain.obsm["X_civae"][plain.obs_names.get_indexer(expected.loc[0, ["source", "target"]])]
    np.testing.assert_allclose(again.obsm["X_civae"], z, rtol=1e-5)
    trends, same = (
        scivae.tl.gene_trends(model, table, adata=cells, n_steps=3)
        for table, cells in ((pairs, adata), (expected, plain))
    )
    np.testing.assert_array_equal(trends.X, same.X)
    assert scivae.tl.project(adata, by_name)["civae_distance"].iloc[8] < 1e-3
    joint = scivae.tl.embed(adata, by_name)
    assert joint.n_obs == N + 3
    synthetic = model.augment("alpha", 3, adata=adata, min_confidence=0.0)
    assert set(synthetic.obs["civae_source"]) <= set(names)
    for name, made in {
        "path": by_name,
        "cells": synthetic,
        "trends": trends,
        "joint": joint,
    }.items():
        made.write_h5ad(tmp_path / f"{name}.h5ad")
    back = anndata.read_h5ad(tmp_path / "path.h5ad")
    assert back.obs["civae_source"].tolist() == [names[8]] * 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in INDEXES if kind != "dates"])
def test_names_of_genes(kind, tmp_path):
    adata = make_adata()
    adata.var.index = INDEXES[kind](adata.n_vars)
    genes = as_text(adata.var_names)
    model = make_model(adata, epochs=5, setup={"batch_key": "batch"})
    path = model.interpolate(0, 3, n_steps=3, key_added=None)
    assert path.var_names.tolist() == genes.tolist()
    z = model.get_latent_representation(path)  # what was made goes back into the model
    path.write_h5ad(tmp_path / "path.h5ad")
    back = anndata.read_h5ad(tmp_path / "path.h5ad")
    np.testing.assert_array_equal(model.get_latent_representation(back), z)
    adata.obsm["X_civae"] = model.get_latent_representation()
    adata.obsm["X_umap"] = adata.obsm["X_civae"][:, :2].copy()
    assert scivae.tl.embed(adata, path).n_vars == adata.n_vars
    pairs = scivae.tl.pair_cells(adata, "batch", "one", "two", n_pairs=20)
    trends = scivae.tl.gene_trends(model, pairs, n_steps=3, genes=genes[[7, 2]].tolist())
    assert trends.var_names.tolist() == genes[[7, 2]].tolist()
    scivae.pl.gene_trends(trends, trends.var_names.tolist())
    model.save(tmp_path / "model")
    loaded = CIVAE.load(tmp_path / "model", adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), adata.obsm["X_civae"])
    if kind not in ("signs", "long ones"):  # which files of the user cannot have
        adata.write_h5ad(tmp_path / "cells.h5ad")
        loaded.annotate(BlockDataModule(tmp_path / "cells.h5ad", registry=model.registry_))


def test_names_that_are_equal_as_text_are_not_mixed_up(model):
    adata = make_adata()
    adata.obs.index = pd.Index([i // 2 if i % 2 else str(i // 2) for i in range(N)], dtype=object)
    adata.obsm["X_civae"] = model.get_latent_representation(adata)
    adata.obsm["X_umap"] = adata.obsm["X_civae"][:, :2].copy()
    with pytest.raises(ValueError, match="cell_a must name one cell, but '4' is the name of 2"):
        model.interpolate("4", "5", adata=adata)
    with pytest.raises(ValueError, match=r"must be unique, got '0' .*astype\(str\)"):
        scivae.tl.pair_cells(adata, "batch", "one", "two")
    path = model.interpolate(8, 9, n_steps=3, adata=adata)
    assert scivae.tl.project(adata, path)["civae_distance"].iloc[[8, 9]].max() < 1e-3
    assert scivae.tl.embed(adata, path).n_obs == N + 3


@pytest.mark.parametrize("slot", ["obs_names", "var_names"])
def test_names_of_several_levels_are_refused(slot, model):
    adata = make_adata()
    frame = adata.obs if slot == "obs_names" else adata.var
    frame.index = pd.MultiIndex.from_arrays([np.arange(len(frame))] * 2)
    for take in (CIVAE.setup_anndata, model.predict, BlockDataModule):
        with pytest.raises(TypeError, match=f"adata.{slot} must be a plain index, .* set adata"):
            take(adata)


def test_text_and_numbers():
    assert as_text([1, "a", 2.5]).tolist() == ["1", "a", "2.5"]
    assert same_names([1, 2], ["1", "2"])
    assert not same_names([1, 2], ["2", "1"])
    assert as_words(pd.Series([1.0, 2.0, np.nan])).tolist() == ["1", "2", np.nan]
    assert as_words(pd.Series([1.5, 2.0])).tolist() == ["1.5", "2.0"]
    assert as_words(
        pd.Series(pd.Categorical([2.0, 1.0], [2.0, 1.0, 3.0]))
    ).cat.categories.tolist() == [
        "2",
        "1",
        "3",
    ]
    assert as_words(pd.Series([True, False])).tolist() == ["True", "False"]


@pytest.mark.filterwarnings("ignore")
def test_the_demo_needs_no_names(tmp_path, capsys):
    """Cells of one name, classes that are numbers."""
    adata = make_adata()
    adata.obs["cluster"] = (np.arange(N) % 3).astype(float)
    adata.obs_names = ["c"] * N
    adata.write_h5ad(tmp_path / "cells.h5ad")
    words = ["--data", str(tmp_path / "cells.h5ad"), "--labels-key", "cluster", "--label", "1"]
    out = ["--out", str(tmp_path / "out"), "--epochs", "5", "--n-synthetic", "3"]
    assert main(["demo", *words, *out]) == 0, capsys.readouterr().err
    assert "c → c, in class 1" in capsys.readouterr().out
