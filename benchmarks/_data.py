"""Data sets, splits and pairs that studies share."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from _common import ROOT, data_file
from sklearn.model_selection import train_test_split

import scivae


def data_folder() -> Path:
    """Folder of the development data: ``SCIVAE_DATA_DIR``, else beside the checkout."""
    return Path(os.environ.get("SCIVAE_DATA_DIR", ROOT.parent / "shared" / "data"))


def load(name: str, key: str, *, quick: bool = False):
    """A data set with counts; ``quick``: few of its cells and genes, or such as need no file.

    Parameters
    ----------
    name
        Name of an h5ad file, without its ending.
    key
        Column of ``obs`` with the classes.
    quick
        Take 40 cells a class at most, and 120 genes.
    """
    if not quick:
        return anndata.read_h5ad(data_file(f"{name}.h5ad"))
    if (data_folder() / f"{name}.h5ad").exists():
        adata = anndata.read_h5ad(data_folder() / f"{name}.h5ad")
    elif key == "stage":  # a path through known stages, under the names of the real ones
        adata = scivae.datasets.synthetic(400, 120, 5, effect=3.0)
        names = dict(
            zip(
                [f"class_{i}" for i in range(5)],
                ["1_stem", "2_TA", "3_EP", "4_immature", "5_mature"],
                strict=True,
            )
        )
        adata.obs["stage"] = adata.obs["cell_type"].map(names).astype("category")
    else:
        adata = scivae.datasets.pbmc()
    by_class = adata.obs.groupby(key, observed=True).indices
    cells = [i[:40] for i in by_class.values() if len(i) >= 20]
    genes = np.argsort(-np.asarray(adata.layers["counts"].sum(axis=0)).ravel())[:120]
    return adata[np.sort(np.concatenate(cells)), np.sort(genes)].copy()


def per_10k(counts) -> np.ndarray:
    """Counts per 10,000, dense."""
    counts = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4


def log_normalize(counts) -> np.ndarray:
    """Logarithm of one plus counts per 10,000, dense: what judges and distances see."""
    return np.log1p(per_10k(counts))


def library_of(adata) -> np.ndarray:
    """Counts of each cell."""
    return np.asarray(adata.layers["counts"].sum(axis=1)).ravel().astype(float)


def labels_of(adata, key: str) -> np.ndarray:
    """Labels as plain strings."""
    return adata.obs[key].astype(str).to_numpy()


def split(adata, key: str, seed: int, n_genes: int | None = None, *, test_size: float = 0.2):
    """Cells to train on, and those held out (20 %); genes are chosen on the former."""
    train, test = train_test_split(
        np.arange(adata.n_obs), test_size=test_size, random_state=seed, stratify=adata.obs[key]
    )
    genes = np.ones(adata.n_vars, dtype=bool)
    if n_genes is not None and n_genes < adata.n_vars:
        fitted = adata[train].copy()
        sc.pp.highly_variable_genes(fitted, n_top_genes=n_genes, flavor="cell_ranger")
        genes = fitted.var["highly_variable"].to_numpy()
    return adata[train, genes].copy(), adata[test, genes].copy()


def class_pairs(labels: np.ndarray, n: int, rng: np.random.Generator):
    """Random pairs of different cells of a class, ``n`` a class: positions of both ends."""
    a, b = [], []
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        first = rng.integers(len(cells), size=n)
        a.append(cells[first])
        b.append(cells[(first + rng.integers(1, len(cells), size=n)) % len(cells)])
    return np.concatenate(a), np.concatenate(b)


def tiers(labels: np.ndarray) -> dict[str, list[str]]:
    """Classes by their number of cells: the common, middling and rare third."""
    sizes = pd.Series(labels).value_counts()
    thirds = np.array_split(sizes.index.to_numpy(), 3)
    return dict(zip(("common", "middling", "rare"), map(list, thirds), strict=True))
