"""Detect a held-out loss that rises at the end of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

# Fraction of the epochs over which the loss is averaged, and for which it must be past its minimum.
FRACTION = 0.2
# Smallest rise that counts, as a fraction of the total decrease from the first value.
MIN_RISE = 0.02
MIN_EPOCHS = 10


class Rise(NamedTuple):
    """A held-out loss that rose again.

    Parameters
    ----------
    epochs
        Number of epochs after which the moving average was lowest.
    lowest, last
        The lowest moving average and the last one.
    """

    epochs: int
    lowest: float
    last: float


def find_rise(loss: np.ndarray) -> Rise | None:
    """The rise of a held-out loss after its minimum, if it lasted a fifth of the epochs or longer.

    The loss of a few held-out cells is noisy, so moving averages over a fifth of the epochs are compared.

    Parameters
    ----------
    loss
        Loss after each epoch, shape ``(n_epochs,)``.

    Returns
    -------
    ``None`` if the loss did not rise, or by less than 2 % of its decrease before.
    """
    loss = np.asarray(loss, dtype=float)
    if len(loss) < MIN_EPOCHS or not np.isfinite(loss).all():
        return None
    width = int(np.ceil(FRACTION * len(loss)))
    averages = np.convolve(loss, np.ones(width) / width, mode="valid")
    best = int(averages.argmin())
    lowest, last = float(averages[best]), float(averages[-1])
    if len(averages) - 1 - best < width or last - lowest <= MIN_RISE * (loss[0] - lowest):
        return None
    return Rise(best + width // 2 + 1, lowest, last)


def held_out_loss(
    history: Mapping[str, pd.DataFrame], *, kl_weight: float, discriminator_weight: float
) -> np.ndarray | None:
    """The held-out loss J by epoch, shape ``(n_epochs,)``, with the full weight of the KL term throughout.

    ``None`` if it was not computed in every epoch.
    """
    weights = {
        "reconstruction_loss_validation": 1.0,
        "kl_local_validation": kl_weight,
        "classification_loss_validation": discriminator_weight,
    }
    if not weights.keys() <= history.keys():
        return None
    terms = [w * np.asarray(history[k], dtype=float).ravel() for k, w in weights.items()]
    return np.sum(terms, axis=0)


def overfitting_warning(rise: Rise, n_epochs: int) -> str:
    """The text of the warning."""
    return (
        f"the held-out loss was lowest around epoch {rise.epochs} of {n_epochs} "
        f"({rise.lowest:,.4g}) and rose to {rise.last:,.4g}: the model overfits. Pass "
        f"max_epochs={rise.epochs} or early_stopping=True, or train on more cells "
        "(scivae.pl.history shows the loss)."
    )
