"""Describe a result in words."""

from __future__ import annotations

from typing import Any

from .._display import Description
from .._display import describe as describe_known
from .._errors import got


def describe(data: Any) -> Description:
    """Describe a result of scivae and show the next steps.

    Jupyter and IPython show this description for results of scivae; elsewhere, print it.

    Parameters
    ----------
    data
        A result of :meth:`~scivae.model.CIVAE.interpolate`, :meth:`~scivae.model.CIVAE.augment`,
        :func:`gene_trends`, :func:`set_trends`, :func:`pair_cells`, :func:`rank_genes`, :func:`enrich` or
        :func:`predict_condition`.

    Returns
    -------
    A named tuple of ``title``, ``facts`` (names and values) and ``steps`` (code, and what it does).
    It prints as text and is displayed as HTML in Jupyter.

    Raises
    ------
    TypeError
        If ``data`` is something else.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> pairs = scivae.tl.pair_cells(
    ...     adata, "stage", "early", "late", use_rep="X_true", n_pairs=50
    ... )
    >>> scivae.tl.describe(pairs).title
    '50 pairs of cells (DataFrame)'
    """
    found = describe_known(data)
    if found is None:
        raise TypeError(
            "data must be what interpolate, augment, gene_trends, set_trends, pair_cells, rank_genes, "
            f"enrich or predict_condition returned, got {got(data)}; pass one of these."
        )
    return found
