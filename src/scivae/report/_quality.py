"""Quality of a model and of its synthetic cells, measured on held-out cells, each with a control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _keys
from .._names import as_text

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

# Largest number of cells that controls and classifiers are fitted on; a random subset if there are more.
MAX_FITTED = 5_000
# Largest and smallest number of cells of each kind in a comparison.
MAX_COMPARED, MIN_COMPARED = 400, 20


class Score(NamedTuple):
    """A classifier on held-out cells.

    Attributes
    ----------
    name
        Name of the classifier.
    accuracy
        Proportion of correctly labeled cells.
    macro_f1
        Mean F1 score over classes, so that rare classes have the same weight.
    """

    name: str
    accuracy: float
    macro_f1: float


class HeldOut(NamedTuple):
    """Labels of held-out cells.

    Attributes
    ----------
    scores
        The model first, then its controls.
    interval
        95 % interval (Wilson) of the accuracy of the model.
    true, predicted
        Labels, shape ``(n,)``.
    """

    scores: tuple[Score, ...]
    interval: tuple[float, float]
    true: np.ndarray
    predicted: np.ndarray


class MadeClass(NamedTuple):
    """Synthetic cells of a class.

    Attributes
    ----------
    label
        The class.
    n, n_drawn
        Numbers of accepted and of drawn cells; ``n_drawn`` is 0 if not known.
    recognized
        Proportion that a classifier of real cells assigns to the class.
    n_real, real_recognized
        Number of held-out real cells of the class, and the same proportion of these; NaN without any.
    """

    label: str
    n: int
    n_drawn: int
    recognized: float
    n_real: int
    real_recognized: float


class Made(NamedTuple):
    """Checks of synthetic cells.

    Attributes
    ----------
    classes
        By class.
    recognized, real_recognized
        The same proportions over all synthetic cells and over all held-out real cells.
    n_compared
        Cells of each kind in the comparisons below; 0 if there were too few held-out cells, and these are NaN.
    auc, real_auc
        AUC of a random forest that separates held-out cells from synthetic ones, and from training cells:
        0.5 if it cannot.
    closer
        Probability that a synthetic cell is nearer to its nearest training cell than a held-out cell is: 0.5
        for new cells, 1 for copies.
    """

    classes: tuple[MadeClass, ...]
    recognized: float
    real_recognized: float
    n_compared: int
    auc: float
    real_auc: float
    closer: float


class Cells(NamedTuple):
    """Training cells and held-out cells, for classifiers.

    Attributes
    ----------
    x_train, x_test
        Log-normalized counts, or values as they are.
    y_train, y_test
        Labels as text.
    test
        Positions of the held-out cells.
    """

    x_train: Any
    y_train: np.ndarray
    x_test: Any
    y_test: np.ndarray
    test: np.ndarray


def cells_of(model: CIVAE, adata: AnnData, seed: int) -> Cells | None:
    """Labeled cells on both sides of the split; ``None`` if a side is empty or there is one class only."""
    from ..data.split import labeled_sides

    y, (train, test) = labeled_sides(
        adata,
        model.setup.labels_key,
        len(model.classes),
        (model.train_indices, model.validation_indices),
    )
    train = some(train, MAX_FITTED, seed)
    if not len(test) or len(np.unique(y[train])) < 2:
        return None
    return Cells(
        features(model, adata, train), y[train], features(model, adata, test), y[test], test
    )


def some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """A random subset of at most ``most`` rows, in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def features(model: CIVAE, adata: AnnData, rows: Any = slice(None)) -> Any:
    """Input of the classifiers: log-normalized counts, or unchanged values if they are not counts."""
    from scipy import sparse

    from .._storage import rows_of
    from ..data.checks import resolve_layer, values_of
    from ..data.generated import log_normalize
    from ..module import COUNT_LIKELIHOODS

    values = rows_of(values_of(adata, resolve_layer(adata, model.setup.layer)), rows)
    if sparse.issparse(values):
        values = sparse.csr_matrix(values)
    return log_normalize(values) if model.likelihood in COUNT_LIKELIHOODS else values


def held_out(model: CIVAE, cells: Cells, seed: int) -> HeldOut:
    """Accuracy on held-out cells, compared with a baseline without the model."""
    from statsmodels.stats.proportion import proportion_confint

    predicted = np.asarray(model.predict(indices=cells.test)).astype(str)
    names, sizes = np.unique(cells.y_train, return_counts=True)
    largest = str(names[sizes.argmax()])
    n_components, control = _without_model(model, cells, seed)
    scores = [
        _score("CI-VAE, its classifier", cells.y_test, predicted),
        _score(
            f"{n_components} principal components and balanced logistic regression",
            cells.y_test,
            control,
        ),
        _score(
            f"always the largest class ({largest})", cells.y_test, np.full(len(control), largest)
        ),
        Score("chance (labels drawn by their frequency)", *_chance(cells)),
    ]
    right = int((predicted == cells.y_test).sum())
    low, high = proportion_confint(right, len(predicted), method="wilson")
    return HeldOut(tuple(scores), (float(low), float(high)), cells.y_test, predicted)


