from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

from scivae.geometry import LinearClasses, project_to_class


def problem(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = LinearClasses(rng.normal(size=(n_classes, n_latent)), rng.normal(size=n_classes))
    z = rng.normal(size=(6, n_latent)) * 5
    label = classes.predict(rng.normal(size=n_latent) * 5)  # a class that has points
    return classes, z, int(label)


sizes = {
    "seed": st.integers(0, 2**32 - 1),
    "n_classes": st.integers(1, 12),
    "n_latent": st.integers(1, 6),
}


@given(**sizes)
@settings(deadline=None, max_examples=60)
def test_projection_is_what_an_independent_solver_finds(seed, n_classes, n_latent):
    classes, z, label = problem(seed, n_classes, n_latent)
    found = project_to_class(classes, z, label)
    others = np.arange(n_classes) != label
    sides = classes.weights[label] - classes.weights[others]
    gap = classes.bias[label] - classes.bias[others]
    for x, mine in zip(z, found, strict=True):
        truth = minimize(
            lambda y, x=x: 0.5 * np.sum((y - x) ** 2),
            mine,  # a feasible place to start: SLSQP can stall elsewhere
            jac=lambda y, x=x: y - x,
            constraints={"type": "ineq", "fun": lambda y: sides @ y + gap, "jac": lambda y: sides},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert np.linalg.norm(mine - x) <= np.linalg.norm(truth.x - x) + 1e-6
        assert (sides @ mine + gap >= 0).all()


@given(**sizes, dtype=st.sampled_from([np.float32, np.float64]), margin=st.sampled_from([-1, 0, 1]))
@settings(deadline=None)
def test_projecting_twice_and_projecting_inside_change_nothing(
    seed, n_classes, n_latent, dtype, margin
):
    classes, z, label = problem(seed, n_classes, n_latent)
    z = z.astype(dtype)
    try:
        once = project_to_class(classes, z, label, margin)
    except ValueError:
        assert margin == 1  # only a positive margin can be out of reach
        return
    inside = classes.margin(z, label) >= margin
    assert once.dtype == dtype
    assert once[inside].tobytes() == z[inside].tobytes()
    assert (classes.margin(once, label) >= margin).all()
    assert project_to_class(classes, once, label, margin).tobytes() == once.tobytes()


def test_an_empty_region_is_told_in_spite_of_rounding_errors():
    """A class between others on a line: rounding errors leave a residual that is not zero."""
    classes, z, label = problem(0, 7, 1)
    with pytest.raises(ValueError, match="must have points with a margin of at least 1"):
        project_to_class(classes, z.astype(np.float32), label, 1)


@given(**sizes)
@settings(deadline=None)
def test_no_point_of_the_class_is_nearer(seed, n_classes, n_latent):
    """The variational inequality of a projection: (x − Px) · (y − Px) <= 0 for all y inside."""
    classes, z, label = problem(seed, n_classes, n_latent)
    found = project_to_class(classes, z, label)
    many = np.random.default_rng(seed).normal(size=(400, n_latent)) * 5
    inside = many[classes.predict(many) == label]
    for x, p in zip(z, found, strict=True):
        assert ((inside - p) @ (x - p) <= 1e-6).all()


def test_each_point_can_have_its_own_class():
    classes = LinearClasses(np.array([[1.0, 0], [-1, 0], [0, 2]]), np.zeros(3))
    z = np.array([[-1.0, -1], [1, -1], [3, 0]])
    found = project_to_class(classes, z, [0, 1, 2], 1.0)
    assert_allclose(classes.margin(found, [0, 1, 2]), 1, atol=1e-12)
    assert_allclose(found[:2], [[0.5, -1], [-0.5, -1]], atol=1e-12)


def test_a_face_a_corner_and_far_away():
    classes = LinearClasses(np.array([[0.0, 0], [1, 0], [0, 1]]), np.zeros(3))  # class 0: x, y <= 0
    z = np.array([[2.0, -1], [3, 4], [1e6, 2e6], [-1, -1]])
    assert_allclose(project_to_class(classes, z, 0), [[0, -1], [0, 0], [0, 0], [-1, -1]], atol=1e-7)


def test_a_class_thinner_than_rounding_still_has_its_nearest_point():
    classes = LinearClasses(np.array([[0.0], [1], [-1]]), np.zeros(3))  # class 0: only z = 0
    assert_allclose(project_to_class(classes, [[3.0], [-2.0]], 0), 0, atol=1e-12)


def test_two_rows_alike_are_no_obstacle():
    classes = LinearClasses(np.array([[1.0, 0], [1, 0], [-1, 0]]), np.array([0.0, -1, 0]))
    assert_allclose(project_to_class(classes, [[-2.0, 5]], 0), [[0, 5]], atol=1e-12)
    assert_array_equal(project_to_class(classes, np.zeros((0, 2)), 0), np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("weights", "margin"),
    [
        ([[0.0, 0], [1, 0], [-1, 0]], 0.5),  # between two half spaces that do not meet
        ([[1.0, 0], [1, 0]], 0.5),  # equal rows: the lead is a constant
    ],
)
def test_a_class_without_points_is_named(weights, margin):
    classes = LinearClasses(np.array(weights), np.zeros(len(weights)))
    with pytest.raises(
        ValueError, match=r"class 0 must have points with a margin of at least 0\.5"
    ):
        project_to_class(classes, [[1.0, 1.0]], 0, margin)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"z": [[np.nan, 0]]}, "z must be finite"),
        ({"z": [0.0, 0]}, r"z must have shape \(n, n_latent\)"),
        ({"label": 5}, r"label must lie in \[0, 2\)"),
        ({"margin": np.nan}, "margin must be finite"),
    ],
)
def test_errors_name_the_rule_and_the_culprit(change, match):
    given = {"z": [[0.0, 0]], "label": 0, "margin": 0.0} | change
    with pytest.raises(ValueError, match=match):
        project_to_class(LinearClasses(np.eye(2), np.zeros(2)), **given)
