"""The rules of the studies, each a function that can find a study or a method at fault.

1. Three parts: what methods learn from, what judges learn from, and what is scored (:func:`three_parts`,
   :func:`check_parts`).
2. A row with permuted labels must lie at chance (:func:`void`).
3. What the discriminator adds is the paired difference to the same network without it
   (:func:`paired_differences`, :func:`corrected_interval`).
4. All methods follow the same rules, or the table says who does not (:func:`unequal_rules`).
5. A setting is chosen on inner splits of what methods learn from (:func:`nested_choice`), or on data
   that are not reported (:func:`check_choice`).
6. Donors are kept whole, and are the units (:func:`three_parts`, :func:`units`).
7. Distances compare equally many cells (:func:`distances`).
8. Copies of training cells are found (:func:`copies`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
from _data import donor_key_of, labels_of, load, log_normalize
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold

from scivae.metrics import copying_test, energy_distance, fit_judges, wasserstein_1

# Data on which settings are chosen, and data that are reported.
CHOOSING = ("pbmc_kang", "colon_crc", "digits", "synthetic")
REPORTING = ("intestine_haber", "colon_lee_epithelial", "emt", "mnist")
SHARES = (0.6, 0.2, 0.2)
# How far from chance a row with permuted labels may lie.
TOLERANCE = 0.03
# Cells of a class that each part needs.
MIN_CELLS = 3
# Generated cells nearer to a training cell than real cells are: beyond this share they are copies.
COPIES = 0.75


class Parts(NamedTuple):
    """Cells in three parts; no cell, and no donor, is in two.

    Attributes
    ----------
    learn
        What methods learn from. Genes are chosen on it.
    judge
        What judges learn from, or what calibrates.
    score
        What is scored, or what generated cells start from.
    units
        ``"donors"`` or ``"cells"``: what was split.
    """

    learn: Any
    judge: Any
    score: Any
    units: str


def three_parts(
    adata, key: str, seed: int, n_genes: int | None = None, *, donor_key: str | None = None
) -> Parts:
    """Split cells into three parts, whole donors where there are three or more.

    Classes that have fewer than three cells in a part are left out of all.

    Parameters
    ----------
    adata
        Cells with ``layers["counts"]`` and labels ``obs[key]``.
    key
        Column of the labels.
    seed
        Seed of the split.
    n_genes
        Variable genes to keep, chosen on the first part; ``None``: all.
    donor_key
        Column of the donors.
    """
    parts, kind = _cut(adata, key, seed, n_genes, donor_key, SHARES)
    return check_parts(Parts(*parts, kind), donor_key)


def two_parts(
    adata, key: str, seed: int, n_genes: int | None = None, *, donor_key: str | None = None
) -> tuple[Any, Any]:
    """The same in two parts, where there is no judge: what methods learn from, and what is scored."""
    (learn, score), kind = _cut(adata, key, seed, n_genes, donor_key, (0.8, 0.2))
    check_parts(Parts(learn, learn[:0], score, kind), donor_key)
    return learn, score


def _cut(adata, key, seed, n_genes, donor_key, shares: Sequence[float]) -> tuple[list[Any], str]:
    rng = np.random.default_rng(seed)
    y = labels_of(adata, key)
    donors = labels_of(adata, donor_key) if donor_key else np.array([])
    if len(np.unique(donors)) >= 3:
        part, kind = _whole_donors(donors, shares, rng), "donors"
    else:
        part, kind = np.full(adata.n_obs, -1), "cells"
        for label in np.unique(y):  # every class has its share in each part
            cells = rng.permutation(np.flatnonzero(y == label))
            ends = np.round(np.cumsum([0, *shares]) * len(cells)).astype(int)
            for i in range(len(shares)):
                part[cells[ends[i] : ends[i + 1]]] = i
    kept = [
        label
        for label in np.unique(y)
        if min(((y == label) & (part == i)).sum() for i in range(len(shares))) >= MIN_CELLS
    ]
    if len(kept) < 2:
        raise ValueError(
            f"two classes need {MIN_CELLS} cells in each part, but only {kept} have; "
            "take more cells, or another labels_key"
        )
    inside = np.isin(y, kept)
    genes = np.ones(adata.n_vars, dtype=bool)
    if n_genes is not None and n_genes < adata.n_vars:
        fitted = adata[inside & (part == 0)].copy()
        sc.pp.highly_variable_genes(fitted, n_top_genes=n_genes, flavor="cell_ranger")
        genes = fitted.var["highly_variable"].to_numpy()
    cut = []
    for i in range(len(shares)):
        cells = adata[inside & (part == i), genes].copy()
        cells.obs[key] = pd.Categorical(labels_of(cells, key), categories=kept)
        cut.append(cells)
    return cut, kind


def _whole_donors(donors: np.ndarray, shares: Sequence[float], rng) -> np.ndarray:
    """Part of each cell: donors in random order, each to the part that misses most cells."""
    names, sizes = np.unique(donors, return_counts=True)
    order = rng.permutation(len(names))
    missing = np.asarray(shares) * len(donors)
    part_of: dict[str, int] = {}
    for position, i in enumerate(order):
        empty = [p for p in range(len(shares)) if p not in part_of.values()]
        # The last donors go to parts that have none yet.
        choices = empty if len(order) - position <= len(empty) else range(len(shares))
        part = max(choices, key=lambda p: missing[p])
        part_of[names[i]] = part
        missing[part] -= sizes[i]
    return np.array([part_of[d] for d in donors])


def check_parts(parts: Parts, donor_key: str | None = None) -> Parts:
    """The parts; a ValueError if a cell, its values or its donor is in two of them."""
    names = ("learn", "judge", "score")
    for kind, of in (("cells", _names), ("values", _digests), ("donors", _donors(donor_key))):
        if kind == "donors" and parts.units != "donors":
            continue
        found = [of(part) for part in parts[:3]]
        for i in range(3):
            for j in range(i):
                both = found[i] & found[j]
                if both:
                    raise ValueError(
                        f"{len(both)} {kind} are both in {names[j]!r} and in {names[i]!r}, "
                        f"such as {sorted(both)[0]}; split anew"
                    )
    return parts


def _names(adata) -> set[str]:
    return set(map(str, adata.obs_names))


def _digests(adata) -> set[str]:
    counts = adata.layers["counts"].tocsr()
    return {
        hashlib.sha256(
            counts.indices[a:b].astype(np.int64).tobytes()
            + counts.data[a:b].astype(float).tobytes()
        ).hexdigest()
        for a, b in zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
        if b - a > 20  # nearly empty cells can be equal by chance
    }


def _donors(donor_key: str | None) -> Callable[[Any], set[str]]:
    return lambda adata: set(labels_of(adata, donor_key)) if donor_key else set()


def judged_parts(name: str, key: str, seed: int, args) -> dict[bool, SimpleNamespace]:
    """A data set in three parts, with judges fitted on the second; also with permuted labels.

    Parameters
    ----------
    name
        Of the data set.
    key
        Column of the labels.
    seed
        Seed of the split, the permutation and the judges.
    args
        Of the command line: ``quick`` and ``n_genes``.

    Returns
    -------
    ``{False: …, True: …}`` (labels permuted), each with ``parts``; log-normalized cells ``x``, ``second`` and
    ``real`` of the three parts, labels ``y_second`` and ``y`` of the last two; a ``pca`` of the first part; and
    ``judges`` fitted on the second.
    """
    adata = load(name, key, quick=args.quick)
    found = {}
    for shuffled in (False, True):
        cells = permuted(adata, key, seed) if shuffled else adata
        parts = three_parts(cells, key, seed, args.n_genes, donor_key=donor_key_of(name))
        x, second, real = (
            log_normalize(part.layers["counts"]) for part in (parts.learn, parts.judge, parts.score)
        )
        y_second = labels_of(parts.judge, key)
        found[shuffled] = SimpleNamespace(
            parts=parts,
            x=x,
            second=second,
            y_second=y_second,
            real=real,
            y=labels_of(parts.score, key),
            pca=PCA(min(20, *x.shape), random_state=seed).fit(x),
            judges=fit_judges(second, y_second, kinds=("logistic", "random_forest"), seed=seed),
        )
    return found


def permuted(adata, key: str, seed: int):
    """The same cells, with labels that say nothing."""
    adata = adata.copy()
    labels = labels_of(adata, key)
    adata.obs[key] = pd.Categorical(np.random.default_rng([seed, 1]).permutation(labels))
    return adata


def void(rows: pd.DataFrame, column: str, *, chance: str = "chance", permuted: str) -> str | None:
    """Why a column that judges classes is void; ``None`` where it is not.

    Parameters
    ----------
    rows
        Of one setting, all seeds.
    column
        Name of the column.
    chance
        Column with what a judge reaches that knows nothing.
    permuted
        Word in the names of the rows whose labels were permuted.
    """
    of = rows[rows["method"].str.contains(permuted, regex=False)]
    if not len(of):
        return f"{column}: no row with permuted labels"
    for name, group in of.groupby("method"):
        away = float((group[column] - group[chance]).mean())
        if abs(away) > TOLERANCE:
            return (
                f"{column}: {name} is {away:+.3f} from chance, more than {TOLERANCE}: the protocol "
                "rewards memory"
            )
    return None


class Interval(NamedTuple):
    """A mean difference, and an interval that holds the true one in 95 % of the cases."""

    mean: float
    low: float
    high: float


def corrected_interval(
    differences: Sequence[float], n_learn: int, n_score: int, *, level: float = 0.95
) -> Interval:
    """Interval of a mean over splits of the same cells (corrected resampled t).

    Splits share cells, so that differences are less independent than a plain t interval takes them
    for: the variance is multiplied by 1/J + n_score / n_learn in place of 1/J.

    Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003).
    """
    d = np.asarray(differences, dtype=float)
    if d.size < 2:
        return Interval(float(d.mean()), float("nan"), float("nan"))
    half = stats.t.ppf((1 + level) / 2, d.size - 1) * np.sqrt(
        (1 / d.size + n_score / n_learn) * d.var(ddof=1)
    )
    return Interval(float(d.mean()), float(d.mean() - half), float(d.mean() + half))


def paired_differences(
    rows: pd.DataFrame, by: Sequence[str], columns: Sequence[str], reference: str
) -> pd.DataFrame:
    """Each method minus the reference, paired by setting and seed, with corrected intervals.

    Parameters
    ----------
    rows
        With ``method``, ``seed``, ``cells learned from`` and ``cells scored``.
    by
        Columns of the settings.
    columns
        What is compared.
    reference
        Name of the row to compare with.
    """
    found = []
    for key, group in rows.groupby(list(by), sort=False) if by else [((), rows)]:
        values = np.atleast_1d(np.asarray(key, dtype=object))
        base = group[group["method"] == reference].set_index("seed")
        for name, own in group.groupby("method", sort=False):
            if name == reference:
                continue
            own = own.set_index("seed")
            seeds = own.index.intersection(base.index)
            for column in rows.columns.intersection(list(columns)):
                d = (own.loc[seeds, column] - base.loc[seeds, column]).dropna()
                if not len(d):
                    continue
                sizes = base.loc[d.index, ["cells learned from", "cells scored"]].mean()
                interval = corrected_interval(d, *sizes)
                found.append(
                    {
                        **dict(zip(by, values, strict=True)),
                        "method": name,
                        "column": column,
                        "seeds": len(d),
                        **interval._asdict(),
                    }
                )
    return pd.DataFrame(found)


def unequal_rules(rules: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rules that methods do not share: ``{rule: {method: value}}``.

    Parameters
    ----------
    rules
        ``{method: {rule: value}}``; a rule that has no meaning for a method is ``None`` there.
    """
    names = dict.fromkeys(rule for of in rules.values() for rule in of)
    unequal = {}
    for rule in names:
        values = {m: of[rule] for m, of in rules.items() if of.get(rule) is not None}
        if len(set(map(repr, values.values()))) > 1:
            unequal[rule] = values
    return unequal


