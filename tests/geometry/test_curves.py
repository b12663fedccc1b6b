from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation, Slerp

from scivae import geometry

values = st.floats(-1e3, 1e3, width=32)
pairs = st.integers(1, 5).flatmap(
    lambda d: st.tuples(*(arrays(np.float32, (3, d), elements=values) for _ in range(2)))
)
t = np.array([0, 0.1, 0.25, 0.5, 0.7, 1])


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@given(pairs, st.sampled_from([np.float32, np.float64]))
@settings(deadline=None)
def test_linear_keeps_its_ends_bit_for_bit(ends, dtype):
    start, end = (e.astype(dtype) for e in ends)
    points = geometry.linear(start, end, t)
    assert same_bits(points[:, 0], start)
    assert same_bits(points[:, -1], end)
    assert_allclose(
        points, (1 - t)[:, None] * start[:, None] + t[:, None] * end[:, None], rtol=1e-4, atol=1e-3
    )


@given(pairs, st.sampled_from([np.float32, np.float64]))
@settings(deadline=None)
def test_spherical_keeps_its_ends_bit_for_bit(ends, dtype):
    start, end = (e.astype(dtype) for e in ends)
    try:
        points = geometry.spherical(start, end, t)
    except ValueError as error:
        assert "exactly opposite" in str(error)  # noqa: PT017
        return
    assert same_bits(points[:, 0], start)
    assert same_bits(points[:, -1], end)
    assert np.isfinite(points).all()


def test_minus_zero_and_repeated_ends_stay():
    start, end = np.array([[-0.0, 1.0]]), np.array([[2.0, -0.0]])
    for curve in (geometry.linear, geometry.spherical):
        points = curve(start, end, [0, 0, 1, 1])
        assert same_bits(points[0, 1:3], np.vstack([start, end]))


def test_spherical_is_scipys_slerp_in_three_dimensions():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 6, 3))
    points = geometry.spherical(start, end, t)
    for i in range(6):
        axis = np.cross(start[i], end[i])
        cosine = start[i] @ end[i] / np.linalg.norm(start[i]) / np.linalg.norm(end[i])
        turn = axis / np.linalg.norm(axis) * np.arccos(cosine)
        slerp = Slerp([0, 1], Rotation.from_rotvec([np.zeros(3), turn]))
        turned = slerp(t).apply(start[i] / np.linalg.norm(start[i]))
        norms = np.linalg.norm(start[i]) ** (1 - t) * np.linalg.norm(end[i]) ** t
        assert_allclose(points[i], turned * norms[:, None], atol=1e-12)


@given(st.floats(1e-12, np.pi - 1e-6), st.floats(1e-3, 1e3))
def test_spherical_angles_and_norms_are_even(angle, ratio):
    start = np.array([[1.0, 0, 0]])
    end = ratio * np.array([[np.cos(angle), np.sin(angle), 0]])
    points = geometry.spherical(start, end, t)[0]
    assert_allclose(np.arctan2(points[:, 1], points[:, 0]), t * angle, rtol=1e-6, atol=1e-15)
    assert_allclose(np.linalg.norm(points, axis=1), ratio**t, rtol=1e-12)


def test_spherical_without_a_direction_or_an_angle_is_straight():
    origin, a = np.zeros((1, 2)), np.array([[1.0, 2.0]])
    assert_array_equal(geometry.spherical(origin, a, t), geometry.linear(origin, a, t))
    assert_array_equal(geometry.spherical(origin, origin, t), np.zeros((1, 6, 2)))
    assert_allclose(geometry.spherical(a, 4 * a, [0.5]), [2 * a])
    assert_allclose(geometry.spherical(a, a, t), np.broadcast_to(a, (1, 6, 2)))
    huge = 1e200 * a
    assert_allclose(geometry.spherical(huge, huge[:, ::-1], t).max(), 1e200 * np.sqrt(5), rtol=0.2)


