"""The method ``train``: checks of its arguments, the split, and the state of the model afterwards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.fabric.utilities.exceptions import MisconfigurationException
from scvi.dataloaders import DataSplitter
from scvi.model import SCVI

from .._errors import warn
from .._quiet import quiet_training
from .._random import seeded
from .._validate.arguments import check_bool, check_integer, check_number
from ..data import checks
from ..data.split import stratified_split
from ..module import COUNT_LIKELIHOODS
from ..train import arguments
from ..train.checkpoint import (
    CHECKPOINT,
    NonFiniteError,
    TrainingCheckpoint,
    checksum,
    describe_run,
    resume_path,
)
from ..train.engines import choose_engine, shared_minibatches, steps_between_logs
from ..train.overfitting import find_rise, held_out_loss, overfitting_warning
from ..train.plan import LEARNING_RATE, LR_DECAY, THINNING, WARMUP_SHARE, default_epochs
from ._base import CellsModel
from ._calibration import calibrate_held_out
from ._dispersion import start_dispersions


def train(
    self: CellsModel,
    max_epochs: int | None = None,
    *,
    seed: int | None = None,
    batch_size: int = 128,
    train_size: float | None = None,
    validation_size: float | None = None,
    shuffle_set_split: bool = True,
    check_val_every_n_epoch: int | None = 1,
    plan_kwargs: Mapping[str, Any] | None = None,
    datasplitter_kwargs: Mapping[str, Any] | None = None,
    datamodule: Any = None,
    checkpoint_dir: str | os.PathLike | None = None,
    **kwargs,
) -> None:
    """Train the model, then calibrate its probabilities, sets and novelty on the held-out cells.

    Parameters
    ----------
    max_epochs
        Passes over the cells. Default: set from the number of cells, about 2,000 steps of 128 cells, in 20
        to 400 epochs.
    seed
        Seed of the split, the order of the minibatches and the noise; ``None`` for that of the
        model. The same seed trains the same model.
    batch_size
        Cells in a minibatch. It is increased if a last minibatch of one cell would be left.
    train_size, validation_size
        Fractions of the cells to train on (0.9) and to hold out (the rest), stratified by class. A
        class with too few cells to hold one out is used for training only. ``train_size=1.0`` uses
        every label, but then :meth:`predict` is not calibrated, and the threshold of :meth:`augment`
        comes from training cells.
    shuffle_set_split
        ``False`` splits the cells in their order, without shuffling.
    check_val_every_n_epoch
        Epochs between two evaluations of the held-out cells.
    plan_kwargs
        For :class:`scvi.train.TrainingPlan`: ``lr`` (default 0.002); ``lr_decay``, the fraction of the
        epochs, at the end, over which it falls to zero (default 0.5); ``n_epochs_kl_warmup`` (default:
        the first half); and ``thinning``, the largest fraction of the counts of a cell that is randomly
        removed before it is encoded in training, which raises held-out separability (default 0.7 for counts; 0
        for continuous values, of which that fraction would be set to zero). Callbacks and logs see several
        minibatches as one step; with ``minibatch_size=None`` they see every minibatch, but training is slower.
    datasplitter_kwargs
        For :class:`scvi.dataloaders.DataSplitter` and torch's ``DataLoader``: ``num_workers`` (the
        results do not depend on it), ``drop_last``, and ``external_indexing`` for your own split:
        ``[train, validation, test]``, each with positions of cells or a mask over all.
    datamodule
        A LightningDataModule, for a model that was made from a registry.
    checkpoint_dir
        Folder in which to keep the state of training after each epoch. If the process is killed,
        the same call on a new model with the same arguments resumes from there, and ends with the weights
        and the history of an uninterrupted run. The file is three times as large as the weights; delete it
        once the model is saved.
    **kwargs
        Arguments of :meth:`scvi.model.SCVI.train`: ``accelerator``, ``devices``,
        ``early_stopping``, ``enable_progress_bar``, …

    Raises
    ------
    TypeError
        If an argument is unknown, or of the wrong type.
    ValueError
        If an argument is out of range or needs held-out cells although there are none, or
        if ``checkpoint_dir`` holds another run.
    KeyboardInterrupt
        On Ctrl-C.
    FloatingPointError
        If the loss or the weights become NaN or infinite; the error says which, when, and what to try.
    OSError
        If a checkpoint cannot be written.

    Notes
    -----
    If an error, a full disk or Ctrl-C stops training, the model keeps the weights and the history of
    the last complete epoch, and counts as trained if there was one.

    A second call, or a call on a loaded model, trains further. On a query model
    (:meth:`load_query_data`), it trains the weights that scArches does not freeze.

    The inverse dispersions of a negative binomial are initialized by the method of moments, within classes,
    from at most 2,000 training cells. With a datamodule other than :class:`BlockDataModule`, they are random at first.

    Progress is a bar in a terminal, one line in a notebook, and a line for each tenth of the
    epochs elsewhere.

    ``history`` holds, for training (``_train``) and held-out (``_validation``) cells, each
    term of J by epoch: ``reconstruction_loss``, ``kl_local``, ``classification_loss``, and the
    ``accuracy`` of the discriminator.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> len(model.history["accuracy_validation"])
    2
    """
    names = arguments.Arguments(train, self._training_plan_cls)
    trainer = arguments.settings("trainer_config", kwargs.pop("trainer_config", None))
    plan = arguments.settings("plan_config", kwargs.pop("plan_config", None))
    plan |= arguments.settings("plan_kwargs", plan_kwargs)
    splitter = arguments.settings("datasplitter_kwargs", datasplitter_kwargs)
    for where, passed in (
        ("", kwargs),
        ("trainer_config", trainer),
        ("plan_kwargs", plan),
        ("datasplitter_kwargs", splitter),
    ):
        names.check(where, passed)
    configured = (trainer.pop("max_epochs", None), trainer.pop("check_val_every_n_epoch", 1))
    if max_epochs is None:
        max_epochs = configured[0] or _default_epochs(self, datamodule)
    if check_val_every_n_epoch == 1:
        check_val_every_n_epoch = configured[1]
    trainer |= kwargs
    max_epochs = check_integer("max_epochs", max_epochs, minimum=1)
    batch_size = check_integer("batch_size", batch_size, minimum=2)
    if check_val_every_n_epoch is not None:
        check_integer("check_val_every_n_epoch", check_val_every_n_epoch, minimum=1)
    for name, share in (("train_size", train_size), ("validation_size", validation_size)):
        if share is not None:
            check_number(name, share, minimum=0, maximum=1)
    check_bool("shuffle_set_split", shuffle_set_split)
    arguments.check_plan(plan)
    arguments.check_trainer(trainer)
    callbacks = arguments.as_callbacks(trainer.pop("callbacks", None))
    if datamodule is not None and not hasattr(datamodule, "train_dataloader"):
        raise TypeError(
            f"datamodule must be a LightningDataModule, got {type(datamodule).__name__}; make one "
            "with BlockDataModule(path)."
        )
    seed = self._seed if seed is None else check_integer("seed", seed, minimum=0)
    self._enter_training(datamodule)
    plan = {
        **_plan_of_query(self),
        "lr": LEARNING_RATE,
        "lr_decay": LR_DECAY,
        "n_epochs_kl_warmup": max(1, round(WARMUP_SHARE * max_epochs)),
        "thinning": THINNING if self.likelihood in COUNT_LIKELIHOODS else 0.0,
        **plan,
    }
    indexing = None
    if datamodule is None:
        indexing = splitter["external_indexing"] = _split(
            self,
            splitter.get("external_indexing"),
            train_size=train_size,
            validation_size=validation_size,
            shuffle=shuffle_set_split,
            batch_size=batch_size,
            seed=seed,
        )
        n_train = len(indexing[0])
        if n_train < 2:
            raise ValueError(
                f"training needs at least two cells, got {n_train}; raise train_size, or pass more "
                "cells."
            )
        if splitter.get("drop_last") and n_train < batch_size:
            raise ValueError(
                f"drop_last leaves no cells to train on: {n_train} cells are fewer than "
                f"batch_size={batch_size}; lower it."
            )
        # Batch normalization cannot train on a last minibatch of one cell.
        while n_train % batch_size == 1:
            batch_size += 1
        n_held_out = len(indexing[1])
    else:
        n_held_out = getattr(datamodule, "n_val", 1)  # unknown: there may be some
    arguments.check_monitored(n_held_out > 0, trainer, plan, callbacks)
    if n_held_out == 0:
        check_val_every_n_epoch = None  # there are no held-out cells to evaluate
    checkpoint = run = None
    if checkpoint_dir is not None:
        run = describe_run(
            self.module,
            _training_arrays(self),
            max_epochs=max_epochs,
            batch_size=batch_size,
            seed=seed,
            train_size=train_size,
            validation_size=validation_size,
            plan_kwargs=plan,
            split=checksum(*(_split_of(datamodule) if indexing is None else indexing)),
        )
        checkpoint = Path(checkpoint_dir) / CHECKPOINT
        trainer.setdefault("ckpt_path", resume_path(checkpoint, run))
    engine = choose_engine(
        trainer=trainer,
        plan=plan,
        drop_last=bool(splitter.get("drop_last")),
        datamodule=datamodule,
        batch_size=batch_size,
        n_vars=self.module.n_input,
        needs_outputs=self.module.extra_payload_autotune,
    )
    plan["minibatch_size"] = engine.minibatch_size
    if engine.minibatch_size is not None:
        trainer.setdefault("log_every_n_steps", 1)
    elif (interval := steps_between_logs(trainer, indexing, datamodule, batch_size)) is not None:
        trainer.setdefault("log_every_n_steps", interval)
    if datamodule is None:
        splitter["engine"] = engine
        batch_size *= engine.at_once  # cells that the loader yields at once, from here on
        trainer.setdefault("load_sparse_tensor", self._counts_are_rows(self.adata))
    elif hasattr(datamodule, "take_together"):
        datamodule.take_together(engine.at_once, as_rows=self.module.supports_fused_nb)
    keeper = TrainingCheckpoint(seed, checkpoint, run)
    # The keeper comes first, so that a training that fails in its first epoch restores the old dispersions.
    callbacks = [*callbacks, keeper, *start_dispersions(self, indexing, datamodule, seed)]
    n_before = _n_held_out_epochs(self)
    was_training = self.module.training
    try:
        at_a_time = (engine.minibatch_size or 0) * self.module.n_input
        with (
            seeded(seed),
            shared_minibatches(at_a_time if self.module.supports_fused_nb else 0),
            quiet_training(),
        ):
            self.module.train()
            SCVI.train(
                self,
                max_epochs=max_epochs,
                batch_size=batch_size,
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                check_val_every_n_epoch=check_val_every_n_epoch,
                plan_kwargs=plan,
                datasplitter_kwargs=splitter,
                datamodule=datamodule,
                callbacks=callbacks,
                **trainer,
            )
        engine.compiled = self.trainer.lightning_module.stepper.compiled
    except BaseException as error:
        self.module.float().train(was_training)
        kept = _keep(self, keeper, indexing, datamodule)
        if isinstance(error, NonFiniteError):
            raise NonFiniteError(f"{error} {kept}") from None
        if isinstance(error, MisconfigurationException):
            raise ValueError(str(error).splitlines()[0]) from None
        raise
    finally:
        self.engine = str(engine)
    self.module.float()  # also after training in another precision
    calibrate_held_out(self, datamodule)
    if not trainer.get("early_stopping"):
        _warn_if_overfitted(self, n_before)


def _n_held_out_epochs(model: CellsModel) -> int:
    """Number of epochs in the history with an evaluation of held-out cells."""
    return len((model.history_ or {}).get("reconstruction_loss_validation", ()))


def _warn_if_overfitted(model: CellsModel, n_before: int) -> None:
    """Warn if the held-out loss rose at the end of this training, which follows ``n_before`` earlier epochs."""
    loss = held_out_loss(
        model.history_ or {},
        kl_weight=model.module.kl_weight,
        discriminator_weight=model.module.discriminator_weight,
    )
    if loss is not None and (rise := find_rise(loss[n_before:])) is not None:
        warn(overfitting_warning(rise, len(loss) - n_before))


def _split_of(datamodule: Any) -> list[np.ndarray]:
    """Positions of the training, held-out and test cells of a datamodule, if it has them."""
    names = ("train_idx", "val_idx")
    return [np.asarray(getattr(datamodule, n)) for n in names if hasattr(datamodule, n)]


def _plan_of_query(model: CellsModel) -> dict[str, Any]:
    """Arguments of the plan for a query: no weight decay, which would change weights that scArches froze."""
    frozen = any(not weight.requires_grad for weight in model.module.parameters())
    return {"weight_decay": 0.0} if frozen else {}


def _default_epochs(model: CellsModel, datamodule: Any) -> int:
    """Default number of epochs."""
    n_obs = model.adata.n_obs if model.adata is not None else getattr(datamodule, "n_obs", None)
    if n_obs is None:
        raise ValueError(
            "the default of max_epochs needs the number of cells, but the datamodule has no n_obs; "
            "pass max_epochs=."
        )
    return default_epochs(n_obs)


def _split(
    model: CellsModel,
    external: Any,
    *,
    train_size: float | None,
    validation_size: float | None,
    shuffle: bool,
    batch_size: int,
    seed: int,
) -> list[np.ndarray]:
    """Positions of the training, validation and test cells."""
    adata = model._validate_anndata()
    if external is not None:
        return arguments.split_of(external, adata.n_obs)
    if not shuffle:
        ordered = DataSplitter(
            model.adata_manager,
            train_size,
            validation_size,
            shuffle_set_split=False,
            batch_size=batch_size,
        )
        ordered.setup()
        return [ordered.train_idx, ordered.val_idx, ordered.test_idx]
    train, held_out, rest = stratified_split(
        np.asarray(adata.obs[checks.LABEL_CODES]),
        train_size=0.9 if train_size is None else train_size,
        validation_size=validation_size,
        batch_size=batch_size,
        seed=seed,
    )
    return [train, np.sort(held_out), rest]  # increasing, as files are read


def _training_arrays(model: CellsModel) -> list[Any]:
    """The arrays that training reads, for a checksum of the data."""
    if model.adata is None:
        return []
    manager = model.adata_manager
    read = [manager.get_from_registry(key) for key in manager.data_registry]
    return [np.asarray(a) if isinstance(a, (pd.DataFrame, pd.Series)) else a for a in read]


def _keep(
    model: CellsModel,
    keeper: TrainingCheckpoint,
    indexing: Sequence[np.ndarray] | None,
    datamodule: Any = None,
) -> str:
    """Restore the last good weights of an interrupted training, and describe them."""
    if keeper.weights is None:
        return "The model is what it was before."
    model.module.load_state_dict(keeper.weights)
    model.module.eval()
    if keeper.epochs == 0:
        return "The model has the weights that training began with."
    model.is_trained_ = True
    if indexing is not None:
        model.train_indices, model.validation_indices, model.test_indices = indexing
    # Errors here must not hide the error that stopped training.
    with suppress(ValueError, RuntimeError, FloatingPointError):
        calibrate_held_out(model, datamodule)
    return (
        f"The model has the weights of the end of epoch {keeper.epochs - 1}, and can be used "
        "and saved."
    )
