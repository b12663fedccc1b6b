import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import mean_absolute_error

from scivae.metrics import reconstruction_error


@pytest.mark.parametrize("n_rows", [1, 7, 2500])
def test_is_sklearns_mean_absolute_error(n_rows):
    rng = np.random.default_rng(0)
    x, y = rng.poisson(1.0, (n_rows, 4)).astype(float), rng.normal(size=(n_rows, 4))
    error = reconstruction_error(x, y, value_range=5.0)
    assert error.mae == pytest.approx(mean_absolute_error(x, y), rel=1e-12)
    assert error.percent == pytest.approx(mean_absolute_error(x, y) / 5 * 100, rel=1e-12)
    assert (
        reconstruction_error(np.vstack([x, [[-3, 0, 4, 0]]]), np.zeros((n_rows + 1, 4))).value_range
        == max(4, x.max()) + 3
    )


@pytest.mark.parametrize(
    "left", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array]
)
@pytest.mark.parametrize("right", [np.asarray, sparse.csr_matrix, sparse.csr_array])
def test_sparse_is_dense(left, right):
    rng = np.random.default_rng(0)
    x, y = (rng.poisson(0.5, (30, 6)) for _ in range(2))
    expected = np.abs(x - y).mean()
    error = reconstruction_error(left(x), right(y))
    assert error.mae == pytest.approx(expected, rel=1e-12)
    assert error.value_range == x.max()  # zeros that are not stored count


arrays = hnp.arrays(float, (3, 4), elements=st.integers(-64, 64).map(lambda i: i / 8))


@settings(deadline=None, max_examples=40)
@given(arrays, arrays)
def test_symmetric_zero_for_equal_and_per_cent_free_of_units(x, y):
    def mae(a, b, value_range=2.0):
        return reconstruction_error(a, b, value_range=value_range)

    assert mae(x, x).mae == 0
    assert mae(x, y).mae == mae(y, x).mae
    assert mae(x + 3, y + 3).mae == pytest.approx(mae(x, y).mae)
    assert mae(255 * x, 255 * y, 510.0).percent == pytest.approx(mae(x, y).percent)


def test_single_precision_is_summed_in_double():
    x = np.zeros((2000, 1000), dtype=np.float32)
    y = np.full_like(x, 0.1)
    assert reconstruction_error(x, y, value_range=1).mae == pytest.approx(np.float32(0.1), rel=1e-7)


@pytest.mark.parametrize(
    ("x", "y", "kwargs", "message"),
    [
        (np.ones((3, 2)), np.ones((2, 3)), {}, r"same shape, .*got \(3, 2\) and \(2, 3\)"),
        (
            np.ones((3, 2)),
            np.ones((3, 2)),
            {},
            "range of x must be above 0, got 1.0 for every value",
        ),
        (np.eye(2), np.eye(2), {"value_range": 0}, "value_range must be a finite number above 0"),
        (np.eye(2), np.eye(2) * np.nan, {}, "x_reconstructed must be finite"),
    ],
)
def test_refuses_in_one_clear_line(x, y, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        reconstruction_error(x, y, **kwargs)
    assert "\n" not in str(error.value)
