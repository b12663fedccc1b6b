"""The network and its loss (torch)."""

from __future__ import annotations

from ._civae import CIVAEModule, check_finite, mask, thin
from ._fused import ahead, n_sharing, sharing
from ._likelihoods import CONTINUOUS_LIKELIHOODS, COUNT_LIKELIHOODS, LIKELIHOODS
from ._rows import Rows

__all__ = [
    "CONTINUOUS_LIKELIHOODS",
    "COUNT_LIKELIHOODS",
    "LIKELIHOODS",
    "CIVAEModule",
    "Rows",
    "ahead",
    "check_finite",
    "mask",
    "n_sharing",
    "sharing",
    "thin",
]
