"""Does the reported order of genes match the measured stages?

    python benchmarks/order.py                          # intestine, five seeds; simulations
    python benchmarks/order.py --data FILE --labels-key COLUMN --stages A B C D E

A lineage is walked from its first to its last stage; the stages in between have no label in training. One
half of the cells is given to each method. In the other half, the means of each stage say where a gene has
changed by half (log1p of mean counts per 10,000, stages equally far apart): the truth. Genes that change by
at least one log2 unit between the ends of the other half are compared, rising and falling ones apart, by
Spearman's rank correlation of `switch` with this truth. "Sure" genes are those whose true position is known:
resampling the cells of each stage of the other half moves it by at most 0.3 (90 % interval). The ceiling is what
the stages of the first half, with their labels, say of the truth. Every row is given the same cells, library
sizes and curves (the fit of `scivae.stats`), so that rows differ in the positions of cells only; "decoded" and
"mixture" have no cells.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from _common import data_file, rows_so_far, write_table
from scipy import sparse
from scipy.stats import spearmanr

import scivae
from scivae.stats import measured_curves, switch_position
from scivae.tl._placing import Axis

UNKNOWN = "unknown"
STAGES = ("1_stem", "2_TA", "3_EP", "4_immature", "5_mature")
MIN_LOG2, MIN_COUNTS = 1.0, 50
WIDEST, N_RESAMPLES = 0.3, 50  # of the truth of sure genes
# Seeds of simulations on which nothing was chosen: 0 to 4 set the factor by which intervals are widened.
FIRST_SEED = 10
FEW, USUAL = 600, 1500
SIMULATIONS: dict[str, dict] = {
    "cells": {"n_donors": 1},
    "6 donors": {"n_donors": 6},
    "cells, four times the counts": {"n_donors": 1, "mean_counts": 2400.0},
    "600 cells": {"n_donors": 1, "n_cells": FEW},
    "4 donors that differ by 0.4": {"n_donors": 4, "donor_effect": 0.4},
}


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, help="h5ad with layers['counts']; default: the intestine"
    )
    parser.add_argument("--labels-key", default="stage")
    parser.add_argument(
        "--stages", nargs="+", help="in their order; default: sorted, or categories"
    )
    parser.add_argument("--name", default="order", help="of the table")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--quick", action="store_true", help="little data, into a temporary folder")
    parser.add_argument(
        "--restart", action="store_true", help="forget the simulations that are there"
    )
    parser.add_argument("--skip", nargs="*", default=[], choices=["data", "simulated"])
    args = parser.parse_args()
    rows: list[dict] = []
    if "data" not in args.skip:
        adata, stages = read(args)
        for seed in range(1 if args.quick else args.seeds):
            rows += one_seed(adata, stages, args, seed)
            print(pd.DataFrame(rows).tail(14).to_string(index=False), flush=True)
        if args.quick:
            return print("ok")
        text = " ".join(__doc__.split("\n\n")[2].split())
        write_table(
            args.name,
            "Order of genes along a lineage",
            text,
            pd.DataFrame(rows).sort_values("genes", kind="stable"),
            ["genes", "method"],
        )
    if "simulated" not in args.skip:
        table = f"{args.name}_coverage"
        found = [] if args.restart else rows_so_far(table)  # a run that was cut short goes on
        for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
            for name, settings in SIMULATIONS.items():
                if any(row["simulation"] == name and row["seed"] == seed for row in found):
                    continue
                found.append({"simulation": name, **coverage(seed, **settings)})
                print(found[-1], flush=True)
                found.sort(
                    key=lambda row: (list(SIMULATIONS).index(row["simulation"]), row["seed"])
                )
                write_coverage(table, found)


def write_coverage(table: str, found: list[dict]) -> None:
    """The table of simulations."""
    text = (
        "Simulated lineages with known times (`scivae.datasets.synthetic`, 300 genes, 1,500 cells "
        "where nothing else is said, five stages, the middle three not labeled in training). Coverage: how often the 90 % "
        "interval of `switch` holds the position at which the true curve of the gene, averaged over "
        "20,000 fresh cells at the same position on the axis, has changed by half. The factor by which intervals are "
        "widened was chosen on other seeds of the first two lines; nothing was chosen on the seeds of this table."
    )
    rows = pd.DataFrame(found)
    write_table(table, "Intervals of switches on simulated data", text, rows, "simulation")


def read(args):
    """Cells of the lineage and its stages in their order."""
    path = args.data or (None if args.quick else data_file("intestine_haber.h5ad"))
    if path is None:
        adata = scivae.datasets.synthetic(400, 120, 5)
        adata.obs["stage"] = adata.obs["cell_type"]
        return adata, sorted(adata.obs["stage"].unique())
    adata = anndata.read_h5ad(path)
    column = adata.obs[args.labels_key].astype("category")
    stages = args.stages or [s for s in STAGES if s in column.cat.categories]
    stages = stages or list(column.cat.categories)
    return adata[column.isin(stages)].copy(), list(stages)


def one_seed(adata, stages, args, seed: int) -> list[dict]:
    """One row a method."""
    rng = np.random.default_rng(seed)
    stage = adata.obs[args.labels_key].astype(str).to_numpy()
    first = np.zeros(adata.n_obs, dtype=bool)
    for name in stages:  # halves of every stage
        cells = rng.permutation(np.flatnonzero(stage == name))
        first[cells[: len(cells) // 2]] = True
    mine, other = adata[first].copy(), adata[~first].copy()
    truth = by_stage(other, stage[~first], stages)
    ceiling = by_stage(mine, stage[first], stages)
    genes = clear(truth, other)
    sure = genes & (width_by_stage(other, stage[~first], stages, rng) <= WIDEST)
    begin = time.perf_counter()
    model, pairs, cells, label = fitted(mine, stage[first], stages, args.epochs, seed)
    between = list(set(label) - {stages[0], stages[-1]})
    trends = scivae.tl.gene_trends(model, pairs, adata=cells, between=between, key_added=None)
    seconds = time.perf_counter() - begin
    decoded = scivae.tl.gene_trends(model, pairs, adata=cells, evidence="decoded")
    found = {
        "CI-VAE, measured cells (default)": trends.var["switch"].to_numpy(),
        "CI-VAE, decoded line": decoded.var["switch"].to_numpy(),
        **baselines(cells, label, stages, genes),
        "ceiling: stages of the first half": ceiling["switch"],
    }
    out = []
    for name, wanted in (("changing", genes), ("sure", sure)):
        for method, switch in found.items():
            row = {"genes": name, "method": method, "seed": seed}
            for direction, sign in (("rising", 1), ("falling", -1)):
                own = wanted & (sign * truth["change"] > 0)
                row |= agreement(switch, ceiling["switch"], truth["switch"], own, direction)
            if method.endswith("(default)"):
                row["resolved"] = float(trends.var["resolved"][wanted].mean())
                row["seconds, with training"] = seconds
            out.append(row)
    return out


def agreement(switch, ceiling, truth, own: np.ndarray, direction: str) -> dict[str, float]:
    """Rank correlation with the truth, and as a part of that of the ceiling in the same genes."""
    own = own & np.isfinite(switch) & np.isfinite(ceiling) & np.isfinite(truth)
    found, most = (spearmanr(x[own], truth[own])[0] for x in (switch, ceiling))
    return {
        f"Spearman, {direction}": found,
        f"of ceiling, {direction}": found / most,
        f"n, {direction}": int(own.sum()),
    }


def by_stage(adata, stage, stages) -> dict[str, np.ndarray]:
    """Where the means of labeled stages have changed by half."""
    counts = adata.layers["counts"]
    means = []
    for name in stages:
        total = np.asarray(counts[stage == name].sum(axis=0)).ravel()
        means.append(np.log1p(1e4 * total / total.sum()))
    curves, t = np.stack(means), np.linspace(0, 1, len(stages))
    return {"switch": switch_position(curves, t), "change": (curves[-1] - curves[0]) / np.log(2)}


def width_by_stage(adata, stage, stages, rng) -> np.ndarray:
    """Width of the 90 % interval of the true switch, cells of each stage resampled."""
    found = []
    for _ in range(N_RESAMPLES):
        rows = [np.flatnonzero(stage == name) for name in stages]
        rows = np.concatenate([rng.choice(own, len(own)) for own in rows])
        found.append(by_stage(adata[rows], stage[rows], stages)["switch"])
    low, high = np.nanquantile(found, [0.05, 0.95], axis=0)
    return high - low


def clear(truth, adata) -> np.ndarray:
    """Genes with a clear change in cells that no method sees."""
    total = np.asarray(adata.layers["counts"].sum(axis=0)).ravel()
    return (np.abs(truth["change"]) >= MIN_LOG2) & (total >= MIN_COUNTS)


def fitted(adata, stage, stages, epochs, seed: int):
    """A model that knows the first and the last stage only, and pairs between them."""
    import scvi

    label = np.where(np.isin(stage, [stages[0], stages[-1]]), stage, UNKNOWN)
    adata.obs["known"] = pd.Categorical(label)
    scvi.settings.seed = seed
    scivae.model.CIVAE.setup_anndata(adata, "known", unlabeled_category=UNKNOWN, layer="counts")
    model = scivae.model.CIVAE(adata)
    model.train(epochs, enable_progress_bar=False)
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = scivae.tl.pair_cells(adata, "known", stages[0], stages[-1], seed=seed)
    return model, pairs, adata, label


def baselines(adata, label, stages, genes) -> dict[str, np.ndarray]:
    """Switches by other positions of the same cells, and by no cells at all."""
    counts = adata.layers["counts"]
    library = np.asarray(counts.sum(axis=1)).ravel()
    x = np.log1p(sparse.csr_matrix(counts).multiply(1e4 / library[:, None])).toarray()
    pca = sc.pp.pca(x, n_comps=min(20, min(x.shape) - 1), random_state=0)
    ends = label == stages[0], label == stages[-1]
    fixed = np.where(ends[0], 0.0, np.where(ends[1], 1.0, np.nan))
    by_gene = sparse.csr_matrix(counts).T.tocsr()

    def switches(t):
        t = np.where(np.isnan(fixed), np.clip(t, 0, 1), fixed)
        return measured_curves(by_gene, t, library=library, n_bootstraps=0).switch

    def axis(z):
        start, end = (z[e] for e in ends)
        n = min(len(start), len(end))
        paths = np.stack([start[np.arange(n)], end[np.arange(n)]], axis=1).astype(float)
        return Axis.through(paths).place(z)[0]

    dpt = diffusion_pseudotime(x, ends)
    means = [np.asarray(counts[e].sum(axis=0)).ravel() for e in ends]
    means = [m / m.sum() for m in means]
    mixed = np.linspace(0, 1, 101)[:, None]
    curve = np.log1p(1e4 * ((1 - mixed) * means[0] + mixed * means[1]))
    return {
        "the same axis in 20 principal components": switches(axis(pca)),
        "the same axis in genes (log1p)": switches(axis(x[:, genes])),
        "diffusion pseudotime (scanpy)": switches(dpt),
        "mixture of the means of both ends": switch_position(curve, mixed[:, 0]),
    }


def diffusion_pseudotime(x: np.ndarray, ends) -> np.ndarray:
    """Positions by scanpy's usual steps: genes scaled, 50 components, rooted at the middle of the first stage."""
    scaled = sc.pp.scale(x.copy(), max_value=10)
    pca = sc.pp.pca(scaled, n_comps=min(50, min(x.shape) - 1), random_state=0)
    neighbors = anndata.AnnData(pca.astype(np.float32))
    sc.pp.neighbors(neighbors, use_rep="X", n_neighbors=15)
    sc.tl.diffmap(neighbors)
    start = np.flatnonzero(ends[0])
    middle = pca[start].mean(axis=0)
    neighbors.uns["iroot"] = int(start[np.argmin(((pca[start] - middle) ** 2).sum(axis=1))])
    sc.tl.dpt(neighbors)
    dpt = neighbors.obs["dpt_pseudotime"].to_numpy(dtype=float)
    dpt = np.where(np.isfinite(dpt), dpt, dpt[np.isfinite(dpt)].max())
    low, high = (np.median(dpt[e]) for e in ends)
    return (dpt - low) / (high - low)


