"""Which genes differ between the two ends of a path, and the form of their decoded curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import check_integer, check_number
from . import _validate
from ._null import MIN_ASSIGNMENTS, SOURCE, TARGET, Evidence, design, permutation_test
from ._trends import LOG_SCALE, MEAN

if TYPE_CHECKING:
    from anndata import AnnData

SHAPES = ("up", "down", "transient", "flat")
_MIN_LOG2_CHANGE = 0.1


def rank_genes(
    trends: AnnData,
    *,
    n_permutations: int = 1000,
    min_change: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Genes that differ between the two ends of a path, and the form of their decoded curves.

    Parameters
    ----------
    trends
        From :func:`gene_trends`.
    n_permutations
        Permutations of the null; 0 leaves the test out.
    min_change
        A gene whose mean varies by less along the path is ``flat``. ``None``: 0.1 for counts (in
        log2), 0 for other data (in their units).
    seed
        Seed of the permutations.

    Returns
    -------
    DataFrame, one row a gene, the surest change first. In log2 of (counts per 10,000, plus one) for
    counts, else in the units of the data:

    - ``shape``: ``up`` or ``down``; ``transient`` where the mean rises above or falls below both
      ends by more than the ends differ; ``flat``
    - ``change``: mean at the end minus mean at the start
    - ``total_variation``: all that the mean rises and falls along the path
    - ``excursion``: how far it goes beyond both ends, signed
    - ``switch``: position in [0, 1] at which half of the change is reached, or of the peak of a
      transient gene; NaN for a flat one
    - ``observed``: mean of the *measured* targets minus that of the measured sources
    - ``z``, ``z_between``: this difference, and that of the measured cells between the ends against
      the mean of both ends, over their standard deviations under the null
    - ``p_value``, ``fdr``: of the null below; false discovery rate by Benjamini and Hochberg
    - ``agreement``: share of the donors whose own mean changes in the same direction; NaN
      without donors

    Raises
    ------
    ValueError
        If there are too few cells for the null, or an argument is out of its range.

    Notes
    -----
    *What is tested.* That group membership (source, between, target) has nothing to do with the
    measured expression of a gene: memberships are shuffled among the cells at the ends of the paths,
    within a donor where there are donors. Every cell counts once, however many paths it ends, and no
    decoded value enters: a decoder smooths, so that among decoded values every difference, however
    it came about, stands out from nearly no noise. A difference counts only in the direction of the
    decoded trend, which can only raise p-values. The path adds nothing to the test.

    *What is not.* Donors. Cells of a donor are alike, so differences between donors alone make many
    genes significant: the p-values are about the cells of this sample. ``shape`` and ``switch``
    describe decoded curves. They do not tell the order in which genes change in cells: where the
    middle stages are measured, the two are about uncorrelated.

    A transient gene can be equal at both ends. What shows it is measured cells in between (see
    ``between`` of :func:`gene_trends`); without them its middle rests on the model alone, and the
    p-value says so by being large. The other way round, a straight path through a curved population
    cuts the corner: a gene with a large ``z_between`` whose ``shape`` is not ``transient`` does peak
    between the groups, but not on this path (try ``method="geodesic"``, or stages one by one).

    The null is exact if which cells are paired does not depend on their expression within a group:
    for the methods ``ot``, ``random`` and ``all`` of :func:`pair_cells`, not for ``nearest``, whose
    p-values are too large. Groups that are themselves found by clustering the same cells differ by
    construction, and no test of this kind can tell.

    The statistic is the sum of the squared ``z``. Where fewer than ten permutations of a gene reach
    it, those of 100 genes of similar kurtosis are taken together, and beyond these the tail is
    that of Pearson's type III [1]_.

    References
    ----------
    .. [1] A. M. Winkler et al. Faster permutation inference in brain imaging. NeuroImage 141 (2016).

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40, n_classes=2, layout="across")
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=10, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(adata, "stage", "early", "late", label="class_0")
    >>> genes = scivae.tl.rank_genes(scivae.tl.gene_trends(model, pairs))
    >>> genes.shape
    (40, 11)
    """
    _validate.check_trends(trends)
    n_permutations = check_integer("n_permutations", n_permutations, minimum=0)
    if 0 < n_permutations < 100:
        raise ValueError(
            f"n_permutations must be at least 100, or 0 for no test, got {n_permutations}."
        )
    seed = check_integer("seed", seed, minimum=0)
    said = trends.uns[_keys.UNS]
    counts = said["scale"] == LOG_SCALE
    if min_change is None:
        min_change = _MIN_LOG2_CHANGE if counts else 0.0
    min_change = check_number("min_change", min_change, minimum=0)
    unit = 1 / np.log(2) if counts else 1.0
    mean = np.asarray(trends.layers[MEAN], dtype=float) * unit  # (n_steps, n_genes)
    table = describe(mean, trends.obs[_keys.T].to_numpy(dtype=float), min_change)
    table.index = trends.var_names.copy()
    evidence = _evidence(trends, table, n_permutations, seed)
    table["observed"] = evidence.difference[0] * unit
    table["z"], table["z_between"] = evidence.z
    table["p_value"] = evidence.p_value
    table["fdr"] = false_discovery_rate(evidence.p_value)
    donors = [f"{MEAN}_{name}" for name in said.get("donors", ())]
    means = [
        np.asarray(trends.layers[name], dtype=float) for name in donors if name in trends.layers
    ]
    table["agreement"] = _agreement(mean, means, table)
    span = np.ptp(mean, axis=0)
    order = np.lexsort([-span, np.nan_to_num(evidence.p_value, nan=2.0)])
    table = table.iloc[order]
    table.attrs = {
        "scale": "log2 of counts per 10,000, plus one" if counts else said["scale"],
        "n_permutations": n_permutations,
        "min_change": min_change,
        "seed": seed,
        **{key: said[key] for key in ("source", "target", "label", "groupby") if key in said},
    }
    return table


