"""From normal to tumour: which genes change along the path, when, and where border tissue lies.

    python benchmarks/colon.py --seeds 5

Writes four tables and five figures under docs/. Three questions, each answered with cells, or a donor,
that no model was fitted on:

- change: four lineages of colon_crc, 30 % of the cells of every lineage and tissue held out. Paths join
  normal to tumour cells of a lineage by optimal transport; is their change that of the held-out cells?
- donors: the same on colon_lee_epithelial, half of the cells or one of three donors held out.
- border: where between normal and tumour do the border cells of each donor lie?
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import combinations

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from _common import ROOT, data_file, rows_so_far, write_markdown, write_table
from _data import log_normalize, per_10k
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

import scivae
from scivae.metrics import log_fold_change_agreement
from scivae.pl._style import GREY, OKABE_ITO, PALE, STYLE

LINEAGES = ("Epithelial", "Fibroblast", "Macrophage", "T")
LEE = "Epithelial, Lee 2020"
HALF = "half of the cells"
ENDS = ("normal", "tumor")
# Named before any model was trained: what the literature reports of colorectal tumours.
UP = (
    "CEACAM5", "CEACAM6", "LCN2", "S100P", "MMP7", "CLDN1", "TGFBI", "LGR5", "SPARC", "COL4A1",
    "COL4A2", "HSPG2", "COL1A1", "COL11A1", "FAP", "INHBA", "MMP1", "MMP3", "SPP1", "APOE", "APOC1",
    "TIMP1", "CTLA4", "CXCL13",
)  # fmt: skip
DOWN = (
    "GUCA2A", "GUCA2B", "CA1", "CA2", "CA4", "CA7", "AQP8", "ZG16", "MS4A12", "CLCA1", "CLCA4",
    "SLC26A3", "SLC4A4", "FABP1", "BEST4", "PYY", "ADH1C", "ADH1B", "ADAMDEC1", "CCL13", "CXCL14",
)  # fmt: skip
N_PAIRS = 500
# Ranked genes of every seed, and trends: too large to commit.
CACHE = ROOT / "benchmarks" / ".cache"
FDR = 0.05
METHODS: dict[str, float | None] = {
    "CI-VAE, path": None,  # β: the default
    "VAE (β = 0), path": 0.0,
    "training cells, measured": None,
}


def fold_change(values: np.ndarray, tumor: np.ndarray) -> np.ndarray:
    """Log2 of mean counts per 10,000, plus one, in tumour minus that in normal tissue."""
    return np.log2((1 + values[tumor].mean(axis=0)) / (1 + values[~tumor].mean(axis=0)))


def is_tumor(adata) -> np.ndarray:
    return (adata.obs["tissue"] == "tumor").to_numpy()


def trained(adata, seed: int, discriminator_weight: float | None, **setup):
    """A model with the defaults of the package, but for β where it is given."""
    scivae.model.CIVAE.setup_anndata(adata, **setup)
    settings = (
        {} if discriminator_weight is None else {"discriminator_weight": discriminator_weight}
    )
    model = scivae.model.CIVAE(adata, seed=seed, **settings)
    model.train(enable_progress_bar=False)
    adata.obsm["X_civae"] = model.get_latent_representation()
    return model


def path_ends(model, adata, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What the decoder expects at both ends of every path, in counts per 10,000, and which is tumour."""
    cells = adata.obs_names.get_indexer(pd.concat([pairs["source"], pairs["target"]]))
    values = model.decode(adata.obsm["X_civae"][cells], library_size=1e4)
    return per_10k(values), np.repeat([False, True], len(pairs))


