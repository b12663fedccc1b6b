"""Class-faithful interpolation and augmentation of single cells with CI-VAE."""

from __future__ import annotations

from importlib.metadata import version

from . import datasets, geometry, metrics, model, pl, tl

__all__ = ["datasets", "geometry", "metrics", "model", "pl", "tl"]
__version__ = version("scivae-tools")
