"""Data sets, splits and pairs that studies share."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from _common import ROOT, data_file
from scipy import sparse
from sklearn.model_selection import train_test_split

import scivae

# Cells of a class that a file of one's own must have.
MIN_CLASS = 20


# Files of one's own, by the name under which a study loads them: path, labels key, donor key.
FILES: dict[str, tuple[Path, str, str | None]] = {}
# Cells that need no file: overlapping classes, 2,000 genes.
SYNTHETIC = "100,000 synthetic cells"
# Column of the donors, where a data set has three or more.
DONORS = {"colon_lee_epithelial": "donor"}


def donor_key_of(name: str) -> str | None:
    """Column of the donors of a data set, if it has one."""
    return ("donor" if FILES[name][2] else None) if name in FILES else DONORS.get(name)


def own_file(name: str, key: str):
    """Cells of a file of one's own, as the studies expect them: labels in ``key``, counts in a layer."""
    path, labels_key, donor_key = FILES[name]
    adata = anndata.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path)
    adata.obs_names_make_unique()
    for option, column in (("--labels-key", labels_key), ("--donor-key", donor_key)):
        if column is not None and column not in adata.obs:
            raise SystemExit(
                f"{option} must be a column of obs of {path}, got {column!r}; the columns there are: "
                f"{', '.join(map(repr, adata.obs.columns))}."
            )
    if "counts" not in adata.layers:
        values = adata.X.data if sparse.issparse(adata.X) else np.asarray(adata.X)
        if values.min() < 0 or (values % 1).any():
            raise SystemExit(f"{path} has no layer 'counts', and X holds no counts; add the layer.")
        adata.layers["counts"] = adata.X.copy()
    adata.layers["counts"] = sparse.csr_matrix(adata.layers["counts"])
    adata = adata[adata.obs[labels_key].notna().to_numpy() & (library_of(adata) > 0)].copy()
    adata.obs[key] = pd.Categorical(adata.obs[labels_key].astype(str))
    if donor_key is not None:
        adata.obs["donor"] = adata.obs[donor_key].astype(str)
    twice = twins(adata.layers["counts"])
    if twice.any():  # one would be learned from, and the other scored
        print(f"{twice.sum()} cells have the counts of another cell, and are left out")
        adata = adata[~twice].copy()
    sizes = adata.obs[key].value_counts()
    few = sizes.index[sizes < MIN_CLASS]
    if len(few):
        print(f"classes of fewer than {MIN_CLASS} cells are left out: {', '.join(few)}")
        adata = adata[~adata.obs[key].isin(few)].copy()
        adata.obs[key] = adata.obs[key].cat.remove_unused_categories()
    return adata


def twins(counts) -> np.ndarray:
    """Which cells have the counts of a cell before them, in more than 20 genes."""
    counts = counts.tocsr()
    rows = [
        counts.indices[a:b].astype(np.int64).tobytes() + counts.data[a:b].astype(float).tobytes()
        for a, b in zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
    ]
    return pd.Series(rows).duplicated().to_numpy() & (np.diff(counts.indptr) > 20)


def data_path(name: str) -> Path:
    """Where the file of a data set is, or would be."""
    if name in FILES:
        return FILES[name][0]
    return data_folder() / (f"{name}.csv" if name == "emt" else f"{name}.h5ad")


def data_folder() -> Path:
    """Folder of the development data: ``SCIVAE_DATA_DIR``, else beside the checkout."""
    return Path(os.environ.get("SCIVAE_DATA_DIR", ROOT.parent / "shared" / "data"))


def load(name: str, key: str, *, quick: bool = False):
    """A data set with counts; ``quick``: few of its cells and genes, or such as need no file.

    A name in :data:`FILES` stands for a file of one's own.

    Parameters
    ----------
    name
        Name of an h5ad file, without its ending.
    key
        Column of ``obs`` with the classes.
    quick
        Take 40 cells a class at most, and 120 genes.
    """
    if name in FILES:
        adata = own_file(name, key)
        if not quick:
            return adata
    elif name == SYNTHETIC and not quick:
        return scivae.datasets.synthetic(100_000, 2000, 10, effect=1.0)
    elif not quick:
        return anndata.read_h5ad(data_file(f"{name}.h5ad"))
    elif (data_folder() / f"{name}.h5ad").exists():
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


def matrix_of(adata):
    """Counts, or X where there are none."""
    if "counts" in adata.layers:
        return adata.layers["counts"]
    return adata.X


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