def _score(name: str, true: np.ndarray, predicted: np.ndarray) -> Score:
    from ..metrics import macro_f1

    return Score(name, float(np.mean(true == predicted)), macro_f1(true, predicted.astype(str)))


def _chance(cells: Cells) -> tuple[float, float]:
    """Expected accuracy and approximate macro-F1 of labels drawn by their frequency in training."""
    names, sizes = np.unique(cells.y_train, return_counts=True)
    drawn = sizes / sizes.sum()
    real = np.array([np.mean(cells.y_test == name) for name in names])
    f1 = 2 * real * drawn / (real + drawn)
    return float(real @ drawn), float(f1[real > 0].mean())


def _without_model(model: CIVAE, cells: Cells, seed: int) -> tuple[int, np.ndarray]:
    """Number of principal components (that of the latent space), and labels of a regression on them."""
    from scipy import sparse
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n = min(model.module.n_latent, min(cells.x_train.shape) - 1)
    solver = "arpack" if sparse.issparse(cells.x_train) else "randomized"
    fitted = make_pipeline(
        PCA(n, svd_solver=solver, random_state=seed),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=2000),
    ).fit(cells.x_train, cells.y_train)
    return n, fitted.predict(cells.x_test)


def made(model: CIVAE, cells: Cells, synthetic: AnnData, seed: int) -> Made:
    """Check synthetic cells with a classifier of real cells, a random forest, and distances."""
    from ..metrics import fit_judges

    label = as_text(synthetic.obs[model.setup.labels_key]).astype(str)
    x = features(model, synthetic)
    judge = fit_judges(cells.x_train, cells.y_train, kinds=("logistic",), seed=seed)["logistic"]
    right, real_right = judge.predict(x) == label, judge.predict(cells.x_test) == cells.y_test
    drawn = _drawn(synthetic)
    classes = []
    for name in dict.fromkeys(label.tolist()):
        own, real = label == name, cells.y_test == name
        share = float(real_right[real].mean()) if real.any() else float("nan")
        classes.append(
            MadeClass(
                name, int(own.sum()), drawn.get(name, 0), float(right[own].mean()),
                int(real.sum()), share,
            )
        )  # fmt: skip
    of_made = np.isin(cells.y_test, label)
    nan = float("nan")
    compared = _compared(cells, x, label, seed) if is_sampled(synthetic) else (0, nan, nan, nan)
    return Made(
        tuple(classes),
        float(right.mean()),
        float(real_right[of_made].mean()) if of_made.any() else nan,
        *compared,
    )


def is_sampled(synthetic: AnnData) -> bool:
    """Whether cells are samples from the likelihood; expected values have no noise, unlike real cells."""
    said = synthetic.uns.get(_keys.UNS, {})
    return str(said.get("values")) == "sampled" if hasattr(said, "get") else False


def _drawn(synthetic: AnnData) -> dict[str, int]:
    """Number of cells that were drawn for each class, if recorded."""
    said = synthetic.uns.get(_keys.UNS, {})
    table = said.get("classes") if hasattr(said, "get") else None
    if table is None or "n_drawn" not in table:
        return {}
    return {str(name): int(n) for name, n in table["n_drawn"].items()}


def _compared(
    cells: Cells, x: Any, label: np.ndarray, seed: int
) -> tuple[int, float, float, float]:
    """Compare equal numbers of held-out, synthetic and training cells, by a classifier and by distance."""
    from scipy import sparse
    from sklearn.decomposition import PCA

    from ..metrics import classifier_two_sample_test, copying_test

    rng = np.random.default_rng(seed)
    chosen: list[list[np.ndarray]] = [[], [], []]
    part = min(1.0, MAX_COMPARED / len(cells.y_test))
    for name in np.unique(label):
        rows = [np.flatnonzero(y == name) for y in (cells.y_test, label, cells.y_train)]
        n = min(*(len(r) for r in rows), int(np.ceil(part * len(rows[0]))))
        for kept, r in zip(chosen, rows, strict=True):
            kept.append(rng.choice(r, n, replace=False))
    real, new, old = (np.concatenate(rows) for rows in chosen)
    nan = float("nan")
    if len(real) < MIN_COMPARED:
        return 0, nan, nan, nan
    aucs = [
        classifier_two_sample_test(cells.x_test[real], other, n_trees=100, seed=seed, n_jobs=1).auc
        for other in (x[new], cells.x_train[old])
    ]
    n = min(20, min(cells.x_train.shape) - 1)
    solver = "arpack" if sparse.issparse(cells.x_train) else "randomized"
    pca = PCA(n, svd_solver=solver, random_state=seed).fit(cells.x_train)
    places = [pca.transform(part) for part in (x[new], cells.x_train, cells.x_test[real])]
    try:
        closer = copying_test(*places).share_closer
    except ValueError:  # more than half of the held-out cells are copies of training cells
        closer = nan
    return len(real), aucs[0], aucs[1], closer
