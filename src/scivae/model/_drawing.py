"""Latent points of new cells: on lines between real cells, or from the normal distribution of a class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from anndata import AnnData

from ..data import checks
from ..module import (
    Covariates,
    Posterior,
)
from ._base import CellsModel

# Most cells drawn per requested cell before augmentation gives up.
MAX_DRAWS = 100


# Weight of the pooled covariance when the covariance of a class is shrunk toward it, in cells.
SHARED_CELLS = 20


# Most cells from which the pooled covariance is estimated.
MAX_SHARED = 10_000


# Both parameters of the Beta distribution of positions on a line, as in mixup.
PLACES = 0.2
# With fewer cells, positions are closer to uniform, because points near the ends would copy single
# cells. With a fifth of this number, positions are uniform.
ENOUGH_CELLS = 50


class Source(NamedTuple):
    """The real cells between which new cells of a class are drawn, and the rule they must pass.

    Attributes
    ----------
    code
        Code of the class.
    name
        Its name.
    cells
        The cells.
    names
        Their obs names.
    threshold
        Probability of the class that a new cell must reach.
    covariance
        Covariance of the class in latent space, shape ``(n_latent, n_latent)``; ``None`` for lines.
    summary
        Numbers of cells that the rule is based on.
    """

    code: int
    name: str
    cells: Posterior
    names: np.ndarray
    threshold: float
    covariance: np.ndarray | None
    summary: dict[str, int]


class Drawn(NamedTuple):
    """Latent points of new cells, before they are decoded.

    Attributes
    ----------
    z
        Shape ``(n, n_latent)``.
    covariates
        Library size and covariates to decode them with.
    first, last
        Positions of the two real cells that a point lies between. For points without a line, both are the
        cell that gave the covariates.
    t
        Position between the two cells, in [0, 1]; NaN for points without a line.
    rejected
        Number of points that were drawn but lay outside the class.
    """

    z: np.ndarray
    covariates: Covariates
    first: np.ndarray
    last: np.ndarray
    t: np.ndarray
    rejected: int = 0


def on_lines(source: Source, size: int, rng: np.random.Generator) -> Drawn:
    """Points at random positions on lines between random pairs of cells.

    A point at position t has the fraction (1 - t)² + t² of the variance of real cells. With uniform t, the mean
    is 2/3, and generated cells would vary too little. Positions near the ends keep 6/7. (Zhang et al.,
    "mixup: beyond empirical risk minimization", International Conference on Learning Representations, 2018.)

    Library size and covariates are those of one end, drawn with probabilities 1 - t and t. If library sizes
    were interpolated, they too would vary less than those of real cells.
    """
    pool = source.cells
    a = rng.integers(len(pool.mean), size=size)
    b = (a + rng.integers(1, len(pool.mean), size=size)) % len(pool.mean)  # never a itself
    shape = np.clip(PLACES * ENOUGH_CELLS / len(pool.mean), PLACES, 1.0)
    t = rng.beta(shape, shape, size)
    z = ((1 - t[:, None]) * pool.mean[a] + t[:, None] * pool.mean[b]).astype(np.float32)
    return Drawn(z, pool.covariates.take(np.where(rng.random(size) < t, b, a)), a, b, t)


def class_covariance(cells: Posterior, shared: np.ndarray) -> np.ndarray:
    """Covariance of the posteriors of a class; the covariance of the means is shrunk toward the pooled one.

    Parameters
    ----------
    cells
        Cells of the class.
    shared
        Pooled covariance of the means within classes, with the weight of :data:`SHARED_CELLS` cells.
    """
    deviations = cells.mean - cells.mean.mean(axis=0)
    scatter = deviations.T @ deviations + SHARED_CELLS * shared
    of_means = scatter / (len(deviations) - 1 + SHARED_CELLS)
    return of_means + np.diag(np.square(cells.scale).mean(axis=0))


def in_class(
    model: CellsModel, source: Source, covariance: np.ndarray, size: int, rng: np.random.Generator
) -> Drawn:
    """Points of the normal distribution of a class that lie in its region."""
    mean, classes = source.cells.mean.mean(axis=0), model.linear_classes
    factor = np.linalg.cholesky(covariance)
    found = [np.empty((0, len(mean)))]
    drawn = inside = 0
    while inside < size and drawn < MAX_DRAWS * size:
        z = mean + rng.standard_normal((size, len(mean))) @ factor.T
        found.append(z[classes.predict(z) == source.code])
        drawn, inside = drawn + size, inside + len(found[-1])
    z = np.concatenate(found)[:size].astype(np.float32)
    cells = rng.integers(len(source.cells.mean), size=len(z))
    covariates = source.cells.covariates.take(cells)
    return Drawn(z, covariates, cells, cells, np.full(len(z), np.nan), drawn - inside)


def shared_covariance(model: CellsModel, adata: AnnData) -> np.ndarray:
    """Covariance of latent means within classes, over all of them."""
    codes = np.asarray(adata.obs[checks.LABEL_CODES])
    cells = np.flatnonzero(codes < len(model.classes))
    if len(cells) > MAX_SHARED:
        cells = np.sort(np.random.default_rng(0).choice(cells, MAX_SHARED, replace=False))
    encoded = model.codec.encode(adata, cells)
    present, of_class = np.unique(encoded.labels, return_inverse=True)
    means = np.stack([encoded.mean[encoded.labels == code].mean(axis=0) for code in present])
    deviations = encoded.mean - means[of_class]
    return deviations.T @ deviations / max(len(cells) - len(present), 1)
