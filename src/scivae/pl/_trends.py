"""Plots of gene expression along the path from one population to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shortened, warn
from .._validate.arguments import check_integer
from .._validate.tables import OF_SETS, check_genes, check_trends, gene_symbols_of
from ..tl import curve_layers
from ._enrichment import short_set_name
from ._style import (
    GRAY,
    OKABE_ITO,
    SIGNED_CMAP,
    SMALLEST,
    VALUE_CMAP,
    WIDTH,
    colorbar,
    drawing,
    height_in_points,
    label_outer,
    palette,
    panels,
    spread,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

# Largest number of rows of a table that are drawn as panels; 24 panels take about 20 seconds and two pages.
MAX_PANELS = 24
# Largest number of overlaid bands.
FEW_BANDS = 3
# Fewest donors in a bin for an interval over donors.
MIN_DONORS = 3
# Neighboring bins with fewer cells are merged.
MIN_CELLS = 10
# Letters of the name of a gene beside a row.
LETTERS = 16
# Letters of the name of a gene set above a panel.
LETTERS_OF_SET = 26


def gene_trends(
    trends: AnnData,
    genes: str | Sequence[str] | pd.DataFrame,
    *,
    ranked: pd.DataFrame | None = None,
    gene_symbols: str | None = None,
    overlay: bool = False,
    bands: bool | None = None,
    measured: bool = True,
    decoded: bool = True,
    donors: bool = True,
    n_cols: int = 2,
    ax: Any = None,
    show: bool = False,
) -> Any:
    """Plot fitted curves of genes along the path, with the measured cells.

    Parameters
    ----------
    trends
        From :func:`scivae.tl.gene_trends`.
    genes
        One gene or several, or rows of the table of :func:`scivae.tl.rank_genes`, of which the first 24
        are drawn, with a warning if there are more.
    ranked
        The table of :func:`scivae.tl.rank_genes`. Each panel then shows the p-value of its gene and
        the unit of the test. Not needed if ``genes`` is such a table.
    gene_symbols
        Column of ``trends.var`` with the names to show, as in scanpy; ``genes`` may be such names,
        too. Default: ``var_names``.
    overlay
        Draw all genes in one Axes, with names at the ends of the lines. ``False``: one panel per
        gene.
    bands
        Whether to draw the 90 % band of the fit (for decoded trends: over paths). ``None``: yes,
        unless more than three genes are overlaid.
    measured
        Whether to draw measured means in bins of position, with 90 % intervals: over donors if at
        least three have cells in the bin, otherwise over cells.
    decoded
        Whether to draw the decoded expression along the path (a prediction of the model) as a
        dashed line.
    donors
        Whether to draw the measured means of each donor as a thin line.
    n_cols
        Number of panels per row.
    ax
        Axes to draw in: one for a single gene or for an overlay, otherwise an array with one per
        gene. ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes, or an array of Axes, shape ``(n_genes,)``, if there are several panels. An overlay
    shows only curves, bands and bins.

    Raises
    ------
    KeyError
        If a gene or ``gene_symbols`` is not found.
    ValueError
        If ``trends`` is not made by ``gene_trends``.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(
    ...     adata,
    ...     groupby="cell_type",
    ...     source="CD14+ Monocyte",
    ...     target="Dendritic",
    ... )
    >>> trends = scivae.tl.gene_trends(model, pairs, n_steps=10)
    >>> axes = scivae.pl.gene_trends(trends, ["S100A8", "FCER1A"])
    >>> [ax.get_title(loc="left") for ax in axes]
    ['S100A8', 'FCER1A']
    """
    said = check_trends("trends", trends)
    if isinstance(genes, pd.DataFrame):
        ranked = genes if ranked is None else ranked
        if len(genes) > MAX_PANELS:
            warn(
                f"genes has {len(genes)} rows, of which the first {MAX_PANELS} are drawn; pass fewer rows, or "
                "use scivae.pl.trend_heatmap for many genes."
            )
        genes = [str(gene) for gene in genes.index[:MAX_PANELS]]
    symbols = gene_symbols_of(trends.var, gene_symbols)
    names = check_genes(trends, genes, symbols=symbols)
    check_integer("n_cols", n_cols, minimum=1)
    overlaid = len(names) > 1 and (overlay or _is_single(ax))
    if bands is None:
        bands = not overlaid or len(names) <= FEW_BANDS
    shown = _Shown(bands, measured, decoded and not overlaid, donors and not overlaid)
    if overlaid:
        with drawing(ax, show=show) as drawn:
            _overlay(drawn, trends, names, shown, symbols)
            drawn.set_xlabel(_t_label(said))
            drawn.set_ylabel(_scale(said, two_lines=True))
        return drawn
    single = len(names) == 1
    panel = (WIDTH, 2.2) if single else (WIDTH / min(n_cols, len(names)), 1.15)
    if ranked is not None and not single:
        panel = panel[0], panel[1] + 0.12
    with panels(
        ax, len(names), n_cols=n_cols, panel=panel, shared=0.0 if single else 0.6, show=show
    ) as axes:
        for one, gene in zip(axes, names, strict=True):
            _title(one, symbols[gene], _p_value(ranked, gene), width=72 * panel[0], said=said)
            _draw(one, trends, gene, OKABE_ITO[0], shown)
            _t_axis(one)
        scale = _scale(said, two_lines=True)
        if ax is None and len(names) <= n_cols:  # one row is lower than two lines are long
            scale = scale.replace(" of ", " of\n", 1)
        if ax is None and not single:
            figure = axes[0].get_figure()
            figure.supxlabel(_t_label(said), fontsize="medium")
            figure.supylabel(scale, fontsize="medium")
        else:
            label_outer(list(axes), x=_t_label(said), y=scale)
        handles, labels = axes[0].get_legend_handles_labels()
        if len(handles) > 1 and ax is None:
            axes[0].get_figure().legend(handles, labels, loc="outside upper center", ncols=2)
        elif len(handles) > 1:
            axes[0].legend(handles, labels, fontsize="x-small")
    return axes[0] if single and not isinstance(ax, np.ndarray) else axes


def trend_heatmap(
    trends: AnnData,
    genes: Sequence[str] | pd.DataFrame | None = None,
    *,
    n_genes: int = 40,
    mark_switch: bool = True,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
    gene_symbols: str | None = None,
    max_z: float = 2.0,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Plot a heatmap of genes along the path, ordered by the position at which they change.

    Parameters
    ----------
    trends
        From :func:`scivae.tl.gene_trends`.
    genes
        Genes to show, or the table of :func:`scivae.tl.rank_genes`, of which the first ``n_genes``
        are shown. ``None``: the genes that vary most along the path.
    n_genes
        Number of genes, unless genes are listed by name.
    mark_switch
        Whether to mark the switch of each gene, with its 90 % interval if available.
    gene_sets
        Gene sets by name. Each is drawn as a narrow column that marks its genes.
    gene_symbols
        Column of ``trends.var`` with the names to show, as in scanpy; ``genes`` and ``gene_sets``
        may hold such names, too. Default: ``var_names``.
    max_z
        Limit of the color scale.
    ax
        Axes to draw in; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. Each row is the curve of a gene, standardized over steps (zero for a constant gene).
    Rising genes are above falling genes, each sorted by ``switch``; genes without a switch come
    last. The column next to the heatmap is the log2 fold change (for counts). Names of *unresolved*
    genes, whose switch is too uncertain to be ordered, are gray.

    Raises
    ------
    KeyError
        If a gene or ``gene_symbols`` is not found.
    ValueError
        If ``trends`` is not made by ``gene_trends``, or ``max_z`` is not positive.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(
    ...     adata,
    ...     groupby="cell_type",
    ...     source="CD14+ Monocyte",
    ...     target="Dendritic",
    ... )
    >>> trends = scivae.tl.gene_trends(model, pairs, n_steps=10)
    >>> ax = scivae.pl.trend_heatmap(trends, n_genes=12)
    >>> len(ax.get_yticklabels())
    12
    """
    said = check_trends("trends", trends)
    check_integer("n_genes", n_genes, minimum=1)
    if not max_z > 0:
        raise ValueError(f"max_z must be positive, got {max_z}; pass, for example, 2.")
    symbols = gene_symbols_of(trends.var, gene_symbols)
    rows = _rows(trends, genes, n_genes, symbols)
    names = list(rows.index)
    z = standardize(_layer(trends, curve_layers(trends)[0], names))
    t = trends.obs[_keys.T].to_numpy(dtype=float)
    height = 0.8 + 0.115 * len(names)
    unresolved = ~rows["resolved"].to_numpy(dtype=bool) & rows["low"].notna().to_numpy()
    with drawing(ax, size=(WIDTH, max(height, 1.6)), show=show) as drawn:
        half = (t[1] - t[0]) / 2 if len(t) > 1 else 0.5
        image = drawn.imshow(
            z.T,
            aspect="auto",
            interpolation="nearest",
            cmap=VALUE_CMAP,
            vmin=-max_z,
            vmax=max_z,
            extent=(t[0] - half, t[-1] + half, len(names) - 0.5, -0.5),
        )
        if mark_switch:
            at = np.arange(len(names))
            for color, extra in (("white", 0.9), ("black", 0.0)):  # legible on light and dark
                look: dict[str, Any] = {"color": color, "lw": 0.5 + extra}
                drawn.hlines(at, rows["low"], rows["high"], **look)
                drawn.plot(rows["switch"], at, "|", color=color, ms=4.5 + extra, mew=0.9 + extra)
        n_rising = int((rows["change"] > 0).sum())
        if 0 < n_rising < len(names):
            drawn.axhline(n_rising - 0.5, color="white", lw=2.5)
        drawn.tick_params(axis="y", length=0)
        _fit_names(drawn, [symbols[name] for name in names], unresolved)
        _t_axis(drawn)
        drawn.spines[:].set_visible(False)
        note = "\ngray names: unresolved" if unresolved.any() else ""
        drawn.set_xlabel(_t_label(said) + note)
        sets = {
            name: [g for g in names if {g, symbols[g]} & {str(member) for member in members}]
            for name, members in (gene_sets or {}).items()
        }
        n_strips = _strips(drawn, rows["change"].to_numpy(), names, sets, said, n_rising)
        shrink = min(0.8, 1.2 / height)
        bar = colorbar(
            image, drawn, "z-score over steps", shrink=shrink, pad=0.03 + 0.09 * n_strips
        )
        bar.ax.yaxis.set_label_position("right")
    return drawn


