"""The held-out middle: an intermediate stage that no method has seen, from the stages beside it.

    python benchmarks/middle.py

Mouse intestine, stem cell to enterocyte. All cells of one stage are held out: progenitors (3_EP, between
2_TA and 4_immature), or immature enterocytes (4_immature, between 3_EP and 5_mature). Methods are trained
on all other cells, with the stages as classes; then cells of the stage before are paired with cells of the
stage after, and the middle of each pair is decoded: sampled, where the method has a likelihood, with the
geometric mean of the two library sizes. As many cells are generated as were held out.

They are compared with the cells held out, all log-normalised, in the first five principal components of
the training cells: 1-Wasserstein distance (W1) and energy distance, 0 is best. In gene space, the mean
change from the stage before to the generated cells is set beside the change to the held-out cells (Pearson
correlation and slope over genes), and likewise from the mean of the two ends, which a straight line
through the means would leave at zero: this asks whether the method knows how the way bends. "Floor" is
one half of the held-out cells against the other half, so W1 there is that of half as many cells; "two ends"
is an equal mixture of real cells of both, "nearest end" the better of the two (by W1: it is chosen knowing
the answer).

Numbers of cells differ between the two sides of a distance, and between the rows and the floor, which makes distances
smaller and the floor not comparable. With equal numbers no method comes near the floor, and halves of the counts of both ends
added together come nearest.
"""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import numpy as np
from _data import labels_of, library_of, load, log_normalize
from _methods import (
    CIVAE,
    PCA,
    SCANVI,
    SCVI,
    VAE,
    GeneSpace,
    fitted,
    transport_pairs,
)
from _study import Study, run, text_of
from sklearn.decomposition import PCA as SklearnPCA

from scivae.metrics import energy_distance, log_fold_change_agreement, wasserstein_1

KEY = "stage"
BETWEEN = {"3_EP": ("2_TA", "4_immature"), "4_immature": ("3_EP", "5_mature")}


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
    return [{"held out": stage} for stage in names[1:-1]]


def prepare(setting, seed, args):
    name = args.data.stem if args.data is not None else "intestine_haber"
    adata = load(name, KEY, quick=args.quick)
    stage = setting["held out"]
    y = labels_of(adata, KEY)
    train, held_out = adata[y != stage].copy(), adata[y == stage].copy()
    train.obs[KEY] = train.obs[KEY].astype("category").cat.remove_unused_categories()
    x = log_normalize(train.layers["counts"])
    return SimpleNamespace(
        train=train,
        x=x,
        real=log_normalize(held_out.layers["counts"]),
        pca=SklearnPCA(5, random_state=seed).fit(x),
        ends=[np.flatnonzero(labels_of(train, KEY) == end) for end in between(adata, stage)],
    )


def distances(generated, real, data):
    """Row of a population of cells, log-normalised, beside the real one."""
    points, truth = data.pca.transform(generated), data.pca.transform(real)
    before, after = (data.x[end].mean(axis=0) for end in data.ends)
    row = {"W1": wasserstein_1(points, truth), "energy distance": energy_distance(points, truth)}
    for start, name in ((before, "stage before"), ((before + after) / 2, "mean of the ends")):
        change, observed = generated.mean(axis=0) - start, real.mean(axis=0) - start
        found = log_fold_change_agreement(change, observed)
        row[f"change from {name}, Pearson"] = found.pearson
        row[f"change from {name}, slope"] = found.slope
    return row


def floor(data, seed, args):
    """One half of the held-out cells for the other."""
    order = np.random.default_rng(seed).permutation(len(data.real))
    first, second = np.array_split(order, 2)
    return distances(data.real[first], data.real[second], data)


def ends(data, seed, args):
    """Real cells of both ends."""
    rng = np.random.default_rng(seed)
    halves = np.array_split(np.arange(len(data.real)), 2)
    chosen = [
        rng.choice(end, len(half), replace=len(half) > len(end))
        for end, half in zip(data.ends, halves, strict=True)
    ]
    return distances(data.x[np.concatenate(chosen)], data.real, data)


