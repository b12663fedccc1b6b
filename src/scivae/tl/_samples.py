"""The measured cells and donors of a comparison of two groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import warn
from .._validate import tables
from .._validate.arguments import check_type
from ._donors import donor_candidate
from ._pairs import warn_of_others

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

SOURCE, BETWEEN, TARGET = 0, 1, 2
GROUPS = ("source", "between", "target")  # by code
NONE = -1
# Maximum number of cells of a group that are kept for the permutation of cells.
_NULL_CELLS = 5000
_ROWS = 4096  # cells per block


class Cells(NamedTuple):
    """Measured cells of a comparison; arrays have shape ``(n_obs,)`` unless stated otherwise.

    Attributes
    ----------
    group
        0: source, 1: between, 2: target, -1: none of these, or no donor although donors are known.
    donor
        Codes of the donors, -1 for none. If donors are not known, 0 for all cells.
    donors
        Names of the donors by code; empty if donors are not known.
    of_pair
        Code of the donor of each pair, -1 if its ends have different donors. Shape ``(n_pairs,)``.
    between
        Levels of the column of groups that lie between source and target.
    label
        Which cells have the label of the pairs; all cells if the pairs have no label.
    named
        Whether the pairs name their groups; otherwise only the cells at their ends are known.
    candidate
        Column that looks like donors, if none was given.
    """

    group: np.ndarray
    donor: np.ndarray
    donors: list[str]
    of_pair: np.ndarray
    between: list[Any]
    label: np.ndarray
    named: bool
    candidate: str | None


class Samples(NamedTuple):
    """Measured values of a comparison, as they are stored in trends.

    Attributes
    ----------
    varm
        Measured values of single cells, and sums of each donor and group.
    uns
        Descriptions of the columns of these.
    """

    varm: dict[str, Any]
    uns: dict[str, Any]


def cells_of(
    adata: AnnData,
    pairs: pd.DataFrame,
    *,
    donor_key: str | None,
    between: Sequence[Any] | str | None,
    first: np.ndarray,
    second: np.ndarray,
) -> Cells:
    """Groups and donors of the cells.

    All cells of the groups are used if ``pairs.attrs`` names the groups and every pair joins them;
    otherwise only the cells at the ends of the pairs.

    Parameters
    ----------
    adata
        The cells.
    pairs
        From :func:`scivae.tl.pair_cells`.
    donor_key
        Column of ``obs`` with the donors; ``None``: the column ``donor`` of ``pairs``, if there is one.
    between
        As for :func:`scivae.tl.gene_trends`.
    first, second
        Positions of the ends of each pair.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If donors and groups coincide, no cell has a donor, or ``between`` is wrong.

    Warns
    -----
    UserWarning
        If no donors are given, and a column looks like donors; or if cells have no donor.
    """
    attrs = pairs.attrs
    label = _label(adata, attrs)
    group, named = _groups(adata, attrs, label, first, second)
    if named:
        warn_of_others(attrs, int(np.isin(group, (SOURCE, TARGET)).sum()))
    levels, middle = _between(adata, attrs, between)
    group[middle & label & (group == NONE)] = BETWEEN
    donor, of_pair, names = _donors(adata, pairs, donor_key, first, second)
    candidate = None
    if names:
        nameless = _without_donor(adata, pairs, donor_key)
        unknown = int((nameless & np.isin(group, (SOURCE, TARGET))).sum())
        if unknown:
            warn(
                f"{unknown} cells of the groups are left out, because their donor is missing; fill in "
                "the column of donors, or pass donor_key=None to pair_cells to use all cells."
            )
        group[donor == NONE] = NONE
        _check_donors(donor, names, group, donor_key, attrs)
    else:
        candidate = donor_candidate(adata, group == SOURCE, group == TARGET, attrs)
    return Cells(group, donor, names, of_pair, levels, label, named, candidate)


def _without_donor(adata: AnnData, pairs: pd.DataFrame, donor_key: str | None) -> np.ndarray:
    """Which cells have no donor in the column of donors."""
    key = donor_key if donor_key is not None else pairs.attrs.get("donor_key")
    if key is None or key not in adata.obs:
        return np.zeros(adata.n_obs, dtype=bool)
    return adata.obs[key].isna().to_numpy()


def collect(
    model: CIVAE, adata: AnnData, cells: Cells, columns: np.ndarray, rng: np.random.Generator
) -> Samples:
    """Measured values of the cells of a comparison, in one pass over them.

    Parameters
    ----------
    model
        The model, which defines the layer and whether it holds counts.
    adata
        The cells.
    cells
        From :func:`cells_of`.
    columns
        Positions of the requested genes.
    rng
        Generator that chooses the single cells to keep if a group has more than 5,000.
    """
    from scipy import sparse

    from .._scvi import get_minify_type
    from .._storage import rows_of
    from ..data.checks import resolve_layer, values_of
    from ..data.generated import log_normalize
    from ..module import COUNT_LIKELIHOODS
    from ..stats.pseudobulk import SampleSums

    used = np.flatnonzero(cells.group != NONE)
    kept = np.zeros(adata.n_obs, dtype=bool)
    for code in (SOURCE, BETWEEN, TARGET):
        own = np.flatnonzero(cells.group == code)
        kept[rng.choice(own, _NULL_CELLS, replace=False) if len(own) > _NULL_CELLS else own] = True
    keys = np.unique(np.stack([cells.donor[used], cells.group[used]]), axis=1)  # (2, n_samples)
    code_of = {(d, g): i for i, (d, g) in enumerate(keys.T.tolist())}
    sample = np.array(
        [code_of[d, g] for d, g in zip(cells.donor[used], cells.group[used], strict=True)], dtype=int
    )  # fmt: skip
    n_cells = np.bincount(sample, minlength=keys.shape[1])
    counts = model.likelihood in COUNT_LIKELIHOODS
    minified = get_minify_type(adata) is not None  # minified data have no measured values
    if minified:
        used, kept, keys, n_cells = used[:0], kept & False, keys[:, :0], n_cells[:0]
    n = keys.shape[1]
    sums = SampleSums.of(np.zeros((0, len(columns))), np.zeros(0, int), n, np.zeros(0))
    totals, singles = np.zeros(n), []
    if not minified:
        source = values_of(adata, resolve_layer(adata, model.setup.layer))
        for start in range(0, len(used), _ROWS):
            rows = used[start : start + _ROWS]
            block = sparse.csr_matrix(rows_of(source, rows), dtype=np.float32)
            own = sample[start : start + _ROWS]
            size = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
            totals += np.bincount(own, size, n)
            wanted = block[:, columns]
            sums.add(wanted, own, size if counts else np.ones(len(rows)))
            singles.append((log_normalize(block) if counts else block)[kept[rows]][:, columns])
    values, variance = sums.values, sums.variance
    if not counts:
        values = values / np.maximum(n_cells, 1)[:, None]
        variance = variance / np.maximum(n_cells, 1)[:, None] ** 2

    single = np.flatnonzero(kept)
    null = sparse.vstack(singles).T if singles else np.zeros((len(columns), 0), dtype=np.float32)
    names = np.array([*cells.donors, ""], dtype=object) if cells.donors else np.array([""], object)
    return Samples(
        varm={
            _keys.NULL: sparse.csr_matrix(null),
            _keys.SAMPLES: np.ascontiguousarray(values.T),
            _keys.SAMPLES_VARIANCE: np.ascontiguousarray(variance.T, dtype=np.float32),
        },
        uns={
            "null": pd.DataFrame(
                {
                    "group": cells.group[single].astype(np.int8),
                    "donor": cells.donor[single].astype(np.int32),
                }
            ),
            "samples": pd.DataFrame(
                {
                    "donor": names[keys[0]].astype(str),
                    "group": np.array(GROUPS)[keys[1]],
                    "n_cells": n_cells,
                    "total": totals,
                },
                index=pd.RangeIndex(keys.shape[1]).astype(str),
            ),
            "donor_candidate": cells.candidate,
        },
    )


def _label(adata: AnnData, attrs: Mapping[Any, Any]) -> np.ndarray:
    """Which cells have the label of the pairs."""
    key, label = attrs.get("labels_key"), attrs.get("label")
    if label is None or key not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    return (adata.obs[key] == label).to_numpy(dtype=bool, na_value=False)


def _groups(
    adata: AnnData,
    attrs: Mapping[Any, Any],
    label: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> tuple[np.ndarray, bool]:
    """Codes of source and target cells, and whether the pairs name their groups."""
    group = np.full(adata.n_obs, NONE, dtype=np.int8)
    key = attrs.get("groupby")
    if key in adata.obs and attrs.get("source") is not None and attrs.get("target") is not None:
        source, target = (
            (adata.obs[key] == attrs[end]).to_numpy(dtype=bool, na_value=False) & label
            for end in ("source", "target")
        )
        if source[first].all() and target[second].all():
            group[source], group[target] = SOURCE, TARGET
            return group, True
    group[np.setdiff1d(first, second)] = SOURCE
    group[np.setdiff1d(second, first)] = TARGET
    return group, False


def _donors(
    adata: AnnData,
    pairs: pd.DataFrame,
    donor_key: str | None,
    first: np.ndarray,
    second: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Donors of cells and of pairs, and their names, from a column of ``obs`` or else of the pairs."""
    if donor_key is not None:
        column = tables.column(adata, "donor_key", donor_key)
        codes, names = _codes(column, f"adata.obs[{donor_key!r}]")
        if not names:
            raise ValueError(
                f"donor_key must name a column with donors, but adata.obs[{donor_key!r}] is "
                "missing for every cell; fill it in, or pass donor_key=None."
            )
        of_pair = np.where(codes[first] == codes[second], codes[first], NONE)
        return codes, of_pair, names
    if "donor" not in pairs:
        return np.zeros(adata.n_obs, dtype=int), np.full(len(pairs), NONE), []
    of_pair, names = _codes(pairs["donor"], "pairs['donor']")
    if not names:
        raise ValueError(
            "pairs['donor'] must name donors, but is missing for every pair; drop this column, or "
            "pair the cells again with donor_key=."
        )
    donor = np.full(adata.n_obs, NONE)
    key = pairs.attrs.get("donor_key")
    if key in adata.obs:  # also for cells that are not in a pair
        donor = pd.Index(names, dtype=object).get_indexer(
            pd.Index(_text(adata.obs[key]), dtype=object)
        )
    donor[first], donor[second] = of_pair, of_pair
    return donor, of_pair, names


