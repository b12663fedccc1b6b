"""Generated cells keep what the setup knew of the real ones, so that both can be joined."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from tests.conftest import make_adata, make_model

import scivae
from scivae.data.fields import column_like, numbers_like
from scivae.data.generated import distinct, safe_key
from scivae.model import CIVAE

CODE = np.arange(120) % 3
COLORS = ["#ff0000", "#00ff00", "#0000ff"]
COLUMNS = {
    "ordered": pd.Categorical.from_codes(CODE, ["c", "b", "a"], ordered=True),
    "unused category": pd.Categorical.from_codes(CODE, ["c", "b", "a", "never"]),
    "int8": CODE.astype("int8"),
    "int64": CODE,
    "nullable int": pd.array(CODE, dtype="Int64"),
    "bool": CODE == 1,
    "nullable bool": pd.array(CODE == 1, dtype="boolean"),
    "float": CODE + 0.5,
    "float32": (CODE + 0.5).astype("float32"),
    "text": np.array(["x", "y", "z"], dtype=object)[CODE],
    "numbers as categories": pd.Categorical(CODE),
}


def annotated() -> anndata.AnnData:
    """The tiny data with all that users write beside genes and cells."""
    adata = make_adata()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    adata.var["kind"] = pd.Categorical(np.arange(adata.n_vars) % 2)
    adata.var.index.name, adata.obs.index.name = "gene_id", "barcode"
    adata.varm["PCs"] = np.arange(adata.n_vars * 2.0).reshape(-1, 2)
    adata.uns["cell_type_colors"] = COLORS
    adata.uns["batch_colors"] = COLORS[:2]
    adata.uns["log1p"] = {"base": None}
    return adata


def made_by(model, adata) -> dict[str, anndata.AnnData]:
    often = pd.Series(model.predict()).mode()[0]  # a class of which cells are sure to be accepted
    return {
        "path": model.interpolate([0, 1], [4, 3], n_steps=4, adata=adata, key_added=None),
        "cells": model.augment(often, 3, adata=adata, min_confidence=0.0, key_added=None),
    }


@pytest.fixture(scope="module")
def real():
    adata = annotated()
    model = make_model(adata, epochs=10, setup={"batch_key": "batch"})
    return adata, model


@pytest.mark.parametrize("which", ["path", "cells"])
def test_genes_colors_and_names_are_those_of_the_real_cells(real, which):
    adata, model = real
    made = made_by(model, adata)[which]
    pd.testing.assert_frame_equal(made.var, adata.var)
    np.testing.assert_array_equal(made.varm["PCs"], adata.varm["PCs"])
    assert made.obs.index.name == "barcode"
    assert list(made.uns["cell_type_colors"]) == COLORS
    assert list(made.uns["civae_predicted_colors"]) == COLORS
    assert list(made.uns["batch_colors"]) == COLORS[:2]
    assert "log1p" in made.uns
    made.var["symbol"] = "changed"
    made.varm["PCs"][:] = 0
    made.uns["cell_type_colors"][0] = "changed"
    assert adata.var["symbol"].iloc[1] == "S1"
    assert adata.varm["PCs"].any()
    assert adata.uns["cell_type_colors"] == COLORS


def test_counts_in_x_are_not_said_to_be_on_a_log_scale():
    adata = annotated()
    adata.X = adata.layers["counts"].copy()
    del adata.layers["counts"]
    model = make_model(adata, epochs=1)
    assert "log1p" not in model.interpolate(0, 3, n_steps=2).uns


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", COLUMNS)
def test_joined_with_the_real_cells_columns_keep_their_type(kind, tmp_path):
    adata, columns = make_adata(), ["cell_type", "batch", "site"]
    adata.obs = adata.obs.assign(**dict.fromkeys(columns, COLUMNS[kind]))
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["site"]}
    model = make_model(adata, epochs=1, setup=setup)
    for name, made in made_by(model, adata).items():
        joined = anndata.concat([adata, made], index_unique="-")
        for column in columns:
            real = adata.obs[column]
            assert joined.obs[column].dtype == real.dtype
            assert joined.obs[column].iloc[: adata.n_obs].tolist() == real.tolist()
            if name == "cells":
                source = real[made.obs["civae_source"].astype(str)]
                target = real[made.obs["civae_target"].astype(str)]
                pairs = zip(source, target, strict=True)
                assert all(x in p for x, p in zip(made.obs[column], pairs, strict=True))
        made.write_h5ad(tmp_path / f"{name}.h5ad")
        again = anndata.read_h5ad(tmp_path / f"{name}.h5ad")
        assert again.obs[columns].to_numpy().tolist() == made.obs[columns].to_numpy().tolist()
        assert model.predict(again).shape == (made.n_obs,)  # and back into the model
    store = tmp_path / "store.zarr"
    label = made.obs["cell_type"].iloc[0]
    model.augment(label, 40, min_confidence=0.0, key_added=None, store=store)
    assert anndata.read_zarr(store).obs["cell_type"].dtype == made.obs["cell_type"].dtype


def test_numbers_keep_their_type_where_they_can():
    adata = make_adata()
    adata.obs["age"] = np.arange(120) ** 2 % 41
    adata.obs["size"] = adata.obs["size"].astype("float32")
    setup = {"continuous_covariate_keys": ["age"], "size_factor_key": "size"}
    model = make_model(adata, epochs=1, setup=setup)
    path, cells = made_by(model, adata).values()
    assert path.obs["age"].dtype == "float64"  # a third of the way from 0 to 16 is no integer
    assert cells.obs["age"].dtype == "int64"
    assert cells.obs["size"].dtype == path.obs["size"].dtype == "float32"


def test_ordered_classes_are_known_without_the_column(adata, tmp_path):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.as_ordered()
    model = make_model(adata, epochs=1)
    model.save(tmp_path / "model")
    loaded = CIVAE.load(tmp_path / "model", False)
    query = make_adata()
    del query.obs["cell_type"]
    path = loaded.interpolate(0, 3, n_steps=2, adata=query)
    assert path.obs["cell_type"].cat.ordered
    assert path.obs["cell_type"].cat.categories.tolist() == model.classes.tolist()


@pytest.mark.filterwarnings("ignore")
def test_scanpy_works_on_generated_and_joint_cells(real):
    adata, model = real
    cells = model.augment(dict.fromkeys(model.classes, 15), key_added=None)
    sc.tl.rank_genes_groups(cells, "cell_type", method="wilcoxon")
    sc.pp.highly_variable_genes(cells, n_top_genes=10)
    sc.pl.dotplot(cells, ["S1"], groupby="cell_type", gene_symbols="symbol", show=False)
    adata = adata.copy()
    adata.obsm["X_civae"] = model.get_latent_representation()
    adata.obsm["X_umap"] = adata.obsm["X_civae"][:, :2].copy()
    joint = scivae.tl.embed(adata, cells)
    assert "log1p" in joint.uns
    assert joint.obs.index.name == "barcode"
    sc.pl.umap(joint, color=["cell_type", "civae_predicted", "batch"], show=False)
    sc.tl.rank_genes_groups(joint, "cell_type")
    both = anndata.concat([adata, cells], merge="same", index_unique="-")
    assert both.var.columns.tolist() == ["symbol", "kind"]
    sc.pl.umap(adata, color="cell_type", show=False)


def test_embedded_columns_keep_their_type(real):
    adata, model = real
    adata = adata.copy()
    adata.obs["small"] = np.arange(120).astype("int8")
    adata.obs["flag"] = np.arange(120) > 7
    adata.obs["stage"] = pd.Categorical.from_codes(CODE, ["x", "y", "z"], ordered=True)
    adata.obsm["X_civae"] = model.get_latent_representation()
    adata.obsm["X_umap"] = adata.obsm["X_civae"][:, :2].copy()
    path = model.interpolate(0, 3, n_steps=3, key_added=None)
    joint = scivae.tl.embed(adata, path)
    assert joint.obs["cell_type"].dtype == adata.obs["cell_type"].dtype
    assert joint.obs["stage"].dtype == adata.obs["stage"].dtype
    assert joint.obs["stage"].isna().tolist() == [False] * 120 + [True] * 3
    assert joint.obs["flag"].dtype == "boolean"
    assert joint.obs["small"].iloc[:120].tolist() == list(range(120))
    assert joint.obs["civae_t"].isna().tolist() == [True] * 120 + [False] * 3


def test_column_like_keeps_names_that_the_type_cannot_hold():
    names = pd.Categorical.from_codes([0, 1], ["1.5", "b"])
    assert column_like(names, pd.Series([1, 2])) is names
    assert column_like(names, None) is names
    kept = column_like(pd.Categorical([1.5, 2.0]), pd.Series([1, 2]))
    assert kept.tolist() == [1.5, 2.0]
    assert numbers_like(np.array([1.5, 2]), pd.Series([1, 2])).tolist() == [1.5, 2.0]


def test_walks_have_names_of_their_own(real):
    adata, model = real
    path = model.interpolate([0, 0, 1], [3, 3, 4], n_steps=3, key_added=None)
    assert path.obs["civae_path"].astype(str).unique().tolist() == [
        "cell_0 → cell_3",
        "cell_0 → cell_3 (2)",
        "cell_1 → cell_4",
    ]
    assert distinct(["a", "a (2)", "a", "a"]) == ["a", "a (2)", "a (3)", "a (4)"]


def test_names_of_cells_are_no_keys(real, tmp_path):
    """Whatever cells are called, walks are written back one beside the other, and to the disk."""
    adata, model = real
    adata = adata.copy()
    odd = ["a/b", "a|b", "x" * 3000, "x" * 3000 + "y", "line\nbreak", "🧬 → γδ", "..", " "]
    adata.obs_names = [*odd, *adata.obs_names[len(odd) :]]
    for i in range(len(odd)):
        model.interpolate(i, 50, n_steps=2, adata=adata)
        model.interpolate(i, 50, n_steps=3, adata=adata)  # takes the place of the one before
    paths = adata.uns["civae"]["paths"]
    assert [entry["pairs"]["source"].iloc[0] for entry in paths.values()] == odd
    assert all(entry["parameters"]["n_steps"] == 3 for entry in paths.values())
    adata.write_h5ad(tmp_path / "adata.h5ad")
    adata.write_zarr(tmp_path / "adata.zarr")
    for again in (
        anndata.read_h5ad(tmp_path / "adata.h5ad"),
        anndata.read_zarr(tmp_path / "adata.zarr"),
    ):
        found = [e["pairs"]["source"].iloc[0] for e in again.uns["civae"]["paths"].values()]
        assert sorted(found) == sorted(odd)
    assert safe_key("a/b") == "a|b"