def nearest_end(data, seed, args):
    """Real cells of the end that is nearer."""
    rng = np.random.default_rng(seed)
    n = len(data.real)
    rows = [
        distances(data.x[rng.choice(end, n, replace=n > len(end))], data.real, data)
        for end in data.ends
    ]
    return min(rows, key=lambda row: row["W1"])


def midpoints(make, pairing: str, arithmetic: bool = False, posterior: bool = False):
    """Measures a method whose midpoints are decoded.

    ``pairing`` is "random" or "ot" (in the method's own space); with ``arithmetic``, cells of the stage
    before are moved by half the difference of the means instead; with ``posterior``, the ends are drawn
    from the posteriors of the two cells.
    """

    def measure(data, seed, args):
        method = fitted(make(), data.train, KEY, seed, args.epochs)
        start = time.perf_counter()
        rng = np.random.default_rng(seed)
        z, library = method.encode(data.train), library_of(data.train)
        first, second = data.ends
        n = len(data.real)
        if pairing == "ot":
            i, j = transport_pairs(z[first], z[second], n, rng)
        else:
            i, j = rng.integers(len(first), size=n), rng.integers(len(second), size=n)
        a, b = first[i], second[j]
        library = library[np.where(rng.random(n) < 0.5, a, b)]
        middle = (z[a] + z[b]) / 2
        if posterior:
            scale = method.posterior_scale(data.train)
            noise = scale[a] * rng.standard_normal(z[a].shape)
            middle += (noise + scale[b] * rng.standard_normal(z[b].shape)) / 2
        if arithmetic:
            middle = z[a] + (z[second].mean(axis=0) - z[first].mean(axis=0)) / 2
        cells = method.sample(middle, library, seed)
        row = distances(cells, data.real, data)
        return {**row, "time, s": method.seconds + time.perf_counter() - start}

    return measure


AT_50 = partial(CIVAE, discriminator_weight=50.0)

METHODS = {
    "floor: half of the held-out cells": floor,
    "nearest end": nearest_end,
    "two ends": ends,
    "gene space, random pairs": midpoints(GeneSpace, "random"),
    "gene space, OT pairs": midpoints(GeneSpace, "ot"),
    "PCA, random pairs": midpoints(PCA, "random"),
    "PCA, OT pairs": midpoints(PCA, "ot"),
    "PCA of 5, OT pairs": midpoints(lambda: PCA(5), "ot"),
    "scVI, OT pairs": midpoints(SCVI, "ot"),
    "SCANVI, OT pairs": midpoints(SCANVI, "ot"),
    "SCANVI, linear classifier, OT pairs": midpoints(lambda: SCANVI(True), "ot"),
    "VAE, random pairs": midpoints(VAE, "random"),
    "VAE, OT pairs": midpoints(VAE, "ot"),
    "VAE, latent arithmetic": midpoints(VAE, "random", arithmetic=True),
    "CI-VAE, OT pairs": midpoints(CIVAE, "ot"),
    "CI-VAE, β = 20, OT pairs": midpoints(lambda: CIVAE(discriminator_weight=20.0), "ot"),
    "CI-VAE, β = 50, OT pairs": midpoints(AT_50, "ot"),
    "CI-VAE, β = 50, random pairs": midpoints(AT_50, "random"),
    "CI-VAE, β = 50, α = 1, OT pairs": midpoints(
        lambda: CIVAE(discriminator_weight=50.0, kl_weight=1.0), "ot"
    ),
    "VAE, OT pairs, posteriors": midpoints(VAE, "ot", posterior=True),
    "CI-VAE, β = 50, OT pairs, posteriors": midpoints(AT_50, "ot", posterior=True),
}

STUDY = Study(
    name="middle",
    title="The held-out middle, mouse intestine",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[{"held out": stage} for stage in BETWEEN],
    prepare=prepare,
    measure=lambda measure, data, seed, args: measure(data, seed, args),
    quick={"only": ["held out=4_immature"]},
    of_file=of_file,
)

if __name__ == "__main__":
    run(STUDY)