def _text(values: pd.Series) -> np.ndarray:
    """Values as text, missing ones as None."""
    out = values.astype(object).to_numpy(dtype=object, copy=True)
    missing = pd.isna(out)
    out[~missing] = [str(v) for v in out[~missing]]
    out[missing] = None
    return out


def _codes(values: pd.Series, where: str) -> tuple[np.ndarray, list[str]]:
    """Codes and names, sorted as text; -1 for missing ones."""
    distinct = values.dropna().unique()
    names = sorted(str(v) for v in distinct)
    for name, after in zip(names, names[1:], strict=False):
        if name == after:
            raise ValueError(
                f"{where} must have one type of name for each donor, but {name!r} occurs as text "
                "and as a number; convert the column with .astype(str)."
            )
    return pd.Index(names, dtype=object).get_indexer(pd.Index(_text(values), dtype=object)), names


def _check_donors(
    donor: np.ndarray,
    names: list[str],
    group: np.ndarray,
    donor_key: str | None,
    attrs: Mapping[Any, Any],
) -> None:
    """Raise unless there are donors, and they differ from the groups."""
    sides = [np.unique(donor[(group == code) & (donor != NONE)]) for code in (SOURCE, TARGET)]
    where = "pairs['donor']" if donor_key is None else f"adata.obs[{donor_key!r}]"
    for side, what in zip(sides, ("source", "target"), strict=True):
        if not len(side):
            raise ValueError(
                f"both groups must have cells with a donor, but {where} is missing for every cell "
                f"of {what}; fill it in, or pass donor_key=None."
            )
    ends = donor[np.isin(group, (SOURCE, TARGET)) & (donor != NONE)]
    if len(ends) > 2 and len(np.unique(ends)) == len(ends):
        raise ValueError(
            f"donors must have several cells, but each of the {len(ends)} cells of the groups has a "
            f"donor of its own in {where}; name the column of the donors, or pass donor_key=None."
        )
    if len(sides[0]) == len(sides[1]) == 1 and sides[0][0] != sides[1][0]:
        groups = attrs.get("groupby")
        raise ValueError(
            f"{where} must name donors, but its one value in source ({names[sides[0][0]]!r}) and "
            f"its one value in target ({names[sides[1][0]]!r}) cannot be distinguished from "
            f"{'the groups' if groups is None else repr(groups)}; name the column of the donors, "
            "or pass donor_key=None for p-values of these samples only."
        )


