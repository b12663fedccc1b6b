"""The methods of paths between two cells, in one table.

To add one, add a row: ``interpolate``, the trends and their tests read it from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .curves import linear, spherical


class PathMethod(NamedTuple):
    """How a path is drawn, and what holds along it.

    Attributes
    ----------
    curve
        Points of n paths, shape ``(n, len(t), n_latent)``, from their starts, their ends, both ``(n, n_latent)``,
        and positions ``t`` in [0, 1], also a single one. ``None`` for paths that follow the cells
        (:func:`scivae.geometry.geodesic`).
    straight
        Whether two ends say all, so that margins and crossings are exact from them.
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
