"""Pairs of cells between which paths are traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shown, warn
from .._names import as_text
from .._progress import track
from .._validate import tables
from .._validate.arguments import check_choice, check_integer

if TYPE_CHECKING:
    from anndata import AnnData

METHODS = ("ot", "random", "all", "nearest")
# A table with more pairs than this is too large to use.
MAX_PAIRS = 2_000_000
# Fraction of pairs that join two labels above which a warning is given.
_JOINED = 0.05
_EMD_ITERATIONS = 10_000_000  # POT's default is too low for a few thousand points


def pair_cells(
    adata: AnnData,
    groupby: str,
    source: Any,
    target: Any,
    *,
    label: Any = None,
    labels_key: str = _keys.LABELS_KEY,
    use_rep: str = _keys.LATENT,
    method: Literal["ot", "random", "all", "nearest"] = "ot",
    n_pairs: int | None = None,
    donor_key: str | None = None,
    max_cells: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Pair the cells of one group with those of another.

    Parameters
    ----------
    adata
        AnnData with the groups and a representation of the cells.
    groupby
        Column of ``obs`` with the groups.
    source, target
        Groups of the first and of the second cell of each pair.
    label
        Only cells of this label; ``None`` for all.
    labels_key
        Column of ``obs`` with the labels.
    use_rep
        Slot of ``obsm`` in which distances are calculated.
    method
        ``"ot"``: by optimal transport, which matches the groups at the smallest mean squared
        distance. ``"random"``: at random, no pair twice. ``"all"``: all pairs.
        ``"nearest"``: each source with its nearest target; this uses few targets, those most
        similar to the sources.
    n_pairs
        Maximum number of pairs. ``None``: every pair for ``"all"`` and ``"nearest"``; otherwise the
        number of cells in the larger group, at most ``max_cells``. The result can have fewer: a
        transport plan between groups of n and m cells has at most n + m − 1 pairs.
    donor_key
        Column of ``obs`` with the donors. Pairs then stay within a donor. Cells of donors that
        lack either group are left out, with a warning.
    max_cells
        Maximum number of cells per group in one transport plan. Larger groups are split at random
        into parts of this size, and parts are matched until there are ``n_pairs`` pairs. Memory of a
        plan grows with the square of this number, time with nearly its cube.
    seed
        Seed of all random choices.

    Returns
    -------
    DataFrame with one row per pair: ``source`` and ``target`` (obs names), ``cost`` (Euclidean distance
    in ``use_rep``), ``label`` (of the source; missing without the column) and, with a
    ``donor_key``, ``donor``. ``attrs`` has the parameters.

    Raises
    ------
    KeyError
        If a column or the representation does not exist.
    ValueError
        If source equals target, a group is empty or lacks the label, no donor has both groups, or
        an argument is out of its range.

    Warns
    -----
    UserWarning
        If cells are left out because their donor lacks one of the groups.

    References
    ----------
    Peyré and Cuturi, "Computational optimal transport", Foundations and Trends in Machine Learning
    11 (2019); solved by Flamary et al., "POT: Python Optimal Transport", Journal of Machine Learning
    Research 22 (2021). Plans of parts: Fatras et al., "Learning with minibatch Wasserstein",
    AISTATS 2020.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> pairs = scivae.tl.pair_cells(
    ...     adata, "stage", "early", "late", use_rep="X_true", n_pairs=50
    ... )
    >>> pairs.shape
    (50, 4)
    """
    tables.check_adata("adata", adata)
    tables.check_names(adata)
    check_choice("method", method, METHODS)
    if n_pairs is not None:
        n_pairs = check_integer("n_pairs", n_pairs, minimum=1)
    max_cells = check_integer("max_cells", max_cells, minimum=2)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    sources, targets = _groups(adata, groupby, source, target, label, labels_key)
    donors = _donors(adata, donor_key, sources, targets, source, target)
    points = tables.representation(adata, use_rep)

    sizes = [(len(a), len(b)) for _, a, b in donors]
    shares = _allocate(n_pairs, sizes)
    parts = []
    for (donor, a, b), share in zip(donors, shares, strict=True):
        if share == 0:
            continue
        first, second = _pair(points, a, b, method, share, max_cells, rng)
        parts.append((first, second, np.full(len(first), donor, dtype=object)))
    first, second, donor_of = (np.concatenate(column) for column in zip(*parts, strict=True))
    labels = (
        adata.obs[labels_key].to_numpy()[first]
        if labels_key in adata.obs
        else np.full(len(first), np.nan, dtype=object)
    )
    if label is None and labels_key in adata.obs:
        _warn_of_labels(adata.obs[labels_key], labels_key, sources, targets, first, second)
    names = as_text(adata.obs_names)  # numbers would be read as positions
    pairs = pd.DataFrame(
        {
            "source": names[first],
            "target": names[second],
            "cost": np.linalg.norm(points[first].astype(float) - points[second], axis=1),
            "label": labels,
        }
    )
    if donor_key is not None:
        pairs["donor"] = donor_of
    pairs.attrs = {
        "groupby": groupby,
        "source": source,
        "target": target,
        "method": method,
        "label": label,
        "labels_key": labels_key,
        "use_rep": use_rep,
        "donor_key": donor_key,
        "seed": int(seed),
        "n_of_groups": int((sources | targets).sum()),
    }
    return pairs


