from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from scivae.datasets._normalize import log_normalize


@settings(max_examples=30, deadline=None)
@given(
    counts=arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 1000)
    )
)
def test_the_same_as_scanpy(counts):
    matrix = sparse.csr_matrix(counts)
    expected = ad.AnnData(matrix.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on cells without a count
        sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    found = log_normalize(matrix)
    np.testing.assert_allclose(found.toarray(), expected.X.toarray(), rtol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(matrix.toarray(), counts)
    assert not np.shares_memory(found.indices, matrix.indices)
