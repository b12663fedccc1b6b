"""Training that loses nothing: numbers are watched, good weights kept, a killed run goes on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from scipy import sparse
from scvi.train import Trainer, TrainRunner
from torch.utils.data import RandomSampler

from . import _files
from ._plain import from_plain, to_plain
from ._resident import ChosenLoader
from ._splitter import CellsSplitter

CHECKPOINT = "training.ckpt"


class NonFiniteError(FloatingPointError):
    """A number of training became NaN or infinite."""


def non_finite(values: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    finite = [value.isfinite().all() for value in values.values()]
    if not finite or bool(torch.stack(finite).all()):  # one look at the device for all of them
        return []
    return [name for name, good in zip(values, finite, strict=True) if not good]


def check_weights(plan: LightningModule, when: str) -> None:
    """Raise unless every weight and running statistic of the network is finite."""
    names = non_finite(plan.module.state_dict())
    if names:
        raise NonFiniteError(
            f"the weights are no longer finite {when} (the first is {names[0]!r}): a gradient was "
            "too large. Try a smaller learning rate, as in plan_kwargs={'lr': 2e-4}, or "
            "gradient_clip_val=1.0; and look for extreme values in the data."
        )


class SafeTrainer(Trainer):
    """scvi-tools' trainer, which reads a checkpoint without running what is in it."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit the model."""
        super().fit(*args, weights_only=True, **kwargs)


class SafeTrainRunner(TrainRunner):
    """scvi-tools' runner, with that trainer."""

    _trainer_cls = SafeTrainer


class Keeper(Callback):
    """Keeps the weights of the last epoch that ended well and, on the disk, all that training needs.

    Every epoch draws from generators of its own, seeded by the run and the epoch: what an epoch draws
    does not depend on whether the epochs before it were run by this process.

    Parameters
    ----------
    seed
        Seed of the run.
    path
        Checkpoint to write after each epoch, or ``None``.
    run
        What the run is; see :func:`describe_run`.
    """

    def __init__(self, seed: int, path: Path | None = None, run: dict[str, Any] | None = None):
        self.seed = seed
        self.path = path
        self.run = run
        self.epochs = 0  # that ended well
        self.weights: dict[str, torch.Tensor] | None = None
        self._finished = False
        # State of Lightning's loop at the end of an epoch. The checkpoint is written a little later,
        # when the history and the schedulers have taken note of the epoch.
        self._loop: dict[str, Any] | None = None

    def epoch_seed(self, epoch: int, rank: int = 0) -> int:
        """Seed of what an epoch draws, in one of several processes."""
        words = (self.seed, epoch, rank) if rank else (self.seed, epoch)
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def _keep(self, plan: LightningModule) -> None:
        self.weights = {k: v.detach().clone() for k, v in plan.module.state_dict().items()}

    def on_train_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Keep the weights that training starts from."""
        self.epochs = trainer.current_epoch
        self._keep(plan)

    def on_train_epoch_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Write the checkpoint of the epoch before, and seed the order of the cells."""
        self._write(trainer)
        loader = trainer.train_dataloader
        sampler = getattr(getattr(loader, "sampler", None), "sampler", loader)
        if isinstance(sampler, RandomSampler | ChosenLoader):
            seed = self.epoch_seed(trainer.current_epoch)
            sampler.generator = torch.Generator().manual_seed(seed)

    def on_train_batch_start(
        self, trainer: Trainer, plan: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the noise of the epoch: each process has its own, for cells of its own."""
        if batch_idx == 0:
            torch.manual_seed(self.epoch_seed(trainer.current_epoch, trainer.global_rank))

    def on_train_epoch_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Keep the weights, if they are good."""
        check_weights(plan, f"at the end of epoch {trainer.current_epoch}")
        self.epochs = trainer.current_epoch + 1
        self._keep(plan)
        self._loop = trainer.fit_loop.state_dict()

    def on_train_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Write the last checkpoint."""
        self._finished = True
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, plan: LightningModule, exception: BaseException
    ) -> None:
        """Give back what a GPU holds, as the framework does not where training breaks off."""
        plan.on_fit_end()
        if isinstance(trainer.datamodule, CellsSplitter):
            trainer.datamodule.teardown()

    def _write(self, trainer: Trainer) -> None:
        if self.path is None or self._loop is None:
            return
        if trainer.is_global_zero:
            with _files.new_file(self.path) as part:
                trainer.save_checkpoint(part, weights_only=False)
        else:
            trainer.save_checkpoint(self.path, weights_only=False)  # takes part, and writes nothing
        self._loop = None

    def on_save_checkpoint(
        self, trainer: Trainer, plan: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not save."""
        if self._loop is None:
            return  # a checkpoint of the user's own
        checkpoint["loops"]["fit_loop"] = self._loop
        checkpoint["civae"] = {
            "run": self.run,
            "finished": self._finished,
            "history": to_plain(getattr(trainer.logger, "history", {})),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, plan: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up the history, and train no more if training had ended."""
        state = checkpoint.get("civae")
        if state is None:
            return
        trainer.should_stop = state["finished"]
        getattr(trainer.logger, "history", {}).update(from_plain(state["history"]))


def _checksum(*arrays: Any) -> int:
    total = 0
    for array in arrays:
        parts = (array.data, array.indices, array.indptr) if sparse.issparse(array) else (array,)
        for part in parts:
            total = zlib.crc32(np.ascontiguousarray(part).view(np.uint8).data, total)
    return total


def describe_run(module: torch.nn.Module, arrays: list[Any], **arguments: Any) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped.

    Parameters
    ----------
    module
        The network before training.
    arrays
        The data: numeric arrays or sparse matrices.
    **arguments
        Arguments of training.
    """
    return {
        **{name: repr(value) for name, value in arguments.items()},
        "data": _checksum(*arrays),
        "initial weights": _checksum(*(w.cpu().numpy() for w in module.state_dict().values())),
    }


def resume_path(path: Path, run: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from, if there is one.

    Raises
    ------
    ValueError
        If it is of another run.
    """
    if not path.exists():
        return None
    state = _files.read(path).get("civae", {})
    before = state.get("run", {})
    different = [name for name, value in run.items() if before.get(name) != value]
    if different:
        raise ValueError(
            f"{path} is the checkpoint of another run: it differs in {', '.join(different)}. To go "
            "on, repeat the call that was interrupted; to begin anew, delete the file or choose "
            "another checkpoint_dir."
        )
    return path
