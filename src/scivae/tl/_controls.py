"""The three controls of a path: permuted groups, groups in between, donors left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._errors import shown
from ._placing import Axis

# Fewest cells of a group that are scored.
MIN_SCORED = 10
# A group lies between the ends if the median position of its cells does; the rule of docs/colon.md.
_BETWEEN = (0.1, 0.9)
_SPLITS = 10
# Maximum number of pairs of donors (one of each group) that are left out in turn.
_MAX_FOLDS = 25


class Check(NamedTuple):
    """Result of one control.

    Attributes
    ----------
    value, reference
        The measured value, and the value that it is compared with.
    passed
        Whether the control was passed; ``None`` if it cannot be run.
    n_cells
        Number of cells that were scored.
    verdict
        The result in a sentence.
    """

    value: float
    reference: float
    passed: bool | None
    n_cells: int
    verdict: str


class Ends(NamedTuple):
    """Source and target cells: latent means, groups, donors, and which of them can be scored."""

    z: np.ndarray
    target: np.ndarray
    donor: np.ndarray
    scored: np.ndarray
    names: tuple[str, ...]

    def too_few(self, rows: np.ndarray) -> str | None:
        """The verdict if there are too few cells to score."""
        n = [int((rows & (self.target == side)).sum()) for side in (False, True)]
        if min(n) >= MIN_SCORED:
            return None
        seen = "" if self.scored.all() else " that the model was not trained on"
        return (
            f"Not tested: {n[0]} cells of {self.names[0]} and {n[1]} of {self.names[1]}{seen}, but "
            f"each needs {MIN_SCORED}."
        )


def permuted(ends: Ends, within: bool, n_permutations: int, rng: np.random.Generator) -> Check:
    """Score unseen cells on the axis of the other cells, and compare with permuted groups."""
    if verdict := ends.too_few(ends.scored):
        return Check(np.nan, np.nan, None, int(ends.scored.sum()), verdict)
    strata = ends.donor if within else np.zeros(len(ends.donor), dtype=int)

    def score(target: np.ndarray) -> float:
        learned, held = _split(ends.scored, target, rng)
        return _auc(_position(ends.z, target, learned)[held], target[held])

    value = float(np.mean([score(ends.target) for _ in range(_SPLITS)]))
    null = [score(_shuffled(ends.target, strata, rng)) for _ in range(n_permutations)]
    reference = float(np.quantile(null, 0.95))
    passed = value > reference
    said = (
        f"the axis tells unseen cells of {ends.names[0]} and {ends.names[1]} apart"
        if passed
        else f"unseen cells of {ends.names[0]} and {ends.names[1]} are told apart no better than permuted "
        "groups are. There is no path to describe"
    )
    return _check(
        value, reference, passed, ends.scored, said, f"AUC {value:.2f}, permuted {reference:.2f}"
    )


def middle(
    ends: Ends,
    middle: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    levels: list[Any],
    rng: np.random.Generator,
) -> Check:
    """Test whether the cells expected in between are nearer to the paths than to an end."""
    from ..metrics import energy_distance

    n = len(middle)
    if not levels or n < 2 * MIN_SCORED:
        why = (
            f"{n} cells lie in {shown(levels)}, but {2 * MIN_SCORED} are needed"
            if levels
            else "no groups between source and target are given; pass between=, or make "
            "the column of the groups an ordered categorical"
        )
        return Check(np.nan, np.nan, None, n, f"Not tested: {why}.")
    every = np.ones(len(ends.z), dtype=bool)
    z = np.concatenate([ends.z, middle])
    t = _position(z, ends.target, every)[len(ends.z) :]
    size = min(n // 2, len(start), *np.bincount(ends.target.astype(int), minlength=2))
    places, distances = [], []
    for _ in range(_SPLITS):
        order = rng.permutation(n)
        place = float(np.median(t[order[: n // 2]]))
        own = middle[order[n // 2 :][:size]]
        rows = rng.permutation(len(start))[:size]
        inside = np.clip(place, 0, 1)
        clouds = [(1 - inside) * start[rows] + inside * end[rows]]
        for side in (False, True):
            clouds.append(ends.z[rng.choice(np.flatnonzero(ends.target == side), size, False)])
        places.append(place)
        distances.append([energy_distance(own, cloud) for cloud in clouds])
    place, (value, to_source, to_target) = float(np.mean(places)), np.mean(distances, axis=0)
    nearer = int(to_target < to_source)
    reference = float((to_source, to_target)[nearer])
    inside = _BETWEEN[0] <= place <= _BETWEEN[1]
    passed = bool(inside and value < reference)
    what = shown(levels)
    if passed:
        said = f"{what} lies at {place:.2f} of the path, closer to it than to {ends.names[nearer]}"
        said += ", as a type apart from both ends would be" if value > 0.7 * reference else ""
    elif inside:
        said = (
            f"{what} is closer to {ends.names[nearer]} than to the path, so it does not lie between"
        )
    else:
        said = f"{what} lies at {place:.2f} of the path, at an end, so it does not lie between"
    figures = f"energy distance {value:.2f}, to {ends.names[nearer]} {reference:.2f}"
    return _check(float(value), reference, passed, np.ones(n, dtype=bool), said, figures)


def left_out(ends: Ends, names: list[str], rng: np.random.Generator) -> Check:
    """Score the cells of each donor on the axis of the other donors."""
    if not names:
        return Check(np.nan, np.nan, None, 0, "Not tested: no donors are given; pass donor_key.")
    scores, n_scored = {}, 0
    for name, out in _folds(ends, names, rng):
        held, learned = out & ends.scored, ~out
        if ends.too_few(held) or len(np.unique(ends.target[learned])) < 2:
            continue
        auc = _auc(_position(ends.z, ends.target, learned)[held], ends.target[held])
        n, m = (int((held & (ends.target == side)).sum()) for side in (False, True))
        # If groups do not differ, the AUC is approximately normal with this variance (Mann and Whitney).
        reference = 0.5 + 1.645 * np.sqrt((n + m + 1) / (12 * n * m))
        scores[name] = (auc, reference)
        n_scored += n + m
    if len(scores) < 2:
        return Check(
            np.nan, np.nan, None, n_scored,
            f"Not tested: {len(scores)} of {len(names)} donors can be left out, but two are needed, each "
            f"with {MIN_SCORED} cells of either group to score.",
        )  # fmt: skip
    lowest = min(scores, key=lambda name: scores[name][0] - scores[name][1])
    value, reference = scores[lowest]
    held = sum(auc > bound for auc, bound in scores.values())
    passed = held == len(scores)
    unit = "donors" if all(name in names for name in scores) else "pairs of donors"
    said = f"the axis of the other donors separates the groups in {held} of {len(scores)} {unit}"
    figures = f"lowest AUC {value:.2f}, {lowest}"
    return Check(value, reference, passed, n_scored, _sentence(passed, said, figures))


def _folds(
    ends: Ends, names: list[str], rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Donors to leave out, and their cells: one with both groups, or else one of each group."""
    sides = [np.unique(ends.donor[ends.target == side]) for side in (False, True)]
    both = np.intersect1d(sides[0], sides[1])
    if len(both) >= 2:
        for code in both:
            yield names[code], ends.donor == code
        return
    all_pairs = [(a, b) for a in sides[0] for b in sides[1] if a != b]
    for i in rng.permutation(len(all_pairs))[:_MAX_FOLDS]:
        a, b = all_pairs[i]
        yield f"{names[a]} and {names[b]}", np.isin(ends.donor, [a, b])


