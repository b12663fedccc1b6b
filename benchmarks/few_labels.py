"""Few labels: which class is a cell of, when 1 to 25 % of the training cells have a label?

    python benchmarks/few_labels.py

20 % of the cells are held out (whole donors where there are three or more), genes are chosen on the others. Of
these, each class keeps the labels of the stated share of its cells, drawn at random, and of at least one;
the smaller sets lie inside the larger. Networks are trained on all training cells. Scored are the held-out
cells: macro F1, and balanced accuracy (mean recall over classes), which is 1 / classes by chance. In the row
with permuted labels (25 % of them kept), they were shuffled before anything else.

The logistic regressions weigh classes by one over their size ("balanced") and see labeled cells only: their
genes, or their latent points in a network that was trained on all cells, a VAE or "the recipe", which is the
network of this package, trained in the same way, without its discriminator (β = 0).

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
from _figures import curves
from _methods import CIVAE, SCANVI, UNKNOWN, VAE, LogisticGenes, LogisticLatent, fitted
from _rules import permuted, two_parts
from _study import PERMUTED, Study, run, text_of
from class_kept import Row, recipe
from sklearn.metrics import balanced_accuracy_score

from scivae.metrics import expected_calibration_error, macro_f1

KEY = "cell_type"
SHARES = (1, 5, 10, 25)
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
        kept[cells[: max(1, round(setting["labels kept, %"] / 100 * len(cells)))]] = label
    train.obs[KEY] = pd.Categorical(kept)
    return SimpleNamespace(train=train, test=test)


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
    "SCANVI": Row(SCANVI),
    "CI-VAE (default)": Row(lambda: CIVAE(train_size=0.9)),
    "CI-VAE, no cell held out": Row(CIVAE),
    f"CI-VAE, {PERMUTED}": Row(CIVAE, permuted=True),
}


def finish(rows, folder):
    """Draw macro F1 by the share of labels."""
    curves(
        rows,
        "labels kept, %",
        "macro F1",
        {
            "CI-VAE (default)": "CI-VAE",
            ON_RECIPE: "same network, β = 0, and balanced regression",
            "SCANVI": "SCANVI",
            "logistic regression, genes": "balanced regression on genes",
        },
        folder / "few_labels.png",
        labels=("labels kept, %", "macro F1, held-out cells"),
        groups=list(dict.fromkeys(rows["data"])),
        kinds={"CI-VAE (default)": "ours", ON_RECIPE: "reference"},
    )


STUDY = Study(
    name="few_labels",
    title="Few labels",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        {"data": name, "labels kept, %": share}
        for name in ("intestine_haber", "colon_crc", "pbmc_kang")
        for share in SHARES
    ],
    prepare=prepare,
    measure=measure,
    # Where a quarter of the labels is kept, memory has most to remember.
    skip=lambda setting, name: PERMUTED in name and setting["labels kept, %"] != SHARES[-1],
    options=lambda parser: parser.add_argument("--n-genes", type=int, default=1000),
    finish=finish,
    quick={"only": ["data=colon_crc", "labels kept, %=25"]},
    judged=["balanced accuracy"],
    rules=lambda: {name: row.make().rules() for name, row in METHODS.items() if row.make},
    reference=ON_RECIPE,
    compared=["macro F1"],
)

if __name__ == "__main__":
    run(STUDY)
