"""Kill processes that save and train, and look at what they leave: ``python -m tests.train.killed DIR``.

A script, since a process that was forked off pytest, with its threads, may hang.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import scvi
import torch
from lightning.pytorch import Callback
from tests.conftest import make_adata, make_model

from scivae.model import CIVAE

# What a save does to the file system, between two of which it is killed.
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

# Bytes into a file, in the middle of which it is killed too.
MIDDLES = (0, 5_000, 25_000)


def child(work: Callable[[], None]) -> int:
    """Run a function in a process of its own; the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: B036, BLE001 - not to go on as a second parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kill_at_step(number: int) -> None:
    """Kill this process right before the given step."""
    left = iter(range(number))

    def hook(event: str, arguments: tuple) -> None:
        if event in STEPS and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def limit_files(size: int, action: signal.Handlers) -> None:
    """Allow files of so many bytes; what is beyond fails, or kills."""
    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def which(folder: Path) -> int:
    """Seed of the model that a folder holds; its AnnData must be of the same."""
    model = CIVAE.load(folder)
    seed = model.init_params_["non_kwargs"]["seed"]
    assert model.adata.uns["seed"] == seed, "one file is old, the other new"
    return seed


def saves(root: Path) -> None:
    """Old model or new model, wherever the process that replaces one by the other is killed."""
    models = []
    for seed in (0, 1):
        model = make_model(make_adata(), seed=seed)
        model.adata.uns["seed"] = seed
        models.append(model)
    for name, overwrite in (("new", False), ("replaced", True)):
        folder = root / name
        seen = []
        for number in itertools.count():
            shutil.rmtree(folder, ignore_errors=True)
            if overwrite:
                models[0].save(folder, save_anndata=True)

            def work(number=number, folder=folder, overwrite=overwrite):
                if number < len(MIDDLES):
                    limit_files(MIDDLES[number], signal.SIG_DFL)
                else:
                    kill_at_step(number - len(MIDDLES))
                models[1].save(folder, overwrite=overwrite, save_anndata=True)

            if child(work) == 0:  # it was through before it was to be killed
                break
            seen.append(which(folder) if folder.exists() else None)
            if (folder / ".complete").exists():  # the next save is none the worse for it
                models[0].save(folder, overwrite=True, save_anndata=True)
                assert which(folder) == 0
                assert not (folder / ".complete").exists()
        old = 0 if overwrite else None
        assert seen[: len(MIDDLES)] == [old] * len(MIDDLES)
        assert set(seen) == {old, 1}
        print(name, "killed at", len(seen), "points; old:", seen.count(old))


def full_disk(root: Path) -> None:
    """A save that does not fit is an error, and leaves things as they were."""
    model = make_model(make_adata())
    folder = root / "full"
    model.save(folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    beside = sorted(root.iterdir())  # what was killed while it saved is swept up after a day

    for size in MIDDLES:

        def work(size=size):
            limit_files(size, signal.SIG_IGN)
            for target, overwrite in ((folder, True), (root / "another", False)):
                message = ""
                try:
                    model.save(target, overwrite=overwrite, save_anndata=True)
                except OSError as error:
                    message = str(error)
                assert "what was there before is untouched" in message

        assert child(work) == 0
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
        assert sorted(root.iterdir()) == beside


class Kill(Callback):
    """Kills training after a minibatch."""

    def __init__(self, epoch: int, batch: int):
        self.at = epoch, batch

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    plan: dict, folder: Path | None = None, callbacks: tuple = (), num_workers: int = 0
) -> CIVAE:
    """A training with a scheduler, early stopping and everything else that has a state."""
    adata = make_adata()
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4, n_hidden=16)
    model.train(
        max_epochs=12,
        batch_size=32,
        plan_kwargs={
            "lr": 0.01,
            "reduce_lr_on_plateau": True,
            "lr_patience": 1,
            "lr_threshold": 1e9,
            "lr_factor": 0.5,
            **plan,
        },
        early_stopping=True,
        early_stopping_patience=5,
        early_stopping_min_delta=1e9,
        checkpoint_dir=folder,
        callbacks=list(callbacks),
        datasplitter_kwargs={"num_workers": num_workers},
        enable_progress_bar=False,
    )
    return model


def trainings(root: Path) -> None:
    """Training that was killed and taken up ends as if it had not been, bit for bit."""
    # a step of the framework for each minibatch, and one for all of them; and processes that load
    for plan, first, last, workers in (
        ({"minibatch_size": None}, 1, 3, 0),
        ({}, 0, 0, 0),
        ({}, 0, 0, 2),
    ):
        whole = run(plan)
        epochs = len(whole.history["train_loss"])
        assert 2 < epochs < 12, "early stopping should have stopped it"
        for at in ((0, first), (2, 0), (epochs - 1, last)):
            folder = root / f"run{len(plan)}{workers}{at}"
            work = partial(run, plan, folder, (Kill(*at),), workers)
            assert child(work) == signal.SIGKILL
            for _ in range(2):  # the second time, there is nothing left to train
                again = run(plan, folder, num_workers=workers)
                for name, weights in whole.module.state_dict().items():
                    assert torch.equal(weights, again.module.state_dict()[name]), name
                assert again.history.keys() == whole.history.keys()
                for name, column in whole.history.items():
                    assert column.equals(again.history[name]), name
                assert again.temperature_ == whole.temperature_
                np.testing.assert_array_equal(again.train_indices, whole.train_indices)
                assert [p.name for p in folder.iterdir()] == ["training.ckpt"]
        print("training", epochs, "epochs")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    scvi.settings.verbosity = 40
    torch.set_num_threads(1)
    for check in (saves, full_disk, trainings):
        check(Path(sys.argv[1]))
