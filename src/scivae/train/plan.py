"""How a model is trained: what is logged, what is held out, and for how long."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from ..module import CIVAEModule, check_finite, thin
from ..module._civae import NotADistributionError
from ..nb.counts import Matrix, Rows
from ..nb.workers import ahead, n_sharing
from .checkpoint import NonFiniteError, check_weights, non_finite
from .device import Chosen, Replayed, Resident, rates_on_device
from .engines import (
    AHEAD,
)

# Steps of 128 cells after which more training no longer pays, and the bounds of epochs around them.
TARGET_STEPS = 2_000
MIN_EPOCHS, MAX_EPOCHS = 20, 400
# Twice scvi-tools' own: on colorectal cancer, 100 epochs at this rate give what 200 give at that.
LEARNING_RATE = 2e-3
# Share of the epochs over which the weight of the KL term rises.
WARMUP_SHARE = 0.5
# Share of the epochs over which the learning rate falls to zero.
LR_DECAY = 0.5
# Largest share of a cell's counts that the encoder is trained to do without.
THINNING = 0.7

_CURES = {
    "reconstruction": "look for extreme values in the data",
    "KL": "look for extreme values in the data, or lower kl_weight",
    "discriminator": "lower discriminator_weight",
}


class CIVAETrainingPlan(TrainingPlan):
    """scvi-tools' plan, which also logs the discriminator's terms and can thin what is encoded.

    Parameters
    ----------
    module
        The network.
    thinning
        In training, the encoder sees each cell after losing up to this share of its counts, or of its
        values where these are continuous, while the decoder is asked for all of them; see
        :func:`scivae.module.thin` and :func:`scivae.module.mask`.
    lr_decay
        Share of the epochs, the last ones, over which the learning rate falls to zero in a straight line.
        Not where ``reduce_lr_on_plateau`` has it fall, or where training has no last epoch.
    minibatch_size
        Cells of a minibatch. What the loader yields is taken apart into such, and each is a step of the
        optimizer; metrics and callbacks see the whole. ``None``: what the loader yields is a minibatch.
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
        # What is recorded of training and of held-out cells, and the numbers on the device that it reads.
        self._graphs: dict[bool, Callable] = {}
        self._kl_weight = torch.zeros(())
        self._rates: list[torch.Tensor] = []

    def on_train_epoch_start(self) -> None:
        """Set the learning rate of the epoch."""
        n_epochs = self.trainer.max_epochs or 0
        if n_epochs < 1 or self.lr_decay == 0 or self.reduce_lr_on_plateau:
            return
        left = (n_epochs - self.current_epoch) / (n_epochs * self.lr_decay)
        for group in self.optimizers().param_groups:
            group["lr"] = self.lr * min(1.0, left)

    def _optimizer_creator_fn(self, optimizer_cls):
        """The optimizer of scvi-tools, all weights in one pass."""
        return lambda params: optimizer_cls(
            params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    @property
    def thinning_now(self) -> float:
        """Held-out cells are encoded as they are."""
        return self.thinning if self.training else 0.0

    def _loss(self, tensors: dict, checked: bool = False) -> LossOutput:
        """Loss of one minibatch, of which it may be known that it is finite."""
        try:
            if isinstance(tensors[REGISTRY_KEYS.X_KEY], Rows | Matrix):
                return self.module.loss_of_rows(tensors, kl_weight=self.loss_kwargs["kl_weight"])
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

    def _minibatches(self, tensors: dict) -> Iterator[dict]:
        """What the loader yielded, as one or several minibatches."""
        x = tensors[REGISTRY_KEYS.X_KEY]
        size = self.minibatch_size or len(x)
        of_x = self._prepared(x, size) if self.module.reads_rows else x.to_dense().split(size)
        others = {k: v.split(size) for k, v in tensors.items() if k != REGISTRY_KEYS.X_KEY}
        for rows, *values in zip(of_x, *others.values(), strict=True):
            yield {REGISTRY_KEYS.X_KEY: rows, **dict(zip(others, values, strict=True))}

    def _prepared(self, x: torch.Tensor, size: int) -> Iterator[Rows | Matrix]:
        """Minibatches of counts; on a CPU, a second thread prepares what comes next."""
        if not x.is_cpu:
            check_finite(x := x.to_dense())
            yield from map(self._matrix, x.split(size))
            return
        rows = Rows.of(x)
        check_finite(rows.counts)
        parts, n = rows.split(size), n_sharing()
        # A seed for each, so that what is drawn does not depend on which thread comes first.
        seeds = torch.randint(2**62, (-(-len(x) // size),)).tolist()
        lost = self.thinning_now
        calls = (partial(p.prepare, lost, s, n) for p, s in zip(parts, seeds, strict=True))
        yield from ahead(calls, AHEAD)

    def _matrix(self, counts: torch.Tensor) -> Matrix:
        """Counts in a matrix, and what the encoder is given of them."""
        lost = self.thinning_now
        return Matrix(counts, thin(counts, lost) if lost > 0 else counts)

    def training_step(self, batch: dict | Chosen, batch_idx: int) -> torch.Tensor | None:
        """Train on what the loader yielded, and log the terms of the loss."""
        kl_weight = self.loss_kwargs["kl_weight"] = self.kl_weight
        self.log("kl_weight", kl_weight, on_step=True, on_epoch=False)
        output = self._losses(batch)
        self._log_step(output, self.train_metrics, "train")
        return output.loss

    def _losses(self, batch: dict | Chosen) -> LossOutput:
        """Losses, and in training steps, on what the loader yielded."""
        if isinstance(batch, Chosen):
            return self._in_graphs(batch)
        return joined([self._step(tensors) for tensors in self._minibatches(batch)])

    def _step(self, tensors: dict, optimizer: Any = None, checked: bool = False) -> LossOutput:
        """Loss of one minibatch; where optimization is not the framework's, with a step of the optimizer."""
        output = self._loss(tensors, checked)
        if output.loss.is_cpu:  # there, one look at the whole saves a wait a step
            self._check(output)
        if not self.training or self.automatic_optimization:
            return output
        optimizer = optimizer or self.optimizers()
        # what zero_grad does, without what it looks up each time
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = None
        # Gradients are of the precision of what they are of, whatever the mode of the forward pass.
        with torch.autocast(output.loss.device.type, enabled=False):
            self.manual_backward(output.loss)
        optimizer.step()
        return output

    def _in_graphs(self, chosen: Chosen) -> LossOutput:
        """Losses, and in training steps, on cells that the device holds."""
        optimizer = self.optimizers()
        groups = optimizer.param_groups
        recordable = all(group.get("fused") for group in groups)
        if self.training not in self._graphs:
            self._kl_weight = self._kl_weight.to(chosen.indices.device)
            self._rates = self._rates or [self._kl_weight.clone() for _ in groups]
            steps = partial(self._steps, chosen.cells, optimizer.optimizer)
            self._graphs[self.training] = Replayed(steps) if recordable else steps
        outputs = []
        with rates_on_device(groups, self._rates) if recordable else nullcontext():
            for indices in chosen.minibatches():
                if self.training:
                    self._kl_weight.fill_(self.kl_weight)
                outputs.append(Terms(*self._graphs[self.training](indices)).output())
                # what the framework counts of its own steps
                for _ in range(len(indices) if self.training else 0):
                    optimizer._on_before_step()
                    optimizer._on_after_step()
        return joined(outputs)

    def _steps(
        self, cells: Resident, optimizer: torch.optim.Optimizer, indices: torch.Tensor
    ) -> Terms:
        """Losses, and in training steps, on minibatches ``(n_minibatches, size)``."""
        self.loss_kwargs["kl_weight"] = self._kl_weight
        outputs = []
        for some in indices:
            tensors: dict[str, Any] = cells.at(some)
            if self.module.reads_rows:
                tensors[REGISTRY_KEYS.X_KEY] = self._matrix(tensors[REGISTRY_KEYS.X_KEY])
            outputs.append(self._step(tensors, optimizer, checked=True))
        return Terms.of(joined(outputs))

    def on_fit_end(self) -> None:
        """Give back the memory of what was recorded."""
        self._graphs, self._kl_weight, self._rates = {}, torch.zeros(()), []

    def validation_step(self, batch: dict | Chosen, batch_idx: int) -> None:
        """Log the terms of the loss on held-out cells."""
        self._log_step(self._losses(batch), self.val_metrics, "validation")

    def _log_step(self, output: LossOutput, metrics: dict, mode: str) -> None:
        self.log(
            "train_loss" if mode == "train" else "validation_loss",
            output.loss,
            on_step=self.on_step,
            on_epoch=self.on_epoch,
            prog_bar=mode == "train",
            batch_size=output.n_obs_minibatch,
            sync_dist=self.use_sync_dist,
        )
        self.compute_and_log_metrics(output, metrics, mode)
        if output.extra_metrics:
            self.prepare_scib_autotune(
                output.extra_metrics, "training" if mode == "train" else mode
            )

    def on_validation_epoch_end(self) -> None:
        """Lower the learning rate, where that was asked for: by hand, as the steps are."""
        if self.automatic_optimization or not self.reduce_lr_on_plateau:
            return
        if not self.trainer.sanity_checking:
            self.lr_schedulers().step(self.trainer.callback_metrics[self.lr_scheduler_metric])

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict, mode: str) -> None:
        """Log the ELBO's terms, then those of the discriminator, averaged over labeled cells."""
        self._check(loss_output)
        super().compute_and_log_metrics(loss_output, metrics, mode)
        labeled = loss_output.true_labels < self.module.n_classes
        n_labeled = int(labeled.sum())
        if n_labeled == 0:
            return
        correct = (loss_output.logits.argmax(-1) == loss_output.true_labels)[labeled]
        for name, value in {
            "classification_loss": loss_output.classification_loss.detach(),
            "accuracy": correct.float().mean(),
        }.items():
            self.log(
                f"{name}_{mode}",
                value,
                on_step=self.on_step,
                on_epoch=self.on_epoch,
                batch_size=n_labeled,
                sync_dist=self.use_sync_dist,
            )

    def _check(self, output: LossOutput) -> None:
        """Raise unless the loss is finite."""
        if math.isfinite(output.loss.item()):
            return
        terms = {
            "reconstruction": output.reconstruction_loss_sum,
            "KL": output.kl_local_sum,
            "discriminator": output.classification_loss,
        }
        # Each finite: their weighted sum is too large.
        self._raise_non_finite(non_finite(terms) or list(terms))

    def _raise_non_finite(self, names: list[str]) -> NoReturn:
        """Say which part of the loss is not finite, unless it is the weights that are not."""
        mode = "training" if self.training else "held-out cells"
        when = f"in epoch {self.current_epoch}, step {self.global_step} ({mode})"
        check_weights(self, f"before the loss {when}")
        raise NonFiniteError(
            f"the loss is not finite {when}: its {' and '.join(names)} "
            f"{'term is' if len(names) == 1 else 'terms are'} NaN, infinite or too large. Try a "
            "smaller learning rate, as in plan_kwargs={'lr': 2e-4}, or gradient_clip_val=1.0; or "
            f"{', or '.join(_CURES[name] for name in names)}."
        )


class Terms(NamedTuple):
    """What is kept of a loss, without what led to it."""

    loss: torch.Tensor
    reconstruction_loss: torch.Tensor  # (n_obs,)
    kl_local: torch.Tensor  # (n_obs,)
    classification_loss: torch.Tensor
    logits: torch.Tensor  # (..., n_obs, n_classes)
    true_labels: torch.Tensor  # (..., n_obs)

    @classmethod
    def of(cls, output: LossOutput) -> Terms:
        """The terms of a loss."""
        return cls(
            output.loss.detach(),
            sum(output.reconstruction_loss.values()).detach(),
            sum(output.kl_local.values()).detach(),
            output.classification_loss.detach(),
            output.logits.detach(),
            output.true_labels,
        )

    def output(self) -> LossOutput:
        """The loss that has these terms."""
        return LossOutput(**self._asdict())


def joined(outputs: list[LossOutput]) -> LossOutput:
    """One loss for several minibatches: per cell side by side, others as means over cells."""
    if len(outputs) == 1:
        return outputs[0]
    sizes = [output.n_obs_minibatch for output in outputs]
    loss, reconstruction, kl, classification, logits, true = zip(
        *map(Terms.of, outputs), strict=True
    )

    def mean(values: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return sum(size * value for size, value in zip(sizes, values, strict=True)) / sum(sizes)

    return Terms(
        mean(loss),
        torch.cat(reconstruction),
        torch.cat(kl),
        mean(classification),
        torch.cat(logits, dim=-2),
        torch.cat(true, dim=-1),
    ).output()


def default_epochs(n_obs: int) -> int:
    """Epochs that give about :data:`TARGET_STEPS` steps of 128 cells, within bounds."""
    return int(np.clip(round(TARGET_STEPS * 128 / max(n_obs, 1)), MIN_EPOCHS, MAX_EPOCHS))