def nested_choice(
    candidates: Mapping[str, Any],
    learn,
    key: str,
    seed: int,
    score: Callable[[Any, Any, Any], float],
    n_splits: int = 3,
) -> str:
    """Name of the best candidate, by inner splits of what methods learn from.

    Nothing else is given to it, so that no setting can be chosen on cells that are scored.

    Parameters
    ----------
    candidates
        Settings by name.
    learn
        The part that methods learn from.
    score
        ``score(candidate, inner_learn, inner_score)``; greater is better.
    """
    y = labels_of(learn, key)
    folds = list(StratifiedKFold(n_splits, shuffle=True, random_state=seed).split(y, y))
    means = {
        name: float(np.mean([score(c, learn[a].copy(), learn[b].copy()) for a, b in folds]))
        for name, c in candidates.items()
    }
    return max(means, key=means.__getitem__)


def check_choice(chosen_on: Sequence[str], reported: Sequence[str]) -> None:
    """Raise a ValueError if a default was chosen on data that are reported as unseen."""
    both = sorted(set(chosen_on) & set(reported) & set(REPORTING))
    if both:
        raise ValueError(
            f"a setting was chosen on {', '.join(both)}, which is reported; choose it on "
            f"{', '.join(CHOOSING)}"
        )


def units(adata, donor_key: str | None, groupby: str | None = None) -> str:
    """What stands beside a p-value: how many donors, or that there is one sample a group."""
    if donor_key is None or donor_key not in adata.obs:
        return "one sample per group"
    of = adata.obs.groupby(groupby, observed=True)[donor_key] if groupby else None
    n = int(adata.obs[donor_key].nunique() if of is None else of.nunique().min())
    return (
        f"{n} donors" + (" per group" if of is not None else "")
        if n > 1
        else "one sample per group"
    )


def distances(made: np.ndarray, real: np.ndarray, seed: int) -> dict[str, float]:
    """Energy distance and W1 of equally many cells of both, and of two halves of the real ones.

    Half as many cells as there are real ones are taken of each, since the floor has no more.
    """
    rng = np.random.default_rng(seed)
    n = min(len(real) // 2, len(made))
    first, second = np.split(rng.permutation(len(real))[: 2 * n], 2)
    some = made[rng.permutation(len(made))[:n]]
    return {
        "energy distance": energy_distance(some, real[first]),
        "energy distance, floor": energy_distance(real[second], real[first]),
        "W1": wasserstein_1(some, real[first]),
        "W1, floor": wasserstein_1(real[second], real[first]),
    }


def copies(made: np.ndarray, learn: np.ndarray, score: np.ndarray) -> str | None:
    """Why generated cells count as copies of what the method learned from; ``None`` if they do not."""
    found = copying_test(made, learn, score)
    if found.n_exact:
        return f"{found.n_exact} generated cells are training cells"
    if found.share_closer > COPIES:
        return f"{found.share_closer:.0%} of generated cells are nearer to a training cell than real ones"
    return None
