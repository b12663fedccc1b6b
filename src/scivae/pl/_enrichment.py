"""Plot of the gene sets that change along a path."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shortened
from .._validate.arguments import check_integer
from ._style import GRAY, OKABE_ITO, SMALLEST, WIDTH, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UP, DOWN = OKABE_ITO[3], OKABE_ITO[0]
# False discovery rate under which a bar is filled in color.
LEVEL = 0.05
# Letters of a name.
MOST_LETTERS = 28
# Names of collections, with which names of gene sets begin.
COLLECTIONS = ("HALLMARK", "REACTOME", "KEGG", "GOBP", "GOCC", "GOMF", "WP", "BIOCARTA", "PID")


def enrichment(
    sets: pd.DataFrame, *, n_sets: int = 20, ax: Axes | None = None, show: bool = False
) -> Axes:
    """Plot gene sets by the significance of their change: rising to the right, falling to the left.

    Parameters
    ----------
    sets
        From :func:`scivae.tl.enrich`.
    n_sets
        Maximum number of sets; the most significant are shown.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. The length of a bar is ``z``, the score in standard deviations of the null distribution. Sets with
    a false discovery rate above 5 % are gray. The number ``t`` is the median position at which the genes of
    the set have changed by half. The number in brackets is the number of genes of the set in the trends.

    Raises
    ------
    TypeError
        If ``sets`` is not a table.
    ValueError
        If it lacks columns or has no rows.

    Examples
    --------
    >>> import pandas as pd
    >>> import scivae
    >>> sets = pd.DataFrame(
    ...     {"z": [4.0, -3.0], "fdr": [0.001, 0.02], "switch": [0.3, 0.7], "n_genes": [12, 9]},
    ...     index=["interferon response", "oxidative phosphorylation"],
    ... )
    >>> ax = scivae.pl.enrichment(sets)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['interferon response (12)', 'oxidative phosphorylation (9)']
    """
    check_integer("n_sets", n_sets, minimum=1)
    table = _checked(sets)
    fdr = _keys.columns_of_significance(table)[1]
    table = table.assign(z=table["z"].astype(float))[np.isfinite(table["z"].astype(float))]
    table = table.iloc[np.argsort(-table["z"].abs().to_numpy(), kind="stable")[:n_sets]]
    table = table.iloc[np.argsort(-table["z"].to_numpy(), kind="stable")]
    sure = (table[fdr] <= LEVEL).to_numpy()
    z = table["z"].to_numpy()
    kinds = {
        "rising": (UP, sure & (z > 0)),
        "falling": (DOWN, sure & (z <= 0)),
        "FDR above 5 %": (GRAY, ~sure),
    }
    collection = _collection([str(name) for name in table.index])
    names = [
        f"{short_set_name(str(name)[len(collection) :])} ({n:,.0f})"
        for name, n in table["n_genes"].items()
    ]
    row = np.arange(len(table))
    with drawing(ax, size=(WIDTH, 1.0 + 0.15 * max(len(row), 2)), show=show) as drawn:
        for label, (color, mask) in kinds.items():
            if mask.any():
                drawn.barh(row[mask], z[mask], height=0.72, color=color, lw=0, label=label)
        drawn.axvline(0, color="black", lw=0.6)
        reach = float(np.abs(z).max(initial=1.0))
        low, high = min(float(z.min(initial=0.0)), 0.0), max(float(z.max(initial=0.0)), 0.0)
        drawn.set_xlim(low - 0.02 * reach, high + 0.24 * reach)
        for place, value, switch in zip(
            row.tolist(), z, table["switch"].astype(float), strict=True
        ):
            if np.isfinite(switch):
                drawn.text(
                    max(value, 0.0) + 0.03 * reach, place, f"t {switch:.2f}", va="center",
                    fontsize=SMALLEST, color="0.35",
                )  # fmt: skip
        drawn.set_ylim(len(row) - 0.4, -0.6)
        drawn.set_yticks(row, names, fontsize=6, parse_math=False)
        drawn.tick_params(axis="y", length=0)
        drawn.spines["left"].set_visible(False)
        unit = "between donors" if fdr == "fdr" else "between cells"
        drawn.set_xlabel(f"z, {unit}\nt: position of half the change")
        handles, _ = drawn.get_legend_handles_labels()
        if ax is None:
            figure: Any = drawn.get_figure()
            figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0)
        else:
            drawn.legend(handles=handles, fontsize="x-small")
    return drawn


def _checked(sets: Any) -> pd.DataFrame:
    """The table; raise unless it is a table of gene sets."""
    if not isinstance(sets, pd.DataFrame):
        raise TypeError(
            f"sets must be the DataFrame of scivae.tl.enrich, got {type(sets).__name__}; pass what "
            "that function returned."
        )
    missing = [c for c in ("z", "switch", "n_genes") if c not in sets]
    if missing or not {"fdr", "fdr_cells"} & set(sets.columns) or not len(sets):
        lacking = f"no column {missing[0]!r}" if missing else "no false discovery rates"
        raise ValueError(
            f"sets must be made by scivae.tl.enrich(trends, net), got {len(sets)} rows and "
            f"{lacking if len(sets) else 'nothing to draw'}; pass all columns of its result."
        )
    return sets


def _collection(names: list[str]) -> str:
    """Common prefix of all names, such as ``HALLMARK_``, which is not shown."""
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    return common[: common.rfind("_") + 1]


def short_set_name(name: Any, letters: int = MOST_LETTERS) -> str:
    """Name of a gene set in one line, without underscores and without the name of its collection."""
    first, _, rest = str(name).partition("_")
    text = rest if rest and first in COLLECTIONS else str(name)
    if text.isupper():  # names of collections are in capital letters; other names are unchanged
        text = text.replace("_", " ")
    return shortened(" ".join(text.split()), letters)
