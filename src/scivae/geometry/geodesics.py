"""Shortest paths between latent points that follow the decoder or the data, and stay in a class.

A straight line in latent space can run through regions where no cell lives. A geodesic minimizes
an energy instead: of the decoded path ("pullback"), or of a metric that makes places far from the
data long ("density"). The class of a linear layer is a convex polyhedron, so that linear
inequalities on the points of a path keep *all* of it inside.
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
    """Paths of small energy between n pairs of points.

    Attributes
    ----------
    points
        Shape (n, n_steps, n_latent), in the precision of the ends, which it holds bit for bit.
    energy
        Shape (n,): the discrete energy of each path, never more than `straight_energy`.
    length
        Shape (n,): the discrete length under the metric; at most the root of `energy`.
    straight_energy
        Shape (n,): the energy of the straight line with evenly spaced points.
    converged
        Shape (n,): False where the steps ran out, or where no better path than the straight line
        was found (which is then returned) although it is not optimal itself.

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
        How many points each path shall have, both ends included.
    metric
        ``"pullback"``: distances are those between decoded points. ``"density"``: latent distances
        grow where data are rare.
    decoder
        For ``"pullback"``: a differentiable map of torch tensors, (b, n_latent) → (b, n_vars),
        that treats each row by itself. Its mode and its gradients are left as they are.
    data
        For ``"density"``: latent points of real cells, shape (n_data, n_latent).
    classes
        Linear classes; with them each path stays in one class.
    label
        That class: one index, or one for each pair, shape (n,). Without it, the class of `start`,
        which must be that of `end` too.
    margin
        By how much the logit of that class shall exceed every other along the whole path.
    n_iter
        Most steps of the solver.
    tol
        A path has converged when the next step promises to lower its energy by less than this
        share of it, or the last five have.
    strength
        For ``"density"``: how much more a step costs away from the data; 0 gives straight lines.
    n_neighbors
        For ``"density"``: how many neighbors set the scale at each data point.
    max_data
        For ``"density"``: of more data points than this, so many are drawn at random.
    dtype
        Precision in which the decoder is called, as torch names it ("float32"). By default that
        of its parameters if it is a `torch.nn.Module`, else torch's default.
    seed
        For that draw.

    Returns
    -------
    Geodesics
        Points, energies, lengths, and whether each path converged.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite or out of its range, what the metric needs is
        missing, the decoder is in a training mode that matters or returns something unusable, or
        an end lies outside the class.

    Notes
    -----
    With M = n_steps − 1 pieces the energy is M Σᵢ ‖f(zᵢ₊₁) − f(zᵢ)‖², the discrete curve energy
    of the pull-back metric JᵀJ of the decoder f [1]_ [2]_, whose minimizers have constant speed.
    The chords make `length` slightly short of the arc, by O(M⁻²).

    The density metric is conformal, w(z) I with w = (1 + strength · softplus(U))². The potential
    U(z) = log p₀ − log Σⱼ exp(−‖z − xⱼ‖² / 2σⱼ²) compares a kernel density at z with its median
    p₀ at the data themselves. σⱼ is the distance from xⱼ to its neighbor number `n_neighbors`
    [3]_, divided by the root of the data's intrinsic dimension [4]_, so that neither the scale of
    the latent space nor its idle dimensions matter. Among the data w is about constant; in a hole
    U is half the squared distance to the data in units of σ, so that √w grows as in Jacobi's form
    of mechanics and, unlike 1/(p + ε) [5]_, never loses its slope far from the data.

    The solver starts from the straight line and takes batched L-BFGS steps [6]_. Their initial
    Hessian is the energy's with the metric frozen, block tridiagonal along the path, which makes
    the step a smooth one; each path has its own backtracking line search. The class's inequalities
    enter by an augmented Lagrangian, whose last violations, of the order of `tol`, are projected
    away (:func:`project_to_class`). Minima are local: a path around the other side of a hole can
    be shorter.

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
    A parabola unrolled: decoded, the shortest path is the straight line.

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
            raise ValueError(f"{name} must be {rule}, got {value!r}; leave it at its default.")
    labels = _labels(classes, label, margin, first, last)
    straight = linear(first, last, np.linspace(0, 1, n_steps))

    if metric == "pullback":
        if decoder is None:
            raise ValueError(
                'metric "pullback" needs a decoder, but decoder is None; '
                'pass one, or metric="density" with data.'
            )
        chart = pullback(decoder, straight, dtype)
    elif metric == "density":
        if data is None:
            raise ValueError(
                'metric "density" needs latent points of real cells, but data is None; '
                'pass them, or metric="pullback" with decoder.'
            )
        chart = density(data, n_latent, strength, n_neighbors, max_data, seed)
    else:
        raise ValueError(
            f'metric must be "pullback" or "density", got {metric!r}; pass one of them.'
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
    """The class of each pair, whose ends must lie in it; without classes, zeros."""
    n = len(start)
    if classes is None:
        if label is not None:
            raise ValueError(
                f"label is {label!r}, but classes is None; pass the classes it is one of."
            )
        return np.zeros(n, dtype=np.intp)
    if label is None:
        labels, others = classes.predict(start), classes.predict(end)
        if (labels != others).any():
            pair = int(np.argmax(labels != others))
            raise ValueError(
                f"the two ends of a path must be of one class, but those of pair {pair} are of "
                f"classes {labels[pair]} and {others[pair]}; pass pairs of one class, "
                "or classes=None for a path that may cross."
            )
    else:
        labels = check.labels(label, classes.n_classes, (n,))
    for name, point in (("start", start), ("end", end)):
        margins = classes.margin(point, labels)
        if (margins < margin).any():
            pair = int(np.argmax(margins < margin))
            raise ValueError(
                f"both ends must have a margin of at least {margin} in their class, but {name} "
                f"of pair {pair} has {margins[pair]:.6g} in class {labels[pair]}; lower margin, "
                "drop the pair, or pass the class that it is in."
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
    """Move each point (n, n_steps, n_latent) to the nearest one inside its class."""
    each = np.repeat(labels, points.shape[1])
    flat = project_to_class(classes, points.reshape(-1, points.shape[2]), each, margin)
    # A class too thin for rounding: draw back to the straight line, which is as good as its ends.
    line = straight.reshape(flat.shape)
    out = classes.margin(flat, each) < margin
    flat[out] = line[out]
    return flat.reshape(points.shape)
