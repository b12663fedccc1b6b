"""Class purity of generated cells, checked with independent classifiers of real cells (judges)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_choice
from .._validate.arrays import (
    Labels,
    MatrixLike,
    as_labels,
    as_matrix,
    check_known,
    check_rows,
    check_same_shape,
)
from .judges import Judge


class Purity(NamedTuple):
    """Proportion of generated cells classified as intended. Result of :func:`path_purity`.

    Attributes
    ----------
    per_class
        ``{label: proportion of its generated cells that the judge assigns to it, in [0, 1]}``.
    n_per_class
        ``{label: number of generated cells}``.
    ceiling
        ``{label: proportion of its real held-out cells that the judge assigns to it}``, for the
        same labels; None if no real cells were given.
    unbroken
        Proportion of paths with all points classified as intended; None if ``paths`` was not given.

    Examples
    --------
    >>> from scivae.metrics import Purity
    >>> purity = Purity({"goblet": 1.0, "stem": 0.5}, {"goblet": 8, "stem": 8}, None, None)
    >>> purity.mean, purity.worst_class
    (0.75, 'stem')
    """

    per_class: dict[Hashable, float]
    n_per_class: dict[Hashable, int]
    ceiling: dict[Hashable, float] | None
    unbroken: float | None

    @property
    def mean(self) -> float:
        """Unweighted mean over classes."""
        return float(np.mean(list(self.per_class.values())))

    @property
    def worst_class(self) -> Hashable:
        """The class with the lowest purity (in a tie, the first in sorted order)."""
        return min(self.per_class, key=self.per_class.__getitem__)

    @property
    def worst(self) -> float:
        """Purity of the worst class."""
        return self.per_class[self.worst_class]

    @property
    def overall(self) -> float:
        """Proportion over all generated cells, so that large classes have more weight."""
        hits = sum(self.per_class[label] * n for label, n in self.n_per_class.items())
        return hits / sum(self.n_per_class.values())

    @property
    def ceiling_mean(self) -> float:
        """Mean over classes of the judge's accuracy on real cells; NaN without real cells."""
        return float("nan") if self.ceiling is None else float(np.mean(list(self.ceiling.values())))

    @property
    def of_ceiling(self) -> dict[Hashable, float]:
        """Purity divided by the ceiling of each class (can exceed 1); empty without real cells.

        NaN for a class that the judge never assigns correctly among real cells.
        """
        return {
            label: self.per_class[label] / top if top > 0 else float("nan")
            for label, top in (self.ceiling or {}).items()
        }


