"""Which genes change along a path, and where, tested with donors as replicates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import warn
from .._validate import tables
from .._validate.arguments import check_choice, check_integer, check_number
from ..stats.donors import METHODS
from ..stats.multiple import false_discovery_rate, intersection_union, sign_test
from ..stats.permutation import permute_donors
from ._samples import BETWEEN, SOURCE, TARGET
from ._trends import MEAN
from ._units import (
    CELLS,
    DONORS,
    MeasuredSamples,
    Unit,
    cells_of_trends,
    has_between,
    samples_of,
    unit_of,
)

if TYPE_CHECKING:
    from anndata import AnnData

SHAPES = ("up", "down", "transient", "flat")
LEVEL = 0.05  # false discovery rate up to which a gene is transient
_MIN_LOG2_CHANGE = 0.1
# Columns of trends.var if the curve was fitted to measured cells.
_FROM_FIT = (
    "change",
    "change_low",
    "change_high",
    "switch",
    "switch_low",
    "switch_high",
    "resolved",
)


def rank_genes(
    trends: AnnData,
    *,
    test: Literal["moderated", "deseq2"] = "moderated",
    min_cells: int = 5,
    n_permutations: int = 1000,
    min_change: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Test which genes change along a path, and rank them.

    Donors are the units of the p-values if at least three donors have both groups, or each group has at
    least three donors. Otherwise cells are permuted, p-values hold for these samples only, and the columns are
    called ``p_cells`` and ``fdr_cells``.

    Parameters
    ----------
    trends
        From :func:`gene_trends`.
    test
        Test between donors. ``"moderated"``: t-test of log2 counts per million, with variances shrunk
        toward their trend over genes. ``"deseq2"``: negative binomial regression by PyDESeq2 (extra
        ``deseq2``), which finds too many genes if the variance between donors differs between genes.
    min_cells
        A group of a donor is used if it has at least this many cells.
    n_permutations
        Number of permutations of cells, if cells are the units; 0 omits that test.
    min_change
        A gene whose curve varies less than this along the path is ``flat``. ``None``: 0.1 for counts (in
        log2), 0 for other data (in their units).
    seed
        Seed of the permutations.

    Returns
    -------
    DataFrame with one row per gene, most significant first. Values are log2 of (counts per 10,000, plus one)
    for counts, otherwise in the units of the data:

    - ``shape``: ``up`` or ``down``, by ``change``; ``transient`` if measured cells between the groups
      show it (``fdr_transient`` of at most 5 %); ``flat``
    - ``change``, ``switch``: difference between the ends of the curve, and the position at which half
      of it is reached; with ``change_low``, ``change_high``, ``switch_low``, ``switch_high`` and
      ``resolved`` where the curve was fitted to measured cells (see :func:`gene_trends`)
    - ``total_variation``: sum of all rises and falls of the curve
    - ``excursion``: signed distance by which the curve exceeds both ends
    - ``observed``: measured difference of the groups, target minus source, mean over donors
    - ``z``: the difference that is tested, divided by its standard error, as a normal quantile. For counts, samples
      are then scaled by medians of ratios, as in DESeq2, not by their counts: if a few genes take up much of
      the counts, all others are lower per 10,000, and ``observed`` differs from what is tested
    - ``p_value``, ``fdr``: of that difference, between donors; or ``p_cells``, ``fdr_cells``: between
      cells, with too few donors or without any. False discovery rate by Benjamini and Hochberg
    - ``p_transient``, ``fdr_transient``: test that the groups in between differ from both ends in the same
      direction, with the same units; NaN without such groups
    - ``agreement``, ``agreement_p``: proportion of the donors with both groups whose tested difference has the
      direction of the majority, and its binomial p-value; NaN for fewer than two such donors

    ``attrs`` has ``unit`` (``"donors"`` or ``"cells"``), ``unit_text``, ``note``, ``permutation`` (number of
    genes at 5 % FDR, and the same in the median permutation of donors, if at least 20 assignments are
    possible), and the parameters. :func:`describe` prints them.

    Raises
    ------
    ImportError
        If ``test="deseq2"`` and PyDESeq2 is not installed.
    ValueError
        If there are too few cells, or an argument is out of its range.

    Notes
    -----
    *Between donors.* Counts are summed within each donor and group (pseudobulk samples) [1]_. If donors have
    both groups, the moderated test includes donor effects, and donors with one group are left out. The test
    is that of limma [2]_: a t-test whose variance is a compromise between the variance of the gene and that
    of genes of similar expression, and at least the sampling variance of its cells. Each cell of the groups
    counts once, whatever its number of paths. Genes are treated as independent: if many genes follow an
    unknown property of the samples, three pairs call genes in 13 % of simulated studies without a difference,
    six in 6 %.

    *Between cells.* Cells of one donor are not independent observations of a condition. With too few
    donors, a p-value can only show that the cells of these samples differ; it does not generalize to other
    donors. The null distribution comes from groups shuffled among cells, within donors if they have both
    groups. If fewer than ten permutations of a gene reach its statistic, the permutations of 100 genes of
    similar kurtosis are pooled; beyond those, the tail is a Pearson type III distribution [3]_.

    *Transient.* A gene is transient if cells between the groups are above both ends, or below both: both
    differences must be significant (intersection–union test). A bend of the curve without measured groups in
    between is not evidence.

    Groups that were found by clustering the same cells differ by construction, so their p-values are not
    valid.

    References
    ----------
    .. [1] J. W. Squair et al. Confronting false discoveries in single-cell differential expression.
       Nature Communications 12 (2021).
    .. [2] G. K. Smyth. Linear models and empirical Bayes methods for assessing differential expression in
       microarray experiments. Statistical Applications in Genetics and Molecular Biology 3 (2004).
    .. [3] A. M. Winkler et al. Faster permutation inference in brain imaging. NeuroImage 141 (2016).

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(
    ...     n_cells=400, n_genes=40, n_classes=2, layout="across", n_donors=4
    ... )
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=10, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(
    ...     adata, "stage", "early", "late", label="class_0", donor_key="donor"
    ... )
    >>> genes = scivae.tl.rank_genes(scivae.tl.gene_trends(model, pairs))
    >>> genes.attrs["unit_text"]
    '4 donors with both groups, paired moderated t-test'
    >>> "fdr" in genes, len(genes)
    (True, 40)
    """
    tables.check_trends("trends", trends)
    check_choice("test", test, METHODS)
    min_cells = check_integer("min_cells", min_cells, minimum=1)
    n_permutations = check_integer("n_permutations", n_permutations, minimum=0)
    if 0 < n_permutations < 100:
        raise ValueError(
            f"n_permutations must be at least 100, or 0 for no test, got {n_permutations}."
        )
    seed = check_integer("seed", seed, minimum=0)
    said = trends.uns[_keys.UNS]
    counts = is_log_scale(said["scale"])
    if min_change is not None:
        min_change = check_number("min_change", min_change, minimum=0)
    table = curves(trends, min_change)
    samples = samples_of(trends, counts=counts, min_cells=min_cells)
    unit = unit_of(samples, said.get("donor_candidate"), test, min_cells)
    if samples.named and unit.name == CELLS:
        cure = " Pass a smaller min_cells to use more donors." if samples.left_out else ""
        warn(f"cells are tested instead of donors: {unit.text}, so {unit.note}.{cure}")
    result = _tests(trends, samples, unit, test, n_permutations, seed)
    table["observed"] = samples.observed()
    table["z"] = result.z
    p, fdr = _keys.significance_columns(unit.name == DONORS)
    table[p], table[fdr] = result.p_value, false_discovery_rate(result.p_value)
    table["p_transient"] = result.p_transient
    table["fdr_transient"] = false_discovery_rate(result.p_transient)
    signs = _signs(samples)
    table["agreement"], table["agreement_p"] = signs.agreement, signs.p_value
    shown = (table["fdr_transient"] <= LEVEL).to_numpy() & (table["shape"] != "flat").to_numpy()
    table.loc[shown, "shape"] = "transient"
    surest = np.where(shown, np.fmin(result.p_value, result.p_transient), result.p_value)
    span = np.ptp(_curve(trends), axis=0)
    table = table.iloc[np.lexsort([-span, np.nan_to_num(surest, nan=2.0)])]
    table.attrs = {
        "scale": "log2 of counts per 10,000, plus one" if counts else said["scale"],
        "unit": unit.name,
        "unit_text": unit.text,
        "note": unit.note,
        "test": test if unit.name == DONORS else "permutation of cells",
        "permutation": _check(samples, unit, seed),
        "transient": "measured groups in between" if has_between(samples) else "not tested: no "
        "samples of groups in between; name them in gene_trends(between=...), or make the column of "
        "the groups an ordered categorical",
        "min_cells": min_cells,
        "n_permutations": n_permutations,
        "min_change": _min_change(trends) if min_change is None else min_change,
        "seed": seed,
        **{key: said[key] for key in ("source", "target", "label", "groupby") if key in said},
    }  # fmt: skip
    return table


