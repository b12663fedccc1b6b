"""Euclidean distances between point clouds, calculated in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .._validate.arrays import Points

_BLOCK_ENTRIES = 4_000_000  # 32 MB of distances


def distance_blocks(x: Points, y: Points) -> Iterator[tuple[slice, Points]]:
    """Distances from successive rows of ``x`` to all of ``y``: pairs (rows, (n_rows, len(y)))."""
    from scipy.spatial.distance import cdist

    n_rows = max(1, _BLOCK_ENTRIES // y.shape[0])
    for start in range(0, x.shape[0], n_rows):
        rows = slice(start, start + n_rows)
        yield rows, cdist(x[rows], y)


def mean_distance(x: Points, y: Points) -> float:
    """Mean over all pairs of a row of ``x`` and a row of ``y``."""
    total = sum(float(block.sum()) for _, block in distance_blocks(x, y))
    return total / (x.shape[0] * y.shape[0])


def neighbor_radii(x: Points, k: int) -> Points:
    """Distance of each row to its k-th nearest *other* row, ``(n,)``."""
    radii = np.empty(x.shape[0])
    for rows, block in distance_blocks(x, x):
        # each row is at distance 0 from itself, so index k of the sorted distances is the k-th
        # other row
        radii[rows] = np.partition(block, k, axis=1)[:, k]
    return radii


def nearest_distances(x: Points, y: Points) -> Points:
    """Distance of each row of ``x`` to the nearest row of ``y``, ``(len(x),)``."""
    from sklearn.neighbors import NearestNeighbors

    # The fast search has rounding errors. Distances to its results are recalculated exactly, so
    # that a copy is at distance 0.
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(y)
    nearest = search.kneighbors(x, return_distance=False)[:, 0]
    return np.linalg.norm(x - y[nearest], axis=1)
