"""Table of the methods for paths between two cells.

To add a method, add a row. ``interpolate``, ``gene_trends`` and the tests read this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .curves import linear, spherical
from .geodesics import geodesic


class PathMethod(NamedTuple):
    """A method for paths, and its properties.

    A method has either ``curve`` or ``of_cells``; the other is ``None``.

    Attributes
    ----------
    curve
        For paths that depend on their ends only: function of starts and ends, both ``(n, n_latent)``, and
        positions ``t`` in [0, 1], shape ``(n_steps,)``. It returns the points of n paths, shape ``(n, n_steps,
        n_latent)``. It must be pointwise in ``t``: the point at one position must not depend on the other
        positions, because trends compute one position at a time.
    straight
        Whether paths are straight. If so, margins and crossings are computed exactly from the two ends.
    stays_in_class
        Whether a path between two points of a linear class never leaves it.
    of_cells
        For paths that also depend on the cells near them: function of starts, ends and the number of points,
        with the keyword arguments ``data`` (latent points of cells, shape ``(n_data, n_latent)``), ``classes``
        (a :class:`~scivae.geometry.LinearClasses`) and ``label`` (code of the class to stay in). The last two
        are ``None`` for paths between classes. It returns the points, shape ``(n, n_steps, n_latent)``.
    """

    curve: Callable[..., Any] | None
    straight: bool
    stays_in_class: bool
    of_cells: Callable[..., Any] | None = None


def _dense_geodesics(start: Any, end: Any, n_steps: int, **given: Any) -> Any:
    """Points of geodesics through regions with many cells."""
    return geodesic(start, end, n_steps, metric="density", **given).points


PATH_METHODS = {
    "linear": PathMethod(linear, straight=True, stays_in_class=True),
    "spherical": PathMethod(spherical, straight=False, stays_in_class=False),
    "geodesic": PathMethod(None, straight=False, stays_in_class=True, of_cells=_dense_geodesics),
}
