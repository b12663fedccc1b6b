from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from scivae.stats import roughness_penalty, spline_basis


def test_the_basis_is_that_of_scipy():
    t = np.linspace(0, 1, 31)
    basis = spline_basis(t, 7)
    knots = np.r_[0, 0, 0, np.linspace(0, 1, 5), 1, 1, 1]
    for k in range(7):
        one = BSpline.basis_element(knots[k : k + 5], extrapolate=False)(t)
        one = np.nan_to_num(one)
        if k == 6:  # scipy leaves the last knot out of its last piece
            one[-1] = 1
        np.testing.assert_allclose(basis[:, k], one, atol=1e-12)


@given(
    t=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    n_basis=st.integers(4, 12),
)
def test_rows_add_up_to_one(t, n_basis):
    basis = spline_basis(t, n_basis)
    assert basis.shape == (len(t), n_basis)
    assert (basis >= 0).all()
    np.testing.assert_allclose(basis.sum(axis=1), 1)


def test_ends_are_coefficients():
    np.testing.assert_allclose(spline_basis([0, 1], 6), np.eye(6)[[0, -1]], atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomials_of_lower_degree_cost_nothing(order):
    penalty = roughness_penalty(8, order=order)
    x = np.arange(8.0)
    for degree in range(order):
        b = x**degree
        assert b @ penalty @ b == pytest.approx(0, abs=1e-6)
    b = x**order
    assert b @ penalty @ b > 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.5, 1.2], 5), ValueError, r"t must lie in \[0, 1\], got 1.2 at position 1"),
        (([np.nan], 5), ValueError, "t must be finite, got 1 NaN .* first at position 0"),
        (([0.5], 3), ValueError, "n_basis must be at least 4, got 3"),
        ((["a"], 5), TypeError, "t must hold numbers"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        spline_basis(*arguments)