def is_log_scale(scale: Any) -> bool:
    """Whether values of trends are logarithms of normalized counts."""
    return str(scale).startswith("log1p")


class _Result(NamedTuple):
    """Tests of each gene, shape ``(n_genes,)``."""

    z: np.ndarray
    p_value: np.ndarray
    p_transient: np.ndarray


def _tests(
    trends: AnnData,
    samples: MeasuredSamples,
    unit: Unit,
    method: str,
    n_permutations: int,
    seed: int,
) -> _Result:
    """Test the difference of the ends, and of the groups in between from both, with one kind of unit."""
    nothing = np.full(trends.n_vars, np.nan)
    run: Callable[..., Any]
    if unit.name == DONORS:
        enough, run = samples.enough, partial(samples.test, method)
    elif n_permutations == 0:
        return _Result(nothing, nothing, nothing)
    else:
        cells = cells_of_trends(
            trends, "pass n_permutations=0 to describe the curves without a test"
        )
        enough, run = cells.enough, partial(cells.test, n_permutations=n_permutations, seed=seed)
    ends, transient = run(SOURCE, TARGET), nothing
    if has_between(samples) and enough(SOURCE, BETWEEN) and enough(TARGET, BETWEEN):
        first, second = run(SOURCE, BETWEEN), run(TARGET, BETWEEN)
        transient = intersection_union(first.z, first.p_value, second.z, second.p_value)
    return _Result(ends.z, ends.p_value, transient)