def _strips(
    ax: Axes,
    change: np.ndarray,
    names: list[str],
    gene_sets: Mapping[str, Sequence[str]] | None,
    said: dict[str, Any],
    n_rising: int,
) -> int:
    """Draw narrow columns next to the heatmap: the change, and membership in gene sets."""
    from matplotlib.colors import to_rgb

    label = "log2 FC" if "10,000" in str(said.get("scale")) else "change"
    most = float(np.abs(change).max(initial=0)) or 1.0
    strips: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        (label, change[:, None], {"cmap": SIGNED_CMAP, "vmin": -most, "vmax": most})
    ]
    for (name, members), color in zip(
        (gene_sets or {}).items(), palette(len(gene_sets or {})), strict=True
    ):
        inside = np.isin(names, [str(gene) for gene in members])
        cells = np.where(inside[:, None, None], np.array(to_rgb(color)), 1.0)
        strips.append((str(name), cells, {}))
    for i, (name, values, look) in enumerate(strips):
        strip = ax.inset_axes((1.03 + 0.1 * i, 0, 0.065 if i else 0.09, 1))
        strip.imshow(
            values, aspect="auto", interpolation="nearest",
            extent=(0, 1, len(names) - 0.5, -0.5), **look,
        )  # fmt: skip
        if i == 0 and height_in_points(ax) / len(names) > 1.2 * SMALLEST:
            for place, value in enumerate(change.tolist()):
                dark = abs(value) > 0.6 * most
                strip.text(
                    0.5, place, _short(value), ha="center", va="center", fontsize=SMALLEST,
                    color="white" if dark else "black",
                )  # fmt: skip
        if 0 < n_rising < len(names):
            strip.axhline(n_rising - 0.5, color="white", lw=2.5)
        strip.set(xticks=[], yticks=[])
        strip.spines[:].set_visible(False)
        strip.set_title(name, rotation=90, fontsize="x-small", pad=2, loc="center")
    return len(strips)