def reliability(counts: np.ndarray, tumor: np.ndarray, seed: int, n_splits: int = 20) -> float:
    """Share of the variance of measured fold changes over genes that is no sampling noise.

    Correlation of the fold changes of two random halves of the cells, mean over splits, stepped up to
    the full number of cells (Spearman and Brown).
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_splits):
        half = np.zeros(len(tumor), dtype=bool)
        for group in (tumor, ~tumor):
            cells = rng.permutation(np.flatnonzero(group))
            half[cells[: len(cells) // 2]] = True
        a, b = (fold_change(counts[h], tumor[h]) for h in (half, ~half))
        found.append(np.corrcoef(a, b)[0, 1])
    r = max(float(np.mean(found)), 0.0)
    return 2 * r / (1 + r)


def agreement(predicted: np.ndarray, held, seed: int) -> dict[str, float]:
    """Predicted log2 fold changes beside those of held-out cells.

    Where few counts are measured, noise in the held-out cells bounds every correlation: by the root of
    their reliability. The slope is that of held-out on predicted changes, which such noise does not bias.
    """
    counts, tumor = per_10k(held.layers["counts"]), is_tumor(held)
    observed = fold_change(counts, tumor)
    share = reliability(counts, tumor, seed)
    pearson = log_fold_change_agreement(predicted, observed).pearson
    return {
        "Pearson": pearson,
        "Pearson, corrected for noise": pearson / share**0.5 if share > 0.05 else np.nan,
        "slope": log_fold_change_agreement(observed, predicted).slope,
        "reliability of held-out": share,
    }


def beside_wilcoxon(genes: pd.DataFrame, cells) -> dict[str, float]:
    """The ranking of the path and that of scanpy's Wilcoxon test on the same measured cells."""
    # Corrected for ties: without it, the many zeros hide five sixths of the genes.
    cells = anndata.AnnData(log_normalize(cells.layers["counts"]), obs=cells.obs, var=cells.var)
    sc.tl.rank_genes_groups(
        cells, "tissue", groups=["tumor"], reference="normal", method="wilcoxon", tie_correct=True
    )
    test = sc.get.rank_genes_groups_df(cells, "tumor").set_index("names").loc[genes.index]
    strongest = test["scores"].abs().sort_values(ascending=False).index
    found, tested = set(genes.index[genes["fdr"] < FDR]), set(test.index[test["pvals_adj"] < FDR])
    return {
        "genes at 5 % FDR": len(found),
        "Wilcoxon, genes at 5 % FDR": len(tested),
        "of the path's, also Wilcoxon's": len(found & tested) / max(len(found), 1),
        "of the 100 strongest, shared": len(set(genes.index[:100]) & set(strongest[:100])) / 100,
        "transient at 5 % FDR": int(((genes["fdr"] < FDR) & (genes["shape"] == "transient")).sum()),
    }


def ranked_genes(model, pairs, held, predicted, name: str, seed: int) -> tuple[pd.DataFrame, float]:
    """The genes along the paths, also kept for tables and figures, and the share within the class."""
    trends = scivae.tl.gene_trends(model, pairs, n_steps=50, seed=seed)
    genes = scivae.tl.rank_genes(trends, seed=seed)
    observed = fold_change(per_10k(held.layers["counts"]), is_tumor(held))
    genes["held_out"] = pd.Series(observed, index=held.var_names)
    genes["predicted"] = pd.Series(predicted, index=held.var_names)
    genes.to_csv(CACHE / f"genes_{name}_{seed}.csv", encoding="utf-8")
    if seed == 0:
        trends.write_h5ad(CACHE / f"trends_{name}.h5ad")
    return genes, trends.uns["civae"].get("share_in_class", np.nan)


# --- change: four lineages -----------------------------------------------------------------------


def crc_split(seed: int):
    """Training and held-out cells, on genes that vary among the former, and the markers."""
    adata = anndata.read_h5ad(data_file("colon_crc.h5ad"))
    strata = adata.obs["cell_type"].astype(str) + adata.obs["tissue"].astype(str)
    train, test = train_test_split(
        np.arange(adata.n_obs), test_size=0.3, random_state=seed, stratify=strata
    )
    fitted = adata[train].copy()
    sc.pp.highly_variable_genes(fitted, n_top_genes=2000, flavor="cell_ranger")
    kept = fitted.var["highly_variable"].to_numpy() | adata.var_names.isin(UP + DOWN)
    return adata[train, kept].copy(), adata[test, kept].copy()


