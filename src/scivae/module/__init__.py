"""The network and its loss (torch)."""

from __future__ import annotations

from ._civae import CIVAEModule, check_finite
from ._likelihoods import CONTINUOUS_LIKELIHOODS, COUNT_LIKELIHOODS, LIKELIHOODS
from ._ordered import OrderedLinear
from ._thinning import mask, thin

__all__ = [
    "CONTINUOUS_LIKELIHOODS",
    "COUNT_LIKELIHOODS",
    "LIKELIHOODS",
    "CIVAEModule",
    "OrderedLinear",
    "check_finite",
    "mask",
    "thin",
]
