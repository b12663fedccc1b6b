"""The method ``train``: what is asked of its arguments, the split, and what is left when it stops."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.train import TrainingPlan

from .._errors import check_bool, check_integer, check_number, check_type
from ..module import COUNT_LIKELIHOODS
from . import _checks
from ._calibration import CalibrationMixin
from ._keeping import CHECKPOINT, Keeper, NonFiniteError, SafeTrainRunner, describe_run, resume_path
from ._loader import CellsLoader
from ._random import seeded
from ._splitter import CellsSplitter
from ._training import (
    LEARNING_RATE,
    LR_DECAY,
    STEPWISE,
    THINNING,
    WARMUP_SHARE,
    CIVAETrainingPlan,
    default_epochs,
    minibatches_a_block,
    quiet_about_rows,
    stratified_split,
    threads_share_cells,
)


class TrainingMixin(CalibrationMixin):
    """The method ``train`` of ``CIVAE``."""

    _training_plan_cls = CIVAETrainingPlan
    _train_runner_cls = SafeTrainRunner
    _data_splitter_cls = CellsSplitter
    _data_loader_cls = CellsLoader

    def train(
        self,
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
            Passes over the cells. ``None``: about 2,000 steps of 128 cells, in 20 to 400 passes.
        seed
            Seed of the split, the order of the minibatches and the noise; ``None`` for that of the
            model. The same seed trains the same model.
        batch_size
            Cells in a minibatch; a few more where one cell would be left over.
        train_size, validation_size
            Shares of the cells to train on (0.9) and to hold out (the rest). Every class has its
            share in both, and one of which less than one cell would be held out is trained on as a
            whole. ``train_size=1.0`` uses every label, but then nothing calibrates :meth:`predict`, and
            the threshold of :meth:`augment` comes from cells that were trained on.
        shuffle_set_split
            ``False`` takes the parts in the order of the cells.
        check_val_every_n_epoch
            Epochs between two looks at the held-out cells.
        plan_kwargs
            For :class:`scvi.train.TrainingPlan`: ``lr`` (0.002, unless given), ``lr_decay``, the share of
            the epochs over which it falls to zero (the last half), ``n_epochs_kl_warmup`` (the first
            half), and ``thinning``, the largest share of its counts that a cell can lose
            before it is encoded in training (0.7 for counts), which raises held-out separability.
            Continuous values are lost whole (0, unless given). Several minibatches make
            one step of the framework, which is what callbacks and logs see; ``minibatch_size=None``
            gives them every minibatch, at some cost in speed.
        datasplitter_kwargs
            For :class:`scvi.dataloaders.DataSplitter`.
        datamodule
            A LightningDataModule, for a model that was made from a registry.
        checkpoint_dir
            Folder in which to keep the state of training after each epoch. If the process is killed,
            the same call on a new, equal model goes on from there, and ends with the weights and the
            history that it would have ended with. The file is small beside the data (three times
            the weights); delete it when the model is saved.
        **kwargs
            What :meth:`scvi.model.SCVI.train` takes: ``accelerator``, ``devices``,
            ``early_stopping``, ``enable_progress_bar``, …

        Raises
        ------
        ValueError
            If an argument is out of its range, or ``checkpoint_dir`` holds another run.
        FloatingPointError
            If the loss or the weights become NaN or infinite; says which, where, and what to try.
        OSError
            If a checkpoint cannot be written.

        Notes
        -----
        Whatever stops training (an error, a full disk, Ctrl-C), the model keeps the weights of the
        last epoch that ended well, and is a trained model if there was one.

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
        if max_epochs is None:
            n_obs = (
                self.adata.n_obs if self.adata is not None else getattr(datamodule, "n_obs", None)
            )
            if n_obs is None:
                raise ValueError(
                    "max_epochs is needed with a datamodule that does not say its n_obs."
                )
            max_epochs = default_epochs(n_obs)
        max_epochs = check_integer("max_epochs", max_epochs, minimum=1)
        batch_size = check_integer("batch_size", batch_size, minimum=2)
        if check_val_every_n_epoch is not None:
            check_integer("check_val_every_n_epoch", check_val_every_n_epoch, minimum=1)
        for name, share in (("train_size", train_size), ("validation_size", validation_size)):
            if share is not None:
                check_number(name, share, minimum=0, maximum=1)
        check_bool("shuffle_set_split", shuffle_set_split)
        for name, options in (
            ("plan_kwargs", plan_kwargs),
            ("datasplitter_kwargs", datasplitter_kwargs),
        ):
            if options is not None:
                check_type(name, options, Mapping, "a dict of arguments")
        plan_kwargs = dict(plan_kwargs or {})
        for name in plan_kwargs.keys() & {"lr", "lr_decay", "thinning"}:
            check_number(f"plan_kwargs[{name!r}]", plan_kwargs[name], minimum=0)
        if plan_kwargs.get("minibatch_size") is not None:
            check_integer("plan_kwargs['minibatch_size']", plan_kwargs["minibatch_size"], minimum=2)
        _checks.check_arguments("plan_kwargs", plan_kwargs, self._training_plan_cls, TrainingPlan)
        if datamodule is not None and not hasattr(datamodule, "train_dataloader"):
            raise TypeError(
                f"datamodule must be a LightningDataModule, got {type(datamodule).__name__}."
            )
        seed = self._seed if seed is None else check_integer("seed", seed, minimum=0)
        plan_kwargs = {
            "lr": LEARNING_RATE,
            "lr_decay": LR_DECAY,
            "n_epochs_kl_warmup": max(1, round(WARMUP_SHARE * max_epochs)),
            "thinning": THINNING if self.likelihood in COUNT_LIKELIHOODS else 0.0,
            **plan_kwargs,
        }
        datasplitter_kwargs = dict(datasplitter_kwargs or {})
        if (
            datamodule is None
            and shuffle_set_split
            and "external_indexing" not in datasplitter_kwargs
        ):
            datasplitter_kwargs["external_indexing"] = stratified_split(
                np.asarray(self._validate_anndata().obs[_checks.LABEL_CODES]),
                train_size=0.9 if train_size is None else train_size,
                validation_size=validation_size,
                batch_size=batch_size,
                seed=seed,
            )
        indexing = datasplitter_kwargs.get("external_indexing")
        if indexing is not None:
            n_train = np.size(indexing[0]) if len(indexing) else 0
            if n_train < 2:
                raise ValueError(
                    f"training needs at least two cells, got {n_train}; raise train_size, or pass more "
                    "cells."
                )
            if datasplitter_kwargs.get("drop_last") and n_train < batch_size:
                raise ValueError(
                    f"drop_last leaves nothing to train on: {n_train} cells are less than "
                    f"batch_size={batch_size}; lower it."
                )
            # Batch normalisation cannot train on a last minibatch of one cell.
            while n_train % batch_size == 1:
                batch_size += 1
        if indexing is not None and (len(indexing) < 2 or not len(indexing[1])):
            check_val_every_n_epoch = None  # there is nothing to look at
        checkpoint = run = None
        if checkpoint_dir is not None:
            run = describe_run(
                self.module,
                self._training_arrays(),
                max_epochs=max_epochs,
                batch_size=batch_size,
                seed=seed,
                train_size=train_size,
                validation_size=validation_size,
                plan_kwargs=plan_kwargs,
            )
            checkpoint = Path(checkpoint_dir) / CHECKPOINT
            kwargs.setdefault("ckpt_path", resume_path(checkpoint, run))
        stepwise = STEPWISE & {*kwargs, *(kwargs.get("trainer_config") or {})}
        at_once = 1
        if not stepwise and "minibatch_size" not in plan_kwargs:
            size = batch_size if datamodule is None else getattr(datamodule, "batch_size", 0)
            if datamodule is None or hasattr(datamodule, "take_together"):
                plan_kwargs["minibatch_size"] = size
                if not datasplitter_kwargs.get("drop_last"):  # which drops what is read at once
                    at_once = minibatches_a_block(size, self.module.n_input)
                kwargs.setdefault("log_every_n_steps", 1)
        if datamodule is None:
            if not self.module.extra_payload_autotune:  # which graphs do not hand out
                datasplitter_kwargs["minibatch_size"] = plan_kwargs.get("minibatch_size")
            batch_size *= at_once
            kwargs.setdefault("load_sparse_tensor", self._counts_are_rows(self.adata))
        elif hasattr(datamodule, "take_together"):
            datamodule.take_together(at_once, as_rows=self.module.reads_rows)
        keeper = Keeper(seed, checkpoint, run)
        try:
            at_a_time = (plan_kwargs.get("minibatch_size") or 0) * self.module.n_input
            with (
                seeded(seed),
                threads_share_cells(at_a_time if self.module.reads_rows else 0),
                quiet_about_rows(),
            ):
                super().train(  # type: ignore[misc]
                    max_epochs=max_epochs,
                    batch_size=batch_size,
                    train_size=train_size,
                    validation_size=validation_size,
                    shuffle_set_split=shuffle_set_split,
                    check_val_every_n_epoch=check_val_every_n_epoch,
                    plan_kwargs=plan_kwargs,
                    datasplitter_kwargs=datasplitter_kwargs,
                    datamodule=datamodule,
                    callbacks=[*kwargs.pop("callbacks", ()), keeper],
                    **kwargs,
                )
        except BaseException as error:
            kept = self._keep(keeper, indexing, datamodule)
            if isinstance(error, NonFiniteError):
                raise NonFiniteError(f"{error} {kept}") from None
            raise
        self._calibrate(datamodule)

    def _counts_are_rows(self, adata: AnnData) -> bool:
        """Whether a loader can hand the network the rows of a sparse matrix as they are."""
        manager: AnnDataManager = self.get_anndata_manager(adata, required=True)  # type: ignore[attr-defined]
        x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        return (
            self.module.reads_rows and isinstance(x, sparse.csr_matrix) and x.has_canonical_format
        )

    def _training_arrays(self) -> list[Any]:
        """What training reads of the data, where that lies in memory."""
        if self.adata is None:
            return []
        manager = self.adata_manager
        read = [manager.get_from_registry(key) for key in manager.data_registry]
        return [np.asarray(a) if isinstance(a, (pd.DataFrame, pd.Series)) else a for a in read]

    def _keep(
        self, keeper: Keeper, indexing: Sequence[np.ndarray] | None, datamodule: Any = None
    ) -> str:
        """Take up the last good weights of a training that was broken off; say which they are."""
        if keeper.weights is None:
            return "The model is what it was before."
        self.module.load_state_dict(keeper.weights)
        self.module.eval()
        if keeper.epochs == 0:
            return "The model has the weights that training began with."
        self.is_trained_ = True
        if indexing is not None:
            self.train_indices, self.validation_indices, self.test_indices = indexing
        # The error that stopped training is the one to tell.
        with suppress(ValueError, RuntimeError, FloatingPointError):
            self._calibrate(datamodule)
        return (
            f"The model has the weights of the end of epoch {keeper.epochs - 1}, and can be used "
            "and saved."
        )
