"""The network and its loss (torch)."""

from __future__ import annotations

from ._civae import CIVAEModule, check_finite, mask, thin
from ._likelihoods import CONTINUOUS_LIKELIHOODS, COUNT_LIKELIHOODS, LIKELIHOODS
from ._rows import Rows
from ._threads import ahead, n_sharing, sharing

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