def _fit_names(ax: Axes, names: list[str], pale: np.ndarray) -> None:
    """Label the rows, or every second, third, … row if rows are too low for text."""
    row = height_in_points(ax) / len(names)
    usual = float(ax.yaxis.get_ticklabels()[0].get_fontsize())
    size = min(usual, max(SMALLEST, 0.9 * row))
    every = max(1, int(np.ceil(0.95 * size / row)))
    rows = np.arange(0, len(names), every)
    written = [shortened(names[i], LETTERS) for i in rows]
    ax.set_yticks(rows, written, style="italic", fontsize=size)
    for label, is_pale in zip(ax.get_yticklabels(), pale[rows], strict=True):
        if is_pale:
            label.set_color(GRAY)


def _short(value: float) -> str:
    """A change in at most three characters (without the sign), with one decimal if it fits."""
    return f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"


def standardize(values: np.ndarray) -> np.ndarray:
    """Standardize columns; constant columns become zero."""
    centered = values - values.mean(axis=0)
    sd = centered.std(axis=0)
    # Ignore rounding errors of constant genes.
    constant = sd <= 1e-6 * np.maximum(np.abs(values).max(axis=0), 1e-12)
    return np.where(constant, 0.0, centered / np.where(constant, 1.0, sd))


class _Shown(NamedTuple):
    """Which elements are drawn for each gene."""

    bands: bool
    measured: bool
    decoded: bool
    donors: bool


