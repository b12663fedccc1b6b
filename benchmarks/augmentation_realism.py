"""Cells made of every class: are they of it, could they pass for real, are they copies?

    python benchmarks/augmentation_realism.py

20 % of the cells are held out, genes are chosen on the others, which the methods learn from. Of each class
200 cells are made, and judged by classifiers of real training cells (logistic regression, random forest).
Purity is the share of cells that the judge calls by the class they were made for; its mean is given over
the common, the middling and the rare third of the classes. The row of real held-out cells is the ceiling.
Methods of gene space and PCA mix cells that the judges were fitted on, and the regions of a logistic
regression are convex: that their lines stay in class says nothing of new cells.

Realism is measured on as many cells of each class as were held out, set beside these: area under the curve
of a random forest that tells the two apart (5 folds; 0.5 is best), squared maximum mean
discrepancy in 20 principal components of the training cells (one bandwidth for all methods, their median
distance; 0 is best), Pearson correlation of the two sets of gene-gene correlations (1 is best). "Nearer
than real" is the probability that a generated cell is nearer to its nearest training cell than a held-out
cell is to its own: 0.5 for fresh cells, 1 for copies. For real cells, one half of the held-out ones is set
beside the other half: so few cells lower their gene-gene correlation, which methods may pass.

The columns of purity are void: the judges are fitted on the cells that generated ones start from, which rewards memory
(with permuted labels such a protocol gives .56 at a chance of .07). Library sizes and rejection differ between methods; with
equal rules, the forest AUC of the models is a tie.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
from _data import labels_of, load, log_normalize, split, tiers
from _methods import AUGMENTERS, VAE, fitted
from _study import Study, run, text_of
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA as SklearnPCA

from scivae.metrics import (
    classifier_two_sample_test,
    copying_test,
    fit_judges,
    gene_gene_correlation,
    maximum_mean_discrepancy,
    path_purity,
)

KEY = "cell_type"


def prepare(setting, seed, args):
    train, test = split(load(setting["data"], KEY, quick=args.quick), KEY, seed, args.n_genes)
    x, y = log_normalize(train.layers["counts"]), labels_of(train, KEY)
    pca = SklearnPCA(20, random_state=seed).fit(x)
    some = np.random.default_rng(seed).permutation(len(x))[:1000]
    return SimpleNamespace(
        train=train,
        x=x,
        y=y,
        x_test=log_normalize(test.layers["counts"]),
        y_test=labels_of(test, KEY),
        judges=fit_judges(x, y, kinds=("logistic", "random_forest"), seed=seed),
        pca=pca,
        bandwidth=float(np.median(pdist(pca.transform(x[some])))),
    )


def purity(cells, labels, data):
    """Columns of purity."""
    row = {}
    for kind, judge in data.judges.items():
        found = path_purity(judge, cells, labels)
        for tier, names in tiers(data.y).items():
            row[f"purity, {tier} ({kind.replace('_', ' ')})"] = float(
                np.mean([found.per_class[name] for name in names])
            )
    return row


def realism(cells, real, data, seed, args):
    """Columns of realism."""
    copies = copying_test(cells, data.x, real)
    return {
        "forest AUC": classifier_two_sample_test(real, cells, n_trees=args.n_trees, seed=seed).auc,
        "MMD²": maximum_mean_discrepancy(
            data.pca.transform(cells), data.pca.transform(real), bandwidth=data.bandwidth
        ),
        "gene-gene correlation": gene_gene_correlation(real, cells).pearson,
        "nearer than real": copies.share_closer,
        "distance to training cells / of real": copies.median_ratio,
    }


def measure(make, data, seed, args):
    if make is None:  # real cells
        order = np.random.default_rng(seed).permutation(len(data.x_test))
        halves = np.array_split(order, 2)
        return {
            **purity(data.x_test, data.y_test, data),
            **realism(data.x_test[halves[0]], data.x_test[halves[1]], data, seed, args),
        }
    method = fitted(make(), data.train, KEY, seed, args.epochs)
    start = time.perf_counter()
    names, held_out = np.unique(data.y_test, return_counts=True)
    made = [
        method.augment(name, max(args.n_cells, n), seed)
        for name, n in zip(names, held_out, strict=True)
    ]
    generation = time.perf_counter() - start
    for_purity = np.concatenate([cells[: args.n_cells] for cells in made])
    as_held_out = np.concatenate([cells[-n:] for cells, n in zip(made, held_out, strict=True)])
    return {
        **purity(for_purity, np.repeat(names, args.n_cells), data),
        **realism(as_held_out, data.x_test, data, seed, args),
        STUDY.time: method.seconds + generation,
    }


def options(parser):
    parser.add_argument("--n-genes", type=int, default=1000)
    parser.add_argument("--n-trees", type=int, default=100, help="of the forest that tells apart")
    parser.add_argument("--n-cells", type=int, default=200, help="cells made of each class")


METHODS = {"real held-out cells": None, "VAE, lines": VAE, **AUGMENTERS}

STUDY = Study(
    name="augmentation_realism",
    title="Augmentation: purity and realism",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[{"data": "colon_crc"}, {"data": "pbmc_kang"}],
    prepare=prepare,
    measure=measure,
    options=options,
    quick={"n_cells": 10, "n_trees": 10, "only": ["data=pbmc_kang"]},
)

if __name__ == "__main__":
    run(STUDY)
