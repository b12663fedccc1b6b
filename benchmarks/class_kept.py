"""Do generated cells keep their class, for a judge of other cells?

    python benchmarks/class_kept.py

Three parts (60, 20, 20 %; whole donors where there are three or more): methods learn from the first, judges
are fitted on the second. 200 random pairs of cells of a class are joined, and cells *sampled* at t = 1/4, 1/2 and
3/4, with the library size of one of the two ends, none rejected. Ends are cells of the first part, as in `augment`
("between training cells"), or of the third, which nothing has seen ("between new cells"). Genes are
chosen on the first part. The table says what share the judges call
by their class (mean over classes) beside that of real cells of the third part.

"The recipe" is the same network, trained in the same way, without the discriminator (β = 0). In rows with
permuted labels, labels were shuffled before anything else: they must lie at chance, or the protocol rewards
memory. `JointEmbeddingSCVI` needs scvi-tools 1.5 (Python 3.12). Seconds are those of one processor. The conditional VAE, and CI-VAE in one row, are *told* the class of a new cell when they decode; no other method is.

Energy distance and 1-Wasserstein distance (W1) of cells between training cells to real cells of the class of the third part, in 20 principal
components of the first, are means over classes with ten cells or more, equally many cells on both sides; the floor is one half of the real cells
against the other. Separability is the accuracy, on cells of the third part, of a logistic regression on latent points of the first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from _data import class_pairs, labels_of, library_of
from _methods import (
    CIVAE,
    PCA,
    SCANVI,
    SCVI,
    VAE,
    CIVAETold,
    ConditionalVAE,
    GeneSpace,
    JointEmbedding,
    fitted,
    recipe,
)
from _rules import distances, judged_parts
from _study import PERMUTED, Study, run, text_of

from scivae.metrics import path_purity

KEY = "cell_type"
POSITIONS = (0.25, 0.5, 0.75)
RECIPE = "CI-VAE, β = 0 (the recipe)"
# Ends of lines, and the part that they are of.
ENDS = {"between training cells": "learn", "between new cells": "score"}


class Row(NamedTuple):
    """A method (``None``: real cells), and whether labels are permuted."""

    make: Any
    permuted: bool = False


def prepare(setting, seed, args):
    return judged_parts(setting["data"], KEY, seed, args)


def measure(row, data, seed, args):
    data = data[row.permuted]
    parts = data.parts
    sizes = {"cells learned from": parts.learn.n_obs, "cells scored": parts.score.n_obs}
    if row.make is None:  # they lie between nothing: the ceiling of both columns
        found = {k: v for ends in ENDS for k, v in kept(data.real, data.y, data, ends).items()}
        return {**found, "chance": 1 / len(np.unique(data.y)), **sizes, STUDY.time: 0.0}
    method = fitted(row.make(), parts.learn, KEY, seed, args.epochs)
    found = {}
    for ends, part in ENDS.items():
        cells, labels = between(method, getattr(parts, part), args.n_pairs, seed)
        found |= kept(cells, labels, data, ends)
        if part == "learn":  # those between new cells start from the cells to compare with
            distant = realism(cells, labels, data, seed)
    return {
        **found,
        **distant,
        "reconstruction loss": method.reconstruction(parts.score),
        "separability": method.separability(parts.score),
        "chance": 1 / len(np.unique(data.y)),
        **sizes,
        STUDY.time: method.seconds,
    }


def between(method, real, n_pairs, seed):
    """Cells on lines between two cells of a class, and their labels."""
    rng = np.random.default_rng(seed)
    y = labels_of(real, KEY)
    a, b = class_pairs(y, n_pairs, rng)
    z, library = method.encode(real), library_of(real)
    cells = [
        method.sample(
            (1 - t) * z[a] + t * z[b],
            library[np.where(rng.random(len(a)) < t, b, a)],
            seed,
            y[a],
        )
        for t in POSITIONS
    ]
    return np.concatenate(cells), np.tile(y[a], len(POSITIONS))


def kept(cells, labels, data, ends):
    """Columns of the judges."""
    found = {}
    for kind, judge in data.judges.items():
        purity, name = path_purity(judge, cells, labels), kind.replace("_", " ")
        found[f"{ends} ({name})"] = purity.mean
        if kind == "logistic":
            found[f"{ends}, worst class"] = purity.worst
    return found


def realism(cells, labels, data, seed):
    """Columns of the distances."""
    made, real = data.pca.transform(cells), data.pca.transform(data.real)
    rows = [
        distances(made[labels == label], real[data.y == label], seed)
        for label in np.unique(data.y)
        if (data.y == label).sum() >= 10
    ]
    return {c: float(np.mean([row[c] for row in rows])) for c in (rows[0] if rows else ())}


def options(parser):
    parser.add_argument("--n-genes", type=int, default=1000)
    parser.add_argument("--n-pairs", type=int, default=200, help="pairs a class")


METHODS = {
    "real cells": Row(None),
    f"real cells, {PERMUTED}": Row(None, permuted=True),
    "CI-VAE (default)": Row(CIVAE),
    f"CI-VAE, {PERMUTED}": Row(CIVAE, permuted=True),
    RECIPE: Row(recipe),
    "CI-VAE, decoder told the class": Row(CIVAETold),
    "CI-VAE, labels doubted": Row(lambda: CIVAE(label_robustness=0.7)),
    "VAE": Row(VAE),
    "conditional VAE": Row(ConditionalVAE),
    "scVI": Row(SCVI),
    "JointEmbeddingSCVI": Row(JointEmbedding),
    "SCANVI": Row(SCANVI),
    "SCANVI, linear classifier": Row(lambda: SCANVI(linear_classifier=True)),
    "PCA": Row(lambda: PCA(20)),
    "gene space": Row(GeneSpace),
}


STUDY = Study(
    name="class_kept",
    title="Is the class kept between two cells of a class?",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[{"data": name} for name in ("intestine_haber", "colon_crc", "pbmc_kang")],
    prepare=prepare,
    measure=measure,
    options=options,
    quick={"n_pairs": 10, "only": ["data=colon_crc"]},
    time="CPU time, s",
    judged=[f"{ends} ({judge})" for ends in ENDS for judge in ("logistic", "random forest")],
    rules=lambda: {name: row.make().rules() for name, row in METHODS.items() if row.make},
    reference=RECIPE,
    compared=[
        *(f"{ends} (logistic)" for ends in ENDS),
        "energy distance",
        "reconstruction loss",
        "separability",
    ],
    protocol=2,
)

if __name__ == "__main__":
    run(STUDY)
