"""Checks of arguments and arrays that all folders share."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scivae._validate import arguments
from scivae._validate import arrays as validate


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, "b"], "1 of 3, the first at position 1"),
        (pd.array(["a", "b", pd.NA], dtype="string"), "1 of 3, the first at position 2"),
        (np.array(["a", np.nan], dtype=object), "1 of 2, the first at position 1"),
        (np.array([np.nan, 1.0, np.nan]), "2 of 3, the first at position 0"),
        (pd.Categorical(["a", None]), "1 of 2"),
        ([], "at least one label"),
        ([["a"], ["b"]], "one-dimensional"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        validate.as_labels("y", labels)


def test_labels_of_mixed_type_are_refused():
    with pytest.raises(TypeError, match=r"y must be labels of one type, got int, str; .*astype"):
        validate.as_labels("y", np.array(["a", 1], dtype=object))


@pytest.mark.parametrize(
    "labels", [["a", "b"], pd.Series(["a", "b"]), pd.Categorical(["a", "b"]), np.array([1, 2])]
)
def test_good_labels_come_back_as_they_were(labels):
    assert validate.as_labels("y", labels).tolist() == list(labels)


def test_sparse_stays_sparse_and_dense_stays_dense():
    x = np.arange(6).reshape(2, 3)
    kept = validate.as_matrix("x", sparse.csc_matrix(x))
    assert sparse.issparse(kept)
    assert kept.format == "csr"
    assert kept.dtype == np.float64
    assert validate.as_matrix("x", x.astype(np.float32)).dtype == np.float32
    np.testing.assert_array_equal(validate.as_points("x", sparse.csr_matrix(x)), x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(3), r"two-dimensional .* got shape \(3,\); .* pass values\[:, None\]"),
        (np.ones((3, 0)), "at least one column"),
        (np.ones((1, 3)), "at least 2 rows, got 1"),
        (np.array([[1.0, np.inf], [np.nan, 1.0]]), "finite, got 2 NaN or infinite values of 4"),
        (sparse.csr_matrix([[1.0, 0.0], [0.0, np.nan]]), "finite, got 1 NaN"),
    ],
)
def test_bad_matrices_are_refused(x, message):
    with pytest.raises(ValueError, match=f"x (must|needs).*{message}"):
        validate.as_points("x", x, min_rows=2)


def test_text_is_not_a_matrix():
    with pytest.raises(TypeError, match="x must hold numbers"):
        validate.as_matrix("x", [["a", "b"]])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "k must be at least 1, got 0"),
        (11, ValueError, "k must be at most 10, got 11"),
        (2.0, TypeError, "k must be an integer, got 2.0"),
        (True, TypeError, "k must be an integer, got True"),
        ("3", TypeError, "k must be an integer, got '3'"),
    ],
)
def test_integers_in_range(value, error, message):
    with pytest.raises(error, match=message):
        arguments.check_integer("k", value, minimum=1, maximum=10)


def test_subsample_draws_without_replacement_and_only_where_needed():
    x = np.arange(20.0)[:, None]
    drawn = validate.subsample(x, 10, np.random.default_rng(0))
    assert len(np.unique(drawn)) == 10
    assert validate.subsample(x, 20, np.random.default_rng(0)) is x
    assert validate.subsample(x, None, np.random.default_rng(0)) is x


def test_the_least_that_is_enough():
    assert validate.as_matrix("x", np.ones((2, 1)), min_rows=2).shape == (2, 1)
    assert validate.as_matrix("x", np.ones((1, 1))).shape == (1, 1)
    assert validate.as_vector("x", [1, 2], min_size=2).tolist() == [1, 2]
    assert validate.as_vector("x", [1]).tolist() == [1]
    assert validate.as_paths("x", np.ones((3, 1))).shape == (1, 3, 1)
    assert validate.as_paths("x", np.ones((2, 3, 1))).shape == (2, 3, 1)
    assert validate.as_labels("y", ["a"]).tolist() == ["a"]
    validate.check_two_classes("y", np.array(["a", "b"]))
    for value in (1, np.int64(10)):
        found = arguments.check_integer("k", value, minimum=1, maximum=10)
        assert (found, type(found)) == (value, int)
    assert arguments.check_positive("width", 1e-300) == 1e-300


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: validate.as_vector("x", [[1.0, 2.0]]), r"one-dimensional .* got shape \(1, 2\)"),
        (lambda: validate.as_vector("x", []), "with at least 1 values"),
        (lambda: validate.as_vector("x", [1, 2], min_size=3), "with at least 3 values"),
        (lambda: validate.as_vector("x", [1, np.inf]), "finite, got 1 NaN or infinite values of 2"),
        (lambda: validate.as_paths("x", np.ones((2, 4))), "with at least 3 steps"),
        (lambda: validate.as_paths("x", np.ones(4)), r"got shape \(4,\)"),
        (lambda: validate.as_paths("x", np.ones((1, 1, 3, 1))), r"got shape \(1, 1, 3, 1\)"),
        (lambda: validate.as_paths("x", np.ones((0, 3, 1))), r"got shape \(0, 3, 1\)"),
        (lambda: validate.as_paths("x", np.full((3, 1), np.nan)), "finite, got 3"),
        (lambda: validate.check_two_classes("y", np.array(["a", "a"])), "got only a;"),
        (lambda: arguments.check_positive("width", 0), "above 0, got 0"),
        (lambda: arguments.check_positive("width", np.inf), "finite number above 0, got inf"),
        (lambda: arguments.check_choice("kind", "c", ("a", "b")), "one of 'a', 'b', got 'c'"),
        (lambda: arguments.check_integer("k", 0, minimum=1), "must be at least 1, got 0"),
        (lambda: validate.check_rows("y", np.ones(2), "x", np.ones((3, 2))), "got 2 labels for 3"),
        (lambda: validate.check_columns("a", np.ones((2, 3)), "b", np.ones((2, 4))), "got 3 and 4"),
        (lambda: validate.check_same_shape("a", np.ones(2), "b", np.ones(3)), r"got \(2,\) and"),
    ],
)
def test_what_is_refused_and_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a", r"got 1 unknown label \('a'\)"),
        ("ba", r"got 2 unknown labels \('a', 'b'\)"),
        ("abcde", r"got 5 unknown labels \('a', 'b', 'c', 'd', 'e'\)"),
        ("abcdef", r"got 6 unknown labels \('a', 'b', 'c', 'd', 'e', …\)"),
    ],
)
def test_unknown_labels_are_shown_up_to_five(labels, message):
    with pytest.raises(ValueError, match=message):
        validate.check_known("y", np.array([*labels, "x"]), "the classes", np.array(["x", "z"]))
    validate.check_known("y", np.array(["x"]), "the classes", np.array(["x", "z"]))


def test_three_dimensions_are_no_matrix():
    with pytest.raises(ValueError, match=r"x must be two-dimensional .* got shape \(2, 3, 4\)"):
        validate.as_points("x", np.zeros((2, 3, 4)))
