"""Work that processes share by its parts: the results of one process, and what is left by a killed one."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

import scivae
from scivae import _keys, _parts
from scivae._parts import OtherProcessError, Parts, digest, this_process
from scivae.model import BlockDataModule, _annotation, _augmentation, _portions

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def as_process(monkeypatch):
    """Be one of several processes, of which the others are not there: waiting for them is an error."""

    def be(rank: int, n: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(n))
        monkeypatch.setattr(Parts, "_pause", waits)

    def waits(self):
        raise OtherProcessError("waits")

    return be


# --- the folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_processes", [1, 2, 3, 7])
def test_each_part_is_made_once_and_all_processes_read_all(monkeypatch, tmp_path, n_processes):
    monkeypatch.setattr(_parts, "PAUSE", 0.001)
    monkeypatch.setenv("WORLD_SIZE", str(n_processes))
    made, read, written = [], [], []
    all_have_read = threading.Barrier(n_processes)

    def work(parts):
        with parts:
            for i in parts.missing():
                made.append(i)
                parts.write(i, [np.full(i, i, dtype=np.int16), np.float64(i) / 3])
            read.append([(a.tolist(), float(b)) for a, b in parts.read()])
            all_have_read.wait()
            parts.finish(lambda: written.append(parts.rank))

    threads = []
    for rank in range(n_processes):
        monkeypatch.setenv("RANK", str(rank))
        threads.append(threading.Thread(target=work, args=(Parts(tmp_path, 5, of="numbers"),)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(made) == [0, 1, 2, 3, 4]
    assert written == [0]
    assert read == n_processes * [[([i] * i, i / 3) for i in range(5)]]
    assert not list(tmp_path.glob("part*"))


def test_whole_parts_are_not_made_again(as_process, tmp_path):
    as_process(1, 2)
    with Parts(tmp_path, 6, of=1) as parts:
        assert list(parts.missing()) == [1, 3, 5]
        parts.write(3, [np.arange(2)])
    as_process(0, 1)  # resumed by one process
    with Parts(tmp_path, 6, of=1) as parts:
        assert list(parts.missing()) == [0, 1, 2, 4, 5]


def test_a_part_that_was_cut_off_is_no_part(as_process, tmp_path, monkeypatch):
    as_process(0, 1)

    def killed(stream, array, **kwargs):
        stream.write(b"half of it")
        raise KeyboardInterrupt

    with Parts(tmp_path, 1) as parts:
        monkeypatch.setattr(np.lib.format, "write_array", killed)
        with pytest.raises(KeyboardInterrupt):
            parts.write(0, [np.arange(3)])
        assert list(parts.missing()) == [0]
        assert not [p.name for p in tmp_path.iterdir() if p.name.startswith((".", "part"))]


def test_parts_of_other_work_are_refused(tmp_path):
    Parts(tmp_path, 3, seed=0, cells="abc")
    Parts(tmp_path, 3, seed=0, cells="abc")
    with pytest.raises(
        ValueError, match=r"parts must be of one call, but .* differs in seed; choose"
    ):
        Parts(tmp_path, 3, seed=1, cells="abc")
    with pytest.raises(ValueError, match="differs in cells, n_parts"):
        Parts(tmp_path, 4, seed=0)
    with pytest.raises(TypeError, match="parts must be the path of a folder, got int"):
        Parts(3, 3)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="parts must be a folder, but .*file is a file"):
        Parts(tmp_path / "file", 3)


def test_processes_do_not_wait_for_one_that_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with Parts(tmp_path, 2, of="numbers") as parts:
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(ValueError, match="differs in of"):
            Parts(tmp_path, 2, of="letters")
        with pytest.raises(OtherProcessError, match=r"process 0 failed \(it makes another call\)"):
            parts.wait()


def test_the_error_of_a_process_ends_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(_parts, "PAUSE", 0.001)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = Parts(tmp_path, 2)
    monkeypatch.setenv("RANK", "1")
    second = Parts(tmp_path, 2)
    message = r"all 2 processes must make their parts, but process 1 failed \(ZeroDivisionError: no"
    with first:
        with pytest.raises(ZeroDivisionError), second:
            raise ZeroDivisionError("no")
        with pytest.raises(OtherProcessError, match=message):
            first.wait()
    # a new call of the first process does not wait for what failed before it
    before = (tmp_path / "failed_1").stat()
    os.utime(tmp_path / "failed_1", ns=(before.st_atime_ns - 10**9, before.st_mtime_ns - 10**9))
    monkeypatch.setenv("RANK", "0")
    with Parts(tmp_path, 2) as first:
        first._pause()
    with second:  # nor does one of the process itself
        assert not (tmp_path / "failed_1").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, None),
        ({"WORLD_SIZE": "2"}, None),
        ({"RANK": "0"}, None),
        ({"RANK": "a", "WORLD_SIZE": "2"}, None),
    ],
)
def test_ranks_come_from_the_environment(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(ValueError, match="RANK must be an integer from 0 to below WORLD_SIZE"):
            this_process()
    else:
        assert this_process() == expected


def test_ranks_of_torch_come_first(monkeypatch):
    import torch

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    for name, value in (("is_initialized", True), ("get_rank", 3), ("get_world_size", 5)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert this_process() == (3, 5)


def test_digests_differ_by_values_types_and_shapes():
    from scipy import sparse

    a = np.arange(6.0)
    of = [
        (a,),
        (a.astype(np.float32),),
        (a.reshape(2, 3),),
        (a[:3], a[3:]),
        (sparse.csr_matrix(a),),
        (a.astype(str),),
        ("text",),
        (np.array(["te", "xt"]),),
        (a + 1e-12,),
    ]
    assert len({digest(*values) for values in of}) == len(of)
    assert digest(a) == digest(a.copy())


# --- the three methods -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return make_model(make_adata(n_cells=240), epochs=30)


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_annotation_is_that_of_one_process(model, as_process, tmp_path, monkeypatch, ending):
    cells, expected = tmp_path / f"cells{ending}", tmp_path / f"expected{ending}"
    read = anndata.read_h5ad if ending == ".h5ad" else anndata.read_zarr
    for path in (cells, expected):
        getattr(make_adata(1, n_cells=130), "write_h5ad" if ending == ".h5ad" else "write_zarr")(
            path
        )
    monkeypatch.setattr(_annotation, "CELLS_PER_PART", 30)
    model.annotate(expected, batch_size=16)

    def annotate(source=cells):
        model.annotate(source, batch_size=16, parts=tmp_path / "parts")

    as_process(1, 2)
    with pytest.raises(OtherProcessError, match="waits"):
        annotate()
    parts = tmp_path / "parts" / "annotate"
    mine = sorted(path.name for path in parts.glob("part*"))
    assert mine == ["part_00001.npy", "part_00003.npy"]  # of 32 cells, the last of 2
    assert "X_civae" not in read(cells).obsm
    as_process(0, 2)
    calls = []
    described = _annotation._described
    monkeypatch.setattr(_annotation, "_described", lambda *a: calls.append(a) or described(*a))
    annotate()
    assert len(calls) == 3
    found, whole = read(cells), read(expected)
    np.testing.assert_array_equal(found.obsm["X_civae"], whole.obsm["X_civae"])
    pd.testing.assert_frame_equal(found.obs, whole.obs)
    assert {"civae_predicted", "civae_confidence", "civae_novelty"} <= set(found.obs)
    assert not list(parts.glob("part*"))
    as_process(1, 2)
    annotate()  # all is done
    assert len(calls) == 3
    data = BlockDataModule(cells, registry=model.registry_, check=False)
    with pytest.raises(ValueError, match="differs in batch_size"):
        model.annotate(data, parts=tmp_path / "parts")
    with pytest.raises(ValueError, match="parts needs cells in a file"):
        annotate(make_adata(1))


def test_cells_of_a_part_are_read_alone(tmp_path, monkeypatch):
    """Neither values nor positions of other rows: the work would grow with the square of the cells."""
    import h5py

    make_adata(n_cells=240).write_h5ad(tmp_path / "cells.h5ad")
    data = BlockDataModule(tmp_path / "cells.h5ad", layer="counts", block_size=8, check=False)
    rows, get = [], h5py.Dataset.__getitem__

    def counted(self, key):
        found = get(self, key)
        if self.name == "/layers/counts/indptr":
            rows.append(len(found))
        return found

    with data.cells.opened() as root:
        matrix = data.cells.matrix(root, "counts")
        whole = list(data.inference_dataloader(batch_size=20).minibatches(matrix))
        monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
        loader = data.inference_dataloader(np.arange(100, 140), batch_size=20)
        found = list(loader.minibatches(matrix))
    assert rows == [1 + 48]  # six blocks: cells 96 to 143
    for one, other in zip(found, whole[5:7], strict=True):
        assert (one["X"] == other["X"]).all()


def test_generated_cells_are_those_of_one_process(model, as_process, tmp_path, monkeypatch):
    monkeypatch.setattr(_portions, "CELLS_PER_PART", 20)
    adata = make_adata(n_cells=240)
    wanted = {"gamma": 30, "alpha": 7}
    options = {"adata": adata, "min_confidence": 0.2, "seed": 3}
    model.augment(wanted, store=tmp_path / "expected.zarr", **options)
    yields = adata.uns.pop("civae")[_keys.AUGMENTATION]
    before = snapshot(adata)

    def augment(**more):
        return model.augment(
            wanted, store=tmp_path / "made.zarr", parts=tmp_path / "parts", **{**options, **more}
        )

    as_process(1, 2)
    with pytest.raises(OtherProcessError, match="waits"):
        augment()
    assert_unchanged(adata, before)
    parts = tmp_path / "parts" / "augment"
    assert [p.name for p in parts.glob("part*")] == ["part_00001.zarr"]
    with pytest.raises(ValueError, match="parts must be of one call, .* differs in seed"):
        augment(seed=4)
    as_process(0, 2)
    rounds = []
    made = _augmentation._rounds
    monkeypatch.setattr(_augmentation, "_rounds", lambda *a: rounds.append(a) or made(*a))
    assert augment() == tmp_path / "made.zarr"
    assert [of[2].source.name for of in rounds] == ["gamma", "alpha"]
    found, whole = (anndata.read_zarr(tmp_path / f"{n}.zarr") for n in ("made", "expected"))
    pd.testing.assert_frame_equal(found.obs, whole.obs)
    for one, other in ((found.X, whole.X), (found.layers["counts"], whole.layers["counts"])):
        assert one.dtype == other.dtype
        assert (one != other).nnz == 0
    np.testing.assert_array_equal(found.obsm["X_civae"], whole.obsm["X_civae"])
    pd.testing.assert_frame_equal(found.uns["civae"]["classes"], whole.uns["civae"]["classes"])
    pd.testing.assert_frame_equal(adata.uns["civae"][_keys.AUGMENTATION], yields)
    as_process(1, 2)
    del adata.uns["civae"]
    augment()  # all is done
    pd.testing.assert_frame_equal(adata.uns["civae"][_keys.AUGMENTATION], yields)
    in_memory = model.augment(wanted, **options)
    np.testing.assert_array_equal(found.obsm["X_civae"], in_memory.obsm["X_civae"])
    with pytest.raises(ValueError, match="parts needs store=, .* but store is None"):
        model.augment("alpha", 3, parts=tmp_path / "others")
    with pytest.raises(ValueError, match="already exists"):
        model.augment("alpha", 3, store=tmp_path / "made.zarr")


@pytest.mark.parametrize("evidence", ["measured", "decoded"])
def test_trends_are_those_of_one_process(model, as_process, tmp_path, evidence):
    adata = model.adata
    pairs = pd.DataFrame({"source": adata.obs_names[:90:3], "target": adata.obs_names[90:180:3]})
    pairs["donor"] = np.repeat(["a", "b", "c"], 10)

    def trends(**more):
        options = {"n_steps": 5, "n_bootstraps": 4, "evidence": evidence, "key_added": None}
        return scivae.tl.gene_trends(model, pairs, **options, **more)

    expected = trends()
    folder = "decoded" if evidence == "decoded" else "resamples"
    as_process(1, 2)
    with pytest.raises(OtherProcessError, match="waits"):
        trends(parts=tmp_path)
    assert len(list((tmp_path / folder).glob("part*"))) == 2
    as_process(0, 1)
    found = trends(parts=tmp_path)
    for name, layer in expected.layers.items():
        np.testing.assert_array_equal(found.layers[name], layer, err_msg=name)
    pd.testing.assert_frame_equal(found.var, expected.var)
    for name, values in expected.varm.items():
        if not hasattr(values, "indptr"):
            np.testing.assert_array_equal(found.varm[name], values, err_msg=name)
    with pytest.raises(ValueError, match="parts must be of one call"):
        trends(parts=tmp_path, seed=1, quantile_pairs=3, genes=list(adata.var_names[:9]))


# --- two processes ---------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
sys.path.insert(0, ".")
from tests.conftest import make_adata
import scivae
from scivae import _keys, _parts
from scivae.model import CIVAE, _annotation, _portions

folder, kill = sys.argv[1], sys.argv[2] == "kill"
_annotation.CELLS_PER_PART = _portions.CELLS_PER_PART = 16
adata = make_adata(n_cells=240)
model = CIVAE.load(f"{folder}/model", adata)
replace, n = _parts.Parts._replace, 0

def replaced(self, path, *contents):
    global n
    n += path.name.startswith("part_")
    if kill and os.environ.get("RANK") == "1" and n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, path, *contents)

_parts.Parts._replace = replaced
parts = f"{folder}/parts" if "RANK" in os.environ else None
out = f"{folder}/shared" if parts else f"{folder}/alone"
model.annotate(f"{out}.h5ad", batch_size=16, parts=parts)
model.augment("alpha", 40, store=f"{out}.zarr", parts=parts)
"""


