from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from scivae.datasets import digits


def test_digits_are_those_of_scikit_learn():
    adata = digits()
    x, y = load_digits(return_X_y=True)
    np.testing.assert_array_equal(adata.X * 16, x)
    assert list(adata.obs["digit"]) == [str(digit) for digit in y]
    assert list(adata.obs["digit"].cat.categories) == [*"0123456789"]
    assert list(adata.uns["image"]["shape"]) == [8, 8]
    assert "CC BY" in adata.uns["digits"]["licence"]
