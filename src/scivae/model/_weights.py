"""Weights of the discriminator and of its classes, where the user leaves them to the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._errors import check_choice, check_number
from .._storage import rows_of
from ._generated import log_normalize
from ._setup import Setup

# Cells that are looked at, at most, and how many of them lie side by side: few blocks of a file are read.
MAX_CELLS, SIDE_BY_SIDE = 2_000, 50
# Dimensions of a code that are told apart, at most.
MAX_COMPONENTS = 64
# Weight of a label, as a share of what a linear code of the same size tells of a cell.
SHARE = 0.8
# The weight where there are no values to read.
WITHOUT_DATA = 50.0
# Cells of a class for each unit of weight with which its cells are moved, at most.
CELLS_A_WEIGHT = 4


def _cells(n_obs: int) -> np.ndarray:
    """Which cells are looked at."""
    if n_obs <= MAX_CELLS:
        return np.arange(n_obs)
    starts = np.linspace(0, n_obs - SIDE_BY_SIDE, MAX_CELLS // SIDE_BY_SIDE).astype(int)
    return (starts[:, None] + np.arange(SIDE_BY_SIDE)).ravel()


def nats_told(x: Any, *, counts: bool) -> np.ndarray:
    r"""Nats that a linear code tells of a cell, by its number of dimensions.

    Of gene j, principal components tell :math:`-\tfrac12 \log (1 - R^2_j)`, with the share :math:`R^2_j` of
    its variance that they explain, adjusted for the dimensions they took. Units of the values cancel.

    Parameters
    ----------
    x
        Matrix, shape ``(n_obs, n_vars)``: dense, sparse, backed or dask. Of more than 2,000 cells, as many
        are looked at, in runs of 50 at even intervals.
    counts
        Whether the values are counts, which are log-normalised first.

    Returns
    -------
    Sums over genes for codes of one dimension, two, and so on to 64, or to as many as there can be.
    """
    from sklearn.decomposition import PCA

    rows = rows_of(x, _cells(x.shape[0]))
    values = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float32)
    if counts:
        values = log_normalize(values)
    variance = values.var(axis=0, dtype=np.float64, ddof=1)
    values, variance = values[:, variance > 0], variance[variance > 0]
    free = len(values) - 1
    n_components = min(MAX_COMPONENTS, free // 2, values.shape[1] - 1)
    if n_components < 1:
        return np.zeros(0)
    pca = PCA(n_components, svd_solver="randomized", random_state=0).fit(values)
    explained = np.cumsum(np.square(pca.components_) * pca.explained_variance_[:, None], axis=0)
    spent = np.arange(1, n_components + 1)[:, None]
    left = (1 - explained / variance) * free / (free - spent)  # (n_components, n_genes)
    return -0.5 * np.log(np.clip(left, 1e-3, 1.0)).sum(axis=1)


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
