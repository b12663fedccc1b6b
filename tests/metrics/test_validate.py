"""The refusals that all metrics share."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scivae.metrics import _validate as validate


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
        validate.as_labels(labels, "y")


def test_labels_of_mixed_type_are_refused():
    with pytest.raises(TypeError, match=r"y must be labels of one type, got int, str; .*astype"):
        validate.as_labels(np.array(["a", 1], dtype=object), "y")


@pytest.mark.parametrize(
    "labels", [["a", "b"], pd.Series(["a", "b"]), pd.Categorical(["a", "b"]), np.array([1, 2])]
)
def test_good_labels_come_back_as_they_were(labels):
    assert validate.as_labels(labels, "y").tolist() == list(labels)


def test_sparse_stays_sparse_and_dense_stays_dense():
    x = np.arange(6).reshape(2, 3)
    kept = validate.as_matrix(sparse.csc_matrix(x), "x")
    assert sparse.issparse(kept)
    assert kept.format == "csr"
    assert kept.dtype == np.float64
    assert validate.as_matrix(x.astype(np.float32), "x").dtype == np.float32
    np.testing.assert_array_equal(validate.as_points(sparse.csr_matrix(x), "x"), x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(3), r"two-dimensional .* got shape \(3,\); turn .* values\[:, None\]"),
        (np.ones((3, 0)), "at least one column"),
        (np.ones((1, 3)), "at least 2 rows, got 1"),
        (np.array([[1.0, np.inf], [np.nan, 1.0]]), "finite, got 2 NaN or infinite of 4"),
        (sparse.csr_matrix([[1.0, 0.0], [0.0, np.nan]]), "finite, got 1 NaN"),
    ],
)
def test_bad_matrices_are_refused(x, message):
    with pytest.raises(ValueError, match=f"x (must|needs).*{message}"):
        validate.as_points(x, "x", min_rows=2)


def test_text_is_not_a_matrix():
    with pytest.raises(TypeError, match="x must be numbers"):
        validate.as_matrix([["a", "b"]], "x")


@pytest.mark.parametrize("value", [0, 11, 2.0, True, "3"])
def test_integers_in_range(value):
    with pytest.raises(ValueError, match="k must be an integer of at least 1 and at most 10"):
        validate.check_integer(value, "k", minimum=1, maximum=10)


def test_subsample_draws_without_replacement_and_only_where_needed():
    x = np.arange(20.0)[:, None]
    drawn = validate.subsample(x, 10, np.random.default_rng(0))
    assert len(np.unique(drawn)) == 10
    assert validate.subsample(x, 20, np.random.default_rng(0)) is x
    assert validate.subsample(x, None, np.random.default_rng(0)) is x


def test_the_least_that_is_enough():
    assert validate.as_matrix(np.ones((2, 1)), "x", min_rows=2).shape == (2, 1)
    assert validate.as_matrix(np.ones((1, 1)), "x").shape == (1, 1)
    assert validate.as_vector([1, 2], "x", min_size=2).tolist() == [1, 2]
    assert validate.as_vector([1], "x").tolist() == [1]
    assert validate.as_paths(np.ones((3, 1)), "x").shape == (1, 3, 1)
    assert validate.as_paths(np.ones((2, 3, 1)), "x").shape == (2, 3, 1)
    assert validate.as_labels(["a"], "y").tolist() == ["a"]
    validate.check_two_classes(np.array(["a", "b"]), "y")
    for value in (1, np.int64(10)):
        found = validate.check_integer(value, "k", minimum=1, maximum=10)
        assert (found, type(found)) == (value, int)
    assert validate.check_positive(1e-300, "width") == 1e-300


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: validate.as_vector([[1.0, 2.0]], "x"), r"one-dimensional .* got shape \(1, 2\)"),
        (lambda: validate.as_vector([], "x"), "with at least 1 values"),
        (lambda: validate.as_vector([1, 2], "x", min_size=3), "with at least 3 values"),
        (lambda: validate.as_vector([1, np.inf], "x"), "finite, got 1 NaN or infinite of 2"),
        (lambda: validate.as_paths(np.ones((2, 4)), "x"), "with at least 3 steps"),
        (lambda: validate.as_paths(np.ones(4), "x"), r"got shape \(4,\)"),
        (lambda: validate.as_paths(np.ones((1, 1, 3, 1)), "x"), r"got shape \(1, 1, 3, 1\)"),
        (lambda: validate.as_paths(np.ones((0, 3, 1)), "x"), r"got shape \(0, 3, 1\)"),
        (lambda: validate.as_paths(np.full((3, 1), np.nan), "x"), "finite, got 3"),
        (lambda: validate.check_two_classes(np.array(["a", "a"]), "y"), "got only a;"),
        (lambda: validate.check_positive(0, "width"), "above 0, got 0"),
        (lambda: validate.check_positive(np.inf, "width"), "finite number above 0, got inf"),
        (lambda: validate.check_option("c", "kind", ("a", "b")), "one of 'a', 'b', got 'c'"),
        (lambda: validate.check_integer(0, "k", minimum=1), "integer of at least 1, got 0"),
        (lambda: validate.check_rows(np.ones(2), "y", np.ones((3, 2)), "x"), "got 2 labels for 3"),
        (lambda: validate.check_columns(np.ones((2, 3)), "a", np.ones((2, 4)), "b"), "got 3 and 4"),
        (lambda: validate.check_same_shape(np.ones(2), "a", np.ones(3), "b"), r"got \(2,\) and"),
    ],
)
def test_what_is_refused_and_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a", r"got 1 that is not \('a'\)"),
        ("ba", r"got 2 that are not \('a', 'b'\)"),
        ("abcde", r"got 5 that are not \('a', 'b', 'c', 'd', 'e'\)"),
        ("abcdef", r"got 6 that are not \('a', 'b', 'c', 'd', 'e', …\)"),
    ],
)
def test_unknown_labels_are_shown_up_to_five(labels, message):
    with pytest.raises(ValueError, match=message):
        validate.check_known(np.array([*labels, "x"]), "y", np.array(["x", "z"]), "the classes")
    validate.check_known(np.array(["x"]), "y", np.array(["x", "z"]), "the classes")


def test_three_dimensions_are_no_matrix():
    with pytest.raises(ValueError, match=r"x must be two-dimensional .* got shape \(2, 3, 4\)"):
        validate.as_points(np.zeros((2, 3, 4)), "x")
