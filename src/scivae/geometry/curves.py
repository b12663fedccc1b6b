"""Curves between latent points: construction, length, resampling, and projection of points.

A path is an array (n_steps, n_latent); a batch of paths is (n, n_steps, n_latent). Point i of a
path has the position t = i / (n_steps − 1), and a path is straight between its points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._validate import latent as check
from .._validate.arguments import check_integer
from .._validate.latent import FloatArray, IntArray


class Projection(NamedTuple):
    """Nearest position on any path for each of m points: arrays of shape (m,).

    Attributes
    ----------
    t
        Position along the nearest path, in [0, 1].
    distance
        Euclidean distance to the path.
    path
        Index of the path.

    Examples
    --------
    >>> from scivae.geometry import project_to_polyline
    >>> project_to_polyline([[1.0, 2.0]], [[[0.0, 0.0], [4.0, 0.0]]]).t
    array([0.25])
    """

    t: FloatArray
    distance: FloatArray
    path: IntArray


def linear(start: ArrayLike, end: ArrayLike, t: ArrayLike) -> FloatArray:
    """Points on straight lines, ``start + t (end − start)``.

    Parameters
    ----------
    start, end
        The two ends of each line, shape (n, n_latent), or (n_latent,) for one line.
    t
        Positions in [0, 1], shape (n_steps,).

    Returns
    -------
    Shape (n, n_steps, n_latent), in the precision of the ends. At t = 0 and t = 1, the points are
    exactly the ends.

    Raises
    ------
    ValueError
        If the shapes do not match, a value is not finite, or t is outside [0, 1].

    Examples
    --------
    >>> from scivae.geometry import linear
    >>> linear([0.0, 0.0], [1.0, 2.0], [0, 0.5, 1])
    array([[[0. , 0. ],
            [0.5, 1. ],
            [1. , 2. ]]])
    """
    first, last = check.ends(start, end)
    when = check.times(t)
    steps = when.astype(first.dtype)[:, None]  # (n_steps, 1)
    points = first[:, None] + steps * (last - first)[:, None]
    return _pin(points, first, last, when)


def spherical(start: ArrayLike, end: ArrayLike, t: ArrayLike) -> FloatArray:
    """Spherical interpolation: constant angular speed, geometrically interpolated norms.

    Parameters
    ----------
    start, end
        The two ends of each curve, shape (n, n_latent), or (n_latent,) for one curve.
    t
        Positions in [0, 1], shape (n_steps,).

    Returns
    -------
    Shape (n, n_steps, n_latent), in the precision of the ends. At t = 0 and t = 1, the points are
    exactly the ends.

    Raises
    ------
    ValueError
        If the shapes do not match, a value is not finite, t is outside [0, 1], or two ends are
        exactly opposite, because the great circle between them is then not unique.

    Notes
    -----
    The direction is Shoemake's slerp [1]_, and the norm is ‖start‖^(1 − t) ‖end‖^t, which gives the
    geometric mean at t = 0.5. A high-dimensional Gaussian has its mass near a sphere; a straight
    line leaves this sphere, but this curve does not [2]_. If both ends have the same direction, the
    curve is the straight line between them (with geometrically interpolated norms). If one end is
    the origin, which has no direction, the curve is the straight line of :func:`linear`. Unlike
    straight lines, these curves can leave a linear class.

    References
    ----------
    .. [1] K. Shoemake. Animating rotation with quaternion curves. SIGGRAPH 1985.
    .. [2] T. White. Sampling generative networks. arXiv:1609.04468, 2016.

    Examples
    --------
    >>> from scivae.geometry import spherical
    >>> spherical([1.0, 0.0], [0.0, 4.0], [0.5]).round(3)
    array([[[1.414, 1.414]]])
    """
    first, last = check.ends(start, end)
    when = check.times(t)
    steps = when.astype(np.float64)
    a, b = first.astype(np.float64), last.astype(np.float64)
    norm_a, norm_b = _norm(a)[:, None], _norm(b)[:, None]  # (n, 1)
    directed = (norm_a > 0) & (norm_b > 0)
    u = a / np.where(norm_a > 0, norm_a, 1)
    v = b / np.where(norm_b > 0, norm_b, 1)
    chord, gap = np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1)
    # Below this, the plane of the great circle is dominated by rounding errors.
    opposite = directed[:, 0] & (gap < 1e3 * np.finfo(first.dtype).eps)
    if opposite.any():
        pair = int(np.argmax(opposite))
        raise ValueError(
            "the ends of a spherical path must not be exactly opposite (the great circle between "
            f"them is not unique), got opposite ends in pair {pair}; use linear(), or go through a "
            "third point."
        )
    angle = 2 * np.arctan2(chord, gap)[:, None]  # accurate for small and large angles
    across = v - (u * v).sum(axis=1, keepdims=True) * u
    across -= (u * across).sum(axis=1, keepdims=True) * u  # twice, because v may nearly equal u
    size = np.linalg.norm(across, axis=1, keepdims=True)
    across = across / np.where(size > 0, size, 1)
    turned = (angle * steps)[..., None]  # (n, n_steps, 1)
    direction = np.cos(turned) * u[:, None] + np.sin(turned) * across[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_norm = np.log(norm_a) * (1 - steps) + np.log(norm_b) * steps  # (n, n_steps)
    radius = np.exp(np.where(directed, log_norm, 0.0))
    straight = a[:, None] + steps[:, None] * (b - a)[:, None]
    points = np.where(directed[..., None], radius[..., None] * direction, straight)
    return _pin(points.astype(first.dtype), first, last, when)


def arc_length(points: ArrayLike) -> FloatArray:
    """Length of each path.

    Parameters
    ----------
    points
        Shape (n, n_steps, n_latent).

    Returns
    -------
    Shape (n,), in double precision.

    Raises
    ------
    ValueError
        If `points` is not of that shape, has fewer than two steps, or is not finite.

    Examples
    --------
    >>> from scivae.geometry import arc_length
    >>> arc_length([[[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]])
    array([6.])
    """
    return _piece_lengths(check.paths(points)).sum(axis=1)


def resample(points: ArrayLike, n_steps: int) -> FloatArray:
    """Resample paths to `n_steps` points each, equally spaced along the path.

    Parameters
    ----------
    points
        Shape (n, any number of steps ≥ 2, n_latent).
    n_steps
        Number of points of each path, at least 2.

    Returns
    -------
    Shape (n, n_steps, n_latent), in the precision of `points`; both ends are unchanged. All points
    of a path of length zero are equal.

    Raises
    ------
    ValueError
        If `points` is not of that shape or is not finite, or `n_steps` is less than 2.

    Examples
    --------
    >>> from scivae.geometry import resample
    >>> resample([[[0.0], [1.0], [4.0]]], 3)
    array([[[0.],
            [2.],
            [4.]]])
    """
    array = check.paths(points)
    n_steps = check_integer("n_steps", n_steps, minimum=2)
    n, n_old, n_latent = array.shape
    lengths = _piece_lengths(array)
    total = lengths.sum(axis=1, keepdims=True)
    done = np.zeros((n, n_old))
    np.cumsum(lengths / np.where(total > 0, total, 1), axis=1, out=done[:, 1:])
    wanted = np.linspace(0, 1, n_steps)
    result = np.empty((n, n_steps, n_latent), dtype=array.dtype)
    for i in range(n):
        piece = np.clip(np.searchsorted(done[i], wanted, side="right") - 1, 0, n_old - 2)
        span = done[i, piece + 1] - done[i, piece]
        part = (wanted - done[i, piece]) / np.where(span > 0, span, 1)
        part = np.clip(part, 0, 1)[:, None]
        result[i] = array[i, piece] + part * (array[i, piece + 1] - array[i, piece])
    result[:, 0], result[:, -1] = array[:, 0], array[:, -1]
    return result


def project_to_polyline(x: ArrayLike, points: ArrayLike, *, chunk: int = 2**17) -> Projection:
    """Project each point to the nearest position on any of the paths.

    Parameters
    ----------
    x
        The points, shape (m, n_latent).
    points
        The paths, shape (n, n_steps, n_latent). For straight lines the two ends suffice, (n, 2,
        n_latent).
    chunk
        Number of (point, segment) distances in memory at once, about 40 bytes each.

    Returns
    -------
    Projection
        If several positions are equally near, one of them.

    Raises
    ------
    ValueError
        If the shapes do not match, a value is not finite, there is no path, or `chunk` is less than
        1.

    Notes
    -----
    On each straight segment, the nearest position is the foot of the perpendicular, clipped to the
    segment [1]_. All segments are searched by brute force with matrix products. The t and distance
    of the nearest one are then recalculated without cancellation errors.

    References
    ----------
    .. [1] C. Ericson. Real-Time Collision Detection, section 5.1.2. Morgan Kaufmann, 2005.

    Examples
    --------
    >>> from scivae.geometry import project_to_polyline
    >>> project_to_polyline([[1.0, 2.0]], [[[0.0, 0.0], [4.0, 0.0]]])
    Projection(t=array([0.25]), distance=array([2.]), path=array([0]))
    """
    array = check.paths(points).astype(np.float64, copy=False)
    n, n_steps, n_latent = array.shape
    places = check.points("x", x, 2, n_latent).astype(np.float64, copy=False)
    if n == 0:
        raise ValueError(
            f"points must hold at least one path, got shape {array.shape}; pass a path."
        )
    chunk = check_integer("chunk", chunk, minimum=1)
    center = array.reshape(-1, n_latent).mean(axis=0)
    base = (array[:, :-1] - center).reshape(-1, n_latent)  # (n_pieces, n_latent)
    along = np.diff(array, axis=1).reshape(-1, n_latent)
    square = (along**2).sum(axis=1)
    scaled = along / np.where(square > 0, square, 1)[:, None]
    # With a 1 appended to each point, one product gives the foot, another |base|² − 2 x · base.
    foot_map = np.vstack([scaled.T, -(base * scaled).sum(axis=1)])  # (n_latent + 1, n_pieces)
    far_map = np.vstack([-2 * base.T, (base**2).sum(axis=1)])
    lifted = np.hstack([places - center, np.ones((len(places), 1))])

    n_pieces = len(base)
    wide = min(n_pieces, 2048, chunk)  # small blocks stay in the processor's cache
    tall = chunk // wide
    best = np.full(len(places), np.inf)
    piece = np.zeros(len(places), dtype=np.intp)
    for row in range(0, len(places), tall):
        rows = slice(row, row + tall)
        for column in range(0, n_pieces, wide):
            columns = slice(column, column + wide)
            foot = lifted[rows] @ foot_map[:, columns]
            far = lifted[rows] @ far_map[:, columns]
            cut = np.clip(foot, 0, 1)
            # |x − base − s along|² − |x|² = far − s (2 foot − s) |along|², s the foot cut to [0, 1]
            foot *= 2
            foot -= cut
            foot *= cut
            foot *= square[columns]
            far -= foot
            nearest = far.argmin(axis=1)
            value = far[np.arange(len(far)), nearest]
            better = value < best[rows]
            best[rows] = np.where(better, value, best[rows])
            piece[rows] = np.where(better, nearest + column, piece[rows])

    offset = places - center - base[piece]  # (m, n_latent)
    part = np.clip((offset * scaled[piece]).sum(axis=1), 0, 1)
    distance = np.linalg.norm(offset - part[:, None] * along[piece], axis=1)
    path, step = np.divmod(piece, n_steps - 1)
    return Projection((step + part) / (n_steps - 1), distance, path)


def _norm(array: FloatArray) -> FloatArray:
    """Euclidean norm along the last axis, without overflow or underflow."""
    largest = np.abs(array).max(axis=-1, keepdims=True)
    safe = np.where(largest > 0, largest, 1)
    return np.linalg.norm(array / safe, axis=-1) * largest[..., 0]


def _piece_lengths(array: FloatArray) -> FloatArray:
    """Length of every straight segment, (n, n_steps − 1)."""
    return np.linalg.norm(np.diff(array.astype(np.float64, copy=False), axis=1), axis=2)


def _pin(points: FloatArray, start: FloatArray, end: FloatArray, t: FloatArray) -> FloatArray:
    """Set the ends exactly; otherwise rounding, or the sign of zero, could change them."""
    points[:, t == 0] = start[:, None]
    points[:, t == 1] = end[:, None]
    return points
