"""Several processes on one machine (gloo), each with its part of every minibatch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch
from tests.conftest import make_adata

from scivae.train.checkpoint import TrainingCheckpoint
from scivae.train.engines import steps_between_logs

SCRIPT = Path(__file__).with_name("distributed.py")


def test_every_process_draws_noise_of_its_own():
    keeper = TrainingCheckpoint(seed=3)

    def drawn(epoch, rank):
        with torch.random.fork_rng(devices=[]):
            trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
            keeper.on_train_batch_start(trainer, None, None, 0)
            return torch.rand(()).item()

    assert len({drawn(epoch, rank) for epoch in range(3) for rank in range(4)}) == 12
    assert drawn(2, 1) == drawn(2, 1)


@pytest.mark.parametrize(
    ("n_train", "batch_size", "options", "expected"),
    [
        (192, 16, {"devices": 2}, 6),
        (192, 16, {}, 10),
        (40, 16, {"devices": [0, 1, 2], "num_nodes": 2}, 1),
        (100, 64, {}, 2),
        (None, 16, {}, None),
    ],
)
def test_every_epoch_logs_a_step(n_train, batch_size, options, expected):
    datamodule = SimpleNamespace(n_train=n_train, batch_size=batch_size)
    assert steps_between_logs(options, None, datamodule, 128) == expected
    if n_train:
        indexing = [range(n_train)]
        assert steps_between_logs(options, indexing, None, batch_size) == expected


def start(folder: Path, devices: int, batch_norm: str, engine: str, cells: str, out: str):
    """A training, in which 32 cells make a step, in processes of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, SCRIPT, f"../{cells}", devices, 32 // devices, batch_norm, engine]
    return subprocess.run(
        [str(word) for word in (*command, out)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check="stop" not in out,
        timeout=600,
        capture_output=True,
        text=True,
    )


def run(folder: Path, devices: int, batch_norm: str, engine: str, cells: str = "cells.h5ad"):
    """Losses and weights of a training."""
    folder = folder / f"{devices} {batch_norm} {engine}"
    start(folder, devices, batch_norm, engine, cells, "out")
    found = json.loads((folder / "out").read_text())
    assert ("compiled" in found["engine"]) == (engine == "compiled")
    assert ("step by step" in found["engine"]) == (engine == "step by step")
    return found


def assert_same(found: dict, expected: dict) -> None:
    assert len(found["history"]["train_loss"]) == 3
    assert found["history"].keys() == expected["history"].keys()
    for name, values in expected["history"].items():
        np.testing.assert_allclose(found["history"][name], values, rtol=1e-5, err_msg=name)
    for name, value in expected["weights"].items():
        np.testing.assert_allclose(
            found["weights"][name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    make_adata(n_cells=240).write_h5ad(tmp_path / "cells.h5ad")
    one = run(tmp_path, 1, "none", "superbatch")
    for engine in ("step by step", "superbatch"):
        assert_same(run(tmp_path, 2, "none", engine), one)
    # both processes of Lightning know their ranks after training, and share what follows
    shared = {path.name for path in tmp_path.glob("2 none superbatch/parts/annotate/*")}
    assert shared == {"work.json", "started_0", "started_1", "done"}
    assert "X_civae" in anndata.read_h5ad(tmp_path / "cells.h5ad").obsm


@pytest.mark.slow
def test_compiled_steps_of_two_processes_are_those_of_autograd(tmp_path):
    make_adata(n_cells=240).write_h5ad(tmp_path / "cells.h5ad")
    found, expected = (run(tmp_path, 2, "both", name) for name in ("compiled", "superbatch"))
    assert_same(found, expected)


@pytest.mark.slow
def test_batch_normalization_by_process_changes_little(tmp_path):
    """Its statistics are of 16 cells, not of 32; torch shares them among GPUs only."""
    make_adata(n_cells=240).write_h5ad(tmp_path / "cells.h5ad")
    one, two = (run(tmp_path, n, "both", "compiled") for n in (1, 2))
    losses = np.array([run["history"]["train_loss"] for run in (one, two)])
    assert (losses[0] != losses[1]).any()
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.03)


@pytest.mark.slow
def test_a_process_that_sees_no_label_waits_for_nobody(tmp_path):
    adata = make_adata(n_cells=240)
    adata.obs["cell_type"] = "unknown"
    adata.obs.loc[adata.obs_names[[3, 100]], "cell_type"] = ["a", "b"]
    adata.write_h5ad(tmp_path / "few.h5ad")
    found = run(tmp_path, 2, "none", "superbatch", "few.h5ad")
    for name in ("classification_loss", "accuracy"):  # no label is held out
        assert np.isnan(found["history"].pop(f"{name}_validation")).all()
    assert_same(found, run(tmp_path, 1, "none", "superbatch", "few.h5ad"))


@pytest.mark.slow
def test_several_processes_go_on_where_they_stopped(tmp_path):
    make_adata(n_cells=240).write_h5ad(tmp_path / "cells.h5ad")
    whole = run(tmp_path, 2, "both", "compiled")
    parts = tmp_path / "parts"
    stopped = start(parts, 2, "both", "compiled", "cells.h5ad", "stop")
    assert stopped.returncode
    assert "InterruptedError: stopped on purpose" in stopped.stderr
    start(parts, 2, "both", "compiled", "cells.h5ad", "out")
    assert_same(json.loads((parts / "out").read_text()), whole)
