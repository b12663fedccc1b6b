"""Crossings of paths with class boundaries: the upper envelope of the logits along each segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._validate.latent import FloatArray, IntArray

# Logits (points × classes) that are in memory at once.
LOGITS_HELD = 2**22


def blocks_of(n: int, n_logits: int) -> list[slice]:
    """Slices of n points or paths with ``n_logits`` logits each, of which so many fit into memory."""
    size = max(1, LOGITS_HELD // n_logits)
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


class Crossings(NamedTuple):
    """Positions where paths change class: flat arrays (n_crossings,), sorted by (path, t).

    Attributes
    ----------
    path
        Index of the path.
    t
        Position along the path, in [0, 1].
    before
        The class just before `t`.
    after
        The class just after it.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import LinearClasses, segment_crossings
    >>> classes = LinearClasses(weights=np.array([[-1.0], [1.0]]), bias=np.zeros(2))
    >>> segment_crossings(classes, [-1.0], [3.0]).t
    array([0.25])
    """

    path: IntArray
    t: FloatArray
    before: IntArray
    after: IntArray


def in_blocks(of: Callable[[slice], Crossings], n: int, n_logits: int) -> Crossings:
    """Crossings of n paths with ``n_logits`` logits each, computed a block of paths at a time."""
    parts = [(rows.start, of(rows)) for rows in blocks_of(n, n_logits) or [slice(0, 0)]]
    path = np.concatenate([start + part.path for start, part in parts])
    _, *columns = (
        np.concatenate(column) for column in zip(*(part for _, part in parts), strict=True)
    )
    return Crossings(path, *columns)


def envelope(at_start: FloatArray, at_end: FloatArray) -> Crossings:
    """Follow the upper envelope of the lines from `at_start` to `at_end`, both (n, n_classes).

    Leads are compared at the ends, never at a rounded t. Each step moves to a class that has the
    larger logit at t = 1 (in a tie: the lower index), so the result ends at the argmax of `at_end`.
    """
    n, n_classes = at_start.shape
    order = np.arange(n_classes)
    slope = at_end - at_start
    active = np.arange(n)
    current = np.argmax(at_start, axis=1)
    now = np.zeros(n)
    found: list[tuple[IntArray, FloatArray, IntArray, IntArray]] = []
    for _ in range(n_classes - 1):
        active = active[current[active] != np.argmax(at_end[active], axis=1)]
        if active.size == 0:
            break
        mine = current[active][:, None]  # (m, 1)
        lead_start = np.take_along_axis(at_start[active], mine, 1) - at_start[active]
        lead_end = np.take_along_axis(at_end[active], mine, 1) - at_end[active]
        overtakes = (lead_end < 0) | ((lead_end == 0) & (order < mine))
        lead_start = np.maximum(lead_start, 0)  # negative only by rounding
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.where(lead_end == 0, 1.0, lead_start / (lead_start - lead_end))
        t = np.where(overtakes, np.maximum(t, now[active][:, None]), np.inf)
        first = t.min(axis=1)
        steepest = np.where(t == first[:, None], slope[active], -np.inf)
        following = np.argmax(steepest, axis=1)  # lowest index in a tie
        found.append((active, first, mine[:, 0], following))
        current[active], now[active] = following, first
    if not found:
        none = np.zeros(0, dtype=np.intp)
        return Crossings(none, np.zeros(0), none.copy(), none.copy())
    path, t, before, after = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(path, kind="stable")  # iterations are already in order of t
    path, t, before, after = path[order], t[order], before[order], after[order]
    # Merge several steps at the same t into one crossing, from the first class to the last.
    joined = (path[1:] == path[:-1]) & (t[1:] == t[:-1])
    return Crossings(
        path[np.r_[True, ~joined]],
        t[np.r_[True, ~joined]],
        before[np.r_[True, ~joined]],
        after[np.r_[~joined, True]],
    )
