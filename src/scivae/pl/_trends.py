"""Genes along the way from one population to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._names import layer_names
from ..tl._genes import describe
from ..tl._trends import MEAN
from ._check import check_count, check_genes, check_trends
from ._style import (
    GREY,
    OKABE_ITO,
    SIGNED_CMAP,
    SMALLEST,
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

# More bands than these, one over another, are mud.
FEW_BANDS = 3


def gene_trends(
    trends: AnnData,
    genes: str | Sequence[str],
    *,
    overlay: bool = False,
    bands: bool | None = None,
    donors: bool = True,
    n_cols: int = 2,
    ax: Any = None,
    show: bool = False,
) -> Any:
    """Mean of genes along the way, with the band that holds nine of ten paths.

    Parameters
    ----------
    trends
        From :func:`scivae.tl.gene_trends`.
    genes
        One gene or several.
    overlay
        Draw all genes in one Axes, named at the ends of their lines. ``False``: a panel each.
    bands
        Whether to draw the 5 % to 95 % quantiles over paths. ``None``: unless more than three genes
        lie over each other.
    donors
        Whether to draw the mean of each donor as a thin line, where the trends have them.
    n_cols
        Panels beside each other.
    ax
        Axes to draw in, one for a single gene or for all together, else an array with one a gene;
        ``None`` makes a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes, or an array of them, shape ``(n_genes,)``, where there are several panels.

    Raises
    ------
    KeyError
        If a gene is not there.
    ValueError
        If ``trends`` are no trends.

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
    ...     n_pairs=20,
    ... )
    >>> trends = scivae.tl.gene_trends(model, pairs, n_steps=10)
    >>> axes = scivae.pl.gene_trends(trends, ["S100A8", "FCER1A"])
    >>> [ax.get_title(loc="left") for ax in axes]
    ['S100A8', 'FCER1A']
    """
    said = check_trends(trends)
    names = check_genes(trends, genes)
    check_count("n_cols", n_cols)
    donor_names = [str(d) for d in said.get("donors", ())] if donors else []
    donor_names = [d for d in donor_names if f"{MEAN}_{d}" in trends.layers]
    overlaid = len(names) > 1 and (overlay or _is_single(ax))
    if bands is None:
        bands = not overlaid or len(names) <= FEW_BANDS
    has_bands = bands and {_keys.Q05_LAYER, _keys.Q95_LAYER} <= set(layer_names(trends))
    if overlaid:
        with drawing(ax, show=show) as drawn:
            _overlay(drawn, trends, names, bands=has_bands, donors=donor_names)
            drawn.set_xlabel(_t_label(said))
            drawn.set_ylabel(_scale(said))
        return drawn
    single = len(names) == 1
    panel = (WIDTH, 2.2) if single else (WIDTH / min(n_cols, len(names)), 1.05)
    with panels(
        ax, len(names), n_cols=n_cols, panel=panel, shared=0.0 if single else 0.6, show=show
    ) as axes:
        for one, gene in zip(axes, names, strict=True):
            one.set_title(gene, loc="left", style="italic")
            _draw(one, trends, gene, OKABE_ITO[0], bands=has_bands, donors=donor_names)
            _t_axis(one)
        if ax is None and not single:
            figure = axes[0].get_figure()
            figure.supxlabel(_t_label(said), fontsize="medium")
            figure.supylabel(_scale(said), fontsize="medium")
        else:
            label_outer(list(axes), x=_t_label(said), y=_scale(said, two_lines=not single))
        handles, labels = axes[0].get_legend_handles_labels()
        if len(handles) > 1 and ax is None:
            axes[0].get_figure().legend(handles, labels, loc="outside upper center", ncols=3)
        elif len(handles) > 1:
            axes[0].legend(handles, labels, fontsize="x-small")
    return axes[0] if single and not isinstance(ax, np.ndarray) else axes


def trend_heatmap(
    trends: AnnData,
    genes: Sequence[str] | pd.DataFrame | None = None,
    *,
    n_genes: int = 40,
    mark_switch: bool = True,
    max_z: float = 2.0,
    ax: Axes | None = None,
    show: bool = False,
) -> Axes:
    """Decoded genes by steps, ordered by the switch positions of their decoded curves.

    Parameters
    ----------
    trends
        From :func:`scivae.tl.gene_trends`.
    genes
        Genes to show, or the table of :func:`scivae.tl.rank_genes`, of which the first ``n_genes``
        are shown. ``None``: the genes whose mean varies most along the way.
    n_genes
        How many genes, unless they are named.
    mark_switch
        Whether to mark the switch position of each gene.
    max_z
        Where colours end.
    ax
        Axes to draw in; ``None`` makes a figure.
    show
        Show the figure.

    Returns
    -------
    The Axes. Each row is a gene's mean, less its average over steps and divided by its standard
    deviation over steps (zero for a gene that is constant); rows are in the order of the switch
    position, as :func:`scivae.tl.rank_genes` defines it, flat genes last.

    Raises
    ------
    KeyError
        If a gene is not there.
    ValueError
        If ``trends`` are no trends, or ``max_z`` is not positive.

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
    ...     n_pairs=20,
    ... )
    >>> trends = scivae.tl.gene_trends(model, pairs, n_steps=10)
    >>> ax = scivae.pl.trend_heatmap(trends, n_genes=12)
    >>> len(ax.get_yticklabels())
    12
    """
    said = check_trends(trends)
    check_count("n_genes", n_genes)
    if not max_z > 0:
        raise ValueError(f"max_z must be positive, got {max_z}.")
    names, switch = _chosen(trends, genes, n_genes)
    order = np.argsort(switch, kind="stable")
    names, switch = [names[i] for i in order], switch[order]
    z = standardize(_layer(trends, MEAN, names))
    t = trends.obs[_keys.T].to_numpy(dtype=float)
    height = 0.8 + 0.115 * len(names)
    with drawing(ax, size=(WIDTH, max(height, 1.6)), show=show) as drawn:
        half = (t[1] - t[0]) / 2 if len(t) > 1 else 0.5
        image = drawn.imshow(
            z.T,
            aspect="auto",
            interpolation="nearest",
            cmap=SIGNED_CMAP,
            vmin=-max_z,
            vmax=max_z,
            extent=(t[0] - half, t[-1] + half, len(names) - 0.5, -0.5),
        )
        if mark_switch:
            drawn.plot(switch, np.arange(len(names)), "|", color="black", ms=4.5, mew=0.9)
        drawn.tick_params(axis="y", length=0)
        _fit_names(drawn, names)
        _t_axis(drawn)
        drawn.spines[:].set_visible(False)
        drawn.set_xlabel(_t_label(said))
        colorbar(image, drawn, "z-score over steps", shrink=min(0.8, 1.2 / height))
    return drawn


def _fit_names(ax: Axes, names: list[str]) -> None:
    """Name the rows in letters as high as they are, or every second, third … where they are low."""
    row = height_in_points(ax) / len(names)
    usual = float(ax.yaxis.get_ticklabels()[0].get_fontsize())
    size = min(usual, max(SMALLEST, 0.9 * row))
    every = max(1, int(np.ceil(0.95 * size / row)))
    rows = np.arange(0, len(names), every)
    ax.set_yticks(rows, [names[i] for i in rows], style="italic", fontsize=size)


def standardize(values: np.ndarray) -> np.ndarray:
    """Columns less their mean, over their standard deviation; constant columns become zero."""
    centred = values - values.mean(axis=0)
    sd = centred.std(axis=0)
    # What rounding leaves of a constant gene is no change.
    constant = sd <= 1e-6 * np.maximum(np.abs(values).max(axis=0), 1e-12)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, sd))


def _chosen(trends: AnnData, genes: Any, n_genes: int) -> tuple[list[str], np.ndarray]:
    """Genes to show and their switch positions, NaN for flat ones."""
    if isinstance(genes, pd.DataFrame):
        table = genes.head(n_genes)
        names = check_genes(trends, list(table.index))
        if "switch" in table:
            return names, table["switch"].to_numpy(dtype=float)
    elif genes is None:
        mean = _layer(trends, MEAN, list(trends.var_names))
        widest = np.argsort(-np.ptp(mean, axis=0), kind="stable")[:n_genes]
        names = list(trends.var_names[widest])
    else:
        names = check_genes(trends, genes)
    t = trends.obs[_keys.T].to_numpy(dtype=float)
    return names, describe(_layer(trends, MEAN, names), t, 0.0)["switch"].to_numpy(dtype=float)


def _layer(trends: AnnData, layer: str, genes: list[str]) -> np.ndarray:
    """Values of genes, shape ``(n_steps, n_genes)``."""
    columns = trends.var_names.get_indexer(genes)
    return np.asarray(trends.layers[layer])[:, columns].astype(float)


def _draw(
    ax: Axes, trends: AnnData, gene: str, color: str, *, bands: bool, donors: list[str]
) -> None:
    """One gene: its band, its donors, its mean."""
    t = trends.obs[_keys.T].to_numpy(dtype=float)
    if bands:
        low, high = (_layer(trends, q, [gene])[:, 0] for q in (_keys.Q05_LAYER, _keys.Q95_LAYER))
        ax.fill_between(t, low, high, color=color, alpha=0.2, lw=0, label="5–95 % of paths")
    for i, donor in enumerate(donors):
        label = f"each of {len(donors)} donors" if i == 0 else None
        y = _layer(trends, f"{MEAN}_{donor}", [gene])[:, 0]
        ax.plot(t, y, color=GREY if color == OKABE_ITO[0] else color, lw=0.6, label=label)
    ax.plot(t, _layer(trends, MEAN, [gene])[:, 0], color=color, lw=1.5, label="mean")


def _overlay(
    ax: Axes, trends: AnnData, names: list[str], *, bands: bool, donors: list[str]
) -> None:
    """Several genes in one Axes, each named at the end of its line."""
    colors = palette(len(names))
    for gene, color in zip(names, colors, strict=True):
        _draw(ax, trends, gene, color, bands=bands, donors=donors)
    _t_axis(ax)
    ends = [_layer(trends, MEAN, [gene])[-1, 0] for gene in names]
    # Names are spread so that they do not overlap: by the height of a line of text, in data units.
    low, high = ax.get_ylim()
    gap = 9.5 / height_in_points(ax) * (high - low)
    places = spread(ends, gap)
    ax.set_ylim(min(low, places.min() - gap / 2), max(high, places.max() + gap / 2))
    for gene, color, place in zip(names, colors, places, strict=True):
        ax.annotate(
            gene, (1, place), xytext=(4, 0), textcoords="offset points", va="center",
            color=color, style="italic", fontsize="small", annotation_clip=False,
        )  # fmt: skip


def _t_axis(ax: Axes) -> None:
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def _t_label(said: dict[str, Any]) -> str:
    """What 0 and 1 stand for."""
    ends = [said.get("source"), said.get("target")]
    way = "" if None in ends else f"\n(0: {ends[0]}, 1: {ends[1]})"
    return f"position along path, t{way}"


def _scale(said: dict[str, Any], *, two_lines: bool = False) -> str:
    """Unit of the values; on two lines beside small panels."""
    scale = str(said.get("scale") or "expression")
    return scale.replace(" per ", "\nper ", 1) if two_lines else scale


def _is_single(ax: Any) -> bool:
    return ax is not None and np.asarray(ax, dtype=object).size == 1
