"""What cells made of a rare class are good for: does a classifier of real cells gain by them?

    python benchmarks/augmentation_use.py

20 % of the cells are held out, genes are chosen on the others. One class is made rare: of its training cells
5, 10, 20 or 50 are kept. It is the class, of those with 100 cells or more, that a logistic regression
tells apart worst (F1 score, five-fold cross-validation on the training cells of the first seed). The methods learn from what is left of the
training cells, and make as many cells of that class as raise it to the median size of the other classes.
A logistic regression is fitted on the real training cells and these, log-normalised, and scored on real
held-out cells: F1 score, precision and recall of that class, and macro F1 over all. "Nothing" adds no
cells, "class weights" weighs classes by one over their size, "all cells kept" is the classifier before
cells were taken away. With 50 cells kept, fewer methods are tried.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from _data import labels_of, load, log_normalize, split
from _methods import AUGMENTERS, fitted
from _study import Study, run, text_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from scivae.metrics import f1_per_class, macro_f1

KEY = "cell_type"


@lru_cache
def hard_class(name: str, quick: bool, n_genes: int) -> str:
    """The class of at least 100 cells (20, if quick) that is told apart worst."""
    train, _ = split(load(name, KEY, quick=quick), KEY, 0, n_genes)
    x, y = log_normalize(train.layers["counts"]), labels_of(train, KEY)
    guess = cross_val_predict(
        LogisticRegression(max_iter=2000), x, y, cv=StratifiedKFold(5, shuffle=True, random_state=0)
    )
    scores = f1_per_class(y, guess)
    least = 0.8 * (20 if quick else 100)
    return min((c for c in scores if (y == c).sum() >= least), key=scores.__getitem__)


def prepare(setting, seed, args):
    train, test = split(load(setting["data"], KEY, quick=args.quick), KEY, seed, args.n_genes)
    label = hard_class(setting["data"], args.quick, args.n_genes)
    y = labels_of(train, KEY)
    of_class = np.random.default_rng(seed).permutation(np.flatnonzero(y == label))
    kept = np.sort(np.concatenate([np.flatnonzero(y != label), of_class[: setting["kept"]]]))
    sizes = np.unique(y[y != label], return_counts=True)[1]
    return SimpleNamespace(
        everything=train,
        train=train[kept].copy(),
        x_test=log_normalize(test.layers["counts"]),
        y_test=labels_of(test, KEY),
        label=label,
        missing=max(1, int(np.median(sizes)) - min(setting["kept"], len(of_class))),
    )


def measure(make, data, seed, args):
    train = data.everything if make == "everything" else data.train
    x, y = log_normalize(train.layers["counts"]), labels_of(train, KEY)
    seconds = 0.0
    if callable(make):
        method = fitted(make(), train, KEY, seed, args.epochs)
        seconds = method.seconds
        x = np.concatenate([x, method.augment(data.label, data.missing, seed)])
        y = np.concatenate([y, np.full(data.missing, data.label)])
    weights = "balanced" if make == "weights" else None
    guess = LogisticRegression(max_iter=2000, class_weight=weights).fit(x, y).predict(data.x_test)
    is_class, called = data.y_test == data.label, guess == data.label
    return {
        "class": data.label,
        "F1": f1_per_class(data.y_test, guess)[data.label],
        "precision": float(precision_score(is_class, called, zero_division=0)),
        "recall": float(recall_score(is_class, called)),
        "macro F1": macro_f1(data.y_test, guess),
        "training time, s": seconds,
    }


METHODS = {
    "all cells kept": "everything",
    "nothing": "nothing",
    "class weights": "weights",
    **AUGMENTERS,
}

NOT_WITH_50 = {
    "PCA, OT midpoints",
    "PCA, Gaussian",
    "SCANVI, linear classifier, lines",
    "conditional VAE, prior",
    "conditional VAE, lines",
    *(name for name in AUGMENTERS if "β = 50" in name),
}

STUDY = Study(
    name="augmentation_use",
    title="Augmentation: what a classifier gains",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        {"data": name, "kept": kept}
        for name in ("pbmc_kang", "colon_crc")
        for kept in (5, 10, 20, 50)
    ],
    prepare=prepare,
    measure=measure,
    skip=lambda setting, name: setting["kept"] == 50 and name in NOT_WITH_50,
    options=lambda parser: parser.add_argument("--n-genes", type=int, default=1000),
    quick={"only": ["data=pbmc_kang", "kept=5"]},
)

if __name__ == "__main__":
    run(STUDY)
