import shutil
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scvi.dataloaders import AnnDataLoader
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae.model import CIVAE, BlockDataModule, _annotation

zarr = pytest.importorskip("zarr")

STORES = ("memory", "array", "h5ad", "h5ad array", "backed", "zarr 2", "zarr 3")
SMALL = {"batch_size": 16, "block_size": 7, "pool_size": 40}
COVARIATES = {
    "batch_key": "batch",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["site"],
    "continuous_covariate_keys": ["age"],
}


def stored(adata, store: str, folder: Path):
    """The same cells, stored in a way: what a datamodule takes."""
    adata = adata.copy()
    if "array" in store:
        adata.layers["counts"] = adata.layers["counts"].toarray()
    if store == "backed":  # anndata leaves X only on the disk
        adata.X = adata.layers.pop("counts")
    if store in ("memory", "array"):
        return adata
    path = folder / f"{store}.{'zarr' if 'zarr' in store else 'h5ad'}"
    if "zarr" in store:
        wanted = int(store[-1])
        if wanted == 3 and zarr.__version__.startswith("2"):
            pytest.skip("zarr 2 writes no stores of version 3")
        with anndata.settings.override(zarr_write_format=wanted):
            adata.write_zarr(path)
        assert zarr.open_group(str(path), mode="r").metadata.zarr_format == wanted
    else:
        adata.write_h5ad(path)
    return anndata.read_h5ad(path, backed="r") if store == "backed" else path


@pytest.fixture
def path(adata, tmp_path) -> Path:
    """The tiny data as an h5ad file."""
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def trained_from(data, epochs: int = 3, **kwargs) -> CIVAE:
    model = CIVAE(registry=data.registry, n_latent=4, n_hidden=16)
    model.train(
        datamodule=data,
        max_epochs=epochs,
        plan_kwargs={"lr": 0.01},
        enable_progress_bar=False,
        **kwargs,
    )
    return model


def rows_of(loader) -> list[np.ndarray]:
    """Positions of the cells of each minibatch, which cells of distinct counts tell."""
    data = loader.data
    with data.cells.opened() as root:
        matrix = data.cells.matrix(root, data.layer)[:]
    values = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    found = {row.tobytes(): i for i, row in enumerate(values.astype(np.float32))}
    assert len(found) == data.n_obs
    return [np.array([found[row.numpy().tobytes()] for row in b["X"]]) for b in loader]


# What is yielded


@pytest.mark.parametrize("store", STORES)
def test_minibatches_are_those_of_scvi_tools(adata, tmp_path, store):
    data = BlockDataModule(stored(adata, store, tmp_path), **COVARIATES, **SMALL)
    layer = "X" if store == "backed" else "counts"
    CIVAE.setup_anndata(adata, layer="counts", **COVARIATES)
    manager = CIVAE._get_most_recent_anndata_manager(adata)
    expected = list(AnnDataLoader(manager, batch_size=16))
    found = list(data.inference_dataloader(batch_size=16))
    assert data.layer == layer
    assert len(found) == len(expected) == len(data.inference_dataloader(batch_size=16))
    for tensors, wanted in zip(found, expected, strict=True):
        assert tensors.keys() == wanted.keys()
        for key, values in wanted.items():
            assert tensors[key].dtype == values.dtype, key
            assert torch.equal(tensors[key], values), key


def test_each_epoch_takes_every_training_cell_once_in_an_order_of_its_own(path):
    data = BlockDataModule(path, **SMALL)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        batches = rows_of(loader)
        assert len(batches) == len(loader)
        assert [len(b) for b in batches[:-1]] == [16] * (len(batches) - 1)
        epochs.append(np.concatenate(batches))
        np.testing.assert_array_equal(np.sort(epochs[-1]), np.sort(data.train_idx))
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert (epochs[0] != epochs[1]).any()
    # Blocks of 7 in pools of 5: a minibatch holds cells from all over the file.
    assert np.ptp(epochs[0][:16]) > 60
    other = BlockDataModule(path, **SMALL, seed=1).train_dataloader()
    assert not np.array_equal(np.concatenate(rows_of(other))[:16], epochs[0][:16])


