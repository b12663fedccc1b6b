"""Geodesics between latent points, under the metric of the decoder or of the data density.

A straight line in latent space can run through regions without cells. A geodesic minimizes an
energy instead: of the decoded path ("pullback"), or under a metric with larger distances far from
the data ("density"). The class of a linear layer is a convex polyhedron, so linear inequalities on
the points of a path keep the whole path inside the class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._validate import latent as check
from .._validate.arguments import check_integer
from .._validate.latent import FloatArray, IntArray
from ._path_metrics import HELD, density, pullback
from ._shortest import solve
from .classes import LinearClasses, checked
from .convex import project_to_class
from .curves import linear

if TYPE_CHECKING:
    from ._path_metrics import Decoder


class Geodesics(NamedTuple):
    """Geodesics between n pairs of points.

    Attributes
    ----------
    points
        Shape (n, n_steps, n_latent), in the precision of the ends, which are reproduced exactly.
    energy
        Shape (n,): the discrete energy of each path, never more than `straight_energy`.
    length
        Shape (n,): the discrete length under the metric; at most the square root of `energy`.
    straight_energy
        Shape (n,): the energy of the straight line with evenly spaced points.
    converged
        Shape (n,): False if the maximum number of steps was reached, or if no path better than the
        straight line was found although the line is not optimal (the line is then returned).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import geodesic
    >>> cells = np.random.default_rng(0).normal(size=(100, 2))
    >>> paths = geodesic([[-1.0, 0.0]], [[1.0, 0.0]], 5, metric="density", data=cells)
    >>> paths.points.shape, bool(paths.energy[0] <= paths.straight_energy[0])
    ((1, 5, 2), True)
    """

    points: FloatArray
    energy: FloatArray
    length: FloatArray
    straight_energy: FloatArray
    converged: np.ndarray[Any, np.dtype[np.bool_]]


def geodesic(
    start: ArrayLike,
    end: ArrayLike,
    n_steps: int,
    *,
    metric: Literal["pullback", "density"] = "pullback",
    decoder: Decoder | None = None,
    data: ArrayLike | None = None,
    classes: LinearClasses | None = None,
    label: ArrayLike | None = None,
    margin: float = 0.0,
    n_iter: int = 100,
    tol: float = 1e-3,
    strength: float = 5.0,
    n_neighbors: int = 10,
    max_data: int = 2000,
    dtype: str | None = None,
    seed: int = 0,
) -> Geodesics:
    """Discrete geodesics between pairs of points, inside a linear class if one is given.

    Parameters
    ----------
    start, end
        The two ends of each path, shape (n, n_latent), or (n_latent,) for one path.
    n_steps
        Number of points of each path, including both ends.
    metric
        ``"pullback"``: distances between decoded points. ``"density"``: latent distances, scaled up
        where data are sparse.
    decoder
        For ``"pullback"``: a differentiable function of torch tensors, (b, n_latent) → (b, n_vars),
        that treats each row independently. Its training mode and gradients are not changed.
    data
        For ``"density"``: latent points of real cells, shape (n_data, n_latent).
    classes
        Linear classes. If given, each path stays in one class.
    label
        Index of the class: one for all, or one for each pair, shape (n,). ``None``: the class of
        `start`, which must also be the class of `end`.
    margin
        Required lead of the logit of that class over every other logit along the whole path.
    n_iter
        Maximum number of solver steps.
    tol
        A path has converged when the predicted relative decrease of its energy in the next step, or
        the actual decrease over the last five steps, is below this value.
    strength
        For ``"density"``: strength of the scaling away from the data; 0 gives straight lines.
    n_neighbors
        For ``"density"``: number of neighbors that set the length scale at each data point.
    max_data
        For ``"density"``: largest number of data points; if there are more, a random subset of this
        size is used.
    dtype
        Torch dtype in which the decoder is called, such as "float32". Default: the dtype of its
        parameters if it is a `torch.nn.Module`, otherwise torch's default.
    seed
        Seed of the random subset of data points.

    Returns
    -------
    Geodesics
        Points, energies, lengths, and whether each path converged.

    Raises
    ------
    ValueError
        If shapes do not match, a value is not finite or out of range, an argument that the metric
        needs is missing, the decoder has dropout or batch norm in training mode or returns an
        invalid result, or an end lies outside the class.

    Notes
    -----
    With M = n_steps − 1 segments, the energy is M Σᵢ ‖f(zᵢ₊₁) − f(zᵢ)‖², the discrete curve energy
    of the pull-back metric JᵀJ of the decoder f [1]_ [2]_, whose minimizers have constant speed.
    `length` is a sum of chords and therefore underestimates the arc length by O(M⁻²).

    The density metric is conformal, w(z) I with w = (1 + strength · softplus(U))². The potential
    U(z) = log p₀ − log Σⱼ exp(−‖z − xⱼ‖² / 2σⱼ²) compares a kernel density at z with the median
    density p₀ at the data points. σⱼ is the distance from xⱼ to its `n_neighbors`-th neighbor [3]_,
    divided by the square root of the intrinsic dimension of the data [4]_, so the metric does not
    depend on the scale of the latent space or on unused dimensions. Near the data, w is
    approximately constant. Far from the data, U is half the squared distance to the data in units
    of σ, so √w keeps growing, and its gradient does not vanish as the gradient of 1/(p + ε) [5]_
    does.

    The solver starts from the straight line and takes batched L-BFGS steps [6]_. Their initial
    Hessian is that of the energy for a fixed metric, block tridiagonal along the path. Each path
    has its own backtracking line search. The inequalities of the class are handled by an augmented
    Lagrangian; remaining violations, of the order of `tol`, are removed by projection
    (:func:`project_to_class`). Minima are local: a path around the other side of a region without
    data can be shorter.

    References
    ----------
    .. [1] H. Shao, A. Kumar, P. T. Fletcher. The Riemannian geometry of deep generative models.
       CVPR Workshops 2018.
    .. [2] G. Arvanitidis, L. K. Hansen, S. Hauberg. Latent space oddity: on the curvature of deep
       generative models. ICLR 2018.
    .. [3] L. Zelnik-Manor, P. Perona. Self-tuning spectral clustering. NeurIPS 2004.
    .. [4] E. Levina, P. J. Bickel. Maximum likelihood estimation of intrinsic dimension.
       NeurIPS 2004.
    .. [5] G. Arvanitidis, L. K. Hansen, S. Hauberg. A locally adaptive normal distribution.
       NeurIPS 2016.
    .. [6] J. Nocedal, S. J. Wright. Numerical Optimization, 2nd ed., chapters 7 and 17.
       Springer, 2006.

    Examples
    --------
    This decoder bends the plane along a parabola. The geodesic bends the other way, so that the
    decoded path is straight.

    >>> from scivae.geometry import geodesic
    >>> import torch
    >>> def decoder(z):
    ...     return torch.stack([z[:, 0], z[:, 1] + z[:, 0] ** 2], dim=1)
    >>> path = geodesic([-1.0, 0.0], [1.0, 0.0], 5, decoder=decoder, tol=1e-6)
    >>> path.points[0, :, 1].round(2)
    array([0.  , 0.75, 1.  , 0.75, 0.  ])
    >>> path.length.round(3)
    array([2.])
    """
    first, last = check.ends(start, end)
    n_steps = check_integer("n_steps", n_steps, minimum=2)
    n, n_latent = first.shape
    for name, value, rule, holds in (
        ("n_iter", n_iter, "a positive integer", _is_count(n_iter)),
        ("n_neighbors", n_neighbors, "a positive integer", _is_count(n_neighbors)),
        ("max_data", max_data, "a positive integer", _is_count(max_data)),
        ("tol", tol, "positive", 0 < tol < np.inf),
        ("strength", strength, "finite and not negative", 0 <= strength < np.inf),
        ("margin", margin, "finite", np.isfinite(margin)),
    ):
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {value!r}; omit it for the default.")
    labels = _labels(classes, label, margin, first, last)
    straight = linear(first, last, np.linspace(0, 1, n_steps))

    if metric == "pullback":
        if decoder is None:
            raise ValueError(
                'decoder must be given for metric "pullback", got None; '
                'pass a decoder, or metric="density" with data.'
            )
        chart = pullback(decoder, straight, dtype)
    elif metric == "density":
        if data is None:
            raise ValueError(
                'data must hold latent points of real cells for metric "density", got None; '
                'pass data, or metric="pullback" with a decoder.'
            )
        chart = density(data, n_latent, strength, n_neighbors, max_data, seed)
    else:
        raise ValueError(
            f'metric must be "pullback" or "density", got {metric!r}; pass one of these.'
        )

    points, converged = straight.copy(), np.ones(n, dtype=bool)
    squares, before = np.zeros((n, n_steps - 1)), np.zeros((n, n_steps - 1))
    at_once = max(1, HELD // (n_steps * max(chart.width, n_latent**2)))
    for low in range(0, n, at_once):
        rows = slice(low, low + at_once)
        sides = bounds = None
        if classes is not None:
            sides, bounds = _inequalities(classes, labels[rows], margin)
        line = straight[rows].astype(np.float64)
        bent, converged[rows] = solve(chart, line, sides, bounds, n_iter, tol)
        bent = bent.astype(first.dtype)
        if classes is not None:
            bent = _inside(classes, bent, straight[rows], labels[rows], margin)
        bent[:, 0], bent[:, -1] = first[rows], last[rows]
        before[rows] = chart.squares(line)
        squares[rows] = chart.squares(bent.astype(np.float64))
        points[rows] = bent
    energy, straight_energy = ((n_steps - 1) * s.sum(axis=1) for s in (squares, before))
    worse = energy > straight_energy
    converged &= energy <= (1 + tol) * straight_energy
    points[worse], squares[worse] = straight[worse], before[worse]
    energy[worse] = straight_energy[worse]
    return Geodesics(points, energy, np.sqrt(squares).sum(axis=1), straight_energy, converged)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) > 0


def _labels(
    classes: LinearClasses | None,
    label: ArrayLike | None,
    margin: float,
    start: FloatArray,
    end: FloatArray,
) -> IntArray:
    """Class of each pair, after checking that both ends lie in it; zeros without classes."""
    n = len(start)
    if classes is None:
        if label is not None:
            raise ValueError(
                f"label must be None without classes, got {label!r}; pass classes as well."
            )
        return np.zeros(n, dtype=np.intp)
    if label is None:
        labels, others = classes.predict(start), classes.predict(end)
        if (labels != others).any():
            pair = int(np.argmax(labels != others))
            raise ValueError(
                f"the two ends of a path must be of the same class, got classes {labels[pair]} and "
                f"{others[pair]} in pair {pair}; pass pairs of one class, or classes=None for "
                "paths that may cross class boundaries."
            )
    else:
        labels = check.labels(label, classes.n_classes, (n,))
    for name, point in (("start", start), ("end", end)):
        margins = classes.margin(point, labels)
        if (margins < margin).any():
            pair = int(np.argmax(margins < margin))
            raise ValueError(
                f"both ends must have a margin of at least {margin} in their class, got "
                f"{margins[pair]:.6g} in class {labels[pair]} for {name} of pair {pair}; lower "
                "margin, drop the pair, or pass the label of its class."
            )
    return labels


def _inequalities(
    classes: LinearClasses, labels: IntArray, margin: float
) -> tuple[FloatArray, FloatArray]:
    """Unit normals (n, n_classes, n_latent) and offsets (n, n_classes): normals · z ≥ offsets."""
    weights, bias = checked(classes)
    sides = weights[labels][:, None] - weights  # the row of the class itself is zero
    bounds = margin - (bias[labels][:, None] - bias)
    size = np.linalg.norm(sides, axis=2)
    normals = sides / np.where(size > 0, size, 1)[..., None]
    offsets = np.where(size > 0, bounds / np.where(size > 0, size, 1), -1.0)  # 0 · z ≥ −1: always
    return normals, offsets


def _inside(
    classes: LinearClasses,
    points: FloatArray,
    straight: FloatArray,
    labels: IntArray,
    margin: float,
) -> FloatArray:
    """Project each point (n, n_steps, n_latent) into its class."""
    each = np.repeat(labels, points.shape[1])
    flat = project_to_class(classes, points.reshape(-1, points.shape[2]), each, margin)
    # If the class is thinner than the rounding error, use the straight line instead.
    line = straight.reshape(flat.shape)
    out = classes.margin(flat, each) < margin
    flat[out] = line[out]
    return flat.reshape(points.shape)
