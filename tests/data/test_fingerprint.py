"""A change of a matrix is noticed, wherever it is; another way to store it is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scivae.data.fingerprint import Fingerprint, row_numbers

STORAGE = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_matrix,
    "csr_array": sparse.csr_array,
}


def matrix(n=150, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).poisson(0.5, size=(n, 7)).astype(dtype)


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8, np.float16])
def test_every_change_is_noticed(storage, dtype):
    if dtype is np.float16 and storage not in ("dense", "fortran"):
        pytest.skip("scipy has no sparse halves")
    x = STORAGE[storage](matrix(dtype=dtype))
    before = Fingerprint(x)
    everything = np.arange(x.shape[0])
    assert before.holds(x)
    assert before.holds(x, every_row=True)
    assert before.holds(x, everything)
    values = x.data if sparse.issparse(x) else x
    for place in (0, len(values) // 2, len(values) - 1):
        kept = values[place].copy()
        values[place] = kept + 1
        assert not before.holds(x, everything)
        assert not before.holds(x, every_row=True)
        values[place] = kept
    assert before.holds(x, everything)
    values += 1
    assert not before.holds(x)  # a look at some of it is enough where all has changed


@given(st.integers(0, 149), st.integers(0, 149))
@settings(max_examples=50, deadline=None)
def test_rows_that_are_asked_for_are_looked_at(changed, asked):
    for convert in (np.asarray, sparse.csr_matrix):
        x = convert(matrix() + 1)
        before = Fingerprint(x)
        (x.data if sparse.issparse(x) else x.ravel())[7 * changed] += 3
        if changed == asked:
            assert not before.holds(x, np.array([asked]))
        if changed // 32 != asked // 32:  # what is not asked for is not read
            assert before.holds(x, np.array([asked]))


def test_columns_that_change_places_are_noticed():
    x = matrix()
    for y in (x, sparse.csr_matrix(x)):
        assert not Fingerprint(y).holds(y[:, ::-1].copy())


def test_empty_and_tiny():
    for x in (
        np.zeros((3, 2)),
        sparse.csr_matrix((5, 4)),
        sparse.csc_matrix((5, 4)),
        np.zeros((4, 0)),
        sparse.csr_matrix((0, 4)),
        np.zeros((1, 1)),
    ):
        assert Fingerprint(x).holds(x)
        assert Fingerprint(x).holds(x, np.arange(x.shape[0]))
        assert Fingerprint(x).holds(x, every_row=True)


@pytest.mark.parametrize("storage", STORAGE)
def test_numbers_of_rows_depend_on_values_alone(storage):
    x = matrix()
    expected = row_numbers(x)
    np.testing.assert_array_equal(row_numbers(STORAGE[storage](x)), expected)
    np.testing.assert_array_equal(row_numbers(STORAGE[storage](x.astype(np.int64))), expected)
    np.testing.assert_array_equal(row_numbers(np.where(x == 0, -0.0, x)), expected)
    assert len(np.unique(expected)) == len(np.unique(x, axis=0))
    assert not (row_numbers(x[:, ::-1]) == expected).all()
