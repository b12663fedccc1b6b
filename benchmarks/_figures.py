"""Figures of the evidence page, made from the tables: every seed a dot, their mean a bar.

    python benchmarks/_figures.py

They go to ``docs/_static/evidence_<study>.png``. A study whose table is not there has no figure.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import DOCS

FOLDER = DOCS.parent / "_static"
# What is ours, what it is compared with, the ceiling, and all else.
COLORS = {
    "ours": "#0072B2",
    "variant": "#009E73",
    "reference": "#D55E00",
    "ceiling": "black",
    "other": "0.35",
}
NAMES = {
    "intestine_haber": "mouse intestine",
    "colon_crc": "colon types",
    "pbmc_kang": "blood",
}
# Rows of the network without its classifier.
RECIPE = "CI-VAE, β = 0 (the recipe)"
ON_RECIPE = "logistic regression, latent space of the recipe"
# Inches: as wide as a column of text, so that words can be read on a telephone.
WIDTH = 5.6
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9.5,
    "savefig.facecolor": "white",
}


@contextmanager
def panels(path: Path, n_rows: int, n_cols: int, height: float, **shared: bool) -> Iterator[Any]:
    """A figure and its panels, in the style of the pages; written to a file in the end."""
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            n_rows,
            n_cols,
            squeeze=False,
            figsize=(WIDTH, height),
            layout="constrained",
            **shared,
        )
        yield fig, axes.ravel()
        fig.savefig(path, dpi=150)
        plt.close(fig)


def dots(
    rows: pd.DataFrame,
    column: str | Sequence[str],
    methods: Mapping[str, str],
    path: Path,
    *,
    xlabel: str,
    groups: Mapping[str, str],
    by: str = "data",
    kinds: Mapping[str, str] | None = None,
    line: float | str | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """A panel for each group, a line of dots for each method.

    Parameters
    ----------
    rows
        Table.
    column
        What is shown of it; one for each panel, if these differ by column.
    methods
        ``{name of the row: name in the figure}``, from top to bottom.
    path
        Of the figure.
    xlabel
        What ``column`` is.
    groups, by
        Values of a column that make the panels, and their titles. ``by=""``: panels differ by column.
    kinds
        Key of :data:`COLORS` for a method; ``"other"`` unless given.
    line
        Where to draw a vertical line: a number, or a column.
    limits
        Of the axis; ``None``: by what is shown.
    """

    groups = {g: t for g, t in groups.items() if not by or (rows[by] == g).any()}
    methods = {m: t for m, t in methods.items() if (rows["method"] == m).any()}
    columns = [column] * len(groups) if isinstance(column, str) else list(column)
    height = 0.75 + 0.27 * len(methods)
    with panels(path, 1, len(groups), height, sharey=True) as (fig, axes):
        for ax, group, shown in zip(axes, groups, columns, strict=True):
            of = rows[rows[by] == group] if by else rows
            for y, name in enumerate(methods):
                values = of.loc[of["method"] == name, shown].dropna()
                kind = (kinds or {}).get(name, "other")
                ax.plot(
                    values, np.full(len(values), y), "o", ms=4, color=COLORS[kind], alpha=0.4, mew=0
                )
                if len(values):
                    ax.plot([values.mean()] * 2, [y - 0.33, y + 0.33], color=COLORS[kind], lw=2.4)
            if line is not None:
                x = of[line].mean() if isinstance(line, str) else line
                ax.axvline(x, color="0.6", lw=1, ls=(0, (3, 2)), zorder=0)
            if limits is not None:
                ax.set_xlim(*limits)
            ax.set_title(groups[group])
            ax.locator_params(axis="x", nbins=3 if len(groups) > 2 else 5, min_n_ticks=2)
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", color="0.93", lw=0.8)
            ax.set_axisbelow(True)
        axes[0].set_yticks(range(len(methods)), list(methods.values()))
        axes[0].set_ylim(len(methods) - 0.5, -0.5)
        for label, name in zip(axes[0].get_yticklabels(), methods, strict=True):
            label.set_color(COLORS[(kinds or {}).get(name, "other")] if kinds else "black")
        fig.supxlabel(xlabel, fontsize=9.5)


def scatter(
    rows: pd.DataFrame,
    x: str,
    y: str,
    methods: Mapping[str, str],
    path: Path,
    *,
    labels: tuple[str, str],
    groups: Mapping[str, str],
    kinds: Mapping[str, str] | None = None,
) -> None:
    """A panel for each data set, a point for each method: means over seeds, named at their points."""
    from matplotlib.ticker import NullLocator

    groups = {g: t for g, t in groups.items() if (rows["data"] == g).any()}
    height = 0.5 + 1.7 * len(groups)
    with panels(path, len(groups), 1, height, sharex=True) as (_, axes):
        for ax, group in zip(axes, groups, strict=True):
            of = rows[rows["data"] == group].groupby("method")[[x, y]].mean()
            for name, shown in methods.items():
                if name not in of.index:
                    continue
                kind = (kinds or {}).get(name, "other")
                color = COLORS[kind]
                left = kind == "ours"  # so that two near names do not lie on each other
                ax.plot(*of.loc[name], "o", ms=6, color=color, mew=0)
                ax.annotate(
                    shown,
                    of.loc[name],
                    xytext=(-6 if left else 6, 3),
                    ha="right" if left else "left",
                    textcoords="offset points",
                    color=color,
                    fontsize=9,
                ).set_in_layout(False)
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter("{x:g}")
            ax.margins(x=0.35, y=0.25)
            ax.set_title(groups[group])
            ax.set_ylabel(labels[1])
        low, high = axes[-1].get_xlim()
        axes[-1].set_xlim(low, high * 3)  # room for the names
        axes[-1].set_xlabel(labels[0])


def curves(
    rows: pd.DataFrame,
    x: str,
    column: str,
    methods: Mapping[str, str],
    path: Path,
    *,
    labels: tuple[str, str],
    groups: Mapping[str, str],
    kinds: Mapping[str, str] | None = None,
) -> None:
    """A panel for each data set, a curve for each method: mean over seeds, and all seeds as dots."""

    groups = {g: t for g, t in groups.items() if (rows["data"] == g).any()}
    styles = ("-", "--", ":", "-.")
    with panels(path, 1, len(groups), 3.2) as (fig, axes):
        for ax, group in zip(axes, groups, strict=True):
            of = rows[rows["data"] == group]
            levels = sorted(of[x].unique())
            for i, (name, shown) in enumerate(methods.items()):
                own = of[of["method"] == name]
                if not len(own):
                    continue
                kind = (kinds or {}).get(name, "other")
                at, color = own[x].map(levels.index), COLORS[kind]
                ax.plot(
                    at + 0.06 * (i - 1.5), own[column], "o", ms=3.5, color=color, alpha=0.4, mew=0
                )
                mean = own.groupby(at)[column].mean()
                style = "-" if kind != "other" else styles[1 + i % 3]
                ax.plot(mean.index, mean, style, color=color, lw=1.8, label=shown)
            ax.set_xticks(range(len(levels)), [f"{v:g}" for v in levels])
            ax.set_xlim(-0.4, len(levels) - 0.6)
            middle, half = np.mean(ax.get_ylim()), np.ptp(ax.get_ylim()) / 2
            half = max(half, 0.06)  # so that noise is not magnified
            ax.set_ylim(middle - half, min(middle + half, 1.01))  # scores are at most 1
            ax.set_title(groups[group])
        axes[0].set_ylabel(labels[1])
        fig.supxlabel(labels[0], fontsize=9.5)
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, fontsize=9)


def order(rows: pd.DataFrame, path: Path) -> None:
    """Rank correlation with the order in other cells."""
    dots(
        rows[rows["genes"] == "sure"],
        ["Spearman, rising", "Spearman, falling"],
        {
            "ceiling: stages of the first half": "labeled stages",
            "CI-VAE, measured cells (default)": "gene_trends",
            "the same axis in 20 principal components": "axis in 20 PCs",
            "the same axis in genes (log1p)": "axis in genes",
            "diffusion pseudotime (scanpy)": "diffusion pseudotime",
            "CI-VAE, decoded line": "decoded line",
            "mixture of the means of both ends": "mixture of the ends",
        },
        path,
        xlabel="rank correlation with the order in other cells",
        by="",
        groups={"rising": "rising genes", "falling": "falling genes"},
        kinds={
            "CI-VAE, measured cells (default)": "ours",
            "CI-VAE, decoded line": "reference",
            "ceiling: stages of the first half": "ceiling",
        },
        line=0.0,
    )


def donors(rows: pd.DataFrame, path: Path) -> None:
    """How many studies without a true difference call a gene; a dot is a design."""
    rows = rows.rename(columns={"test": "method"})
    column = "null runs with a call, %"
    dots(
        rows,
        [column],
        {
            "moderated t (rank_genes)": "rank_genes, donors",
            "PyDESeq2": "PyDESeq2, donors",
            "cells as units (control)": "cells as units",
        },
        path,
        xlabel="% of studies that call a gene at 5 % FDR (dashed: 5)",
        by="",
        groups={column: f"no true difference: {rows.design.nunique()} designs"},
        kinds={"moderated t (rank_genes)": "ours", "cells as units (control)": "reference"},
        line=5.0,
    )


def condition(rows: pd.DataFrame, path: Path) -> None:
    """Energy distance to treated cells that were left out."""
    kind = rows["left out"].str.split(":").str[0]
    dots(
        rows.assign(kind=kind),
        "energy distance",
        {
            "other half of the held-out cells (ceiling)": "half of the cells",
            "measured changes, weighted (predict_condition)": "predict_condition",
            "mean change of the others": "mean change",
            "VAE (β = 0), arithmetic (scGen's)": "scGen's arithmetic",
            "CI-VAE, arithmetic": "the same, CI-VAE",
            "VAE (β = 0), OT": "transport, VAE",
            "CI-VAE, OT": "transport, CI-VAE",
            "control cells as they are": "control cells",
        },
        path,
        xlabel="energy distance to the left-out cells (0 is best)",
        by="kind",
        groups={"type": "a type left out", "donor": "a donor left out"},
        kinds={
            "measured changes, weighted (predict_condition)": "ours",
            "VAE (β = 0), arithmetic (scGen's)": "reference",
            "other half of the held-out cells (ceiling)": "ceiling",
        },
    )


def class_kept(rows: pd.DataFrame, path: Path) -> None:
    """Share of cells between training cells that is called by its class."""
    dots(
        rows,
        "between training cells (logistic)",
        {
            "real cells": "real cells",
            "CI-VAE (default)": "CI-VAE",
            RECIPE: "without the classifier",
            "SCANVI, linear classifier": "SCANVI, linear",
            "scVI": "scVI",
            "PCA": "PCA",
            "conditional VAE": "conditional VAE",
            "gene space": "averages of cells",
            "CI-VAE, labels permuted": "labels permuted",
        },
        path,
        xlabel="cells between training cells, called by their class (dashed: chance)",
        groups=NAMES,
        kinds={
            "real cells": "ceiling",
            "CI-VAE (default)": "ours",
            RECIPE: "reference",
        },
        line="chance",
        limits=(0.0, 1.02),
    )


def augmentation_realism(rows: pd.DataFrame, path: Path) -> None:
    """Forest AUC of made and real cells."""
    dots(
        rows,
        "forest AUC",
        {
            "real cells": "real cells",
            "CI-VAE, augment (default)": "CI-VAE, augment",
            "CI-VAE, lines": "CI-VAE, lines",
            f"{RECIPE}, lines": "without the classifier",
            "CI-VAE, posterior draws, no line": "posterior, no line",
            "scVI, lines": "scVI",
            "SCANVI, linear classifier, lines": "SCANVI, linear",
            "conditional VAE, lines": "conditional VAE",
            "PCA, Gaussian": "normal in PCA",
            "SMOTE": "SMOTE",
        },
        path,
        xlabel="forest that tells made from real cells: AUC (dashed: 0.5, chance)",
        groups=NAMES,
        kinds={
            "real cells": "ceiling",
            "CI-VAE, augment (default)": "ours",
            "CI-VAE, lines": "ours",
            f"{RECIPE}, lines": "reference",
        },
        line=0.5,
    )


def augmentation_use(rows: pd.DataFrame, path: Path) -> None:
    """AUPRC by cells kept."""
    curves(
        rows,
        "kept",
        "AUPRC",
        {
            "CI-VAE, augment (default)": "CI-VAE, augment",
            "nothing": "no cells added",
            "class weights": "class weights",
            "SMOTE": "SMOTE",
            "VAE, latent arithmetic": "latent arithmetic",
        },
        path,
        labels=("cells of the class that were kept", "AUPRC, held-out cells"),
        groups=NAMES,
        kinds={"CI-VAE, augment (default)": "ours", "nothing": "reference"},
    )


def augmentation_use_untuned(rows: pd.DataFrame, path: Path) -> None:
    """F1 by cells kept, first protocol."""
    curves(
        rows,
        "kept",
        "F1",
        {
            "CI-VAE, normal": "CI-VAE, normal",
            "nothing": "no cells added",
            "class weights": "class weights",
            "SMOTE": "SMOTE",
            "VAE, latent arithmetic": "latent arithmetic",
        },
        path,
        labels=("cells of the class that were kept", "F1, held-out cells"),
        groups=NAMES,
        kinds={"CI-VAE, normal": "ours", "nothing": "reference"},
    )


def few_labels(rows: pd.DataFrame, path: Path) -> None:
    """Macro F1 by the share of cells that have a label, and by the share of labels that are wrong."""
    kept, wrong = "labels kept, %", "labels wrong, %"
    ours, doubted = "CI-VAE (default)", "CI-VAE, labels doubted"
    shown = {
        ours: "CI-VAE",
        doubted: "CI-VAE, label_robustness=0.7",
        ON_RECIPE: "regression, no classifier",
        "SCANVI, tuned": "SCANVI, tuned",
        "logistic regression, genes": "regression on genes",
    }
    kinds = {ours: "ours", doubted: "variant", ON_RECIPE: "reference"}
    rows = rows[rows["method"].isin(shown)]
    for label, some, name in (
        (kept, rows[rows[wrong] == 0], "few_labels"),
        (wrong, rows[rows[kept] == 100], "wrong_labels"),
    ):
        curves(
            some,
            label,
            "macro F1",
            shown,
            path.with_stem(path.stem.replace("few_labels", name)),
            labels=(label, "macro F1, held-out cells"),
            groups=NAMES,
            kinds=kinds,
        )


def cost(rows: pd.DataFrame, path: Path) -> None:
    """Macro F1 against seconds, each package as it is called by default."""
    scatter(
        rows,
        "CPU time, s",
        "macro F1",
        {
            "CI-VAE": "CI-VAE",
            RECIPE: "no classifier",
            "scVI": "scVI",
            "JointEmbeddingSCVI": "JointEmbeddingSCVI",
            "scVI and SCANVI": "scVI, then SCANVI",
            "scVI and SCANVI, linear classifier": "SCANVI, linear",
        },
        path,
        labels=("seconds on one processor", "macro F1"),
        groups=NAMES,
        kinds={"CI-VAE": "ours", RECIPE: "reference"},
    )


def sets(rows: pd.DataFrame, path: Path) -> None:
    """Coverage at 0.9, and the AUROC of types that were left out."""
    covered = rows[rows["left out"] == "–"]
    dots(
        covered,
        "coverage at 0.9",
        {
            "sets, default": "prediction sets",
            "sets, calibrated on other cells": "by calibrate()",
            "sets, one threshold": "one threshold",
            "summed probabilities": "summed probabilities",
            "sets, default, labels permuted": "labels permuted",
            "sets, default, other donor": "other donor",
        },
        path,
        xlabel="share of cells whose set holds their type (dashed: 0.9 stated)",
        groups=NAMES,
        kinds={
            "sets, default": "ours",
            "sets, calibrated on other cells": "ours",
            "summed probabilities": "reference",
        },
        line=0.9,
        limits=(0.8, 1.0),
    )
    left_out = rows[rows["left out"] != "–"]
    if len(left_out):
        dots(
            left_out.groupby(["method", "left out"], as_index=False)["AUROC"].mean(),
            ["AUROC"],
            {
                "novelty": "novelty",
                "distance in latent space alone": "distance in latent space",
                "distance in principal components": "distance in 10 PCs",
                "1 − greatest probability": "1 − greatest probability",
            },
            path.with_stem(path.stem.replace("sets", "novelty")),
            xlabel="AUROC (dashed: 0.5, chance)",
            by="",
            groups={"AUROC": "each dot: a type that was left out"},
            kinds={"novelty": "ours", "distance in principal components": "reference"},
            line=0.5,
            limits=(0.2, 1.01),
        )


def middle(rows: pd.DataFrame, path: Path) -> None:
    """Energy distance to what was held out."""
    floors = rows.groupby(["data", "held out", "seed"], sort=False)[
        "energy distance, floor"
    ].first()
    floor = floors.reset_index().rename(columns={"energy distance, floor": "energy distance"})
    rows = pd.concat([rows, floor.assign(method="floor")])
    dots(
        rows,
        "energy distance",
        {
            "floor": "half of the real cells",
            "CI-VAE (default), OT pairs": "CI-VAE",
            f"{RECIPE}, OT pairs": "without the classifier",
            "SCANVI, linear classifier, OT pairs": "SCANVI, linear",
            "VAE, OT pairs": "VAE",
            "gene space, OT pairs": "nothing learned (OT)",
            "halves of the counts, OT pairs": "halves of the counts",
            "nearest end": "nearest end",
        },
        path,
        xlabel="energy distance to the left-out cells (0 is best)",
        by="held out",
        limits=(0.0, float(rows["energy distance"].max()) * 1.05),
        groups={
            "3_EP": "progenitors",
            "4_immature": "immature",
            "time 1": "EMT, time 1",
            "time 2": "EMT, time 2",
        },
        kinds={
            "floor": "ceiling",
            "CI-VAE (default), OT pairs": "ours",
            f"{RECIPE}, OT pairs": "reference",
        },
    )


def mnist(rows: pd.DataFrame, path: Path) -> None:
    """Error and separability."""
    dots(
        rows,
        ["MAE, %", "separability, train-test, %"],
        {name: name for name in rows["method"].unique() if name != "real test images"},
        path,
        xlabel="both in %",
        by="",
        groups={"error": "error", "separability": "separability"},
        kinds={n: "ours" for n in rows["method"].unique() if n.startswith("CI-VAE")},
    )


def tradeoff(rows: pd.DataFrame, path: Path) -> None:
    """Reconstruction by the weight of the classifier."""
    loss, beta = "reconstruction loss, held out", "discriminator_weight"
    swept = rows[rows["kl_weight"] == 0.1].copy()
    at_zero = swept[swept[beta] == 0].set_index(["data", "seed"])[loss]
    swept[loss] -= at_zero.loc[pd.MultiIndex.from_frame(swept[["data", "seed"]])].to_numpy()
    names = {f"β = {x:g}": f"β = {x:g}" for x in sorted(swept[beta].unique()) if x > 0}
    dots(
        swept.assign(method=swept[beta].map("β = {:g}".format)),
        loss,
        names,
        path,
        xlabel="reconstruction loss, nats more than without the classifier",
        groups={"colon_crc": "colon types (of 337)", "pbmc_kang": "blood (of 790)"},
        kinds=dict.fromkeys(names, "ours"),
        line=0.0,
    )


FIGURES = (
    *(order, donors, condition, class_kept, augmentation_realism, augmentation_use),
    *(few_labels, cost, sets, middle, mnist, tradeoff, augmentation_use_untuned),
)


def main(folder: Path = FOLDER, tables: Path = DOCS) -> None:
    """Draw what there are tables of."""
    for draw in FIGURES:
        table = tables / f"{draw.__name__}.csv"
        if table.exists():
            draw(pd.read_csv(table), folder / f"evidence_{draw.__name__}.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
