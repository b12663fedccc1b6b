"""The weight of the discriminator, where the user leaves it to the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._checks import rows_of
from ._generated import log_normalize

# Cells that are looked at, at most.
MAX_CELLS = 2_000
# Weight of a label, as a share of what a linear code of the same size tells of a cell.
SHARE = 0.8


def auto_discriminator_weight(x: Any, n_latent: int, *, counts: bool) -> float:
    r"""Discriminator weight in proportion to what a latent space can tell of a cell.

    A label pulls at a latent point with :math:`\beta` nats; what holds it back is the reconstruction,
    also in nats, of which there are more the more genes there are and the more deeply cells are sequenced. A
    linear code of ``n_latent`` dimensions (principal components) tells of gene j, in nats,
    :math:`-\tfrac12 \log (1 - R^2_j)` with the share :math:`R^2_j` of its variance that it explains, adjusted
    for the dimensions it took. The weight is :data:`SHARE` times the sum over genes; units of the values cancel.

    Parameters
    ----------
    x
        Matrix, shape ``(n_obs, n_vars)``: dense, sparse, backed or dask. Of more than 2,000 cells, as many
        at even intervals are looked at.
    n_latent
        Dimensions of z.
    counts
        Whether the values are counts, which are log-normalised first.
    """
    from sklearn.decomposition import PCA

    index = np.unique(np.linspace(0, x.shape[0] - 1, MAX_CELLS).astype(int))
    rows = rows_of(x, index)
    values = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=np.float32)
    if counts:
        values = log_normalize(values)
    variance = values.var(axis=0, dtype=np.float64, ddof=1)
    values, variance = values[:, variance > 0], variance[variance > 0]
    free = len(values) - 1
    n_components = min(n_latent, free // 2, values.shape[1] - 1)
    if n_components < 1:
        return 1.0
    pca = PCA(n_components, svd_solver="randomized", random_state=0).fit(values)
    explained = (np.square(pca.components_) * pca.explained_variance_[:, None]).sum(axis=0)
    left = (1 - explained / variance) * free / (free - n_components)
    nats = -0.5 * np.log(np.clip(left, 1e-3, 1.0)).sum()
    return float(np.clip(SHARE * nats, 1.0, 1e4))