def change(seed: int, skip: set[str]) -> Iterator[list[dict]]:
    """Rows of the table, a method at a time."""
    if set(METHODS) <= skip:
        return
    train, test = crc_split(seed)
    for name, weight in METHODS.items():
        if name in skip:
            continue
        rows = []
        start = time.perf_counter()
        measured = name.startswith("training")
        model = None if measured else trained(train, seed, weight)
        seconds = time.perf_counter() - start
        for lineage in LINEAGES:
            real, held = (a[a.obs["cell_type"] == lineage] for a in (train, test))
            row = {"method": name, "lineage": lineage, "seed": seed}
            if model is None:
                predicted = fold_change(per_10k(real.layers["counts"]), is_tumor(real))
            else:
                pairs = scivae.tl.pair_cells(
                    train, "tissue", *ENDS, label=lineage, n_pairs=N_PAIRS, seed=seed
                )
                predicted = fold_change(*path_ends(model, train, pairs))
            row |= agreement(predicted, held, seed)
            if model is not None and weight is None:
                genes, share = ranked_genes(model, pairs, held, predicted, lineage, seed)
                row |= beside_wilcoxon(genes, real)
                row["paths within the class"] = share
            if model is not None:
                row["training time, s"] = seconds
            rows.append(row)
        yield rows


# --- donors and border: Lee 2020 -----------------------------------------------------------------


def lee():
    adata = anndata.read_h5ad(data_file("colon_lee_epithelial.h5ad"))
    adata.obs["told"] = adata.obs["tissue"].astype(str).replace("border", "Unknown")
    return adata


def lee_change(seed: int, skip: set[str]) -> Iterator[list[dict]]:
    """Path changes beside those measured in cells, or in a donor, that were held out."""
    adata = lee()
    adata = adata[adata.obs["tissue"].isin(ENDS)].copy()
    donor = adata.obs["donor"].astype(str).to_numpy()
    _, half = train_test_split(
        np.arange(adata.n_obs),
        test_size=0.5,
        random_state=seed,
        stratify=donor + adata.obs["tissue"].astype(str),
    )
    held_out = {HALF: np.isin(np.arange(adata.n_obs), half)}
    held_out |= {f"donor {who}": donor == who for who in np.unique(donor)}
    for what, mask in held_out.items():
        if what in skip:
            continue
        rows = []
        train, held = adata[~mask].copy(), adata[mask]
        for name, weight in METHODS.items():
            if name.startswith("training"):
                predicted = fold_change(per_10k(train.layers["counts"]), is_tumor(train))
            else:
                model = trained(train, seed, weight, labels_key="told")
                pairs = scivae.tl.pair_cells(
                    train, "tissue", *ENDS, n_pairs=N_PAIRS, donor_key="donor", seed=seed
                )
                predicted = fold_change(*path_ends(model, train, pairs))
                if what == HALF and weight is None:
                    ranked_genes(model, pairs, held, predicted, LEE, seed)
            row = {"held out": what, "method": name, "seed": seed}
            rows.append(row | agreement(predicted, held, seed))
        yield rows


