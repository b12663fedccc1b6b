"""Plot of the class margin along paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shown
from .._validate.tables import check_adata, check_obs, check_paths
from ._style import HEIGHT, OKABE_ITO, WIDTH, drawing, legend_below, palette

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

# With more paths than this, paths are drawn as thin lines without names.
FEW = 5
# Styles of lines, which are told apart without color.
LINES = ("-", "--", "-.", ":")
# Largest number of class changes listed in the legend; more are counted.
MOST_CHANGES = 4


class Margins(NamedTuple):
    """Margins along paths.

    Attributes
    ----------
    names
        Names of the paths, shape ``(n_paths,)``.
    labels
        Class of each path, shape ``(n_paths,)``.
    t, margin
        Positions and margins of each path, each of shape ``(n_steps,)``.
    crossings
        Table with columns ``path`` (position in ``names``), ``t``, ``before``, ``after``.
    """

    names: list[str]
    labels: list[str]
    t: list[np.ndarray]
    margin: list[np.ndarray]
    crossings: pd.DataFrame


def class_margin(
    data: AnnData,
    *,
    paths: str | int | list[str | int] | None = None,
    key: str = _keys.KEY_ADDED,
    legend: bool = True,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot the class margin along each path, and mark positions where the class changes.

    Parameters
    ----------
    data
        A path from :meth:`~scivae.model.CIVAE.interpolate`, or the AnnData in which it was stored.
        Stored crossings are exact; crossings of a path are estimated from its steps.
    paths
        Names or positions of the paths to draw; ``None`` for all.
    key
        The ``key_added`` under which paths were stored.
    legend
        Whether to list the paths and their class changes, if there are five paths or fewer.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. The margin is the logit of the path's class minus the largest other logit (log-odds).
    It is negative where the discriminator predicts another class.

    Raises
    ------
    ValueError
        If ``data`` contains no path.
    KeyError, IndexError
        If a path is not found.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> path = model.interpolate(0, 5, n_steps=11)
    >>> ax = scivae.pl.class_margin(path)
    >>> ax.get_xlabel()
    'position along path, t'
    """
    check_adata("data", data)
    found = _written_back(data, key) if _holds_paths(data, key) else _of_path(data, key)
    wanted = [found.names.index(n) for n in check_paths(found.names, paths)]
    few = len(wanted) <= FEW
    lines = 2 * len(wanted) if few else 0
    with drawing(ax, size=(WIDTH, HEIGHT - 0.4 + 0.13 * lines), show=show) as drawn:
        colors = palette(len(wanted)) if few else [OKABE_ITO[0]] * len(wanted)
        look: dict[str, Any] = (
            {"lw": 1.4} if few else {"lw": 0.6, "alpha": max(0.15, 1 / np.sqrt(len(wanted)))}
        )
        drawn.axhline(0, color="0.3", lw=0.8, ls=(0, (4, 2)), zorder=1)
        handles = []
        for k, (i, color) in enumerate(zip(wanted, colors, strict=True)):
            ls = LINES[k % len(LINES)] if few else "-"
            (line,) = drawn.plot(found.t[i], found.margin[i], ls, color=color, zorder=2, **look)
            crossings = found.crossings[found.crossings["path"] == i].sort_values("t")
            x = crossings["t"].to_numpy(dtype=float)
            y = np.interp(x, found.t[i], found.margin[i])
            drawn.plot(x, y, "o", ms=4 if few else 2.5, mfc="white", mec=color, mew=0.9, zorder=3)
            line.set_label(_described(found.names[i], crossings))
            handles.append(line)
        drawn.set_xlim(-0.02, 1.02)
        low, high = drawn.get_ylim()
        drawn.axhspan(low, 0, color="0.95", lw=0, zorder=0)
        drawn.set_ylim(low, high)
        if ax is None and low < -0.15 * (high - low):
            drawn.text(
                0.01, low, "another class", color="0.4", fontsize="small", va="bottom", zorder=1
            )
        drawn.set_xlabel("position along path, t")
        drawn.set_ylabel("margin (log-odds)")
        labels = list(dict.fromkeys(found.labels[i] for i in wanted))
        drawn.set_title(labels[0] if len(labels) == 1 else "class of each path", loc="left")
        if few and legend:
            legend_below(drawn, handles, own=ax is None)
    return drawn


