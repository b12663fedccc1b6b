r"""Initial inverse dispersions :math:`\theta` of a negative binomial, by the method of moments.

The variance of a count with mean :math:`\mu` is :math:`\mu + \mu^2 / \theta`. scvi-tools draws the logarithms of
:math:`\theta` from a normal distribution. In the two thousand steps of a default training they change by only
about one, so the draw would still show at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy import sparse
from scvi import REGISTRY_KEYS

from ..data.information import spread_over
from ..module import CIVAEModule
from .calibration import dense_rows

# With fewer labeled cells than this, unlabeled cells are used too.
MIN_LABELED = 200
# Weight of the overdispersion common to all genes, in expected squared counts of a gene.
COMMON_SQUARES = 10.0
# Fraction of the overdispersion within classes that is left after the network explains its part.
UNEXPLAINED = 0.5
# Bounds of the logarithms: three standard deviations of the initial draw of scvi-tools.
MAX_LOG_THETA = 3.0


def cells_of_moments(train: np.ndarray, labeled: np.ndarray) -> np.ndarray:
    """Positions of the cells whose moments are used, in increasing order.

    Parameters
    ----------
    train
        Positions of the training cells.
    labeled
        Whether a cell has a label, shape ``(n_obs,)``.
    """
    train = np.sort(train)
    with_label = train[labeled[train]]
    cells = with_label if len(with_label) >= MIN_LABELED else train
    return cells[spread_over(len(cells))]


def has_dispersions(module: CIVAEModule) -> bool:
    """Whether inverse dispersions are parameters of the network, rather than outputs of the decoder."""
    return module.family.dispersed and module.dispersion in ("gene", "gene-batch")


class StartDispersions(Callback):
    """Set the inverse dispersions of a new network when its first training starts.

    Parameters
    ----------
    log_theta
        Logarithms of the inverse dispersions, of the shape of ``module.px_r``.
    """

    def __init__(self, log_theta: torch.Tensor):
        self.log_theta = log_theta

    def on_train_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Set the inverse dispersions, unless training resumes from a checkpoint."""
        if trainer.global_step == 0:
            with torch.no_grad():
                plan.module.px_r.copy_(self.log_theta)


def starting_dispersions(
    module: CIVAEModule, minibatches: Iterable[dict[str, Any]]
) -> StartDispersions | None:
    """Make a callback that sets the initial inverse dispersions, or ``None`` if values are not finite.

    Parameters
    ----------
    module
        The network; see :func:`has_dispersions`.
    minibatches
        Minibatches of a loader.
    """
    parts, libraries, groups, batches = [], [], [], []
    for tensors in minibatches:
        x = tensors[REGISTRY_KEYS.X_KEY]
        parts.append(sparse.csr_matrix(dense_rows(x, slice(0, len(x))).astype(np.float64)))
        sizes = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY) if module.use_size_factor_key else None
        libraries.append(
            np.asarray(parts[-1].sum(axis=1)).ravel()
            if sizes is None
            else sizes.cpu().numpy().astype(np.float64).ravel()
        )
        batches.append(tensors[REGISTRY_KEYS.BATCH_KEY].cpu().numpy().ravel().astype(int))
        labels = tensors[REGISTRY_KEYS.LABELS_KEY].cpu().numpy().ravel().astype(int)
        groups.append(labels * module.n_batch + batches[-1])
    batch = np.concatenate(batches)
    of_batch = module.dispersion == "gene-batch"
    found = log_theta_by_moments(
        sparse.vstack(parts, format="csr"),
        np.concatenate(libraries),
        np.concatenate(groups),
        batch if of_batch else np.zeros_like(batch),
        module.n_batch if of_batch else 1,
    )
    if not np.isfinite(found).all():
        return None
    return StartDispersions(torch.as_tensor(found.T if of_batch else found[0]))


def log_theta_by_moments(
    counts: sparse.csr_matrix,
    library: np.ndarray,
    groups: np.ndarray,
    sets: np.ndarray,
    n_sets: int,
) -> np.ndarray:
    r"""Estimate the logarithms of the inverse dispersions by the method of moments.

    Within a group, the expected count :math:`\mu` of a gene is its proportion times the library size. For a
    negative binomial, squared deviations from it exceed :math:`\mu` by :math:`\mu^2 / \theta` on average. The
    ratio of the summed excess to the summed :math:`\mu^2` estimates :math:`1 / \theta`. For genes with few
    counts it is shrunk toward the mean over genes. The network explains a part of this overdispersion; the
    fraction :data:`UNEXPLAINED` is kept.

    Parameters
    ----------
    counts
        Shape ``(n_obs, n_vars)``.
    library
        Library sizes, shape ``(n_obs,)``.
    groups
        Group of each cell, such as its class and batch: any integers, shape ``(n_obs,)``.
    sets, n_sets
        Groups that share inverse dispersions: an integer below ``n_sets`` for each cell, the same for all cells of
        a group, shape ``(n_obs,)``.

    Returns
    -------
    Shape ``(n_sets, n_vars)``.
    """
    excess, squares = np.zeros((2, n_sets, counts.shape[1]))
    for group in np.unique(groups):
        cells = np.flatnonzero(groups == group)
        if len(cells) < 2:
            continue
        x, sizes = counts[cells], library[cells]
        total = np.asarray(x.sum(axis=0)).ravel()
        share = total / sizes.sum()
        expected = share**2 * np.square(sizes).sum()
        deviations = np.asarray(x.multiply(x).sum(axis=0)).ravel()
        deviations += expected - 2 * share * (x.T @ sizes)
        excess[sets[cells[0]]] += deviations * len(cells) / (len(cells) - 1) - total
        squares[sets[cells[0]]] += expected
    weight = 1 / (squares + COMMON_SQUARES)
    known = (squares * weight).sum()
    common = (excess * weight).sum() / known if known > 0 else 1.0
    overdispersion = (excess + COMMON_SQUARES * common) * weight
    bounds = np.exp(-MAX_LOG_THETA), np.exp(MAX_LOG_THETA)
    return -np.log(np.clip(UNEXPLAINED * overdispersion, *bounds))
