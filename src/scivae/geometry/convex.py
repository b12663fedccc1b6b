"""Projection onto a linear class, which is a convex polyhedron."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._validate import latent as check
from .._validate.latent import FloatArray
from .classes import LinearClasses, checked


def project_to_class(
    classes: LinearClasses, z: ArrayLike, label: ArrayLike, margin: float = 0.0
) -> FloatArray:
    """Project points to the nearest points of a class with at least a given margin.

    Parameters
    ----------
    classes
        The linear classes.
    z
        Shape (n, n_latent).
    label
        One class index, or one for each point, shape (n,).
    margin
        Required lead of the logit of `label` over every other logit; may be negative.

    Returns
    -------
    Shape (n, n_latent), in the precision of `z`. Points that already satisfy the inequalities are
    returned unchanged. Projecting again does not change the result (unless the polyhedron is
    thinner than the rounding error).

    Raises
    ------
    ValueError
        If the shapes do not match, a value is not finite, a label is not the index of a class, or
        no point has the required margin.

    Notes
    -----
    Minimizes ‖z′ − z‖² subject to A z′ ≥ b with one row w_label − w_k for each other class k. This
    least-distance problem is converted to a non-negative least-squares problem [1]_, which `scipy`
    solves exactly with an active-set method. The solution is then recalculated from the active
    rows.

    References
    ----------
    .. [1] C. L. Lawson, R. J. Hanson. Solving Least Squares Problems, chapter 23 (problem LDP).
       SIAM, 1995.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import LinearClasses, project_to_class
    >>> classes = LinearClasses(weights=np.eye(2), bias=np.zeros(2))
    >>> project_to_class(classes, [[1.0, 3.0], [5.0, 0.0]], 0).round(6)
    array([[2., 2.],
           [5., 0.]])
    """
    weights, bias = checked(classes)
    points = check.points("z", z, 2, weights.shape[1])
    labels = check.labels(label, len(weights), points.shape[:1])
    if not np.isfinite(margin):
        raise ValueError(f"margin must be finite, got {margin}; pass, for example, 0.0.")
    result = points.copy()
    outside = classes.margin(points, labels) < margin  # (n,)
    for k in np.unique(labels[outside]):
        others = np.arange(len(weights)) != k
        rows = np.flatnonzero(outside & (labels == k))
        sides = weights[k] - weights[others]  # (n_classes - 1, n_latent)
        bounds = margin - (bias[k] - bias[others])
        for row in rows:
            nearest = _nearest(sides, bounds, points[row])
            if nearest is None:
                raise ValueError(
                    f"class {k} must have points with a margin of at least {margin}, got none "
                    "(other classes have larger logits everywhere); lower margin or choose another "
                    "class."
                )
            result[row] = nearest
    return result


def _nearest(sides: FloatArray, bounds: FloatArray, point: FloatArray) -> FloatArray | None:
    """Nearest z to `point` (n_latent,) with ``sides @ z >= bounds``; None if there is none.

    The target lies slightly inside, so that the rounded result still satisfies the inequalities.
    """
    size = np.linalg.norm(sides, axis=1)
    keep = size > 0
    if (bounds[~keep] > 0).any():
        return None
    normals, offsets = sides[keep] / size[keep, None], bounds[keep] / size[keep]
    x = point.astype(np.float64)
    eps = float(np.finfo(point.dtype).eps)
    step = _least_distance(normals, offsets - normals @ x)
    if step is None:
        return None
    answer = (x + step).astype(point.dtype)
    for inside in (8, 64, 512):
        scale = np.linalg.norm(x) + np.linalg.norm(step) + np.abs(offsets) + np.abs(bounds).max()
        shifted = _least_distance(normals, offsets + inside * eps * scale - normals @ x)
        if shifted is None:  # thinner than the rounding error: return the exact answer
            return answer
        closer = (x + shifted).astype(point.dtype)
        # Half the shift is reserved for rounding errors in later checks.
        if (normals @ closer.astype(np.float64) >= offsets + inside * eps * scale / 2).all():
            return closer
    return answer


def _least_distance(normals: FloatArray, heights: FloatArray) -> FloatArray | None:
    """Shortest step s with ``normals @ s >= heights``; None if there is none."""
    from scipy.optimize import nnls

    high = float(heights.max(initial=0.0))
    if high <= 0:
        return np.zeros(normals.shape[1])
    target = np.zeros(normals.shape[1] + 1)
    target[-1] = 1.0
    stacked = np.vstack([normals.T, heights / high])
    weight, _ = nnls(stacked, target, maxiter=30 * len(heights))
    rest = target - stacked @ weight
    if rest[-1] <= 1e-13:  # 1 / (1 + |step / high|²): farther than a million times `high`
        return None
    active = weight > 0
    step, *_ = np.linalg.lstsq(normals[active], heights[active], rcond=None)
    if (normals @ step >= heights - 1e-9 * high).all():
        return step
    step = rest[:-1] / rest[-1] * -high
    # With rounding errors, the residual of an empty region is not zero, and no step reaches it.
    return step if (normals @ step >= heights - 1e-6 * high).all() else None