def _position(z: np.ndarray, target: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """Positions of points on an axis; 0 and 1 are the means of the groups that define it.

    Parameters
    ----------
    z
        Points, shape ``(n, n_latent)``; those after the first ``len(target)`` have no group.
    target, learned
        Which points belong to the target group, and which points define the axis.
    """
    known = z[: len(target)]
    sides = [known[learned & (target == side)] for side in (False, True)]
    n = max(map(len, sides))
    axis = Axis.through(np.stack([np.resize(side, (n, z.shape[1])) for side in sides], axis=1))
    start, end = (side.mean(axis=0) for side in sides)
    normal = axis.metric @ axis.metric.T @ (end - start)
    length = float((end - start) @ normal)
    return (z - start) @ normal / length if length > 0 else np.zeros(len(z))


def _auc(score: np.ndarray, target: np.ndarray) -> float:
    """The probability that a target cell has a higher score than a source cell."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(target, score))


def _split(
    scored: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split cells into those that define the axis and those that are scored; each with both groups."""
    if not scored.all():
        return ~scored, scored
    held = np.zeros(len(target), dtype=bool)
    for side in (False, True):
        own = np.flatnonzero(target == side)
        held[rng.permutation(own)[: len(own) // 2]] = True
    return ~held, held


def _shuffled(target: np.ndarray, strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Groups permuted within each stratum, or among all if no stratum has both."""
    out = target.copy()
    for code in np.unique(strata):
        own = np.flatnonzero(strata == code)
        out[own] = target[rng.permutation(own)]
    return out if (out != target).any() else rng.permutation(target)


def _check(
    value: float, reference: float, passed: bool, scored: np.ndarray, said: str, figures: str
) -> Check:
    return Check(value, reference, passed, int(scored.sum()), _sentence(passed, said, figures))


def _sentence(passed: bool, said: str, figures: str) -> str:
    return f"{'Passed' if passed else 'Failed'}: {said} ({figures})."
