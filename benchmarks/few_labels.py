"""Few labels, or wrong ones: which class is a cell of?

    python benchmarks/few_labels.py

20 % of the cells are held out (whole donors where there are three or more), genes are chosen on the others. Of
these, each class keeps the labels of the stated share of its cells, drawn at random, and of at least one;
the smaller sets lie inside the larger. "Labels wrong": so many of all labels are replaced, each by another class drawn at
random. Networks are trained on all training cells. Scored are the held-out
cells: macro F1, and balanced accuracy (mean recall over classes), which is 1 / classes by chance. In the row
with permuted labels (25 % of them kept), they were shuffled before anything else. Seconds are those of one processor.

The logistic regressions weigh classes by one over their size ("balanced") and see labeled cells only: their
genes, or their latent points in a network that was trained on all cells, a VAE or "the recipe", which is the
network of this package, trained in the same way, without its discriminator (β = 0). "SCANVI, tuned" has the settings (weight
of the labels, epochs, learning rate) that were best of six on [other splits](scanvi_settings.md); "SCANVI" has those of scvi-tools. `JointEmbeddingSCVI` needs scvi-tools 1.5 (Python 3.12).

"CI-VAE, labels doubted" is `CIVAE(label_robustness=0.7)`, chosen on other splits ([what was tried](tried.md)).

The calibration error is the expected one over 15 bins of confidence, 0 is best. CI-VAE can divide its logits
by a temperature that is fitted on the tenth of the training cells that it holds out, and so trains on
fewer: "before" is without it. "No cell held out" trains on all, as the other methods do. The other methods
state their probabilities once, which stand under "before".
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
from _data import donor_key_of, labels_of, load
from _methods import (
    CIVAE,
    SCANVI,
    UNKNOWN,
    VAE,
    JointEmbedding,
    LogisticGenes,
    LogisticLatent,
    fitted,
    recipe,
    tuned_scanvi,
)
from _rules import permuted, two_parts
from _study import PERMUTED, Study, run, text_of
from class_kept import Row
from sklearn.metrics import balanced_accuracy_score

from scivae.metrics import expected_calibration_error, macro_f1

KEY = "cell_type"
# Labels kept, and wrong, in percent.
SETTINGS = ((1, 0), (5, 0), (10, 0), (25, 0), (100, 0), (100, 10), (100, 20), (100, 40))
KEPT, WRONG = "labels kept, %", "labels wrong, %"
ON_RECIPE = "logistic regression, latent space of the recipe"


def prepare(setting, seed, args):
    name = setting["data"]
    adata = load(name, KEY, quick=args.quick)
    return {
        shuffled: few(permuted(adata, KEY, seed) if shuffled else adata, setting, seed, args)
        for shuffled in (False, True)
    }


def few(adata, setting, seed, args):
    """Training cells of which few have a label, and held-out cells."""
    donor_key = donor_key_of(setting["data"])
    train, test = two_parts(adata, KEY, seed, args.n_genes, donor_key=donor_key)
    y = labels_of(train, KEY)
    rng = np.random.default_rng(seed)
    kept = np.full(len(y), UNKNOWN, dtype=object)
    for label in np.unique(y):
        cells = rng.permutation(np.flatnonzero(y == label))
        kept[cells[: max(1, round(setting[KEPT] / 100 * len(cells)))]] = label
    kept = with_wrong(kept, setting[WRONG], rng)
    train.obs[KEY] = pd.Categorical(kept)
    return SimpleNamespace(train=train, test=test)


def with_wrong(labels, percent, rng):
    """Labels of which so many are replaced, each by another class."""
    known = np.flatnonzero(labels != UNKNOWN)
    classes = np.unique(labels[known].astype(str))
    chosen = rng.permutation(known)[: round(percent / 100 * len(known))]
    labels = labels.copy()
    for i in chosen:
        labels[i] = rng.choice(classes[classes != labels[i]])
    return labels


def measure(row, data, seed, args):
    data = data[row.permuted]
    method = fitted(row.make(), data.train, KEY, seed, args.epochs)
    stated = method.predict(data.test)
    y, classes = labels_of(data.test, KEY), np.asarray(stated.columns.astype(str))
    guess = classes[stated.to_numpy().argmax(axis=1)]
    calibrated = getattr(method, "predict_uncalibrated", None)
    before = calibrated(data.test) if calibrated else stated
    found = {
        "macro F1": macro_f1(y, guess),
        "balanced accuracy": float(balanced_accuracy_score(y, guess)),
        "accuracy": float((guess == y).mean()),
        "calibration error, before": expected_calibration_error(
            before.to_numpy(), y, classes=classes
        ),
        "calibration error, after": expected_calibration_error(
            stated.to_numpy(), y, classes=classes
        )
        if calibrated and method.train_size < 1
        else np.nan,
        "chance": 1 / len(np.unique(y)),
        "labeled cells": int((labels_of(data.train, KEY) != UNKNOWN).sum()),
        "cells learned from": data.train.n_obs,
        "cells scored": data.test.n_obs,
    }
    return {**found, STUDY.time: method.seconds}


METHODS = {
    "logistic regression, genes": Row(lambda: LogisticGenes(balanced=True)),
    "logistic regression, latent space of a VAE": Row(lambda: LogisticLatent(VAE, balanced=True)),
    ON_RECIPE: Row(lambda: LogisticLatent(recipe, balanced=True)),
    "logistic regression, JointEmbeddingSCVI's latent space": Row(
        lambda: LogisticLatent(JointEmbedding, balanced=True)
    ),
    "SCANVI": Row(SCANVI),
    "SCANVI, tuned": Row(tuned_scanvi),
    "SCANVI, linear classifier": Row(lambda: SCANVI(linear_classifier=True)),
    "CI-VAE (default)": Row(lambda: CIVAE(train_size=0.9)),
    "CI-VAE, no cell held out": Row(CIVAE),
    "CI-VAE, labels doubted": Row(lambda: CIVAE(train_size=0.9, label_robustness=0.7)),
    f"CI-VAE, {PERMUTED}": Row(CIVAE, permuted=True),
}


STUDY = Study(
    name="few_labels",
    title="Few labels, wrong labels",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        {"data": name, KEPT: kept, WRONG: wrong}
        for name in ("intestine_haber", "colon_crc", "pbmc_kang")
        for kept, wrong in SETTINGS
    ],
    prepare=prepare,
    measure=measure,
    # Where a quarter of the labels is kept, memory has most to remember.
    skip=lambda setting, name: PERMUTED in name and setting[KEPT] != 25,
    options=lambda parser: parser.add_argument("--n-genes", type=int, default=1000),
    quick={"only": ["data=colon_crc", f"{KEPT}=25"]},
    time="CPU time, s",
    judged=["balanced accuracy"],
    rules=lambda: {name: row.make().rules() for name, row in METHODS.items() if row.make},
    reference=ON_RECIPE,
    compared=["macro F1"],
)

if __name__ == "__main__":
    run(STUDY)
