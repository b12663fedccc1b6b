"""Data sets as AnnData, ready for :meth:`scivae.model.CIVAE.setup_anndata`."""

from __future__ import annotations

from ._colon import colon
from ._digits import digits
from ._errors import DamagedFileError, DownloadError
from ._images import from_images
from ._mnist import mnist
from ._pbmc import pbmc
from ._synthetic import synthetic, synthetic_blocks

__all__ = [
    "DamagedFileError",
    "DownloadError",
    "colon",
    "digits",
    "from_images",
    "mnist",
    "pbmc",
    "synthetic",
    "synthetic_blocks",
]
