"""Normal epithelium, tumor border and tumor of the colon, patient by patient.

    python benchmarks/colon.py                    # three patients of KUL3, 300 genes, from the data folder
    python benchmarks/colon.py --cohort KUL3      # six patients, downloaded
    python benchmarks/colon.py --cohort SMC       # 23 patients, downloaded

Writes three tables and one figure under docs/; a cohort adds its name to theirs. The model is trained on cell types, never on
tissue (the file of three patients holds one type, so that its model has no classifier). Rules, written before any result:

- a gene *changes* if the test between patients (paired, `rank_genes`) has a false discovery rate of at most 5 %;
- it *replicates* if each patient alone shows it too (cells of that patient, false discovery rate of at most 5 %, one direction), and the number
  of such genes is stated beside that expected by chance. With six patients or more: if it changes in one half of the patients, and in the other
  half has p < 0.05 and the same direction;
- the *order* of genes is reported for patients only if positions at which genes have changed by half, fitted in each patient
  alone, agree between every two patients better than a mixture of both ends explains: rank correlation above that of the mixture, among rising and
  among falling genes. Otherwise it is not known;
- a gene is *transient* if border cells differ from normal tissue and from tumor in one direction (false discovery rate of at most 5 %);
- border tissue lies *between* if the median position of its cells is within 0.1 to 0.9 in each patient.
"""

from __future__ import annotations

import argparse
import warnings
from itertools import combinations

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from _common import DOCS, ROOT, data_file, markdown_table, provenance
from _data import log_normalize
from _study import replace
from scipy.stats import spearmanr

import scivae
from scivae import stats
from scivae.pl._style import GRAY, OKABE_ITO, STYLE
from scivae.stats.permutation import permutation_test

ENDS, BORDER = ("normal", "tumor"), "border"
LEVEL = 0.05
# Named before any model was trained: what the literature reports of epithelium in colorectal tumors.
UP = (
    "CEACAM5", "CEACAM6", "LCN2", "S100P", "MMP7", "CLDN1", "TGFBI", "LGR5", "TIMP1", "SPINK1",
    "REG1A", "MMP1", "MMP3", "CXCL5", "IGFBP3",
)  # fmt: skip
DOWN = (
    "GUCA2A", "GUCA2B", "CA1", "CA2", "CA4", "CA7", "AQP8", "ZG16", "MS4A12", "CLCA1", "CLCA4",
    "SLC26A3", "SLC4A4", "FABP1", "BEST4", "PYY", "ADH1C", "ITLN1", "FCGBP",
)  # fmt: skip


def cells(cohort: str | None, n_genes: int, seed: int):
    """Cells of all types, for the model, and which of them are epithelium."""
    if cohort is None:
        adata = anndata.read_h5ad(data_file("colon_lee_epithelial.h5ad"))
    else:
        adata = scivae.datasets.colon(cohort)
        kept = adata.obs["cell_type"].notna() & adata.obs["tissue"].notna()
        adata = adata[kept.to_numpy()].copy()
        sc.pp.highly_variable_genes(adata, n_top_genes=n_genes, flavor="cell_ranger")
        known = adata.var_names.isin(UP + DOWN)
        adata = adata[:, adata.var["highly_variable"].to_numpy() | known].copy()
    epithelial = adata.obs["cell_type"].astype(str).str.lower().str.contains("epithel")
    adata.obs["donor"] = adata.obs["donor"].astype(str)
    adata.obs["tissue"] = pd.Categorical(
        adata.obs["tissue"].astype(str), [ENDS[0], BORDER, ENDS[1]], ordered=True
    )
    return adata, epithelial.to_numpy()


def trained(adata, seed: int):
    """A model of types, which knows no tissue; of a single type there is nothing to classify."""
    scivae.model.CIVAE.setup_anndata(adata, labels_key="cell_type")
    alone = {"discriminator_weight": 0.0} if adata.obs["cell_type"].nunique() == 1 else {}
    model = scivae.model.CIVAE(adata, seed=seed, **alone)
    model.train(enable_progress_bar=False)
    adata.obsm["X_civae"] = model.get_latent_representation()
    return model


def patients_with(adata, *tissues: str, least: int = 5) -> list[str]:
    """Patients with cells of each tissue."""
    table = pd.crosstab(adata.obs["donor"], adata.obs["tissue"])
    return [str(p) for p in table.index[(table[list(tissues)] >= least).all(axis=1)]]


