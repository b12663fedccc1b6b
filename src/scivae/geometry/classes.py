"""Linear classes of a latent space, and the exact positions where straight paths cross boundaries.

A linear layer gives each class k the logit w_k · z + b_k, and a point belongs to the class with the
largest logit. On a straight segment every logit is linear in the position t, so the predicted class
follows the upper envelope of K lines. Margins and crossings therefore have closed forms, and no
grid is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._validate import latent as check
from .._validate.latent import FloatArray, IntArray
from ._crossings import Crossings, blocks_of, envelope, in_blocks


class LinearClasses(NamedTuple):
    """A linear classifier of latent points: the class of z is ``argmax(weights @ z + bias)``.

    Attributes
    ----------
    weights
        Shape (n_classes, n_latent).
    bias
        Shape (n_classes,).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import LinearClasses
    >>> classes = LinearClasses(weights=np.eye(2), bias=np.zeros(2))
    >>> classes.predict([[2.0, 1.0], [0.0, 3.0]])
    array([0, 1])
    >>> classes.margin([2.0, 1.0], 0).item()
    1.0
    """

    weights: FloatArray
    bias: FloatArray

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(np.shape(self.weights)[0])

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return int(np.shape(self.weights)[1])

    def logits(self, z: ArrayLike) -> FloatArray:
        """Logit of every class at every point, in float64.

        Parameters
        ----------
        z
            Shape (..., n_latent).

        Returns
        -------
        Shape (..., n_classes).

        Raises
        ------
        ValueError
            If weights, bias or `z` contain NaN or infinity, or their shapes do not match.
        """
        weights, bias = checked(self)
        points = check.finite("z", z).astype(np.float64, copy=False)
        check.last_axis("z", points, weights.shape[1])
        return points @ weights.T + bias

    def predict(self, z: ArrayLike) -> IntArray:
        """Class of every point; in a tie the lowest index, as in `numpy.argmax`.

        Parameters
        ----------
        z
            Shape (..., n_latent).

        Returns
        -------
        Integers of shape (...).

        Raises
        ------
        ValueError
            As :meth:`logits` does.
        """
        points = np.asarray(z)
        return self._in_blocks(lambda rows, at: np.argmax(self.logits(rows), axis=-1), points)

    def _in_blocks(self, of: Callable[[Any, slice], Any], points: np.ndarray) -> Any:
        """A function of points (..., n_latent), called with blocks of them and their slice of all points."""
        if points.ndim < 2 or not points.size:
            return of(points, slice(None))
        flat = points.reshape(-1, points.shape[-1])
        blocks = blocks_of(len(flat), self.n_classes)
        if len(blocks) == 1:
            return of(points, slice(None))
        return np.concatenate([of(flat[at], at) for at in blocks]).reshape(points.shape[:-1])

    def margin(self, z: ArrayLike, label: ArrayLike) -> FloatArray:
        """Logit of `label` minus the best other logit: positive inside the class.

        Parameters
        ----------
        z
            Shape (..., n_latent).
        label
            One class index, or an integer array that broadcasts to shape (...).

        Returns
        -------
        Shape (...). Infinity if there is only one class.

        Raises
        ------
        ValueError
            As :meth:`logits` does, or if a label is not the index of a class.
        """
        points = np.asarray(z)
        labels = check.labels(label, self.n_classes, points.shape[:-1])

        def of(rows: FloatArray, at: slice) -> FloatArray:
            own = labels if at == slice(None) else labels.ravel()[at]
            return margin_of(self.logits(rows), own)

        return self._in_blocks(of, points)


def checked(classes: LinearClasses) -> tuple[FloatArray, FloatArray]:
    """Return weights and bias in float64, or raise an error that names the problem."""
    weights = check.finite("weights", classes.weights).astype(np.float64, copy=False)
    bias = check.finite("bias", classes.bias).astype(np.float64, copy=False)
    if weights.ndim != 2 or 0 in weights.shape or bias.shape != weights.shape[:1]:
        raise ValueError(
            "weights must have shape (n_classes, n_latent) and bias (n_classes,), got "
            f"{weights.shape} and {bias.shape}; pass one row and one bias per class."
        )
    return weights, bias


def margin_of(logits: FloatArray, label: IntArray) -> FloatArray:
    """Logit of `label` (...) minus the largest other logit, from logits (..., n_classes)."""
    index = label[..., None]
    own = np.take_along_axis(logits, index, axis=-1)[..., 0]
    others = logits.copy()
    np.put_along_axis(others, index, -np.inf, axis=-1)
    return own - others.max(axis=-1)  # one class: own − (−inf) = inf


def segment_crossings(classes: LinearClasses, start: ArrayLike, end: ArrayLike) -> Crossings:
    """Exact positions at which straight segments change class.

    Parameters
    ----------
    classes
        The linear classes.
    start, end
        The two ends of each segment, shape (n, n_latent), or (n_latent,) for one segment.

    Returns
    -------
    Crossings
        The class of a segment is ``predict(start)`` until its first crossing, and ``predict(end)``
        after its last. A crossing at t = 0 means that `start` lies on a boundary and the path
        leaves the class at once. A crossing at t = 1 means that `end` lies on a boundary and the
        tie goes to another class.

    Raises
    ------
    ValueError
        If the shapes do not match or a value is not finite.

    Notes
    -----
    Logits are linear in t, so the predicted class follows the upper envelope of n_classes lines
    [1]_. Starting with the class at t = 0, the next class is the line that overtakes it first, at
    d₀ / (d₀ − d₁), where d₀ and d₁ are the leads at the two ends. All segments take this step
    together, at most n_classes − 1 times. If several lines overtake at the same t, the steepest is
    chosen, then the lowest index, as in `numpy.argmax`.

    References
    ----------
    .. [1] M. de Berg, O. Cheong, M. van Kreveld, M. Overmars. Computational Geometry: Algorithms
       and Applications, 3rd ed., chapters 8 and 11 (envelopes of lines). Springer, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import LinearClasses, segment_crossings
    >>> classes = LinearClasses(weights=np.array([[-1.0], [0.0], [1.0]]), bias=np.zeros(3))
    >>> segment_crossings(classes, [-1.0], [3.0])
    Crossings(path=array([0]), t=array([0.25]), before=array([0]), after=array([2]))
    """
    weights, _ = checked(classes)
    first, last = check.ends(start, end, weights.shape[1])

    def of(rows: slice) -> Crossings:
        at_start, at_end = classes.logits(first[rows]), classes.logits(last[rows])
        still = (first[rows] == last[rows]).all(axis=1)
        # Equal points must have equal logits, despite rounding in BLAS.
        at_end[still] = at_start[still]
        return envelope(at_start, at_end)

    return in_blocks(of, len(first), len(weights))


def segment_margin(
    classes: LinearClasses, start: ArrayLike, end: ArrayLike, label: ArrayLike
) -> FloatArray:
    """Exact smallest margin of a class along straight segments.

    Parameters
    ----------
    classes
        The linear classes.
    start, end
        The two ends of each segment, shape (n, n_latent), or (n_latent,) for one segment.
    label
        One class index, or one for each segment, shape (n,).

    Returns
    -------
    Shape (n,): positive if the whole segment lies inside the class.

    Raises
    ------
    ValueError
        If the shapes do not match, a value is not finite, or a label is not the index of a class.

    Notes
    -----
    The margin is the minimum over other classes of functions that are linear in t. It is therefore
    concave, and its minimum on a segment is at one of the ends.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import LinearClasses, segment_margin
    >>> classes = LinearClasses(weights=np.eye(2), bias=np.zeros(2))
    >>> segment_margin(classes, [[3.0, 1.0]], [[2.0, 1.5]], 0)
    array([0.5])
    """
    weights, _ = checked(classes)
    first, last = check.ends(start, end, weights.shape[1])
    return np.minimum(classes.margin(first, label), classes.margin(last, label))


def polyline_crossings(classes: LinearClasses, points: ArrayLike) -> Crossings:
    """Exact positions at which piecewise straight paths change class.

    Parameters
    ----------
    classes
        The linear classes.
    points
        Shape (n, n_steps, n_latent). Point i of a path has the position t = i / (n_steps − 1).

    Returns
    -------
    Crossings
        As for :func:`segment_crossings`, with t along the whole path.

    Raises
    ------
    ValueError
        If `points` is not of that shape, has fewer than two steps, or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import LinearClasses, polyline_crossings
    >>> classes = LinearClasses(weights=np.array([[-1.0], [1.0]]), bias=np.zeros(2))
    >>> polyline_crossings(classes, [[[-1.0], [1.0], [-3.0]]]).t
    array([0.25 , 0.625])
    """
    weights, _ = checked(classes)
    array = check.paths(points, weights.shape[1])
    n, n_steps, _ = array.shape

    def of(rows: slice) -> Crossings:
        logits = classes.logits(array[rows])  # (n, n_steps, n_classes); neighbors share a vertex
        still = (array[rows, 1:] == array[rows, :-1]).all(axis=2)  # (n, n_steps - 1)
        at_start, at_end = logits[:, :-1], logits[:, 1:]
        at_end = np.where(still[..., None], at_start, at_end)
        n_classes = logits.shape[2]
        pieces = envelope(at_start.reshape(-1, n_classes), at_end.reshape(-1, n_classes))
        path, piece = np.divmod(pieces.path, n_steps - 1)
        return Crossings(path, (piece + pieces.t) / (n_steps - 1), pieces.before, pieces.after)

    return in_blocks(of, n, n_steps * len(weights))


def polyline_margin(classes: LinearClasses, points: ArrayLike, label: ArrayLike) -> FloatArray:
    """Exact smallest margin of a class along piecewise straight paths.

    Parameters
    ----------
    classes
        The linear classes.
    points
        Shape (n, n_steps, n_latent).
    label
        One class index, or one for each path, shape (n,).

    Returns
    -------
    Shape (n,): positive if the whole path lies inside the class. As for a single segment
    (:func:`segment_margin`), the minimum is at a vertex.

    Raises
    ------
    ValueError
        If `points` is not of that shape, has fewer than two steps or is not finite, or if a label
        is not the index of a class.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.geometry import LinearClasses, polyline_margin
    >>> classes = LinearClasses(weights=np.eye(2), bias=np.zeros(2))
    >>> polyline_margin(classes, [[[3.0, 1.0], [2.0, 2.5], [4.0, 0.0]]], 0)
    array([-0.5])
    """
    weights, _ = checked(classes)
    array = check.paths(points, weights.shape[1])
    wanted = check.labels(label, weights.shape[0], array.shape[:1])
    return classes.margin(array, wanted[:, None]).min(axis=1)
