"""Class purity of decoded cells on the way between two cells of a class, on colorectal cancer.

    python benchmarks/colon_purity.py --seeds 5

20 % of the cells are held out, genes are chosen on the others. Each model is trained on these, then
200 random same-class pairs a class are joined by straight lines, and cells are *sampled* at t = 1/4, 1/2
and 3/4. Judges that were fitted on real training cells in gene space say of which class they are.
"""

from __future__ import annotations

import argparse
import time
import warnings

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch
from _common import data_file, rows_so_far, write_table
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

import scivae
from scivae.metrics import fit_judges, linear_separability, path_purity

KEY = "cell_type"
POSITIONS = (0.25, 0.5, 0.75)


def log_normalize(counts) -> np.ndarray:
    counts = counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)
    return np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)


def split(adata, seed: int, n_genes: int):
    train, test = train_test_split(
        np.arange(adata.n_obs), test_size=0.2, random_state=seed, stratify=adata.obs[KEY]
    )
    fitted = adata[train].copy()
    sc.pp.highly_variable_genes(fitted, n_top_genes=n_genes, flavor="cell_ranger")
    genes = fitted.var["highly_variable"].to_numpy()
    return adata[train, genes].copy(), adata[test, genes].copy()


def pairs(labels: np.ndarray, n: int, rng: np.random.Generator):
    """Random pairs of different cells of a class, ``n`` a class."""
    a, b = [], []
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        first = rng.integers(len(cells), size=n)
        a.append(cells[first])
        b.append(cells[(first + rng.integers(1, len(cells), size=n)) % len(cells)])
    return np.concatenate(a), np.concatenate(b)


class CIVAE:
    """This package; other settings are other rows."""

    def __init__(self, plan: dict | None = None, **settings):
        self.settings, self.plan = settings, plan or {}

    def fit(self, train, seed: int, epochs: int | None):
        scivae.model.CIVAE.setup_anndata(train, labels_key=KEY)
        self.model = scivae.model.CIVAE(train, seed=seed, **self.settings)
        self.model.train(epochs, train_size=1.0, enable_progress_bar=False, plan_kwargs=self.plan)

    def encode(self, adata):
        return self.model.get_latent_representation(adata)

    def sample(self, z, library, seed):
        return self.model.decode(z, library_size=library, sample=True, seed=seed)

    def reconstruction(self, adata):
        return float(self.model.get_reconstruction_error(adata)["reconstruction_loss"])