def sums_of(adata, ends: tuple[str, str], patients: list[str]):
    """Sums of each patient and tissue; patients, and which are of the second tissue."""
    own = adata[adata.obs["donor"].isin(patients) & adata.obs["tissue"].isin(ends)]
    key = own.obs["donor"] + "\t" + own.obs["tissue"].astype(str)
    codes, names = pd.factorize(key)
    counts = own.layers["counts"]
    size = np.asarray(counts.sum(axis=1)).ravel()
    sums = stats.SampleSums.of(counts, codes, len(names), size)
    who, tissue = zip(*(name.split("\t") for name in names), strict=True)
    return sums, pd.factorize(np.array(who), sort=True)[0], np.array(tissue) == ends[1]


def paired_test(adata, ends: tuple[str, str], patients: list[str]):
    sums, donor, target = sums_of(adata, ends, patients)
    totals = sums.values.sum(axis=1)
    return stats.donor_test(sums.values, totals, donor, target, cell_variance=sums.variance)


def alone(adata, ends: tuple[str, str], patients: list[str]) -> np.ndarray:
    """What the cells of each patient alone call: 1 up, -1 down, 0 neither."""
    calls = []
    for who in patients:
        own = adata[(adata.obs["donor"] == who) & adata.obs["tissue"].isin(ends)]
        found = permutation_test(
            log_normalize(own.layers["counts"]).T,
            (own.obs["tissue"] == ends[1]).to_numpy(),
            np.zeros(own.n_obs, dtype=int),
            n_permutations=2000,
        )
        called = stats.false_discovery_rate(found.p_value) <= LEVEL
        calls.append(np.where(called, np.sign(found.difference), 0))
    return np.array(calls)


