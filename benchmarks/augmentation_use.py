"""What cells made of a rare class are good for: does a classifier of real cells gain by them?

    python benchmarks/augmentation_use.py

20 % of the cells are held out (whole donors where there are three or more), genes are chosen on the others. One class is made rare: of its training cells
5, 10 or 20 are kept. It is the class, of those with 100 cells or more, that a logistic regression
tells apart worst (F1 score, five-fold cross-validation on the training cells of the first seed). The methods learn from what is left of the
training cells, and make as many cells of that class as raise it to the median size of the other classes.
A logistic regression is fitted on the real training cells and these, log-normalized, and scored on held-out cells: area under the
precision-recall curve of that class (AUPRC), F1 score if as many cells are called that class as are of it (no threshold is needed, which is as good for every row), and
F1 score and macro F1 of the most probable class. Its penalty is the same in all rows: the one that tells the
*other* classes apart best in three-fold cross-validation on real training cells. Nothing is tuned on the few cells: made cells resemble the very
cells that they come from, so that a threshold that fits these finds no other cell of the class (F1 scores of 0 in an earlier version of this table).

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
from sklearn.metrics import average_precision_score
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
        penalty=penalty_of(setting["data"], seed, args.quick, args.n_genes),
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
    model = LogisticRegression(C=data.penalty, max_iter=500, class_weight=weights)
    model.fit(np.concatenate([x, made]), np.concatenate([y, np.full(len(made), data.label)]))
    chances = model.predict_proba(data.x_test)[:, list(model.classes_).index(data.label)]
    guess, is_class = model.predict(data.x_test), data.y_test == data.label
    return {
        "class": data.label,
        "penalty": data.penalty,
        "AUPRC": float(average_precision_score(is_class, chances)),
        "F1, as many called as there are": float(
            is_class[np.argsort(-chances, kind="stable")][: is_class.sum()].mean()
        ),
        "F1, most probable class": f1_per_class(data.y_test, guess)[data.label],
        "macro F1, most probable class": macro_f1(data.y_test, guess),
        "chance": float(is_class.mean()),
        "cells learned from": len(x),
        "cells scored": len(data.y_test),
        STUDY.time: seconds,
    }


@lru_cache
def penalty_of(name: str, seed: int, quick: bool, n_genes: int) -> float:
    """The penalty with which classes other than the rare one are told apart best."""
    adata = load(name, KEY, quick=quick)
    train, _ = parts(adata, name, seed, SimpleNamespace(n_genes=n_genes))
    y = labels_of(train, KEY)
    others = train[y != hard_class(name, quick, n_genes)]
    x, y = log_normalize(others.layers["counts"]), labels_of(others, KEY)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    if len(np.unique(y)) < 2:  # there is nothing else to tell apart
        return PENALTIES[1]

    def score(penalty):
        model = LogisticRegression(C=penalty, max_iter=500)
        return macro_f1(y, cross_val_predict(model, x, y, cv=folds))

    return max(PENALTIES, key=score)


METHODS = {
    "all cells kept": Row("everything"),
    "nothing": Row("nothing"),
    "class weights": Row("weights"),
    **{name: Row(make) for name, make in AUGMENTERS.items()},
    f"CI-VAE, lines, {PERMUTED}": Row(CIVAE, permuted=True),
}

STUDY = Study(
    name="augmentation_use",
    title="Generated cells: what a classifier gains",
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
    compared=["AUPRC", "F1, as many called as there are"],
    protocol=3,
)

if __name__ == "__main__":
    run(STUDY)
