"""The likelihoods of the decoder: one record for each, with all that depends on which it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import numpy as np
import torch
from scvi.distributions import Normal
from scvi.nn import DecoderSCVI
from torch import nn
from torch.distributions import Bernoulli, Distribution, Laplace

from ..nb.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

# Smallest standard deviation (or scale) of continuous values. Without it, the likelihood of a pixel that is
# always zero would become infinite.
MIN_SCALE: Final = 1e-2
# Largest rate of a Poisson draw; numpy refuses much larger ones.
MAX_RATE: Final = 1e8


class LaplaceLikelihood(Laplace):
    """Laplace distribution with the method that scvi-tools requires of a likelihood."""

    def get_normalized(self, key: str) -> torch.Tensor:
        """Mean of the distribution, whichever normalization (``key``) is asked for."""
        return self.mean


class BernoulliLikelihood(Bernoulli):
    """Bernoulli likelihood of values in [0, 1], with the method that scvi-tools requires of a likelihood.

    Its negative logarithm is the binary cross-entropy. Values between 0 and 1 count as probabilities of a
    one, as is usual for images.
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
        """Parameters of the likelihood at ``z``; ``library`` is ignored."""
        return super().forward(dispersion, z, torch.zeros_like(library), *cat_list)


class Family(ABC):
    """A likelihood: its properties, distribution, means and random draws.

    To add a likelihood, write a subclass, override ``_drawn`` (which :meth:`draw` calls) and, if needed,
    :meth:`distribution` and :meth:`means`, and list it in :data:`LIKELIHOODS`. The methods take and
    return the objects of scvi-tools' VAE, for ``n`` cells. A family has no learned parameters of its own:
    it uses those of the likelihood that ``vae`` names.

    Attributes
    ----------
    vae
        Likelihood that scvi-tools' VAE is built with.
    counts
        Whether the values are counts, and decoded means are fractions of a library.
    dispersed
        Whether there is an inverse dispersion ``theta`` for each gene: the variance of a count with mean m is
        ``m + m² / theta``.
    in_unit_interval
        Whether values and means lie in [0, 1].
    sums_to_one
        Whether the decoded fractions of a library add up to one.
    """

    vae: ClassVar[str]
    counts: ClassVar[bool] = True
    dispersed: ClassVar[bool] = False
    in_unit_interval: ClassVar[bool] = False
    sums_to_one: ClassVar[bool] = True

    def distribution(self, px: Any) -> Distribution:
        """The likelihood, made from that of scvi-tools' VAE."""
        return px

    def means(self, decoder: DecoderSCVI, hidden: torch.Tensor) -> torch.Tensor:
        """Means for a library of one count ``(n, n_vars)``, from the last hidden layer."""
        return decoder.px_scale_decoder(hidden)

    def draw(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """Draw one sample of every value from ``rng``, as float32."""
        return self._drawn(px, rng).astype(np.float32)

    @abstractmethod
    def _drawn(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """The sample, of any dtype."""


class NegativeBinomialFamily(Family):
    """``"nb"``."""

    vae = "nb"
    dispersed = True

    def distribution(self, px: Any) -> Distribution:
        """The same distribution, faster."""
        return NegativeBinomial(px.mu, px.theta, px.scale)

    def _drawn(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """Poisson counts at gamma rates."""
        theta = np.maximum(_double(px.theta), 1e-8)
        rate = rng.standard_gamma(theta) * (_double(px.mu) / theta)
        return rng.poisson(np.minimum(rate, MAX_RATE))


class ZeroInflatedFamily(NegativeBinomialFamily):
    """``"zinb"``."""

    vae = "zinb"
    sums_to_one = False  # zero inflation reduces some means more than others

    def distribution(self, px: Any) -> Distribution:
        """The same distribution, faster."""
        return ZeroInflatedNegativeBinomial(
            mu=px.mu, theta=px.theta, zi_logits=px.zi_logits, scale=px.scale
        )

    def means(self, decoder: DecoderSCVI, hidden: torch.Tensor) -> torch.Tensor:
        """Means of the negative binomial times the probability that a count is not zeroed."""
        return decoder.px_scale_decoder(hidden) * torch.sigmoid(-decoder.px_dropout_decoder(hidden))

    def _drawn(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """Counts of the negative binomial, some of them zeroed."""
        counts = super()._drawn(px, rng)
        return np.where(rng.random(counts.shape) < _double(px.zi_probs), 0, counts)


class PoissonFamily(Family):
    """``"poisson"``."""

    vae = "poisson"

    def _drawn(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """Poisson counts."""
        return rng.poisson(np.minimum(_double(px.rate), MAX_RATE))


class NormalFamily(Family):
    """``"normal"``; the base of all continuous families."""

    vae = "normal"
    counts = False

    def distribution(self, px: Any) -> Distribution:
        """The normal distribution with a least scale."""
        scale = px.scale.clamp_min(MIN_SCALE)
        return Normal(px.loc, scale, normal_mu=px.loc, validate_args=False)

    def _drawn(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """Normal values."""
        return rng.normal(_double(px.loc), _double(px.scale))


class LaplaceFamily(NormalFamily):
    """``"laplace"``."""

    def distribution(self, px: Any) -> Distribution:
        """The Laplace distribution of the same mean and scale, with a least scale."""
        return LaplaceLikelihood(px.loc, px.scale.clamp_min(MIN_SCALE), validate_args=False)

    def _drawn(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """Laplace values."""
        return rng.laplace(_double(px.loc), _double(px.scale))


class BernoulliFamily(NormalFamily):
    """``"bernoulli"``."""

    in_unit_interval = True

    def distribution(self, px: Any) -> Distribution:
        """The Bernoulli distribution of the same mean."""
        return BernoulliLikelihood(probs=px.loc, validate_args=False)

    def _drawn(self, px: Any, rng: np.random.Generator) -> np.ndarray:
        """Zeros and ones."""
        return rng.random(px.probs.shape) < _double(px.probs)


def _double(values: torch.Tensor) -> np.ndarray:
    """Values as a float64 array."""
    return values.cpu().numpy().astype(np.float64)


LIKELIHOODS: Final[dict[str, Family]] = {
    "nb": NegativeBinomialFamily(),
    "zinb": ZeroInflatedFamily(),
    "poisson": PoissonFamily(),
    "normal": NormalFamily(),
    "laplace": LaplaceFamily(),
    "bernoulli": BernoulliFamily(),
}
COUNT_LIKELIHOODS: Final = tuple(name for name, family in LIKELIHOODS.items() if family.counts)
CONTINUOUS_LIKELIHOODS: Final = tuple(
    name for name, family in LIKELIHOODS.items() if not family.counts
)
