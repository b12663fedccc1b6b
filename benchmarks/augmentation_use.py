"""What cells made of a rare class are good for: does a classifier of real cells gain by them?

    python benchmarks/augmentation_use.py

20 % of the cells are held out (whole donors where there are three or more), genes are chosen on the others. One class is made rare: of its training cells
5, 10 or 20 are kept. It is the class, of those with 100 cells or more, that a logistic regression
tells apart worst (F1 score, five-fold cross-validation on the training cells of the first seed). The methods learn from what is left of the
training cells, and make as many cells of that class as raise it to the median size of the other classes.
A logistic regression is fitted on the real training cells and these, log-normalized, and scored on held-out cells: area under the
precision-recall curve of that class (AUPRC), F1 score, and macro F1 over all. Its penalty and the probability above which a cell is called that
class are chosen for each row by three-fold cross-validation on the real training cells (made cells are only learned from; they come from all
kept cells, those of the fold too, for each method alike).

"Nothing" adds no cells, "class weights" weighs classes by one over their size, "all cells kept" is the classifier before
cells were taken away. In the row with permuted labels, labels were shuffled before anything else: AUPRC must be the frequency of the class, or the protocol
rewards memory. "The recipe" is the same network without the discriminator (β = 0).
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from _data import donor_key_of, labels_of, load, log_normalize
from _methods import AUGMENTERS, CIVAE, fitted
from _rules import permuted, two_parts
from _study import PERMUTED, Study, run, text_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from scivae.metrics import f1_per_class, macro_f1

KEY = "cell_type"
KEPT = (5, 10, 20)
PENALTIES = (0.03, 0.3, 3.0)
RECIPE = "CI-VAE, β = 0 (the recipe), lines"


class Row(NamedTuple):
    """A method, or what is done in place of one; and whether labels are permuted."""

    make: Any
    permuted: bool = False


def parts(adata, name, seed, args):
    return two_parts(adata, KEY, seed, args.n_genes, donor_key=donor_key_of(name))


@lru_cache
def hard_class(name: str, quick: bool, n_genes: int) -> str:
    """The class of at least 100 cells (20, if quick) that is told apart worst."""
    adata = load(name, KEY, quick=quick)
    train, _ = two_parts(adata, KEY, 0, n_genes, donor_key=donor_key_of(name))
    x, y = log_normalize(train.layers["counts"]), labels_of(train, KEY)
    guess = cross_val_predict(
        LogisticRegression(max_iter=2000), x, y, cv=StratifiedKFold(5, shuffle=True, random_state=0)
    )
    scores = f1_per_class(y, guess)
    least = 0.8 * (20 if quick else 100)
    large = [c for c in scores if (y == c).sum() >= least]
    return min(large or scores, key=scores.__getitem__)


def prepare(setting, seed, args):
    name = setting["data"]
    adata = load(name, KEY, quick=args.quick)
    label = hard_class(name, args.quick, args.n_genes)
    return {
        shuffled: rare(
            permuted(adata, KEY, seed) if shuffled else adata, label, setting, seed, args
        )
        for shuffled in (False, True)
    }


def rare(adata, label, setting, seed, args):
    """Training cells, few of them of the class, and held-out cells."""
    train, test = parts(adata, setting["data"], seed, args)
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


def measure(row, data, seed, args):
    data = data[row.permuted]
    train = data.everything if row.make == "everything" else data.train
    x, y = log_normalize(train.layers["counts"]), labels_of(train, KEY)
    seconds, made = 0.0, x[:0]
    if callable(row.make):
        method = fitted(row.make(), train, KEY, seed, args.epochs)
        seconds = method.seconds
        made = method.augment(data.label, data.missing, seed)
    weights = "balanced" if row.make == "weights" else None
    chances, guess = classified(x, y, made, data, weights, seed)
    is_class = data.y_test == data.label
    return {
        "class": data.label,
        "AUPRC": float(average_precision_score(is_class, chances)),
        "F1": f1_per_class(data.y_test, guess)[data.label],
        "macro F1": macro_f1(data.y_test, guess),
        "chance": float(is_class.mean()),
        "cells learned from": len(x),
        "cells scored": len(data.y_test),
        STUDY.time: seconds,
    }


def classified(x, y, made, data, weights, seed):
    """Probabilities of the class in held-out cells, and labels, with penalty and threshold chosen."""
    is_class = y == data.label
    folds = StratifiedKFold(min(3, is_class.sum()), shuffle=True, random_state=seed)
    best = (-1.0, PENALTIES[0], 0.5)
    for penalty in PENALTIES:
        chances = np.empty(len(y))
        for learn, score in folds.split(x, is_class):
            model = fit(x[learn], y[learn], made, data.label, weights, penalty)
            chances[score] = probability(model, x[score], data.label)
        for threshold in np.unique(np.quantile(chances[is_class], np.linspace(0, 1, 11))):
            found = f1_score(is_class, chances >= threshold)
            best = max(best, (found, penalty, float(threshold)))
    model = fit(x, y, made, data.label, weights, best[1])
    chances = probability(model, data.x_test, data.label)
    others = model.predict_proba(data.x_test)
    others[:, list(model.classes_).index(data.label)] = -1
    guess = np.where(chances >= best[2], data.label, model.classes_[others.argmax(axis=1)])
    return chances, guess


def fit(x, y, made, label, weights, penalty):
    return LogisticRegression(C=penalty, max_iter=500, class_weight=weights).fit(
        np.concatenate([x, made]), np.concatenate([y, np.full(len(made), label)])
    )


def probability(model, x, label):
    return model.predict_proba(x)[:, list(model.classes_).index(label)]


METHODS = {
    "all cells kept": Row("everything"),
    "nothing": Row("nothing"),
    "class weights": Row("weights"),
    **{name: Row(make) for name, make in AUGMENTERS.items()},
    f"CI-VAE, lines, {PERMUTED}": Row(CIVAE, permuted=True),
}

STUDY = Study(
    name="augmentation_use",
    title="Made cells: what a classifier gains",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        {"data": name, "kept": kept}
        for name in ("intestine_haber", "colon_crc", "pbmc_kang")
        for kept in KEPT
    ],
    prepare=prepare,
    measure=measure,
    # Where most cells are kept, memory has most to remember.
    skip=lambda setting, name: PERMUTED in name and setting["kept"] != KEPT[-1],
    options=lambda parser: parser.add_argument("--n-genes", type=int, default=1000),
    quick={"only": ["data=pbmc_kang", "kept=5"]},
    time="CPU time, s",
    judged=["AUPRC"],
    rules=lambda: {n: row.make().rules() for n, row in METHODS.items() if callable(row.make)},
    reference=RECIPE,
    compared=["AUPRC", "F1"],
    protocol=2,
)

if __name__ == "__main__":
    run(STUDY)