def along_axis(z: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Position along the line from one centroid (0) to the other (1), not cut off at either."""
    a, b = start.mean(axis=0), end.mean(axis=0)
    return (z - a) @ (b - a) / np.sum((b - a) ** 2)


def border(seed: int) -> Iterator[dict]:
    """Where held-out normal, held-out tumour and border cells lie, per donor and representation."""
    adata = lee()
    ends = np.flatnonzero(adata.obs["tissue"].isin(ENDS))
    strata = adata.obs["donor"].astype(str) + adata.obs["tissue"].astype(str)
    train, test = train_test_split(
        ends, test_size=0.5, random_state=seed, stratify=strata.iloc[ends]
    )
    # Border cells are in neither: the representations are those of the ends alone, but for one.
    middle = np.flatnonzero(adata.obs["tissue"] == "border")

    def civae(labels_key: str, cells: np.ndarray, weight: float | None = None, **setup):
        model = trained(adata[cells].copy(), seed, weight, labels_key=labels_key, **setup)
        known = adata.copy()
        # A label is no input of the encoder; it must only be one that the model knows.
        known.obs[labels_key] = adata.obs[labels_key].iloc[cells[0]]
        return model.get_latent_representation(known)

    log = log_normalize(adata.layers["counts"])
    representations: dict[str, Callable[[], np.ndarray]] = {
        "all genes (log1p of counts per 10,000)": lambda: log,
        "20 principal components": lambda: (
            PCA(20, random_state=seed).fit(log[train]).transform(log)
        ),
        "VAE, told nothing": lambda: civae("cell_type", train, 0.0),  # one class: no discriminator
        "CI-VAE, told normal and tumour": lambda: civae("told", train),
        "CI-VAE, told these, border unlabeled": lambda: civae(
            "told", np.concatenate([train, middle]), unlabeled_category="Unknown"
        ),
    }
    groups = {"normal, held out": test, "tumor, held out": test, "border": middle}
    tissue, donor = (adata.obs[k].to_numpy() for k in ("tissue", "donor"))
    for name, make in representations.items():
        z = make()
        for who in np.unique(donor):
            a, b = (z[train[(tissue[train] == e) & (donor[train] == who)]] for e in ENDS)
            t = along_axis(z, a, b)
            row = {"representation": name, "donor": who, "seed": seed}
            for group, cells in groups.items():
                own = cells[(tissue[cells] == group.split(",")[0]) & (donor[cells] == who)]
                row[f"{group}, median"] = np.median(t[own])
                row[f"{group}, beyond halfway"] = (t[own] > 0.5).mean()
            yield row


# --- tables and figures --------------------------------------------------------------------------


def gene_table(seeds: int) -> None:
    """The genes of all seeds: which are found again, and whether their order is."""
    tables, orders = [], []
    for lineage in (*LINEAGES, LEE):
        ranked = [
            pd.read_csv(CACHE / f"genes_{lineage}_{s}.csv", index_col=0) for s in range(seeds)
        ]
        both = pd.concat(ranked, keys=range(seeds), names=["seed", "gene"]).reset_index()
        both["found"] = both["fdr"] < FDR
        by_gene = both.groupby("gene")
        summary = by_gene[["change", "held_out"]].mean()
        summary.insert(0, "shape", by_gene["shape"].agg(lambda s: s.mode().iat[0]))
        summary["switch"] = by_gene["switch"].mean()
        summary["switch, sd"] = by_gene["switch"].std()
        summary["fdr, largest"] = by_gene["fdr"].max()
        summary["donors that agree"] = by_gene["agreement"].mean()
        summary["found"] = by_gene["found"].sum().astype(str) + f" of {seeds}"
        summary["known"] = np.select(
            [summary.index.isin(UP), summary.index.isin(DOWN)], ["up", "down"], ""
        )
        summary["rank"] = (
            both.assign(rank=both.groupby("seed").cumcount() + 1).groupby("gene")["rank"].mean()
        )
        summary = summary.sort_values("rank")
        shown = (np.arange(len(summary)) < 20) | (summary["known"] != "")
        tables.append(summary[shown].assign(lineage=lineage).reset_index())
        wide = both[both["found"]].pivot(index="gene", columns="seed", values="switch")
        wide = wide.reindex(columns=range(seeds)).dropna()
        rho = [
            spearmanr(wide[a], wide[b]).statistic if len(wide) > 2 else np.nan
            for a, b in combinations(range(seeds), 2)
        ]
        early, late = (
            np.mean([r.loc[r["fdr"] < FDR, "switch"].quantile(q) for r in ranked])
            for q in (0.05, 0.95)
        )
        orders.append({
            "lineage": lineage,
            "genes found in every seed": len(wide),
            "switch position, 5 % quantile": early,
            "switch position, 95 % quantile": late,
            "standard deviation between seeds": wide.std(axis=1).mean(),
            "rank correlation between seeds": np.mean(rho),
        })  # fmt: skip
    write_markdown(
        "colon_genes",
        "Genes from normal to tumour",
        "The 20 surest of each lineage, and the markers named beforehand. Means over seeds: `change` in log2 of "
        "counts per 10,000, plus one, along the path; `held_out` measured in held-out cells; `switch` the "
        "position of half the change; `known` what the literature says of colorectal tumours.",
        pd.concat(tables).set_index("lineage").reset_index(),
    )
    write_markdown(
        "colon_order",
        "Is the order of genes reproducible?",
        "Switch positions of genes at 5 % FDR, between models of different seeds and splits.",
        pd.DataFrame(orders),
    )


def scatter_figure() -> None:
    fig, axes = plt.subplots(2, 2, figsize=(6.9, 6.6), layout="constrained")
    for ax, lineage in zip(axes.flat, LINEAGES, strict=True):
        genes = pd.read_csv(CACHE / f"genes_{lineage}_0.csv", index_col=0)
        pearson = np.corrcoef(genes["predicted"], genes["held_out"])[0, 1]
        limit = 1.08 * genes[["predicted", "held_out"]].abs().to_numpy().max()
        ax.axline((0, 0), slope=1, color=PALE, lw=0.8, zorder=0)
        ax.scatter(genes["held_out"], genes["predicted"], s=3, color=GREY, lw=0, rasterized=True)
        for known, color in ((UP, OKABE_ITO[3]), (DOWN, OKABE_ITO[0])):
            own = genes[genes.index.isin(known)]
            ax.scatter(own["held_out"], own["predicted"], s=14, color=color, lw=0)
            strong = own[own["fdr"] < FDR]
            below = known is UP
            for gene, row in strong.iterrows():
                ax.annotate(
                    gene, (row["held_out"], row["predicted"]), (4, -7 if below else 4),
                    textcoords="offset points", fontsize=6.5, color=color,
                )  # fmt: skip
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        n_found = (genes["fdr"] < FDR).sum()
        ax.set_title(f"{lineage}: Pearson {pearson:.2f}, {n_found} genes at 5 % FDR")
        ax.set_xlabel("held-out cells (log2 fold change)")
        ax.set_ylabel("along the path (log2 fold change)")
    marks = [plt.Line2D([], [], marker="o", ls="", ms=4, color=OKABE_ITO[i]) for i in (3, 0)]
    axes.flat[0].legend(marks, ["known up in tumour", "known down in tumour"], loc="upper left")
    save(fig, "colon_change")


def trend_figures() -> None:
    trends = anndata.read_h5ad(CACHE / "trends_Epithelial.h5ad")
    genes = pd.read_csv(CACHE / "genes_Epithelial_0.csv", index_col=0)
    sure = genes[(genes["fdr"] < FDR) & genes.index.isin(UP + DOWN)]
    first = pd.concat([sure[sure["change"] < 0].head(3), sure[sure["change"] > 0].head(3)])
    shown = [*first.index, *genes.index[genes["change"] > 0]][:6]
    grid = scivae.pl.gene_trends(trends, genes=list(dict.fromkeys(shown)), n_cols=3)
    save(np.ravel(grid)[0].figure, "colon_trends")
    ax = scivae.pl.trend_heatmap(trends, genes, n_genes=40)
    save(ax.figure, "colon_heatmap")


def border_figure(rows: pd.DataFrame) -> None:
    names, people = list(rows["representation"].unique()), list(rows["donor"].unique())
    fig, ax = plt.subplots(figsize=(6.9, 3.4), layout="constrained")
    marks = {
        "normal, held out": ("s", OKABE_ITO[2]),
        "border": ("o", OKABE_ITO[1]),
        "tumor, held out": ("^", OKABE_ITO[3]),
    }
    for i, name in enumerate(names):
        for j, who in enumerate(people):
            own = rows[(rows["representation"] == name) & (rows["donor"] == who)]
            y = -i + 0.25 * (1 - j)
            for group, (marker, color) in marks.items():
                t = own[f"{group}, median"]
                ax.plot([t.min(), t.max()], [y, y], color=color, lw=1)
                ax.scatter(t.mean(), y, marker=marker, s=16, color=color, lw=0, zorder=3)
            ax.text(1.01, y, who, transform=ax.get_yaxis_transform(), fontsize=6.5, va="center")
    for t in (0, 1):
        ax.axvline(t, color=PALE, lw=0.8, zorder=0)
    ax.set_yticks([-i for i in range(len(names))], names)
    ax.set_xlabel(
        "position between the centroids of normal (0) and tumour (1) training cells of the donor"
    )
    handles = [plt.Line2D([], [], marker=m, color=c, ls="", ms=4.5) for m, c in marks.values()]
    ax.legend(handles, marks, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    save(fig, "colon_border")


def save(fig, name: str) -> None:
    fig.savefig(ROOT / "docs" / "_static" / f"{name}.png", dpi=200)
    plt.close(fig)


# --- the run -------------------------------------------------------------------------------------

TABLES = {
    "colon_change": (
        ["lineage", "method"],
        "Changes along the path beside those of held-out cells",
        "`colon_crc`, 30 % of the cells of every lineage and tissue held out. Predicted: log2 fold change between "
        "the decoder's expectations at the two ends of 500 paths from normal to tumour cells of the lineage; "
        "observed: that of the held-out cells. The last method needs no model: the measured change of the training "
        "cells. The file holds 260 to 850 counts a cell, so noise in the held-out cells bounds the correlation of "
        "anything with them, by the root of their reliability (split halves, Spearman-Brown); `corrected` divides "
        "by it, where the reliability is over 0.05. The slope is that of held-out on predicted changes: 1 where a "
        "predicted change is met in full.",
    ),
    "colon_donors": (
        ["held out", "method"],
        "Changes along the path beside those of cells, or of a donor, left out",
        "`colon_lee_epithelial`, normal and tumour cells: trained on half of the cells of every donor, compared "
        "with the other half; or on two donors, compared with the third. Columns as in the table of colon_crc.",
    ),
    "colon_border": (
        ["representation", "donor"],
        "Where border tissue lies between normal and tumour",
        "`colon_lee_epithelial`: position along the line from the centroid of a donor's normal training cells (0) "
        "to that of its tumour training cells (1); half of both held out. Medians over cells.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--restart", action="store_true", help="forget the rows that are there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    CACHE.mkdir(exist_ok=True)
    tables = {name: [] if args.restart else rows_so_far(name) for name in TABLES}

    def add(name: str, rows: list[dict]) -> None:
        """Rows are written as they come, so that a run that is cut short can go on."""
        tables[name] += rows
        by, title, text = TABLES[name]
        write_table(name, title, text, pd.DataFrame(tables[name]), by)
        print(
            name,
            *({k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()} for r in rows),
            sep="\n",
        )

    for seed in range(args.seeds):
        seen = {(r["method"], r["seed"]) for r in tables["colon_change"]}
        for rows in change(seed, skip={m for m in METHODS if (m, seed) in seen}):
            add("colon_change", rows)
        seen = {r["held out"] for r in tables["colon_donors"] if r["seed"] == seed}
        for rows in lee_change(seed, skip=seen):
            add("colon_donors", rows)
        if seed not in {r["seed"] for r in tables["colon_border"]}:
            add("colon_border", list(border(seed)))
    gene_table(args.seeds)
    with plt.rc_context(STYLE):
        scatter_figure()
        border_figure(pd.DataFrame(tables["colon_border"]))
    trend_figures()


if __name__ == "__main__":
    main()