class SCANVILinear:
    """The nearest published model: SCANVI with a linear classifier on its latent space."""

    def fit(self, train, seed: int, epochs: int | None):
        scvi.settings.seed = seed
        scvi.model.SCANVI.setup_anndata(
            train, layer="counts", labels_key=KEY, unlabeled_category="Unknown"
        )
        self.model = scvi.model.SCANVI(
            train, n_latent=20, linear_classifier=True, gene_likelihood="nb"
        )
        self.model.train(
            epochs or 100,
            train_size=1.0,
            enable_progress_bar=False,
            plan_kwargs={"n_epochs_kl_warmup": (epochs or 100) // 2},
        )

    def encode(self, adata):
        return self.model.get_latent_representation(adata)

    @torch.inference_mode()
    def sample(self, z, library, seed):
        torch.manual_seed(seed)
        outputs = self.model.module.generative(
            z=torch.as_tensor(z, dtype=torch.float32),
            library=torch.as_tensor(np.log(library)[:, None], dtype=torch.float32),
            batch_index=torch.zeros(len(z), 1, dtype=torch.long),
            y=torch.zeros(len(z), 1, dtype=torch.long),
        )
        return outputs["px"].sample().numpy()

    def reconstruction(self, adata):
        return float(self.model.get_reconstruction_error(adata)["reconstruction_loss"])


METHODS = {
    "VAE (β = 0)": lambda: CIVAE(discriminator_weight=0.0, plan={"thinning": 0.0}),
    "VAE (β = 0), thinning": lambda: CIVAE(discriminator_weight=0.0),
    "SCANVI, linear classifier": SCANVILinear,
    "CI-VAE, no thinning, classes unweighted": lambda: CIVAE(
        class_weights="none", plan={"thinning": 0.0}
    ),
    "CI-VAE, no thinning": lambda: CIVAE(plan={"thinning": 0.0}),
    "CI-VAE, classes unweighted": lambda: CIVAE(class_weights="none"),
    "CI-VAE (default)": CIVAE,
}


def study(method, train, test, seed: int, n_pairs: int, epochs: int | None) -> dict:
    start = time.perf_counter()
    method.fit(train, seed, epochs)
    seconds = time.perf_counter() - start
    y, y_test = train.obs[KEY].to_numpy(), test.obs[KEY].to_numpy()
    z, z_test = method.encode(train), method.encode(test)
    rng = np.random.default_rng(seed)
    a, b = pairs(y, n_pairs, rng)
    log_library = np.log(np.asarray(train.layers["counts"].sum(axis=1)).ravel())
    x, x_test = log_normalize(train.layers["counts"]), log_normalize(test.layers["counts"])
    cells = np.concatenate(
        [
            log_normalize(
                method.sample(
                    (1 - t) * z[a] + t * z[b],
                    np.exp((1 - t) * log_library[a] + t * log_library[b]),
                    seed,
                )
            )
            for t in POSITIONS
        ]
    )
    row = {
        "separability, held out": linear_separability(z, y, z_test, y_test),
        "reconstruction loss, held out": method.reconstruction(test),
    }
    for kind, judge in fit_judges(x, y, kinds=("logistic", "knn"), seed=seed).items():
        found = path_purity(
            judge, cells, np.tile(y[a], len(POSITIONS)), x_real=x_test, y_real=y_test
        )
        name = kind.replace("_", " ")
        row[f"purity, mean ({name})"] = found.mean
        row[f"purity, worst class ({name})"] = found.worst
        row[f"real held-out cells, mean ({name})"] = found.ceiling_mean
        row[f"real held-out cells, that class ({name})"] = found.ceiling[found.worst_class]
    return {**row, "training time, s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="rows of the table")
    parser.add_argument("--n-genes", type=int, default=2000)
    parser.add_argument("--n-pairs", type=int, default=200, help="pairs a class")
    parser.add_argument("--epochs", type=int, default=None, help="None: each model's default")
    parser.add_argument("--name", default="colon_purity", help="of the table under docs/evidence")
    parser.add_argument("--restart", action="store_true", help="forget the rows that are there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = anndata.read_h5ad(data_file("colon_crc.h5ad"))
    rows = [] if args.restart else rows_so_far(args.name)
    done = {(row["method"], row["seed"]) for row in rows}
    for seed in range(args.seeds):
        train, test = split(adata, seed, args.n_genes)
        y, y_test = train.obs[KEY].to_numpy(), test.obs[KEY].to_numpy()
        pca = PCA(20, random_state=seed).fit(log_normalize(train.layers["counts"]))
        floor = linear_separability(
            *(pca.transform(log_normalize(train.layers["counts"])), y),
            *(pca.transform(log_normalize(test.layers["counts"])), y_test),
        )
        print(f"seed {seed}: separability of 20 principal components {floor:.4f}", flush=True)
        for name in args.methods:
            if (name, seed) in done:
                continue
            row = study(METHODS[name](), train.copy(), test.copy(), seed, args.n_pairs, args.epochs)
            rows.append({"method": name, "seed": seed, **row})
            print(
                {k: v if isinstance(v, str) else round(v, 4) for k, v in rows[-1].items()},
                flush=True,
            )
            # After every row, so that a run that is cut short leaves a table, and can go on from it.
            write_table(
                args.name,
                "Purity of decoded cells, colorectal cancer",
                " ".join(__doc__.split("\n\n")[2].split()),
                pd.DataFrame(rows),
                "method",
            )


if __name__ == "__main__":
    main()
