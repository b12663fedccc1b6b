"""Split conformal prediction: prediction sets and p-values calibrated on held-out cells.

All functions take *nonconformity* scores: higher scores mean that a cell is less typical of a
class. The only assumption is that calibration cells and new cells are exchangeable; the model need
not be correct.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_integer
from .._validate.arrays import (
    Labels,
    Points,
    as_labels,
    as_points,
    as_vector,
    check_known,
    check_rows,
)


class SetCoverage(NamedTuple):
    """Result of :func:`set_coverage`.

    Attributes
    ----------
    coverage
        Fraction of cells whose set contains their label.
    mean_size
        Mean number of classes in a set.
    empty
        Fraction of cells whose set is empty.
    single
        Fraction of cells whose set contains exactly one class.
    per_class
        ``{label: coverage}``.

    Examples
    --------
    >>> from scivae.metrics import set_coverage
    >>> set_coverage([[True, False], [True, True]], ["b", "b"], classes=["a", "b"]).per_class
    {'b': 0.5}
    """

    coverage: float
    mean_size: float
    empty: float
    single: float
    per_class: dict[str, float]


def conformal_thresholds(
    scores: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    classes: npt.ArrayLike,
    level: float = 0.9,
    min_cells: int = 20,
    seed: int | None = None,
) -> Points:
    """Largest score at which each class belongs to a prediction set.

    Split conformal prediction. Each class with at least ``min_cells`` calibration cells gets its
    own threshold, so that coverage holds within the class (Mondrian conformal prediction). All
    other classes share one threshold.

    With n calibration cells the threshold is the k-th smallest of their scores, and covers a new cell
    with probability k / (n + 1), exactly if no two scores are equal. ``level`` times (n + 1) is rarely
    an integer.

    Parameters
    ----------
    scores
        Score of each calibration cell for its *own* label, ``(n,)``.
    y
        Their labels, ``(n,)``.
    classes
        All classes, ``(n_classes,)``.
    level
        Target probability that a set contains the true label, in (0, 1).
    min_cells
        Fewest calibration cells for a class to get its own threshold.
    seed
        ``None`` rounds k up: the coverage is at least ``level``, and up to 1 / (n + 1) above it. An
        integer rounds k up or down at random, with the probability that makes the coverage exactly
        ``level``. The draw is made once per threshold, not once per cell, so sets at a lower level
        are subsets of those at a higher level.

    Returns
    -------
    Thresholds, ``(n_classes,)``; infinite if there are too few calibration cells for the level.

    Raises
    ------
    ValueError
        If lengths do not match, a label is not among ``classes``, or an argument is out of range.

    References
    ----------
    Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), sections 2.2, 2.4 and
    4.5; Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error
    levels", Journal of the American Statistical Association 114 (2019).

    Examples
    --------
    >>> from scivae.metrics import conformal_thresholds
    >>> scores, y = [0.1, 0.2, 0.3, 0.4], ["a", "a", "b", "b"]
    >>> conformal_thresholds(scores, y, classes=["a", "b"], level=0.6).tolist()
    [0.3, 0.3]
    """
    values = as_vector("scores", scores)
    labels, names = as_labels("y", y), _as_classes(classes)
    check_rows("y", labels, "scores", values)
    check_known("y", labels, "classes", names)
    check_integer("min_cells", min_cells, minimum=1)
    if isinstance(level, bool) or not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level!r}; pass, for example, 0.9.")
    if seed is not None:
        check_integer("seed", seed, minimum=0)
    # One draw per class, and one for the classes that share a threshold; the same for every level.
    draws = (
        np.full(names.size + 1, None)
        if seed is None
        else np.random.default_rng(seed).random(names.size + 1)
    )
    own = {name: values[labels == name] for name in names}
    shared = [x for x in own.values() if x.size < min_cells]
    pooled = _threshold(np.concatenate(shared) if shared else values[:0], level, draws[-1])
    return np.array(
        [
            _threshold(x, level, draw) if x.size >= min_cells else pooled
            for x, draw in zip(own.values(), draws[:-1], strict=True)
        ]
    )


def _threshold(scores: Points, level: float, draw: float | None) -> float:
    """The k-th smallest score; infinite if k exceeds the number of scores, −infinite if k is 0."""
    target = level * (scores.size + 1)
    # Remove rounding errors of the product: 0.9 · 10 must be exactly 9.
    target = float(np.round(target, 9))
    k = int(np.ceil(target)) if draw is None else int(np.floor(target + draw))
    if k > scores.size:
        return float("inf")
    return float(np.partition(scores, k - 1)[k - 1]) if k > 0 else float("-inf")


def conformal_p_values(scores: npt.ArrayLike, calibration: npt.ArrayLike) -> Points:
    """Conformal p-values: proportion of calibration cells with at least as large a score.

    Parameters
    ----------
    scores
        Scores of new cells, ``(n,)``.
    calibration
        Scores of calibration cells, ``(m,)``.

    Returns
    -------
    p-values ``(1 + #{calibration ≥ score}) / (m + 1)``, shape ``(n,)``. If a cell is exchangeable with
    the calibration cells, its p-value is at most u with probability at most u.

    Raises
    ------
    ValueError
        If a score is NaN or infinite.

    References
    ----------
    Bates et al., "Testing for outliers with conformal p-values", Annals of Statistics 51 (2023).

    Examples
    --------
    >>> from scivae.metrics import conformal_p_values
    >>> conformal_p_values([0.0, 2.5, 9.0], calibration=[1.0, 2.0, 3.0]).tolist()
    [1.0, 0.5, 0.25]
    """
    values = as_vector("scores", scores)
    held_out = np.sort(as_vector("calibration", calibration))
    as_great = held_out.size - np.searchsorted(held_out, values, side="left")
    return (1 + as_great) / (held_out.size + 1)


def set_coverage(sets: npt.ArrayLike, y: npt.ArrayLike, *, classes: npt.ArrayLike) -> SetCoverage:
    """Coverage and size of prediction sets.

    Parameters
    ----------
    sets
        Whether each class belongs to the set of each cell, ``(n, n_classes)``.
    y
        True labels, ``(n,)``.
    classes
        Label of each column, ``(n_classes,)``.

    Returns
    -------
    :class:`SetCoverage`.

    Raises
    ------
    ValueError
        If shapes do not match or a label has no column.

    Examples
    --------
    >>> from scivae.metrics import set_coverage
    >>> sets = [[True, False], [True, True], [False, False]]
    >>> set_coverage(sets, ["a", "b", "b"], classes=["a", "b"]).mean_size
    1.0
    """
    members = as_points("sets", np.asarray(sets, dtype=np.float64)) > 0
    truth, names = as_labels("y", y), _as_classes(classes)
    check_rows("y", truth, "sets", members)
    if names.size != members.shape[1]:
        raise ValueError(
            f"classes must have one label for each column of sets, got {names.size} labels for "
            f"{members.shape[1]} columns; pass the columns of the DataFrame."
        )
    check_known("y", truth, "classes", names)
    order = np.argsort(names)
    column = order[np.searchsorted(names, truth, sorter=order)]
    hit = members[np.arange(truth.size), column]
    sizes = members.sum(axis=1)
    return SetCoverage(
        coverage=float(hit.mean()),
        mean_size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        single=float((sizes == 1).mean()),
        per_class={str(name): float(hit[truth == name].mean()) for name in np.unique(truth)},
    )


def _as_classes(classes: npt.ArrayLike) -> Labels:
    names = as_labels("classes", classes)
    if np.unique(names).size != names.size:
        raise ValueError(
            f"classes must be unique, got {names.size} labels of which {np.unique(names).size} "
            "differ; pass each class once."
        )
    return names
