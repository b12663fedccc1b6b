"""Weights of the discriminator and of its classes, where the user leaves them to the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._errors import check_choice, check_number
from ..data.setup import Setup

# Weight of a label, as a share of what a linear code of the same size tells of a cell.
SHARE = 0.8
# The weight where there are no values to read.
WITHOUT_DATA = 50.0
# Cells of a class for each unit of weight with which its cells are moved, at most.
CELLS_A_WEIGHT = 4


def auto_discriminator_weight(nats: np.ndarray, n_latent: int) -> float:
    r"""Discriminator weight in proportion to what a latent space can tell of a cell.

    A label pulls at a latent point with :math:`\beta` nats; what holds it back is the reconstruction,
    also in nats, of which there are more the more genes there are and the more deeply cells are sequenced. The
    weight is :data:`SHARE` times what a linear code of ``n_latent`` dimensions tells, to three digits.

    Parameters
    ----------
    nats
        As :func:`nats_told` gives them.
    n_latent
        Dimensions of z.
    """
    told = nats[min(n_latent, len(nats)) - 1] if len(nats) else 0.0
    return float(f"{np.clip(SHARE * told, 1.0, 1e4):.3g}")


def weights_of_classes(
    class_weights: Any, counts: np.ndarray, n_obs: int, setup: Setup
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the classes, and with which share of them their cells are moved.

    Parameters
    ----------
    class_weights
        As ``CIVAE`` takes it.
    counts
        Labeled cells of each class, shape ``(n_classes,)``.
    n_obs
        Number of cells, labeled or not.
    setup
        Names the classes.
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
    presumed = counts * n_obs / counts.sum()  # cells of the class, with or without a label
    most = np.maximum(presumed / CELLS_A_WEIGHT, 1.0)
    return balanced, np.minimum(1.0, most / balanced)
