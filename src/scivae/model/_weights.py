"""Default weights of the discriminator and of its classes, from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._validate.arguments import check_choice, check_number
from ..data.setup import Setup

# Discriminator weight, as a fraction of the information about a cell in its principal components.
FRACTION = 0.8
# The same if labels may be wrong: with more, the network memorizes them.
FRACTION_ROBUST = 0.08
# Discriminator weight if no values can be read.
DEFAULT_WEIGHT = 50.0
# Least number of cells of a class per unit of weight on the gradient that reaches z.
CELLS_A_WEIGHT = 4


def auto_discriminator_weight(
    information: np.ndarray | None, n_latent: int, *, robust: bool = False
) -> float:
    r"""Discriminator weight in proportion to the information about a cell that a latent space can hold.

    Cross-entropy and reconstruction are both in nats. The reconstruction term grows with the number of genes
    and the sequencing depth, so the weight :math:`\beta` of the cross-entropy must grow too. It is
    :data:`FRACTION` times (:data:`FRACTION_ROBUST` times, if labels may be wrong) the information captured by
    ``n_latent`` principal components, to three digits.

    Parameters
    ----------
    information
        As :func:`scivae.data.information.pca_information` returns it; ``None`` if no values can be read.
    n_latent
        Dimensions of z.
    robust
        Whether labels may be wrong.
    """
    fraction = FRACTION_ROBUST if robust else FRACTION
    if information is None:
        return float(f"{DEFAULT_WEIGHT * fraction / FRACTION:.3g}")
    captured = information[min(n_latent, len(information)) - 1] if len(information) else 0.0
    return float(f"{np.clip(fraction * captured, 1.0, 1e4):.3g}")


def weights_of_classes(
    class_weights: Any, counts: np.ndarray, n_obs: int, setup: Setup
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the classes, and per-class factors on the classifier gradient that reaches z.

    Parameters
    ----------
    class_weights
        As ``CIVAE`` takes it.
    counts
        Labeled cells of each class, shape ``(n_classes,)``.
    n_obs
        Number of cells, labeled or not.
    setup
        The setup, which has the names of the classes.
    """
    n_classes = len(setup.classes)
    whole = np.ones(n_classes)
    if isinstance(class_weights, Mapping):
        weights = np.ones(n_classes)
        for label, weight in class_weights.items():
            code = setup.label_code(label, "class_weights")
            weights[code] = check_number(f"class_weights[{label!r}]", weight, minimum=0)
        return weights, whole
    check_choice("class_weights", class_weights, ("balanced", "none"))
    if class_weights == "none" or counts.min() == 0:
        return np.ones(n_classes), whole
    balanced = counts.sum() / (n_classes * counts)
    presumed = counts * n_obs / counts.sum()  # estimated cells of the class, labeled or not
    most = np.maximum(presumed / CELLS_A_WEIGHT, 1.0)
    return balanced, np.minimum(1.0, most / balanced)
