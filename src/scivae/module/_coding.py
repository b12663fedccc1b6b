"""Encode and decode arrays: posteriors, covariates, expected values, samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from .._scvi import MODULE_KEYS
from .._storage import row_blocks
from ..nb.counts import counts_of
from ._civae import CIVAEModule, check_finite

ROWS_PER_BLOCK = 1024


class Covariates(NamedTuple):
    """Inputs of the decoder other than z. Every array has one row per point.

    Attributes
    ----------
    log_library
        Log of the library size (of the size factor, where there is one), shape ``(n,)``.
    batch
        Codes of the batches, shape ``(n,)``.
    categorical
        Codes of the categorical covariates, shape ``(n, n_covariates)``.
    continuous
        Continuous covariates, shape ``(n, n_covariates)``.
    """

    log_library: np.ndarray
    batch: np.ndarray
    categorical: np.ndarray
    continuous: np.ndarray

    def take(self, index: np.ndarray | slice) -> Covariates:
        """The covariates of some of the points."""
        return Covariates(*(a[index] for a in self))

    @classmethod
    def concatenate(cls, parts: Sequence[Covariates]) -> Covariates:
        """The covariates of the points of all parts, in their order."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def same_categories(self, other: Covariates) -> np.ndarray:
        """Whether batch and categorical covariates agree, shape ``(n,)``."""
        return (self.batch == other.batch) & (self.categorical == other.categorical).all(axis=1)


class Mixture(NamedTuple):
    """Covariates of points between two ends that can differ in batch and categories.

    The decoder has no state between two batches, so points are decoded under both ends and the results mixed.

    Attributes
    ----------
    start, end
        Covariates of the points, with the batch and categories of the start, and of the end.
    weight
        Weight of the result for ``end``, shape ``(n,)``.
    """

    start: Covariates
    end: Covariates
    weight: np.ndarray

    @property
    def log_library(self) -> np.ndarray:
        """Log of the library sizes, which both ends share."""
        return self.start.log_library

    def take(self, index: np.ndarray | slice) -> Mixture:
        """The covariates of some of the points."""
        return Mixture(self.start.take(index), self.end.take(index), self.weight[index])


class Posterior(NamedTuple):
    """Posteriors, labels and covariates of cells.

    Attributes
    ----------
    mean, scale
        Mean and standard deviation of the normal posteriors, shape ``(n, n_latent)``.
    labels
        Codes of the classes; ``n_classes`` for cells without a label. Shape ``(n,)``.
    covariates
        Library size and covariates of the cells.
    """

    mean: np.ndarray
    scale: np.ndarray
    labels: np.ndarray
    covariates: Covariates

    def take(self, index: np.ndarray | slice) -> Posterior:
        """Some of the cells."""
        return Posterior(
            self.mean[index], self.scale[index], self.labels[index], self.covariates.take(index)
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Posterior]) -> Posterior:
        """The cells of all parts, in their order."""
        means, scales, labels, covariates = zip(*parts, strict=True)
        return cls(
            np.concatenate(means),
            np.concatenate(scales),
            np.concatenate(labels),
            Covariates.concatenate(covariates),
        )


def interpolate_covariates(start: Covariates, end: Covariates, t: np.ndarray) -> Covariates:
    """Covariates between two ends.

    Library sizes are interpolated on the log scale and continuous covariates linearly; batch and
    categorical covariates are those of the nearer end.

    Parameters
    ----------
    start, end
        Covariates of n points.
    t
        Positions in [0, 1], shape ``(n,)``.
    """
    near, column = t < 0.5, t[:, None]
    return Covariates(
        log_library=(1 - t) * start.log_library + t * end.log_library,
        batch=np.where(near, start.batch, end.batch),
        categorical=np.where(near[:, None], start.categorical, end.categorical),
        continuous=(1 - column) * start.continuous + column * end.continuous,
    )


def _tensors(covariates: Covariates) -> dict[str, torch.Tensor | None]:
    """Covariates as tensors, the inputs of the decoder; ``None`` for kinds of covariates without columns."""
    batch = torch.tensor(covariates.batch[:, None], dtype=torch.long)
    categorical = torch.tensor(covariates.categorical, dtype=torch.long)
    continuous = torch.tensor(covariates.continuous, dtype=torch.float32)
    further = {MODULE_KEYS.CAT_COVS_KEY: categorical, MODULE_KEYS.CONT_COVS_KEY: continuous}
    return {
        MODULE_KEYS.BATCH_INDEX_KEY: batch,
        **{key: columns if columns.shape[1] else None for key, columns in further.items()},
    }


@torch.inference_mode()
def likelihood(
    module: CIVAEModule, z: np.ndarray, covariates: Covariates
) -> torch.distributions.Distribution:
    """Likelihood of the data at latent points ``(n, n_latent)`` under n covariates."""
    library = torch.tensor(covariates.log_library[:, None], dtype=torch.float32)
    outputs = module.generative(
        z=torch.as_tensor(z, dtype=torch.float32),
        library=library,
        size_factor=library,
        **_tensors(covariates),
    )
    return outputs[MODULE_KEYS.PX_KEY]


@torch.inference_mode()
def encode_values(module: CIVAEModule, values: np.ndarray, covariates: Covariates) -> np.ndarray:
    """Posterior means ``(n, n_latent)`` of cells ``(n, n_vars)`` under n covariates."""
    outputs = module.inference(x=torch.as_tensor(values), **_tensors(covariates))
    return outputs[MODULE_KEYS.QZ_KEY].loc.cpu().numpy()


