"""Fidelity and diversity of generated cells, measured with nearest-neighbor balls.

Use a space where Euclidean distances are meaningful, such as the first principal components of real
cells or a latent space, not thousands of genes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_integer
from .._validate.arrays import MatrixLike, Points, as_points, check_columns
from ._distances import distance_blocks, neighbor_radii


class PrecisionRecall(NamedTuple):
    """Result of :func:`precision_recall`.

    Attributes
    ----------
    precision
        Fidelity: proportion of generated cells that lie within the manifold of the real ones, in
        [0, 1].
    recall
        Diversity: proportion of real cells that lie within the manifold of the generated ones, in
        [0, 1].

    Examples
    --------
    >>> from scivae.metrics import precision_recall
    >>> found = precision_recall([[0.0], [1.0], [2.0]], [[0.5], [9.0]], k=1)
    >>> found.precision
    0.5
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Result of :func:`density_coverage`.

    Attributes
    ----------
    density
        Density of generated cells around the real ones: at least 0, and 1 on average if the two
        populations are equal. It can exceed 1.
    coverage
        Proportion of real cells with a generated cell nearby, in [0, 1].

    Examples
    --------
    >>> from scivae.metrics import density_coverage
    >>> found = density_coverage([[0.0], [1.0], [2.0], [4.0]], [[0.5], [0.6], [9.0], [9.1]], k=1)
    >>> found.coverage
    0.5
    """

    density: float
    coverage: float


def precision_recall(real: MatrixLike, generated: MatrixLike, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall.

    A population's manifold is the union of closed balls around its points, with radius equal to the
    distance of the k-th nearest other point. Precision is the proportion of generated points inside
    the real manifold; recall is the proportion of real points inside the generated one.

    Parameters
    ----------
    real
        Real points, ``(n, p)``.
    generated
        Generated points, ``(m, p)``. The measures depend on the numbers of points: compare methods
        at equal ``n`` and ``m``.
    k
        Which neighbor the balls reach to.

    Returns
    -------
    :class:`PrecisionRecall`.

    Raises
    ------
    ValueError
        If the clouds differ in columns, have no more than ``k`` points, or hold NaN or infinity.

    References
    ----------
    Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models",
    Advances in Neural Information Processing Systems 32 (2019), equations 1 and 2.

    Examples
    --------
    >>> from scivae.metrics import precision_recall
    >>> real = [[0.0], [1.0], [2.0], [3.0]]
    >>> precision_recall(real, [[0.5], [0.6], [9.0], [9.1]], k=1)
    PrecisionRecall(precision=0.5, recall=0.0)
    """
    real_points, generated_points = _clouds(real, generated, k)
    return PrecisionRecall(
        precision=float(_in_any_ball(generated_points, real_points, k).mean()),
        recall=float(_in_any_ball(real_points, generated_points, k).mean()),
    )


def density_coverage(real: MatrixLike, generated: MatrixLike, *, k: int = 5) -> DensityCoverage:
    """Density and coverage, which are more robust to outliers than precision and recall.

    Each real point has a closed ball that reaches its k-th nearest other real point. Density is the
    mean number of balls that contain a generated point, divided by k. Coverage is the proportion of
    balls that contain a generated point. For n real and m generated points of one continuous
    distribution the expected density is 1, and the expected coverage is ``1 − Π_{i=1..k} (n − i) /
    (n + m − i)``.

    Parameters
    ----------
    real
        Real points, ``(n, p)``.
    generated
        Generated points, ``(m, p)``.
    k
        Which neighbor the balls reach to.

    Returns
    -------
    :class:`DensityCoverage`.

    Raises
    ------
    ValueError
        If the clouds differ in columns, have no more than ``k`` points, or hold NaN or infinity.

    References
    ----------
    Naeem et al., "Reliable fidelity and diversity metrics for generative models", International
    Conference on Machine Learning (2020), Section 3.

    Examples
    --------
    >>> from scivae.metrics import density_coverage
    >>> real = [[0.0], [1.0], [2.0], [4.0]]
    >>> density_coverage(real, [[0.5], [0.6], [9.0], [9.1]], k=1)
    DensityCoverage(density=1.0, coverage=0.5)
    """
    real_points, generated_points = _clouds(real, generated, k)
    radii = neighbor_radii(real_points, k)
    n_inside, covered = 0, np.zeros(real_points.shape[0], dtype=bool)
    for _, block in distance_blocks(generated_points, real_points):
        inside = block <= radii  # (generated, real)
        n_inside += int(inside.sum())
        covered |= inside.any(axis=0)
    return DensityCoverage(
        density=n_inside / (k * generated_points.shape[0]), coverage=float(covered.mean())
    )


def _in_any_ball(points: Points, centers: Points, k: int) -> npt.NDArray[np.bool_]:
    radii = neighbor_radii(centers, k)
    blocks = distance_blocks(points, centers)
    return np.concatenate([(block <= radii).any(axis=1) for _, block in blocks])


def _clouds(real: MatrixLike, generated: MatrixLike, k: int) -> tuple[Points, Points]:
    check_integer("k", k, minimum=1)
    real_points = as_points("real", real, min_rows=k + 1)
    generated_points = as_points("generated", generated, min_rows=k + 1)
    check_columns("real", real_points, "generated", generated_points)
    return real_points, generated_points
