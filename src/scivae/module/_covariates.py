"""Inputs of the decoder other than z, and the posterior of some cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Covariates(NamedTuple):
    """Inputs of the decoder other than z. Every array has one row per point, or is ``None``.

    Attributes
    ----------
    log_library
        Log of the library size (of the size factor, where there is one), shape ``(n,)``.
    batch
        Codes of the batches, shape ``(n,)``.
    categorical
        Codes of the categorical covariates, shape ``(n, n_covariates)``.
    continuous
        Continuous covariates, shape ``(n, n_covariates)``.
    """

    log_library: np.ndarray
    batch: np.ndarray
    categorical: np.ndarray | None = None
    continuous: np.ndarray | None = None

    def take(self, index: np.ndarray | slice) -> Covariates:
        """The covariates of some of the points."""
        return Covariates(*(None if a is None else a[index] for a in self))  # type: ignore[arg-type]

    @classmethod
    def concatenate(cls, parts: Sequence[Covariates]) -> Covariates:
        """The covariates of the points of all parts, in their order."""
        columns = zip(*parts, strict=True)
        return cls(*(None if c[0] is None else np.concatenate(c) for c in columns))  # type: ignore[arg-type]

    def same_categories(self, other: Covariates) -> np.ndarray:
        """Whether batch and categorical covariates agree, shape ``(n,)``."""
        same = self.batch == other.batch
        if self.categorical is not None:
            same = same & (self.categorical == other.categorical).all(axis=1)
        return same


class Posterior(NamedTuple):
    """Posterior of some cells, and the covariates under which they would be decoded.

    Attributes
    ----------
    mean, scale
        Of the normal posterior, shape ``(n, n_latent)``.
    labels
        Codes of the classes; ``n_classes`` for cells without a label. Shape ``(n,)``.
    covariates
        Library size and covariates of the cells.
    """

    mean: np.ndarray
    scale: np.ndarray
    labels: np.ndarray
    covariates: Covariates

    def take(self, index: np.ndarray | slice) -> Posterior:
        """Some of the cells."""
        return Posterior(
            self.mean[index], self.scale[index], self.labels[index], self.covariates.take(index)
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Posterior]) -> Posterior:
        """The cells of all parts, in their order."""
        means, scales, labels, covariates = zip(*parts, strict=True)
        return cls(
            np.concatenate(means),
            np.concatenate(scales),
            np.concatenate(labels),
            Covariates.concatenate(covariates),
        )


def interpolate_covariates(start: Covariates, end: Covariates, t: np.ndarray) -> Covariates:
    """Covariates between two ends.

    Library sizes are interpolated on the log scale and continuous covariates linearly; batch and
    categorical covariates are those of the nearer end.

    Parameters
    ----------
    start, end
        Covariates of n points.
    t
        Positions in [0, 1], shape ``(n,)``.
    """
    near = t < 0.5
    column = t[:, None]

    def nearer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(near if a.ndim == 1 else near[:, None], a, b)

    return Covariates(
        log_library=(1 - t) * start.log_library + t * end.log_library,
        batch=nearer(start.batch, end.batch),
        categorical=None
        if start.categorical is None or end.categorical is None
        else nearer(start.categorical, end.categorical),
        continuous=None
        if start.continuous is None or end.continuous is None
        else (1 - column) * start.continuous + column * end.continuous,
    )
