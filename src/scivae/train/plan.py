"""The training plan: the loss and its terms in the log, the learning rate, and the number of epochs."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np
import torch
from lightning.pytorch.plugins import MixedPrecision
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from ..module import CIVAEModule, NotADistributionError
from ..nb.counts import DenseCounts, SparseCounts
from .checkpoint import NonFiniteError, check_weights, non_finite
from .device import IndexBatch
from .steps import Steps

# Number of steps of 128 cells after which more training no longer helps, and bounds of the epochs.
TARGET_STEPS = 2_000
MIN_EPOCHS, MAX_EPOCHS = 20, 400
# Twice the default of scvi-tools, which halves the number of epochs needed (measured on colorectal cancer).
LEARNING_RATE = 2e-3
# Fraction of the epochs over which the weight of the KL term rises.
WARMUP_SHARE = 0.5
# Fraction of the epochs, at the end, over which the learning rate falls to zero.
LR_DECAY = 0.5
# Default of ``thinning``: the largest fraction of a cell's counts that is removed before encoding.
THINNING = 0.7

_CURES = {
    "reconstruction": "look for extreme values in the data",
    "KL": "look for extreme values in the data, or lower kl_weight",
    "discriminator": "lower discriminator_weight",
}


class CIVAETrainingPlan(TrainingPlan):
    """scvi-tools' plan, which also logs the terms of the discriminator and can thin the encoder's input.

    Parameters
    ----------
    module
        The network.
    thinning
        In training, up to this fraction of the counts of each cell (or of its continuous values) is removed
        before it is encoded. The decoder still reconstructs all of them; see
        :func:`scivae.module.thin` and :func:`scivae.module.mask`.
    lr_decay
        Fraction of the epochs, at the end, over which the learning rate falls linearly to zero. It has no
        effect with ``reduce_lr_on_plateau``, or if ``max_epochs`` is not limited.
    minibatch_size
        Cells per minibatch. What the loader yields is split into minibatches of this size, each with its
        own step of the optimizer; metrics and callbacks see them together. ``None``: no split.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: CIVAEModule,
        *,
        thinning: float = 0.0,
        lr_decay: float = 0.0,
        minibatch_size: int | None = None,
        **kwargs,
    ):
        if not 0 <= lr_decay <= 1:
            raise ValueError(f"lr_decay must lie in [0, 1], got {lr_decay}.")
        if not 0 <= thinning < 1:
            raise ValueError(f"thinning must lie in [0, 1), got {thinning}.")
        super().__init__(module, **kwargs)
        self.thinning = thinning
        self.lr_decay = lr_decay
        self.minibatch_size = minibatch_size
        self.automatic_optimization = minibatch_size is None
        self.stepper = Steps()

    def on_train_epoch_start(self) -> None:
        """Set the learning rate of the epoch."""
        n_epochs = self.trainer.max_epochs or 0
        if n_epochs < 1 or self.lr_decay == 0 or self.reduce_lr_on_plateau:
            return
        left = (n_epochs - self.current_epoch) / (n_epochs * self.lr_decay)
        for group in self.optimizers().param_groups:
            group["lr"] = self.lr * min(1.0, left)

    def _optimizer_creator_fn(self, optimizer_cls):
        """The optimizer of scvi-tools, in torch's fused version, which updates all weights in one pass.

        The unfused version is used if gradients are clipped under mixed precision, because Lightning refuses
        to clip gradients there for a fused optimizer.
        """
        mixed = isinstance(self.trainer.precision_plugin, MixedPrecision)
        fused = not (mixed and self.trainer.gradient_clip_val)
        return lambda params: optimizer_cls(
            params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=fused
        )

    @property
    def thinning_now(self) -> float:
        """The fraction ``thinning`` during training; 0 for held-out cells, which are encoded whole."""
        return self.thinning if self.training else 0.0

    def minibatch_loss(self, tensors: dict[str, Any], checked: bool = False) -> LossOutput:
        """Loss of one minibatch.

        Parameters
        ----------
        tensors
            The minibatch. If the network supports the fused loss, its expression matrix is a
            ``SparseCounts`` or ``DenseCounts``.
        checked
            Whether its values are already known to be finite.
        """
        try:
            if isinstance(tensors[REGISTRY_KEYS.X_KEY], SparseCounts | DenseCounts):
                return self.module.fused_loss(tensors, kl_weight=self.loss_kwargs["kl_weight"])
            return self.module(
                tensors,
                loss_kwargs=self.loss_kwargs,
                get_inference_input_kwargs={
                    "full_forward_pass": not self.update_only_decoder,
                    "thinning": self.thinning_now,
                    "checked": checked,
                },
            )[2]
        except NotADistributionError as error:
            self._raise_non_finite([error.term])

    def training_step(self, batch: dict | IndexBatch, batch_idx: int) -> torch.Tensor | None:
        """Train on what the loader yielded, and log the terms of the loss."""
        kl_weight = self.loss_kwargs["kl_weight"] = self.kl_weight
        self.log("kl_weight", kl_weight, on_step=True, on_epoch=False)
        output = self.stepper.losses(self, batch)
        self._log_step(output, self.train_metrics, "train")
        return output.loss

    def on_validation_start(self) -> None:
        """Average what batch normalization has learned over the processes that train together."""
        self._share_statistics()

    def on_train_epoch_end(self) -> None:
        """As before validation, which an epoch may not have."""
        self._share_statistics()

    def _share_statistics(self) -> None:
        """Running means and variances of each process are of its own cells; all keep the average."""
        if self.trainer.world_size == 1:
            return
        for name, values in self.module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                values.copy_(self.trainer.strategy.reduce(values, reduce_op="mean"))

    def on_fit_end(self) -> None:
        """Release the memory of recorded steps."""
        self.stepper.release()

    def validation_step(self, batch: dict | IndexBatch, batch_idx: int) -> None:
        """Log the terms of the loss on held-out cells."""
        self._log_step(self.stepper.losses(self, batch), self.val_metrics, "validation")

    def _log_step(self, output: LossOutput, metrics: dict, mode: str) -> None:
        """Log the loss and its terms; ``mode`` is ``"train"`` or ``"validation"``."""
        self.log(
            f"{mode}_loss",
            output.loss,
            on_step=self.on_step,
            on_epoch=self.on_epoch,
            prog_bar=mode == "train",
            batch_size=float(output.n_obs_minibatch),  # gloo cuts the mean of integers
            sync_dist=self.use_sync_dist,
        )
        self.compute_and_log_metrics(output, metrics, mode)
        if output.extra_metrics:
            self.prepare_scib_autotune(
                output.extra_metrics, "training" if mode == "train" else mode
            )

    def on_validation_epoch_end(self) -> None:
        """Step the scheduler of ``reduce_lr_on_plateau``, which manual optimization has to do itself."""
        if self.automatic_optimization or not self.reduce_lr_on_plateau:
            return
        if not self.trainer.sanity_checking:
            self.lr_schedulers().step(self.trainer.callback_metrics[self.lr_scheduler_metric])

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict, mode: str) -> None:
        """Log the ELBO's terms, then those of the discriminator, averaged over labeled cells."""
        self.check_loss(loss_output)
        super().compute_and_log_metrics(loss_output, metrics, mode)
        labeled = loss_output.true_labels < self.module.n_classes
        n_labeled = int(labeled.sum())
        # Processes that train together must log the same, or one waits forever: no cells have no weight.
        if n_labeled == 0 and self.trainer.world_size == 1:
            return
        correct = (loss_output.logits.argmax(-1) == loss_output.true_labels) & labeled
        for name, value in {
            "classification_loss": loss_output.classification_loss.detach(),
            "accuracy": correct.sum() / max(n_labeled, 1),
        }.items():
            self.log(
                f"{name}_{mode}",
                value,
                on_step=self.on_step,
                on_epoch=self.on_epoch,
                batch_size=float(n_labeled),
                sync_dist=self.use_sync_dist,
            )

    def check_loss(self, output: LossOutput) -> None:
        """Raise unless the loss is finite."""
        if math.isfinite(output.loss.item()):
            return
        terms = {
            "reconstruction": output.reconstruction_loss_sum,
            "KL": output.kl_local_sum,
            "discriminator": output.classification_loss,
        }
        # If every term is finite, their weighted sum is too large, and all terms are named.
        self._raise_non_finite(non_finite(terms) or list(terms))

    def _raise_non_finite(self, names: list[str]) -> NoReturn:
        """Raise an error that names the terms that are not finite, or the weights if those are not finite."""
        mode = "training" if self.training else "held-out cells"
        when = f"in epoch {self.current_epoch}, step {self.global_step} ({mode})"
        check_weights(self, f"before the loss {when}")
        raise NonFiniteError(
            f"the loss is not finite {when}: its {' and '.join(names)} "
            f"{'term is' if len(names) == 1 else 'terms are'} NaN, infinite or too large. Try a "
            "smaller learning rate, as in plan_kwargs={'lr': 2e-4}, or gradient_clip_val=1.0; or "
            f"{', or '.join(_CURES[name] for name in names)}."
        )


def default_epochs(n_obs: int) -> int:
    """Number of epochs that gives about :data:`TARGET_STEPS` steps of 128 cells, within bounds."""
    return int(np.clip(round(TARGET_STEPS * 128 / max(n_obs, 1)), MIN_EPOCHS, MAX_EPOCHS))
