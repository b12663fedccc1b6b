"""The weights of the objective: what β and α buy, what they cost, and rules that choose β.

    python benchmarks/tradeoff.py

20 % of the cells are held out, genes are chosen on the others, on which CI-VAE is trained with its default
settings but for the weights: β (discriminator) with the default α = 0.1, then α (KL term) with β = 50. A tenth of
the training cells is held out of training in turn, as CIVAE.train does by default ("validation").

On held-out cells: reconstruction loss (negative log likelihood of a cell) and linear separability. Of cells
sampled on same-class lines, at random places, none rejected: purity by a logistic regression fitted on real
training cells, mean over classes and worst class, and the area under the curve of a random forest that
tells them from held-out cells (0.5 is best). On training cells alone, for the rules: the reconstruction loss of
validation cells, and purity by a judge of another kind (nearest neighbours) that knows only the cells that
the network was trained on.

The columns of purity are void: the judges are fitted on the cells that the lines start from, which rewards memory.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from _data import labels_of, load, log_normalize, split
from _methods import CIVAE, N_LATENT, fitted, reconstruction_loss
from _study import Study, replace, run, text_of

from scivae.data.information import pca_information
from scivae.metrics import classifier_two_sample_test, fit_judges, path_purity
from scivae.model._weights import auto_discriminator_weight

KEY = "cell_type"
CONSTANT, ALPHA = 50.0, 0.1
BETAS = (0.0, 1.0, 10.0, CONSTANT, 100.0, 200.0, 500.0)
ALPHAS = (0.01, 1.0)
DATA = ("pbmc_kang", "colon_crc")
LOSS, PURITY = "reconstruction loss, held out", "purity, mean"
SHOWN = {
    LOSS: "reconstruction\nloss",
    "separability, held out": "linear\nseparability",
    PURITY: "mean purity",
    "forest AUC": "forest AUC",
}
AUTO = "β of 'auto'"
KNOWN_LOSS, KNOWN_PURITY = "reconstruction loss, validation", "purity, mean, by training cells"


@lru_cache(maxsize=1)
def prepared(name, seed, quick, n_genes):
    train, test = split(load(name, KEY, quick=quick), KEY, seed, n_genes)
    x, y = log_normalize(train.layers["counts"]), labels_of(train, KEY)
    judge = fit_judges(x, y, kinds=["logistic"], seed=seed)["logistic"]
    auto = auto_discriminator_weight(pca_information(train.layers["counts"], counts=True), N_LATENT)
    return SimpleNamespace(train=train, test=test, x=x, y=y, judge=judge, auto=auto)


def prepare(setting, seed, args):
    data = prepared(setting["data"], seed, args.quick, args.n_genes)
    weights = {k: setting[k] for k in ("discriminator_weight", "kl_weight")}
    return SimpleNamespace(weights=weights, **vars(data))


def measure(make, data, seed, args):
    method = fitted(make(**data.weights), data.train, KEY, seed, args.epochs)
    model = method.model
    y_test = labels_of(data.test, KEY)
    names, held_out = np.unique(y_test, return_counts=True)
    made = [
        method.augment(name, max(args.n_cells, n), seed)
        for name, n in zip(names, held_out, strict=True)
    ]
    cells = np.concatenate([part[: args.n_cells] for part in made])
    labels = np.repeat(names, args.n_cells)
    purity = path_purity(data.judge, cells, labels)
    inner = fit_judges(
        data.x[model.train_indices], data.y[model.train_indices], kinds=["knn"], seed=seed
    )["knn"]
    known = np.isin(labels, inner.classes)
    return {
        LOSS: method.reconstruction(data.test),
        "separability, held out": method.separability(data.test),
        PURITY: purity.mean,
        "purity, worst class": purity.worst,
        "forest AUC": classifier_two_sample_test(
            log_normalize(data.test.layers["counts"]),
            np.concatenate([part[-n:] for part, n in zip(made, held_out, strict=True)]),
            n_trees=args.n_trees,
            seed=seed,
        ).auc,
        KNOWN_LOSS: reconstruction_loss(model, indices=model.validation_indices),
        AUTO: data.auto,
        KNOWN_PURITY: path_purity(inner, cells[known], labels[known]).mean,
    }


def score(rows: pd.DataFrame, loss: str, purity: str) -> pd.Series:
    """One number: a point of purity weighs as much as 1 % of the least reconstruction loss."""
    return rows[purity] - (rows[loss] / rows[loss].min() - 1)


def largest_within(rows: pd.DataFrame) -> int:
    """The largest β whose loss on validation cells is at most 1 % above the least."""
    return rows.index[rows[KNOWN_LOSS] <= 1.01 * rows[KNOWN_LOSS].min()][-1]


def best_known(rows: pd.DataFrame) -> int:
    """The β of the best score on what training cells alone tell."""
    return score(rows, KNOWN_LOSS, KNOWN_PURITY).idxmax()


def constant(rows: pd.DataFrame) -> int:
    """The same for all data."""
    return (rows["discriminator_weight"] - CONSTANT).abs().idxmin()


def auto(rows: pd.DataFrame) -> int:
    """The β of the sweep nearest to that of ``discriminator_weight="auto"``, by their ratio."""
    positive = rows[rows["discriminator_weight"] > 0]
    return np.log(positive["discriminator_weight"] / positive[AUTO]).abs().idxmin()


RULES = {
    'discriminator_weight="auto"': auto,
    f"always β = {CONSTANT:g}": constant,
    "largest β within 1 % of the least validation loss": largest_within,
    "best score on training cells": best_known,
}


def regrets(rows: pd.DataFrame) -> pd.DataFrame:
    """What each rule chooses, and how far that is from the best of the sweep on held-out cells."""
    found = []
    swept = rows[rows["kl_weight"] == ALPHA].sort_values("discriminator_weight")
    for (name, seed), sweep in swept.groupby(["data", "seed"], sort=False):
        truth = score(sweep, LOSS, PURITY)
        for rule, choose in RULES.items():
            i = choose(sweep)
            found.append(
                {
                    "data": name,
                    "rule": rule,
                    "seed": seed,
                    "β": sweep.loc[i, "discriminator_weight"],
                    "regret": truth.max() - truth[i],
                    "reconstruction loss above the least, %": 100
                    * (sweep.loc[i, LOSS] / sweep[LOSS].min() - 1),
                    "purity below the best": sweep[PURITY].max() - sweep.loc[i, PURITY],
                }
            )
    return pd.DataFrame(found)


def finish(rows: pd.DataFrame, folder: Path) -> None:
    """Write the table of the rules, and draw the sweep of β."""
    from matplotlib import pyplot as plt

    import scivae

    if not (rows["kl_weight"] == ALPHA).any():
        return
    found = regrets(rows)
    replace(folder / "tradeoff_rule.csv", found.to_csv(index=False, float_format="%.6g"))
    columns = list(found.columns[3:])
    mean = found.groupby(["data", "rule"], sort=False)[columns].agg(["mean", "std"]).fillna(0)
    lines = [f"| data | rule | {' | '.join(columns)} |", "|" + "---|" * (2 + len(columns))]
    for (name, rule), row in mean.iterrows():
        cells = [f"{row[c, 'mean']:.4g} ± {row[c, 'std']:.2g}" for c in columns]
        lines.append(f"| {name} | {rule} | {' | '.join(cells)} |")
    text = (
        "The score counts purity as judged by training cells, which rewards memory: these numbers do "
        "not support a rule. Made from `tradeoff.csv` by `python benchmarks/tradeoff.py`. Score: mean purity minus the "
        "relative excess of the reconstruction loss over the least of the sweep, so that a point of "
        "purity weighs as much as 1 % of the loss. Regret: the best score of the sweep on held-out "
        "cells minus that of the chosen β. The rules see training cells only."
    )
    replace(
        folder / "tradeoff_rule.md",
        f"# Rules that choose β\n\n{text}\n\n" + "\n".join(lines) + "\n",
    )
    for name, sweep in rows[rows["kl_weight"] == ALPHA].groupby("data"):
        axes = scivae.pl.tradeoff(
            sweep, metrics=list(SHOWN), labels=SHOWN, chosen=sweep[AUTO].mean()
        )
        axes[0].get_figure().savefig(folder / f"tradeoff_{name}.png", dpi=150)
        plt.close(axes[0].get_figure())


def options(parser):
    parser.add_argument("--n-genes", type=int, default=1000)
    parser.add_argument("--n-cells", type=int, default=100, help="cells made of each class")
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
    finish=finish,
    options=options,
    quick={
        "n_cells": 10,
        "n_trees": 10,
        "only": ["data=pbmc_kang", "discriminator_weight=0.0", "discriminator_weight=50.0"],
    },
)

if __name__ == "__main__":
    run(STUDY)
