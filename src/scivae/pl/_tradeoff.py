"""Plot of metrics against a weight of the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd

from .._errors import near_matches, shown
from .._validate.arguments import check_integer
from ._style import GRAY, OKABE_ITO, WIDTH, height_in_points, label_outer, n_ticks, panels

WEIGHT_NAMES = {"discriminator_weight": "discriminator weight β", "kl_weight": "KL weight α"}


def tradeoff(
    table: pd.DataFrame,
    *,
    weight: str = "discriminator_weight",
    metrics: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    ceilings: Mapping[str, float] | None = None,
    chosen: float | None = None,
    n_cols: int = 2,
    ax: Any = None,
    show: bool = False,
) -> np.ndarray:
    """Plot metrics against a weight of the objective.

    Parameters
    ----------
    table
        One row per trained model, with its weight and metrics. Each row is a dot; the line connects
        the means of rows with the same weight (several seeds).
    weight
        Column with the weight.
    metrics
        Columns with the metrics. ``None``: all other numeric columns except ``seed``.
    labels
        Labels of the metrics with units, such as ``{"mae": "MAE (% of range)"}``.
    ceilings
        Values to mark with a dashed line, such as ``{"purity": 0.97}``.
    chosen
        A weight to mark.
    n_cols
        Number of panels per row.
    ax
        Array of Axes, one per metric; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    Array of Axes, shape ``(n_metrics,)``. The weight axis is logarithmic, and linear below the
    smallest nonzero weight.

    Raises
    ------
    KeyError
        If a column is not found.
    ValueError
        If there are no rows or no numeric columns.

    Examples
    --------
    >>> import pandas as pd
    >>> import scivae
    >>> table = pd.DataFrame(
    ...     {"discriminator_weight": [0, 1, 10], "mae": [3.3, 3.4, 3.6], "purity": [0.8, 0.9, 1.0]}
    ... )
    >>> axes = scivae.pl.tradeoff(table, chosen=10)
    >>> [ax.get_ylabel() for ax in axes]
    ['mae', 'purity']
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"table must be a DataFrame, got {type(table).__name__}; pass pandas.DataFrame(rows)."
        )
    check_integer("n_cols", n_cols, minimum=1)
    names = _metrics(table, weight, metrics)
    x = pd.to_numeric(table[weight]).to_numpy(dtype=float)
    if not (np.isfinite(x).all() and (x >= 0).all()):
        raise ValueError(
            f"{weight} must be finite and not negative, got {x.min():g} to {x.max():g}; remove "
            "those rows."
        )
    n_shown = min(n_cols, len(names))
    with panels(
        ax, len(names), n_cols=n_cols, panel=(WIDTH / n_shown, 1.2), shared=0.2, show=show
    ) as axes:
        for one, name in zip(axes, names, strict=True):
            y = pd.to_numeric(table[name]).to_numpy(dtype=float)
            mean = pd.Series(y).groupby(x).mean()
            if chosen is not None:
                one.axvline(chosen, color=GRAY, lw=0.8, zorder=1)
            if ceilings and name in ceilings:
                one.axhline(ceilings[name], color="0.3", lw=0.8, ls=(0, (4, 2)), zorder=1)
            one.plot(mean.index, mean, color=OKABE_ITO[0], lw=1.3, zorder=2)
            one.plot(x, y, "o", color=OKABE_ITO[0], ms=2.8, mew=0, alpha=0.7, zorder=3)
            _log_axis(one, x)
            one.set_ylabel(in_lines((labels or {}).get(name, name), one))
        if ax is not None:
            label_outer(list(axes), x=WEIGHT_NAMES.get(weight, weight))
        else:
            axes[0].get_figure().supxlabel(WEIGHT_NAMES.get(weight, weight), fontsize="medium")
    return axes


def in_lines(text: str, ax: Any) -> str:
    """A label of the vertical axis, broken at spaces where it is longer than the axis."""
    letters = max(int(height_in_points(ax) / (0.55 * ax.yaxis.label.get_fontsize())), 1)
    return "\n".join(wrap(text, letters, break_long_words=False, break_on_hyphens=False))


def _metrics(table: pd.DataFrame, weight: str, metrics: Sequence[str] | None) -> list[str]:
    """Names of the columns to draw."""
    columns = [str(c) for c in table.columns]
    for argument, name in [("weight", weight), *(("metrics", m) for m in metrics or ())]:
        if name not in columns:
            raise KeyError(
                f"{argument} must be a column of table, got {name!r}; available columns: "
                f"{shown(columns, 20)}.{near_matches(name, columns)}"
            )
    if metrics is not None:
        names = list(metrics)
    else:
        numbers = table.select_dtypes("number").columns
        names = [str(c) for c in numbers if c not in (weight, "seed")]
    if not names or not len(table):
        raise ValueError(
            f"table must have rows, and numeric columns besides {weight!r}, got {len(table)} rows "
            f"and the columns {shown(columns)}; add columns with metrics."
        )
    return names


def _log_axis(ax: Any, x: np.ndarray) -> None:
    """Set a logarithmic scale that includes zero."""
    positive = x[x > 0]
    if not positive.size:
        return
    low, high = positive.min(), positive.max()
    if (x == 0).any():
        ax.set_xscale("symlog", linthresh=low, linscale=0.6)
        ax.set_xlim(-0.25 * low, high * 1.5)
    elif high > low:
        ax.set_xscale("log")
    ax.xaxis.set_minor_locator(_no_ticks())
    ticks = [0.0] * bool((x == 0).any()) + [
        10.0**k for k in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        if low <= 10.0**k <= high
    ]  # fmt: skip
    if len(ticks) >= 2:
        every = -(-len(ticks) // n_ticks(ax, max(len(f"{v:g}") for v in ticks)))
        ax.set_xticks(ticks[::every], [f"{v:g}" for v in ticks[::every]])


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
