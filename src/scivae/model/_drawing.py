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

# Cells drawn for each cell asked for, before augmentation stops.
MAX_DRAWS = 100


# How many cells the covariance that all classes share counts for, relative to those of the class itself.
SHARED_CELLS = 20


# Cells from which that covariance is estimated, at most.
MAX_SHARED = 10_000


# Places on a line are drawn from a Beta distribution with these two parameters, as mixup draws its weights.
PLACES = 0.2
# Of fewer cells than this, there would be too many copies of single ones; of a fifth as many, places are uniform.
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
        Of the class in latent space, shape ``(n_latent, n_latent)``; ``None`` where lines are drawn.
    summary
        How many cells are behind these.
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
        Positions of the real cells that they lie between, or that gave the covariates (both the same).
    t
        Where between them; NaN where there is no line.
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
    """Points at random places on lines between random pairs of cells.

    The point of a pair has a share (1 - t)² + t² of the variance that cells have, 2/3 in the mean if t is uniform:
    generated cells would be more alike than real ones are. Places near the ends leave 6/7 of it. (Zhang et al.,
    "mixup: beyond empirical risk minimization", International Conference on Learning Representations, 2018.)

    Library size and covariates are those of one end, drawn with the weight that it has at the place: were
    library sizes interpolated, those of new cells would be more alike than real ones are.
    """
    pool = source.cells
    a = rng.integers(len(pool.mean), size=size)
    b = (a + rng.integers(1, len(pool.mean), size=size)) % len(pool.mean)  # never a itself
    shape = np.clip(PLACES * ENOUGH_CELLS / len(pool.mean), PLACES, 1.0)
    t = rng.beta(shape, shape, size)
    z = ((1 - t[:, None]) * pool.mean[a] + t[:, None] * pool.mean[b]).astype(np.float32)
    return Drawn(z, pool.covariates.take(np.where(rng.random(size) < t, b, a)), a, b, t)


def class_covariance(cells: Posterior, shared: np.ndarray) -> np.ndarray:
    """Covariance of the posteriors of a class; that of the means is shrunk toward a shared covariance.

    Parameters
    ----------
    cells
        Cells of the class.
    shared
        Covariance of the means within all classes, which counts as :data:`SHARED_CELLS` cells do.
    """
    deviations = cells.mean - cells.mean.mean(axis=0)
    scatter = deviations.T @ deviations + SHARED_CELLS * shared
    of_means = scatter / (len(deviations) - 1 + SHARED_CELLS)
    return of_means + np.diag(np.square(cells.scale).mean(axis=0))


def _in_class(
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


def _shared_covariance(model: CellsModel, adata: AnnData) -> np.ndarray:
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
