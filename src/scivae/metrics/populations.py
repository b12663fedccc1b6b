"""Distances between two populations of cells (point clouds).

The point clouds are treated as samples of distributions and may differ in size. To compare
generated with real cells in gene space, pass samples, not expected values.
"""

from __future__ import annotations

import numpy as np

from .._validate.arguments import check_integer, check_positive
from .._validate.arrays import MatrixLike, Points, as_points, check_columns, subsample
from ._distances import distance_blocks, mean_distance

_EMD_ITERATIONS = 10_000_000  # POT's default is too low for a few thousand points


def wasserstein_1(
    x: MatrixLike, y: MatrixLike, *, max_points: int | None = None, seed: int = 0
) -> float:
    """1-Wasserstein distance: the smallest mean distance that turns ``x`` into ``y``.

    Solved exactly (network simplex of POT) with Euclidean cost and equal weights within a cloud.
    Time grows roughly with the cube of the number of points, memory with the square.

    Parameters
    ----------
    x
        Points, ``(n, p)``.
    y
        Points, ``(m, p)``.
    max_points
        Largest number of points per cloud. Larger clouds are subsampled without replacement, which
        slightly increases the distance. None: use all points.
    seed
        Seed of the subsampling.

    Returns
    -------
    A distance of at least 0, in the units of the columns.

    Raises
    ------
    ValueError
        If the clouds differ in columns, are empty, or hold NaN or infinity.
    RuntimeError
        If the solver stops before it reaches the optimum.

    References
    ----------
    Peyré and Cuturi, "Computational optimal transport", Foundations and Trends in Machine Learning
    11 (2019), Section 2; Flamary et al., "POT: Python Optimal Transport", Journal of Machine
    Learning Research 22 (2021), for the solver.

    Examples
    --------
    >>> from scivae.metrics import wasserstein_1
    >>> round(wasserstein_1([[0.0, 0.0], [1.0, 0.0]], [[1.0, 3.0], [0.0, 3.0]]), 6)
    3.0
    """
    import ot
    from scipy.spatial.distance import cdist

    x_points, y_points = _clouds(x, y, max_points=max_points, seed=seed)
    cost, log = ot.emd2([], [], cdist(x_points, y_points), numItermax=_EMD_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(
            f"the optimal transport between {len(x_points)} and {len(y_points)} points was not "
            f"found ({log['warning']}); pass a smaller max_points."
        )
    return float(cost)


def energy_distance(
    x: MatrixLike, y: MatrixLike, *, max_points: int | None = None, seed: int = 0
) -> float:
    """Energy distance between two populations.

    The square root of ``2·E‖X − Y‖ − E‖X − X′‖ − E‖Y − Y′‖``, where each expectation is the mean
    over all pairs of points, including pairs of a point with itself (the V-statistic, which is
    never negative, and 0 for identical clouds). In one dimension this is
    :func:`scipy.stats.energy_distance`.

    Parameters
    ----------
    x
        Points, ``(n, p)``.
    y
        Points, ``(m, p)``.
    max_points
        Most points of each cloud; larger ones are subsampled without replacement. None: all.
    seed
        Seed of the subsampling.

    Returns
    -------
    A distance of at least 0; its square is in the units of the columns.

    Raises
    ------
    ValueError
        If the clouds differ in columns, are empty, or hold NaN or infinity.

    References
    ----------
    Székely and Rizzo, "Energy statistics: a class of statistics based on distances", Journal of
    Statistical Planning and Inference 143 (2013).

    Examples
    --------
    >>> from scivae.metrics import energy_distance
    >>> energy_distance([[0.0]], [[2.0]])
    2.0
    """
    x_points, y_points = _clouds(x, y, max_points=max_points, seed=seed)
    within = mean_distance(x_points, x_points) + mean_distance(y_points, y_points)
    squared = 2 * mean_distance(x_points, y_points) - within
    return float(np.sqrt(max(squared, 0.0)))


def maximum_mean_discrepancy(
    x: MatrixLike,
    y: MatrixLike,
    *,
    bandwidth: float | None = None,
    unbiased: bool = True,
    max_points: int | None = None,
    seed: int = 0,
) -> float:
    """Squared maximum mean discrepancy with the kernel ``exp(−‖a − b‖² / (2·bandwidth²))``.

    Parameters
    ----------
    x
        Points, ``(n, p)``.
    y
        Points, ``(m, p)``.
    bandwidth
        Width of the kernel. None: the median distance between two points of the pooled clouds. Use
        the same width for all methods that you compare; otherwise the results are not comparable.
    unbiased
        True leaves out pairs of a point with itself: the mean is zero for equal populations, so the
        value can be negative. False includes them: never negative, 0 for identical clouds, with a
        bias of about ``1/n + 1/m``.
    max_points
        Most points of each cloud; larger ones are subsampled without replacement. None: all. The
        median takes memory of about ``4·(n + m)²`` bytes.
    seed
        Seed of the subsampling.

    Returns
    -------
    The squared discrepancy, at most 2, dimensionless.

    Raises
    ------
    ValueError
        If the clouds differ in columns, are empty (or have a single point, if ``unbiased``), or
        hold NaN or infinity; if more than half of all distances are 0, so that their median cannot
        be the bandwidth.

    References
    ----------
    Gretton et al., "A kernel two-sample test", Journal of Machine Learning Research 13 (2012),
    equations 3 (unbiased) and 5 (biased), Section 8 for the median.

    Examples
    --------
    >>> from scivae.metrics import maximum_mean_discrepancy
    >>> maximum_mean_discrepancy([[0.0], [1.0]], [[0.0], [1.0]], unbiased=False)
    0.0
    >>> round(maximum_mean_discrepancy([[0.0], [0.0]], [[9.0], [9.0]], bandwidth=1.0), 6)
    2.0
    """
    x_points, y_points = _clouds(
        x, y, max_points=max_points, seed=seed, min_rows=2 if unbiased else 1
    )
    if bandwidth is None:
        width = _median_distance(np.concatenate([x_points, y_points]))
    else:
        width = check_positive("bandwidth", bandwidth)

    def within(points: Points) -> float:
        n = points.shape[0]
        total = _kernel_sum(points, points, width)
        return (total - n) / (n * (n - 1)) if unbiased else total / n**2

    n_pairs = x_points.shape[0] * y_points.shape[0]
    between = _kernel_sum(x_points, y_points, width) / n_pairs
    return float(within(x_points) + within(y_points) - 2 * between)


def _kernel_sum(x: Points, y: Points, width: float) -> float:
    blocks = distance_blocks(x, y)
    return sum(float(np.exp(-0.5 * (block / width) ** 2).sum()) for _, block in blocks)


def _median_distance(points: Points) -> float:
    from scipy.spatial.distance import pdist

    median = float(np.median(pdist(points)))
    if median == 0:
        raise ValueError(
            "the median distance (the default bandwidth) must be above 0, got 0 because more than "
            f"half of all pairs of the {points.shape[0]} pooled points coincide; pass bandwidth=."
        )
    return median


def _clouds(
    x: MatrixLike, y: MatrixLike, *, max_points: int | None, seed: int, min_rows: int = 1
) -> tuple[Points, Points]:
    x_points = as_points("x", x, min_rows=min_rows)
    y_points = as_points("y", y, min_rows=min_rows)
    check_columns("x", x_points, "y", y_points)
    if max_points is not None:
        check_integer("max_points", max_points, minimum=min_rows)
    # one generator for both clouds, so that paired clouds do not lose the same rows
    rng = np.random.default_rng(seed)
    return subsample(x_points, max_points, rng), subsample(y_points, max_points, rng)
