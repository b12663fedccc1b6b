from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import scanpy as sc
import scvi

from scivae.datasets import pbmc


def test_counts_are_whole_and_give_back_scanpys_values():
    adata = pbmc()
    source = sc.datasets.pbmc68k_reduced()
    counts = adata.layers["counts"].toarray().astype(np.float64)
    n_counts = source.obs["n_counts"].to_numpy(dtype=np.float64)[:, None]
    restored = np.expm1(source.raw.X.toarray().astype(np.float64)) * n_counts / 1e4
    residual = np.abs(restored - counts)
    # Relative to the count: within the precision of the stored logarithms.
    assert residual.max() < 0.1
    assert np.median(residual[counts > 0]) < 1e-3
    assert (counts == np.rint(counts)).all()
    assert ((counts > 0) == (source.raw.X.toarray() > 0)).all()
    # A cell's counts of these genes cannot exceed its counts of all genes.
    assert (counts.sum(1) <= n_counts[:, 0]).all()
    np.testing.assert_allclose(np.log1p(counts / n_counts * 1e4), source.raw.X.toarray(), atol=1e-3)


def test_a_wrong_cell_total_would_show():
    """The restoration is no rounding of anything: with other totals, values are not whole."""
    source = sc.datasets.pbmc68k_reduced()
    wrong = source.obs["n_counts"].to_numpy(dtype=np.float64)[::-1, None]
    values = np.expm1(source.raw.X.toarray().astype(np.float64)) * wrong / 1e4
    values = values[values > 0]
    assert np.median(np.abs(values - np.rint(values))) > 0.1


def test_slots(tmp_path):
    adata = pbmc()
    assert adata.shape == (700, 765)
    assert (adata.obs["cell_type"] == adata.obs["bulk_labels"].astype(str)).all()
    assert adata.obs["cell_type"].nunique() == 10
    source = sc.datasets.pbmc68k_reduced()
    for key in ("X_pca", "X_umap"):
        np.testing.assert_array_equal(adata.obsm[key], source.obsm[key])
    expected = ad.AnnData(adata.layers["counts"].copy())
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    np.testing.assert_allclose(adata.X.toarray(), expected.X.toarray(), rtol=1e-5)
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert ad.read_h5ad(tmp_path / "x.h5ad").obs.equals(adata.obs)


def test_subsets_have_the_markers_of_their_names():
    adata = pbmc()
    names = adata.obs["subset"].astype(str)
    assert set(names) - {"cDC1", "cDC2"} == set(adata.obs["cell_type"].astype(str))
    assert set(adata.obs["cell_type"][names.str.startswith("cDC")]) == {"Dendritic"}
    first, second = (adata[(names == name).to_numpy()].to_df().mean() for name in ("cDC1", "cDC2"))
    assert (first > second)[["IRF8", "CPVL", "ID2"]].all()
    assert (first < second)[["FCER1A", "CLEC10A"]].all()


def test_scvi_takes_it_without_complaint():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scvi.model.SCVI.setup_anndata(pbmc(), layer="counts", labels_key="cell_type")
