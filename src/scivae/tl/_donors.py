"""Find a column of ``obs`` that looks like donors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import warn
from .._names import donor_name_rank

if TYPE_CHECKING:
    from anndata import AnnData

# Bounds for a column that has the structure of donors, but not the name.
_FEWEST, _MOST, _CELLS_EACH = 3, 100, 5


def donor_candidate(
    adata: AnnData, source: np.ndarray, target: np.ndarray, attrs: Mapping[Any, Any]
) -> str | None:
    """Warn about a column that looks like donors, and return its name; ``None`` if there is none.

    Parameters
    ----------
    adata
        The cells.
    source, target
        Which cells are sources and targets, each of shape ``(n_obs,)``.
    attrs
        Parameters of the pairs.
    """
    name = donor_column(
        adata.obs,
        source | target,
        target,
        exclude=[attrs.get("groupby"), attrs.get("labels_key"), *_clusterings(adata)],
        labels=attrs.get("labels_key"),
    )
    if name is not None:
        values = adata.obs[name]
        first, second = (set(values[side].dropna().unique()) for side in (source, target))
        both = len(first & second)
        function = "pair_cells" if both else "gene_trends"
        warn(
            f"adata.obs[{name!r}] looks like donors ({len(first | second)} values, {both} with both "
            "groups), but donor_key is None, so p-values hold for these samples only; pass "
            f"donor_key={name!r} to {function} to use donors as replicates."
        )
    return name


def warn_of_batches(
    batch: pd.Series, key: str, source: np.ndarray, target: np.ndarray, donor: np.ndarray
) -> None:
    """Warn if no batch has cells of both groups, unless each batch has a single donor.

    Parameters
    ----------
    batch, key
        Batch of each cell, and the name of that column.
    source, target
        Which cells are sources and targets, each of shape ``(n_obs,)``.
    donor
        Code of the donor of each cell; negative for none.
    """
    ends = source | target
    first, second = (set(batch[side].dropna().unique()) for side in (source, target))
    of_one_donor = (
        len(np.unique(donor[ends & (donor >= 0)])) > 1
        and (
            pd.Series(donor[ends]).groupby(batch[ends].to_numpy(), observed=True).nunique() == 1
        ).all()
    )
    if first and second and not first & second and not of_one_donor:
        warn(
            f"the two groups have no batch in common (adata.obs[{key!r}], the batch_key of the model), "
            "so their differences may be differences of batches; set up the model with batches that "
            "hold cells of both groups."
        )


def _clusterings(adata: AnnData) -> list[str]:
    """Columns written by the clustering functions of scanpy, which store settings in ``uns`` under the same name."""
    return [str(name) for name in adata.uns if isinstance(adata.uns[name], Mapping)]


def donor_column(
    obs: pd.DataFrame,
    used: np.ndarray,
    target: np.ndarray,
    *,
    exclude: Iterable[Any] = (),
    labels: str | None = None,
) -> str | None:
    """Name of the column that looks most like donors, by its name, otherwise by its structure.

    Parameters
    ----------
    obs
        Annotation of all cells.
    used, target
        Which cells are compared, and which of these are targets.
    exclude
        Columns that are known to be something else.
    labels
        Column of cell types. A donor has cells of most types; a state or cluster does not.

    Notes
    -----
    By structure, donors are text or categories with at least three levels in one group, each with cells
    of most types. Weaker rules would give false warnings: subtypes are nested in the groups, too.
    """
    found: list[tuple[int, str]] = []
    excluded = {name for name in exclude if isinstance(name, str)}
    for name in obs.columns:
        if not isinstance(name, str) or name in excluded or name.startswith("_scvi"):
            continue
        values = obs[name]
        if values.dtype.kind in "fcbmM" and not isinstance(values.dtype, pd.CategoricalDtype):
            continue
        codes = pd.factorize(values.astype(object))[0]
        here = used & (codes >= 0)
        n_here = int(here.sum())
        sides = [np.unique(codes[here & side]) for side in (~target, target)]
        n_levels = len(np.union1d(*sides))
        if n_levels < 2 or min(map(len, sides)) < 1 or n_levels > n_here / 2:
            continue
        if max(map(len, sides)) == 1:  # one value per group: the groups themselves
            continue
        rank = donor_name_rank(name)
        if rank is None and _has_structure(obs, codes, here, sides, labels, name):
            rank = 2
        if rank is not None:
            found.append((rank, name))
    return min(found, key=lambda item: item[0])[1] if found else None


def _has_structure(
    obs: pd.DataFrame,
    codes: np.ndarray,
    here: np.ndarray,
    sides: list[np.ndarray],
    labels: str | None,
    name: str,
) -> bool:
    """Whether a column of an unknown name could hold donors: each has cells of most types."""
    if labels is None or labels not in obs or obs[name].dtype.kind in "iu":
        return False
    types = pd.factorize(obs[labels].astype(object))[0]
    levels = np.union1d(*sides)
    sizes = np.bincount(codes[here])
    if min(map(len, sides)) < _FEWEST or len(levels) > _MOST:
        return False
    if np.median(sizes[levels]) < _CELLS_EACH:
        return False
    n_types = len(np.unique(types[types >= 0]))
    if n_types < 2:
        return False
    known = (codes >= 0) & (types >= 0)
    table = np.zeros((codes.max() + 1, types.max() + 1), dtype=int)
    np.add.at(table, (codes[known], types[known]), 1)
    return bool(np.median((table[levels] > 0).mean(axis=1)) > 0.5)
