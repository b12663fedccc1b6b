"""The likelihoods of the decoder: which there are, and those that scvi-tools does not have."""

from __future__ import annotations

from typing import Final

import torch
from scvi.distributions import Normal
from scvi.nn import DecoderSCVI
from torch import nn
from torch.distributions import Bernoulli, Laplace

COUNT_LIKELIHOODS: Final = ("nb", "zinb", "poisson")
CONTINUOUS_LIKELIHOODS: Final = ("normal", "laplace", "bernoulli")
LIKELIHOODS: Final = COUNT_LIKELIHOODS + CONTINUOUS_LIKELIHOODS

# Scales below this are not learned: a pixel that is always zero would otherwise drive the
# likelihood of a continuous observation to infinity.
MIN_SCALE: Final = 1e-2


class LaplaceLikelihood(Laplace):
    """Laplace distribution with the accessor that scvi-tools asks of a likelihood."""

    def get_normalized(self, key: str) -> torch.Tensor:
        """Mean of the distribution, whichever normalization (``key``) is asked for."""
        return self.mean


class BernoulliLikelihood(Bernoulli):
    """Cross-entropy of values in [0, 1], with the accessor that scvi-tools asks of a likelihood.

    Values between 0 and 1 are taken as probabilities of a one: this is the "continuous" reading
    of the Bernoulli likelihood that is usual for images.
    """

    def get_normalized(self, key: str) -> torch.Tensor:
        """Mean of the distribution, whichever normalization (``key``) is asked for."""
        return self.mean


class ContinuousDecoder(DecoderSCVI):
    """Decoder of continuous values, whose mean is not a fraction of a library.

    Parameters
    ----------
    n_input, n_output
        Dimensions of the latent space and of the data.
    sigmoid
        Whether means are confined to (0, 1).
    **kwargs
        Passed to :class:`scvi.nn.DecoderSCVI`.
    """

    def __init__(self, n_input: int, n_output: int, *, sigmoid: bool = False, **kwargs):
        super().__init__(n_input, n_output, **kwargs)
        self.px_scale_decoder[1] = nn.Sigmoid() if sigmoid else nn.Identity()

    def forward(self, dispersion: str, z: torch.Tensor, library: torch.Tensor, *cat_list: int):
        """Parameters of the likelihood at ``z``; ``library`` plays no part."""
        return super().forward(dispersion, z, torch.zeros_like(library), *cat_list)


def continuous_likelihood(name: str, px: Normal) -> torch.distributions.Distribution:
    """Turn the normal distribution that scvi-tools' VAE builds into the one asked for.

    Parameters
    ----------
    name
        One of :data:`CONTINUOUS_LIKELIHOODS`.
    px
        Normal distribution with mean and scale of shape ``(..., n_vars)``.
    """
    if name == "bernoulli":
        return BernoulliLikelihood(probs=px.loc, validate_args=False)
    scale = px.scale.clamp_min(MIN_SCALE)
    if name == "laplace":
        return LaplaceLikelihood(px.loc, scale, validate_args=False)
    return Normal(px.loc, scale, normal_mu=px.loc, validate_args=False)
