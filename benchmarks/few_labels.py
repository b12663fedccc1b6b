"""Few labels: which class is a cell of, when 1 to 25 % of the training cells have a label?

    python benchmarks/few_labels.py

20 % of the cells are held out, genes are chosen on the others. Of these, each class keeps the labels of the
stated share of its cells, drawn at random, and of at least one; the smaller sets lie inside the larger.
Networks are trained on all training cells, logistic regressions on genes on the labeled ones only, and on
latent points of a VAE that was trained on all. Scored are the held-out cells. On the mouse intestine
(fewer shares) no setting of any method was chosen.

The calibration error is the expected one over 15 bins of confidence, 0 is best. CI-VAE divides its logits
by a temperature that is fitted on the tenth of the training cells that it holds out, and so trains on
fewer: "before" is without it. "No cell held out" trains on all, as the other methods do. "No warm-up" has the full weight of the discriminator from the first epoch
(colon_crc only). The other methods state their probabilities once, which stand under "before".

The regressions are not balanced. Balanced logistic regression on the latent space of CI-VAE at β = 0 does as well as CI-VAE.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
from _data import labels_of, load, split
from _methods import CIVAE, SCANVI, UNKNOWN, LogisticGenes, LogisticLatent, fitted
from _study import Study, run, text_of

from scivae.metrics import expected_calibration_error, macro_f1

KEY = "cell_type"
SHARES = (1, 5, 10, 25)


def prepare(setting, seed, args):
    adata = load(setting["data"], KEY, quick=args.quick)
    train, test = split(adata, KEY, seed, args.n_genes)
    y = labels_of(train, KEY)
    rng = np.random.default_rng(seed)
    kept = np.full(len(y), UNKNOWN, dtype=object)
    for label in np.unique(y):
        cells = rng.permutation(np.flatnonzero(y == label))
        kept[cells[: max(1, round(setting["labels kept, %"] / 100 * len(cells)))]] = label
    train.obs[KEY] = pd.Categorical(kept)
    return SimpleNamespace(train=train, test=test)


def measure(make, data, seed, args):
    method = fitted(make(), data.train, KEY, seed, args.epochs)
    stated = method.predict(data.test)
    y, classes = labels_of(data.test, KEY), np.asarray(stated.columns.astype(str))
    guess = classes[stated.to_numpy().argmax(axis=1)]
    calibrated = getattr(method, "predict_uncalibrated", None)
    before = calibrated(data.test) if calibrated else stated
    row = {
        "labeled cells": int((labels_of(data.train, KEY) != UNKNOWN).sum()),
        "accuracy": float((guess == y).mean()),
        "macro F1": macro_f1(y, guess),
        "calibration error, before": expected_calibration_error(
            before.to_numpy(), y, classes=classes
        ),
        "calibration error, after": expected_calibration_error(
            stated.to_numpy(), y, classes=classes
        )
        if calibrated and method.train_size < 1
        else np.nan,
    }
    return {**row, STUDY.time: method.seconds}


METHODS = {
    "logistic regression, genes": LogisticGenes,
    "logistic regression, VAE latent": LogisticLatent,
    "SCANVI": SCANVI,
    "SCANVI, linear classifier": lambda: SCANVI(linear_classifier=True),
    "CI-VAE (default)": lambda: CIVAE(train_size=0.9),
    "CI-VAE, no cell held out": CIVAE,
    "CI-VAE, β = 50": lambda: CIVAE(train_size=0.9, discriminator_weight=50.0),
    "CI-VAE, β = 50, no warm-up": lambda: CIVAE(
        train_size=0.9, discriminator_weight=50.0, module={"warm_up_discriminator": False}
    ),
}

NOT_FOR = {
    "SCANVI, linear classifier": ("intestine_haber",),
    "CI-VAE, β = 50": ("intestine_haber",),
    "CI-VAE, β = 50, no warm-up": ("intestine_haber", "pbmc_kang"),
}

STUDY = Study(
    name="few_labels",
    title="Few labels",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        {"data": name, "labels kept, %": share}
        for name, shares in (
            ("colon_crc", SHARES),
            ("pbmc_kang", SHARES),
            ("intestine_haber", (5, 25)),
        )
        for share in shares
    ],
    prepare=prepare,
    measure=measure,
    skip=lambda setting, name: setting["data"] in NOT_FOR.get(name, ()),
    options=lambda parser: parser.add_argument("--n-genes", type=int, default=1000),
    quick={"only": ["data=colon_crc", "labels kept, %=10"]},
)

if __name__ == "__main__":
    run(STUDY)
