"""Curves in latent space, and the linear classes that they cross. Arrays in, arrays out."""

from __future__ import annotations

from .linear import (
    Crossings,
    LinearClasses,
    polyline_crossings,
    polyline_margin,
    segment_crossings,
    segment_margin,
)

__all__ = [
    "Crossings",
    "LinearClasses",
    "polyline_crossings",
    "polyline_margin",
    "segment_crossings",
    "segment_margin",
]
