"""Figures of the evidence page: every seed a dot, their mean a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

# What is ours, what it is compared with, the ceiling, and all else.
COLORS = {"ours": "#0072B2", "reference": "#D55E00", "ceiling": "black", "other": "0.55"}
NAMES = {
    "intestine_haber": "mouse intestine",
    "colon_crc": "colon, cell types",
    "pbmc_kang": "blood",
}


def dots(
    rows: pd.DataFrame,
    column: str,
    methods: Mapping[str, str],
    path: Path,
    *,
    xlabel: str,
    groups: Sequence[str],
    by: str = "data",
    kinds: Mapping[str, str] | None = None,
    line: float | str | None = None,
) -> None:
    """A panel for each group, a line of dots for each method.

    Parameters
    ----------
    rows, column
        Table, and what is shown of it.
    methods
        ``{name of the row: name in the figure}``, from top to bottom.
    path
        Of the figure.
    xlabel
        What ``column`` is.
    groups, by
        Values of a column that make the panels.
    kinds
        Key of :data:`COLORS` for a method; ``"other"`` unless given.
    line
        Where to draw a vertical line: a number, or a column.
    """
    from matplotlib import pyplot as plt

    groups = [g for g in groups if (rows[by] == g).any()]
    fig, axes = plt.subplots(
        1,
        len(groups),
        sharey=True,
        squeeze=False,
        figsize=(3 + 2.1 * len(groups), 0.6 + 0.28 * len(methods)),
        layout="constrained",
    )
    for ax, group in zip(axes[0], groups, strict=True):
        of = rows[rows[by] == group]
        for y, name in enumerate(methods):
            values = of.loc[of["method"] == name, column].dropna()
            color = COLORS[(kinds or {}).get(name, "other")]
            ax.plot(values, np.full(len(values), y), "o", ms=3.5, color=color, alpha=0.5, mew=0)
            if len(values):
                ax.plot([values.mean()] * 2, [y - 0.32, y + 0.32], color=color, lw=2)
        if line is not None:
            x = of[line].mean() if isinstance(line, str) else line
            ax.axvline(x, color="0.8", lw=1, zorder=0)
        ax.set_title(NAMES.get(group, group), loc="left", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", color="0.93", lw=0.7)
        ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(methods)), list(methods.values()))
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    fig.supxlabel(xlabel, fontsize=9)
    fig.savefig(path, dpi=160)
    plt.close(fig)


def curves(
    rows: pd.DataFrame,
    x: str,
    column: str,
    methods: Mapping[str, str],
    path: Path,
    *,
    labels: tuple[str, str],
    groups: Sequence[str],
    kinds: Mapping[str, str] | None = None,
) -> None:
    """A panel for each data set, a curve for each method: mean over seeds, and all seeds as dots."""
    from matplotlib import pyplot as plt

    groups = [g for g in groups if (rows["data"] == g).any()]
    fig, axes = plt.subplots(
        1, len(groups), squeeze=False, figsize=(2.6 * len(groups), 2.9), layout="constrained"
    )
    styles = ("-", "--", ":", "-.")
    for ax, group in zip(axes[0], groups, strict=True):
        of = rows[rows["data"] == group]
        levels = sorted(of[x].unique())
        for i, (name, shown) in enumerate(methods.items()):
            own = of[of["method"] == name]
            if not len(own):
                continue
            kind = (kinds or {}).get(name, "other")
            at = own[x].map(levels.index)
            ax.plot(
                at + 0.06 * (i - 1.5), own[column], "o", ms=3, color=COLORS[kind], alpha=0.4, mew=0
            )
            mean = own.groupby(at)[column].mean()
            style = "-" if kind != "other" else styles[1 + i % 3]
            ax.plot(mean.index, mean, style, color=COLORS[kind], lw=1.6, label=shown)
        ax.set_xticks(range(len(levels)), [f"{v:g}" for v in levels])
        ax.set_title(NAMES.get(group, group), loc="left", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel(labels[1], fontsize=9)
    fig.supxlabel(labels[0], fontsize=9)
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    fig.savefig(path, dpi=160)
    plt.close(fig)
