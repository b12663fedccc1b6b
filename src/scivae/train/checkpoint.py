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
    """The loss or a weight became NaN or infinite during training."""


def non_finite(values: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    finite = [value.isfinite().all() for value in values.values()]
    if not finite or bool(torch.stack(finite).all()):  # waits for the device once
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
    """Trainer of scvi-tools that runs no code from checkpoints and raises an error on Ctrl-C.

    Parameters
    ----------
    callbacks
        Callbacks of the user, and those of ``train``.
    enable_progress_bar, simple_progress_bar
        If both are true and no callback is a progress bar, :class:`EpochBar` shows the progress.
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
            simple_progress_bar=False,  # EpochBar replaces it
            **kwargs,
        )
        self.error: BaseException | None = None  # the error that stopped training

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit the model."""
        try:
            super().fit(*args, weights_only=True, **kwargs)
        except SystemExit as error:
            # Lightning exits the process on Ctrl-C; here the caller gets the KeyboardInterrupt.
            self.error = error
            if isinstance(error.__context__, KeyboardInterrupt):
                self.error = error.__context__
                raise self.error from None
            raise
        except BaseException as error:
            self.error = error
            raise


class SafeTrainRunner(TrainRunner):
    """scvi-tools' runner with :class:`SafeTrainer`; the history covers all trainings of the model."""

    _trainer_cls = SafeTrainer

    def _update_history(self) -> None:
        """Add the logged metrics to the model's history; raise the error that stopped training, if any."""
        model, error = self.model, self.trainer.error
        if error is not None:
            kept = [c.epochs for c in self.trainer.callbacks if isinstance(c, TrainingCheckpoint)]
            logged = logged_by(self.trainer)
            for name, column in list(logged.items()):
                if column.index.name == "epoch":
                    logged[name] = column[column.index < max(kept, default=0)]
        was_trained, before = model.is_trained_, model.history_
        model.is_trained_ = False  # scvi-tools then replaces the history; it is joined below
        try:
            super()._update_history()
        finally:
            model.is_trained_ = was_trained
        if was_trained and isinstance(before, dict) and isinstance(model.history_, dict):
            model.history_ = join_histories(before, model.history_)
        if error is not None:  # raised here, before scvi-tools prints a message about it
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise error


def join_histories(
    before: Mapping[str, pd.DataFrame], after: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """One history of two consecutive trainings.

    Parameters
    ----------
    before, after
        A table by epoch for each metric. Metrics of only one of the trainings are kept.
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
    """Keeps the weights of the last good epoch in memory and, with a path, the whole state on disk.

    An epoch is good if its weights are finite. Random generators are seeded anew for every epoch, by the seed
    of the run and the epoch, so a resumed training draws the same random numbers as an uninterrupted one.

    Parameters
    ----------
    seed
        Seed of the run.
    path
        Checkpoint to write after each epoch, or ``None``.
    run
        Description of the run; see :func:`describe_run`.
    """

    def __init__(self, seed: int, path: Path | None = None, run: dict[str, Any] | None = None):
        self.seed = seed
        self.path = path
        self.run = run
        # Replaced in one assignment, because Ctrl-C can interrupt between any two lines.
        self._kept: Kept | None = None
        self._begun = False
        self._finished = False
        # State of Lightning's loop at the end of an epoch. The checkpoint is written later, after the
        # history and the schedulers have been updated for that epoch.
        self._loop: dict[str, Any] | None = None

    @property
    def epochs(self) -> int:
        """Number of good epochs."""
        return 0 if self._kept is None else self._kept.epochs

    @property
    def weights(self) -> dict[str, torch.Tensor] | None:
        """Weights after the last good epoch; ``None`` if training has not started."""
        return None if self._kept is None else self._kept.weights

    def _keep(self, plan: LightningModule, epochs: int) -> None:
        self._kept = Kept(
            epochs, {k: v.detach().clone() for k, v in plan.module.state_dict().items()}
        )

    def on_train_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Keep the initial weights."""
        self._keep(plan, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Write the checkpoint of the previous epoch, and seed the order of the cells."""
        self._write(trainer)
        seed = epoch_seed(self.seed, trainer.current_epoch)
        torch.manual_seed(seed)  # for samplers that draw from the global generator
        for sampler in samplers(loaders_of_training(trainer)):
            sampler.generator = torch.Generator().manual_seed(seed)
        if not self._begun:
            begin_epoch_again(trainer)
        self._begun = True

    def on_train_batch_start(
        self, trainer: Trainer, plan: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the noise of the epoch, differently in each process, because each has other cells."""
        if batch_idx == 0:
            at = trainer.current_epoch, trainer.global_rank
            torch.manual_seed(epoch_seed(self.seed, *at))

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        plan: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Seed the noise of an evaluation of held-out cells, so that earlier draws have no effect on it."""
        if batch_idx == 0:
            at = trainer.current_epoch, trainer.global_rank, trainer.global_step
            torch.manual_seed(epoch_seed(self.seed, *at))

    def on_train_epoch_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Keep the weights if they are finite."""
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
        """Release GPU memory, which Lightning does not do if training stops with an error."""
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
            # All processes must call this; only the first writes.
            trainer.save_checkpoint(self.path, weights_only=False)
        self._loop = None

    def on_save_checkpoint(
        self, trainer: Trainer, plan: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not save."""
        if self._loop is None:
            return  # a checkpoint of another callback, such as the user's
        checkpoint["loops"]["fit_loop"] = self._loop
        checkpoint["civae"] = {
            "run": self.run,
            "finished": self._finished,
            "history": to_plain(logged_by(trainer)),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, plan: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the history; stop at once if that training had finished."""
        state = checkpoint.get("civae")
        if state is None:
            return
        trainer.should_stop = state["finished"]
        logged_by(trainer).update(from_plain(state["history"]))


def logged_by(trainer: Trainer) -> dict[str, Any]:
    """Columns that the logger of a training keeps, by name; in all processes but the first it keeps none."""
    found = getattr(trainer.logger, "history", None)
    return found if isinstance(found, dict) else {}


def samplers(loaders: list[Any]) -> Iterator[RandomSampler | IndexLoader]:
    """The objects that shuffle the cells of loaders and accept a random generator."""
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
    """A description of a run; a run is resumed only by one with an equal description.

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
    """``path`` if there is a checkpoint to resume from, else ``None``.

    Raises
    ------
    ValueError
        If the checkpoint belongs to another run.
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
