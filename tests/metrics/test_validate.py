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
    with pytest.raises(TypeError, match=r"y must be labels of one type: got int, str; .*astype"):
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
        (np.ones((1, 3)), "at least 2 rows: got 1"),
        (np.array([[1.0, np.inf], [np.nan, 1.0]]), "finite: got 2 NaN or infinite of 4"),
        (sparse.csr_matrix([[1.0, 0.0], [0.0, np.nan]]), "finite: got 1 NaN"),
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
