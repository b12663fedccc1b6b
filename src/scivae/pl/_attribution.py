"""Plot of the genes by which the classifier recognizes a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import shortened
from .._validate.arguments import check_integer, check_type
from .._validate.tables import gene_symbols_of
from ._style import OKABE_ITO, SMALLEST, WIDTH, drawing, height_in_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGHER, LOWER = OKABE_ITO[3], OKABE_ITO[0]
# Letters of the name of a gene, and of a class.
LETTERS, LETTERS_OF_CLASS = 18, 24
COLUMNS = ("attribution", "sd", "value", "baseline")


def attribution(
    genes: pd.DataFrame,
    *,
    n_genes: int = 20,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot the genes that count most for or against a class.

    Parameters
    ----------
    genes
        From :func:`scivae.tl.attribute`.
    n_genes
        Maximum number of genes; those with the largest attributions are shown.
    gene_symbols
        Column of ``genes`` with the names to show; ``genes["symbol"] = adata.var["symbol"]`` adds
        one. Default: the index.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. The length of a bar is the mean attribution in logits; the line is one standard deviation over
    cells on each side. Genes with filled bars have a higher expression in the class than in the baseline,
    those with open bars a lower one: the absence of a gene can be evidence for a class, too.

    Raises
    ------
    KeyError
        If ``gene_symbols`` is not found.
    TypeError
        If ``genes`` is not a table.
    ValueError
        If it lacks a column or has no rows.

    Examples
    --------
    >>> import pandas as pd
    >>> import scivae
    >>> genes = pd.DataFrame(
    ...     {
    ...         "attribution": [1.5, 0.4],
    ...         "sd": [0.5, 0.1],
    ...         "value": [2.0, 0.1],
    ...         "baseline": [0.1, 1.0],
    ...     },
    ...     index=["CD79A", "CD3D"],
    ... )
    >>> ax = scivae.pl.attribution(genes)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['CD79A', 'CD3D']
    """
    check_integer("n_genes", n_genes, minimum=1)
    check_type("genes", genes, pd.DataFrame, "the DataFrame of scivae.tl.attribute")
    missing = [c for c in COLUMNS if c not in genes]
    if missing or not len(genes):
        raise ValueError(
            "genes must be made by scivae.tl.attribute(model, label), got "
            f"{f'no column {missing[0]!r}' if missing else 'no rows'}; pass its result."
        )
    symbols = gene_symbols_of(genes, gene_symbols, "genes")
    size = genes["attribution"].abs().to_numpy(dtype=float)
    table = genes.iloc[np.argsort(-size, kind="stable")[:n_genes]]
    table = table.iloc[np.argsort(-table["attribution"].to_numpy(dtype=float), kind="stable")]
    mean, sd = (table[c].to_numpy(dtype=float) for c in ("attribution", "sd"))
    higher = (table["value"] > table["baseline"]).to_numpy()
    row = np.arange(len(table))
    with drawing(ax, size=(WIDTH, 0.95 + 0.14 * max(len(row), 3)), show=show) as drawn:
        for rows, color, label in ((higher, HIGHER, "higher"), (~higher, LOWER, "lower")):
            if rows.any():
                label = f"expression {label} than baseline"
                face = color if rows is higher else "white"
                look: dict[str, Any] = {"color": face, "ec": color, "lw": 0.8, "label": label}
                drawn.barh(row[rows], mean[rows], height=0.68, **look)
        drawn.hlines(row, mean - sd, mean + sd, color="0.25", lw=0.7)
        drawn.axvline(0, color="black", lw=0.6)
        drawn.set_ylim(len(row) - 0.4, -0.6)
        size_of_names = min(7.0, max(SMALLEST, 0.8 * height_in_points(drawn) / len(row)))
        names = [shortened(symbols[str(name)], LETTERS) for name in table.index]
        drawn.set_yticks(row, names, style="italic", fontsize=size_of_names)
        drawn.tick_params(axis="y", length=0)
        drawn.spines["left"].set_visible(False)
        drawn.set_xlabel(_axis_label(genes.attrs))
        handles, labels = drawn.get_legend_handles_labels()
        figure: Any = drawn.get_figure()
        if ax is None:
            figure.legend(handles, labels, loc="outside upper left", ncols=1)
        else:
            drawn.legend(handles, labels, fontsize="x-small")
    return drawn


def _axis_label(said: dict[Any, Any]) -> str:
    """Label of the axis, on two lines."""
    if "label" not in said:
        return "attribution (logits)\nmean ± sd of cells"
    label, other = (shortened(str(said.get(k)), LETTERS_OF_CLASS) for k in ("label", "other"))
    against = "all other classes" if said.get("other") is None else other
    return f"attribution (logits, mean ± sd of cells)\n{label} against {against}"
