"""Fault-tolerant training: NaN checks, rollback, resume."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ProgressBar
from scipy import sparse
from scvi.train import Trainer, TrainRunner
from torch.utils.data import RandomSampler

from .._random import epoch_seed
from .._scvi import begin_epoch_again, loaders_of_training
from .._storage import iter_blocks
from ..data import files
from ..data.plain import from_plain, to_plain
from .device import IndexLoader
from .engines import CellsSplitter
from .progress import EpochBar

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
    """scvi-tools' trainer, with a checkpoint read without running what is in it, and Ctrl-C passed on.

    Parameters
    ----------
    callbacks
        Callbacks of the user, and those of ``train``.
    enable_progress_bar, simple_progress_bar
        With both, and none among the callbacks, :class:`EpochBar` shows the progress.
    progress_bar_refresh_rate
        0 shows none.
    **kwargs
        Passed to :class:`scvi.train.Trainer`.
    """

    def __init__(
        self,
        *,
        callbacks: list[Callback],
        enable_progress_bar: bool = True,
        simple_progress_bar: bool = True,
        progress_bar_refresh_rate: int = 1,
        **kwargs: Any,
    ):
        shown = enable_progress_bar and progress_bar_refresh_rate > 0
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if shown and simple_progress_bar and not has_bar:
            callbacks = [*callbacks, EpochBar()]
        super().__init__(
            callbacks=callbacks,
            enable_progress_bar=shown,
            simple_progress_bar=False,  # the one above takes its place
            **kwargs,
        )
        self.error: BaseException | None = None  # what broke training off

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit the model."""
        try:
            super().fit(*args, weights_only=True, **kwargs)
        except SystemExit as error:
            # Lightning leaves the process where it was interrupted; that is for the user to decide.
            self.error = error
            if isinstance(error.__context__, KeyboardInterrupt):
                self.error = error.__context__
                raise self.error from None
            raise
        except BaseException as error:
            self.error = error
            raise


class SafeTrainRunner(TrainRunner):
    """scvi-tools' runner, with that trainer, and a history of the epochs that the weights have seen."""

    _trainer_cls = SafeTrainer

    def _update_history(self) -> None:
        """Add what was logged to the history of the model; raise what broke training off, if anything did."""
        model, error = self.model, self.trainer.error
        if error is not None:
            kept = [c.epochs for c in self.trainer.callbacks if isinstance(c, TrainingCheckpoint)]
            logged = getattr(self.trainer.logger, "history", {})
            for name, column in list(logged.items()):
                if column.index.name == "epoch":
                    logged[name] = column[column.index < max(kept, default=0)]
        was_trained, before = model.is_trained_, model.history_
        model.is_trained_ = False  # scvi-tools then takes what was logged as it is
        try:
            super()._update_history()
        finally:
            model.is_trained_ = was_trained
        if was_trained and isinstance(before, dict) and isinstance(model.history_, dict):
            model.history_ = join_histories(before, model.history_)
        if error is not None:  # before scvi-tools prints that there was one
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise error


