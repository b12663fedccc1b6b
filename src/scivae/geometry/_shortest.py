"""Geodesic solver: minimize path energy under linear inequalities. Uses numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._validate.latent import FloatArray, IntArray
from ._path_metrics import PathMetric


def solve(
    chart: PathMetric,
    line: FloatArray,
    sides: FloatArray | None,
    bounds: FloatArray | None,
    n_iter: int,
    tol: float,
) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Minimize the energy of paths (n, n_steps, n_latent); also return which converged.

    The inequalities ``sides @ z >= bounds`` hold only approximately; the caller projects the
    result.
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
    frozen = frozen_tensors(chart, line)  # (n, pieces, n_latent, n_latent)
    multiplier = np.zeros((n, n_steps - 2, sides.shape[1]))  # (n, n_inner, n_classes)
    stiff = 4 * pieces * np.trace(frozen, axis1=2, axis2=3).mean(axis=1) / n_latent  # (n,)

    def force(z: FloatArray, rows: IntArray) -> FloatArray:
        """Updated multiplier of each inequality at these points."""
        room = z @ sides[rows].transpose(0, 2, 1) - bounds[rows][:, None]
        return np.maximum(multiplier[rows] - stiff[rows, None, None] * room, 0)

    def evaluate(z: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Energy, augmented Lagrangian and its gradient for the paths `rows`."""
        whole = np.concatenate([line[rows, :1], z, line[rows, -1:]], axis=1)
        squares, gradient = chart.gradient(whole)
        energy = pieces * squares.sum(axis=1)
        push = force(z, rows)
        excess = (push**2 - multiplier[rows] ** 2).sum(axis=(1, 2)) / (2 * stiff[rows])
        return energy, energy + excess, pieces * gradient[:, 1:-1] - push @ sides[rows]

    def stiffness(rows: IntArray) -> FloatArray:
        """Hessian of the active inequalities, (len(rows), n_inner, n_latent, n_latent)."""
        pushing = np.where(taut[rows], stiff[rows, None, None], 0.0)
        return np.einsum("nik,nkd,nke->nide", pushing, sides[rows], sides[rows], optimize=True)

    energy, value, gradient = evaluate(inner, np.arange(n))
    taut = np.zeros(multiplier.shape, dtype=bool)
    factor = Tridiagonal(frozen, stiffness(np.arange(n)))
    converged = ~running
    memory: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    fresh = np.ones(n, dtype=bool)  # no curvature stored yet
    marked = np.full(n, np.inf)  # the value five steps ago
    reach = np.ones(n)  # initial step length
    refresh = 1
    for iteration in range(n_iter):
        rows = np.flatnonzero(running)
        pushing = force(inner[rows], rows) > 0
        stale = np.zeros(n, dtype=bool)
        stale[rows] = (pushing != taut[rows]).any(axis=(1, 2))
        taut[rows] = pushing
        if iteration == refresh:
            whole = np.concatenate([line[rows, :1], inner[rows], line[rows, -1:]], axis=1)
            frozen[rows] = frozen_tensors(chart, whole)
            stale[rows] = True
            refresh *= 2
        old = np.flatnonzero(stale)
        factor.renew(frozen[old], stiffness(old), old)
        step = -two_loop(factor, gradient, memory, rows)
        gain = -(step * gradient[rows]).sum(axis=(1, 2)) / 2

        still = gain > tol * energy[rows]
        if iteration % 5 == 0:  # decoders have kinks, where the predicted decrease is wrong
            still &= value[rows] <= marked[rows] - tol * energy[rows]
            marked[rows] = value[rows]
        rest = rows[~still]
        if len(rest):
            # Converged for these multipliers: done if the inequalities hold, otherwise update the
            # multipliers.
            better = force(inner[rest], rest)
            slip = (better * (better - multiplier[rest])).sum(axis=(1, 2)) / stiff[rest]
            slack = (multiplier[rest] * (better - multiplier[rest])).sum(axis=(1, 2)) / stiff[rest]
            settled = np.maximum(abs(slip), abs(slack)) <= tol * energy[rest]
            multiplier[rest] = better
            converged[rest[settled]], running[rest[settled]] = True, False
            again = rest[~settled]
            if len(again):
                _, value[again], gradient[again] = evaluate(inner[again], again)
                marked[again] = np.inf
        if not running.any():
            break

        # Backtracking line search (Armijo) for each path.
        trying, step, gain = rows[still], step[still], gain[still]
        size = reach[trying]
        new_inner, new_gradient = inner.copy(), gradient.copy()
        pending = np.arange(len(trying))
        for _ in range(12):
            if len(pending) == 0:
                break
            who, part = trying[pending], size[pending]
            candidate = inner[who] + part[:, None, None] * step[pending]
            its_energy, its_value, its_slope = evaluate(candidate, who)
            drop = 2 * part * gain[pending]  # predicted decrease
            good = its_value <= value[who] - 1e-4 * drop
            # Next step length: minimum of the parabola through both values and the derivative.
            lowest = drop / np.maximum(2 * (its_value - value[who] + drop), 1e-300)
            new_inner[who[good]], new_gradient[who[good]] = candidate[good], its_slope[good]
            energy[who[good]], value[who[good]] = its_energy[good], its_value[good]
            reach[who[good]] = np.minimum(2 * part[good], 1)
            size[pending] = part * np.clip(np.nan_to_num(lowest), 0.1, 0.5)
            pending = pending[~good]
        failed = trying[pending]
        running[failed[fresh[failed]]] = False  # the gradient step fails too: rounding limit
        moved, turned = new_inner - inner, new_gradient - gradient
        curvature = (moved * turned).sum(axis=(1, 2))
        enough = 1e-10 * np.sqrt((moved**2).sum(axis=(1, 2)) * (turned**2).sum(axis=(1, 2)))
        learnt = curvature > enough
        memory = [*memory[-7:], (moved, turned, learnt / np.where(learnt, curvature, 1))]
        for _, _, inverse in memory:
            inverse[failed] = 0  # restart from the preconditioned gradient step
        fresh[:] = False
        fresh[failed], reach[failed] = True, 1
        inner, gradient = new_inner, new_gradient
    return np.concatenate([line[:, :1], inner, line[:, -1:]], axis=1), converged