def test_held_out_cells_are_a_share_of_every_class(path, adata):
    data = BlockDataModule(path, **SMALL, train_size=0.8, validation_size=0.1)
    parts = [data.train_idx, data.val_idx, data.test_idx]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(120))
    assert adata.obs["cell_type"].iloc[data.val_idx].value_counts().tolist() == [4, 4, 4]
    np.testing.assert_array_equal(
        np.concatenate(rows_of(data.val_dataloader())), np.sort(data.val_idx)
    )
    everything = BlockDataModule(path, train_size=1.0)
    assert everything.val_dataloader() == []
    assert trained_from(everything).temperature_ == 1.0


def test_no_minibatch_of_one_cell(path):
    data = BlockDataModule(path, batch_size=7, train_size=1.0)  # 120 = 17 · 7 + 1
    assert data.batch_size == 8
    trained_from(data, epochs=1)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("part", ["train", "val"])
def test_processes_share_the_minibatches_of_one(path, world_size, part):
    data = BlockDataModule(path, **SMALL, train_size=0.6)
    size = 6 * world_size

    def batches(**kwargs):
        index = {"train": data.train_idx, "val": data.val_idx}[part]
        return rows_of(data._loader(index, shuffle=part == "train", **kwargs))

    alone = batches(batch_size=size)
    ranks = [batches(batch_size=6, rank=r, world_size=world_size) for r in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    for whole, *parts in zip(alone, *ranks, strict=False):
        assert len({len(p) for p in parts}) == 1  # or the mean over processes is not that of cells
        together = np.concatenate(parts)
        np.testing.assert_array_equal(together, whole[: len(together)])
        assert len(whole) - len(together) < world_size


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_each_of_several_minibatches(path, world_size):
    """What a process is given at once is its part of the minibatches of one process, one after the other."""
    data = BlockDataModule(path, **SMALL, train_size=1.0)  # 120 cells
    n, kwargs = 11, {"shuffle": True, "smallest": 2}
    alone = rows_of(data._loader(data.train_idx, batch_size=n * world_size, **kwargs))
    kwargs |= {"batch_size": 3 * n, "minibatch_size": n, "world_size": world_size}
    ranks = [rows_of(data._loader(data.train_idx, rank=r, **kwargs)) for r in range(world_size)]
    split = [[some[i : i + n] for some in rank for i in range(0, len(some), n)] for rank in ranks]
    used = 0
    for whole, *parts in zip(alone, *split, strict=True):
        assert len({len(p) for p in parts}) == 1
        together = np.concatenate(parts)
        np.testing.assert_array_equal(together, whole[: len(together)])
        used += len(together)
    assert data.n_obs - used < 2 * world_size


def test_indices_of_inference(path):
    data = BlockDataModule(path, **SMALL)
    chosen = np.array([3, 50, 51, 119])
    np.testing.assert_array_equal(
        np.concatenate(rows_of(data.inference_dataloader(chosen))), chosen
    )
    mask = np.isin(np.arange(120), chosen)
    np.testing.assert_array_equal(np.concatenate(rows_of(data.inference_dataloader(mask))), chosen)
    with pytest.raises(ValueError, match="indices must increase"):
        data.inference_dataloader([3, 2])


# What is trained


def test_results_do_not_depend_on_how_cells_are_stored(adata, tmp_path):
    results = []
    for store in STORES:
        data = BlockDataModule(stored(adata, store, tmp_path), batch_key="batch", **SMALL)
        model = trained_from(data)
        history = {k: v.to_numpy(float).ravel() for k, v in model.history.items()}
        z = model.get_latent_representation(dataloader=data.inference_dataloader())
        results.append((history, z, model.calibration_))
    history, z, calibration = results[0]
    assert {"reconstruction_loss_train", "accuracy_validation"} <= history.keys()
    for other, other_z, other_calibration in results[1:]:
        assert other.keys() == history.keys()
        for key, values in history.items():
            np.testing.assert_array_equal(other[key], values, err_msg=key)
        np.testing.assert_array_equal(other_z, z)
        assert other_calibration.keys() == calibration.keys()
        for key, values in calibration.items():
            np.testing.assert_allclose(other_calibration[key], values, rtol=1e-4, err_msg=key)


@pytest.mark.parametrize("store", ["zarr 2", "zarr 3"])
@pytest.mark.parametrize("values", ["CSR", "array"])
def test_annbatch_reads_the_same_minibatches(adata, tmp_path, store, values):
    pytest.importorskip("annbatch", reason="annbatch needs Python 3.12")
    if values == "array":
        adata.layers["counts"] = adata.layers["counts"].toarray()
    path = stored(adata, store, tmp_path)
    expected, found = (
        list(BlockDataModule(path, reader=reader, **SMALL).train_dataloader())
        for reader in ("anndata", "annbatch")
    )
    assert len(expected) == len(found) > 5
    for one, other in zip(expected, found, strict=True):
        for key, tensor in one.items():
            assert torch.equal(tensor, other[key])


def test_annbatch_reads_zarr_only(path, adata):
    for source in (path, adata):
        with pytest.raises(
            ValueError, match="reader='annbatch' reads zarr stores, but .* is not one"
        ):
            BlockDataModule(source, reader="annbatch")


def test_annbatch_that_is_not_there(adata, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "annbatch", None)
    loader = BlockDataModule(stored(adata, "zarr 2", tmp_path), reader="annbatch").val_dataloader()
    with pytest.raises(ImportError, match="needs Python 3.12 or later and the package annbatch"):
        next(iter(loader))


def test_the_model_is_that_of_an_anndata(path, adata):
    """Likelihood, class weights, library size and first weights: all of what is read off the data."""
    CIVAE.setup_anndata(adata, size_factor_key="size")
    expected = CIVAE(adata, n_latent=4)
    data = BlockDataModule(path, size_factor_key="size")
    model = CIVAE(registry=data.registry, n_latent=4)
    assert model.likelihood == "nb"
    assert model.default_library_ == expected.default_library_
    state = expected.module.state_dict()
    for name, values in model.module.state_dict().items():
        assert torch.equal(values, state[name]), name
    few = adata[np.r_[0:60:3, 1:120:3, 2:120:3]].copy()  # alpha has half as many cells
    CIVAE.setup_anndata(few)
    data = BlockDataModule(few)
    assert torch.equal(
        CIVAE(registry=data.registry).module.class_weights, CIVAE(few).module.class_weights
    )


@pytest.mark.parametrize("store", STORES)
def test_training_from_the_disk_is_training_in_memory(store, adata, tmp_path):
    """Where one pool holds all cells: the same split, minibatches, losses and weights."""
    arguments = {"max_epochs": 3, "plan_kwargs": {"lr": 0.01}, "enable_progress_bar": False}
    options = {"n_latent": 4, "n_hidden": 16, "seed": 3}
    sorted_by_class = adata[np.argsort(adata.obs["cell_type"].cat.codes, kind="stable")].copy()
    data = BlockDataModule(
        stored(sorted_by_class, store, tmp_path), batch_key="batch", batch_size=16, seed=3
    )
    from_disk = CIVAE(registry=data.registry, **options)
    from_disk.train(datamodule=data, **arguments)
    CIVAE.setup_anndata(sorted_by_class, batch_key="batch")
    model = CIVAE(sorted_by_class, **options)
    model.train(batch_size=16, **arguments)
    np.testing.assert_array_equal(np.sort(model.train_indices), data.train_idx)
    np.testing.assert_array_equal(model.validation_indices, data.val_idx)
    for name, column in model.history.items():
        np.testing.assert_array_equal(column, from_disk.history[name])
    state = from_disk.module.state_dict()
    for name, values in model.module.state_dict().items():
        assert torch.equal(values, state[name]), name
    assert model.temperature_ == from_disk.temperature_


def test_source_is_left_alone(adata):
    before = snapshot(adata)
    trained_from(BlockDataModule(adata, **SMALL), epochs=1)
    assert_unchanged(adata, before)


def test_a_killed_run_goes_on(path, tmp_path):
    from lightning.pytorch import Callback

    class Stop(Callback):
        def on_train_epoch_start(self, trainer, plan):
            if trainer.current_epoch == 2:
                raise KeyError("stopped here")

    expected = trained_from(BlockDataModule(path, **SMALL), epochs=4)
    folder = tmp_path / "run"
    with pytest.raises(KeyError, match="stopped here"):
        trained_from(
            BlockDataModule(path, **SMALL), epochs=4, checkpoint_dir=folder, callbacks=[Stop()]
        )
    model = trained_from(BlockDataModule(path, **SMALL), epochs=4, checkpoint_dir=folder)
    state = expected.module.state_dict()
    for name, values in model.module.state_dict().items():
        assert torch.equal(values, state[name]), name


# After training


def test_what_a_model_from_a_file_can_do(path, adata, tmp_path):
    data = BlockDataModule(path, batch_key="batch", **SMALL)
    model = trained_from(data, epochs=30)
    loader = data.inference_dataloader()
    z = model.get_latent_representation(dataloader=loader)
    labels, soft = model.predict(dataloader=loader), model.predict(dataloader=loader, soft=True)
    for method in (model.get_latent_representation, model.predict):
        with pytest.raises(
            ValueError,
            match="adata must be given, because this model was made or loaded without one",
        ):
            method()
    for call in (
        lambda: model.interpolate(0, 3),
        lambda: model.augment("alpha", 5),
    ):
        with pytest.raises(
            ValueError,
            match="adata must be given, because this model was made or loaded without one",
        ):
            call()
    with pytest.raises(
        ValueError, match="dataloader replaces adata and indices, but adata was given"
    ):
        model.predict(adata, dataloader=loader)
    model.save(tmp_path / "model")

    cells = data.to_memory(data.val_idx)
    assert cells.obs_names.tolist() == adata.obs_names[data.val_idx].tolist()
    assert (cells.layers["counts"] != adata.layers["counts"][data.val_idx]).nnz == 0
    pd.testing.assert_frame_equal(cells.obs, adata.obs.iloc[data.val_idx], check_categorical=False)
    path = model.interpolate(0, 3, adata=cells, n_steps=5)
    assert path.n_obs == 5
    made = model.augment("alpha", 5, adata=cells, min_confidence=0.0)
    assert made.shape == (5, 40)

    again = CIVAE.load(tmp_path / "model", adata=False)
    assert again.temperature_ == model.temperature_
    np.testing.assert_array_equal(again.predict(dataloader=loader), labels)
    loaded = CIVAE.load(tmp_path / "model", adata=adata)
    np.testing.assert_allclose(loaded.get_latent_representation(), z, atol=1e-5)
    np.testing.assert_allclose(loaded.predict(soft=True), soft, atol=1e-4)


def test_positions_of_held_out_cells_are_not_taken_for_those_of_other_cells(path):
    data = BlockDataModule(path, **SMALL, train_size=0.7)
    model = trained_from(data, epochs=30)
    cells = data.to_memory(np.arange(90))
    made = model.augment("alpha", 5, adata=cells, min_confidence=None)
    # Of the 90 cells: not those whose positions in the file were held out.
    assert made.uns["civae"]["classes"].loc["alpha", "n_threshold_cells"] == 30


@pytest.mark.parametrize("store", STORES)
def test_annotate_writes_into_the_file(adata, tmp_path, store):
    model = make_model(make_adata(), epochs=30, setup={"layer": "X" if store == "backed" else None})
    if store == "backed":
        model = make_model(stored(adata, "backed", tmp_path).to_memory(), epochs=30)
    source = stored(adata, store, tmp_path)
    where = source
    if store == "backed":
        source.file.close()
        where = source = tmp_path / "backed.h5ad"
    del adata.obs["cell_type"]  # nothing but the file is used
    data = BlockDataModule(source, registry=model.registry, block_size=7, pool_size=40)
    model.annotate(data, batch_size=16)
    model.annotate(data, batch_size=16)  # once more: replaced, not added
    read = {"zarr": anndata.read_zarr, "h5ad": anndata.read_h5ad}
    cells = where if store in ("memory", "array") else read[where.suffix[1:]](where)
    expected = model.adata
    np.testing.assert_allclose(
        cells.obsm["X_civae"], model.get_latent_representation(expected), atol=1e-5
    )
    soft = model.predict(expected, soft=True)
    assert cells.obs["civae_predicted"].tolist() == model.predict(expected).tolist()
    np.testing.assert_allclose(cells.obs["civae_confidence"], soft.max(axis=1), atol=1e-5)
    assert list(cells.obs.columns[:5]) == ["cell_type", "batch", "site", "age", "size"]
    assert list(cells.obs.columns[5:]) == ["civae_predicted", "civae_confidence", "civae_novelty"]
    np.testing.assert_allclose(cells.obs["civae_novelty"], model.novelty(expected), atol=1e-4)
    assert cells.obs_names.equals(expected.obs_names)


def test_annotate_cells_without_labels_from_a_path(trained, adata, tmp_path):
    del adata.obs["cell_type"]
    adata.write_h5ad(tmp_path / "new.h5ad")
    trained.annotate(tmp_path / "new.h5ad", key_added="mine")
    cells = anndata.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(cells.obs["mine_predicted"], trained.predict(adata))
    assert cells.obsm["X_mine"].shape == (120, 4)
    make_adata(n_genes=30).write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(ValueError, match="must have the 40 genes that the model was trained on"):
        trained.annotate(tmp_path / "other.h5ad")


@pytest.mark.parametrize("store", ["h5ad", "zarr 2", "zarr 3"])
def test_annotate_leaves_nothing_when_it_fails(adata, tmp_path, store, trained, monkeypatch):
    source = stored(adata, store, tmp_path)
    trained.annotate(source)
    read = anndata.read_zarr if "zarr" in store else anndata.read_h5ad
    before = snapshot(read(source))
    encode = _annotation.with_novelty

    def stops(*arguments):
        """After the first minibatch, when its rows are written."""
        yield next(encode(*arguments))
        raise MemoryError

    monkeypatch.setattr(_annotation, "with_novelty", stops)
    with pytest.raises(MemoryError):
        trained.annotate(source, batch_size=50)
    assert_unchanged(read(source), before)


# What is said when something is wrong


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        ({}, {"labels_key": "cell"}, KeyError, "labels_key must be a column of adata.obs, got 'cell'; available columns: 'cell_type', 'batch'"),
        ({}, {"batch_key": "donor"}, KeyError, "batch_key must be a column of adata.obs, got 'donor'"),
        ({}, {"layer": "raw"}, KeyError, "layer must be a key of adata.layers or 'X', got 'raw'; available layers: 'counts'"),
        ({"csc": True}, {}, ValueError, r"layers/counts of .*cells.h5ad is stored by columns \(CSC\)"),
        ({"label": np.nan}, {}, ValueError, "every cell needs a label unless unlabeled_category is given.* missing in 1 of 120"),
        ({"value": np.nan}, {}, ValueError, r"layers\['counts'\] is NaN or infinite at cell 'cell_5', gene 'gene_0'"),
        ({"empty": True}, {}, ValueError, "1 cells of .* are all zero .'cell_5'"),
        ({}, {"batch_size": 1}, ValueError, "batch_size must be at least 2, got 1"),
        ({}, {"pool_size": 5}, ValueError, "pool_size must be at least 512, got 5"),
        ({}, {"train_size": 2}, ValueError, "train_size must lie in"),
    ],
)  # fmt: skip
def test_errors_in_one_line(adata, tmp_path, change, arguments, error, message):
    counts = adata.layers["counts"].tolil()
    if "value" in change:
        counts[5, 0] = change["value"]
    if "empty" in change:
        counts[5] = 0
    adata.layers["counts"] = counts.tocsc() if "csc" in change else counts.tocsr()
    if "label" in change:
        adata.obs.loc["cell_7", "cell_type"] = change["label"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(error, match=message) as caught:
        BlockDataModule(tmp_path / "cells.h5ad", **arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_values_that_do_not_suit_the_likelihood(adata, tmp_path):
    adata.layers["counts"] = adata.layers["counts"] * 1.5
    adata.write_h5ad(tmp_path / "cells.h5ad")
    data = BlockDataModule(tmp_path / "cells.h5ad")
    with pytest.warns(UserWarning, match="chose 'normal', because .* holds normalized values"):
        assert CIVAE(registry=data.registry).likelihood == "normal"
    with pytest.raises(ValueError, match="needs raw counts, but .* values, which are not whole"):
        CIVAE(registry=data.registry, likelihood="nb")
    with pytest.raises(ValueError, match="likelihood='auto' needs data to choose from"):
        CIVAE(registry=BlockDataModule(tmp_path / "cells.h5ad", check=False).registry)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no h5ad file and no zarr store at .*gone.h5ad"):
        BlockDataModule(tmp_path / "gone.h5ad")
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with pytest.raises(OSError, match="text.h5ad cannot be opened as an h5ad file"):
        BlockDataModule(tmp_path / "text.h5ad")
    with pytest.raises(ValueError, match="folder of cells must be a zarr store, but"):
        BlockDataModule(tmp_path)
    zarr.open_group(str(tmp_path / "empty.zarr"), mode="w")
    with pytest.raises(
        ValueError, match="must hold an AnnData, but .*empty.zarr holds something else"
    ):
        BlockDataModule(tmp_path / "empty.zarr")
    with pytest.raises(TypeError, match="must be an AnnData or the path of .*, got int"):
        BlockDataModule(3)
    shutil.rmtree(tmp_path / "empty.zarr")
