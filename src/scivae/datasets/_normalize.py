"""Log-normalization of counts."""

from __future__ import annotations

import numpy as np
from scipy import sparse

# Counts per cell after normalization: X = log1p(counts * TARGET_SUM / total of the cell).
TARGET_SUM = 1e4


def log_normalize(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Natural logarithm of one plus counts per 10,000.

    The same as ``scanpy.pp.normalize_total(target_sum=1e4)`` followed by ``scanpy.pp.log1p``.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)``, CSR. Not changed.

    Returns
    -------
    ``(n_cells, n_genes)``, CSR, float32. Cells without counts stay zero.
    """
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scale = np.divide(TARGET_SUM, total, out=np.zeros_like(total), where=total > 0)
    data = counts.data.astype(np.float32)
    data *= np.repeat(scale.astype(np.float32), np.diff(counts.indptr))
    np.log1p(data, out=data)
    return sparse.csr_matrix(
        (data, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape
    )
