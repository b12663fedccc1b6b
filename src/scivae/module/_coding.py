"""Encode and decode arrays: posteriors, expected values, samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from .._scvi import MODULE_KEYS
from .._storage import row_blocks
from ..nb.counts import counts_of
from ._civae import CIVAEModule, check_finite
from ._covariates import Covariates, Posterior
from ._likelihoods import COUNT_LIKELIHOODS

ROWS_PER_BLOCK = 1024
# A negative binomial's mean can be anything a softmax and a library give; a Poisson draw cannot.
MAX_RATE = 1e8


def _column(a: np.ndarray | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A copy as a tensor with one row a point; ``None`` stays ``None``."""
    if a is None:
        return None
    return torch.tensor(a if a.ndim == 2 else a[:, None], dtype=dtype)


def _covariate_tensors(covariates: Covariates) -> dict[str, torch.Tensor | None]:
    return {
        MODULE_KEYS.BATCH_INDEX_KEY: _column(covariates.batch, torch.long),
        MODULE_KEYS.CAT_COVS_KEY: _column(covariates.categorical, torch.long),
        MODULE_KEYS.CONT_COVS_KEY: _column(covariates.continuous, torch.float32),
    }


@torch.inference_mode()
def likelihood(
    module: CIVAEModule, z: np.ndarray, covariates: Covariates
) -> torch.distributions.Distribution:
    """Likelihood of the data at latent points ``(n, n_latent)`` under n covariates."""
    library = _column(covariates.log_library, torch.float32)
    outputs = module.generative(
        z=torch.as_tensor(z, dtype=torch.float32),
        library=library,
        size_factor=library,
        **_covariate_tensors(covariates),
    )
    return outputs[MODULE_KEYS.PX_KEY]


@torch.inference_mode()
def encode_values(module: CIVAEModule, values: np.ndarray, covariates: Covariates) -> np.ndarray:
    """Posterior means ``(n, n_latent)`` of cells ``(n, n_vars)`` under n covariates."""
    outputs = module.inference(x=torch.as_tensor(values), **_covariate_tensors(covariates))
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
        size_factor = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        library = library if size_factor is None else size_factor.log()
        covariates = (
            tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        )
        yield Posterior(
            mean.cpu().numpy(),
            scale.cpu().numpy(),
            tensors[REGISTRY_KEYS.LABELS_KEY].numpy().ravel().astype(np.int64),
            Covariates(
                library.cpu().numpy().ravel().astype(np.float64),
                tensors[REGISTRY_KEYS.BATCH_KEY].numpy().ravel().astype(np.int64),
                *(None if c is None else c.numpy() for c in covariates),
            ),
        )


