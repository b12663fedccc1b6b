"""Information about a cell that principal components capture."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._storage import rows_of
from .generated import log_normalize

# Most cells that are used, and the length of runs of adjacent cells, which need few blocks of a file.
MAX_CELLS, SIDE_BY_SIDE = 2_000, 50


# Largest number of principal components.
MAX_COMPONENTS = 64


def spread_over(n_obs: int) -> np.ndarray:
    """Positions of the cells that are used: all, or runs at even intervals, in increasing order."""
    if n_obs <= MAX_CELLS:
        return np.arange(n_obs)
    starts = np.linspace(0, n_obs - SIDE_BY_SIDE, MAX_CELLS // SIDE_BY_SIDE).astype(int)
    return (starts[:, None] + np.arange(SIDE_BY_SIDE)).ravel()


def pca_information(x: Any, *, counts: bool) -> np.ndarray:
    r"""Information (nats) about a cell that principal components capture, by their number.

    About gene j, they capture :math:`-\tfrac12 \log (1 - R^2_j)` nats, where :math:`R^2_j` is the fraction of
    its variance that they explain, adjusted for the degrees of freedom. Units of the values cancel.

    Parameters
    ----------
    x
        Matrix, shape ``(n_obs, n_vars)``: dense, sparse, backed or dask. If there are more than 2,000 cells,
        2,000 are used, in runs of 50 at even intervals.
    counts
        Whether the values are counts, which are log-normalized first.

    Returns
    -------
    Sums over genes for one component, two, and so on: up to 64, or fewer if there are few cells or genes.
    """
    from sklearn.decomposition import PCA

    rows = rows_of(x, spread_over(x.shape[0]))
    values = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float32)
    if counts:
        values = log_normalize(values)
    variance = values.var(axis=0, dtype=np.float64, ddof=1)
    values, variance = values[:, variance > 0], variance[variance > 0]
    free = len(values) - 1
    n_components = min(MAX_COMPONENTS, free // 2, values.shape[1] - 1)
    if n_components < 1:
        return np.zeros(0)
    pca = PCA(n_components, svd_solver="randomized", random_state=0).fit(values)
    explained = np.cumsum(np.square(pca.components_) * pca.explained_variance_[:, None], axis=0)
    spent = np.arange(1, n_components + 1)[:, None]
    left = (1 - explained / variance) * free / (free - spent)  # (n_components, n_genes)
    return -0.5 * np.log(np.clip(left, 1e-3, 1.0)).sum(axis=1)