def coverage(seed: int, n_donors: int, n_cells: int = USUAL, **more: float) -> dict:
    """How often intervals hold the truth of simulated cells."""
    settings = {"n_genes": 300, "n_classes": 5, "n_donors": n_donors, "effect": 1.5, "seed": seed}
    settings |= {"mean_counts": 600.0, "dispersion": 2.0, "donor_effect": 0.2, **more}
    n_fresh = 20_000
    both = scivae.datasets.synthetic(n_cells + n_fresh, **settings)
    adata, fresh = both[:n_cells].copy(), both[n_cells:].copy()
    stages = [f"class_{i}" for i in range(5)]
    stage = adata.obs["cell_type"].astype(str).to_numpy()
    donor_key = "donor" if n_donors > 1 else None
    model, _, cells, label = fitted(adata, stage, stages, None, seed)
    pairs = scivae.tl.pair_cells(cells, "known", *(stages[i] for i in (0, 4)), donor_key=donor_key)
    trends = scivae.tl.gene_trends(model, pairs, adata=cells, between=[UNKNOWN], key_added=None)
    fresh.obs["known"] = pd.Categorical(
        np.where(np.isin(fresh.obs["cell_type"], [stages[0], stages[-1]]),
                 fresh.obs["cell_type"].astype(str), UNKNOWN))  # fmt: skip
    said = trends.uns["civae"]
    axis = Axis.from_table(said["axis"], said["distance_scale"])
    t = axis.place(model.get_latent_representation(fresh))[0]
    known = fresh.obs["known"].to_numpy()
    t = np.where(known == stages[0], 0.0, np.where(known == stages[-1], 1.0, t))
    true = true_curves(both, fresh, t)
    grid = np.linspace(0, 1, len(true))
    switch = switch_position(true, grid)
    change = (true[-1] - true[0]) / np.log(2)
    genes = (np.abs(change) > MIN_LOG2) & both.var["kind"].isin(["up", "down"]).to_numpy()
    var = trends.var
    held = ((var["switch_low"] <= switch) & (switch <= var["switch_high"])).to_numpy()
    resolved = var["resolved"].to_numpy()
    kinds = var["switch"].to_numpy()
    return {
        "seed": seed,
        "coverage": held[genes].mean(),
        "coverage, resolved genes": held[genes & resolved].mean(),
        "resolved": resolved[genes].mean(),
        "median width": float(np.median((var["switch_high"] - var["switch_low"])[genes])),
        "Spearman with the true time": spearmanr(kinds[genes], both.var["switch"][genes])[0],
        "genes": int(genes.sum()),
    }