def join_histories(
    before: Mapping[str, pd.DataFrame], after: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """The history of two trainings, one after the other.

    Parameters
    ----------
    before, after
        A column for each metric, by epoch; what only one of the trainings logged stays.
    """
    epochs = [column.index for column in before.values() if len(column)]
    offset = 1 + max((int(index.max()) for index in epochs), default=-1)
    joined = dict(before)
    for name, column in after.items():
        column = column.set_axis(column.index + offset)
        joined[name] = pd.concat([before[name], column]) if name in before else column
    return joined


class Kept(NamedTuple):
    """Weights after some epochs that ended well."""

    epochs: int
    weights: dict[str, torch.Tensor]


class TrainingCheckpoint(Callback):
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
        # Replaced as a whole: Ctrl-C can come between any two lines.
        self._kept: Kept | None = None
        self._begun = False
        self._finished = False
        # State of Lightning's loop at the end of an epoch. The checkpoint is written a little later,
        # when the history and the schedulers have taken note of the epoch.
        self._loop: dict[str, Any] | None = None

    @property
    def epochs(self) -> int:
        """Epochs that ended well."""
        return 0 if self._kept is None else self._kept.epochs

    @property
    def weights(self) -> dict[str, torch.Tensor] | None:
        """Weights after those epochs, if training began."""
        return None if self._kept is None else self._kept.weights

    def epoch_seed(self, epoch: int, rank: int = 0) -> int:
        """Seed of what an epoch of this run draws; see :func:`.epoch_seed`."""
        return epoch_seed(self.seed, epoch, rank)

    def _keep(self, plan: LightningModule, epochs: int) -> None:
        self._kept = Kept(
            epochs, {k: v.detach().clone() for k, v in plan.module.state_dict().items()}
        )

    def on_train_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Keep the weights that training starts from."""
        self._keep(plan, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Write the checkpoint of the epoch before, and seed the order of the cells."""
        self._write(trainer)
        seed = self.epoch_seed(trainer.current_epoch)
        torch.manual_seed(seed)  # for samplers that draw from the global generator
        for sampler in samplers(loaders_of_training(trainer)):
            sampler.generator = torch.Generator().manual_seed(seed)
        if not self._begun:
            begin_epoch_again(trainer)
        self._begun = True

    def on_train_batch_start(
        self, trainer: Trainer, plan: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the noise of the epoch: each process has its own, for cells of its own."""
        if batch_idx == 0:
            torch.manual_seed(self.epoch_seed(trainer.current_epoch, trainer.global_rank))

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        plan: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Seed the noise of a look at held-out cells, whatever loaders have drawn before."""
        if batch_idx == 0:
            at = trainer.current_epoch, trainer.global_rank, trainer.global_step
            torch.manual_seed(epoch_seed(self.seed, *at))

    def on_train_epoch_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Keep the weights, if they are good."""
        check_weights(plan, f"at the end of epoch {trainer.current_epoch}")
        self._keep(plan, trainer.current_epoch + 1)
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
            with files.new_file(self.path) as part:
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


def samplers(loaders: list[Any]) -> Iterator[RandomSampler | IndexLoader]:
    """What sets the order of the cells of loaders, where it is of a kind that takes a generator."""
    for loader in loaders:
        found = loader
        while found is not None and not isinstance(found, RandomSampler | IndexLoader):
            inner = getattr(found, "sampler", None)
            found = None if inner is found else inner
        if found is not None:
            yield found


def checksum(*arrays: Any) -> int:
    """Checksum of arrays, in memory or in files, dense or sparse."""
    total = 0
    for array in arrays:
        in_memory = isinstance(array, np.ndarray) or sparse.issparse(array)
        for block in [array] if in_memory else (rows for _, rows in iter_blocks(array)):
            parts = (
                (block.data, block.indices, block.indptr) if sparse.issparse(block) else (block,)
            )
            for part in parts:
                total = zlib.crc32(np.ascontiguousarray(part).view(np.uint8).data, total)
    return total


def describe_run(module: torch.nn.Module, arrays: list[Any], **arguments: Any) -> dict[str, Any]:
    """What two runs must have in common for one to resume the other.

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
        "data": checksum(*arrays),
        "initial weights": checksum(*(w.cpu().numpy() for w in module.state_dict().values())),
    }


def resume_path(path: Path, run: dict[str, Any]) -> Path | None:
    """The checkpoint to resume from, if there is one.

    Raises
    ------
    ValueError
        If it is of another run.
    """
    if not path.exists():
        return None
    state = files.read(path).get("civae", {})
    before = state.get("run", {})
    different = [name for name, value in run.items() if before.get(name) != value]
    if different:
        raise ValueError(
            f"{path} is the checkpoint of another run: it differs in {', '.join(different)}. To go "
            "on, repeat the call that was interrupted; to start over, delete the file or choose "
            "another checkpoint_dir."
        )
    return path
