"""Do geodesics pass nearer to real cells than straight lines?

    python benchmarks/geodesics.py --seeds 5

100 random same-class pairs of held-in observations, classified as their class, are joined by 20 points
with each method of `interpolate`. What lies between t = 0.4 and 0.6 is decoded and compared with held-out
real observations of the class: images by their expected pixels, cells by samples (the log of a mean is no
mean of logs) in 20 principal components of real cells. A path that runs through the middle of its class is
near to many cells, but all such paths look alike: `spread` is the mean distance between the midpoints
of two paths, beside that between two real observations.
"""

from __future__ import annotations

import argparse
import time
import warnings

import anndata
import numpy as np
import pandas as pd
from _common import data_file, rows_so_far, write_table
from _data import log_normalize, split
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import scivae

METHODS = ("linear", "spherical", "geodesic")
N_PAIRS, N_STEPS = 100, 20
HELD_OUT = 1 / 6


def colon(seed: int):
    """Training and held-out cells on variable genes, and their place among principal components."""
    adata = anndata.read_h5ad(data_file("colon_crc.h5ad"))
    train, test = split(adata, "cell_type", seed, n_genes=2000, test_size=HELD_OUT)
    pca = PCA(20, random_state=seed).fit(log_normalize(train.layers["counts"]))

    def place(cells):
        return pca.transform(log_normalize(cells.layers["counts"]))

    return train, test, "cell_type", place, True


def mnist(seed: int):
    """12,000 images, a sixth of them held out; compared pixel by pixel."""
    adata = scivae.datasets.mnist("train", path=data_file("mnist"))
    some = np.random.default_rng(seed).choice(adata.n_obs, 12_000, replace=False)
    train, test = split(adata[some].copy(), "digit", seed, test_size=HELD_OUT)
    return train, test, "digit", lambda a: np.asarray(a.X, dtype=float), False


DATASETS = {"colon_crc": colon, "MNIST": mnist}


def same_class_pairs(model, adata, key: str, rng: np.random.Generator):
    """Pairs of cells of a class that are classified as it; classes in turn."""
    labels = adata.obs[key].to_numpy()
    right = np.asarray(model.predict()) == labels
    cells = {c: np.flatnonzero(right & (labels == c)) for c in np.unique(labels)}
    cells = {c: own for c, own in cells.items() if len(own) >= 20}
    chosen = [
        rng.choice(list(cells.values())[i % len(cells)], 2, replace=False) for i in range(N_PAIRS)
    ]
    a, b = np.array(chosen).T
    return a, b


def between(model, adata, key: str, a, b, method: str, sampled: bool, seed: int):
    """Generated observations at the middle of each path, share in the class, and seconds."""
    start = time.perf_counter()
    path = model.interpolate(a, b, method=method, n_steps=N_STEPS, key_added=None)
    seconds = time.perf_counter() - start
    inside = path.obs["civae_predicted"].astype(str) == path.obs[key].astype(str)
    middle = path[path.obs["civae_t"].between(0.4, 0.6)].copy()
    if sampled:
        middle.layers["counts"] = model.decode(
            middle.obsm["X_civae"],
            library_size=np.asarray(middle.layers["counts"].sum(axis=1)).ravel(),
            sample=True,
            seed=seed,
        )
    return middle, float(inside.mean()), seconds


def study(name: str, seed: int) -> list[dict]:
    train, test, key, place, sampled = DATASETS[name](seed)
    scivae.model.CIVAE.setup_anndata(train, labels_key=key)
    model = scivae.model.CIVAE(train, seed=seed)
    model.train(enable_progress_bar=False)
    a, b = same_class_pairs(model, train, key, np.random.default_rng(seed))
    real, labels = place(test), test.obs[key].to_numpy().astype(str)
    real_spread = np.mean(
        [pdist(real[labels == c]).mean() for c in np.unique(labels[labels != ""])]
    )
    rows = []
    for method in METHODS:
        middle, inside, seconds = between(model, train, key, a, b, method, sampled, seed)
        made, of = place(middle), middle.obs[key].to_numpy().astype(str)
        near, spread = [], []
        for c in np.unique(of):
            own = real[labels == c]
            nearest = NearestNeighbors(n_neighbors=min(5, len(own))).fit(own)
            near.append(nearest.kneighbors(made[of == c])[0].mean(axis=1))
            spread.append(pdist(made[of == c]).mean())
        rows.append({
            "data": name, "method": method, "seed": seed,
            "distance to the 5 nearest real, held out": np.concatenate(near).mean(),
            "spread": np.mean(spread),
            "spread of real": real_spread,
            "points in the class": inside,
            "time, s": seconds,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="*", default=list(DATASETS), choices=DATASETS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = rows_so_far("geodesics")
    done = {(row["data"], row["seed"]) for row in rows}
    for name in args.data:
        for seed in range(args.seeds):
            if (name, seed) in done:
                continue
            rows += study(name, seed)
            write_table(
                "geodesics",
                "Straight lines and geodesics",
                " ".join(__doc__.split("\n\n")[2].split()),
                pd.DataFrame(rows),
                ["data", "method"],
            )


if __name__ == "__main__":
    main()