@torch.inference_mode()
def encoded_minibatches(
    module: CIVAEModule, loader: Iterable[dict[str, torch.Tensor]]
) -> Iterator[Posterior]:
    """Posterior, labels and covariates of each minibatch, by a module in evaluation mode."""
    supports_fused_nb = module.supports_fused_nb and module.minified_data_type is None
    for tensors in loader:
        if supports_fused_nb:
            cells = counts_of(tensors[REGISTRY_KEYS.X_KEY].to(module.device))
            check_finite(cells.counts)
            mean, variance = module.encode_counts(cells, tensors)
            scale, library = variance.sqrt(), cells.totals.log()
        else:
            out = module.inference(**module._get_inference_input({**tensors}))
            qz, library = out[MODULE_KEYS.QZ_KEY], out[MODULE_KEYS.LIBRARY_KEY]
            mean, scale = qz.loc, qz.scale
        if REGISTRY_KEYS.SIZE_FACTOR_KEY in tensors:
            library = tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].log()
        none = torch.empty(len(mean), 0)
        yield Posterior(
            mean.cpu().numpy(),
            scale.cpu().numpy(),
            tensors[REGISTRY_KEYS.LABELS_KEY].numpy().ravel().astype(np.int64),
            Covariates(
                library.cpu().numpy().ravel().astype(np.float64),
                tensors[REGISTRY_KEYS.BATCH_KEY].numpy().ravel().astype(np.int64),
                tensors.get(REGISTRY_KEYS.CAT_COVS_KEY, none.long()).numpy(),
                tensors.get(REGISTRY_KEYS.CONT_COVS_KEY, none).numpy(),
            ),
        )


def decoded_blocks(
    module: CIVAEModule, z: np.ndarray, covariates: Covariates | Mixture
) -> Iterator[tuple[slice, np.ndarray]]:
    """Expected values at latent points, a block of rows at a time.

    Parameters
    ----------
    module
        The network, in evaluation mode.
    z
        Latent points, shape ``(n, n_latent)``.
    covariates
        Their covariates.

    Yields
    ------
    Rows and their expected values, float32, shape ``(n_rows, n_vars)``.
    """
    for rows in row_blocks(len(z), ROWS_PER_BLOCK):
        part = covariates.take(rows)
        values = unscaled_means(module, z[rows], part).cpu().numpy()
        if module.family.counts:
            values *= np.exp(part.log_library).astype(np.float32)[:, None]
        yield rows, values


def sample_blocks(
    module: CIVAEModule,
    z: np.ndarray,
    covariates: Covariates,
    *,
    rng: np.random.Generator,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Samples from the likelihood at latent points, a block of rows at a time.

    Only ``rng`` is drawn from, so the same seed gives the same cells, also beside other threads.

    Parameters
    ----------
    module
        The network, in evaluation mode.
    z
        Latent points, shape ``(n, n_latent)``.
    covariates
        Their covariates.
    rng
        Source of the random numbers.

    Yields
    ------
    Rows and their samples, float32, shape ``(n_rows, n_vars)``.
    """
    for rows in row_blocks(len(z), ROWS_PER_BLOCK):
        px = likelihood(module, z[rows], covariates.take(rows))
        yield rows, module.family.draw(px, rng)


@torch.inference_mode()
def unscaled_means(
    module: CIVAEModule, z: np.ndarray, covariates: Covariates | Mixture
) -> torch.Tensor:
    """Means at latent points for a library of one count.

    Equal to the means of :func:`likelihood`, but faster, because no dispersion and no distribution is
    computed. Values of continuous data are in their own units.

    Parameters
    ----------
    module, z, covariates
        As in :func:`decoded_blocks`.

    Returns
    -------
    float32, shape ``(n, n_vars)``, on the device of the module.
    """
    if isinstance(covariates, Covariates):
        return _means(module, z, covariates)
    start, end, weight = covariates
    mean = _means(module, z, start)
    index = np.flatnonzero(~start.same_categories(end))
    if index.size:
        second = _means(module, z[index], end.take(index))
        w = torch.as_tensor(weight[index, None], dtype=mean.dtype, device=mean.device)
        rows = torch.as_tensor(index, device=mean.device)
        mean[rows] = (1 - w) * mean[rows] + w * second
    return mean


@torch.inference_mode()
def normalized_means(
    module: CIVAEModule, z: np.ndarray, covariates: Covariates | Mixture
) -> torch.Tensor:
    """Expected values at latent points, each cell's counts divided by their sum.

    Equal to the means of :func:`decoded_blocks`, divided by their row sums if the data are counts, but
    faster, because no library size, dispersion or distribution is needed.

    Parameters
    ----------
    module, z, covariates
        As in :func:`decoded_blocks`.

    Returns
    -------
    Proportions of the counts, which add up to one, or values in the units of continuous data; float32,
    shape ``(n, n_vars)``, on the device of the module.
    """
    mean = unscaled_means(module, z, covariates)
    if module.needs_row_sums:
        mean /= mean.sum(dim=1, keepdim=True)
    return mean


def _means(module: CIVAEModule, z: np.ndarray, covariates: Covariates) -> torch.Tensor:
    """Means for a library of one count, as the decoder of scvi-tools' VAE gives them."""
    # ``module.device`` would iterate over all parameters.
    device = module.discriminator.weight.device
    tensors = {
        key: torch.tensor(a, dtype=dtype, device=device)
        for key, a, dtype in (
            (REGISTRY_KEYS.BATCH_KEY, covariates.batch[:, None], torch.long),
            (REGISTRY_KEYS.CAT_COVS_KEY, covariates.categorical, torch.long),
            (REGISTRY_KEYS.CONT_COVS_KEY, covariates.continuous, torch.float32),
        )
    }
    points = torch.as_tensor(z, dtype=torch.float32, device=device)
    return module.family.means(module.decoder, module.decode_hidden(points, tensors))
