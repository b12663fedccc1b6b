"""How evenly a path goes from its source to its target."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arrays import as_paths


class Smoothness(NamedTuple):
    """Made by :func:`interpolation_smoothness`: means over paths, none of which has units.

    Attributes
    ----------
    length_ratio
        Length of the path over the straight distance of its ends: at least 1, and 1 for a straight
        line.
    roughness
        Mean length of the second differences over that of the steps, times the number of steps:
        at least 0, and 0 for a straight line walked evenly. For a smooth curve ``x(t)`` it tends to
        ``∫‖x″‖dt / ∫‖x′‖dt`` over t in [0, 1], whatever the number of steps (π for a half circle);
        for a path that is mostly noise it grows with the number of steps.
    largest_step
        Longest step over mean step: at least 1, and 1 for an even walk. A path that jumps all at
        once has the number of steps.

    Examples
    --------
    >>> from scivae.metrics import interpolation_smoothness
    >>> interpolation_smoothness([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]).length_ratio
    1.0
    """

    length_ratio: float
    roughness: float
    largest_step: float


def interpolation_smoothness(paths: npt.ArrayLike) -> Smoothness:
    """Length, roughness and largest step of paths, free of scale.

    None of the three changes when the points are moved, rotated, multiplied by a number, or when a
    path is walked backwards. Compare decoded paths by expected values: samples are rough by nature.

    Parameters
    ----------
    paths
        Points at even values of t, ``(n_steps, p)`` for one path or ``(n_paths, n_steps, p)``.

    Returns
    -------
    :class:`Smoothness`, each number a mean over paths.

    Raises
    ------
    ValueError
        If a path has fewer than three points, holds NaN or infinity, or ends where it began.

    References
    ----------
    The length ratio is the "tortuosity" of curves. Roughness is the discrete total second variation
    of regularized curve fitting, normalized here by length and number of steps.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import interpolation_smoothness
    >>> interpolation_smoothness([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    Smoothness(length_ratio=1.0, roughness=0.0, largest_step=1.0)
    >>> angle = np.linspace(0, np.pi, 1001)
    >>> half_circle = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> np.round(interpolation_smoothness(half_circle), 2).tolist()
    [1.57, 3.14, 1.0]
    """
    points = as_paths("paths", paths)  # (n_paths, n_steps, p)
    steps = np.diff(points, axis=1)  # (n_paths, n_steps - 1, p)
    step = np.linalg.norm(steps, axis=2)
    length = step.sum(axis=1)
    chord = np.linalg.norm(points[:, -1] - points[:, 0], axis=1)
    if (chord == 0).any():
        raise ValueError(
            f"a path must end elsewhere than it began: {int((chord == 0).sum())} of {len(chord)} "
            f"do not, the first is number {int(np.argmax(chord == 0))}; drop pairs of equal cells."
        )
    turn = np.linalg.norm(np.diff(steps, axis=1), axis=2)  # (n_paths, n_steps - 2)
    return Smoothness(
        length_ratio=float((length / chord).mean()),
        roughness=float((step.shape[1] * turn.mean(axis=1) / step.mean(axis=1)).mean()),
        largest_step=float((step.max(axis=1) / step.mean(axis=1)).mean()),
    )
