"""How much the genes of generated cells vary, beside how much those of real cells do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS

from .._random import seeded
from .._storage import row_blocks
from ..data import checks
from ..module import Posterior, encoded_minibatches, likelihood
from ..train.novelty import dense_rows
from ._base import CellsModel
from ._drawing import Drawn

# Real cells whose variance is compared, at most.
MAX_COMPARED = 2_000
# How many cells the decoder's own dispersion counts for, beside these.
DECODER_CELLS = 20
# Least factor: there, a negative binomial is a Poisson distribution in all but name.
LEAST = 1e-6
_ROWS = 512


class WithinClasses:
    """Sums from which the variance of genes within classes follows.

    Parameters
    ----------
    n_classes, n_vars
        Numbers of classes and genes.
    """

    def __init__(self, n_classes: int, n_vars: int):
        self.n = np.zeros(n_classes)
        self.sums = np.zeros((n_classes, n_vars))
        self.squares = np.zeros(n_vars)

    def add(self, values: np.ndarray, codes: np.ndarray) -> None:
        """Add cells ``(n, n_vars)`` of classes ``(n,)``."""
        of_class = np.zeros((len(self.n), len(codes)))
        of_class[codes, np.arange(len(codes))] = 1
        exact = values.astype(np.float64)
        self.n += of_class.sum(axis=1)
        self.sums += of_class @ exact
        self.squares += np.square(exact).sum(axis=0)

    @property
    def degrees_of_freedom(self) -> int:
        """Cells less classes."""
        return int(self.n.sum() - (self.n > 0).sum())

    @property
    def variance(self) -> np.ndarray:
        """Variance of each gene within classes, pooled over them, shape ``(n_vars,)``."""
        present = self.n > 0
        of_means = (np.square(self.sums[present]) / self.n[present, None]).sum(axis=0)
        return np.maximum(self.squares - of_means, 0) / max(self.degrees_of_freedom, 1)


def overdispersion_factor(
    real: np.ndarray, of_means: np.ndarray, of_counting: np.ndarray, of_dispersion: np.ndarray
) -> np.ndarray:
    r"""Factor on the overdispersion of each gene with which generated cells vary as real ones do.

    The variance of generated counts has three parts: that of the expected values over cells, that of counting
    (Poisson), and that of the negative binomial's dispersion, :math:`\mu^2 / \theta`. Only the last is changed.

    Parameters
    ----------
    real, of_means, of_counting, of_dispersion
        Variance within classes of real counts, and the three parts of that of generated counts, each of
        shape ``(n_vars,)``.

    Returns
    -------
    Shape ``(n_vars,)``, in [:data:`LEAST`, 1]: dispersion is never raised. Where real counts vary more than
    generated ones, a few cells or a hidden type are the cause, not noise in all cells.
    """
    missing = np.maximum(real - of_means - of_counting, 0)
    return np.clip(missing / np.maximum(of_dispersion, 1e-12), LEAST, 1.0)


def match_dispersion(
    model: CellsModel, adata: AnnData, draw: Callable[[int, Posterior], Drawn]
) -> np.ndarray | float:
    r"""Factor on :math:`1 / \theta` of each gene with which generated cells vary as real ones do.

    A decoder's dispersion covers what the latent point of a cell does not describe. Over a population, part of
    that is in the spread of the latent points as well, and would be counted twice.

    Parameters
    ----------
    model
        The model.
    adata
        Labeled cells, validated.
    draw
        ``draw(code, cells)`` gives as many new points as there are cells of a class.

    Returns
    -------
    Shape ``(n_vars,)``; 1 where there is no dispersion, or no real values.
    """
    if not model.module.family.dispersed or model.module.minified_data_type is not None:
        return 1.0
    n_classes = len(model.classes)
    cells = np.flatnonzero(np.asarray(adata.obs[checks.LABEL_CODES]) < n_classes)
    if len(cells) > MAX_COMPARED:
        cells = np.sort(np.random.default_rng(0).choice(cells, MAX_COMPARED, replace=False))
    real, made = (WithinClasses(n_classes, model.module.n_input) for _ in range(2))
    counting, dispersion = np.zeros((2, model.module.n_input))
    with model.codec.evaluating() as module, seeded(0):
        parts = []
        for tensors in model._minibatches(adata, cells):
            (part,) = encoded_minibatches(module, [tensors])
            for rows in row_blocks(len(part.mean), _ROWS):
                real.add(dense_rows(tensors[REGISTRY_KEYS.X_KEY], rows), part.labels[rows])
            parts.append(part)
        encoded = Posterior.concatenate(parts)
        for code in np.unique(encoded.labels):
            of_class = encoded.take(np.flatnonzero(encoded.labels == code))
            if len(of_class.mean) < 2:
                continue
            new = draw(code, of_class)
            for rows in row_blocks(len(new.z), _ROWS):
                px: Any = likelihood(module, new.z[rows], new.covariates.take(rows))
                mean, theta = (a.cpu().numpy().astype(np.float64) for a in (px.mu, px.theta))
                kept = 1.0
                if model.likelihood == "zinb":
                    kept = 1 - px.zi_probs.cpu().numpy().astype(np.float64)
                made.add(kept * mean, np.full(len(mean), code))
                counting += (kept * mean * (1 + (1 - kept) * mean)).sum(axis=0)
                dispersion += (kept * np.square(mean) / theta).sum(axis=0)
    n = max(made.n.sum(), 1)
    factor = overdispersion_factor(real.variance, made.variance, counting / n, dispersion / n)
    weight = real.degrees_of_freedom / (real.degrees_of_freedom + DECODER_CELLS)
    return weight * factor + (1 - weight)
