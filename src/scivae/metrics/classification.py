"""Scores of predicted labels for classes of unequal size."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from .._validate.arrays import as_labels, check_same_shape


def f1_per_class(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> dict[Hashable, float]:
    """F1 score of each class: ``2·TP / (2·TP + FP + FN)``.

    Parameters
    ----------
    y_true
        True labels, ``(n,)``.
    y_pred
        Predicted labels of the same cells, ``(n,)``.

    Returns
    -------
    ``{label: score in [0, 1]}`` for every label that occurs in ``y_true`` or ``y_pred``, sorted.

    Raises
    ------
    ValueError
        If the two differ in length or miss labels.
    TypeError
        If one holds text and the other numbers.

    References
    ----------
    van Rijsbergen, "Information Retrieval", 2nd edition (1979), chapter 7.

    Examples
    --------
    >>> from scivae.metrics import f1_per_class
    >>> f1_per_class(["a", "a", "b", "b"], ["a", "a", "a", "c"])
    {'a': 0.8, 'b': 0.0, 'c': 0.0}
    """
    truth, guess = as_labels("y_true", y_true), as_labels("y_pred", y_pred)
    check_same_shape("y_true", truth, "y_pred", guess)
    if (truth.dtype.kind == "U") != (guess.dtype.kind == "U"):
        raise TypeError(
            f"y_true and y_pred must be labels of one type, got {truth.dtype} and {guess.dtype}; "
            "convert both to the same names."
        )
    classes, codes = np.unique(np.concatenate([truth, guess]), return_inverse=True)
    true_code, guess_code = codes[: truth.size], codes[truth.size :]
    n_hit = np.bincount(true_code[true_code == guess_code], minlength=classes.size)
    # TP + FN cells have the class and TP + FP are predicted to: their sum is the denominator
    n_either = np.bincount(codes, minlength=classes.size)
    return dict(zip(classes.tolist(), (2 * n_hit / n_either).tolist(), strict=True))


def macro_f1(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """F1 score averaged over classes, so that rare and common classes have the same weight.

    Parameters
    ----------
    y_true
        True labels, ``(n,)``.
    y_pred
        Predicted labels of the same cells, ``(n,)``.

    Returns
    -------
    The mean of :func:`f1_per_class`, in [0, 1]. A label that is predicted but never true counts as
    a class with score 0.

    Raises
    ------
    ValueError
        If the two differ in length or miss labels.
    TypeError
        If one holds text and the other numbers.

    References
    ----------
    Opitz and Burst, "Macro F1 and Macro F1" (2019), arXiv:1911.03347: the mean of F1 scores, not
    the F1 of means.

    Examples
    --------
    >>> from scivae.metrics import macro_f1
    >>> macro_f1(["a", "a", "b", "b"], ["a", "a", "b", "b"])
    1.0
    >>> round(macro_f1(["a", "a", "b", "b"], ["a", "a", "a", "c"]), 4)
    0.2667
    """
    return float(np.mean(list(f1_per_class(y_true, y_pred).values())))
