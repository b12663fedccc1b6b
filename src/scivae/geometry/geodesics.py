"""Shortest paths between latent points that follow the decoder or the data, and stay in a class.

A straight line in latent space can run through regions where no cell lives. A geodesic minimises
an energy instead: of the decoded path ("pullback"), or of a metric that makes places far from the
data long ("density"). The class of a linear layer is a convex polyhedron, so that linear
inequalities on the points of a path keep *all* of it inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _check
from ._check import FloatArray, IntArray
from .classes import LinearClasses, checked
from .convex import project_to_class
from .curves import linear

if TYPE_CHECKING:
    import torch

    Decoder = Callable[[torch.Tensor], torch.Tensor]

_HELD = 20_000_000  # numbers that one block of intermediate results may hold


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


class _Metric(NamedTuple):
    """What the solver knows of a metric. Arrays of double precision go in and come out.

    The solver itself is numpy: its many small steps would wait for torch's threads.
    """

    squares: Callable[[FloatArray], FloatArray]
    """(n, n_steps, n_latent) → (n, n_steps − 1): squared lengths of the pieces."""
    slope: Callable[[FloatArray], tuple[FloatArray, FloatArray]]
    """The same, and the gradient of their sum, (n, n_steps, n_latent)."""
    tensor: Callable[[FloatArray], FloatArray]
    """(q, n_latent) → (q, n_latent, n_latent): about the metric tensor; it only sets the pace."""
    width: int
    """How many numbers it holds for each point."""


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
        For ``"density"``: how many neighbours set the scale at each data point.
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
    of the pull-back metric JᵀJ of the decoder f [1]_ [2]_, whose minimisers have constant speed.
    The chords make `length` slightly short of the arc, by O(M⁻²).

    The density metric is conformal, w(z) I with w = (1 + strength · softplus(U))². The potential
    U(z) = log p₀ − log Σⱼ exp(−‖z − xⱼ‖² / 2σⱼ²) compares a kernel density at z with its median
    p₀ at the data themselves. σⱼ is the distance from xⱼ to its neighbour number `n_neighbors`
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
    first, last = _check.ends(start, end)
    n_steps = _check.steps(n_steps)
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
            raise ValueError(f"`{name}` must be {rule}, but is {value!r}; leave it at its default.")
    labels = _labels(classes, label, margin, first, last)
    straight = linear(first, last, np.linspace(0, 1, n_steps))

    if metric == "pullback":
        if decoder is None:
            raise ValueError(
                'metric "pullback" needs a decoder, but `decoder` is None; '
                'pass one, or metric="density" with `data`.'
            )
        chart = _pullback(decoder, straight, dtype)
    elif metric == "density":
        if data is None:
            raise ValueError(
                'metric "density" needs latent points of real cells, but `data` is None; '
                'pass them, or metric="pullback" with `decoder`.'
            )
        chart = _density(data, n_latent, strength, n_neighbors, max_data, seed)
    else:
        raise ValueError(
            f'`metric` must be "pullback" or "density", but is {metric!r}; pass one of them.'
        )

    points, converged = straight.copy(), np.ones(n, dtype=bool)
    squares, before = np.zeros((n, n_steps - 1)), np.zeros((n, n_steps - 1))
    at_once = max(1, _HELD // (n_steps * max(chart.width, n_latent**2)))
    for low in range(0, n, at_once):
        rows = slice(low, low + at_once)
        sides = bounds = None
        if classes is not None:
            sides, bounds = _inequalities(classes, labels[rows], margin)
        line = straight[rows].astype(np.float64)
        bent, converged[rows] = _solve(chart, line, sides, bounds, n_iter, tol)
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
                f"`label` is {label!r}, but `classes` is None; pass the classes it is one of."
            )
        return np.zeros(n, dtype=np.intp)
    if label is None:
        labels, others = classes.predict(start), classes.predict(end)
        if (labels != others).any():
            pair = int(np.argmax(labels != others))
            raise ValueError(
                f"the two ends of a path must be of one class, but those of pair {pair} are of "
                f"classes {labels[pair]} and {others[pair]}; pass pairs of one class, "
                "or `classes=None` for a path that may cross."
            )
    else:
        labels = _check.labels(label, classes.n_classes, (n,))
    for name, point in (("start", start), ("end", end)):
        margins = classes.margin(point, labels)
        if (margins < margin).any():
            pair = int(np.argmax(margins < margin))
            raise ValueError(
                f"both ends must have a margin of at least {margin} in their class, but `{name}` "
                f"of pair {pair} has {margins[pair]:.6g} in class {labels[pair]}; lower `margin`, "
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


def _pullback(decoder: Decoder, straight: FloatArray, dtype: str | None) -> _Metric:
    """The metric of distances between decoded points."""
    import torch

    kind, device = torch.get_default_dtype(), torch.device("cpu")
    if isinstance(decoder, torch.nn.Module):
        for name, part in decoder.named_modules():
            if part.training and isinstance(
                part, (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._NormBase)
            ):
                raise ValueError(
                    f"the decoder must be deterministic, but its part {name or 'itself'!r} "
                    f"({type(part).__name__}) is in training mode; call decoder.eval() first."
                )
        for weight in decoder.parameters():
            kind, device = weight.dtype, weight.device
            break
    if dtype is not None:
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype) or not named.is_floating_point:
            raise ValueError(
                f"`dtype` must name a floating type of torch, but is {dtype!r}; "
                'pass "float32" or "float64".'
            )
        kind = named

    n, n_steps, n_latent = straight.shape

    def held(z: FloatArray) -> torch.Tensor:
        return torch.from_numpy(z.reshape(-1, n_latent)).to(device=device, dtype=kind)

    def array(x: torch.Tensor) -> FloatArray:
        return x.to("cpu", torch.float64).numpy()

    probe = held(straight[:, [0, -1]])
    with torch.no_grad():
        decoded = decoder(probe)
    if not isinstance(decoded, torch.Tensor) or decoded.ndim != 2 or len(decoded) != 2 * n:
        what = tuple(decoded.shape) if isinstance(decoded, torch.Tensor) else type(decoded).__name__
        raise ValueError(
            f"the decoder must map a tensor (b, n_latent) to a tensor (b, n_vars), but maps "
            f"{tuple(probe.shape)} to {what}; wrap it."
        )
    if not torch.isfinite(decoded).all():
        pair = int(torch.argwhere(~torch.isfinite(decoded))[0, 0]) // 2
        raise ValueError(
            f"the decoder must return finite numbers, but does not at the ends of pair {pair}; "
            "look at the decoder there, or drop the pair."
        )
    width = int(decoded.shape[1])

    def squares(points: FloatArray) -> FloatArray:
        with torch.no_grad():
            decoded = decoder(held(points)).reshape(*points.shape[:2], width)
            return array(decoded.diff(dim=1).square().sum(dim=2))

    def slope(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        # A caller's no_grad or inference_mode does not reach in here; both come back after it.
        with torch.inference_mode(False), torch.enable_grad():
            z = held(points).requires_grad_()
            decoded = decoder(z)
            change = decoded.detach().reshape(*points.shape[:2], width).diff(dim=1)
            pull = torch.zeros_like(decoded).reshape(*points.shape[:2], width)
            pull[:, 1:] += 2 * change
            pull[:, :-1] -= 2 * change
            if not decoded.requires_grad:
                raise ValueError(
                    "the decoder must be differentiable, but its result has no gradient; "
                    "remove no_grad, detach or numpy from it."
                )
            (found,) = torch.autograd.grad(decoded, z, pull.reshape(decoded.shape))
        return array(change.square().sum(dim=2)), array(found).reshape(points.shape)

    # Differences, not derivatives: this only sets the pace, and asks nothing of the decoder.
    spread = np.diff(straight[:, [0, -1]].astype(np.float64), axis=1)
    small = 1e-3 * float(np.sqrt((spread**2).mean())) if spread.any() else 1e-3
    moved = small * np.eye(n_latent)

    def tensor(z: FloatArray) -> FloatArray:
        result = np.empty((len(z), n_latent, n_latent))
        block = max(1, _HELD // (n_latent * width))
        with torch.no_grad():
            for rows in (slice(low, low + block) for low in range(0, len(z), block)):
                around = decoder(held(z[rows, None] + moved)).reshape(-1, n_latent, width)
                change = around - decoder(held(z[rows]))[:, None]
                result[rows] = array(change @ change.mT) / small**2
        return result

    return _Metric(squares, slope, tensor, width)


def _density(
    data: ArrayLike, n_latent: int, strength: float, n_neighbors: int, max_data: int, seed: int
) -> _Metric:
    """The conformal metric that makes places far from the data long."""
    from scipy.spatial.distance import cdist

    cells = _check.points("data", data, 2, n_latent).astype(np.float64)
    if len(cells) > max_data:
        chosen = np.random.default_rng(seed).choice(len(cells), max_data, replace=False)
        cells = cells[np.sort(chosen)]
    if len(cells) <= n_neighbors:
        raise ValueError(
            f"the density needs more data points than `n_neighbors` = {n_neighbors}, but has "
            f"{len(cells)}; pass more data, or fewer neighbours."
        )
    centre = cells.mean(axis=0)  # less cancellation in the distances
    x = cells - centre
    apart = cdist(x, x)
    near = np.sort(apart, axis=1)[:, 1 : n_neighbors + 1]  # (n_data, n_neighbors)
    radius = near[:, -1]
    if not radius.any():
        raise ValueError(
            f"the density needs data points that differ, but each of the {len(cells)} has "
            f"{n_neighbors} copies; pass other data, or more neighbours."
        )
    # Copies have no radius of their own: let them have that of a typical point.
    radius = np.where(radius > 0, radius, np.median(radius[radius > 0]))
    ratios = np.log(radius[:, None] / np.maximum(near[:, :-1], 1e-12 * np.median(radius)))
    growth = float(np.maximum(ratios, 0).mean()) if n_neighbors > 1 else 1.0
    dimension = float(np.clip(1 / max(growth, 1e-12), 1, n_latent))
    precision = dimension / (2 * radius**2)  # 1 / 2σ²
    others = np.exp(-(apart**2) * precision).sum(axis=1) - 1  # each without itself
    typical = float(np.log(max(np.median(others), 1e-300)))
    squared = (x**2).sum(axis=1)

    def weight(z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(q, n_latent) → w and its gradient, (q,) and (q, n_latent)."""
        z = z - centre
        power = (z**2).sum(axis=1, keepdims=True) - 2 * z @ x.T + squared
        power *= -precision
        top = power.max(axis=1, keepdims=True)
        kernel = np.exp(power - top)
        total = kernel.sum(axis=1)
        rarity = typical - top[:, 0] - np.log(total)
        root = 1 + strength * np.logaddexp(0, rarity)
        kernel *= precision
        uphill = 2 * (kernel.sum(axis=1)[:, None] * z - kernel @ x) / total[:, None]
        sigmoid = np.exp(-np.logaddexp(0, -rarity))
        return root**2, (2 * strength * root * sigmoid)[:, None] * uphill

    def slope(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        middle = (points[:, 1:] + points[:, :-1]) / 2
        change = np.diff(points, axis=1)
        w, uphill = weight(middle.reshape(-1, n_latent))
        w, uphill = w.reshape(middle.shape[:2]), uphill.reshape(middle.shape)
        size = (change**2).sum(axis=2)
        half, whole = size[..., None] * uphill / 2, 2 * w[..., None] * change
        found = np.zeros(points.shape)
        found[:, 1:] += half + whole
        found[:, :-1] += half - whole
        return w * size, found

    def tensor(z: FloatArray) -> FloatArray:
        return weight(z)[0][:, None, None] * np.eye(n_latent)

    return _Metric(lambda points: slope(points)[0], slope, tensor, 3 * len(x))


def _solve(
    chart: _Metric,
    line: FloatArray,
    sides: FloatArray | None,
    bounds: FloatArray | None,
    n_iter: int,
    tol: float,
) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Lower the energy of paths (n, n_steps, n_latent); say which have converged.

    The inequalities ``sides @ z >= bounds`` hold only about: the caller projects.
    """
    n, n_steps, n_latent = line.shape
    pieces = n_steps - 1
    energy = pieces * chart.squares(line).sum(axis=1)
    running = energy > 0
    if n_steps == 2 or not running.any():
        return line, np.ones(n, dtype=bool)
    if sides is None or bounds is None:
        sides, bounds = np.zeros((n, 1, n_latent)), np.full((n, 1), -1.0)  # 0 · z ≥ −1: always

    inner = line[:, 1:-1].copy()  # (n, n_inner, n_latent)
    frozen = _frozen(chart, line)  # (n, pieces, n_latent, n_latent)
    pull = np.zeros((n, n_steps - 2, sides.shape[1]))  # multipliers, (n, n_inner, n_classes)
    stiff = 4 * pieces * np.trace(frozen, axis1=2, axis2=3).mean(axis=1) / n_latent  # (n,)

    def force(z: FloatArray, rows: IntArray) -> FloatArray:
        """How hard each inequality pushes: its multiplier, were it renewed here."""
        room = z @ sides[rows].transpose(0, 2, 1) - bounds[rows][:, None]
        return np.maximum(pull[rows] - stiff[rows, None, None] * room, 0)

    def evaluate(z: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Energy, augmented Lagrangian and its gradient for the paths `rows`."""
        whole = np.concatenate([line[rows, :1], z, line[rows, -1:]], axis=1)
        squares, slope = chart.slope(whole)
        energy = pieces * squares.sum(axis=1)
        push = force(z, rows)
        excess = (push**2 - pull[rows] ** 2).sum(axis=(1, 2)) / (2 * stiff[rows])
        return energy, energy + excess, pieces * slope[:, 1:-1] - push @ sides[rows]

    def stiffness(rows: IntArray) -> FloatArray:
        """The Hessian of the inequalities that push, (len(rows), n_inner, n_latent, n_latent)."""
        pushing = np.where(taut[rows], stiff[rows, None, None], 0.0)
        return np.einsum("nik,nkd,nke->nide", pushing, sides[rows], sides[rows], optimize=True)

    energy, value, slope = evaluate(inner, np.arange(n))
    taut = np.zeros(pull.shape, dtype=bool)
    factor = _Tridiagonal(frozen, stiffness(np.arange(n)))
    converged = ~running
    memory: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    fresh = np.ones(n, dtype=bool)  # no curvature remembered
    marked = np.full(n, np.inf)  # the value five steps ago
    reach = np.ones(n)  # how much of a step to try first
    refresh = 1
    for iteration in range(n_iter):
        rows = np.flatnonzero(running)
        pushing = force(inner[rows], rows) > 0
        stale = np.zeros(n, dtype=bool)
        stale[rows] = (pushing != taut[rows]).any(axis=(1, 2))
        taut[rows] = pushing
        if iteration == refresh:
            whole = np.concatenate([line[rows, :1], inner[rows], line[rows, -1:]], axis=1)
            frozen[rows] = _frozen(chart, whole)
            stale[rows] = True
            refresh *= 2
        old = np.flatnonzero(stale)
        factor.renew(frozen[old], stiffness(old), old)
        step = -_two_loop(factor, slope, memory, rows)
        gain = -(step * slope[rows]).sum(axis=(1, 2)) / 2

        still = gain > tol * energy[rows]
        if iteration % 5 == 0:  # decoders have kinks, at which promises are not kept
            still &= value[rows] <= marked[rows] - tol * energy[rows]
            marked[rows] = value[rows]
        rest = rows[~still]
        if len(rest):
            # At rest for these multipliers: done if the inequalities agree, else better ones.
            better = force(inner[rest], rest)
            slip = (better * (better - pull[rest])).sum(axis=(1, 2)) / stiff[rest]
            slack = (pull[rest] * (better - pull[rest])).sum(axis=(1, 2)) / stiff[rest]
            settled = np.maximum(abs(slip), abs(slack)) <= tol * energy[rest]
            pull[rest] = better
            converged[rest[settled]], running[rest[settled]] = True, False
            again = rest[~settled]
            if len(again):
                _, value[again], slope[again] = evaluate(inner[again], again)
                marked[again] = np.inf
        if not running.any():
            break

        # Each path backtracks until its own energy falls enough (Armijo).
        trying, step, gain = rows[still], step[still], gain[still]
        size = reach[trying]
        new_inner, new_slope = inner.copy(), slope.copy()
        pending = np.arange(len(trying))
        for _ in range(12):
            if len(pending) == 0:
                break
            who, part = trying[pending], size[pending]
            candidate = inner[who] + part[:, None, None] * step[pending]
            its_energy, its_value, its_slope = evaluate(candidate, who)
            drop = 2 * part * gain[pending]  # what the slope promised
            good = its_value <= value[who] - 1e-4 * drop
            # The parabola through both values and the slope says where the minimum is.
            lowest = drop / np.maximum(2 * (its_value - value[who] + drop), 1e-300)
            new_inner[who[good]], new_slope[who[good]] = candidate[good], its_slope[good]
            energy[who[good]], value[who[good]] = its_energy[good], its_value[good]
            reach[who[good]] = np.minimum(2 * part[good], 1)
            size[pending] = part * np.clip(np.nan_to_num(lowest), 0.1, 0.5)
            pending = pending[~good]
        failed = trying[pending]
        running[failed[fresh[failed]]] = False  # not even downhill by the plain step: rounding
        moved, turned = new_inner - inner, new_slope - slope
        curvature = (moved * turned).sum(axis=(1, 2))
        enough = 1e-10 * np.sqrt((moved**2).sum(axis=(1, 2)) * (turned**2).sum(axis=(1, 2)))
        learnt = curvature > enough
        memory = [*memory[-7:], (moved, turned, learnt / np.where(learnt, curvature, 1))]
        for _, _, inverse in memory:
            inverse[failed] = 0  # start again from the plain step
        fresh[:] = False
        fresh[failed], reach[failed] = True, 1
        inner, slope = new_inner, new_slope
    return np.concatenate([line[:, :1], inner, line[:, -1:]], axis=1), converged


def _frozen(chart: _Metric, points: FloatArray) -> FloatArray:
    """Metric tensors in the middle of each piece, (n, pieces, n_latent, n_latent), well posed."""
    n, n_steps, n_latent = points.shape
    pieces = n_steps - 1
    # It changes slowly along a path: a few places, and straight lines between them, will do.
    anchors = np.unique(np.linspace(0, pieces - 1, min(pieces, 8)).round().astype(int))
    middle = (points[:, anchors + 1] + points[:, anchors]) / 2
    found = chart.tensor(middle.reshape(-1, n_latent))
    found = found.reshape(n, len(anchors), n_latent, n_latent)
    # Latent dimensions that the decoder ignores have no stiffness of their own.
    floor = 1e-3 * np.trace(found, axis1=2, axis2=3).mean(axis=1) / n_latent
    found += np.maximum(floor, 1e-30)[:, None, None, None] * np.eye(n_latent)
    after = np.maximum(np.searchsorted(anchors, np.arange(pieces)), 1)
    low, high = anchors[after - 1], anchors[after]
    part = ((np.arange(pieces) - low) / (high - low))[:, None, None]
    return (1 - part) * found[:, after - 1] + part * found[:, after]


class _Tridiagonal:
    """The Hessian of the energy with a frozen metric, eliminated block by block.

    The energy M Σ Δᵢᵀ Gᵢ Δᵢ has diagonal blocks 2M (Gᵢ₋₁ + Gᵢ) and off-diagonal blocks −2M Gᵢ.
    """

    def __init__(self, metric: FloatArray, extra: FloatArray) -> None:
        blocks = 2 * metric.shape[1] * metric  # (n, pieces, n_latent, n_latent)
        diagonal = blocks[:, :-1] + blocks[:, 1:] + extra  # (n, n_inner, n_latent, n_latent)
        self.beside = blocks[:, 1:-1]  # minus the off-diagonal blocks
        self.inverse = np.empty_like(diagonal)
        for i in range(diagonal.shape[1]):
            pivot = diagonal[:, i]
            if i > 0:
                side = self.beside[:, i - 1]
                pivot = pivot - side @ self.inverse[:, i - 1] @ side
            self.inverse[:, i] = np.linalg.inv(pivot)

    def renew(self, metric: FloatArray, extra: FloatArray, rows: IntArray) -> None:
        """Take the paths `rows` again, from their new metric."""
        if len(rows):
            new = _Tridiagonal(metric, extra)
            self.beside[rows], self.inverse[rows] = new.beside, new.inverse

    def solve(self, right: FloatArray, rows: IntArray) -> FloatArray:
        """The x with H x = `right`, both (len(rows), n_inner, n_latent), for the paths `rows`."""
        beside, inverse = self.beside[rows], self.inverse[rows]
        x = right[..., None].copy()
        for i in range(1, x.shape[1]):
            x[:, i] += beside[:, i - 1] @ (inverse[:, i - 1] @ x[:, i - 1])
        x[:, -1] = inverse[:, -1] @ x[:, -1]
        for i in range(x.shape[1] - 2, -1, -1):
            x[:, i] = inverse[:, i] @ (x[:, i] + beside[:, i] @ x[:, i + 1])
        return x[..., 0]


def _two_loop(
    factor: _Tridiagonal,
    slope: FloatArray,
    memory: list[tuple[FloatArray, FloatArray, FloatArray]],
    rows: IntArray,
) -> FloatArray:
    """The inverse L-BFGS Hessian times `slope` for the paths `rows`, each with its own memory."""
    q = slope[rows]
    past = [(moved[rows], turned[rows], inverse[rows]) for moved, turned, inverse in memory]
    used = []
    for moved, turned, inverse in reversed(past):
        used.append(inverse * (moved * q).sum(axis=(1, 2)))
        q = q - used[-1][:, None, None] * turned
    r = factor.solve(q, rows)
    for (moved, turned, inverse), a in zip(past, reversed(used), strict=True):
        b = inverse * (turned * r).sum(axis=(1, 2))
        r = r + (a - b)[:, None, None] * moved
    return r
