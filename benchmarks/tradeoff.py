"""The weights of the objective: what β and α buy, and what they cost.

    python benchmarks/tradeoff.py

20 % of the cells are held out, genes are chosen on the others, on which CI-VAE is trained with its default
settings but for the weights: β (discriminator) with the default α = 0.1, then α (KL term) with β = 50. A tenth of
the training cells is held out of training in turn, as CIVAE.train does by default ("validation").

On held-out cells: reconstruction loss (negative log likelihood of a cell) and linear separability. Of cells
sampled on same-class lines, at random places, none rejected: the area under the curve of a random forest that
tells them from held-out cells (0.5 is best). The "β of 'auto'" is what `discriminator_weight="auto"` takes. Whether generated cells
keep their class is asked in `class_kept.py`.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from _data import labels_of, load, log_normalize, split
from _methods import CIVAE, N_LATENT, fitted
from _study import Study, run, text_of

from scivae.data.information import pca_information
from scivae.metrics import classifier_two_sample_test
from scivae.model._weights import auto_discriminator_weight

KEY = "cell_type"
CONSTANT, ALPHA = 50.0, 0.1
BETAS = (0.0, 1.0, 10.0, CONSTANT, 100.0, 200.0, 500.0)
ALPHAS = (0.01, 1.0)
DATA = ("pbmc_kang", "colon_crc")
LOSS = "reconstruction loss, held out"
AUTO = "β of 'auto'"


@lru_cache(maxsize=1)
def prepared(name, seed, quick, n_genes):
    train, test = split(load(name, KEY, quick=quick), KEY, seed, n_genes)
    auto = auto_discriminator_weight(pca_information(train.layers["counts"], counts=True), N_LATENT)
    return SimpleNamespace(train=train, test=test, auto=auto)


def prepare(setting, seed, args):
    data = prepared(setting["data"], seed, args.quick, args.n_genes)
    weights = {k: setting[k] for k in ("discriminator_weight", "kl_weight")}
    return SimpleNamespace(weights=weights, **vars(data))


def measure(make, data, seed, args):
    method = fitted(make(**data.weights), data.train, KEY, seed, args.epochs)
    y_test = labels_of(data.test, KEY)
    names, held_out = np.unique(y_test, return_counts=True)
    made = [method.augment(name, n, seed) for name, n in zip(names, held_out, strict=True)]
    return {
        LOSS: method.reconstruction(data.test),
        "separability, held out": method.separability(data.test),
        "forest AUC": classifier_two_sample_test(
            log_normalize(data.test.layers["counts"]),
            np.concatenate(made),
            n_trees=args.n_trees,
            seed=seed,
        ).auc,
        AUTO: data.auto,
    }


def options(parser):
    parser.add_argument("--n-genes", type=int, default=1000)
    parser.add_argument("--n-trees", type=int, default=100, help="of the forest that tells apart")


STUDY = Study(
    name="tradeoff",
    title="The trade-off between reconstruction and classes",
    text=text_of(__doc__),
    methods={"CI-VAE": lambda **weights: CIVAE(train_size=0.9, **weights)},
    settings=[
        {"data": name, "discriminator_weight": beta, "kl_weight": alpha}
        for name in DATA
        for beta, alpha in [*((b, ALPHA) for b in BETAS), *((CONSTANT, a) for a in ALPHAS)]
    ],
    prepare=prepare,
    measure=measure,
    options=options,
    quick={
        "n_trees": 10,
        "only": ["data=pbmc_kang", "discriminator_weight=0.0", "discriminator_weight=50.0"],
    },
)

if __name__ == "__main__":
    run(STUDY)