def warn_of_others(attrs: Mapping[Any, Any], n_of_groups: int) -> None:
    """Warn if the groups have more cells than those among which pairs were chosen."""
    among = attrs.get("n_of_groups")
    if among is not None and n_of_groups > among:
        warn(
            f"all {n_of_groups:,} cells of the groups are used, but pairs were chosen among {among:,}; to leave "
            "the others out here, too, pass adata= with the cells that pair_cells was given."
        )


def _groups(
    adata: AnnData, groupby: str, source: Any, target: Any, label: Any, labels_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which cells are sources and targets, each of shape ``(n_obs,)``."""
    groups = tables.column(adata, "groupby", groupby)
    masks = [
        tables.group(groups, name, level, groupby)
        for name, level in (("source", source), ("target", target))
    ]
    if source == target:
        raise ValueError(
            f"source and target must be two groups of adata.obs[{groupby!r}], got {source!r} "
            f"twice; available groups: {shown(groups.dropna().unique(), 20)}."
        )
    if label is not None:
        labels = tables.column(adata, "labels_key", labels_key)
        of_label = tables.group(labels, "label", label, labels_key)
        for name, level, mask in zip(("source", "target"), (source, target), masks, strict=True):
            if not (mask & of_label).any():
                raise ValueError(
                    f"label must be present in both groups, but no cell of {name}={level!r} has "
                    f"adata.obs[{labels_key!r}] == {label!r}; the labels of that group are: "
                    f"{shown(labels[mask].dropna().unique(), 20) or 'none'}."
                )
        masks = [mask & of_label for mask in masks]
    return masks[0], masks[1]


def _warn_of_labels(
    column: pd.Series,
    key: str,
    sources: np.ndarray,
    targets: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> None:
    """Warn if pairs join two labels, although labels occur in both groups."""
    codes, levels = pd.factorize(column)
    known = codes >= 0
    both = np.intersect1d(codes[sources & known], codes[targets & known])
    joined = (codes[first] != codes[second]) & known[first] & known[second]
    avoidable = joined & (np.isin(codes[first], both) | np.isin(codes[second], both))
    if len(levels) > 1 and len(both) and avoidable.mean() >= _JOINED:
        warn(
            f"{joined.mean():.0%} of the pairs join cells of two labels (adata.obs[{key!r}]), so their changes "
            f"mix both; pass label= with one of those in both groups: {shown(sorted(levels[both], key=str))}."
        )


def _donors(
    adata: AnnData,
    donor_key: str | None,
    sources: np.ndarray,
    targets: np.ndarray,
    source: Any,
    target: Any,
) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """Donors with both groups, and the positions of their sources and targets."""
    if donor_key is None:
        return [(None, np.flatnonzero(sources), np.flatnonzero(targets))]
    column = tables.column(adata, "donor_key", donor_key)
    codes, names = pd.factorize(column, sort=True)  # a missing donor has the code -1
    out = []
    # One look at all cells, whatever the number of donors.
    by_donor = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[by_donor], np.arange(len(names) + 1))
    for code, name in enumerate(names):
        own = by_donor[bounds[code] : bounds[code + 1]]
        a, b = (own[mask[own]] for mask in (sources, targets))
        if a.size and b.size:
            out.append((name, a, b))
    if not out:
        raise ValueError(
            f"with donor_key={donor_key!r} at least one donor must have both groups, but "
            f"source={source!r} comes from "
            f"{shown(column[sources].dropna().unique()) or 'no donor'} and target={target!r} from "
            f"{shown(column[targets].dropna().unique()) or 'no donor'}; pass donor_key=None to "
            f"pair across donors, and donor_key={donor_key!r} to gene_trends and check_paths, which then test "
            "between donors."
        )
    ends = sources | targets
    missing = int((ends & (codes < 0)).sum())
    left_out = int(ends.sum() - missing - sum(len(a) + len(b) for _, a, b in out))
    reasons = []
    if missing:
        reasons.append(f"the donor of {missing} is missing")
    if left_out:
        paired = {name for name, _, _ in out}
        lacking = [n for n in column[ends].dropna().unique() if n not in paired]
        reasons.append(
            f"the donors of {left_out} ({shown(lacking)}) have no {source!r} or no {target!r} cells"
        )
    if reasons:
        warn(
            f"{missing + left_out} cells are not paired by adata.obs[{donor_key!r}]: "
            f"{'; '.join(reasons)}. Paired donors: {shown(name for name, _, _ in out)}."
        )
    return out


def _allocate(n_pairs: int | None, sizes: list[tuple[int, int]]) -> list[int | None]:
    """Number of pairs of each donor, in proportion to its cells, and at least one if possible."""
    if n_pairs is None:
        return [None] * len(sizes)
    cells = np.array([max(size) for size in sizes], dtype=float)
    floor = 1 if n_pairs >= len(sizes) else 0
    exact = floor + (n_pairs - floor * len(sizes)) * cells / cells.sum()
    out = np.floor(exact).astype(int)
    rest = n_pairs - out.sum()
    out[np.argsort(out - exact, kind="stable")[:rest]] += 1
    return out.tolist()


def _pair(
    points: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    method: str,
    n_pairs: int | None,
    max_cells: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the paired cells among those at positions ``a`` and ``b``."""
    wanted = n_pairs if n_pairs is not None else min(max(len(a), len(b)), max_cells)
    if method == "ot":
        return _transport(points, a, b, wanted, max_cells, rng)
    if method == "nearest":
        from sklearn.neighbors import NearestNeighbors

        if n_pairs is not None and n_pairs < len(a):
            a = np.sort(rng.choice(a, n_pairs, replace=False))
        found = NearestNeighbors(n_neighbors=1).fit(points[b]).kneighbors(points[a])[1]
        return a, b[found[:, 0]]
    n_all = len(a) * len(b)
    if method == "all" and n_pairs is None:
        wanted = n_all
    wanted = min(wanted, n_all)
    if wanted > MAX_PAIRS:
        raise ValueError(
            f"at most {MAX_PAIRS} pairs can be made, but {len(a)} sources and {len(b)} targets make "
            f"{n_all}; pass n_pairs= to draw some of them."
        )
    chosen = np.arange(n_all) if wanted == n_all else np.sort(rng.choice(n_all, wanted, False))
    return a[chosen // len(b)], b[chosen % len(b)]


def _transport(
    points: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    n_pairs: int,
    max_cells: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of transport plans between parts of two groups."""
    parts = []
    for side in (a, b):
        side = rng.permutation(side)
        parts.append(np.array_split(side, -(-len(side) // max_cells)))
    n_parts = max(len(side) for side in parts)
    per_part = max(max(len(part) for part in side) for side in parts)
    n_plans = min(n_parts, -(-n_pairs // per_part))
    found = []
    for i in track(range(n_plans), "transport plans", unit="plans"):
        first, second = (side[i % len(side)] for side in parts)
        rows, columns, mass = _plan(points[first], points[second])
        found.append((first[rows], second[columns], mass))
    left, right, weight = (np.concatenate(column) for column in zip(*found, strict=True))
    chosen = _systematic(weight, n_pairs, rng)
    return left[chosen], right[chosen]


def _plan(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and masses of the optimal plan between two clouds of equally weighted points."""
    import ot
    from scipy.spatial.distance import cdist

    cost = cdist(x, y, "sqeuclidean")  # (n, m)
    plan, log = ot.emd([], [], cost, numItermax=_EMD_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(
            f"the optimal transport between {len(x)} and {len(y)} cells was not found "
            f"({log['warning']}); pass a smaller max_cells."
        )
    rows, columns = np.nonzero(plan)
    return rows, columns, plan[rows, columns]


def _systematic(mass: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Sample up to n distinct entries with probability in proportion to their mass.

    Systematic sampling (equally spaced marks on the cumulative mass) stays closest to the plan.
    """
    if n >= len(mass):
        return np.arange(len(mass))
    total = np.cumsum(mass)
    marks = (rng.random() + np.arange(n)) / n * total[-1]
    return np.unique(np.minimum(np.searchsorted(total, marks, side="right"), len(mass) - 1))