def frozen_tensors(chart: PathMetric, points: FloatArray) -> FloatArray:
    """Regularized metric tensors at segment midpoints, (n, pieces, n_latent, n_latent)."""
    n, n_steps, n_latent = points.shape
    pieces = n_steps - 1
    # The tensor changes slowly along a path: evaluate it at a few points and interpolate.
    anchors = np.unique(np.linspace(0, pieces - 1, min(pieces, 8)).round().astype(int))
    middle = (points[:, anchors + 1] + points[:, anchors]) / 2
    found = chart.tensor(middle.reshape(-1, n_latent))
    found = found.reshape(n, len(anchors), n_latent, n_latent)
    # Latent dimensions that the decoder ignores would make the tensor singular.
    floor = 1e-3 * np.trace(found, axis1=2, axis2=3).mean(axis=1) / n_latent
    found += np.maximum(floor, 1e-30)[:, None, None, None] * np.eye(n_latent)
    after = np.maximum(np.searchsorted(anchors, np.arange(pieces)), 1)
    low, high = anchors[after - 1], anchors[after]
    part = ((np.arange(pieces) - low) / (high - low))[:, None, None]
    return (1 - part) * found[:, after - 1] + part * found[:, after]


class Tridiagonal:
    """Block-tridiagonal Hessian of the energy for a fixed metric, factored by block elimination.

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
        """Factor the paths `rows` again with their new metric."""
        if len(rows):
            new = Tridiagonal(metric, extra)
            self.beside[rows], self.inverse[rows] = new.beside, new.inverse

    def solve(self, right: FloatArray, rows: IntArray) -> FloatArray:
        """Solve H x = `right`, both (len(rows), n_inner, n_latent), for the paths `rows`."""
        beside, inverse = self.beside[rows], self.inverse[rows]
        x = right[..., None].copy()
        for i in range(1, x.shape[1]):
            x[:, i] += beside[:, i - 1] @ (inverse[:, i - 1] @ x[:, i - 1])
        x[:, -1] = inverse[:, -1] @ x[:, -1]
        for i in range(x.shape[1] - 2, -1, -1):
            x[:, i] = inverse[:, i] @ (x[:, i] + beside[:, i] @ x[:, i + 1])
        return x[..., 0]


def two_loop(
    factor: Tridiagonal,
    gradient: FloatArray,
    memory: list[tuple[FloatArray, FloatArray, FloatArray]],
    rows: IntArray,
) -> FloatArray:
    """Multiply `gradient` by the inverse L-BFGS Hessian, separately for each path in `rows`."""
    q = gradient[rows]
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