def replication(adata, ends, patients: list[str], seed: int = 0) -> dict[str, float]:
    """Genes that are found again in other patients, and how many chance would find."""
    if len(patients) < 6:
        calls = alone(adata, ends, patients)
        every = (calls == calls[0]).all(axis=0) & (calls[0] != 0)
        chance = sum(np.prod([(c == s).mean() for c in calls]) for s in (-1, 1)) * adata.n_vars
        return {
            "found in each patient alone": int(every.sum()),
            "expected by chance": float(chance),
            "which": sorted(adata.var_names[every]),
        }
    again, called, chance, rng = [], [], [], np.random.default_rng(seed)
    for _ in range(10):
        order = rng.permutation(patients)
        a, b = (
            paired_test(adata, ends, sorted(part))
            for part in (order[: len(order) // 2], order[len(order) // 2 :])
        )
        found = stats.false_discovery_rate(a.p_value) <= LEVEL
        small = b.p_value < 0.05
        same = np.sign(a.estimate) == np.sign(b.estimate)
        called.append(found.sum())
        again.append((found & small & same).sum())
        chance.append(
            sum(
                (found & (np.sign(a.estimate) == s)).sum()
                * np.nanmean(small & (np.sign(b.estimate) == s))
                for s in (-1, 1)
            )
        )
    return {
        "called in one half of the patients": float(np.mean(called)),
        "found again in the other half": float(np.mean(again)),
        "expected by chance": float(np.mean(chance)),
    }


def trends_of(model, adata, patients: list[str], seed: int, *, n_bootstraps: int):
    """Paths from normal epithelium to tumor within patients, with the border cells in between."""
    own = adata[adata.obs["donor"].isin(patients)].copy()
    pairs = scivae.tl.pair_cells(own, "tissue", *ENDS, donor_key="donor", n_pairs=500, seed=seed)
    trends = scivae.tl.gene_trends(
        model,
        pairs,
        adata=own,
        between=[BORDER] if (own.obs["tissue"] == BORDER).any() else [],
        n_bootstraps=n_bootstraps,
        seed=seed,
    )
    return trends, own


def mixture_switch(adata, patients: list[str]) -> np.ndarray:
    """Where a mixture of both ends, in shares 1 − t and t, has changed by half on the log scale."""
    own = adata[adata.obs["donor"].isin(patients)]
    counts, tissue = own.layers["counts"], own.obs["tissue"].to_numpy()
    ends = [np.asarray(counts[tissue == end].sum(axis=0)).ravel() for end in ENDS]
    a, b = (1e4 * x / max(x.sum(), 1) for x in ends)
    t = np.linspace(0, 1, 201)[:, None]
    return stats.switch_position(np.log1p((1 - t) * a + t * b), t[:, 0])


def order_between_patients(model, adata, patients: list[str], changed: pd.Series, seed: int):
    """Rank correlation of the positions of changed genes between fits of single patients."""
    switch = {}
    for who in patients:
        trends, _ = trends_of(model, adata, [who], seed, n_bootstraps=0)
        switch[who] = trends.var["switch"].to_numpy()
    mixture = {who: mixture_switch(adata, [who]) for who in patients}
    rows = []
    for a, b in combinations(patients, 2):
        for name, sign in (("rising", 1), ("falling", -1)):
            genes = (changed == sign).to_numpy() & np.isfinite(switch[a]) & np.isfinite(switch[b])
            row = {"seed": seed, "patients": f"{a}, {b}", "genes": name, "n": int(genes.sum())}
            if genes.sum() >= 5:
                row["measured cells"] = float(spearmanr(switch[a][genes], switch[b][genes])[0])
                row["mixture of the ends"] = float(
                    spearmanr(mixture[a][genes], switch[b][genes], nan_policy="omit")[0]
                )
            rows.append(row)
    return rows


def positions(adata, epithelial: np.ndarray, patients: list[str], seed: int) -> list[dict]:
    """Where cells that neither model nor paths have seen lie on the way from normal (0) to tumor (1)."""
    rng = np.random.default_rng([seed, 6])
    first = np.zeros(adata.n_obs, dtype=bool)
    for _, names in adata.obs.groupby(["donor", "tissue", "cell_type"], observed=True):
        cells = rng.permutation(adata.obs_names.get_indexer(names.index))
        first[cells[: (len(cells) + 1) // 2]] = True
    known = adata[first].copy()
    model = trained(known, seed)
    trends, _ = trends_of(model, known[epithelial[first]].copy(), patients, seed, n_bootstraps=0)
    others = adata[~first & epithelial].copy()
    t = scivae.tl.project(others, trends, model=model, key_added=None)["civae_t"]
    rows = []
    for (who, tissue), part in others.obs.groupby(["donor", "tissue"], observed=True):
        if len(part) >= 5 and who in patients:
            own = t.loc[part.index]
            rows.append(
                {
                    "seed": seed,
                    "patient": who,
                    "tissue": tissue,
                    "cells": len(own),
                    "median position": float(own.median()),
                    "25 %": float(own.quantile(0.25)),
                    "75 %": float(own.quantile(0.75)),
                }
            )
    return rows


def border_figure(table: pd.DataFrame, name: str) -> None:
    """Median and quartiles of each tissue, a row a patient; the mean over seeds."""
    mean = table.groupby(["patient", "tissue"], sort=False).mean(numeric_only=True).reset_index()
    patients = sorted(mean["patient"].unique())
    colors = dict(zip((ENDS[0], BORDER, ENDS[1]), (OKABE_ITO[0], GRAY, OKABE_ITO[1]), strict=True))
    fig, ax = plt.subplots(figsize=(5.5, 0.8 + 0.45 * len(patients)), layout="constrained")
    for i, who in enumerate(patients):
        for j, (tissue, color) in enumerate(colors.items()):
            row = mean[(mean["patient"] == who) & (mean["tissue"] == tissue)]
            if len(row):
                row = row.iloc[0]
                y = i + 0.22 * (j - 1)
                ax.plot([row["25 %"], row["75 %"]], [y, y], color=color, lw=1.5)
                ax.plot(
                    row["median position"], y, "o", color=color, ms=5, label=None if i else tissue
                )
    ax.set_yticks(range(len(patients)), patients)
    ax.set_xlabel("position of measured cells, t (0: normal, 1: tumor)")
    ax.set_ylabel("patient")
    fig.legend(loc="outside upper center", ncols=3)
    fig.savefig(ROOT / "docs" / "_static" / f"{name}.png", dpi=200)
    plt.close(fig)


def gene_table(trends, patients: list[str], adata) -> pd.DataFrame:
    """The table of rank_genes, with the change in each patient and what was known."""
    genes = scivae.tl.rank_genes(trends)
    sums, donor, target = sums_of(adata, ENDS, patients)
    y = stats.log_cpm(sums.values, sums.values.sum(axis=1))
    for i, who in enumerate(sorted(patients)) if len(patients) <= 6 else ():
        change = y[(donor == i) & target][0] - y[(donor == i) & ~target][0]
        genes[f"in {who}"] = pd.Series(change, adata.var_names).loc[genes.index]
    genes["known"] = np.select(
        [genes.index.isin(UP), genes.index.isin(DOWN)], ["up", "down"], default=""
    )
    return genes


def write(name: str, title: str, text: str, table: pd.DataFrame, shown: pd.DataFrame) -> None:
    replace(DOCS / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    replace(
        DOCS / f"{name}.md", f"# {title}\n\n{text}\n\n{markdown_table(shown)}\n\n{provenance()}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cohort", choices=["KUL3", "SMC"], default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-genes", type=int, default=2000, help="of a cohort")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    suffix = f"_{args.cohort.lower()}" if args.cohort else ""
    where = args.cohort or "three patients of KUL3 (colon_lee_epithelial, 300 genes)"

    adata, epithelial = cells(args.cohort, args.n_genes, 0)
    rows_border, rows_order, genes = [], [], None
    for seed in range(args.seeds):
        model = trained(adata, seed)
        own = adata[epithelial].copy()
        paired = patients_with(own, *ENDS)
        three = [p for p in patients_with(own, *ENDS, BORDER) if p in paired]
        rows_border += positions(adata, epithelial, paired, seed)
        if genes is None:
            trends, _ = trends_of(model, own, paired, seed, n_bootstraps=100)
            genes = gene_table(trends, paired, own)
            changes = np.sign(genes["observed"]).where(genes["fdr"] <= LEVEL, 0)
            found = replication(own, ENDS, paired)
            between = {
                f"{a} against {b}": int(
                    (
                        stats.false_discovery_rate(paired_test(own, (a, b), three).p_value) <= LEVEL
                    ).sum()
                )
                for a, b in ((ENDS[0], BORDER), (BORDER, ENDS[1]))
                if len(three) >= 3
            }
        rows_order += order_between_patients(
            model, own, paired[:6], changes.loc[own.var_names], seed
        )
        print(f"seed {seed}", pd.DataFrame(rows_order).groupby("genes").mean(numeric_only=True))

    called = genes[genes["fdr"] <= LEVEL]
    facts = {
        "units": genes.attrs["unit_text"],
        "genes": len(genes),
        "genes that change (5 % FDR)": len(called),
        "rising": ", ".join(sorted(called.index[called["observed"] > 0])),
        "falling": ", ".join(sorted(called.index[called["observed"] < 0])),
        "known, in the file": int((genes["known"] != "").sum()),
        "known, called in the known direction": int(
            (
                ((called["known"] == "up") & (called["observed"] > 0))
                | ((called["known"] == "down") & (called["observed"] < 0))
            ).sum()
        ),
        "known, called in the other direction": int(
            (
                ((called["known"] == "up") & (called["observed"] < 0))
                | ((called["known"] == "down") & (called["observed"] > 0))
            ).sum()
        ),
        **{k: ", ".join(v) if isinstance(v, list) else v for k, v in found.items() if k != "which"},
        **({"these are": ", ".join(found["which"])} if "which" in found else {}),
        **{f"genes that change, {k}": v for k, v in between.items()},
        "transient genes": ", ".join(genes.index[genes["shape"] == "transient"]) or "none",
        "of the genes that change, with a resolved position": int(called["resolved"].sum()),
    }
    lines = "\n".join(f"- {k}: {v:.3g}" if isinstance(v, float) else f"- {k}: {v}" for k, v in facts.items())  # fmt: skip
    shown = called[["observed", "agreement", "p_value", "fdr", *(c for c in genes if c.startswith("in ")), "known"]]  # fmt: skip
    write(
        f"colon_genes{suffix}",
        f"Genes that change from normal epithelium to tumor: {where}",
        f"log2 of counts per 10,000, plus one; patients are the units.\n\n{lines}",
        genes.reset_index(names="gene"),
        shown.reset_index(names="gene").head(60),
    )
    border = pd.DataFrame(rows_border)
    write(
        f"colon_border{suffix}",
        f"Where border tissue lies: {where}",
        "Position of epithelial cells on the mean path from normal (0) to tumor (1) tissue. The model knows types and no tissue; model and path "
        "are of one half of the cells of each patient and tissue, positions of the other half. Means over seeds.",
        border,
        border.groupby(["patient", "tissue"], sort=False).mean(numeric_only=True).drop(columns="seed").reset_index(),
    )  # fmt: skip
    order = pd.DataFrame(rows_order)
    write(
        f"colon_order{suffix}",
        f"Is the order of genes that of other patients? {where}",
        "Rank correlation, between two patients, of the positions at which genes that change have changed by half; each patient's "
        "cells are fitted alone. *Mixture*: positions in a mixture of the one patient's normal and tumor cells, against the other's. Means over seeds.",
        order,
        order.groupby(["patients", "genes"], sort=False).mean(numeric_only=True).drop(columns="seed").reset_index(),
    )  # fmt: skip
    with plt.rc_context(STYLE):
        border_figure(border, f"colon_border{suffix}")
    print(lines)


if __name__ == "__main__":
    main()
