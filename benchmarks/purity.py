"""Class purity of decoded cells on the way between two cells of a class.

    python benchmarks/purity.py

Colorectal cancer, and the mouse intestine, on which no setting of any method was chosen (fewer methods). 20 % of the cells are held out, genes are chosen on the others. Each model is trained on these, then
200 random same-class pairs a class are joined by straight lines, and cells are *sampled* at t = 1/4, 1/2
and 3/4. Judges that were fitted on real training cells in gene space say of which class they are. These judges know the cells that the
lines start from, which rewards memory: with permuted labels this protocol gives .56 at a chance of .07. Its table
is withdrawn.

In gene space and PCA the lines themselves are judged, and they mix cells that the judges were fitted on. The
regions of a logistic regression are convex, so that in gene space its purity is its accuracy on training
cells, whatever the lines are worth: there, read the nearest neighbours' (knn).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from _data import class_pairs, labels_of, library_of, load, log_normalize, split
from _methods import AE, CIVAE, PCA, SCANVI, SCVI, VAE, ConditionalVAE, GeneSpace, fitted
from _study import Study, run, text_of

from scivae.metrics import fit_judges, path_purity

KEY = "cell_type"
POSITIONS = (0.25, 0.5, 0.75)


def prepare(setting, seed, args):
    adata = load(setting["data"], KEY, quick=args.quick)
    train, test = split(adata, KEY, seed, args.n_genes)
    y = labels_of(train, KEY)
    judges = fit_judges(
        log_normalize(train.layers["counts"]), y, kinds=("logistic", "knn"), seed=seed
    )
    return SimpleNamespace(train=train, test=test, y=y, judges=judges)


def measure(make, data, seed, args):
    method = fitted(make(), data.train, KEY, seed, args.epochs)
    a, b = class_pairs(data.y, args.n_pairs, np.random.default_rng(seed))
    z, log_library = method.encode(data.train), np.log(library_of(data.train))
    cells = [
        method.sample(
            (1 - t) * z[a] + t * z[b],
            np.exp((1 - t) * log_library[a] + t * log_library[b]),
            seed,
            data.y[a],
        )
        for t in POSITIONS
    ]
    row = {
        "separability, held out": method.separability(data.test),
        "reconstruction loss, held out": method.reconstruction(data.test),
    }
    for kind, judge in data.judges.items():
        found = path_purity(
            judge,
            np.concatenate(cells),
            np.tile(data.y[a], len(POSITIONS)),
            x_real=log_normalize(data.test.layers["counts"]),
            y_real=labels_of(data.test, KEY),
        )
        row[f"purity, mean ({kind})"] = found.mean
        row[f"purity, worst class ({kind})"] = found.worst
        row[f"real held-out cells, mean ({kind})"] = found.ceiling_mean
        row[f"real held-out cells, that class ({kind})"] = found.ceiling[found.worst_class]
    return {**row, STUDY.time: method.seconds}


def options(parser):
    parser.add_argument("--n-genes", type=int, default=2000)
    parser.add_argument("--n-pairs", type=int, default=200, help="pairs a class")


def at_50(**settings):
    """CI-VAE with β = 50, and what a row changes beside it."""
    return lambda: CIVAE(discriminator_weight=50.0, **settings)


METHODS = {
    "AE": AE,
    "VAE (β = 0)": VAE,
    "VAE (β = 0), α = 0.1": lambda: VAE(kl_weight=0.1),
    "conditional VAE": ConditionalVAE,
    "scVI": SCVI,
    "SCANVI": SCANVI,
    "SCANVI, linear classifier": lambda: SCANVI(linear_classifier=True),
    "PCA": lambda: PCA(20),
    "gene space": GeneSpace,
    "CI-VAE, β = 50, no thinning": at_50(plan={"thinning": 0.0}),
    "CI-VAE, β = 50, learning rate not falling": at_50(plan={"lr_decay": 0.0}),
    "CI-VAE, β = 50, no warm-up of β": at_50(module={"warm_up_discriminator": False}),
    "CI-VAE, β = 50, α = 1": at_50(kl_weight=1.0),
    "CI-VAE, β = 50, classes unweighted": at_50(class_weights="none"),
    "CI-VAE, β = 50": at_50(),
    "CI-VAE, β = 200": lambda: CIVAE(discriminator_weight=200.0),
    "CI-VAE (default)": CIVAE,
}

ELSEWHERE = {
    "VAE (β = 0)",
    "scVI",
    "SCANVI",
    "SCANVI, linear classifier",
    "CI-VAE (default)",
}

STUDY = Study(
    name="purity",
    title="Purity of decoded cells",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[{"data": "colon_crc"}, {"data": "intestine_haber"}],
    skip=lambda setting, name: setting["data"] != "colon_crc" and name not in ELSEWHERE,
    prepare=prepare,
    measure=measure,
    options=options,
    quick={"n_pairs": 10, "only": ["data=colon_crc"]},
    time="training time, s",
)

if __name__ == "__main__":
    run(STUDY)