def _between(
    adata: AnnData, attrs: Mapping[Any, Any], between: Sequence[Any] | str | None
) -> tuple[list[Any], np.ndarray]:
    """Levels between source and target, and which cells have them."""
    nothing: tuple[list[Any], np.ndarray] = [], np.zeros(adata.n_obs, dtype=bool)
    if isinstance(between, str):
        between = [between]
    if between is not None:
        check_type("between", between, Iterable, "a list of groups")
        between = list(between)
        if not between:
            return nothing
    key = attrs.get("groupby")
    if between is None:
        if key not in adata.obs or not isinstance(adata.obs[key].dtype, pd.CategoricalDtype):
            return nothing
        column = adata.obs[key].cat
        ends = [list(column.categories).index(attrs[e]) if attrs.get(e) in column.categories else -1
                for e in ("source", "target")]  # fmt: skip
        if not column.ordered or min(ends) < 0:
            return nothing
        levels = list(column.categories[min(ends) + 1 : max(ends)])
        levels = [level for level in levels if (adata.obs[key] == level).any()]
    else:
        if key is None:
            raise ValueError(
                "between needs the column of the groups, but pairs.attrs has no 'groupby'; "
                "set pairs.attrs['groupby']."
            )
        groups = tables.column(adata, "pairs.attrs['groupby']", key)
        levels = between
        for level in levels:
            tables.group(groups, "between", level, key)
            if level in (attrs.get("source"), attrs.get("target")):
                raise ValueError(
                    f"between must name groups other than source and target, got {level!r}; leave it "
                    "out."
                )
    return levels, adata.obs[key].isin(levels).to_numpy(dtype=bool, na_value=False)