def _signs(samples: MeasuredSamples) -> Any:
    """Agreement of the donors with both groups on the direction of change."""
    differences = samples.differences()
    if len(differences) < 2:
        differences = np.zeros((0, differences.shape[1]))
    return sign_test(differences)


def _check(samples: MeasuredSamples, unit: Unit, seed: int) -> dict[str, float] | None:
    """Number of significant genes, for the data and for permuted groups of the donors."""
    if unit.name == CELLS:
        return None
    plan = samples.design()
    genes, sampling = samples.testable(plan), samples.sampling(plan)
    if not genes.any():
        return None
    found = permute_donors(
        samples.on_log_scale(plan)[:, genes],
        plan,
        level=LEVEL,
        sampling=None if sampling is None else sampling[:, genes],
        seed=seed,
    )
    if found is None:
        return None
    return {
        "called": found.called,
        "called_permuted": float(np.median(found.permuted)),
        "n_permutations": len(found.permuted),
        "p_value": found.p_value,
    }


def _curve(trends: AnnData) -> np.ndarray:
    """The curve of each gene in log2, or in the units of the data; ``(n_steps, n_genes)``.

    From measured cells if available, otherwise decoded.
    """
    layer = next(
        name for name in (_keys.FIT_LAYER, _keys.DECODED_LAYER, MEAN) if name in trends.layers
    )
    unit = 1 / np.log(2) if is_log_scale(trends.uns[_keys.UNS]["scale"]) else 1.0
    return np.asarray(trends.layers[layer], dtype=float) * unit


def _min_change(trends: AnnData) -> float:
    """Default of ``min_change``."""
    return _MIN_LOG2_CHANGE if is_log_scale(trends.uns[_keys.UNS]["scale"]) else 0.0


def curves(trends: AnnData, min_change: float | None = None) -> pd.DataFrame:
    """Shape of each curve; change and switch come from the fit if there is one."""
    min_change = _min_change(trends) if min_change is None else min_change
    table = describe(_curve(trends), trends.obs[_keys.T].to_numpy(dtype=float), min_change)
    table.index = trends.var_names.copy()
    fitted = [name for name in _FROM_FIT if name in trends.var]
    for name in fitted:
        table[name] = trends.var[name].to_numpy()
    if "change" in fitted:
        up = table["change"] >= 0
        table["shape"] = table["shape"].where(table["shape"] == "flat", np.where(up, "up", "down"))
    first = ["shape", *fitted]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def describe(mean: np.ndarray, t: np.ndarray, min_change: float) -> pd.DataFrame:
    """Shape of each curve.

    Parameters
    ----------
    mean
        Shape ``(n_steps, n_genes)``.
    t
        Positions, shape ``(n_steps,)``.
    min_change
        Range below which a curve is flat.
    """
    first, last = mean[0], mean[-1]
    change = last - first
    above = mean.max(axis=0) - np.maximum(first, last)
    below = np.minimum(first, last) - mean.min(axis=0)
    span = np.ptp(mean, axis=0)
    flat = (span < min_change) | (span <= 1e-6 * np.abs(mean).max(axis=0))
    shape = np.where(flat, "flat", np.where(change >= 0, "up", "down"))
    return pd.DataFrame(
        {
            "shape": pd.Categorical(shape, categories=list(SHAPES)),
            "change": change,
            "total_variation": np.abs(np.diff(mean, axis=0)).sum(axis=0),
            "excursion": np.where(above >= below, above, -below),
            "switch": np.where(flat, np.nan, _half_way(mean, t)),
        }
    )


def _half_way(mean: np.ndarray, t: np.ndarray) -> np.ndarray:
    """First position at which each curve has reached half of its change, linear between steps."""
    change = mean[-1] - mean[0]
    way = (mean - mean[0]) / np.where(change == 0, 1, change)  # 0 at the start, 1 at the end
    after = np.maximum((way >= 0.5).argmax(axis=0), 1)
    gene = np.arange(mean.shape[1])
    low, high = way[after - 1, gene], way[after, gene]
    part = (0.5 - low) / np.where(high == low, 1, high - low)
    return t[after - 1] + np.clip(part, 0, 1) * (t[after] - t[after - 1])
