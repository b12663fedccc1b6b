"""Where measured cells lie along the mean of some paths."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

# Paths whose mean is the axis.
MAX_PATHS = 2000
# A cell is near the axis if it is no farther than this fraction of the cells at the ends of the paths,
# or than half of the length of the axis.
_NEAR = 0.95
# How far the covariance within the ends is shrunk toward an isotropic one.
_SHRINKAGE = 0.1


class Axis(NamedTuple):
    """The mean path, and how distances are measured.

    Attributes
    ----------
    points
        Of the mean path, shape ``(n_points, n_latent)``.
    metric
        Matrix by which latent points are multiplied before distances are taken, shape
        ``(n_latent, n_latent)``.
    scale
        Distance up to which a cell is near.
    """

    points: np.ndarray
    metric: np.ndarray
    scale: float

    @classmethod
    def through(cls, paths: np.ndarray, weights: np.ndarray | None = None) -> Axis:
        """The mean of paths, shape ``(n_paths, n_points, n_latent)``.

        Directions in which the cells at the same end differ count less, in proportion to their standard
        deviation: for straight paths this is the direction of Fisher's linear discriminant.
        """
        paths = np.asarray(paths, dtype=np.float64)
        points = np.average(paths, axis=0, weights=weights)
        ends = paths[:, [0, -1]]
        within = (ends - np.average(ends, axis=0, weights=weights)).reshape(-1, paths.shape[2])
        covariance = within.T @ within / max(len(within), 1)
        size = np.trace(covariance) / len(covariance)
        eye = np.eye(len(covariance))
        if not size > 0:  # a single path
            return cls(points, eye, np.nan)
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * size * eye
        values, vectors = np.linalg.eigh(covariance)
        axis = cls(points, (vectors / np.sqrt(values)) @ vectors.T, np.nan)
        distance = axis.place(ends.reshape(-1, paths.shape[2]))[1]
        length = np.linalg.norm(np.diff(points @ axis.metric, axis=0), axis=1).sum()
        # Cells on a half circle from end to end are half of its width away.
        return axis._replace(scale=float(max(np.quantile(distance, _NEAR), length / 2)))

    def table(self) -> pd.DataFrame:
        """Points and metric as rows, to be stored."""
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
        """1 for cells that are near, falling to 0 at twice the distance."""
        if not self.scale > 0:
            return np.ones(len(distance))
        return np.clip(2 - distance / self.scale, 0, 1)
