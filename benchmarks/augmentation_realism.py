"""Cells made of every class: are they of it, could they pass for real, are they copies?

    python benchmarks/augmentation_realism.py

Three parts (60, 20, 20 %; whole donors where there are three or more): methods learn from the first, genes are chosen on it, and all cells are made from
its cells. Judges are fitted on the second part. Real cells of the third part are what made ones are compared with; of each class, as many are
made. All methods of networks decode with library sizes of real cells and reject nothing, except the rows with `augment`, whose acceptance rule is part of the method.

Energy distance and W1 are means over classes with ten cells or more, in 20 principal components of the first part, equally many cells on both sides; the floor
is one half of the real cells against the other. "Forest AUC" is the area under the curve of a random forest that tells made cells
from real ones by their genes (5 folds), "1-NN accuracy" the share of cells whose nearest neighbor is of their own kind; 0.5 is best for both. "Precision" is the share of
made cells inside the real ones' neighborhoods, "recall" the reverse (k = 3). "Nearer than real" is the probability that a made cell is nearer to its nearest
cell of the first part than a real cell of the third part is: 0.5 for fresh cells, 1 for copies. "Called by their class" is by the
judges (mean over classes). "Real cells" are those of the second part: the ceiling.

In the row with permuted labels, labels were shuffled before anything else: "called by their class" must lie at chance, or the protocol
rewards memory. `augment` draws places on lines from Beta(0.2, 0.2), which was chosen on pbmc_kang, colon_crc and synthetic cells;
in one row they are uniform. "The recipe" is the same network without the discriminator (β = 0).
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from _methods import AUGMENTERS, CIVAE, CIVAEAugment, CIVAEPosterior, fitted
from _rules import copies, distances, judged_parts
from _study import PERMUTED, Study, run, text_of
from sklearn.neighbors import NearestNeighbors

from scivae.metrics import (
    classifier_two_sample_test,
    copying_test,
    gene_gene_correlation,
    path_purity,
    precision_recall,
)
from scivae.model import _drawing

KEY = "cell_type"
RECIPE = "CI-VAE, β = 0 (the recipe), lines"


class Row(NamedTuple):
    """A method (``None``: real cells of the second part), and whether labels are permuted."""

    make: Any
    permuted: bool = False


class UniformPlaces(CIVAEAugment):
    """``augment`` with places on lines that are uniform."""

    def augment(self, label, n, seed):
        before, _drawing.PLACES = _drawing.PLACES, 1.0
        try:
            return super().augment(label, n, seed)
        finally:
            _drawing.PLACES = before


def prepare(setting, seed, args):
    return judged_parts(setting["data"], KEY, seed, args)


def measure(row, data, seed, args):
    data = data[row.permuted]
    names, sizes = np.unique(data.y, return_counts=True)
    seconds = 0.0
    if row.make is None:
        rng = np.random.default_rng(seed)
        of = [rng.permutation(np.flatnonzero(data.y_second == name)) for name in names]
        made = [data.second[cells[:n]] for cells, n in zip(of, sizes, strict=True)]
    else:
        method = fitted(row.make(), data.parts.learn, KEY, seed, args.epochs)
        start = time.process_time()
        made = [method.augment(name, n, seed) for name, n in zip(names, sizes, strict=True)]
        seconds = method.seconds + time.process_time() - start
    cells = np.concatenate(made)
    labels = np.repeat(names, [len(part) for part in made])
    # Judges know the second part: real cells that they are asked about are those of the third.
    asked = (data.real, data.y) if row.make is None else (cells, labels)
    return {
        **realism(cells, labels, data, seed, args),
        **{
            f"called by their class ({kind.replace('_', ' ')})": path_purity(judge, *asked).mean
            for kind, judge in data.judges.items()
        },
        "chance": 1 / len(names),
        "cells learned from": len(data.x),
        "cells scored": len(data.real),
        STUDY.time: seconds,
    }


def realism(cells, labels, data, seed, args):
    """Columns of realism."""
    made, real = data.pca.transform(cells), data.pca.transform(data.real)
    rows = [
        distances(made[labels == label], real[data.y == label], seed)
        for label in np.unique(data.y)
        if min((data.y == label).sum(), (labels == label).sum()) >= 10
    ]
    n = min(len(made), len(real))
    rng = np.random.default_rng(seed)
    some, others = rng.permutation(len(made))[:n], rng.permutation(len(real))[:n]
    inside = precision_recall(real[others], made[some])
    copied = copying_test(cells, data.x, data.real)
    return {
        **{c: float(np.mean([row[c] for row in rows])) for c in (rows[0] if rows else ())},
        "forest AUC": classifier_two_sample_test(
            data.real[others], cells[some], n_trees=args.n_trees, seed=seed
        ).auc,
        "1-NN accuracy": nearest_neighbor_accuracy(real[others], made[some]),
        "precision": inside.precision,
        "recall": inside.recall,
        "gene-gene correlation": gene_gene_correlation(data.real, cells).pearson,
        "nearer than real": copied.share_closer,
        "copies": float(copies(cells, data.x, data.real) is not None),
    }


def nearest_neighbor_accuracy(a: np.ndarray, b: np.ndarray) -> float:
    """Share of points whose nearest other point is of their own cloud; 0.5 for equal clouds."""
    both = np.concatenate([a, b])
    kind = np.repeat([0, 1], [len(a), len(b)])
    nearest = NearestNeighbors(n_neighbors=2).fit(both).kneighbors(both, return_distance=False)
    own = np.arange(len(both))
    other = np.where(nearest[:, 0] == own, nearest[:, 1], nearest[:, 0])
    return float((kind[other] == kind).mean())


def options(parser):
    parser.add_argument("--n-genes", type=int, default=1000)
    parser.add_argument("--n-trees", type=int, default=100, help="of the forest that tells apart")


METHODS = {
    "real cells": Row(None),
    **{name: Row(make) for name, make in AUGMENTERS.items()},
    "CI-VAE, augment, uniform places": Row(UniformPlaces),
    "CI-VAE, augment, labels doubted": Row(lambda: CIVAEAugment(label_robustness=0.7)),
    "CI-VAE, posterior draws, no line": Row(CIVAEPosterior),
    f"CI-VAE, lines, {PERMUTED}": Row(CIVAE, permuted=True),
}

STUDY = Study(
    name="augmentation_realism",
    title="Generated cells: class, realism, copies",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[{"data": name} for name in ("intestine_haber", "colon_crc", "pbmc_kang")],
    prepare=prepare,
    measure=measure,
    options=options,
    quick={"n_trees": 10, "only": ["data=pbmc_kang"]},
    time="CPU time, s",
    judged=[f"called by their class ({judge})" for judge in ("logistic", "random forest")],
    rules=lambda: {name: row.make().rules() for name, row in METHODS.items() if row.make},
    reference=RECIPE,
    compared=["energy distance", "forest AUC", "1-NN accuracy", "called by their class (logistic)"],
    protocol=2,
)

if __name__ == "__main__":
    run(STUDY)
