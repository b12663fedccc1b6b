"""What does a result cost? Quality against seconds, each package as it is called by default.

    python benchmarks/cost.py

Three parts (60, 20, 20 %; whole donors where there are three or more): methods learn from the first, a judge is fitted on the second, and all is scored on
the third, which nothing has seen. Every model has the settings and the training of its own package: `model.train()` without arguments. SCANVI starts from
a trained scVI, as scvi-tools recommends, and its seconds hold those of scVI. Genes are chosen on the first part (1,000). "100,000 synthetic
cells" have 2,000 genes and ten classes that overlap.

Accuracy and macro F1 are those of labels given to cells of the third part: by the classifier of the model, or, where a model has none, by a balanced
logistic regression on its latent space. Separability is the accuracy of a logistic regression on latent points. "Class kept" is the
share of cells between two training cells of a class that the judge calls by it. The reconstruction loss is the negative log likelihood of a
cell. Seconds are those of one processor.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scvi
from _data import SYNTHETIC, labels_of
from _methods import (
    CIVAE,
    PCA,
    SCANVI,
    SCVI,
    GeneSpace,
    Method,
    Unavailable,
    fitted,
)
from _rules import judged_parts
from _study import Study, run, text_of
from class_kept import between
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

import scivae
from scivae.metrics import macro_f1, path_purity

KEY = "cell_type"


class ByRegression(Method):
    """Labels from a balanced logistic regression on the space of a method."""

    def predict(self, adata) -> pd.DataFrame:
        """Probabilities of the classes."""
        model = LogisticRegression(max_iter=2000, class_weight="balanced")
        model.fit(self.encode(self.train), labels_of(self.train, self.key))
        return pd.DataFrame(model.predict_proba(self.encode(adata)), columns=model.classes_)


class Genes(ByRegression, GeneSpace):
    """Log-normalized genes."""


class Components(ByRegression, PCA):
    """Principal components."""


class CIVAEDefaults(CIVAE):
    """``CIVAE`` as it is called by default."""

    def fit(self, train, key, seed, epochs):
        self.train, self.key = train, key
        scivae.model.CIVAE.setup_anndata(train, labels_key=key)
        self.model = scivae.model.CIVAE(train, seed=seed, **self.settings)
        self.model.train(epochs, enable_progress_bar=False)


class RecipeDefaults(ByRegression, CIVAEDefaults):
    """The same without its discriminator."""


class SCVIDefaults(ByRegression, SCVI):
    """scVI as it is called by default."""

    module, name = scvi.model, "SCVI"

    def fit(self, train, key, seed, epochs):
        kind = getattr(self.module, self.name, None)
        if kind is None:
            raise Unavailable("scvi-tools 1.5 (Python 3.12) has it")
        self.train, self.key, self.codes = train, key, None
        scvi.settings.seed = seed
        kind.setup_anndata(train, layer="counts")
        self.model = kind(train, gene_likelihood="nb")
        self.model.train(epochs, enable_progress_bar=False)


class JointDefaults(SCVIDefaults):
    """``JointEmbeddingSCVI`` as it is called by default."""

    module, name = scvi.external, "JointEmbeddingSCVI"


class SCANVIDefaults(SCANVI):
    """SCANVI as it is called by default, from a scVI that was."""

    start = SCVIDefaults

    def _train(self, epochs):
        self.model.train(epochs, enable_progress_bar=False)


def prepare(setting, seed, args):
    return judged_parts(setting["data"], KEY, seed, args)[False]


def measure(make, data, seed, args):
    parts = data.parts
    method = fitted(make(), parts.learn, KEY, seed, args.epochs)
    stated = method.predict(parts.score)
    guess = np.asarray(stated.columns.astype(str))[stated.to_numpy().argmax(axis=1)]
    cells, labels = between(method, parts.learn, args.n_pairs, seed)
    return {
        "accuracy": float(accuracy_score(data.y, guess)),
        "macro F1": macro_f1(data.y, guess),
        "separability": method.separability(parts.score),
        "class kept": path_purity(data.judges["logistic"], cells, labels).mean,
        "reconstruction loss": method.reconstruction(parts.score),
        "cells learned from": parts.learn.n_obs,
        "cells scored": parts.score.n_obs,
        STUDY.time: method.seconds,
    }


def options(parser):
    parser.add_argument("--n-genes", type=int, default=1000)
    parser.add_argument("--n-pairs", type=int, default=200, help="pairs a class")


METHODS = {
    "CI-VAE": CIVAEDefaults,
    "CI-VAE, β = 0 (the recipe)": lambda: RecipeDefaults(discriminator_weight=0.0),
    "scVI": SCVIDefaults,
    "JointEmbeddingSCVI": JointDefaults,
    "scVI and SCANVI": SCANVIDefaults,
    "scVI and SCANVI, linear classifier": lambda: SCANVIDefaults(linear_classifier=True),
    "PCA": lambda: Components(20),
    "genes": Genes,
}

STUDY = Study(
    name="cost",
    title="What a result costs",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[{"data": name} for name in ("intestine_haber", "colon_crc", "pbmc_kang", SYNTHETIC)],
    prepare=prepare,
    measure=measure,
    options=options,
    quick={"n_pairs": 10, "only": ["data=pbmc_kang"]},
    time="CPU time, s",
    reference="scVI and SCANVI",
    compared=[
        "accuracy",
        "macro F1",
        "separability",
        "class kept",
        "reconstruction loss",
        "CPU time, s",
    ],
)

if __name__ == "__main__":
    run(STUDY)