def true_curves(both, fresh, t, n_bins: int = 40) -> np.ndarray:
    """log1p of the mean true share per 10,000, in narrow bins of positions, joined linearly."""
    curves = both.uns["synthetic"]["curves"][0]
    grid = both.uns["synthetic"]["position"]
    position = fresh.obs["position"].to_numpy()
    cell = np.clip(np.round(position * (len(grid) - 1)).astype(int), 0, len(grid) - 1)
    share = curves / curves.sum(axis=1, keepdims=True)
    edges = np.linspace(0, 1, n_bins + 1)
    at, level = [], []
    inner = (t > 0) & (t < 1)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        own = inner & (t >= low) & (t < high)
        if own.sum() >= 20:
            at.append(t[own].mean())
            level.append(share[cell[own]].mean(axis=0))
    for end, where in ((0.0, t <= 0), (1.0, t >= 1)):
        at.append(end)
        level.append(share[cell[where]].mean(axis=0))
    order = np.argsort(at)
    at, level = np.array(at)[order], np.stack(level)[order]
    fine = np.linspace(0, 1, 401)
    joined = np.stack([np.interp(fine, at, level[:, g]) for g in range(level.shape[1])], axis=1)
    return np.log1p(1e4 * joined)


if __name__ == "__main__":
    main()
