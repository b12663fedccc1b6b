"""Plot of a confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import shortened, shown
from ._style import SMALLEST, WIDTH, colorbar, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

# With more classes than this, cells have no numbers; with more than those, all text is small.
NUMBERS_UP_TO = 40
LARGE_UP_TO = 12
# Largest number of letters of a row name.
LETTERS_BESIDE = 40
# Smallest height of a row, in inches.
LINE = 0.14
# Number of letters that fit below the matrix.
LETTERS_ACROSS = 24


def confusion(
    y_true: ArrayLike | pd.Series,
    y_pred: ArrayLike | pd.Series,
    *,
    labels: list[Any] | None = None,
    normalize: bool = True,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot a confusion matrix of true and predicted classes.

    Parameters
    ----------
    y_true
        True classes, shape ``(n,)``.
    y_pred
        Predicted classes, shape ``(n,)``.
    labels
        Classes to show, in this order. ``None``: all classes that occur, in the order of the
        categories of ``y_true`` if it is categorical, otherwise sorted.
    normalize
        Show percentages of each true class. ``False``: show numbers of cells.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. Rows are true classes, with the number of cells in brackets. Columns are predicted
    classes; if names are long, they are labeled with row numbers.

    Raises
    ------
    ValueError
        If the two differ in length or are empty, if a cell has no class, or if a class is not in
        ``labels``.

    Examples
    --------
    >>> import scivae
    >>> ax = scivae.pl.confusion(["B", "T", "T"], ["B", "T", "B"])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['B (1)', 'T (2)']
    """
    true, predicted = pd.Series(y_true), pd.Series(y_pred)
    counts, names = confusion_counts(true, predicted, labels)
    n = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        values = 100 * counts / n[:, None] if normalize else counts.astype(float)
    names = [_short(name) for name in names]
    written = len(names) <= NUMBERS_UP_TO
    longest = max(len(c) for c in names)
    # Long names are written only next to the rows; columns are then labeled with row numbers.
    numbered = longest * len(names) > LETTERS_ACROSS
    prefix = [f"{i + 1}  " if numbered else "" for i in range(len(names))]
    rows = [f"{p}{c} ({k})" for p, c, k in zip(prefix, names, n, strict=True)]
    small = len(names) > LARGE_UP_TO
    letter = 0.047 if small else 0.055
    beside = 0.35 + letter * max(len(r) for r in rows) + 0.7 * (not written)
    # Each name needs a line of text, which sets the size of the figure.
    side = max(min(max(WIDTH - beside, 1.2), 0.35 * len(names)), LINE * len(names))
    what = "% of true class" if normalize else "cells"
    wide = LINE * len(names) >= side and side > WIDTH - beside
    size = (beside + side + 0.3 if wide else WIDTH, side + 0.55 + 0.2 * written)
    with drawing(ax, size=size, show=show) as drawn:
        image = drawn.imshow(values, cmap="Blues", vmin=0, vmax=100 if normalize else None)
        drawn.set_xticks(range(len(names)), [p.strip() for p in prefix] if numbered else names)
        drawn.set_yticks(range(len(names)), rows)
        if size[0] > WIDTH and written:
            drawn.set_anchor("E")  # leave space for the names
        drawn.tick_params(length=0)
        if small and ax is None:
            drawn.tick_params(labelsize=6)
        drawn.spines[:].set_visible(False)
        drawn.set_xlabel("predicted class")
        drawn.set_ylabel("true class (cells)")
        if written:
            most = 100.0 if normalize else float(values.max())
            fontsize: Any = SMALLEST if small else 6
            if ax is not None:
                fontsize = "xx-small" if numbered else "x-small"
            _write(drawn, values, 0.6 * most, fontsize=fontsize)
            drawn.set_title(what, loc="left")
        else:
            colorbar(image, drawn, what)
    return drawn


def confusion_counts(
    true: pd.Series, predicted: pd.Series, labels: list[Any] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Counts of true (rows) by predicted classes (columns), and the names of the classes.

    Parameters
    ----------
    true, predicted
        Shape ``(n,)``, compared by position.
    labels
        Classes, in order.
    """
    if len(true) != len(predicted) or len(true) == 0:
        raise ValueError(
            f"y_true and y_pred must have one class for each cell, got {len(true)} and "
            f"{len(predicted)}; select the same cells in both."
        )
    for argument, series in (("y_true", true), ("y_pred", predicted)):
        missing = int(series.isna().sum())
        if missing:
            raise ValueError(
                f"{argument} must have a class for every cell, got {missing} of {len(series)} "
                "cells without; remove these cells."
            )
    present = set(true.unique()) | set(predicted.unique())
    if labels is None:
        known = list(true.cat.categories) if isinstance(true.dtype, pd.CategoricalDtype) else []
        order = [c for c in known if c in present]
        order += sorted((c for c in present if c not in known), key=str)
    else:
        order = list(labels)
        absent = [c for c in present if c not in order]
        if absent:
            raise ValueError(
                f"labels must include every class that occurs, got none for {shown(absent)}; add "
                "them, or remove those cells."
            )
    index = pd.Index(order)
    counts = np.zeros((len(order), len(order)), dtype=int)
    rows = index.get_indexer(pd.Index(true.to_numpy(dtype=object)))
    columns = index.get_indexer(pd.Index(predicted.to_numpy(dtype=object)))
    np.add.at(counts, (rows, columns), 1)
    return counts, [str(c) for c in order]


def _short(name: str) -> str:
    """A name on one line, shortened if it is too long."""
    return shortened(" ".join(name.split()), LETTERS_BESIDE)


def _write(ax: Axes, values: np.ndarray, light_from: float, *, fontsize: Any) -> None:
    """Write numbers in the cells; numbers that round to zero are omitted."""
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and round(value) > 0:
            ax.text(
                j, i, f"{value:.0f}", ha="center", va="center", fontsize=fontsize,
                color="white" if value > light_from else "black",
            )  # fmt: skip
