"""How many cells and donors does the test between donors need?

    python benchmarks/power.py

Simulated cells of one type (`scivae.datasets.synthetic`): 300 genes, on average one count per gene and cell. Half of the
donors are sampled early on a path and half late (the first and the last third), so each donor has one group, as patients and
controls do. Donors differ by a standard deviation of 0.2 (natural logarithm) in each gene. Genes that switch between the
thirds change by the given factor. The test is that of `rank_genes` (moderated t-test of sums per donor, 5 % FDR). "False
calls" is the proportion of called genes that do not follow the path. "Null runs with a call": runs of the same design
without any change in which a gene is called; at most 5 % is right.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _common import DOCS, write_table

from scivae import stats
from scivae.datasets import synthetic

LEVEL = 0.05
N_GENES, DONOR_SD = 300, 0.2
DONORS = (3, 5, 8, 12)  # of each group
CELLS = (10, 30, 100, 300)  # of each donor
FOLDS = (1.5, 2.0, 4.0)
FIGURE = DOCS.parent / "_static" / "evidence_power.png"


def simulate(n_donors: int, fold: float, seed: int, n_cells: int):
    """So many cells of each early donor and of each late one, or a few more."""
    n = int(2 * n_donors * n_cells * 3 * 1.35)  # donors and positions are drawn at random
    adata = synthetic(
        n, N_GENES, 1, effect=float(np.log(fold)), n_donors=2 * n_donors, donor_effect=DONOR_SD,
        mean_counts=N_GENES, normalize=False, seed=seed,
    )  # fmt: skip
    donor = adata.obs["donor"].cat.codes.to_numpy()
    stage = adata.obs["stage"].astype(str).to_numpy()
    late = donor >= n_donors
    kept = np.where(late, stage == "late", stage == "early")
    switch = adata.var["switch"].to_numpy()
    kind = adata.var["kind"].to_numpy()
    changes = np.isin(kind, ["up", "down"]) & (switch > 0.38) & (switch < 0.62)
    return adata.X[kept], donor[kept], changes, kind == "flat"


def p_values(counts, donor: np.ndarray, n_donors: int, n_cells: int) -> np.ndarray:
    """Of the test of rank_genes, with so many cells of each donor."""
    rows = np.concatenate([np.flatnonzero(donor == d)[:n_cells] for d in range(2 * n_donors)])
    of, block = donor[rows], counts[rows]
    sums = stats.SampleSums.of(block, of, 2 * n_donors, np.asarray(block.sum(axis=1)).ravel())
    names = np.arange(2 * n_donors)
    return stats.donor_test(
        sums.values, sums.values.sum(axis=1), names, names >= n_donors, cell_variance=sums.variance
    ).p_value


def measure(n_seeds: int, donors=DONORS, cells=CELLS, folds=FOLDS) -> pd.DataFrame:
    """One row for each design and seed."""
    rows = []
    for n_donors in donors:
        for seed in range(n_seeds):
            data = {fold: simulate(n_donors, fold, seed, max(cells)) for fold in (*folds, 1.0)}
            for n_cells in cells:
                null = stats.false_discovery_rate(p_values(*data[1.0][:2], n_donors, n_cells))
                for fold in folds:
                    counts, donor, changes, flat = data[fold]
                    fdr = stats.false_discovery_rate(p_values(counts, donor, n_donors, n_cells))
                    called = fdr <= LEVEL
                    rows.append(
                        {
                            "donors per group": n_donors,
                            "cells per donor": n_cells,
                            "fold change": fold,
                            "seed": seed,
                            "power": called[changes].mean(),
                            "false calls": called[flat].sum() / max(called.sum(), 1),
                            "null runs with a call": float((null <= LEVEL).any()),
                        }
                    )
        print(pd.DataFrame(rows).groupby(["donors per group", "cells per donor", "fold change"])["power"].mean().unstack().round(2), flush=True)  # fmt: skip
    return pd.DataFrame(rows)


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Power by cells per donor, a line for each number of donors, a panel for each fold change."""
    from _figures import panels
    from matplotlib import colormaps

    folds, donors = (rows[c].unique() for c in ("fold change", "donors per group"))
    colors = colormaps["viridis"](np.linspace(0.05, 0.8, len(donors)))
    with panels(path, 1, len(folds), 2.5, sharey=True) as (fig, axes):
        for ax, fold in zip(axes, folds, strict=True):
            for n_donors, color in zip(donors, colors, strict=True):
                of = rows[(rows["fold change"] == fold) & (rows["donors per group"] == n_donors)]
                power = of.groupby("cells per donor")["power"].mean()
                ax.plot(power.index, power, "o-", ms=3.5, color=color, label=f"{n_donors} + {n_donors} donors")  # fmt: skip
            ax.set_title(f"{fold:g}-fold change")
            ax.set_xscale("log")
            ax.set_xticks(CELLS, [str(n) for n in CELLS])
            ax.minorticks_off()
            ax.set_ylim(-0.03, 1.03)
            ax.grid(axis="y", color="0.93", lw=0.8)
        axes[0].set_ylabel("genes found at 5 % FDR")
        axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
        fig.supxlabel("cells per donor", fontsize=9.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--draw", action="store_true", help="draw the figure of the table again")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.draw:
        draw(pd.read_csv(DOCS / "power.csv"), FIGURE)
        return
    rows = measure(args.seeds)
    text = "\n".join(__doc__.strip().split("\n\n")[2:])
    write_table(
        "power", "Power by donors and cells", text, rows,
        by=["donors per group", "cells per donor", "fold change"],
    )  # fmt: skip
    draw(rows, FIGURE)


if __name__ == "__main__":
    main()
