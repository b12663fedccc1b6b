"""Temperature and prediction sets from held-out cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from .._validate.arguments import check_number
from ..module import CIVAEModule, Posterior
from .novelty import ClassGaussians, ResidualScale, log_library_of, with_residuals

# Minibatches of the same cells each time that it is called.
Loader = Callable[[], Iterable[dict[str, torch.Tensor]]]


# Held-out cells from which a class has a threshold of its own.
MIN_OF_CLASS = 20


# Training cells that means and covariances of the classes come from, and the scale of residuals, at most.
MAX_CELLS, MAX_RESIDUALS = 10_000, 2_000


# Held-out cells from which a temperature is fitted, and the folds that say whether it helps.
MIN_FOR_TEMPERATURE = 20


FOLDS = 10


def log_odds_against(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the odds against each class, shape ``(n, n_classes)``.

    It orders cells as one minus the probability of the class does, and does not round to 0 or 1. No
    temperature enters: the cells that fit it are those that calibrate the sets.
    """
    against = np.zeros(logits.shape)
    if logits.shape[1] < 2:  # nothing speaks against the only class
        return against
    for code in range(logits.shape[1]):
        others = np.delete(logits, code, axis=1)
        against[:, code] = logsumexp(others, axis=1) - logits[:, code]
    return against


def useful_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature fitted on held-out cells; 1 where these do not say that it helps.

    Each tenth of the cells is scored with the temperature of the others. A temperature is used only if
    this lowers their mean cross-entropy by more than its standard error, and if there are at least 20
    cells.

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
    if len(labels) < MIN_FOR_TEMPERATURE:
        return 1.0
    rows = np.arange(len(labels))
    # Every class is spread over the folds.
    fold = np.empty(len(labels), dtype=int)
    fold[np.argsort(labels, kind="stable")] = rows % FOLDS

    def cross_entropy(scaled: np.ndarray, of: np.ndarray) -> np.ndarray:
        return logsumexp(scaled, axis=1) - scaled[np.arange(len(of)), of]

    gain = np.empty(len(labels))
    for number in range(FOLDS):
        inside = fold == number
        temperature = fit_temperature(logits[~inside], labels[~inside])
        gain[inside] = cross_entropy(logits[inside], labels[inside]) - cross_entropy(
            logits[inside] / temperature, labels[inside]
        )
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        return 1.0
    return fit_temperature(logits, labels)


# What the calibration holds of training cells.
OF_TRAINING = (
    *ClassGaussians._fields,
    *(f"residual_{name}" for name in ResidualScale._fields),
)


def check_level(level: Any) -> float:
    """The level of prediction sets as a float; raise unless it lies in (0, 1)."""
    level = check_number("level", level, minimum=0, maximum=1)
    if level in (0.0, 1.0):
        raise ValueError(f"level must lie in (0, 1), got {level:g}.")
    return level


def misfits_of(
    module: CIVAEModule, minibatches: Iterable[dict[str, torch.Tensor]], scale: ResidualScale
) -> Iterator[tuple[Posterior, np.ndarray]]:
    """Cells and their misfits, shape ``(n,)``, block by block."""
    for part, residuals in with_residuals(module, minibatches):
        yield part, scale.misfit(residuals, log_library_of(part.covariates))


def at_most(index: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``n`` positions, in increasing order."""
    index = np.sort(index)
    return index if len(index) <= n else np.sort(rng.choice(index, n, replace=False))


# Of the logarithm of the temperature, before any held-out cell is seen.
PRIOR_SD = 0.5


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that minimizes the cross-entropy of held-out cells (Guo et al., 2017).

    A normal prior on its logarithm, with mean 0 and standard deviation 1/2, has little weight compared with hundreds
    of cells, and keeps a handful, which can all be right by chance, from asking for certainty.

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

    def improbability(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        cross_entropy = logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]
        return float(cross_entropy.sum() + 0.5 * (log_temperature / PRIOR_SD) ** 2)

    found = minimize_scalar(improbability, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))
