"""The held-out middle: a stage or time that no method has seen, from those beside it.

    python benchmarks/middle.py

All cells of one stage (or time) are held out. Methods are trained on all others, with the stages as classes. Cells of the stage
before are then paired with cells of the stage after, and the middle of each pair is decoded: sampled, where the
method has a likelihood, with the library size of one of the two cells. `intestine_haber`: mouse intestine, stem cell to enterocyte; progenitors (3_EP,
between 2_TA and 4_immature) or immature enterocytes (4_immature, between 3_EP and 5_mature) are left out. `emt`: ten components of the
epithelial–mesenchymal transition at times 0 to 3; time 1 or 2 is left out. Networks have 5 latent dimensions there, and a normal likelihood.

Energy distance and 1-Wasserstein distance (W1) to held-out cells; 0 is best. Both sides have half as many cells as are held out, and so has
the floor, which is the other half. The space is that of the first five principal components of the training cells (log-normalized), and on `emt` that of the data. "W1,
all" sets as many generated cells beside all that are held out. This is how results on `emt` are published: TIGON 0.360, DeepRUOT
0.323, VGFM 0.301, WFR-FM 0.298 (not run here; these methods are trained on all times but the one held out). In gene space, the mean change from the mean of both ends to generated cells is set
beside the change to held-out cells (Pearson correlation and slope over genes): does the method know how the path bends? A line through the means gives zero.

"Halves of the counts" adds half of the counts of both cells of a pair, and learns nothing. "Two ends" are real cells of both ends, "nearest end" those of the
better one, which is chosen knowing the answer. OT pairs are joined by optimal transport in the method's own space. "The recipe" is the same network without the discriminator (β = 0).
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
from _common import data_file
from _data import labels_of, library_of, load, log_normalize, matrix_of
from _methods import (
    CIVAE,
    PCA,
    SCANVI,
    SCVI,
    VAE,
    GeneSpace,
    JointEmbedding,
    fitted,
    recipe,
    transport_pairs,
)
from _rules import distances
from _study import Study, run, text_of
from sklearn.decomposition import PCA as SklearnPCA

from scivae.metrics import log_fold_change_agreement, wasserstein_1

KEY = "stage"
LEFT_OUT = {"intestine_haber": ("3_EP", "4_immature"), "emt": ("time 1", "time 2")}
BETWEEN = {"3_EP": ("2_TA", "4_immature"), "4_immature": ("3_EP", "5_mature")}
RECIPE = "CI-VAE, β = 0 (the recipe), OT pairs"


def between(adata, stage: str) -> tuple[str, str]:
    """The stages before and after one: named for the intestine, else by the order of their names."""
    if stage in BETWEEN and set(BETWEEN[stage]) <= set(labels_of(adata, KEY)):
        return BETWEEN[stage]
    names = sorted(set(labels_of(adata, KEY)))
    i = names.index(stage)
    return names[i - 1], names[i + 1]


def of_file(name, args):
    """Each stage of a file of one's own but the first and the last, in the order of their names."""
    names = sorted(set(labels_of(load(name, KEY), KEY)))
    if len(names) < 3:
        raise SystemExit(f"--labels-key must hold three stages or more, got {', '.join(names)}.")
    return [{"data": name, "held out": stage} for stage in names[1:-1]]


def emt():
    """Cells of the EMT benchmark, continuous; no counts."""
    table = pd.read_csv(data_file("emt.csv"))
    stages = pd.Categorical("time " + table.pop("samples").astype(int).astype(str))
    cells = [f"cell_{i}" for i in range(len(table))]
    return anndata.AnnData(table.to_numpy(np.float32), obs=pd.DataFrame({KEY: stages}, index=cells))


def values(adata) -> np.ndarray:
    """What distances see: log-normalized counts, or continuous values as they are."""
    return log_normalize(matrix_of(adata)) if "counts" in adata.layers else np.asarray(adata.X)


def prepare(setting, seed, args):
    name, stage = setting["data"], setting["held out"]
    adata = emt() if name == "emt" else load(name, KEY, quick=args.quick)
    y = labels_of(adata, KEY)
    first, last = between(adata, stage)
    train, held_out = adata[y != stage].copy(), adata[y == stage].copy()
    train.obs[KEY] = train.obs[KEY].astype("category").cat.remove_unused_categories()
    x = values(train)
    counts = "counts" in train.layers
    pca = SklearnPCA(5, random_state=seed).fit(x) if counts else None
    return SimpleNamespace(
        train=train,
        x=x,
        real=values(held_out),
        counts=counts,
        library=library_of(train) if counts else None,
        place=pca.transform if counts else np.asarray,
        ends=[np.flatnonzero(labels_of(train, KEY) == end) for end in (first, last)],
    )


class Midpoints(NamedTuple):
    """Middles of pairs of a method's space, decoded.

    ``pairing`` is "random" or "ot"; with ``arithmetic``, cells of the stage before are moved by half the
    difference of the means instead.
    """

    make: Any
    pairing: str = "ot"
    arithmetic: bool = False


