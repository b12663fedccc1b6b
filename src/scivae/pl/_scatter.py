"""Scatter plots of cells, colored by a column of obs or a gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import near_matches, shortened, shown
from .._storage import dense
from ._style import (
    HEIGHT,
    PALE,
    SMALLEST,
    T_CMAP,
    VALUE_CMAP,
    category_colors,
    colorbar,
    legend_below,
    lettering,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

# More points than this are rasterized in vector formats.
RASTERIZE_FROM = 2_000
# Largest part of the height of a figure that a legend takes; classes are then numbered.
MOST_LEGEND = 0.4
# More classes than this are also numbered on the cells, because so many colors are hard to tell apart.
FEW_COLORS = 8
# Names on cells are above cells and paths.
NAMES: Final = 7
ON_DATA: Final = "on data"
NAMED, NUMBERED = "named", "numbered"
# Letters of a class name that is written on the cells instead of a number.
SHORT_NAME = 3
# Letters of a name in a legend of numbers, by its number of columns.
LETTERS = {1: 60, 2: 28, 3: 16}
Legend = bool | Literal["on data"]


def point_size(n: int) -> float:
    """Area of a point, in points squared, for n points in a single-column figure."""
    return float(np.clip(6_000 / max(n, 1), 0.6, 14))


def values_of(adata: AnnData, color: str) -> pd.Series:
    """Return a column of obs, or the values of a gene in X."""
    if color in adata.obs.columns:
        return adata.obs[color]
    if color in adata.var_names:
        values = dense(adata[:, color].X)
        return pd.Series(values.ravel(), index=adata.obs_names, name=color)
    columns = [c for c in adata.obs.columns if not str(c).startswith("_scvi")]
    raise KeyError(
        f"color must be a column of obs or a gene, got {color!r}; available columns: "
        f"{shown(columns, 20)}.{near_matches(color, [*columns, *adata.var_names])}"
    )


def is_categorical(values: pd.Series) -> bool:
    """Whether values are categories, not numbers."""
    return not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)


def color_points(
    ax: Axes,
    adata: AnnData,
    points: np.ndarray,
    rows: np.ndarray,
    color: str | None,
    *,
    area: float,
    legend: Legend,
    own: bool,
    fade: bool = False,
    named: np.ndarray | None = None,
) -> None:
    """Draw cells as points.

    Parameters
    ----------
    ax
        Axes with the same number of dimensions as the points.
    adata
        AnnData with the values of ``color``.
    points
        Coordinates, shape ``(n_obs, 2)`` or ``(n_obs, 3)``.
    rows
        Which cells to draw, boolean, shape ``(n_obs,)``.
    color
        Column or gene; ``None`` for gray.
    area
        Area of a point, in points squared.
    legend
        Whether to draw a legend, or a color bar for numbers. ``"on data"`` writes class names on
        the cells; so does a legend of very many classes, and always one in the user's axes.
    own
        Whether the axes belong to a new figure.
    fade
        Whether to draw cells pale, as a background.
    named
        Cells whose classes the legend names, boolean, shape ``(n_obs,)``; ``None``: all that are drawn.
    """
    alpha = 0.5 if fade else 1.0
    look: dict[str, Any] = {"s": area, "lw": 0, "rasterized": int(rows.sum()) > RASTERIZE_FROM}
    if color is None:
        dots(ax, points[rows], c=PALE, **look)
        return
    values = values_of(adata, color)
    if not is_categorical(values):
        number = values.to_numpy(dtype=float)
        known = rows & np.isfinite(number)
        dots(ax, points[rows & ~known], c=PALE, **look)
        # Highest values on top, otherwise the few cells that express a gene are hidden.
        order = np.flatnonzero(known)[np.argsort(number[known], kind="stable")]
        drawn = dots(
            ax,
            points[order],
            c=number[order],
            cmap=T_CMAP if color == _keys.T else VALUE_CMAP,
            **look,
        )
        if legend and known.any():
            colorbar(drawn, ax, quantity(adata, color))
        return
    categories = (
        list(values.cat.categories)
        if isinstance(values.dtype, pd.CategoricalDtype)
        else sorted(values.dropna().unique(), key=str)
    )
    colors = category_colors(categories, adata.uns, color)
    name = values.to_numpy(dtype=object)
    dots(ax, points[rows & values.isna().to_numpy()], c=PALE, **look)
    # All classes in one call, in random order, so that no class covers another.
    order = np.random.default_rng(0).permutation(np.flatnonzero(rows & values.notna().to_numpy()))
    dots(ax, points[order], c=[colors[n] for n in name[order]], alpha=alpha, **look)
    if legend:
        present = [c for c in categories if (name[rows if named is None else named] == c).any()]
        groups = {c: rows & (name == c) for c in present}
        unlabeled = bool((rows & values.isna().to_numpy()).any())
        class_legend(
            ax, points, groups, colors, below=own and legend != ON_DATA, unlabeled=unlabeled
        )


def quantity(adata: AnnData, color: str) -> str:
    """Label of a color bar: the name of a column, or a gene with the scale of X."""
    if color in adata.obs.columns:
        return "position along path, t" if color == _keys.T else color
    return f"{color}, {'log-normalized' if 'log1p' in adata.uns else 'value in X'}"


def dots(ax: Axes, points: np.ndarray, **look: Any) -> Any:
    """``ax.scatter`` of points of shape ``(n, 2)`` or ``(n, 3)``."""
    return ax.scatter(*points.T, **look)


def check_legend(legend: Any) -> None:
    """Raise a ValueError unless ``legend`` is True, False or "on data"."""
    if not isinstance(legend, bool | np.bool_) and legend != ON_DATA:
        raise ValueError(
            f"legend must be True, False or {ON_DATA!r}, got {legend!r}; pass one of these."
        )


def legend_height(adata: AnnData, color: str | None, *, legend: Legend = True) -> float:
    """Height of the legend below new axes, in inches."""
    if color is None or not legend or legend == ON_DATA:
        return 0.0
    values = values_of(adata, color)
    if not is_categorical(values):
        return 0.0
    names = list(values.dropna().unique())
    kind = _legend_kind(names)
    return 0.0 if kind == ON_DATA else _heights(names)[kind]


def _heights(names: list) -> dict[str, float]:
    """Height of each kind of legend below the axes, in inches."""
    return {
        NAMED: 0.1 + 0.15 * float(np.ceil(len(names) / legend_columns(names))),
        NUMBERED: 0.1 + 0.1 * float(np.ceil(len(names) / _numbered_columns(names))),
    }


def _numbered_columns(names: list) -> int:
    """Columns of a legend of numbers: as few as fit, for long names."""
    most = (MOST_LEGEND / (1 - MOST_LEGEND) * HEIGHT - 0.1) / 0.1  # rows
    return int(np.clip(np.ceil(len(names) / most), 1, len(LETTERS)))


def _legend_kind(names: list) -> str:
    """The first kind that leaves enough height for the cells; names on the cells if none does."""
    for kind, height in _heights(names).items():
        if height <= MOST_LEGEND * (HEIGHT + height):
            return kind
    return ON_DATA


def class_legend(
    ax: Axes,
    points: np.ndarray,
    groups: dict[Any, np.ndarray],
    colors: dict[Any, str],
    *,
    below: bool,
    unlabeled: bool = False,
) -> None:
    """Name classes below new axes (many of them by numbers on the cells) or on the cells.

    Parameters
    ----------
    ax
        Axes in which the cells are drawn.
    points
        Coordinates of the cells.
    groups
        Which of them belong to each class.
    colors
        Color of each class.
    below
        Whether there may be a legend below the axes.
    unlabeled
        Whether there are cells without a class, which are pale gray; a legend names them.
    """
    names = list(groups)
    kind = _legend_kind(names) if below else ON_DATA
    if kind == ON_DATA:
        _name_on_data(ax, points, groups)
        return
    handles = class_handles(names, colors)
    look: dict[str, Any] = {"ncols": legend_columns(names)}
    letters = None
    if kind == NUMBERED:
        look = {"ncols": _numbered_columns(names), "fontsize": SMALLEST, "labelspacing": 0.3}
        letters = LETTERS[look["ncols"]]
    if kind == NUMBERED or len(names) > FEW_COLORS:
        short = _are_short(names)
        signs = {c: str(c) if short else str(i) for i, c in enumerate(names, 1)}
        _name_on_data(ax, points, {signs[c]: rows for c, rows in groups.items()})
        for handle, (c, sign) in zip(handles, signs.items(), strict=True):
            name = str(c) if letters is None else shortened(str(c), letters)
            handle.set_label(name if short else f"{sign} {name}")
    if unlabeled:
        handles += class_handles(["no label"], {"no label": PALE})
    legend_below(ax, handles, own=True, **look)


def legend_columns(names: list) -> int:
    """Number of legend columns below new axes."""
    longest = max((len(str(n)) for n in names), default=1)
    longest += 3 if len(names) > FEW_COLORS and not _are_short(names) else 0  # the number
    # In points: the figure is 240 wide, a letter takes 4.1, the dot and the gap between two names 20.
    return int(np.clip(240 // (4.1 * longest + 20), 1, 6))


def _are_short(names: list) -> bool:
    """Whether names are written on the cells as they are: a number beside "5" would be mistaken for it."""
    return all(len(str(name)) <= SHORT_NAME for name in names)


def _name_on_data(ax: Any, points: np.ndarray, groups: dict[Any, np.ndarray]) -> None:
    """Write the name of each group at its center, or above small groups."""
    ax.autoscale_view()
    pixel = ax.get_figure().dpi / 72
    taken: list[tuple[float, float, float]] = []  # left, right and height of each name
    for name, rows in sorted(groups.items(), key=lambda g: np.median(points[g[1], 1])):
        middle = np.median(points[rows], axis=0)
        text = ax.text(
            *middle, str(name), fontsize="x-small", ha="center", va="center", zorder=NAMES,
            path_effects=lettering(), clip_on=True,
        )  # fmt: skip
        if points.shape[1] != 2:
            continue
        height = 1.1 * text.get_fontsize() * pixel
        half = 0.27 * text.get_fontsize() * pixel * len(str(name))
        x, y = ax.transData.transform(middle)
        left, bottom = ax.transData.transform(np.quantile(points[rows], 0.1, axis=0))
        right, top = ax.transData.transform(np.quantile(points[rows], 0.9, axis=0))
        if top - bottom < 2 * height and right - left < 4 * half:
            y = top + 0.9 * height
        # Keep names inside the axes.
        box = ax.get_window_extent()
        x = min(max(x, box.x0 + 1.1 * half), box.x1 - 1.1 * half)
        y = min(max(y, box.y0 + height), box.y1 - height)
        for first, last, other in taken:  # from bottom to top
            if first < x + half and x - half < last and abs(y - other) < height:
                y = other + height
        taken = sorted([*taken, (x - half, x + half, y)], key=lambda one: one[2])
        text.set_position(ax.transData.inverted().transform((x, y)))


def class_handles(categories: list, colors: dict) -> list:
    """Legend handles: one dot per class."""
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], ls="", marker="o", ms=4, color=colors[c], label=str(c)) for c in categories
    ]
