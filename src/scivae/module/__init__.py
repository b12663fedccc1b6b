"""The network and its loss (torch)."""

from __future__ import annotations

from ._attribution import encoder_values, integrated_gradients
from ._civae import (
    LEAST_ROBUSTNESS,
    CIVAEModule,
    NotADistributionError,
    check_finite,
    covariate_inputs,
    mixed_precision,
)
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
    "LEAST_ROBUSTNESS",
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
    "covariate_inputs",
    "decoded_blocks",
    "encode_values",
    "encoded_minibatches",
    "encoder_values",
    "integrated_gradients",
    "interpolate_covariates",
    "likelihood",
    "mask",
    "mixed_precision",
    "normalized_means",
    "sample_blocks",
    "thin",
]
