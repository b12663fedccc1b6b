"""Test which gene sets change along a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shown, warn
from .._progress import without_widgets
from .._validate import tables
from .._validate.arguments import check_choice, check_integer
from ..stats.moderated import moderated_test
from ..stats.multiple import false_discovery_rate
from ..stats.permutation import permuted_z
from ._gene_sets import as_network, known_sets
from ._genes import curves, is_log_scale
from ._samples import SOURCE, TARGET
from ._units import DONORS, MeasuredSamples, cells_of_trends, samples_of, unit_of

if TYPE_CHECKING:
    from anndata import AnnData

METHODS = ("ulm", "mlm", "zscore")


def enrich(
    trends: AnnData,
    net: pd.DataFrame | Mapping[str, Sequence[str]] | str | Path,
    *,
    method: Literal["ulm", "mlm", "zscore"] = "ulm",
    gene_symbols: str | None = None,
    min_size: int = tables.MIN_SET_GENES,
    min_cells: int = 5,
    n_permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test which gene sets change along a path, with the scores of decoupler.

    Parameters
    ----------
    trends
        From :func:`gene_trends`.
    net
        Gene sets: ``{set: genes}``, a GMT file, or a table in the format of decoupler (as from ``dc.op``), with
        the columns ``source`` (the set), ``target`` (the gene) and optionally ``weight`` (signed).
    method
        Method of decoupler: ``"ulm"``, ``"mlm"`` or ``"zscore"``.
    gene_symbols
        Column of ``trends.var`` with the names that genes have in ``net``. Default: ``var_names``.
    min_size
        Sets with fewer genes in the trends are left out.
    min_cells
        As for :func:`rank_genes`.
    n_permutations
        Number of permutations of cells, if cells are the units.
    seed
        Seed of the permutations.

    Returns
    -------
    DataFrame with one row per set, most significant first:

    - ``score``: score of decoupler, calculated from the ``z`` of each gene in :func:`rank_genes`; positive if
      the set is higher at the end of the path
    - ``z``: the score as a standard normal quantile under the null hypothesis
    - ``p_value``, ``fdr``: two-sided, between donors; or ``p_cells``, ``fdr_cells``: between cells, with
      too few donors or without any. The units are those of :func:`rank_genes`; false discovery rate by Benjamini and Hochberg
    - ``switch``: median switch position of the genes of the set that change in the direction of the score;
      NaN if there are none
    - ``n_genes``: number of genes of the set in the trends

    ``attrs`` has ``unit``, ``unit_text`` and ``note``, as for :func:`rank_genes`, and ``left_out``, the
    number of sets that were left out.

    Raises
    ------
    ImportError
        If decoupler is not installed.
    KeyError
        If ``gene_symbols`` is not found.
    ValueError
        If no set has enough genes, or all have every gene of the trends; if there are too many sets, or too
        similar ones, for the method; if there are too few cells for the null distribution; or if an
        argument is out of range.

    Warns
    -----
    UserWarning
        If sets are left out: those with fewer than ``min_size`` genes in the trends, and those with all
        of them, which cannot be compared with other genes.

    Notes
    -----
    Genes of a set are correlated. A test that treats genes as independent observations, as decoupler's own
    p-values do, therefore finds sets where nothing differs.

    Between donors, decoupler scores each sample (one group of one donor), from its log2 counts per million,
    standardized for each gene. These scores are compared as :func:`rank_genes` compares genes: within
    donors if they have both groups.

    Between cells, the score is recalculated after cells are shuffled between the groups, which
    preserves the correlations between genes. Such p-values are at least ``1 / (1 + n_permutations)``.

    References
    ----------
    Badia-i-Mompel et al., "decoupleR: ensemble of computational methods to infer biological activities
    from omics data", Bioinformatics Advances 2 (2022).

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40, n_classes=2, layout="across")
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=10, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(adata, "stage", "early", "late", label="class_0")
    >>> trends = scivae.tl.gene_trends(model, pairs)
    >>> sets = {kind: genes.index for kind, genes in adata.var.groupby("kind", observed=True)}
    >>> scivae.tl.enrich(trends, sets).columns.tolist()
    ['score', 'z', 'p_cells', 'fdr_cells', 'switch', 'n_genes']
    """
    try:
        with without_widgets():
            import decoupler
    except ImportError as error:
        raise ImportError(
            "scivae.tl.enrich needs decoupler, which is not installed; pip install decoupler."
        ) from error

    tables.check_trends("trends", trends)
    check_choice("method", method, METHODS)
    min_size = check_integer("min_size", min_size, minimum=1)
    min_cells = check_integer("min_cells", min_cells, minimum=1)
    n_permutations = check_integer("n_permutations", n_permutations, minimum=100)
    seed = check_integer("seed", seed, minimum=0)
    known, sizes = known_sets(net, trends, min_size, gene_symbols)
    whole = sizes.index[sizes == trends.n_vars].tolist()
    if whole:
        if len(whole) == (sizes >= min_size).sum():
            raise ValueError(
                f"a set of net must leave some genes out to be compared with, but {whole[0]!r} has "
                f"all {trends.n_vars} genes of the trends; calculate the trends of more genes."
            )
        warn(
            f"net has sets with all {trends.n_vars} genes of the trends ({shown(whole, 3)}), which "
            "cannot be compared with other genes; they are left out. Remove them from net."
        )
        known, sizes = known[~known["source"].isin(whole)], sizes.drop(whole)
    said = trends.uns[_keys.UNS]
    samples = samples_of(trends, counts=is_log_scale(said["scale"]), min_cells=min_cells)
    unit = unit_of(samples, said.get("donor_candidate"), "moderated", min_cells)
    between_donors = unit.name == DONORS
    if between_donors:
        ends = samples.test("moderated")
        z = np.concatenate([np.nan_to_num(ends.z)[None], _standardized(samples)])
    else:
        cells = cells_of_trends(trends, "compare samples of more cells")
        z = permuted_z(*cells.pair(SOURCE, TARGET), n_permutations=n_permutations, seed=seed)
    # Rows are observations for decoupler, so one call scores all of them.
    genes = pd.DataFrame(z, columns=trends.var_names)
    try:
        scores = getattr(decoupler.mt, method)(genes, known, tmin=min_size, empty=False)
    except AssertionError as error:
        raise ValueError(
            f"method={method!r} of decoupler cannot score these {len(sizes)} "
            f"sets on {trends.n_vars} genes: {' '.join(str(error).split())}; use method='ulm', "
            "which scores each set separately."
        ) from error
    scores = scores[0] if isinstance(scores, tuple) else scores
    score, others = scores.to_numpy(dtype=float)[0], scores.to_numpy(dtype=float)[1:]
    z, p_value = (_between_donors if between_donors else _between_cells)(score, others, samples)
    p, fdr = _keys.significance_columns(between_donors)
    table = pd.DataFrame(
        {
            "score": score,
            "z": z,
            p: p_value,
            fdr: false_discovery_rate(p_value),
            "switch": _switches(trends, known, pd.Series(score, index=scores.columns)),
            "n_genes": sizes.loc[scores.columns],
        },
        index=pd.Index(scores.columns, name="source"),
    )
    table = table.iloc[np.lexsort([-np.abs(table["z"]), np.nan_to_num(p_value, nan=2.0)])]
    table.attrs = {
        "unit": unit.name,
        "unit_text": unit.text,
        "note": unit.note,
        "method": method,
        "min_size": min_size,
        "left_out": as_network(net)["source"].nunique() - len(table),
    }
    return table


