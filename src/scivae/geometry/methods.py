"""Table of the methods for paths between two cells.

To add a method, add a row. ``interpolate``, ``gene_trends`` and the tests use this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .curves import linear, spherical


class PathMethod(NamedTuple):
    """A method for paths, and its properties.

    Attributes
    ----------
    curve
        Function of starts and ends, both ``(n, n_latent)``, and positions ``t`` in [0, 1] (one or more), which
        returns the points of n paths, shape ``(n, len(t), n_latent)``. ``None`` for paths that depend on the
        cells (:func:`scivae.geometry.geodesic`).
    straight
        Whether paths are straight, so that margins and crossings follow exactly from the two ends.
    stays_in_class
        Whether a path between two points of a linear class never leaves it.
    """

    curve: Callable[..., Any] | None
    straight: bool
    stays_in_class: bool


PATH_METHODS = {
    "linear": PathMethod(linear, straight=True, stays_in_class=True),
    "spherical": PathMethod(spherical, straight=False, stays_in_class=False),
    "geodesic": PathMethod(None, straight=False, stays_in_class=True),
}
