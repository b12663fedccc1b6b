"""Cells give the same numbers however their values are stored, at every door."""

from __future__ import annotations

import tracemalloc

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from packaging.version import Version
from scipy import sparse
from tests.conftest import make_adata

import scivae
from scivae._storage import dense, in_memory, rows_of
from scivae.model import CIVAE, BlockDataModule

zarr = pytest.importorskip("zarr")
da = pytest.importorskip("dask.array")
pytestmark = pytest.mark.filterwarnings("ignore")


def unsorted(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same matrix, whose columns come in another order in each row."""
    x = x.copy()
    rng = np.random.default_rng(0)
    for start, stop in zip(x.indptr[:-1], x.indptr[1:], strict=True):
        order = start + rng.permutation(stop - start)
        x.indices[start:stop], x.data[start:stop] = x.indices[order], x.data[order]
    return sparse.csr_matrix((x.data, x.indices, x.indptr), shape=x.shape)


def doubled(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same matrix, of which each value above one is stored in two parts."""
    parts = x.tocoo()
    rest = parts.data > 1
    data = np.concatenate([np.minimum(parts.data, 1), parts.data[rest] - 1])
    rows = np.concatenate([parts.row, parts.row[rest]])
    columns = np.concatenate([parts.col, parts.col[rest]])
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(x.shape[0] + 1))
    return sparse.csr_matrix((data[order], columns[order], starts), shape=x.shape)


