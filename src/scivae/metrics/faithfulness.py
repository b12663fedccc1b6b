"""Whether generated cells are what they are said to be, judged by classifiers of real cells.

The model never judges itself: a judge is fitted on real cells, in gene space. Fit it on cells that
the model was not trained on and that no generated cell starts from. A judge that knows these cells
rewards a model that remembers them: with permuted labels it finds their labels again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_choice
from .._validate.arrays import (
    Labels,
    MatrixLike,
    Points,
    as_labels,
    as_matrix,
    check_known,
    check_rows,
    check_same_shape,
    check_two_classes,
)

JudgeKind = Literal["logistic", "random_forest", "knn"]
JUDGE_KINDS: tuple[JudgeKind, ...] = ("logistic", "random_forest", "knn")

_KNN_COMPONENTS = 50


@dataclass(frozen=True)
class Judge:
    """A classifier fitted on real cells only. Made by :func:`fit_judges`.

    Attributes
    ----------
    kind
        ``"logistic"``, ``"random_forest"`` or ``"knn"``.
    classes
        The labels it knows, sorted, ``(n_classes,)``.
    n_features
        The number of genes (columns) it was fitted on.

    Examples
    --------
    >>> from scivae.metrics import fit_judges
    >>> x = [[0.0, 2.0], [0.1, 2.2], [2.0, 0.0], [2.1, 0.3]]
    >>> judge = fit_judges(x, ["goblet", "goblet", "stem", "stem"], kinds=["logistic"])["logistic"]
    >>> judge.predict([[3.0, 0.0]]).tolist(), judge.predict_proba([[3.0, 0.0]]).shape
    (['stem'], (1, 2))
    """

    kind: str
    classes: Labels
    n_features: int
    _estimator: Any = field(repr=False)

    def predict(self, x: MatrixLike) -> Labels:
        """Label of each row: an array ``(n,)``.

        Parameters
        ----------
        x
            Cells of the genes that the judge was fitted on, ``(n, n_features)``.
        """
        return self._estimator.predict(self._check(x))

    def predict_proba(self, x: MatrixLike) -> Points:
        """Class probabilities of each row: ``(n, n_classes)``, columns in the order of ``classes``.

        Parameters
        ----------
        x
            Cells of the genes that the judge was fitted on, ``(n, n_features)``.
        """
        return self._estimator.predict_proba(self._check(x))

    def _check(self, x: MatrixLike) -> Any:
        matrix = as_matrix("x", x)
        if matrix.shape[1] != self.n_features:
            raise ValueError(
                f"x must have the {self.n_features} columns that the {self.kind} judge was fitted "
                f"on, got {matrix.shape[1]}; select the same genes, in the same order."
            )
        return matrix


def fit_judges(
    x: MatrixLike,
    y: npt.ArrayLike,
    *,
    kinds: Sequence[JudgeKind] = ("logistic", "random_forest"),
    seed: int = 0,
    n_jobs: int | None = None,
) -> dict[str, Judge]:
    """Fit independent classifiers on real cells.

    The kinds err in different ways, so that what all of them say is not an accident of one:

    ``"logistic"``
        Multinomial logistic regression, L2 penalty ``C=1``. The values are used as they are, for
        dividing a gene that is almost never seen by its tiny standard deviation would let faint
        noise of a decoder decide the class.
    ``"random_forest"``
        300 trees.
    ``"knn"``
        15 nearest neighbors in the first 50 singular directions of the real cells.

    Parameters
    ----------
    x
        Real cells in gene space, log-normalized, ``(n, n_genes)``, dense or sparse. Use cells that
        are *not* in what you will pass as the ceiling.
    y
        Their labels, ``(n,)``.
    kinds
        Which judges to fit.
    seed
        Seed of the forest and of the singular value decomposition.
    n_jobs
        Processes or threads of the forest and the neighbors; it does not change the result.

    Returns
    -------
    ``{kind: Judge}`` in the order of ``kinds``.

    Raises
    ------
    ValueError
        If ``x`` and ``y`` disagree in length, ``x`` holds NaN or infinity, ``y`` misses labels or
        holds one class only, or a kind is unknown or none is given.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import fit_judges
    >>> x = np.array([[0.0, 2.0], [0.1, 2.2], [2.0, 0.0], [2.1, 0.3]])
    >>> judges = fit_judges(x, ["goblet", "goblet", "stem", "stem"], kinds=["logistic"])
    >>> judges["logistic"].predict([[0.0, 3.0]]).tolist()
    ['goblet']
    """
    matrix, labels = as_matrix("x", x), as_labels("y", y)
    check_rows("y", labels, "x", matrix)
    check_two_classes("y", labels)
    if isinstance(kinds, str) or len(kinds) == 0:
        raise ValueError(
            f"kinds must be a sequence of at least one kind of judge, got {kinds!r}; "
            f"pass for example kinds={list(JUDGE_KINDS[:2])}."
        )
    for kind in kinds:
        check_choice("each of kinds", kind, JUDGE_KINDS)
    judges: dict[str, Judge] = {}
    for kind in kinds:
        estimator = _make_estimator(kind, matrix.shape, seed=seed, n_jobs=n_jobs)
        estimator.fit(matrix, labels)
        judges[kind] = Judge(kind, estimator.classes_, matrix.shape[1], estimator)
    return judges


def _make_estimator(kind: str, shape: tuple[int, int], *, seed: int, n_jobs: int | None) -> Any:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    if kind == "logistic":
        return LogisticRegression(C=1.0, max_iter=2000)
    if kind == "random_forest":
        return RandomForestClassifier(n_estimators=300, random_state=seed, n_jobs=n_jobs)
    # the tree searches refuse sparse cells, and gain nothing in so many dimensions
    neighbors = KNeighborsClassifier(
        n_neighbors=min(15, shape[0]), algorithm="brute", n_jobs=n_jobs
    )
    if min(shape) <= _KNN_COMPONENTS:
        return neighbors
    return make_pipeline(TruncatedSVD(_KNN_COMPONENTS, random_state=seed), neighbors)


class Purity(NamedTuple):
    """How much of what was generated is judged to be of its class. Made by :func:`path_purity`.

    Attributes
    ----------
    per_class
        ``{label: share in [0, 1] of its generated cells that the judge calls by that label}``.
    n_per_class
        ``{label: number of generated cells}``.
    ceiling
        ``{label: share of real held-out cells of that label that the judge calls by it}``, for the
        same labels; None where no real cells were given.
    unbroken
        Share of paths all of whose points are judged to be of their class; None where ``paths``
        was not given.

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
        """Mean over classes, each weighing the same."""
        return float(np.mean(list(self.per_class.values())))

    @property
    def worst_class(self) -> Hashable:
        """The class of the least purity (the first in sorted order among equals)."""
        return min(self.per_class, key=self.per_class.__getitem__)

    @property
    def worst(self) -> float:
        """Purity of the worst class."""
        return self.per_class[self.worst_class]

    @property
    def overall(self) -> float:
        """Share over all generated cells, so that large classes weigh more."""
        hits = sum(self.per_class[label] * n for label, n in self.n_per_class.items())
        return hits / sum(self.n_per_class.values())

    @property
    def ceiling_mean(self) -> float:
        """Mean over classes of the judge's accuracy on real cells; NaN without real cells."""
        return float("nan") if self.ceiling is None else float(np.mean(list(self.ceiling.values())))

    @property
    def of_ceiling(self) -> dict[Hashable, float]:
        """Purity over ceiling, class by class (may pass 1); empty without real cells.

        A class that the judge never recognizes among real cells gives NaN.
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
    """Share of generated cells that an independent judge calls by the label they were made for.

    Generated cells must be *samples* from the likelihood, log-normalized as the real ones: the log
    of an expected value is not an expected log, and a judge of real cells has never seen one.

    Parameters
    ----------
    judge
        A classifier of real cells, from :func:`fit_judges`.
    x_generated
        Generated cells (of paths or of augmentation), ``(n, n_genes)``, dense or sparse.
    labels
        The label each was made for, ``(n,)``.
    x_real, y_real
        Real cells that neither the judge nor the model has seen, and their labels: they give the
        ceiling, the judge's own accuracy. Every label of ``labels`` must occur among them.
    paths
        Which path each generated cell lies on, ``(n,)``; gives :attr:`Purity.unbroken`.

    Returns
    -------
    A :class:`Purity`; every share is in [0, 1].

    Raises
    ------
    ValueError
        If lengths or columns disagree, a label is unknown to the judge or absent from ``y_real``,
        only one of ``x_real`` and ``y_real`` is given, or values are NaN, infinite or missing.

    References
    ----------
    Shmelkov, Schmid and Alahari, "How good is my GAN?", European Conference on Computer Vision
    (2018): fitted on real, scored on generated ("GAN-test"), beside the score on real ones.

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
        raise ValueError(f"x_real and y_real go together, got no {absent}; pass both or neither.")
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
    """Share of points whose class survives decoding and encoding again.

    A latent point z is classified (``before``), decoded to a cell, encoded to z′ and classified
    again (``after``). A decoder that leaves the class on the way fails this, whatever the
    discriminator says of z.

    Parameters
    ----------
    before
        Class of each latent point, ``(n,)``.
    after
        Class of the same point after it was decoded and encoded, ``(n,)``.
    average
        ``"cells"``: each point weighs the same. ``"classes"``: the share is taken within each
        class of ``before``, then averaged.

    Returns
    -------
    Agreement, in [0, 1]; 1 is best.

    Raises
    ------
    ValueError
        If the two differ in length, or miss labels, or ``average`` is unknown.

    References
    ----------
    Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks",
    IEEE International Conference on Computer Vision (2017), for the idea; here of classes.

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
