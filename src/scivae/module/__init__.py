"""The network and its loss (torch)."""

from __future__ import annotations

from ._civae import CIVAEModule, check_finite
from ._likelihoods import CONTINUOUS_LIKELIHOODS, COUNT_LIKELIHOODS, LIKELIHOODS
from ._ordered import OrderedLinear
from ._rows import Matrix, Rows, counts_of
from ._thinning import mask, thin
from ._threads import ahead, n_sharing, sharing

__all__ = [
    "CONTINUOUS_LIKELIHOODS",
    "COUNT_LIKELIHOODS",
    "LIKELIHOODS",
    "CIVAEModule",
    "Matrix",
    "OrderedLinear",
    "Rows",
    "ahead",
    "check_finite",
    "counts_of",
    "mask",
    "n_sharing",
    "sharing",
    "thin",
]