def _described(name: str, crossings: pd.DataFrame) -> str:
    """Legend text of a path, with the positions where it changes class."""
    changes = [
        f"at {t:.2f}: {before} → {after}"
        for t, before, after in zip(
            crossings["t"], crossings["before"], crossings["after"], strict=True
        )
    ]
    shown = changes if len(changes) <= MOST_CHANGES else [f"{len(changes)} changes of class"]
    return "\n".join([name, *shown])


def _holds_paths(data: AnnData, key: str) -> bool:
    store = data.uns.get(key)
    return hasattr(store, "get") and bool(store.get(_keys.PATHS))


def _written_back(adata: AnnData, key: str) -> Margins:
    """Margins that ``interpolate`` stored in the user's AnnData."""
    names: list[str] = []
    labels: list[str] = []
    t: list[np.ndarray] = []
    margin: list[np.ndarray] = []
    crossings: list[pd.DataFrame] = []
    for entry in adata.uns[key][_keys.PATHS].values():
        table = entry["crossings"].copy()
        table["path"] = table["path"].astype(int) + len(names)
        crossings.append(table)
        pairs, points = entry["pairs"], entry["points"].groupby("path")
        names += [f"{a} → {b}" for a, b in zip(pairs["source"], pairs["target"], strict=True)]
        labels += [str(label) for label in pairs["label"]]
        for _, path in points:
            t.append(path["t"].to_numpy(dtype=float))
            margin.append(path["margin"].to_numpy(dtype=float))
    return Margins(names, labels, t, margin, pd.concat(crossings, ignore_index=True))


def _of_path(path: AnnData, key: str) -> Margins:
    """Margins of a generated path, with crossings between steps of different classes."""
    if path.obs.columns.intersection([_keys.PATH, _keys.MARGIN]).empty:
        raise ValueError(
            "data must be a path from model.interpolate, or an AnnData with a path stored in "
            f"uns[{key!r}]['paths'], got neither (uns: {shown(path.uns) or 'empty'}); make one "
            "with model.interpolate(cell_a, cell_b)."
        )
    columns = (_keys.PATH, _keys.T, _keys.MARGIN, _keys.PREDICTED)
    check_obs(path, columns, "data", "generated")
    obs = path.obs[list(columns)].dropna(subset=[_keys.PATH, _keys.MARGIN])
    names: list[str] = []
    labels: list[str] = []
    t: list[np.ndarray] = []
    margin: list[np.ndarray] = []
    crossings: list[tuple[int, float, str, str]] = []
    for i, (name, rows) in enumerate(obs.groupby(_keys.PATH, observed=True, sort=False)):
        rows = rows.sort_values(_keys.T, kind="stable")
        position, height = (rows[c].to_numpy(dtype=float) for c in (_keys.T, _keys.MARGIN))
        classes = rows[_keys.PREDICTED].astype(str).to_numpy()
        inside = classes[height > 0]
        names.append(str(name))
        labels.append(inside[0] if inside.size else classes[0])
        t.append(position)
        margin.append(height)
        for j in np.flatnonzero(classes[1:] != classes[:-1]):
            low, high = height[j], height[j + 1]
            # The crossing is where the margin is zero, or the midpoint between two other classes.
            share = low / (low - high) if (low > 0) != (high > 0) else 0.5
            place = position[j] + share * (position[j + 1] - position[j])
            crossings.append((i, place, classes[j], classes[j + 1]))
    table = pd.DataFrame(crossings, columns=["path", "t", "before", "after"])
    return Margins(names, labels, t, margin, table)
