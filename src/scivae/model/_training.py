"""How a model is trained: what is logged, what is held out, and for how long."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from ..module import CIVAEModule
from ..module._civae import NotADistributionError
from ._keeping import NonFiniteError, check_weights, non_finite

# Steps of 128 cells after which more training no longer pays, and the bounds of epochs around them.
TARGET_STEPS = 2_000
MIN_EPOCHS, MAX_EPOCHS = 20, 400
# Twice scvi-tools' own: on colorectal cancer, 100 epochs at this rate give what 200 give at that.
LEARNING_RATE = 2e-3
# Share of the epochs over which the weight of the KL term rises.
WARMUP_SHARE = 0.5
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
        In training, the encoder sees each cell after losing up to this share of its counts, while the
        decoder is asked for all of them; see :func:`scivae.module.thin`. For counts only.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(self, module: CIVAEModule, *, thinning: float = 0.0, **kwargs):
        if not 0 <= thinning < 1:
            raise ValueError(f"thinning must lie in [0, 1), got {thinning}.")
        if thinning > 0 and module.continuous:
            raise ValueError(
                f"thinning is for counts, but the likelihood is {module.likelihood!r}; leave it out."
            )
        super().__init__(module, **kwargs)
        self.thinning = thinning

    def forward(self, *args, **kwargs):
        """Pass a minibatch through the network, thinned in training."""
        try:
            return self.module(
                *args,
                **kwargs,
                get_inference_input_kwargs={
                    "full_forward_pass": not self.update_only_decoder,
                    "thinning": self.thinning if self.training else 0.0,
                },
            )
        except NotADistributionError as error:
            self._raise_non_finite([error.term])

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict, mode: str) -> None:
        """Log the ELBO's terms, then those of the discriminator, averaged over labeled cells."""
        if not loss_output.loss.isfinite():
            terms = {
                "reconstruction": loss_output.reconstruction_loss_sum,
                "KL": loss_output.kl_local_sum,
                "discriminator": loss_output.classification_loss,
            }
            # Each finite: their weighted sum is too large.
            self._raise_non_finite(non_finite(terms) or list(terms))
        super().compute_and_log_metrics(loss_output, metrics, mode)
        n_labeled = loss_output.true_labels.numel()
        if n_labeled == 0:
            return
        correct = loss_output.logits.argmax(-1) == loss_output.true_labels
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


def default_epochs(n_obs: int) -> int:
    """Epochs that give about :data:`TARGET_STEPS` steps of 128 cells, within bounds."""
    return int(np.clip(round(TARGET_STEPS * 128 / max(n_obs, 1)), MIN_EPOCHS, MAX_EPOCHS))


def stratified_split(
    labels: np.ndarray,
    *,
    train_size: float,
    validation_size: float | None,
    batch_size: int,
    seed: int,
) -> list[np.ndarray]:
    """Split cells so that every class has its share in each part.

    Parameters
    ----------
    labels
        Codes of the classes, shape ``(n_obs,)``.
    train_size, validation_size
        Shares of the cells; what is left is the test part.
    batch_size
        No last minibatch of a single cell is left over, which batch normalisation cannot train on.
    seed
        Seed of the permutation.

    Returns
    -------
    Indices of the training, validation and test cells.
    """
    n_obs = len(labels)
    if not 0 < train_size <= 1:
        raise ValueError(f"train_size must lie in (0, 1], got {train_size}.")
    if validation_size is None:
        validation_size = 1 - train_size
    if not 0 <= validation_size <= 1 - train_size + 1e-9:
        raise ValueError(
            f"validation_size must lie in [0, 1 - train_size], got {validation_size} with "
            f"train_size={train_size}."
        )
    n_train = int(np.ceil(round(train_size * n_obs, 6)))
    n_validation = min(int(round(validation_size * n_obs)), n_obs - n_train)
    if 0 < n_train % batch_size < 3 and n_train > batch_size and n_train < n_obs:
        n_validation += n_train % batch_size
        n_train -= n_train % batch_size
    permuted = np.random.default_rng(seed).permutation(n_obs)
    by_class = permuted[np.argsort(labels[permuted], kind="stable")]
    # Walk through the classes, giving each part its cells at even intervals.
    part = np.zeros(n_obs, dtype=int)
    for number, size in ((1, n_validation), (2, n_obs - n_train - n_validation)):
        free = np.flatnonzero(part == 0)
        part[free[((np.arange(size) + 0.5) * len(free) / max(size, 1)).astype(int)]] = number
    return [by_class[part == number] for number in range(3)]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that minimises the cross-entropy of held-out cells (Guo et al., 2017).

    Parameters
    ----------
    logits
        Shape ``(n_obs, n_classes)``.
    labels
        Codes of the classes, shape ``(n_obs,)``.

    Returns
    -------
    The temperature by which logits are to be divided, in [0.05, 20].
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))

    found = minimize_scalar(cross_entropy, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))
