"""Compare two trends gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shown
from .._validate import tables
from .._validate.arguments import check_bool
from ._trends import LOG_SCALE, curve_layers

if TYPE_CHECKING:
    from anndata import AnnData


def compare_trends(a: AnnData, b: AnnData, *, center: bool = False) -> pd.DataFrame:
    """Find the genes and positions at which two trends differ.

    The trends can be those of a healthy and a diseased lineage, of two labels, or of two donors.

    Parameters
    ----------
    a, b
        Trends from :func:`gene_trends`, on the same scale. Genes that both have are compared. If the
        positions differ, ``b`` is interpolated linearly to those of ``a``.
    center
        Compare changes from the start of each path, not levels. Bands are then widened by the uncertainty
        of the start, as if it were independent of the uncertainty of the other positions.

    Returns
    -------
    DataFrame with one row per gene, largest ``area`` first. Values are log2 of (counts per 10,000, plus one)
    for counts, otherwise in the units of the data:

    - ``area``: mean over positions of the absolute difference of the means (the area between the
      curves)
    - ``difference``: mean over positions of ``b`` minus ``a``
    - ``max_difference``, ``t_max``: the largest difference, and its position
    - ``start``, ``end``: the difference at both ends
    - ``separated``: fraction of the positions at which the 90 % bands do not overlap;
      ``t_separated``: the first of them (NaN if there is none). Both are NaN if the trends have no bands
    - ``correlation``: correlation of the two means over positions; NaN if one is constant

    Raises
    ------
    ValueError
        If one was not made by ``gene_trends``, if their scales differ, or if they share no gene.

    Notes
    -----
    Bands of measured trends are confidence bands of the curves, with donors as the units if there are at least
    three. Bands of decoded trends are quantiles over paths, which are not independent observations. If they
    do not overlap, the paths differ; this does not show that the populations differ.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> trends = [
    ...     scivae.tl.gene_trends(
    ...         model,
    ...         scivae.tl.pair_cells(adata, "cell_type", "CD14+ Monocyte", target, n_pairs=20),
    ...         n_steps=11,
    ...     )
    ...     for target in ("Dendritic", "CD19+ B")
    ... ]
    >>> scivae.tl.compare_trends(*trends).shape
    (765, 9)
    """
    from scipy.integrate import trapezoid

    for name, trends in (("a", a), ("b", b)):
        tables.check_trends(name, trends)
    check_bool("center", center)
    scales = [str(trends.uns[_keys.UNS]["scale"]) for trends in (a, b)]
    if scales[0] != scales[1]:
        raise ValueError(
            f"a and b must be on the same scale, but a is in {scales[0]} and b in {scales[1]}; "
            "compare trends of models with one kind of likelihood."
        )
    genes = a.var_names[a.var_names.isin(b.var_names)]
    if not len(genes):
        raise ValueError(
            f"a and b must share genes, but none of {shown(a.var_names, 3)} is in b "
            f"({shown(b.var_names, 3)}); use the same gene names in both."
        )
    unit = 1 / np.log(2) if scales[0] == LOG_SCALE else 1.0
    t = a.obs[_keys.T].to_numpy(dtype=float)
    (mean_a, low_a, high_a), (mean_b, low_b, high_b) = (
        [unit * _at(trends, layer, genes, t) for layer in curve_layers(trends)] for trends in (a, b)
    )
    if center:
        mean_a, low_a, high_a = _from_start(mean_a, low_a, high_a)
        mean_b, low_b, high_b = _from_start(mean_b, low_b, high_b)
    gap = mean_b - mean_a  # (n_steps, n_genes)
    length = t[-1] - t[0]
    where = np.abs(gap).argmax(axis=0)
    known = np.isfinite(low_a + low_b).all(axis=0)
    apart = (low_b > high_a) | (low_a > high_b)
    table = pd.DataFrame(
        {
            "area": trapezoid(np.abs(gap), t, axis=0) / length,
            "difference": trapezoid(gap, t, axis=0) / length,
            "max_difference": gap[where, np.arange(len(genes))],
            "t_max": t[where],
            "start": gap[0],
            "end": gap[-1],
            "separated": np.where(known, apart.mean(axis=0), np.nan),
            "t_separated": np.where(apart.any(axis=0), t[apart.argmax(axis=0)], np.nan),
            "correlation": _correlation(mean_a, mean_b),
        },
        index=genes,
    )
    return table.sort_values("area", ascending=False, kind="stable")


def _from_start(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, ...]:
    """A curve minus its start; its band is wider by the uncertainty of the start."""
    down, up = mean - low, high - mean
    change = mean - mean[0]
    return change, change - np.hypot(down, up[0]), change + np.hypot(up, down[0])


def _at(trends: AnnData, layer: str | None, genes: pd.Index, t: np.ndarray) -> np.ndarray:
    """A layer for some genes at some positions, shape ``(n_steps, n_genes)``; NaN if it is missing."""
    if layer is None:
        return np.full((len(t), len(genes)), np.nan)
    values = np.asarray(trends.layers[layer], dtype=float)[:, trends.var_names.get_indexer(genes)]
    own = trends.obs[_keys.T].to_numpy(dtype=float)
    if np.array_equal(own, t):
        return values
    after = np.clip(np.searchsorted(own, t, side="right"), 1, len(own) - 1)
    part = np.clip((t - own[after - 1]) / (own[after] - own[after - 1]), 0, 1)[:, None]
    return (1 - part) * values[after - 1] + part * values[after]


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of columns; NaN if one is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.where(norm > 1e-10, (a * b).sum(axis=0) / np.where(norm > 1e-10, norm, 1), np.nan)