def _rows(trends: AnnData, genes: Any, n_genes: int, symbols: dict[str, str]) -> pd.DataFrame:
    """Genes to show, with change, switch and interval: rising genes first, sorted by switch."""
    from ..stats import switch_position

    table = None
    if isinstance(genes, pd.DataFrame):
        table = genes.head(n_genes)
        names = check_genes(trends, list(table.index))
    elif genes is None:
        curves = _layer(trends, curve_layers(trends)[0], list(trends.var_names))
        widest = np.argsort(-np.ptp(curves, axis=0), kind="stable")[:n_genes]
        names = list(trends.var_names[widest])
    else:
        names = check_genes(trends, genes, symbols=symbols)
    curves = _layer(trends, curve_layers(trends)[0], names)
    unit = 1 / np.log(2) if "10,000" in str(trends.uns[_keys.UNS].get("scale")) else 1.0
    t = trends.obs[_keys.T].to_numpy(dtype=float)
    found = {
        "change": unit * (curves[-1] - curves[0]),
        "switch": switch_position(curves, t),
        "low": np.full(len(names), np.nan),
        "high": np.full(len(names), np.nan),
        "resolved": np.ones(len(names), dtype=bool),
    }
    var = trends.var.loc[names]
    for column, name in (
        ("change", _keys.CHANGE),
        ("switch", _keys.SWITCH),
        ("low", f"{_keys.SWITCH}_low"),
        ("high", f"{_keys.SWITCH}_high"),
        ("resolved", _keys.RESOLVED),
    ):
        for source in (var, table):
            if source is not None and name in source:
                found[column] = source[name].to_numpy()
    rows = pd.DataFrame(found, index=pd.Index(names))
    falling = (rows["change"] <= 0).to_numpy()
    order = np.lexsort([rows["switch"].fillna(np.inf).to_numpy(dtype=float), falling])
    return rows.iloc[order]


def _layer(trends: AnnData, layer: str, genes: list[str]) -> np.ndarray:
    """Values of genes, shape ``(n_steps, n_genes)``."""
    columns = trends.var_names.get_indexer(genes)
    return np.asarray(trends.layers[layer])[:, columns].astype(float)


def _draw(ax: Axes, trends: AnnData, gene: str, color: str, shown: _Shown) -> None:
    """Draw one gene: measured bins, band, curve, and decoded line."""
    t = trends.obs[_keys.T].to_numpy(dtype=float)
    curve, low, high = curve_layers(trends)
    is_fit = curve == _keys.FIT_LAYER
    if shown.measured:
        _draw_bins(ax, trends, gene, GRAY if color == OKABE_ITO[0] else color, donors=shown.donors)
    inner = slice(1, -1) if is_fit and trends.uns[_keys.UNS].get("free_ends") else slice(None)
    if shown.bands and low is not None and high is not None:
        below, above = (_layer(trends, layer, [gene])[inner, 0] for layer in (low, high))
        label = "90 % band" if is_fit else "5–95 % of paths"
        ax.fill_between(t[inner], below, above, color=color, alpha=0.2, lw=0, label=label)
    if is_fit:
        line = _layer(trends, curve, [gene])[:, 0]
        covered = _with_cells(trends, t) if inner != slice(None) else np.full(len(t), True)
        ax.plot(t[covered], line[covered], color=color, lw=1.5, label="fit to cells")
        if inner != slice(None):  # source and target have separate levels
            ax.plot(t, line, ":", color=color, lw=1.0, zorder=1.7, label="fit, no cells between")
            ax.plot(
                t[[0, -1]], line[[0, -1]], "o", color=color, ms=4, mec="white", mew=0.5,
                clip_on=False, zorder=3, label="fit, each group",
            )  # fmt: skip
    if (shown.decoded or not is_fit) and _keys.DECODED_LAYER in trends.layers:
        line = _layer(trends, _keys.DECODED_LAYER, [gene])[:, 0]
        look: dict[str, Any] = {"color": OKABE_ITO[3], "lw": 0.9}
        if not is_fit:
            look = {"color": color, "lw": 1.5}
        ax.plot(t, line, ls="--", label="decoded (prediction)", zorder=1.9, **look)
    elif not is_fit:
        ax.plot(t, _layer(trends, curve, [gene])[:, 0], color=color, lw=1.5, ls="--", label=curve)


