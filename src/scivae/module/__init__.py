"""The network and its loss (torch)."""

from __future__ import annotations

from ._attribution import encoder_values, integrated_gradients
from ._civae import CIVAEModule, NotADistributionError, check_finite
from ._coding import (
    MAX_RATE,
    decoded_blocks,
    draw,
    encode_values,
    encoded_minibatches,
    likelihood,
    mixed_means,
    normalized_means,
    sample_blocks,
)
from ._covariates import Covariates, Posterior, interpolate_covariates
from ._likelihoods import CONTINUOUS_LIKELIHOODS, COUNT_LIKELIHOODS, LIKELIHOODS
from ._ordered import OrderedLinear
from ._thinning import mask, thin

__all__ = [
    "CONTINUOUS_LIKELIHOODS",
    "COUNT_LIKELIHOODS",
    "LIKELIHOODS",
    "MAX_RATE",
    "CIVAEModule",
    "Covariates",
    "Posterior",
    "NotADistributionError",
    "OrderedLinear",
    "check_finite",
    "decoded_blocks",
    "draw",
    "encode_values",
    "encoded_minibatches",
    "encoder_values",
    "integrated_gradients",
    "interpolate_covariates",
    "likelihood",
    "mask",
    "mixed_means",
    "normalized_means",
    "sample_blocks",
    "thin",
]
