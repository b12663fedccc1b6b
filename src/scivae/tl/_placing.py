"""Positions of measured cells along the mean of several paths."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

# Maximum number of paths whose mean is the axis.
MAX_PATHS = 2000
# A cell is near the axis if its distance is at most this quantile of the distances of the cells at the ends
# of paths, or at most half of the length of the axis.
_NEAR = 0.95
# Weight of an isotropic covariance when the covariance within the ends is shrunk toward it.
_SHRINKAGE = 0.1


class Axis(NamedTuple):
    """The mean path, and the metric for distances to it.

    Attributes
    ----------
    points
        Points of the mean path, shape ``(n_points, n_latent)``.
    metric
        Matrix by which latent points are multiplied before distances are calculated, shape
        ``(n_latent, n_latent)``.
    scale
        Distance up to which a cell counts as near.
    """

    points: np.ndarray
    metric: np.ndarray
    scale: float

    @classmethod
    def through(cls, paths: np.ndarray, weights: np.ndarray | None = None) -> Axis:
        """The axis of paths of shape ``(n_paths, n_points, n_latent)``.

        Distances are scaled by the covariance of the cells within each end, so directions with a large
        variance count less. For straight paths, this gives the direction of Fisher's linear discriminant.
        """
        paths = np.asarray(paths, dtype=np.float64)
        points = np.average(paths, axis=0, weights=weights)
        ends = paths[:, [0, -1]]
        within = (ends - np.average(ends, axis=0, weights=weights)).reshape(-1, paths.shape[2])
        covariance = within.T @ within / max(len(within), 1)
        size = np.trace(covariance) / len(covariance)
        eye = np.eye(len(covariance))
        if not size > 0:  # a single path has no covariance
            return cls(points, eye, np.nan)
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * size * eye
        values, vectors = np.linalg.eigh(covariance)
        axis = cls(points, (vectors / np.sqrt(values)) @ vectors.T, np.nan)
        distance = axis.place(ends.reshape(-1, paths.shape[2]))[1]
        length = np.linalg.norm(np.diff(points @ axis.metric, axis=0), axis=1).sum()
        # Cells on a half circle between the ends are up to half of its diameter away.
        return axis._replace(scale=float(max(np.quantile(distance, _NEAR), length / 2)))

    def table(self) -> pd.DataFrame:
        """Points and metric as the rows of one array, to be stored."""
        rows = np.concatenate([self.points, self.metric])
        names = [f"point_{i}" for i in range(len(self.points))]
        names += [f"metric_{i}" for i in range(len(self.metric))]
        return pd.DataFrame(rows, index=names).add_prefix("latent_")

    @classmethod
    def from_table(cls, table: pd.DataFrame, scale: float) -> Axis:
        """Undo :meth:`table`."""
        rows = table.to_numpy(dtype=np.float64)
        n_latent = rows.shape[1]
        return cls(rows[:-n_latent], rows[-n_latent:], float(scale))

    def place(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position in [0, 1] and distance of latent points, each of shape ``(n,)``."""
        from ..geometry import project_to_polyline

        found = project_to_polyline(
            np.asarray(z, dtype=np.float64) @ self.metric, (self.points @ self.metric)[None]
        )
        return found.t, found.distance

    def weight(self, distance: np.ndarray) -> np.ndarray:
        """Weight 1 for near cells, falling to 0 at twice the distance ``scale``."""
        if not self.scale > 0:
            return np.ones(len(distance))
        return np.clip(2 - distance / self.scale, 0, 1)
