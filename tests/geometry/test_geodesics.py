from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from scivae.geometry import (
    LinearClasses,
    _path_metrics,
    _shortest,
    geodesic,
    linear,
    polyline_margin,
)

exact = {"dtype": "float64", "tol": 1e-6}


def sphere(z):
    """Polar angle and azimuth to the unit sphere."""
    polar, azimuth = z[:, 0], z[:, 1]
    x, y = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()
    return torch.stack([x, y, polar.cos()], dim=1)


def roll(z):
    """A swiss roll: intrinsically flat, so that its geodesics have a closed form."""
    return torch.stack([z[:, 0] * z[:, 0].cos(), z[:, 1], z[:, 0] * z[:, 0].sin()], dim=1)


def parabola(z):
    """A flat plane in bent coordinates."""
    return torch.stack([z[:, 0], z[:, 1] + z[:, 0] ** 2], dim=1)


def network(n_latent=20, n_hidden=128, n_vars=2000):
    generator = torch.Generator().manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(n_latent, n_hidden),
        torch.nn.Softplus(),
        torch.nn.Linear(n_hidden, n_vars),
        torch.nn.Softmax(dim=-1),
    )
    with torch.no_grad():
        for weight in layers.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)
    return layers


def ring(seed=0, n=400):
    """A ring of points: straight lines across it run through a hole."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    return 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(size=(n, 2)) * 0.2


def test_lengths_on_a_sphere_are_those_of_great_circles():
    rng = np.random.default_rng(0)
    start = np.stack([rng.uniform(0.4, 2.7, 20), rng.uniform(0, 1, 20)], axis=1)
    end = np.stack([rng.uniform(0.4, 2.7, 20), rng.uniform(1, 3, 20)], axis=1)
    found = geodesic(start, end, 30, decoder=sphere, **exact)
    a, b = (sphere(torch.from_numpy(z)).numpy() for z in (start, end))
    truth = np.arccos((a * b).sum(axis=1))
    assert np.sqrt(found.straight_energy / truth**2).max() > 1.2  # there was something to gain
    assert_allclose(found.length, truth, rtol=1e-3)
    assert_allclose(found.energy, truth**2, rtol=2e-3)
    assert found.converged.all()
    # Every point lies in the plane of its great circle.
    points = sphere(torch.from_numpy(found.points.reshape(-1, 2))).numpy().reshape(20, 30, 3)
    normal = np.cross(a, b)
    off = np.einsum("nsd,nd->ns", points, normal) / np.linalg.norm(normal, axis=1)[:, None]
    assert np.abs(off).max() < 0.01


def test_default_tolerance_is_within_one_percent():
    found = geodesic([1.0, 0.0], [1.0, 2.5], 20, decoder=sphere)
    a, b = (sphere(torch.tensor(z))[0].numpy() for z in ([[1.0, 0.0]], [[1.0, 2.5]]))
    assert_allclose(found.length, np.arccos(a @ b), rtol=0.01)


def test_lengths_on_a_swiss_roll_are_those_of_the_flat_plane():
    start, end = np.array([[2.0, 0], [2, 0], [7, -2]]), np.array([[8.0, 5], [2, 4], [3, 9]])
    found = geodesic(start, end, 60, decoder=roll, **exact)
    spiral = [
        quad(lambda r: np.hypot(1, r), *sorted((a, b)))[0]
        for a, b in zip(start[:, 0], end[:, 0], strict=True)
    ]
    assert_allclose(found.length, np.hypot(spiral, end[:, 1] - start[:, 1]), rtol=1e-2)
    assert_allclose(found.energy, found.length**2, rtol=1e-3)  # of even speed


def test_where_the_class_is_in_the_way_the_path_is_a_taut_string():
    """Tangents and an arc: the shortest path over the parabola y = x² + c, which is the boundary."""
    wall = -1.0
    classes = LinearClasses(np.array([[0.0, -1], [0, 0]]), np.array([wall, 0]))  # 0: z₁ <= wall
    start, end = np.array([[-2.0, -4.0]]), np.array([[2.0, -4.0]])  # decoded: y = 0, 1 above it
    options = {"decoder": parabola, "dtype": "float64", "tol": 1e-4}
    free = geodesic(start, end, 80, **options)
    found = geodesic(start, end, 80, classes=classes, label=0, **options)
    touch = 2 - np.sqrt(4 - (0 - wall))
    arc, _ = quad(lambda x: np.hypot(1, 2 * x), -touch, touch)
    truth = 2 * (2 - touch) * np.hypot(1, 2 * touch) + arc
    assert polyline_margin(classes, free.points, 0) < -0.5
    assert polyline_margin(classes, found.points, 0) >= 0
    assert_allclose(free.length, 4, rtol=1e-3)
    assert_allclose(found.length, truth, rtol=2e-3)
    assert found.converged.all()


def test_a_margin_is_kept():
    classes = LinearClasses(np.array([[0.0, -1], [0, 0]]), np.array([0.0, 0]))
    found = geodesic([-2.0, -4.0], [2.0, -4.0], 20, decoder=parabola, classes=classes, margin=1.0)
    assert polyline_margin(classes, found.points, 0) >= 1
    assert_allclose(found.points[..., 1].max(), -1, atol=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_class_is_never_left_and_the_energy_never_rises(dtype):
    rng = np.random.default_rng(0)
    decoder = network(5, 16, 40)
    classes = LinearClasses(rng.normal(size=(12, 5)), rng.normal(size=12))
    z = (rng.normal(size=(4000, 5)) * 2).astype(dtype)
    label = classes.predict(z)
    pairs = np.array(
        [np.flatnonzero(label == k)[:8] for k in np.unique(label) if (label == k).sum() >= 8]
    )
    start, end = z[pairs[:, :4].ravel()], z[pairs[:, 4:].ravel()]
    free = geodesic(start, end, 12, decoder=decoder, n_iter=8)
    found = geodesic(start, end, 12, decoder=decoder, classes=classes, n_iter=8)
    label = label[pairs[:, :4].ravel()]
    assert (polyline_margin(classes, free.points, label) < 0).any()  # the rule is needed here
    assert_array_equal(
        classes.predict(found.points), np.broadcast_to(label[:, None], (len(label), 12))
    )
    for result in (free, found):
        assert result.points.dtype == dtype
        assert result.points[:, 0].tobytes() == start.tobytes()
        assert result.points[:, -1].tobytes() == end.tobytes()
        assert (result.energy <= result.straight_energy).all()
        assert (result.length**2 <= result.energy * (1 + 1e-6)).all()
    assert np.median(found.energy / found.straight_energy) < 0.99


def test_on_a_flat_decoder_the_straight_line_stays_as_it_is():
    found = geodesic([[0.0, 1.0]], [[2.0, 0.5]], 7, decoder=lambda z: 3 * z, dtype="float64")
    assert_allclose(found.points, linear([[0.0, 1.0]], [[2.0, 0.5]], np.linspace(0, 1, 7)))
    assert_allclose(found.length, 3 * np.hypot(2, 0.5))
    assert found.converged.all()


def test_a_path_worse_than_the_straight_line_is_not_returned(monkeypatch):
    def wander(chart, line, *rest):
        bent = line + np.random.default_rng(0).normal(size=line.shape)
        return bent, np.ones(len(line), dtype=bool)

    monkeypatch.setattr("scivae.geometry.geodesics.solve", wander)
    found = geodesic([0.0, 1.0], [2.0, 0.5], 7, decoder=lambda z: z)
    assert_array_equal(found.points, linear([0.0, 1.0], [2.0, 0.5], np.linspace(0, 1, 7)))
    assert_array_equal(found.energy, found.straight_energy)
    assert not found.converged.any()


def test_two_points_the_same_point_and_no_pair():
    same = geodesic([1.0, 1.0], [1.0, 1.0], 5, decoder=parabola)
    assert_array_equal(same.points, np.ones((1, 5, 2)))
    assert (same.energy.item(), same.converged.item()) == (0, True)
    assert geodesic([0.0, 0.0], [1.0, 1.0], 2, decoder=parabola).points.shape == (1, 2, 2)
    none = np.zeros((0, 2))
    assert geodesic(none, none, 5, decoder=parabola).points.shape == (0, 5, 2)


def test_a_pair_is_solved_alike_alone_and_in_company():
    rng = np.random.default_rng(0)
    start, end = rng.uniform(0.5, 2.5, size=(2, 6, 2))
    together = geodesic(start, end, 10, decoder=sphere, dtype="float64")
    alone = geodesic(start[2], end[2], 10, decoder=sphere, dtype="float64")
    assert_allclose(together.energy[2], alone.energy[0], rtol=5e-3)


def test_the_decoder_is_left_as_it_was():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with torch.inference_mode():
        geodesic([0.0, 0.0], [1.0, 1.0], 6, decoder=decoder)
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        geodesic([0.0, 0.0], [1.0, 1.0], 6, decoder=decoder)
        assert not torch.is_grad_enabled()
    assert decoder.training
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())
    assert all(torch.equal(v, before[k]) for k, v in decoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


def density_length(data, start, end):
    """Length of short straight pieces under the density metric, by the public function."""
    return geodesic(start, end, 2, metric="density", data=data).length


def test_density_paths_are_as_short_as_dijkstras_on_a_fine_grid():
    data = ring(n=200)
    start, end = np.array([[3.0, 0.0]]), np.array([[-2.0, 2.2]])
    found = geodesic(start, end, 40, metric="density", data=data, tol=1e-5)
    side = 81
    axis = np.linspace(-4, 4, side)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    jumps = [
        (i, j) for i in range(4) for j in range(-3, 4) if np.gcd(i, j) == 1 and (i, j) > (0, 0)
    ]
    row, column = np.divmod(np.arange(side**2), side)
    a, b = [], []
    for i, j in jumps:
        inside = (row + i >= 0) & (row + i < side) & (column + j >= 0) & (column + j < side)
        a.append(np.flatnonzero(inside))
        b.append((row + i)[inside] * side + (column + j)[inside])
    a, b = np.concatenate(a), np.concatenate(b)
    graph = coo_array((density_length(data, nodes[a], nodes[b]), (a, b)), shape=(side**2,) * 2)
    first, last = (np.argmin(((nodes - z) ** 2).sum(axis=1)) for z in (start, end))
    assert_allclose(nodes[[first, last]], np.vstack([start, end]), atol=1e-9)
    truth = dijkstra(graph.tocsr(), directed=False, indices=first)[last]
    assert found.converged.all()
    assert_allclose(found.length, truth, rtol=0.02)
    assert found.length**2 < 0.7 * found.straight_energy


def test_density_paths_go_around_a_hole():
    data = ring()
    found = geodesic([3.0, 0.0], [-0.5, 3.0], 20, metric="density", data=data)
    radius = np.linalg.norm(found.points[0], axis=1)
    straight = np.linalg.norm(linear([3.0, 0.0], [-0.5, 3.0], np.linspace(0, 1, 20))[0], axis=1)
    assert straight.min() < 2
    assert radius.min() > 2.5


def test_density_does_not_depend_on_the_scale_of_the_latent_space():
    data = ring()
    start, end = np.array([[3.0, 0.0]]), np.array([[-0.5, 3.0]])
    one = geodesic(start, end, 10, metric="density", data=data, strength=2.0)
    far = geodesic(100 * start, 100 * end, 10, metric="density", data=100 * data, strength=2.0)
    assert_allclose(far.points, 100 * one.points, rtol=1e-6, atol=1e-6)
    assert_allclose(far.length, 100 * one.length)


def test_density_of_strength_zero_is_straight_and_draws_are_seeded():
    data = ring()
    ends = [3.0, 0.0], [-0.5, 3.0], 10
    flat = geodesic(*ends, metric="density", data=data, strength=0.0)
    assert_allclose(flat.points, linear(*ends[:2], np.linspace(0, 1, 10)))
    draws = [
        geodesic(*ends, metric="density", data=data, max_data=100, seed=s).points for s in (0, 0, 1)
    ]
    assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_density_bears_copies_among_the_data():
    data = np.concatenate([ring(), np.tile([[3.0, 0.0]], (30, 1))])
    found = geodesic([3.0, 0.0], [-0.5, 3.0], 10, metric="density", data=data)
    assert np.isfinite(found.points).all()
    assert (found.energy < found.straight_energy).all()


def test_many_pairs_are_fast():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 20, 20)).astype(np.float32)
    decoder = network()
    began = time.perf_counter()
    found = geodesic(start, end, 20, decoder=decoder)
    assert time.perf_counter() - began < 30  # a second, unhurried
    assert (found.energy < found.straight_energy).all()


classes = LinearClasses(np.eye(2), np.zeros(2))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_steps": 1}, "n_steps must be at least 2"),
        ({"metric": "flat"}, "metric must be .* got 'flat'"),
        ({"decoder": None}, "decoder must be given .*, got None"),
        ({"metric": "density"}, "data must hold latent points .* got None"),
        (
            {"metric": "density", "data": np.zeros((5, 2))},
            "more points than n_neighbors = 10, got 5",
        ),
        (
            {"metric": "density", "data": np.zeros((50, 2))},
            "data must have points that differ, got 50",
        ),
        ({"metric": "density", "data": np.zeros((50, 3))}, "data must have length n_latent = 2"),
        ({"n_iter": 0}, "n_iter must be a positive integer, got 0"),
        ({"tol": -1.0}, "tol must be positive"),
        ({"margin": np.inf}, "margin must be finite"),
        ({"dtype": "int8"}, "dtype must be the name of a floating-point dtype.*'int8'"),
        ({"label": 0}, "label must be None without classes, got 0"),
        ({"classes": classes}, "ends of a path .* got classes 0 and 1 in pair 1"),
        ({"classes": classes, "label": 0}, "got -2 in class 0 for end of pair 1"),
        (
            {"classes": classes, "label": 0, "margin": 1.5},
            "least 1.5 .* got 1 in class 0 for start of pair 0",
        ),
        ({"decoder": lambda z: z[:1]}, r"\(b, n_vars\), got \(1, 2\) for input \(4, 2\)"),
        ({"decoder": lambda z: z.numpy()}, "got ndarray"),
        ({"decoder": lambda z: z.sum(dim=1, keepdim=True).log()}, "finite .* pair 1"),
        ({"decoder": lambda z: z.detach() ** 2}, "must be differentiable"),
        (
            {"decoder": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())},
            r"got '1' \(Dropout\) in training mode; call decoder.eval\(\)",
        ),
    ],
)
def test_errors_name_the_rule_and_the_culprit(change, match):
    given = {
        "start": np.array([[1.0, 0], [3, 0]]),
        "end": np.array([[2.0, 0], [-3, -1]]),
        "n_steps": 5,
        "decoder": lambda z: z,
    } | change
    with pytest.raises(ValueError, match=match):
        geodesic(**given)


# --- parts of the solver: a wrong step is refused or mended later, and only costs time ------------


def stiff_path(rng, n=3, n_steps=6, n_latent=2):
    """Positive definite metrics of each piece, inequalities that push, and the Hessian of both."""
    root = rng.normal(size=(n, n_steps - 1, n_latent, n_latent))
    metric = root @ root.swapaxes(2, 3) + 0.1 * np.eye(n_latent)
    side = rng.normal(size=(n, n_steps - 2, n_latent, 1))
    extra = side @ side.swapaxes(2, 3)
    pieces, n_inner = n_steps - 1, n_steps - 2
    hessian = np.zeros((n, n_inner, n_latent, n_inner, n_latent))
    for k in range(n):
        for i in range(n_inner):
            hessian[k, i, :, i] = 2 * pieces * (metric[k, i] + metric[k, i + 1]) + extra[k, i]
            if i > 0:
                hessian[k, i, :, i - 1] = hessian[k, i - 1, :, i] = -2 * pieces * metric[k, i]
    return metric, extra, hessian.reshape(n, n_inner * n_latent, n_inner * n_latent)


def test_the_first_step_is_newtons_for_a_metric_that_stays():
    rng = np.random.default_rng(0)
    metric, extra, hessian = stiff_path(rng)
    right = rng.normal(size=(3, 4, 2))
    truth = np.linalg.solve(hessian, right.reshape(3, 8, 1)).reshape(right.shape)
    factor = _shortest.Tridiagonal(metric, extra)
    assert_allclose(factor.solve(right, np.arange(3)), truth, rtol=1e-9)
    assert_allclose(factor.solve(right[[2, 0]], np.array([2, 0])), truth[[2, 0]], rtol=1e-9)
    other, more, new = stiff_path(rng)
    factor.renew(other[[1]], more[[1]], np.array([1]))
    truth[1] = np.linalg.solve(new[1], right[1].ravel()).reshape(4, 2)
    assert_allclose(factor.solve(right, np.arange(3)), truth, rtol=1e-9)


def test_later_steps_are_those_of_bfgs():
    rng = np.random.default_rng(0)
    metric, extra, hessian = stiff_path(rng)
    moved = rng.normal(size=(4, 3, 4, 2))
    turned = moved + 0.1 * rng.normal(size=moved.shape)
    inverse = 1 / (moved * turned).sum(axis=(2, 3))
    inverse[1, 0] = 0  # forgotten
    slope = rng.normal(size=(3, 4, 2))
    factor = _shortest.Tridiagonal(metric, extra)
    memory = list(zip(moved, turned, inverse, strict=True))
    rows = np.array([2, 0])
    found = _shortest.two_loop(factor, slope, memory, rows)
    for step, k in zip(found, rows, strict=True):
        h = np.linalg.inv(hessian[k])
        for s, y, rho in memory:
            s, y, rho = s[k].ravel(), y[k].ravel(), rho[k]
            left = np.eye(8) - rho * np.outer(s, y)
            h = left @ h @ left.T + rho * np.outer(s, s)
        assert_allclose(step.ravel(), h @ slope[k].ravel(), rtol=1e-8)


@pytest.mark.parametrize("n_steps", [3, 5, 9, 10, 30])
def test_a_frozen_metric_is_that_in_the_middle_of_each_piece(n_steps):
    rng = np.random.default_rng(0)

    def tensor(z):  # along a straight line, straight lines between a few places are exact
        return (3 + z @ [1.0, 0.5])[:, None, None] * np.array([[2.0, 0.5], [0.5, 1.0]])

    line = linear(*rng.uniform(size=(2, 4, 2)), np.linspace(0, 1, n_steps))
    middle = (line[:, 1:] + line[:, :-1]) / 2
    truth = tensor(middle.reshape(-1, 2)).reshape(4, n_steps - 1, 2, 2)
    found = _shortest.frozen_tensors(_path_metrics.PathMetric(None, None, tensor, 1), line)
    floor = 1e-3 * np.trace(truth, axis1=2, axis2=3).mean(axis=1) / 2
    # The mean over a few places along a line is, but for rounding to a piece, that over all.
    assert_allclose(found, truth + floor[:, None, None, None] * np.eye(2), rtol=1e-4)


def test_the_metric_of_a_decoder_is_that_of_its_jacobian():
    z = np.random.default_rng(0).uniform(0.5, 2.5, size=(7, 2))
    line = linear(z, z + 1, np.linspace(0, 1, 5))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: sphere(one[None])[0]))
    j = jacobian(torch.from_numpy(z)).numpy()
    truth = j.swapaxes(1, 2) @ j
    seen = []

    def counted(z):
        seen.append(len(z))
        return sphere(z)

    chart = _path_metrics.pullback(counted, line, "float64")
    assert_allclose(chart.tensor(z), truth, atol=3e-3)
    # One place takes two rows of three numbers: so many places at once are what memory allows.
    for held, places in ((1, 1), (12, 2), (10**6, 7)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_path_metrics, "HELD", held)
            seen.clear()
            assert_allclose(chart.tensor(z), truth, atol=3e-3)
        assert max(seen) == 2 * places


def test_the_density_is_that_of_the_notes():
    data, strength = ring(n=60), 3.0
    rng = np.random.default_rng(1)
    z, step = rng.normal(size=(20, 2)) * 3, rng.normal(size=(20, 2)) * 0.1
    found = geodesic(
        z - step, z + step, 2, metric="density", data=data, strength=strength, n_neighbors=6
    )
    apart = np.linalg.norm(data[:, None] - data, axis=2)
    near = np.sort(apart, axis=1)[:, 1:7]
    # Levina and Bickel's estimate, averaged over the data as MacKay and Ghahramani do.
    dimension = np.clip(1 / np.log(near[:, -1:] / near[:, :-1]).mean(), 1, 2)
    sigma = near[:, -1] / np.sqrt(dimension)

    def density(points, skip=False):
        kernel = np.exp(-(((points[:, None] - data) ** 2).sum(axis=2)) / (2 * sigma**2))
        return kernel.sum(axis=1) - skip

    potential = np.log(np.median(density(data, skip=True))) - np.log(density(z))
    w = (1 + strength * np.log1p(np.exp(potential))) ** 2
    assert_allclose(found.length, np.sqrt(w) * np.linalg.norm(2 * step, axis=1), rtol=1e-9)
    assert_allclose(found.energy, found.length**2)


def test_slopes_are_those_of_differences():
    rng = np.random.default_rng(0)
    points = rng.uniform(0.5, 2.5, size=(2, 4, 2))
    line = linear(points[:, 0], points[:, -1], np.linspace(0, 1, 4))
    for chart in (
        _path_metrics.pullback(sphere, line, "float64"),
        _path_metrics.density(ring(n=50), 2, 2.0, 5, 2000, 0),
    ):
        squares, gradient = chart.gradient(points)
        assert_allclose(squares, chart.squares(points))
        for where in np.ndindex(points.shape):
            moved = np.zeros_like(points)
            moved[where] = 1e-6
            change = chart.squares(points + moved) - chart.squares(points - moved)
            assert_allclose(gradient[where], change.sum() / 2e-6, rtol=1e-5, atol=1e-6)
