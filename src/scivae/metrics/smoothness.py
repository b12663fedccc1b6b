"""Smoothness of paths: length, roughness and largest step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arrays import as_paths


class Smoothness(NamedTuple):
    """Result of :func:`interpolation_smoothness`: dimensionless means over paths.

    Attributes
    ----------
    length_ratio
        Length of the path divided by the distance between its ends: at least 1, and 1 for a
        straight line.
    roughness
        Mean length of the second differences divided by the mean length of the steps, times the
        number of steps: 0 for a straight line with equal steps. For a smooth curve ``x(t)`` it
        tends to ``∫‖x″‖dt / ∫‖x′‖dt`` over t in [0, 1], regardless of the number of steps (π for a
        half circle). For a noisy path it grows with the number of steps.
    largest_step
        Longest step divided by mean step: at least 1, and 1 for equal steps. A single jump gives
        the number of steps.

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
    """Scale-free length, roughness and largest step of paths.

    All three are invariant to translation, rotation, scaling, and reversal of the path. For decoded
    paths use expected values: sampling noise makes any path rough.

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
        If a path has fewer than three points, contains NaN or infinity, or ends where it began.

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
            f"the two ends of a path must differ, got {int((chord == 0).sum())} of {len(chord)} "
            f"paths with equal ends, the first is number {int(np.argmax(chord == 0))}; drop pairs "
            "of equal cells."
        )
    turn = np.linalg.norm(np.diff(steps, axis=1), axis=2)  # (n_paths, n_steps - 2)
    return Smoothness(
        length_ratio=float((length / chord).mean()),
        roughness=float((step.shape[1] * turn.mean(axis=1) / step.mean(axis=1)).mean()),
        largest_step=float((step.max(axis=1) / step.mean(axis=1)).mean()),
    )
