"""Plot of the partial order of genes along a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shortened
from .._validate.arguments import check_integer
from .._validate.tables import gene_symbols_of
from ..tl import GeneOrder
from ..tl import gene_order as find_order
from ._style import OKABE_ITO, SMALLEST, WIDTH, drawing, height_in_points

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

UP, DOWN = OKABE_ITO[3], OKABE_ITO[0]
# Letters of the name of a gene.
LETTERS = 16
# With more arrows than this, none is drawn.
MOST_ARROWS = 25


def gene_order(
    order: GeneOrder | AnnData,
    *,
    n_genes: int = 30,
    arrows: bool = True,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot the position at which genes change, with intervals and their partial order.

    Parameters
    ----------
    order
        Result of :func:`scivae.tl.gene_order`, or trends, from which the order is calculated.
    n_genes
        Maximum number of genes, spread over the path; genes with the largest change come first.
    arrows
        Whether to draw an arrow from each gene to its direct successors: genes that change after it,
        with no other gene in between. More than 25 arrows are not drawn, as they could not be
        followed; the intervals then show what is ordered.
    gene_symbols
        Column of ``trends.var``, or of the table of ``order``, with the names to show, as in scanpy.
        Default: ``var_names``.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. Two genes whose arrows do not connect them, directly or through other genes, are not ordered,
    although one row is above the other. The title says how many genes are resolved and how many pairs of
    these are ordered.

    Raises
    ------
    KeyError
        If ``gene_symbols`` is not found.
    ValueError
        If the order cannot be calculated from the trends.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import scivae
    >>> genes = pd.DataFrame(
    ...     {
    ...         "switch": [0.2, 0.7],
    ...         "switch_low": [0.1, 0.6],
    ...         "switch_high": [0.3, 0.8],
    ...         "direction": ["up", "down"],
    ...     },
    ...     index=["A", "B"],
    ... )
    >>> order = scivae.tl.GeneOrder(genes, np.array([[False, True], [False, False]]))
    >>> [label.get_text() for label in scivae.pl.gene_order(order).get_yticklabels()]
    ['A', 'B']
    """
    check_integer("n_genes", n_genes, minimum=1)
    check_arrows(arrows)
    found = order if isinstance(order, GeneOrder) else find_order(order)
    table = found.genes
    symbols = gene_symbols_of(table, gene_symbols, "the genes of order")
    low, high = (table[f"{_keys.SWITCH}{end}"].to_numpy(dtype=float) for end in ("_low", "_high"))
    kept = spread_over_path(table, n_genes)
    part = GeneOrder(table.iloc[kept], found.before[np.ix_(kept, kept)])
    low, high = low[kept], high[kept]
    switch = part.genes[_keys.SWITCH].to_numpy(dtype=float)
    rising = (part.genes["direction"] == "up").to_numpy()
    row = np.arange(len(kept))
    height = 0.95 + 0.13 * len(kept)
    with drawing(ax, size=(WIDTH, max(height, 1.6)), show=show) as drawn:
        if arrows and len(part.pairs) <= MOST_ARROWS:
            place = {name: i for i, name in enumerate(part.genes.index)}
            for first, second in part.pairs.itertuples(index=False):
                a, b = place[first], place[second]
                drawn.annotate(
                    "", xy=(switch[b], b), xytext=(switch[a], a), zorder=1,
                    arrowprops={"arrowstyle": "-|>", "color": "0.55", "lw": 0.6, "shrinkA": 3,
                                "shrinkB": 3, "mutation_scale": 6,
                                "connectionstyle": "arc3,rad=-0.2"},
                )  # fmt: skip
        kinds = ((rising, UP, "^", "rising"), (~rising, DOWN, "v", "falling"))
        for mask, color, marker, label in kinds:
            if mask.any():
                drawn.hlines(row[mask], low[mask], high[mask], color=color, lw=1.2, zorder=2)
                drawn.plot(
                    switch[mask], row[mask], marker, ms=3.5, color=color, label=label, zorder=3
                )
        drawn.set_ylim(len(kept) - 0.5, -0.5)
        drawn.set_xlim(0, 1)
        size = min(7.0, max(SMALLEST, 0.8 * height_in_points(drawn) / len(kept)))
        drawn.set_yticks(
            row,
            [shortened(symbols[str(name)], LETTERS) for name in part.genes.index],
            style="italic",
            fontsize=size,
        )
        drawn.tick_params(axis="y", length=0)
        drawn.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        drawn.set_xlabel("position of half the change, t\n(90 % interval)")
        drawn.set_title(_counts(found), fontsize=SMALLEST + 1)
        handles, labels = drawn.get_legend_handles_labels()
        figure: Any = drawn.get_figure()
        if ax is None:
            figure.legend(handles, labels, loc="outside upper center", ncols=2)
        else:
            drawn.legend(handles, labels, fontsize="x-small")
    return drawn


def _counts(order: GeneOrder) -> str:
    """How many genes have a sure position, and how many pairs of these are ordered."""
    n = len(order.genes)
    asked = order.genes.attrs.get("n_genes")
    genes = f"{n:,} genes" if asked is None else f"{n:,} of {asked:,} genes resolved"
    pairs = n * (n - 1) // 2
    return f"{genes}\n{int(order.before.sum()):,} of {pairs:,} pairs ordered" if pairs else genes


def spread_over_path(genes: pd.DataFrame, n: int) -> np.ndarray:
    """Rows of up to ``n`` genes: those with the largest change in each tenth of the path, in turn.

    Genes with the narrowest intervals would all be near the ends.
    """
    tenth = np.minimum((genes[_keys.SWITCH].to_numpy(dtype=float) * 10).astype(int), 9)
    size = (
        genes[_keys.CHANGE].abs() if _keys.CHANGE in genes else pd.Series(0.0, index=genes.index)
    ).to_numpy(dtype=float)
    turn = pd.Series(-size).groupby(tenth).rank(method="first").to_numpy()
    return np.sort(np.lexsort([-size, turn])[:n])


def check_arrows(arrows: Any) -> None:
    """Raise a TypeError unless the value is True or False."""
    if not isinstance(arrows, bool | np.bool_):
        raise TypeError(f"arrows must be True or False, got {arrows!r}; pass one of these.")
