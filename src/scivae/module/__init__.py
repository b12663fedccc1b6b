"""The network and its loss (torch)."""

from __future__ import annotations

from ._attribution import encoder_values, integrated_gradients
from ._civae import CIVAEModule, NotADistributionError, check_finite
from ._coding import (
    Covariates,
    Mixture,
    Posterior,
    decoded_blocks,
    encode_values,
    encoded_minibatches,
    interpolate_covariates,
    likelihood,
    normalized_means,
    sample_blocks,
)
from ._likelihoods import (
    CONTINUOUS_LIKELIHOODS,
    COUNT_LIKELIHOODS,
    LIKELIHOODS,
    MAX_RATE,
    Family,
)
from ._ordered import OrderedLinear
from ._thinning import mask, thin

__all__ = [
    "CONTINUOUS_LIKELIHOODS",
    "COUNT_LIKELIHOODS",
    "LIKELIHOODS",
    "MAX_RATE",
    "CIVAEModule",
    "Covariates",
    "Family",
    "Mixture",
    "Posterior",
    "NotADistributionError",
    "OrderedLinear",
    "check_finite",
    "decoded_blocks",
    "encode_values",
    "encoded_minibatches",
    "encoder_values",
    "integrated_gradients",
    "interpolate_covariates",
    "likelihood",
    "mask",
    "normalized_means",
    "sample_blocks",
    "thin",
]