def path_purity(
    judge: Judge,
    x_generated: MatrixLike,
    labels: npt.ArrayLike,
    *,
    x_real: MatrixLike | None = None,
    y_real: npt.ArrayLike | None = None,
    paths: npt.ArrayLike | None = None,
) -> Purity:
    """Proportion of generated cells that an independent judge assigns to the intended label.

    Generated cells must be *samples* from the likelihood, log-normalized like the real ones. The
    log of an expected value differs from the expected log, and a judge fitted on real cells has
    only seen samples.

    Parameters
    ----------
    judge
        A classifier of real cells, from :func:`fit_judges`.
    x_generated
        Generated cells (of paths or of augmentation), ``(n, n_genes)``, dense or sparse.
    labels
        Intended label of each generated cell, ``(n,)``.
    x_real, y_real
        Real cells that neither the judge nor the model was fitted on, and their labels. They give
        the ceiling (the judge's accuracy on real cells). Every label of ``labels`` must occur among
        them.
    paths
        Path of each generated cell, ``(n,)``; needed for :attr:`Purity.unbroken`.

    Returns
    -------
    A :class:`Purity`; all proportions are in [0, 1].

    Raises
    ------
    ValueError
        If lengths or columns do not match, a label is unknown to the judge or absent from
        ``y_real``, only one of ``x_real`` and ``y_real`` is given, or values are NaN, infinite or
        missing.

    References
    ----------
    Shmelkov, Schmid and Alahari, "How good is my GAN?", European Conference on Computer Vision
    (2018): "GAN-test", fitted on real and scored on generated samples, compared with the score on
    real ones.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import fit_judges, path_purity
    >>> x = np.array([[0.0, 2.0], [0.1, 2.2], [2.0, 0.0], [2.1, 0.3]])
    >>> y = np.array(["goblet", "goblet", "stem", "stem"])
    >>> judge = fit_judges(x, y, kinds=["logistic"])["logistic"]
    >>> purity = path_purity(judge, x[[0, 1, 2, 0]], y, x_real=x, y_real=y)
    >>> purity.per_class
    {'goblet': 1.0, 'stem': 0.5}
    >>> purity.mean, purity.worst, purity.worst_class, purity.ceiling_mean
    (0.75, 0.5, 'stem', 1.0)
    """
    made_for = as_labels("labels", labels)
    check_known("labels", made_for, f"the classes of the {judge.kind} judge", judge.classes)
    hit = _hits(judge, x_generated, made_for, "x_generated", "labels")
    if (x_real is None) != (y_real is None):
        absent = "x_real" if x_real is None else "y_real"
        raise ValueError(
            f"x_real and y_real must be passed together, got no {absent}; pass both or neither."
        )
    ceiling = None
    if x_real is not None and y_real is not None:
        truth = as_labels("y_real", y_real)
        check_known("labels", made_for, "y_real, which gives the ceiling", truth)
        real_hit = _hits(judge, x_real, truth, "x_real", "y_real")
        ceiling = {label: float(real_hit[truth == label].mean()) for label in _classes(made_for)}
    unbroken = None
    if paths is not None:
        path = as_labels("paths", paths)
        check_same_shape("paths", path, "labels", made_for)
        _, of_path = np.unique(path, return_inverse=True)
        misses = np.bincount(of_path, weights=~hit)
        unbroken = float((misses == 0).mean())
    return Purity(
        per_class={label: float(hit[made_for == label].mean()) for label in _classes(made_for)},
        n_per_class={label: int((made_for == label).sum()) for label in _classes(made_for)},
        ceiling=ceiling,
        unbroken=unbroken,
    )


def cycle_consistency(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    average: Literal["cells", "classes"] = "cells",
) -> float:
    """Proportion of latent points that keep their class after decoding and re-encoding.

    A latent point z is classified (``before``), decoded to a cell, encoded to z′ and classified
    again (``after``). The proportion is low if the decoder produces cells of another class, even if
    the discriminator assigns z correctly.

    Parameters
    ----------
    before
        Class of each latent point, ``(n,)``.
    after
        Class of the same point after decoding and re-encoding, ``(n,)``.
    average
        ``"cells"``: equal weight for each point. ``"classes"``: the proportion is calculated within
        each class of ``before``, then averaged.

    Returns
    -------
    Agreement, in [0, 1]; 1 is best.

    Raises
    ------
    ValueError
        If the two differ in length or have missing labels, or ``average`` is unknown.

    References
    ----------
    Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks",
    IEEE International Conference on Computer Vision (2017), for the idea, applied here to classes.

    Examples
    --------
    >>> from scivae.metrics import cycle_consistency
    >>> cycle_consistency(["a", "a", "a", "b"], ["a", "a", "a", "a"])
    0.75
    >>> cycle_consistency(["a", "a", "a", "b"], ["a", "a", "a", "a"], average="classes")
    0.5
    """
    check_choice("average", average, ("cells", "classes"))
    first, second = as_labels("before", before), as_labels("after", after)
    check_same_shape("before", first, "after", second)
    same = first == second
    if average == "cells":
        return float(np.mean(same))
    return float(np.mean([same[first == label].mean() for label in _classes(first)]))


def _hits(
    judge: Judge, x: MatrixLike, y: Labels, x_name: str, y_name: str
) -> npt.NDArray[np.bool_]:
    matrix = as_matrix(x_name, x)
    check_rows(y_name, y, x_name, matrix)
    return judge.predict(matrix) == y


def _classes(labels: Labels) -> list[Any]:
    return np.unique(labels).tolist()