def _standardized(samples: MeasuredSamples) -> np.ndarray:
    """Samples of the comparison, standardized for each gene."""
    plan = samples.design()
    y = samples.on_log_scale(plan)
    sd = moderated_test(y, plan.matrix, sampling=samples.sampling(plan)).sd
    standardized = np.nan_to_num((y - y.mean(axis=0)) / sd)
    return np.where(samples.testable(plan), standardized, 0.0)


def _between_donors(
    score: np.ndarray, scores: np.ndarray, samples: MeasuredSamples
) -> tuple[np.ndarray, np.ndarray]:
    """Normal quantile and p-value of the scores of samples."""
    from scipy.stats import norm

    found = moderated_test(scores, samples.design().matrix, trend=False)
    z = np.sign(found.t) * norm.isf(np.maximum(found.p_value, 1e-300) / 2)
    return z, found.p_value


def _between_cells(
    score: np.ndarray, null: np.ndarray, samples: MeasuredSamples
) -> tuple[np.ndarray, np.ndarray]:
    """Standardized distance from the mean of the null distribution, and two-sided p-value."""
    center, spread = null.mean(axis=0), null.std(axis=0)
    beyond = np.abs(null - center) >= np.abs(score - center) * (1 - 1e-6)
    z = (score - center) / np.where(spread > 0, spread, np.nan)
    return z, (1 + beyond.sum(axis=0)) / (1 + len(null))


def _switches(trends: AnnData, net: pd.DataFrame, score: pd.Series) -> pd.Series:
    """Median switch position of the genes of each set that change as the set does."""
    shapes = curves(trends)
    if "resolved" in shapes:
        shapes = shapes[shapes["resolved"].to_numpy(dtype=bool)]
    members = net[net["source"].isin(score.index)].join(shapes, on="target", how="inner")
    weight = members.get("weight", 1.0)
    along = np.sign(members["change"] * weight) == np.sign(score.loc[members["source"]].to_numpy())
    moved = members[along & (members["shape"] != "flat")]
    return moved.groupby("source")["switch"].median().reindex(score.index)
