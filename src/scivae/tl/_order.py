"""The order in which genes change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import near_matches, shown
from .._validate import tables
from .._validate.arguments import check_number

if TYPE_CHECKING:
    from anndata import AnnData


class GeneOrder(NamedTuple):
    """A partial order of genes, from :func:`scivae.tl.gene_order`.

    Attributes
    ----------
    genes
        One row per gene, sorted by switch: ``change``, ``switch`` and its interval ``switch_low``,
        ``switch_high``, ``direction`` (``up`` or ``down``), and ``level``: the length of the longest
        chain of genes that change one after another before it. ``attrs["n_genes"]`` is the number of
        genes asked for, with those that are not resolved.
    before
        Whether the row's gene changes before the column's gene, shape ``(n_genes, n_genes)``.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from scivae.tl import GeneOrder
    >>> genes = pd.DataFrame({"switch": [0.2, 0.7]}, index=["A", "B"])
    >>> GeneOrder(genes, np.array([[False, True], [False, False]])).pairs
      first second
    0     A      B
    """

    genes: pd.DataFrame
    before: np.ndarray

    def __repr__(self) -> str:
        """Number of genes and of ordered pairs, and the first genes."""
        n = len(self.genes)
        text = (
            f"GeneOrder of {n} genes, {int(self.before.sum())} of {n * (n - 1) // 2} pairs ordered"
        )
        return f"{text}\n{self.genes.head(10).round(3)}"

    @property
    def pairs(self) -> pd.DataFrame:
        """Table of ordered genes, ``first`` before ``second``, without a third one in between.

        All ordered pairs are in ``before``.
        """
        direct = self.before & ~((self.before.astype(np.float32) @ self.before) > 0)
        first, second = np.nonzero(direct)
        names = self.genes.index.to_numpy()
        return pd.DataFrame({"first": names[first], "second": names[second]})

    @property
    def fraction_ordered(self) -> float:
        """Fraction of all pairs of genes that are ordered; NaN for fewer than two genes."""
        n = len(self.before)
        return float(self.before.sum() / (n * (n - 1) / 2)) if n > 1 else float("nan")


def gene_order(
    trends: AnnData, genes: Sequence[str] | pd.DataFrame | None = None, *, level: float = 0.9
) -> GeneOrder:
    """Find which genes change before which others, as far as measured cells show it.

    Parameters
    ----------
    trends
        From :func:`gene_trends`, of measured cells and with resamples.
    genes
        Genes to order: names, or rows of the table of :func:`rank_genes`, as
        ``ranked[ranked["fdr"] <= 0.05]``; ``None`` for all. *Unresolved* genes, whose interval is wider
        than 0.3, are left out. Whether a gene changes at all is not tested here.
    level
        Confidence level of the interval of the difference of two switches.

    Returns
    -------
    GeneOrder
        :func:`scivae.pl.gene_order` draws it.

    Raises
    ------
    KeyError
        If a gene does not exist.
    ValueError
        If ``trends`` have no resamples, or no gene is resolved.

    Notes
    -----
    Both switches of a pair come from the same resamples of donors or cells. A pair is ordered only if the
    interval of the difference excludes 0. With few donors the interval is widened, like the interval of a
    switch (:func:`scivae.stats.partial_order`). The level applies to each pair separately: of many pairs of
    genes that change at the same position, up to a tenth are ordered by chance. Rising and falling genes
    are compared on one scale.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=600, n_genes=40, n_classes=5)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=10, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(adata, "cell_type", "class_0", "class_4")
    >>> between = ["class_1", "class_2", "class_3"]
    >>> order = scivae.tl.gene_order(scivae.tl.gene_trends(model, pairs, between=between))
    >>> order.before.shape == (len(order.genes), len(order.genes))
    True
    """
    from ..stats import partial_order

    tables.check_trends("trends", trends)
    level = check_number("level", level, minimum=0, maximum=1)
    switches = trends.varm.get(_keys.SWITCHES)
    if switches is None or np.shape(switches)[1] == 0:
        raise ValueError(
            "an order needs the switches of resamples, but trends have none; call "
            "scivae.tl.gene_trends(model, pairs) with evidence='measured' and n_bootstraps=100."
        )
    rows = _rows(trends, genes)
    n_genes = len(rows)
    resolved = trends.var[_keys.RESOLVED].to_numpy(dtype=bool)[rows]
    if not resolved.any():
        raise ValueError(
            f"an order needs resolved genes, but no interval of {len(rows)} switches is narrower "
            "than 0.3; use more cells between source and target "
            f"({trends.uns[_keys.UNS].get('n_between', 0)} are in the middle half of the path)."
        )
    rows = rows[resolved]
    table = trends.var.iloc[rows]
    order = np.argsort(table[_keys.SWITCH].to_numpy(dtype=float), kind="stable")
    rows, table = rows[order], table.iloc[order]
    said = trends.uns[_keys.UNS]
    before = partial_order(
        np.asarray(switches)[rows],
        switch=table[_keys.SWITCH],
        level=level,
        n_donors=len(said["donors"]) if said.get("unit") == "donor" else None,
    )
    columns = [_keys.CHANGE, _keys.SWITCH, f"{_keys.SWITCH}_low", f"{_keys.SWITCH}_high"]
    found = table[columns].copy()
    found["direction"] = np.where(found[_keys.CHANGE] > 0, "up", "down")
    found["level"] = _levels(before)
    names = [key for key in table if key not in found and not tables.is_numeric(table[key])]
    found[names] = table[names]  # symbols, for figures
    found.attrs = {"n_genes": n_genes}
    return GeneOrder(found, before)


def _rows(trends: AnnData, genes: Any) -> np.ndarray:
    """Positions of the requested genes."""
    if genes is None:
        return np.arange(trends.n_vars)
    if isinstance(genes, str):
        genes = [genes]
    names = [str(g) for g in (genes.index if isinstance(genes, pd.DataFrame) else genes)]
    if not names:
        raise ValueError("genes must name at least one gene, got none; pass None for all genes.")
    rows = trends.var_names.get_indexer(pd.Index(names))
    if (rows < 0).any():
        gene = names[int(np.argmax(rows < 0))]
        raise KeyError(
            f"genes must be among the {trends.n_vars} genes of trends "
            f"({shown(trends.var_names, 3)}), got {gene!r}.{near_matches(gene, trends.var_names)}"
        )
    return rows


def _levels(before: np.ndarray) -> np.ndarray:
    """Length of the longest chain that ends at each gene; genes are in the order of their switch."""
    level = np.zeros(len(before), dtype=int)
    # A gene can only come after genes that themselves have fewer before them.
    for gene in np.argsort(before.sum(axis=0), kind="stable"):
        first = np.flatnonzero(before[:, gene])
        level[gene] = level[first].max() + 1 if len(first) else 0
    return level
