"""Paths between pairs of encoded cells, for ``interpolate`` and for the trends of ``scivae.tl``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from .. import geometry
from .._progress import track
from .._storage import row_blocks
from ..data import checks
from ..data.generated import TARGET_SUM
from ..geometry import Crossings, LinearClasses
from ..geometry.methods import PATH_METHODS
from ..module import Mixture, Posterior, interpolate_covariates, normalized_means
from .codec import Codec

# If the classes at the ends have fewer cells, paths that depend on cells use all cells.
MIN_DENSITY_CELLS = 20
# Values decoded at a time; blocks that fit into the processor's cache are decoded fastest.
VALUES_PER_BLOCK = 2**18


def encode_ends(
    codec: Codec,
    adata: AnnData,
    a: np.ndarray,
    b: np.ndarray,
    *,
    batch: int | None = None,
    library_size: float | None = None,
) -> tuple[Posterior, Posterior]:
    """Encode the cells at the starts and at the ends of paths, each cell once.

    Parameters
    ----------
    codec
        Codec of the model.
    adata
        Validated cells.
    a, b
        Positions of the cells at the starts and at the ends, each of shape ``(n_pairs,)``.
    batch
        Code of the batch to decode them in; ``None`` for the batch of each cell.
    library_size
        Library size to decode them with; ``None`` for that of each cell.
    """
    cells, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
    encoded = codec.encode(adata, cells)
    covariates = encoded.covariates
    if batch is not None:
        covariates = covariates._replace(batch=np.full(len(cells), batch))
    if library_size is not None:
        log_library = codec.log_library(library_size, len(cells), default=1.0)
        covariates = covariates._replace(log_library=log_library)
    encoded = encoded._replace(covariates=covariates)
    return encoded.take(inverse[: len(a)]), encoded.take(inverse[len(a) :])


class Paths:
    """Paths between pairs of cells, in latent space.

    Parameters
    ----------
    codec
        Codec of the model.
    start, end
        The cells at the ends, as :func:`encode_ends` gives them.
    t
        Positions in [0, 1], shape ``(n_steps,)``.
    method
        One of :data:`~scivae.geometry.methods.PATH_METHODS`.
    adata
        Validated cells, for methods whose paths depend on the cells near them.
    """

    def __init__(
        self,
        codec: Codec,
        start: Posterior,
        end: Posterior,
        t: np.ndarray,
        method: str,
        adata: AnnData,
    ):
        self.codec, self.start, self.end, self.t = codec, start, end, t
        self.method = PATH_METHODS[method]
        self.counts = codec.module.family.counts
        self.scale = TARGET_SUM if self.counts else 1.0
        # Points of paths that depend on cells. Other points are cheap, and are calculated when they are needed.
        self._found = np.empty(0)
        if self.method.of_cells is not None:
            self._found = paths_near_cells(self.method.of_cells, codec, adata, start, end, len(t))

    # --- in latent space ---------------------------------------------------------------------------

    def points_at(self, i: int) -> np.ndarray:
        """Latent points of all paths at one position, shape ``(n_pairs, n_latent)``."""
        if self.method.curve is None:
            return self.points[:, i]
        return self.method.curve(self.start.mean, self.end.mean, self.t[i : i + 1])[:, 0]

    @cached_property
    def points(self) -> np.ndarray:
        """Latent points, shape ``(n_pairs, n_steps, n_latent)``."""
        if self.method.curve is None:
            return self._found
        return self.method.curve(self.start.mean, self.end.mean, self.t)

    def polylines(self) -> np.ndarray:
        """Vertices of the paths, shape ``(n_pairs, n_points, n_latent)``; only the ends of straight paths."""
        if self.method.straight:
            return np.stack([self.start.mean, self.end.mean], axis=1)
        return np.stack([self.points_at(i) for i in range(len(self.t))], axis=1)

    def take(self, n: int) -> Paths:
        """The first ``n`` paths."""
        if n >= len(self.start.mean):
            return self
        out = copy(self)
        out.__dict__.pop("points", None)
        out.start, out.end = self.start.take(slice(n)), self.end.take(slice(n))
        out._found = self._found[:n]
        return out

    # --- classes -----------------------------------------------------------------------------------

    @cached_property
    def start_class(self) -> np.ndarray:
        """Codes of the classes at the starts, shape ``(n_pairs,)``."""
        return self.codec.class_codes(self.start)

    @cached_property
    def end_class(self) -> np.ndarray:
        """Codes of the classes at the ends, shape ``(n_pairs,)``."""
        return self.codec.class_codes(self.end)

    @property
    def within(self) -> np.ndarray:
        """Whether both ends are of one class, shape ``(n_pairs,)``."""
        return self.start_class == self.end_class

    def margins(self, classes: LinearClasses) -> np.ndarray:
        """Logit of the path's class minus the largest other logit, shape ``(n_pairs, n_steps)``."""
        return classes.margin(self.points, self.start_class[:, None])

    def crossings(self, classes: LinearClasses) -> Crossings:
        """Positions at which the paths change class."""
        if self.method.straight:
            return geometry.segment_crossings(classes, self.points[:, 0], self.points[:, -1])
        return geometry.polyline_crossings(classes, self.points)

    # --- decoding ----------------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of the pair and position t of every point, pair by pair, each ``(n_pairs · n_steps,)``."""
        n_pairs, n_steps = len(self.start.mean), len(self.t)
        return np.repeat(np.arange(n_pairs), n_steps), np.tile(self.t, n_pairs)

    def covariates(self, pair: np.ndarray | slice, t: np.ndarray) -> Mixture:
        """Covariates to decode points with, under the batch and categories of either end.

        Library sizes and continuous covariates are interpolated at each point.

        Parameters
        ----------
        pair
            Numbers of the pairs of n points.
        t
            Positions of the points, shape ``(n,)``.
        """
        a, b = self.start.covariates.take(pair), self.end.covariates.take(pair)
        here = interpolate_covariates(a, b, t)
        at_a = here._replace(batch=a.batch, categorical=a.categorical)
        return Mixture(at_a, here._replace(batch=b.batch, categorical=b.categorical), t)

    def normalized_blocks(self, i: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Expected values (per 10,000 counts) at one position, a block of paths at a time.

        To be called inside :meth:`.Codec.evaluating`.
        """
        module = self.codec.module
        z = self.points_at(i)
        covariates = self.covariates(slice(None), np.full(len(z), self.t[i]))
        size = max(32, VALUES_PER_BLOCK // module.n_input)
        for rows in row_blocks(len(z), size):
            values = normalized_means(module, z[rows], covariates.take(rows))
            yield rows, values.mul_(self.scale)


def paths_near_cells(
    find: Callable[..., Any],
    codec: Codec,
    adata: AnnData,
    start: Posterior,
    end: Posterior,
    n_steps: int,
) -> np.ndarray:
    """Find paths that depend on the cells of the classes at their ends, pair of classes by pair of classes.

    A path stays in the class of its ends if both ends are labeled and classified as that class.

    Parameters
    ----------
    find
        ``of_cells`` of a method, see :class:`~scivae.geometry.methods.PathMethod`.
    codec
        Codec of the model.
    adata
        Validated cells.
    start, end
        The cells at the ends.
    n_steps
        Points of a path.

    Returns
    -------
    Shape ``(n_pairs, n_steps, n_latent)``.
    """
    classes = codec.linear_classes
    start_class, end_class = codec.class_codes(start), codec.class_codes(end)
    codes = np.asarray(adata.obs[checks.LABEL_CODES])
    inside = (classes.predict(start.mean) == start_class) & (
        classes.predict(end.mean) == start_class
    )
    points = np.empty((len(start.mean), n_steps, start.mean.shape[1]), dtype=np.float32)
    groups = np.stack([start_class, end_class, inside & (start_class == end_class)], axis=1)
    kinds = np.unique(groups, axis=0)
    for first, second, within in track(kinds, "finding paths", unit="classes"):
        rows = np.flatnonzero((groups == (first, second, within)).all(axis=1))
        cells = np.flatnonzero((codes == first) | (codes == second))
        if len(cells) < MIN_DENSITY_CELLS:
            cells = np.arange(adata.n_obs)
        points[rows] = find(
            start.mean[rows],
            end.mean[rows],
            n_steps,
            data=codec.encode(adata, cells).mean,
            classes=classes if within else None,
            label=int(first) if within else None,
        )
    return points
