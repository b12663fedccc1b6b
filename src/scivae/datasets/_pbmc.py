"""The small PBMC data set that scanpy ships, with counts restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from ._images import describe
from ._normalize import TARGET_SUM, log_normalize
from .registry import PBMC

if TYPE_CHECKING:
    from anndata import AnnData

# Largest allowed difference between a restored value and a whole number. For float32 logs of counts
# up to 300 it is below 0.1.
_TOLERANCE = 0.25
# Two of scanpy's clusters of dendritic cells, named by their markers.
_SUBSETS = {"2": "cDC2", "7": "cDC1"}


def pbmc() -> AnnData:
    """Peripheral blood cells of ten types, with counts. No download needed.

    :func:`scanpy.datasets.pbmc68k_reduced` stores ``raw.X = log1p(counts · 10,000 / n_counts)``.
    Counts are restored as ``round(expm1(raw.X) · n_counts / 10,000)``.

    Returns
    -------
    AnnData of 700 cells × 765 genes:

    - ``layers["counts"]``: UMI counts, CSR, float32 with whole numbers
    - ``X``: natural logarithm of one plus counts per 10,000 over the 765 genes, CSR, float32
    - ``obs["cell_type"]``: same as ``obs["bulk_labels"]``; scanpy's other columns are kept
      (``n_counts`` is the total over all genes of the original data, not only these 765)
    - ``obs["subset"]``: as ``cell_type``, but with two kinds of dendritic cells. Scanpy's cluster 2 (``louvain``)
      has the markers of cDC2 (FCER1A, CLEC10A), its cluster 7 those of cDC1 (IRF8, CPVL, ID2)
    - ``obsm``: scanpy's ``X_pca`` and ``X_umap``
    - ``uns["pbmc"]``: source and license

    Raises
    ------
    ValueError
        If the values in scanpy's file are not logarithms of counts.

    Notes
    -----
    Zheng et al., Nature Communications 8 (2017), doi:10.1038/ncomms14049. CC BY 4.0.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> adata.shape, adata.obs["cell_type"].nunique()
    ((700, 765), 10)
    """
    import anndata as ad
    import scanpy as sc

    source = sc.datasets.pbmc68k_reduced()
    scaled = sparse.csr_matrix(source.raw.X, dtype=np.float64)
    n_counts = source.obs["n_counts"].to_numpy(dtype=np.float64)
    restored = np.expm1(scaled.data) * np.repeat(n_counts / TARGET_SUM, np.diff(scaled.indptr))
    whole = np.rint(restored)
    worst = float(np.abs(restored - whole).max())
    if worst > _TOLERANCE or whole.min() < 1:
        raise ValueError(
            f"scanpy's pbmc68k_reduced must give whole counts within {_TOLERANCE}, got a "
            f"difference of {worst:.3g}; install a scanpy release with the original file."
        )
    counts = sparse.csr_matrix(
        (whole.astype(np.float32), scaled.indices, scaled.indptr), shape=scaled.shape
    )
    obs = source.obs.copy()
    obs["cell_type"] = source.obs["bulk_labels"].cat.remove_unused_categories()
    subset, kind = obs["cell_type"].astype(object), obs["louvain"].astype(object).map(_SUBSETS)
    named = (subset == "Dendritic") & kind.notna()
    obs["subset"] = subset.mask(named, kind).astype("category")
    adata = ad.AnnData(
        log_normalize(counts),
        obs=obs,
        var=source.var.loc[source.raw.var_names].copy(),
        obsm={key: source.obsm[key] for key in ("X_pca", "X_umap")},
        layers={"counts": counts},
    )
    colors = source.uns.get("bulk_labels_colors")
    if colors is not None:
        adata.uns["cell_type_colors"] = adata.uns["bulk_labels_colors"] = list(colors)
    return describe(
        adata,
        "pbmc",
        title=PBMC.title,
        citation=PBMC.citation,
        licence=PBMC.licence,
        homepage=PBMC.homepage,
    )