def describe(mean: np.ndarray, t: np.ndarray, min_change: float) -> pd.DataFrame:
    """Form of each trend.

    Parameters
    ----------
    mean
        Shape ``(n_steps, n_genes)``.
    t
        Positions, shape ``(n_steps,)``.
    min_change
        Range below which a trend is flat.
    """
    first, last = mean[0], mean[-1]
    change = last - first
    above = mean.max(axis=0) - np.maximum(first, last)
    below = np.minimum(first, last) - mean.min(axis=0)
    excursion = np.where(above >= below, above, -below)
    span = np.ptp(mean, axis=0)
    flat = (span < min_change) | (span <= 1e-6 * np.abs(mean).max(axis=0))
    shape = np.where(change >= 0, "up", "down").astype(object)
    shape[np.abs(excursion) > np.abs(change)] = "transient"
    shape[flat] = "flat"
    peak = np.where(excursion > 0, mean.argmax(axis=0), mean.argmin(axis=0))
    switch = np.where(shape == "transient", t[peak], _half_way(mean, t))
    return pd.DataFrame(
        {
            "shape": pd.Categorical(shape, categories=list(SHAPES)),
            "change": change,
            "total_variation": np.abs(np.diff(mean, axis=0)).sum(axis=0),
            "excursion": excursion,
            "switch": np.where(flat, np.nan, switch),
        }
    )


def _half_way(mean: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Where each trend first is half way from its start to its end, between two steps linearly."""
    change = mean[-1] - mean[0]
    way = (mean - mean[0]) / np.where(change == 0, 1, change)  # 0 at the start, 1 at the end
    after = np.maximum((way >= 0.5).argmax(axis=0), 1)
    gene = np.arange(mean.shape[1])
    low, high = way[after - 1, gene], way[after, gene]
    part = (0.5 - low) / np.where(high == low, 1, high - low)
    return t[after - 1] + np.clip(part, 0, 1) * (t[after] - t[after - 1])


def _evidence(trends: AnnData, table: pd.DataFrame, n_permutations: int, seed: int) -> Evidence:
    """Test of the measured cells, in the direction of the trends."""
    n_genes = trends.n_vars
    if n_permutations == 0:
        nothing = np.full((2, n_genes), np.nan)
        return Evidence(nothing, nothing, nothing[0])
    values, group, donor = measured(
        trends, "pass n_permutations=0 to describe the trends without a test"
    )
    middle = table["excursion"].to_numpy()
    # Half way between the ends is where the mean would be without an excursion.
    signs = np.sign(np.stack([table["change"].to_numpy(), middle]))
    return permutation_test(
        values, group, donor, signs=signs, n_permutations=n_permutations, seed=seed
    )


def measured(trends: AnnData, cure: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Measured values ``(n_genes, n_cells)`` of the null, and the group and donor of each cell.

    Raises a ValueError, ending in the cure, where they are missing or too few.
    """
    null = trends.uns[_keys.UNS].get("null", {})
    values = trends.varm.get(_keys.NULL)
    if values is None or "group" not in null or values.shape[1] != len(null["group"]):
        raise ValueError(
            f"the null needs the measured cells at the ends, but trends.varm[{_keys.NULL!r}] has none "
            f"(a minified AnnData keeps no measured values); {cure}."
        )
    group, donor = np.asarray(null["group"]), np.asarray(null["donor"])
    plan = design(group, donor)
    if not plan.strata or plan.n_assignments < np.log(MIN_ASSIGNMENTS):
        sizes = [int((group == g).sum()) for g in (SOURCE, TARGET)]
        n_donors = len(plan.strata)
        raise ValueError(
            f"the null of shuffled endpoints needs at least {MIN_ASSIGNMENTS} ways to assign cells to "
            f"the groups, but {sizes[0]} sources and {sizes[1]} targets in {n_donors} donor(s) with "
            f"both allow {np.exp(plan.n_assignments) if n_donors else 0:.0f}; pair more cells (at "
            f"least 7 and 7), or {cure}."
        )
    return values, group, donor


def false_discovery_rate(p_value: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's, of the genes that have a p-value."""
    from statsmodels.stats.multitest import multipletests

    out = np.full(len(p_value), np.nan)
    tested = np.isfinite(p_value)
    if tested.any():
        out[tested] = multipletests(p_value[tested], method="fdr_bh")[1]
    return out


def _agreement(mean: np.ndarray, donors: list[np.ndarray], table: pd.DataFrame) -> np.ndarray:
    """Share of the donors that change as all do, between the same two positions."""
    if not donors:
        return np.full(mean.shape[1], np.nan)
    gene = np.arange(mean.shape[1])
    transient = (table["shape"] == "transient").to_numpy()
    peak = np.where(table["excursion"] > 0, mean.argmax(axis=0), mean.argmin(axis=0))
    place = np.where(transient, peak, len(mean) - 1)

    def change(m: np.ndarray) -> np.ndarray:
        start = np.where(transient, (m[0] + m[-1]) / 2, m[0])
        return np.sign(m[place, gene] - start)

    share = np.mean([change(m) == change(mean) for m in donors], axis=0)
    return np.where(table["shape"] == "flat", np.nan, share)
