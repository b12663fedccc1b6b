"""Prediction sets: do they cover as stated, how large are they; and is a left-out class found?

    python benchmarks/sets.py --seeds 10

Three parts (60, 20, 20 %; whole donors where there are three or more): the model learns from the first, and the third is scored.
Genes are chosen on the first.

*Coverage* (left out: –). Sets at a level of 0.9 and 0.95: the share of cells whose set holds their label, the
mean number of classes in it, the share of empty sets, and the least coverage of a class with 20 cells or more. "Default" is calibrated on the
tenth of the first part that `train` holds out; "calibrated on other cells" by `calibrate` on one half of the second and third part, the other half is scored, mean of
20 ways to halve them. Each class with 20 calibration cells has a threshold of
its own; "one threshold" has one for all. "Summed probabilities" takes the most probable classes until their
calibrated probabilities add up to the level, which promises nothing. With permuted labels sets must cover as
well, and be large. "Other donor" (pbmc_kang): the model learns from one of the two donors, and the other is
scored, which the promise does not include. One split has a standard error of about 0.02 to 0.03, by
the chance of the calibration cells and of the scored ones. The mean of 20 ways to halve them hardly has any.

*Novelty* (left out: a class). All cells of a class are taken out before the split; AUROC of `novelty` between
these and the third part, and the share of known cells above 0.95, which should be 0.05. Beside it stand
one minus the greatest probability, the distance in latent space alone, and the distance to the
nearest class in ten principal components of the genes. `novelty` was chosen on pbmc_kang and colon_crc, types of the
intestine are unseen. Types that are kinds of one another (CD4 and CD8 T cells) are not told apart by their
nearest class, by any of these.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
from _data import donor_key_of, labels_of, load, log_normalize
from _methods import CIVAE, fitted
from _rules import permuted, three_parts, two_parts
from _study import PERMUTED, Study, run, text_of
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from scivae.metrics import conformal_thresholds, set_coverage
from scivae.train.calibration import ClassGaussians, log_odds_against

KEY = "cell_type"
LEVELS = (0.9, 0.95)
DRAWS = 20
NOTHING = "–"
LEFT_OUT = {
    "pbmc_kang": (
        "B cells",
        "CD14+ Monocytes",
        "CD4 T cells",
        "CD8 T cells",
        "FCGR3A+ Monocytes",
    ),
    "intestine_haber": ("Goblet", "Tuft", "Enterocyte.Mature.Proximal"),
}


class Sets(NamedTuple):
    """Makes prediction sets: ``(model, parts, level) -> booleans (n, n_classes)``."""

    make: Any
    permuted: bool = False
    donors: bool = False


def default(model, parts, level):
    return model.predict(unlabeled(parts.score), return_sets=True, level=level)


def redrawn(model, parts, level):
    """Calibrated on the second part, and put back; see ``halves``."""
    before = model.temperature_, model.calibration_
    try:
        model.calibrate(parts.judge.copy())
        return default(model, parts, level)
    finally:
        model.temperature_, model.calibration_ = before


def halves(parts, seed):
    """The cells of the second and third part, halved at random, again and again."""
    pool = anndata.concat([parts.judge, parts.score])
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        order = rng.permutation(pool.n_obs)
        first, second = np.array_split(order, 2)
        judge, score = (pool[np.sort(cells)].copy() for cells in (first, second))
        yield SimpleNamespace(learn=parts.learn, judge=judge, score=score)


def one_threshold(model, parts, level):
    held, z = model.calibration_, model.get_latent_representation(unlabeled(parts.score))
    thresholds = conformal_thresholds(
        held["scores"],
        held["labels"],
        classes=np.arange(len(model.classes)),
        level=level,
        min_cells=len(held["scores"]) + 1,
        seed=0,
    )
    return pd.DataFrame(
        log_odds_against(model.linear_classes.logits(z)) <= thresholds, columns=model.classes
    )


def summed(model, parts, level):
    chances = model.predict(unlabeled(parts.score), soft=True)
    order = np.argsort(-chances.to_numpy(), axis=1)
    sums = np.cumsum(np.take_along_axis(chances.to_numpy(), order, axis=1), axis=1)
    inside = np.zeros(chances.shape, dtype=bool)
    # Those before the level is reached, and the one that reaches it.
    np.put_along_axis(
        inside, order, sums - np.take_along_axis(chances.to_numpy(), order, 1) < level, 1
    )
    return pd.DataFrame(inside, columns=chances.columns)


def novelty(model, parts, cells):
    return model.novelty(unlabeled(cells)).to_numpy()


def unsure(model, parts, cells):
    return 1 - model.predict(unlabeled(cells), soft=True).max(axis=1).to_numpy()


def in_latent_space(model, parts, cells):
    held = model.calibration_
    gaussians = ClassGaussians(held["means"], held["whitening"])
    return gaussians.distance(model.get_latent_representation(unlabeled(cells)))


def in_components(model, parts, cells):
    x = log_normalize(parts.learn.layers["counts"])
    pca = PCA(10, random_state=0).fit(x)
    codes = pd.Categorical(labels_of(parts.learn, KEY))
    gaussians = ClassGaussians.fit(pca.transform(x), codes.codes, len(codes.categories))
    return gaussians.distance(pca.transform(log_normalize(cells.layers["counts"])))


def unlabeled(adata):
    """Cells as they come: nobody knows their labels."""
    adata = adata.copy()
    del adata.obs[KEY]
    return adata


def prepare(setting, seed, args):
    name, left_out = setting["data"], setting["left out"]
    adata = load(name, KEY, quick=args.quick)
    options = {"n_genes": args.n_genes, "donor_key": donor_key_of(name)}
    if left_out != NOTHING:
        if args.quick and left_out not in labels_of(adata, KEY):  # no data: any class will do
            left_out = labels_of(adata, KEY)[0]
        new = labels_of(adata, KEY) == left_out
        parts = three_parts(adata[~new].copy(), KEY, seed, **options)
        return SimpleNamespace(parts=parts, new=adata[new, parts.learn.var_names].copy())
    found = {
        s: three_parts(permuted(adata, KEY, seed) if s else adata, KEY, seed, **options)
        for s in (False, True)
    }
    donors = by_donor(adata, seed, args.n_genes) if name == "pbmc_kang" else None
    return SimpleNamespace(parts=found[False], permuted=found[True], donors=donors)


def by_donor(adata, seed, n_genes):
    """One of two donors to learn from, the other to be scored."""
    if "donor" not in adata.obs:  # --quick without data
        adata.obs["donor"] = np.where(np.arange(adata.n_obs) % 2, "ctrl1", "ctrl2")
    donor = adata.obs["donor"].astype(str).str.removeprefix("ctrl").str.removeprefix("stim")
    names = sorted(donor.unique())
    first = (donor == names[seed % 2]).to_numpy()
    learn, judge = two_parts(adata[first].copy(), KEY, seed, n_genes)
    known = np.isin(labels_of(adata, KEY), labels_of(learn, KEY))
    score = adata[~first & known, learn.var_names].copy()
    return SimpleNamespace(learn=learn, judge=judge, score=score)


def measure(row, data, seed, args):
    if not isinstance(row, Sets):
        method = trained(data.parts, seed, args)
        known, new = (row(method.model, data.parts, c) for c in (data.parts.score, data.new))
        found = {
            "AUROC": float(
                roc_auc_score(np.repeat([0, 1], [len(known), len(new)]), [*known, *new])
            ),
            "known cells above 0.95": float((known > 0.95).mean()) if row is novelty else np.nan,
        }
        scored = len(known) + len(new)
    else:
        parts = data.permuted if row.permuted else data.donors if row.donors else data.parts
        method = trained(parts, seed, args)
        draws = halves(parts, seed) if row.make is redrawn else [parts]
        rows = pd.DataFrame([covered(row.make, method.model, draw) for draw in draws])
        found = rows.mean().to_dict()
        scored = parts.score.n_obs
    return {
        **found,
        "cells learned from": method.train.n_obs,
        "cells scored": scored,
        STUDY.time: method.seconds,
    }


def covered(make, model, parts):
    """Columns of the sets of a model."""
    y, found = labels_of(parts.score, KEY), {}
    sizes = pd.Series(y).value_counts()
    for level in LEVELS:
        sets = make(model, parts, level)
        cover = set_coverage(sets, y, classes=sets.columns.astype(str))
        large = [v for k, v in cover.per_class.items() if sizes[k] >= 20]
        found |= {
            f"coverage at {level}": cover.coverage,
            f"classes in a set, {level}": cover.mean_size,
            f"empty, {level}": cover.empty,
            f"least covered class, {level}": min(large, default=np.nan),
        }
    return found


def trained(parts, seed, args):
    """The model; a tenth of its cells is held out, and calibrates it."""
    return fitted(CIVAE(train_size=0.9), parts.learn, KEY, seed, args.epochs)


METHODS = {
    "sets, default": Sets(default),
    "sets, calibrated on other cells": Sets(redrawn),
    "sets, one threshold": Sets(one_threshold),
    "summed probabilities": Sets(summed),
    f"sets, default, {PERMUTED}": Sets(default, permuted=True),
    "sets, default, other donor": Sets(default, donors=True),
    "novelty": novelty,
    "1 − greatest probability": unsure,
    "distance in latent space alone": in_latent_space,
    "distance in principal components": in_components,
}


def skip(setting, name):
    of_sets = isinstance(METHODS[name], Sets)
    if of_sets and METHODS[name].donors and setting["data"] != "pbmc_kang":
        return True
    return of_sets != (setting["left out"] == NOTHING)


def of_file(name, args):
    """Coverage, and each class of 50 cells or more (the ten largest) left out in turn."""
    sizes = load(name, KEY).obs[KEY].value_counts()
    return [
        {"data": name, "left out": left_out}
        for left_out in (NOTHING, *map(str, sizes.index[sizes >= 50][:10]))
    ]


STUDY = Study(
    name="sets",
    title="Prediction sets and novelty",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        {"data": name, "left out": left_out}
        for name in ("pbmc_kang", "colon_crc", "intestine_haber")
        for left_out in (NOTHING, *LEFT_OUT.get(name, ()))
    ],
    prepare=prepare,
    measure=measure,
    skip=skip,
    options=lambda parser: parser.add_argument("--n-genes", type=int, default=1000),
    quick={"only": ["data=pbmc_kang"]},
    time="CPU time, s",
    of_file=of_file,
)

if __name__ == "__main__":
    run(STUDY)
