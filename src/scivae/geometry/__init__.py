"""Curves in latent space and their crossings of linear class boundaries. Arrays in, arrays out."""

from __future__ import annotations

from .classes import (
    Crossings,
    LinearClasses,
    polyline_crossings,
    polyline_margin,
    segment_crossings,
    segment_margin,
)
from .convex import project_to_class
from .curves import Projection, arc_length, linear, project_to_polyline, resample, spherical
from .geodesics import Geodesics, geodesic

__all__ = [
    "Crossings",
    "Geodesics",
    "LinearClasses",
    "Projection",
    "arc_length",
    "geodesic",
    "linear",
    "polyline_crossings",
    "polyline_margin",
    "project_to_class",
    "project_to_polyline",
    "resample",
    "segment_crossings",
    "segment_margin",
    "spherical",
]