@pytest.mark.slow
def test_two_processes_and_a_killed_one(model, tmp_path):
    script, environment = tmp_path / "script.py", {**os.environ, "WORLD_SIZE": "2"}
    script.write_text(SCRIPT, encoding="utf-8")
    model.save(tmp_path / "model")
    for name in ("shared", "alone"):
        make_adata(1, n_cells=130).write_h5ad(tmp_path / f"{name}.h5ad")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])

    def start(what, *ranks):
        return [
            subprocess.Popen(
                [sys.executable, str(script), str(tmp_path), what],
                env=environment | {"RANK": str(rank)},
                cwd=ROOT,
                stderr=subprocess.PIPE,
                encoding="utf-8",
            )
            for rank in ranks
        ]

    first, second = start("kill", 0, 1)
    assert second.wait(300) == -9
    first.terminate()  # as torchrun does
    first.communicate(timeout=300)
    folder = tmp_path / "parts" / "annotate"
    whole = {p.name: p.stat().st_mtime_ns for p in folder.glob("part_*")}
    assert {"part_00001.npy", "part_00003.npy"} <= set(whole)
    assert "part_00005.npy" not in whole
    for process in start("", 0, 1):
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
    model.annotate(tmp_path / "alone.h5ad", batch_size=16)
    found, expected = (anndata.read_h5ad(tmp_path / f"{n}.h5ad") for n in ("shared", "alone"))
    np.testing.assert_array_equal(found.obsm["X_civae"], expected.obsm["X_civae"])
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    made = anndata.read_zarr(tmp_path / "shared.zarr")
    assert made.obs_names.tolist() == [f"augmented_{i}" for i in range(40)]