def decoded_blocks(
    module: CIVAEModule,
    z: np.ndarray,
    covariates: Covariates,
    *,
    other: Covariates | None = None,
    weight: np.ndarray | None = None,
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
    other, weight
        Where given, what is decoded is the mixture ``(1 - weight) · covariates + weight · other``:
        the decoder is run under both, since it knows no state between two batches.

    Yields
    ------
    Rows and their expected values, float32, shape ``(n_rows, n_vars)``.
    """
    for rows in row_blocks(len(z), ROWS_PER_BLOCK):
        part = covariates.take(rows)
        mean = mixed_means(
            module,
            z[rows],
            part,
            other=None if other is None else other.take(rows),
            weight=None if weight is None else weight[rows],
        )
        values = mean.cpu().numpy()
        if module.likelihood in COUNT_LIKELIHOODS:
            values *= np.exp(part.log_library).astype(np.float32)[:, None]
        yield rows, values


def sample_blocks(
    module: CIVAEModule,
    z: np.ndarray,
    covariates: Covariates,
    *,
    rng: np.random.Generator,
    overdispersion: np.ndarray | None = None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Samples from the likelihood at latent points, a block of rows at a time.

    The same seed gives the same cells whatever else draws random numbers, in any thread.

    Parameters
    ----------
    module
        The network, in evaluation mode.
    z
        Latent points, shape ``(n, n_latent)``.
    covariates
        Their covariates.
    rng
        Where random numbers come from.
    overdispersion
        As :func:`draw` takes it.

    Yields
    ------
    Rows and their samples, float32, shape ``(n_rows, n_vars)``.
    """
    for rows in row_blocks(len(z), ROWS_PER_BLOCK):
        px = likelihood(module, z[rows], covariates.take(rows))
        yield rows, draw(module.likelihood, px, rng, overdispersion)


def draw(
    name: str, px: Any, rng: np.random.Generator, overdispersion: np.ndarray | None = None
) -> np.ndarray:
    """One sample of every value from a likelihood, float32, drawn from ``rng``.

    ``overdispersion``, shape ``(n_vars,)``, multiplies the inverse of a negative binomial's ``theta``.
    """

    def array(a: torch.Tensor) -> np.ndarray:
        return a.cpu().numpy().astype(np.float64)

    out: np.ndarray
    if name in ("nb", "zinb"):
        theta = array(px.theta) if overdispersion is None else array(px.theta) / overdispersion
        theta = np.maximum(theta, 1e-8)
        rate = rng.standard_gamma(theta) * (array(px.mu) / theta)
        out = rng.poisson(np.minimum(rate, MAX_RATE))
        if name == "zinb":
            out = np.where(rng.random(out.shape) < array(px.zi_probs), 0, out)
    elif name == "poisson":
        out = rng.poisson(np.minimum(array(px.rate), MAX_RATE))
    elif name == "bernoulli":
        out = rng.random(px.probs.shape) < array(px.probs)
    elif name == "laplace":
        out = rng.laplace(array(px.loc), array(px.scale))
    elif name == "normal":
        out = rng.normal(array(px.loc), array(px.scale))
    else:
        raise NotImplementedError(
            f"a likelihood must have a case in draw() to be sampled, but {name!r} has none; add it."
        )
    return out.astype(np.float32)


@torch.inference_mode()
def mixed_means(
    module: CIVAEModule,
    z: np.ndarray,
    covariates: Covariates,
    *,
    other: Covariates | None = None,
    weight: np.ndarray | None = None,
) -> torch.Tensor:
    """Means at latent points for a library of one count, mixed as :func:`decoded_blocks` says.

    The same as the means of :func:`likelihood`, without what these do not need: a dispersion, a
    distribution. Values of continuous data are in their own units.

    Parameters
    ----------
    module, z, covariates, other, weight
        As in :func:`decoded_blocks`.

    Returns
    -------
    float32, shape ``(n, n_vars)``, on the device of the module.
    """
    mean = _unscaled_means(module, z, covariates)
    if other is not None and weight is not None:
        index = np.flatnonzero(~covariates.same_categories(other))
        if index.size:
            second = _unscaled_means(module, z[index], other.take(index))
            w = torch.as_tensor(weight[index, None], dtype=mean.dtype, device=mean.device)
            rows = torch.as_tensor(index, device=mean.device)
            mean[rows] = (1 - w) * mean[rows] + w * second
    return mean


@torch.inference_mode()
def normalized_means(
    module: CIVAEModule,
    z: np.ndarray,
    covariates: Covariates,
    *,
    other: Covariates | None = None,
    weight: np.ndarray | None = None,
) -> torch.Tensor:
    """Expected values at latent points, each cell's counts divided by their sum.

    The same as the means of :func:`decoded_blocks`, divided by their row sums where the data are
    counts, without what these do not need: a library size, a dispersion, a distribution.

    Parameters
    ----------
    module, z, covariates, other, weight
        As in :func:`decoded_blocks`.

    Returns
    -------
    Shares of the counts, which add up to one, or values in the units of continuous data; float32,
    shape ``(n, n_vars)``, on the device of the module.
    """
    mean = mixed_means(module, z, covariates, other=other, weight=weight)
    # Zero inflation takes from some genes more than from others, and beside size factors the decoder
    # of scvi-tools ends in a softplus, not in a softmax.
    if module.likelihood == "zinb" or (module.use_size_factor_key and not module.continuous):
        mean /= mean.sum(dim=1, keepdim=True)
    return mean


def _unscaled_means(module: CIVAEModule, z: np.ndarray, covariates: Covariates) -> torch.Tensor:
    """Means for a library of one count, as the decoder of scvi-tools' VAE gives them."""
    device = module.discriminator.weight.device  # ``module.device`` walks over all parameters
    batch, categorical, continuous = (
        None if c is None else c.to(device) for c in _covariate_tensors(covariates).values()
    )
    x = torch.as_tensor(z, dtype=torch.float32, device=device)
    if continuous is not None:
        x = torch.cat([x, continuous], dim=-1)
    categories: tuple[Any, ...] = () if categorical is None else torch.split(categorical, 1, dim=1)
    if module.batch_representation == "embedding":
        x = torch.cat([x, module.compute_embedding(REGISTRY_KEYS.BATCH_KEY, batch)], dim=-1)
    else:
        categories = (batch, *categories)
    decoder = module.decoder
    hidden = decoder.px_decoder(x, *categories)  # (n, n_hidden)
    mean = decoder.px_scale_decoder(hidden)  # (n, n_vars)
    if module.likelihood == "zinb":
        mean *= torch.sigmoid(-decoder.px_dropout_decoder(hidden))
    return mean