def measure(row, data, seed, args):
    rng = np.random.default_rng(seed)
    n = len(data.real)
    seconds = 0.0
    if isinstance(row, Midpoints):
        make = row.make if data.counts else with_normal_likelihood(row.make)
        method = fitted(make(), data.train, KEY, seed, args.epochs)
        start = time.process_time()
        cells = decoded(row, method, data, rng, seed)
        seconds = method.seconds + time.process_time() - start
    else:
        cells = row(data, n, rng)
    return {
        **scores(cells, data, seed),
        "cells learned from": data.train.n_obs,
        "cells scored": n,
        STUDY.time: seconds,
    }


def with_normal_likelihood(make):
    """The same method, for continuous values: five latent dimensions, a normal likelihood."""

    def made():
        method = make()
        if isinstance(method, CIVAE):
            method.settings = {"n_latent": 5, "likelihood": "normal", **method.settings}
        return method

    return made


def decoded(row, method, data, rng, seed):
    """As many cells as are held out."""
    z = method.encode(data.train)
    first, second = data.ends
    n = len(data.real)
    if row.pairing == "ot":
        i, j = transport_pairs(z[first], z[second], n, rng)
    else:
        i, j = rng.integers(len(first), size=n), rng.integers(len(second), size=n)
    a, b = first[i], second[j]
    middle = (z[a] + z[b]) / 2
    if row.arithmetic:
        middle = z[a] + (z[second].mean(axis=0) - z[first].mean(axis=0)) / 2
    library = data.library[np.where(rng.random(n) < 0.5, a, b)] if data.counts else None
    return method.sample(middle, library, seed)


def scores(cells, data, seed):
    """Row of generated cells, in the values that distances see, beside the real ones."""
    points, truth = data.place(cells), data.place(data.real)
    middle = np.mean([data.x[end].mean(axis=0) for end in data.ends], axis=0)
    change, observed = cells.mean(axis=0) - middle, data.real.mean(axis=0) - middle
    found = log_fold_change_agreement(change, observed)
    return {
        **distances(points, truth, seed),
        "W1, all": wasserstein_1(points, truth),
        "change from the mean of both ends, Pearson": found.pearson,
        "change from the mean of both ends, slope": found.slope,
    }


def ends(data, n, rng):
    """Real cells of both ends."""
    sizes = (n // 2, n - n // 2)
    chosen = [
        rng.choice(end, size, replace=size > len(end))
        for end, size in zip(data.ends, sizes, strict=True)
    ]
    return data.x[np.concatenate(chosen)]


def nearest_end(data, n, rng):
    """Real cells of the end that is nearer."""
    found = [data.x[rng.choice(end, n, replace=n > len(end))] for end in data.ends]
    truth = data.place(data.real)
    return min(found, key=lambda cells: wasserstein_1(data.place(cells), truth))


def halves_of_counts(data, n, rng):
    """Half of the counts of both cells of a pair, added."""
    first, second = data.ends
    i, j = transport_pairs(data.x[first], data.x[second], n, rng)
    counts = matrix_of(data.train).tocsr()
    parts = [
        rng.binomial(counts[cells].toarray().astype(int), 0.5) for cells in (first[i], second[j])
    ]
    return log_normalize(parts[0] + parts[1])


METHODS = {
    "nearest end": nearest_end,
    "two ends": ends,
    "halves of the counts, OT pairs": halves_of_counts,
    "gene space, random pairs": Midpoints(GeneSpace, "random"),
    "gene space, OT pairs": Midpoints(GeneSpace),
    "PCA of 5, OT pairs": Midpoints(lambda: PCA(5)),
    "scVI, OT pairs": Midpoints(SCVI),
    "JointEmbeddingSCVI, OT pairs": Midpoints(JointEmbedding),
    "SCANVI, OT pairs": Midpoints(SCANVI),
    "SCANVI, linear classifier, OT pairs": Midpoints(lambda: SCANVI(linear_classifier=True)),
    "VAE, OT pairs": Midpoints(VAE),
    "VAE, latent arithmetic": Midpoints(VAE, "random", arithmetic=True),
    RECIPE: Midpoints(recipe),
    "CI-VAE (default), OT pairs": Midpoints(CIVAE),
    "CI-VAE (default), random pairs": Midpoints(CIVAE, "random"),
}
OF_COUNTS = {"halves of the counts, OT pairs", *(n for n in METHODS if "SC" in n or "scVI" in n)}

STUDY = Study(
    name="middle",
    title="The held-out middle",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        {"data": name, "held out": stage} for name, stages in LEFT_OUT.items() for stage in stages
    ],
    prepare=prepare,
    measure=measure,
    skip=lambda setting, name: setting["data"] == "emt" and name in OF_COUNTS,
    quick={"only": ["held out=4_immature"]},
    time="CPU time, s",
    of_file=of_file,
    reference=RECIPE,
    compared=["energy distance", "W1"],
    protocol=2,
)

if __name__ == "__main__":
    run(STUDY)