def _with_cells(trends: AnnData, t: np.ndarray) -> np.ndarray:
    """Which steps lie between the first and the last measured cell of neither group, shape ``(n_steps,)``."""
    inside = (t > 0) & (t < 1)
    cells = trends.uns[_keys.UNS].get("cells")
    if cells is None:
        return inside
    at = cells["t"].to_numpy(dtype=float)[(cells["weight"] > 0).to_numpy()]
    at = at[(at > 0) & (at < 1)]
    half = (t[1] - t[0]) / 2
    return inside & (t >= at.min() - half) & (t <= at.max() + half) if len(at) else inside


def _draw_bins(ax: Axes, trends: AnnData, gene: str, color: str, *, donors: bool) -> None:
    """Draw measured means in bins of position, with intervals over donors or cells."""
    from scipy.stats import t as student

    said = trends.uns[_keys.UNS]
    bins = said.get("bins")
    if bins is None or _keys.BINS not in trends.varm:
        return
    row = trends.var_names.get_loc(gene)
    mean, se = (np.asarray(trends.varm[k][row], dtype=float) for k in (_keys.BINS, _keys.BINS_SE))
    is_log = "10,000" in str(said.get("scale"))
    scaled = np.log1p if is_log else np.asarray
    table = bins.assign(mean=mean, variance=se**2)
    codes = np.unique(table["donor"][table["donor"] >= 0])
    known = table[table["donor"] >= 0] if len(codes) else table
    if donors and len(codes) > 1:
        for i, code in enumerate(codes):
            own = _joined(table[table["donor"] == code])
            label = f"each of {len(codes)} donors" if i == 0 else None
            ax.plot(own["t"], scaled(own["mean"]), color=color, lw=0.5, alpha=0.7, label=label)
    at, middle, below, above = [], [], [], []
    by_donor = False
    for part in _parts(known):
        own = part.groupby("donor", sort=False)[["n_cells"]].sum()
        at.append(np.average(part["t"], weights=part["n_cells"]))
        if len(own) >= MIN_DONORS:
            each = [_joined(p, least=np.inf)["mean"].iloc[0] for _, p in part.groupby("donor")]
            values = scaled(np.array(each))
            half = student.ppf(0.95, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
            center = values.mean()
            low, high, by_donor = center - half, center + half, True
        else:
            whole = _joined(part, least=np.inf).iloc[0]
            half = 1.645 * np.sqrt(whole["variance"])
            lowest = 0.0 if is_log else -np.inf
            center, low, high = (
                scaled(max(v, lowest))
                for v in (whole["mean"], whole["mean"] - half, whole["mean"] + half)
            )
        middle.append(center)
        below.append(center - max(low, 0.0 if is_log else low))
        above.append(high - center)
    centers, lengths = np.array(middle, dtype=float), np.array([below, above], dtype=float)
    ax.errorbar(
        at, centers, yerr=lengths, fmt="o", ms=2, lw=0.6, color=color, zorder=1.8,
        label=f"cells, 90 % by {'donor' if by_donor else 'cell'}",
    )  # fmt: skip


def _parts(bins: pd.DataFrame, least: float = MIN_CELLS) -> list[pd.DataFrame]:
    """Merge neighboring bins until each has at least ``least`` cells."""
    bins = bins.sort_values(["bin", "t"], kind="stable")
    n = bins.groupby("bin")["n_cells"].sum()
    of_bin, part, held = {}, 0, 0
    for number, cells in n.items():
        if held >= least:
            part, held = part + 1, 0
        of_bin[number], held = part, held + cells
    if held < least and part > 0:  # merge the last bins into the previous ones
        of_bin = {number: min(p, part - 1) for number, p in of_bin.items()}
    return [own for _, own in bins.groupby(bins["bin"].map(of_bin))]


def _joined(bins: pd.DataFrame, least: float = MIN_CELLS) -> pd.DataFrame:
    """Position, mean and variance of merged bins, weighted by cells."""
    rows = []
    for part in _parts(bins, least):
        weight = part["n_cells"] / part["n_cells"].sum()
        rows.append((weight @ part["t"], weight @ part["mean"], weight**2 @ part["variance"]))
    return pd.DataFrame(rows, columns=["t", "mean", "variance"])


def _p_value(ranked: pd.DataFrame | None, gene: str) -> str:
    """Text with the p-value of a gene and the unit of the test."""
    if ranked is None or gene not in ranked.index:
        return ""
    if "shape" in ranked and "fdr_transient" in ranked:
        row = ranked.loc[ranked.index == gene].iloc[0]
        if row["shape"] == "transient":
            unit = "donors" if "fdr" in ranked else "cells"
            return f"transient, {_written('FDR', float(row['fdr_transient']))} ({unit})"
    for column, unit in (("fdr", "donors"), ("fdr_cells", "cells"),
                         ("p_value", "donors"), ("p_cells", "cells")):  # fmt: skip
        value = (
            float(ranked[column].to_numpy(dtype=float)[ranked.index == gene][0])
            if column in ranked
            else np.nan
        )
        if np.isfinite(value):
            name = "FDR" if column.startswith("fdr") else "p"
            return f"{_written(name, value)} ({unit})"
    return ""


def _written(name: str, value: float) -> str:
    """A p-value or false discovery rate."""
    return f"{name} < 0.001" if value < 0.001 else f"{name} = {value:.2g}"


def _title(ax: Axes, gene: str, p_value: str, *, width: float, said: dict[str, Any]) -> None:
    """Write the name of a gene or set, smaller if it is long, and the p-value below it."""
    style: Any = "italic"
    if said.get("of") == OF_SETS:
        gene, style = short_set_name(gene, LETTERS_OF_SET), "normal"
    title = ax.set_title(gene, loc="left", style=style, pad=10 if p_value else None)
    usual = float(title.get_fontsize())
    # Letters are about 0.6 times as wide as high; a quarter of the panel is for tick labels.
    title.set_fontsize(max(SMALLEST, min(usual, 0.75 * width / (0.62 * len(gene)))))
    if p_value:
        ax.annotate(
            p_value, (0, 1), xycoords="axes fraction", xytext=(0, 2.5), textcoords="offset points",
            fontsize="x-small", color="0.35",
        )  # fmt: skip


def _overlay(
    ax: Axes, trends: AnnData, names: list[str], shown: _Shown, symbols: dict[str, str]
) -> None:
    """Draw several genes in one Axes, with names at the ends of the lines."""
    colors = palette(len(names))
    for gene, color in zip(names, colors, strict=True):
        _draw(ax, trends, gene, color, shown)
    _t_axis(ax)
    curve = curve_layers(trends)[0]
    ends = [_layer(trends, curve, [gene])[-1, 0] for gene in names]
    # Spread names by the height of a line of text (in data units), so that they do not overlap.
    low, high = ax.get_ylim()
    gap = 9.5 / height_in_points(ax) * (high - low)
    places = spread(ends, gap)
    ax.set_ylim(min(low, places.min() - gap / 2), max(high, places.max() + gap / 2))
    for gene, color, place in zip(names, colors, places, strict=True):
        ax.annotate(
            symbols[gene], (1, place), xytext=(4, 0), textcoords="offset points", va="center",
            color=color, style="italic", fontsize="small", annotation_clip=False,
        )  # fmt: skip


def _t_axis(ax: Axes) -> None:
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def _t_label(said: dict[str, Any]) -> str:
    """Label of the position axis, with the groups at 0 and 1."""
    ends = [said.get("source"), said.get("target")]
    known = "" if None in ends else f"\n(0: {ends[0]}, 1: {ends[1]})"
    return f"position along path, t{known}"


def _scale(said: dict[str, Any], *, two_lines: bool = False) -> str:
    """Unit of the values, on two lines for small panels."""
    scale = str(said.get("scale") or "expression")
    return scale.replace(" per ", "\nper ", 1) if two_lines else scale


def _is_single(ax: Any) -> bool:
    return ax is not None and np.asarray(ax, dtype=object).size == 1
