from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from scivae.geometry import (
    LinearClasses,
    polyline_crossings,
    polyline_margin,
    segment_crossings,
    segment_margin,
)


def random_classes(rng: np.random.Generator, n_classes: int, n_latent: int) -> LinearClasses:
    return LinearClasses(rng.normal(size=(n_classes, n_latent)), rng.normal(size=n_classes))


def class_at(crossings, classes, start, t):
    """The class at t as the crossings tell it, for one path: what a user would do with them."""
    label = int(classes.predict(start))
    for when, before, after in zip(crossings.t, crossings.before, crossings.after, strict=True):
        assert before == label
        if when > t:
            return before
        label = after
    return label


sizes = {
    "seed": st.integers(0, 2**32 - 1),
    "n_classes": st.integers(1, 9),
    "n_latent": st.integers(1, 6),
}


@given(**sizes)
@settings(deadline=None, max_examples=60)
def test_crossings_agree_with_a_dense_grid(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    start, end = rng.normal(size=(2, 4, n_latent)) * 3
    crossings = segment_crossings(classes, start, end)
    assert_array_equal(np.lexsort((crossings.t, crossings.path)), np.arange(crossings.t.size))
    grid = rng.uniform(size=200)
    for i in range(4):
        mine = type(crossings)(*(column[crossings.path == i] for column in crossings))
        for t in grid[np.abs(grid[:, None] - mine.t).min(axis=1, initial=1) > 1e-9]:
            truth = np.argmax(classes.weights @ ((1 - t) * start[i] + t * end[i]) + classes.bias)
            assert class_at(mine, classes, start[i], t) == truth
        assert class_at(mine, classes, start[i], 1.0) == classes.predict(end[i])


@given(**sizes)
@settings(deadline=None)
def test_at_a_crossing_both_classes_tie_above_all_others(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    start, end = rng.normal(size=(2, 5, n_latent))
    path, t, before, after = segment_crossings(classes, start, end)
    logits = classes.logits(start[path] + t[:, None] * (end - start)[path])
    rows = np.arange(path.size)
    assert_allclose(logits[rows, before], logits[rows, after], atol=1e-9)
    assert_allclose(logits[rows, before], logits.max(axis=1, initial=-np.inf), atol=1e-9)
    assert (before != after).all()


@given(**sizes)
@settings(deadline=None)
def test_a_segment_between_two_points_of_a_class_never_leaves_it(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    z = rng.normal(size=(60, n_latent)) * 4
    label = classes.predict(z)
    start, end = np.array([(i, j) for i in range(60) for j in range(i) if label[i] == label[j]]).T
    assert segment_crossings(classes, z[start], z[end]).t.size == 0
    assert (segment_margin(classes, z[start], z[end], label[start]) >= 0).all()


@given(**sizes)
@settings(deadline=None)
def test_margin_of_a_segment_is_the_minimum_over_a_dense_grid(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    start, end = rng.normal(size=(2, 7, n_latent))
    label = rng.integers(n_classes, size=7)
    exact = segment_margin(classes, start, end, label)
    t = np.linspace(0, 1, 101)[None, :, None]
    grid = start[:, None] * (1 - t) + end[:, None] * t
    assert_allclose(exact, classes.margin(grid, label[:, None]).min(axis=1), atol=1e-12)


@given(**sizes)
@settings(deadline=None)
def test_permuting_the_classes_permutes_the_answer(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    order = rng.permutation(n_classes)  # new class k is old class order[k]
    permuted = LinearClasses(classes.weights[order], classes.bias[order])
    start, end = rng.normal(size=(2, 5, n_latent))
    old, new = (segment_crossings(c, start, end) for c in (classes, permuted))
    assert_array_equal(new.path, old.path)
    assert_allclose(new.t, old.t, atol=1e-12)
    assert_array_equal(order[new.before], old.before)
    assert_array_equal(order[new.after], old.after)


@given(**sizes)
@settings(deadline=None)
def test_walking_backwards_meets_the_same_crossings(seed, n_classes, n_latent):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    start, end = rng.normal(size=(2, 1, n_latent))
    there, back = segment_crossings(classes, start, end), segment_crossings(classes, end, start)
    assert_allclose(there.t, 1 - back.t[::-1], atol=1e-9)
    assert_array_equal(there.before, back.after[::-1])


@given(**sizes, n_steps=st.integers(2, 6))
@settings(deadline=None)
def test_a_straight_polyline_is_its_segment(seed, n_classes, n_latent, n_steps):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    start, end = rng.normal(size=(2, 3, n_latent))
    t = np.linspace(0, 1, n_steps)[:, None]
    points = start[:, None] * (1 - t) + end[:, None] * t
    whole, pieces = segment_crossings(classes, start, end), polyline_crossings(classes, points)
    assert_array_equal(pieces.path, whole.path)
    assert_allclose(pieces.t, whole.t, atol=1e-9)
    assert_array_equal(pieces.after, whole.after)
    label = rng.integers(n_classes, size=3)
    assert_allclose(
        polyline_margin(classes, points, label), segment_margin(classes, start, end, label)
    )


@given(
    weights=st.lists(st.integers(-2, 2), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    ends=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
)
@settings(deadline=None, max_examples=150)
def test_ties_are_resolved_as_argmax_does(weights, seed, ends):
    """Small integers: parallel lines, equal lines, several crossings at one t, ties at the ends."""
    bias = np.random.default_rng(seed).integers(-2, 3, size=len(weights)).astype(float)
    classes = LinearClasses(np.array(weights, float)[:, None], bias)
    start, end = (np.array([float(e)]) for e in ends)
    crossings = segment_crossings(classes, start, end)
    assert (np.diff(crossings.t) > 0).all()
    for t in np.linspace(0, 1, 48)[1:-1] + 1e-4:  # generic: no tie can lie there
        truth = np.argmax(classes.weights[:, 0] * ((1 - t) * start + t * end) + bias)
        assert class_at(crossings, classes, start, t) == truth
    assert class_at(crossings, classes, start, 1.0) == classes.predict(end)
    if ends[0] == ends[1]:
        assert crossings.t.size == 0


def test_three_lines_through_one_point_make_one_crossing():
    classes = LinearClasses(np.array([[-1.0], [0.0], [1.0]]), np.zeros(3))
    path, t, before, after = segment_crossings(classes, [-2.0], [2.0])
    assert (path.tolist(), t.tolist(), before.tolist(), after.tolist()) == ([0], [0.5], [0], [2])


def test_one_class_has_no_boundary():
    classes = LinearClasses(np.ones((1, 2)), np.zeros(1))
    assert classes.margin(np.zeros((3, 2)), 0).tolist() == [np.inf] * 3
    assert segment_crossings(classes, np.zeros((3, 2)), np.ones((3, 2))).t.size == 0


def test_no_segments_no_crossings():
    classes = LinearClasses(np.eye(2), np.zeros(2))
    empty = segment_crossings(classes, np.zeros((0, 2)), np.zeros((0, 2)))
    assert [column.shape for column in empty] == [(0,)] * 4


def test_margin_is_positive_exactly_where_the_class_is_predicted():
    rng = np.random.default_rng(0)
    classes = random_classes(rng, 5, 3)
    z = rng.normal(size=(4, 50, 3))
    margins = np.stack([classes.margin(z, k) for k in range(5)], axis=-1)
    assert_array_equal(margins.argmax(axis=-1), classes.predict(z))
    assert_array_equal((margins > 0).sum(axis=-1), 1)


def test_many_pairs_and_classes_are_fast():
    rng = np.random.default_rng(0)
    classes = random_classes(rng, 60, 20)
    start, end = rng.normal(size=(2, 10_000, 20))
    began = time.perf_counter()
    segment_crossings(classes, start, end)
    assert time.perf_counter() - began < 5  # 0.3 s unhurried


two = LinearClasses(np.eye(2), np.zeros(2))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: two.logits([np.nan, 0]), r"z must be finite, got nan at index \(0,\)"),
        (lambda: two.logits([0.0, 1, 2]), r"z must have length n_latent = 2.*\(3,\)"),
        (lambda: two.margin([0.0, 1], 2), r"label must lie in \[0, 2\).*got 2"),
        (lambda: two.margin([0.0, 1], -1), r"label must lie in \[0, 2\).*got -1"),
        (lambda: two.margin([0.0, 1], 0.5), "label must be the integer index"),
        (lambda: two.margin(np.zeros((3, 2)), [0, 1]), r"broadcast.*\(3,\).*\(2,\)"),
        (
            lambda: segment_crossings(two, np.zeros((3, 2)), np.zeros((2, 2))),
            r"have the same shape.*\(3, 2\) and \(2, 2\)",
        ),
        (lambda: polyline_crossings(two, np.zeros((3, 1, 2))), "at least 2 points.*n_steps = 1"),
        (lambda: polyline_margin(two, np.zeros((3, 2)), 0), r"points must have shape \(n, n_s"),
        (
            lambda: LinearClasses(np.eye(2), np.zeros(3)).logits([0.0, 0.0]),
            r"weights must have shape.*\(2, 2\) and \(3,\)",
        ),
        (lambda: two.logits(np.array(["a", "b"])), "z must hold real numbers"),
    ],
)
def test_errors_name_the_rule_and_the_culprit(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@given(**sizes, n_steps=st.integers(2, 5))
@settings(deadline=None, max_examples=40)
def test_bent_paths_agree_with_a_dense_grid(seed, n_classes, n_latent, n_steps):
    rng = np.random.default_rng(seed)
    classes = random_classes(rng, n_classes, n_latent)
    points = rng.normal(size=(3, n_steps, n_latent)) * 3
    crossings = polyline_crossings(classes, points)
    margins = [polyline_margin(classes, points, np.full(3, k)) for k in range(n_classes)]
    grid = np.linspace(0, 1, 60 * (n_steps - 1) + 1)  # the vertices are on it
    for i in range(3):
        at = np.stack(
            [np.interp(grid * (n_steps - 1), np.arange(n_steps), x) for x in points[i].T], axis=1
        )
        for k in range(n_classes):
            assert_allclose(margins[k][i], classes.margin(at, k).min(), atol=1e-9)
        mine = type(crossings)(*(column[crossings.path == i] for column in crossings))
        for t, z in zip(grid, at, strict=True):
            if np.abs(mine.t - t).min(initial=1) > 1e-9:
                assert class_at(mine, classes, points[i, 0], t) == classes.predict(z)
