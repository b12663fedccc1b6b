"""Independent classifiers of real cells (*judges*), with which generated cells are checked.

Fit a judge on cells that neither the model was trained on nor generated cells start from. Otherwise a
model that memorizes its cells gets a high score, even with permuted labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

from .._validate.arguments import check_choice
from .._validate.arrays import (
    Labels,
    MatrixLike,
    Points,
    as_labels,
    as_matrix,
    check_rows,
    check_two_classes,
)

JudgeKind = Literal["logistic", "random_forest", "knn"]
JUDGE_KINDS: tuple[JudgeKind, ...] = ("logistic", "random_forest", "knn")

_KNN_COMPONENTS = 50


@dataclass(frozen=True)
class Judge:
    """A classifier fitted only on real cells. Result of :func:`fit_judges`.

    Attributes
    ----------
    kind
        ``"logistic"``, ``"random_forest"`` or ``"knn"``.
    classes
        The labels it was fitted on, sorted, ``(n_classes,)``.
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
        """Predict the label of each row: an array ``(n,)``.

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

    The kinds make different errors, so a result on which they agree does not depend on one
    classifier:

    ``"logistic"``
        Multinomial logistic regression, L2 penalty ``C=1``. Genes are not standardized, because
        dividing a rarely detected gene by its small standard deviation would amplify decoder noise.
    ``"random_forest"``
        300 trees.
    ``"knn"``
        15 nearest neighbors in the first 50 singular vectors of the real cells.

    Parameters
    ----------
    x
        Real cells in gene space, log-normalized, ``(n, n_genes)``, dense or sparse. Do *not*
        include the cells that you will pass as ``x_real`` to :func:`path_purity`.
    y
        Their labels, ``(n,)``.
    kinds
        Kinds of judges to fit.
    seed
        Seed of the forest and of the singular value decomposition.
    n_jobs
        Number of processes or threads for the forest and the neighbors; it does not change the
        result.

    Returns
    -------
    ``{kind: Judge}`` in the order of ``kinds``.

    Raises
    ------
    ValueError
        If ``x`` and ``y`` differ in length, ``x`` contains NaN or infinity, ``y`` has missing
        labels or only one class, or a kind is unknown, or no kind is given.

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
    # tree searches do not support sparse input and are not faster in this many dimensions
    neighbors = KNeighborsClassifier(
        n_neighbors=min(15, shape[0]), algorithm="brute", n_jobs=n_jobs
    )
    if min(shape) <= _KNN_COMPONENTS:
        return neighbors
    return make_pipeline(TruncatedSVD(_KNN_COMPONENTS, random_state=seed), neighbors)