def test_arc_length_of_a_fine_ellipse_is_its_integral():
    phi = np.linspace(0, 2, 20_001)
    ellipse = np.stack([3 * np.cos(phi), np.sin(phi)], axis=1)
    truth, _ = quad(lambda p: np.hypot(3 * np.sin(p), np.cos(p)), 0, 2)
    assert_allclose(geometry.arc_length(ellipse[None]), [truth], rtol=1e-7)


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(2, 30))
@settings(deadline=None)
def test_resampled_points_lie_on_the_path_and_equally_far_along_it(seed, n_old, n_steps):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(3, n_old, 2))
    points[0, n_old // 2] = points[0, n_old // 2 - 1]  # a step without length
    new = geometry.resample(points, n_steps)
    assert same_bits(new[:, 0], points[:, 0])
    assert same_bits(new[:, -1], points[:, -1])
    lengths = geometry.arc_length(points)
    for i in range(3):
        old_at = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points[i], axis=0), axis=1))]
        wanted = np.linspace(0, lengths[i], n_steps)
        for j in range(2):
            assert_allclose(new[i, :, j], np.interp(wanted, old_at, points[i, :, j]), atol=1e-9)


def test_resampling_a_path_without_length_stays():
    assert_array_equal(geometry.resample(np.ones((1, 4, 3)), 6), np.ones((1, 6, 3)))
    assert geometry.resample(np.ones((0, 4, 3), np.float32), 6).dtype == np.float32


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 4), st.integers(1, 50))
@settings(deadline=None)
def test_projection_is_the_minimum_over_every_piece(seed, n_steps, n_latent, chunk):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(3, n_steps, n_latent)) + 1e3  # far from the origin: cancellation
    points[1, 1] = points[1, 0]  # a step without length
    x = rng.normal(size=(8, n_latent)) + 1e3
    t, distance, path = geometry.project_to_polyline(x, points, chunk=chunk)

    def place(i, when):
        step = np.minimum((when * (n_steps - 1)).astype(int), n_steps - 2)
        part = (when * (n_steps - 1) - step)[:, None]
        return points[i, step] * (1 - part) + points[i, step + 1] * part

    for m in range(8):
        assert np.isclose(np.linalg.norm(place(path[m], t[m : m + 1])[0] - x[m]), distance[m])
        for i in range(3):
            for step in range(n_steps - 1):
                a, b = points[i, step], points[i, step + 1]
                truth = minimize_scalar(
                    lambda s, a=a, b=b, m=m: np.sum((a + s * (b - a) - x[m]) ** 2),
                    bounds=(0, 1),
                    method="bounded",
                )
                assert distance[m] <= np.sqrt(truth.fun) + 1e-9


def test_projection_of_points_on_the_paths_finds_them():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 6, 5))
    path, when = rng.integers(40, size=300), rng.uniform(size=300)
    step = (when * 5).astype(int)
    part = (when * 5 - step)[:, None]
    x = points[path, step] * (1 - part) + points[path, step + 1] * part
    found = geometry.project_to_polyline(x, points)
    assert_array_equal(found.path, path)
    assert_allclose(found.t, when, atol=1e-12)
    assert_allclose(found.distance, 0, atol=1e-12)


def test_projection_of_many_points_is_fast():
    rng = np.random.default_rng(0)
    x, points = rng.normal(size=(5_000, 20)), rng.normal(size=(1_000, 2, 20))
    began = time.perf_counter()
    geometry.project_to_polyline(x, points)
    assert time.perf_counter() - began < 5  # 0.05 s unhurried


line = np.zeros((1, 2, 3))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: geometry.linear([0.0], [1.0], [-0.5, 1]),
            r"t must lie in \[0, 1\], got -0.5 at position 0",
        ),
        (
            lambda: geometry.linear([0.0], [1.0], [0, 1.5]),
            r"t must lie in \[0, 1\], got 1.5 at position 1",
        ),
        (lambda: geometry.linear([0.0], [1.0], 0.5), r"t must have shape \(n_steps,\)"),
        (lambda: geometry.linear([0.0], [np.inf], [0]), "end must be finite, got inf"),
        (lambda: geometry.linear([], [], [0]), "latent dimensions"),
        (
            lambda: geometry.spherical([[1.0, 0], [1, 2]], [[1.0, 0], [-2, -4]], [0.5]),
            "exactly opposite.*pair 1",
        ),
        (lambda: geometry.resample(line, 1), "n_steps must be at least 2, got 1"),
        (lambda: geometry.resample(line, 2.0), "n_steps must be an integer"),
        (lambda: geometry.arc_length(line[:, :1]), "at least 2 points"),
        (lambda: geometry.project_to_polyline(np.zeros((2, 2)), line), "n_latent = 3"),
        (lambda: geometry.project_to_polyline(np.zeros((2, 3)), line[:0]), "at least one path"),
        (lambda: geometry.project_to_polyline(np.zeros((2, 3)), line, chunk=0), "chunk must be"),
    ],
)
def test_errors_name_the_rule_and_the_culprit(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()