def with_zeros(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same matrix, in which zeros are stored too."""
    full = np.arange(x.shape[1])
    indices = np.tile(full, x.shape[0])
    starts = np.arange(x.shape[0] + 1) * x.shape[1]
    return sparse.csr_matrix((x.toarray().ravel(), indices, starts), shape=x.shape)


STORAGE = {
    "csr": lambda x, folder: x,
    "dense": lambda x, folder: x.toarray(),
    "fortran": lambda x, folder: np.asfortranarray(x.toarray()),
    "csc": lambda x, folder: x.tocsc(),
    "csr array": lambda x, folder: sparse.csr_array(x),
    "csc array": lambda x, folder: sparse.csc_array(x),
    "long indices": lambda x, folder: sparse.csr_matrix(
        (x.data, x.indices.astype("i8"), x.indptr.astype("i8")), shape=x.shape
    ),
    "unsorted": lambda x, folder: unsorted(x),
    "stored twice": lambda x, folder: doubled(x),
    "stored zeros": lambda x, folder: with_zeros(x),
    "uint8": lambda x, folder: x.astype("uint8"),
    "int64": lambda x, folder: x.astype("int64"),
    "float64": lambda x, folder: x.astype("float64"),
    "float16": lambda x, folder: x.toarray().astype("float16"),
    "big-endian": lambda x, folder: x.toarray().astype(">f4"),
    "read-only": lambda x, folder: read_only(x.toarray()),
    "memory map": lambda x, folder: mapped(x.toarray(), folder),
    "dask": lambda x, folder: da.from_array(x.toarray(), chunks=(50, 40)),
    "dask by columns": lambda x, folder: da.from_array(x.toarray(), chunks=(70, 17)),
    "dask int64": lambda x, folder: da.from_array(x.toarray().astype("int64"), chunks=(50, 40)),
    "dask of csr": lambda x, folder: chunks(x, sparse.csr_matrix),
    "dask of csc": lambda x, folder: chunks(x, sparse.csc_matrix),
    "dask of csr arrays": lambda x, folder: chunks(x, sparse.csr_array),
}
FILES = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "array": lambda x: x.toarray()}


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


def mapped(x: np.ndarray, folder) -> np.ndarray:
    out = np.memmap(folder / "values", dtype=x.dtype, mode="w+", shape=x.shape)
    out[:] = x
    return out


def chunks(x: sparse.csr_matrix, kind) -> da.Array:
    return da.from_array(x.toarray(), chunks=(50, 40)).map_blocks(kind, dtype=x.dtype)


def results(model: CIVAE, adata: anndata.AnnData) -> dict[str, np.ndarray]:
    """What the methods of a model give for some cells."""
    order = np.random.default_rng(0).permutation(adata.n_obs)
    path = model.interpolate([5, 3], [0, 9], n_steps=3, adata=adata)
    cells = model.augment("alpha", 4, adata=adata, min_confidence=0.0)
    z = model.get_latent_representation(adata)
    found = {
        "z": z,
        "some z": model.get_latent_representation(adata, indices=order[:30]),
        "predicted": model.predict(adata, soft=True).to_numpy(),
        "path": dense(path.layers.get("counts", path.X)),
        "cells": dense(cells.layers.get("counts", cells.X)),
        "error": np.array(float(model.get_reconstruction_error(adata)["reconstruction_loss"])),
    }
    if not adata.isbacked:
        adata.obsm["X_civae"] = z
        adata.obsm["X_umap"] = z[:, :2].copy()
        found["joint"] = dense(scivae.tl.embed(adata, path).X)
        pairs = scivae.tl.pair_cells(adata, "batch", "one", "two", n_pairs=20)
        trends = scivae.tl.gene_trends(model, pairs, adata=adata, n_steps=3)
        found["trends"] = dense(trends.X)
        found["measured"] = dense(next(iter(trends.varm.values())))
        scivae.pl.latent(adata, color="gene_1")
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in found.items():
        np.testing.assert_allclose(
            value, expected[name], rtol=1e-4, atol=1e-5, err_msg=f"{name} differs"
        )


def counts_in_x() -> anndata.AnnData:
    adata = make_adata()
    adata.X = adata.layers["counts"]
    del adata.layers["counts"]
    return adata


def fit(adata: anndata.AnnData) -> CIVAE:
    CIVAE.setup_anndata(adata, batch_key="batch")
    model = CIVAE(adata, n_latent=4, n_hidden=16)
    model.train(8, batch_size=32, enable_progress_bar=False, plan_kwargs={"lr": 0.01})
    return model


@pytest.fixture(scope="module")
def plain():
    model = fit(counts_in_x())
    return model, results(model, counts_in_x())


@pytest.mark.parametrize("storage", STORAGE)
def test_storage_of_query_cells(plain, storage, tmp_path):
    model, expected = plain
    adata = counts_in_x()
    adata.X = STORAGE[storage](adata.X, tmp_path)
    assert_same(results(model, adata), expected)


@pytest.mark.parametrize("storage", STORAGE)
def test_storage_of_training_cells(plain, storage, tmp_path):
    adata = counts_in_x()
    adata.X = STORAGE[storage](adata.X, tmp_path)
    model = fit(adata)
    np.testing.assert_allclose(
        model.get_latent_representation(), plain[1]["z"], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("storage", FILES)
def test_cells_of_a_file(plain, storage, tmp_path):
    adata = counts_in_x()
    adata.X = FILES[storage](adata.X)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert_same(results(plain[0], backed), plain[1])
    model = fit(anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    np.testing.assert_allclose(
        model.get_latent_representation(), plain[1]["z"], rtol=1e-3, atol=1e-4
    )


def block_latent(source) -> np.ndarray:
    data = BlockDataModule(source, batch_key="batch", block_size=16, pool_size=48, batch_size=32)
    model = CIVAE(registry=data.registry, n_latent=4, n_hidden=16)
    model.train(datamodule=data, max_epochs=2, enable_progress_bar=False)
    z = model.get_latent_representation(dataloader=data.inference_dataloader())
    chosen = data.to_memory([5, 3, 60])
    np.testing.assert_allclose(
        model.get_latent_representation(chosen), z[[5, 3, 60]], rtol=1e-3, atol=1e-4
    )
    return z


@pytest.fixture(scope="module")
def plain_blocks():
    return block_latent(counts_in_x())


@pytest.mark.parametrize("storage", STORAGE)
def test_storage_of_blocks_in_memory(plain_blocks, storage, tmp_path):
    adata = counts_in_x()
    adata.X = STORAGE[storage](adata.X, tmp_path)
    np.testing.assert_allclose(block_latent(adata), plain_blocks, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("storage", ["unsorted", "stored twice", "stored zeros", "uint8", "int64"])
@pytest.mark.parametrize("file", ["h5ad", "zarr"])
def test_storage_of_blocks_in_a_file(plain_blocks, file, storage, tmp_path):
    adata = counts_in_x()
    adata.X = STORAGE[storage](adata.X, tmp_path)
    path = tmp_path / f"cells.{file}"
    getattr(adata, f"write_{file}")(path)
    np.testing.assert_allclose(block_latent(path), plain_blocks, rtol=1e-3, atol=1e-4)


def test_blocks_of_a_file_by_columns_are_refused(tmp_path):
    adata = counts_in_x()
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="is stored by columns"):
        BlockDataModule(tmp_path / "cells.h5ad")


def before_08(path) -> None:
    """Write the attributes of anndata 0.7 in place of today's: none at the root and in columns."""
    with h5py.File(path, "r+") as file:
        for where in (file, file["layers"], file["obsm"], file["uns"], file["obs/age"]):
            for name in ("encoding-type", "encoding-version"):
                where.attrs.pop(name, None)
        obs = file["obs"]
        obs.attrs["encoding-version"] = file["var"].attrs["encoding-version"] = "0.1.0"
        for table in (obs, file["var"]):  # anndata 0.13 writes text as values and mask
            names = table.attrs["_index"]
            if isinstance(table[names], h5py.Group):
                values = table[names]["values"][...]
                del table[names]
                table.create_dataset(names, data=values)
            for name in ("encoding-type", "encoding-version"):
                table[names].attrs.pop(name, None)
        kept = obs.require_group("__categories")
        for column in ("cell_type", "batch", "site"):
            codes, levels = obs[column]["codes"][...], obs[column]["categories"]
            levels = (levels["values"] if isinstance(levels, h5py.Group) else levels)[...]
            del obs[column]
            kept.create_dataset(column, data=levels)
            obs.create_dataset(column, data=codes).attrs["categories"] = kept[column].ref


@pytest.mark.skipif(
    Version(anndata.__version__) >= Version("0.13"),
    reason="anndata 0.13 reads var of such files otherwise; they are refused in one line there",
)
@pytest.mark.filterwarnings("error::anndata.OldFormatWarning")
def test_a_file_of_anndata_07(tmp_path):
    """Written without encodings; read, and annotated."""
    counts_in_x().write_h5ad(tmp_path / "new.h5ad")
    counts_in_x().write_h5ad(tmp_path / "old.h5ad")
    before_08(tmp_path / "old.h5ad")
    latent = []
    for name in ("new", "old"):
        path = tmp_path / f"{name}.h5ad"
        latent.append(block_latent(path))
        data = BlockDataModule(path, batch_key="batch")
        model = CIVAE(registry=data.registry, n_latent=4, n_hidden=16)
        model.train(datamodule=data, max_epochs=1, enable_progress_bar=False)
        model.annotate(path)
    np.testing.assert_array_equal(*latent)
    with pytest.warns(anndata.OldFormatWarning):
        again = anndata.read_h5ad(tmp_path / "old.h5ad")
    assert again.obsm["X_civae"].shape == (120, 4)
    assert again.obs["cell_type"].tolist() == counts_in_x().obs["cell_type"].tolist()


def test_a_file_before_anndata_07_is_told_to_be_written_anew(tmp_path):
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        table = np.array([(b"a", 1)], dtype=[("index", "S1"), ("cell_type", "i1")])
        file["obs"], file["var"], file["X"] = table, table, np.ones((1, 1))
    with pytest.raises(ValueError, match=r"files of anndata 0\.7 or later, .*write_h5ad"):
        BlockDataModule(tmp_path / "old.h5ad")


@pytest.mark.parametrize("write", [lambda f: None, lambda f: f.create_group("obs")])
def test_another_file_is_none_of_cells(write, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        write(file)
    with pytest.raises(ValueError, match="must hold an AnnData, but"):
        BlockDataModule(tmp_path / "other.h5")


def test_lazy_annotation_is_refused(tmp_path):
    pytest.importorskip("xarray")
    make_adata().write_zarr(tmp_path / "cells.zarr")
    lazy = anndata.experimental.read_lazy(tmp_path / "cells.zarr")
    for take in (CIVAE.setup_anndata, BlockDataModule):
        with pytest.raises(TypeError, match=r"adata\.obs must be in memory.*to_memory"):
            take(lazy)


def test_values_in_memory(tmp_path):
    x = make_adata().layers["counts"]
    for name, store in STORAGE.items():
        values = store(x, tmp_path)
        np.testing.assert_array_equal(dense(values).astype(float), x.toarray(), err_msg=name)
        some = rows_of(values, [7, 3])
        assert isinstance(some, np.ndarray) or some.format in ("csr", "csc"), name
        np.testing.assert_array_equal(dense(some).astype(float), x.toarray()[[7, 3]])
    assert in_memory(sparse.coo_matrix(x)).format == "csr"
    assert isinstance(in_memory(pd.DataFrame({"a": [1]})), np.ndarray)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
def test_rows_of_a_matrix_with_two_types_of_index_cost_what_they_hold(kind):
    """As read from h5ad files of many cells: int64 pointers, int32 columns. scipy converts all columns for each slice."""
    matrix = kind(sparse.random(20_000, 100, 0.5, format="csr", random_state=0))
    plain = matrix.copy()
    matrix.indptr = matrix.indptr.astype(np.int64)
    assert matrix.indptr.dtype != matrix.indices.dtype
    some = np.array([5, 3, 3, -1])
    for index in (slice(2, 9), slice(None, None, 5000), some, np.arange(20_000) % 4000 == 7):
        found = rows_of(matrix, index)
        assert type(found) is kind
        np.testing.assert_array_equal(found.toarray(), plain[index].toarray())
        assert found.dtype == matrix.dtype
    assert rows_of(matrix, slice(4, 4)).shape == (0, 100)
    tracemalloc.start()
    rows_of(matrix, slice(100, 110))
    assert tracemalloc.get_traced_memory()[1] < 100_000  # all columns take 4 MB
    tracemalloc.stop()
    assert matrix.indptr.dtype == np.int64  # it stays as it was
