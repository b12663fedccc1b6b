"""Every method behind one thin adapter; see ``benchmarks/README.md`` for how to add one.

All networks have 20 latent dimensions, one hidden layer of 128 units and a negative binomial
likelihood, where they have one; all take as many epochs, at the same learning rate, with the weight of
the KL term rising over the first half of them. In the networks of this package, the rate falls to zero over
the second half, as it does by default. The rate is twice scvi-tools' own: scVI reaches with it
in n epochs what its own reaches in 2n, so none is cut short. SCANVI starts from a trained scVI, as its
tutorial has it, and takes 20 more epochs with 100 cells of each label.

What a method generates comes back log-normalised, as *samples*: this is what real cells are, and what
judges and distances see. Preprocessing is fitted on the cells that ``fit`` is given.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections import OrderedDict
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch
from _data import labels_of, library_of, log_normalize, matrix_of
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.linear_model import LogisticRegression

import scivae
from scivae.metrics import linear_separability

N_LATENT = 20
LEARNING_RATE = 2e-3
UNKNOWN = "Unknown"


def epochs_for(n_cells: int) -> int:
    """Epochs that give about 2,000 steps of 128 cells, for every network."""
    return int(np.clip(round(2000 * 128 / n_cells), 20, 400))


class Unavailable(Exception):
    """The installed versions lack a method; a study leaves its rows out."""


class Method:
    """What a study may ask of a method. One that cannot do a thing lacks the ability.

    ``fit`` keeps what the abilities below need; those given here rest on ``encode`` and ``sample``.
    """

    uses_labels = True  # or else one trained model serves all ways to label its cells
    seconds: float  # of the processor that training took, set by ``fitted``

    def fit(self, train, key: str, seed: int, epochs: int | None) -> None:
        """Learn from training cells with ``layers["counts"]`` and labels ``obs[key]``."""
        raise NotImplementedError

    def rules(self) -> dict[str, Any]:
        """How it is trained, for the table to name what methods do not share."""
        return {}

    def versions(self) -> dict[str, str]:
        """Of what it depends on: others make other rows."""
        return ours()

    def encode(self, adata) -> np.ndarray:
        """Points ``(n, d)`` in the space in which the method draws its lines."""
        raise NotImplementedError

    def sample(self, z, library, seed: int, label=None) -> np.ndarray:
        """Log-normalised cells ``(n, n_genes)`` at points, with so many counts each."""
        raise NotImplementedError

    def reconstruction(self, adata) -> float:
        """Negative log likelihood of a cell, summed over genes; NaN without a likelihood."""
        return float("nan")

    def separability(self, test) -> float:
        """Accuracy on other cells of a straight boundary fitted on the training cells' points."""
        return linear_separability(
            *(self.encode(self.train), labels_of(self.train, self.key)),
            *(self.encode(test), labels_of(test, self.key)),
        )

    def augment(self, label, n: int, seed: int) -> np.ndarray:
        """Cells of a class: at random places on lines between two random cells of it.

        Each has the library size of one of the two, the nearer one more often.
        """
        rng = np.random.default_rng([seed, n])
        cells = np.flatnonzero(labels_of(self.train, self.key) == label)
        z, library = self.encode(self.train)[cells], library_of(self.train)[cells]
        a = rng.integers(len(cells), size=n)
        b = (a + rng.integers(1, len(cells), size=n)) % len(cells)
        t = rng.random(n)
        return self.sample(
            (1 - t[:, None]) * z[a] + t[:, None] * z[b],
            library[np.where(rng.random(n) < t, b, a)],
            seed,
            np.full(n, label),
        )


class CIVAE(Method):
    """This package; other settings are other rows.

    ``plan`` goes to the training plan, ``module`` are attributes of the network.
    """

    told = False  # whether the class is a covariate of the decoder

    def __init__(
        self,
        plan: dict | None = None,
        train_size: float = 1.0,
        module: dict | None = None,
        **settings,
    ):
        self.settings, self.plan, self.train_size = settings, plan or {}, train_size
        self.module = module or {}

    def fit(self, train, key, seed, epochs):
        self.train, self.key = train, key
        unlabeled = UNKNOWN if (train.obs[key] == UNKNOWN).any() else None
        covariates = {"categorical_covariate_keys": [key]} if self.told else {}
        scivae.model.CIVAE.setup_anndata(
            train, labels_key=key, unlabeled_category=unlabeled, **covariates
        )
        settings = {"n_latent": N_LATENT, **self.settings}
        self.model = scivae.model.CIVAE(train, seed=seed, **settings)
        for name, value in self.module.items():
            setattr(self.model.module, name, value)
        self.model.train(
            epochs or epochs_for(train.n_obs),
            train_size=self.train_size,
            enable_progress_bar=False,
            plan_kwargs={"lr": LEARNING_RATE, **self.plan},
        )

    def rules(self):
        told = self.settings.get("discriminator_weight") != 0
        return {
            "made cells": "all are kept",
            "counts lost before encoding, at most": self.plan.get("thinning", 0.7),
            "weight of the KL term": self.settings.get("kl_weight", 0.1),
            "learning rate": "falls in the last half"
            if self.plan.get("lr_decay", 0.5)
            else "constant",
            "classes": self.settings.get("class_weights", "balanced") if told else None,
            "cells held out": f"{1 - self.train_size:.0%}",
            "settings tried": 1,
        }

    def encode(self, adata):
        return self.model.get_latent_representation(adata)

    def posterior_scale(self, adata):
        """Standard deviations of the posteriors of z."""
        return np.sqrt(self.model.get_latent_representation(adata, return_dist=True)[1])

    def sample(self, z, library, seed, label=None):
        made = self.model.decode(z, library_size=library, sample=True, seed=seed)
        return log_normalize(made) if "counts" in self.train.layers else np.asarray(made)

    def reconstruction(self, adata):
        return reconstruction_loss(self.model, adata)

    def predict(self, adata) -> pd.DataFrame:
        """Calibrated probabilities."""
        return self.model.predict(adata, soft=True)

    def predict_uncalibrated(self, adata) -> pd.DataFrame:
        """The same before logits are divided by the temperature."""
        temperature, self.model.temperature_ = self.model.temperature_, 1.0
        try:
            return self.model.predict(adata, soft=True)
        finally:
            self.model.temperature_ = temperature


class CIVAETold(CIVAE):
    """This package with the class as a covariate of the decoder, too; its encoder is not told it."""

    told = True

    def sample(self, z, library, seed, label=None):
        told = pd.DataFrame({self.key: label})
        made = self.model.decode(z, told, library_size=library, sample=True, seed=seed)
        return log_normalize(made)


class CIVAEAugment(CIVAE):
    """``CIVAE.augment``: lines, and only cells that are still of the class once encoded again.

    The threshold is read off the tenth of the training cells that ``CIVAE.train`` holds out. The same
    model without this rule is ``CIVAE(train_size=0.9)``.
    """

    def __init__(self, method: str = "linear", **settings):
        super().__init__(train_size=0.9, **settings)
        self.method = method

    def rules(self):
        return {**super().rules(), "made cells": "those the model calls the class are kept"}

    def fit(self, train, key, seed, epochs):
        lines = CIVAE(
            plan=self.plan, train_size=self.train_size, module=self.module, **self.settings
        )
        vars(self).update(vars(fitted(lines, train, key, seed, epochs)))

    def augment(self, label, n, seed):
        for min_confidence in (None, 0.0):
            try:
                made = self.model.augment(
                    label,
                    n,
                    method=self.method,
                    min_confidence=min_confidence,
                    key_added=None,
                    seed=seed,
                )
                return log_normalize(made.layers["counts"])
            except RuntimeError as error:
                print(f"{error}")
        return super().augment(label, n, seed)


class CIVAEPosterior(CIVAE):
    """Draws from the posteriors of single cells of the class, decoded: no line at all."""

    def fit(self, train, key, seed, epochs):
        lines = CIVAE(self.plan, self.train_size, self.module, **self.settings)
        vars(self).update(vars(fitted(lines, train, key, seed, epochs)))

    def augment(self, label, n, seed):
        rng = np.random.default_rng([seed, n])
        cells = rng.choice(np.flatnonzero(labels_of(self.train, self.key) == label), n)
        z, scale = self.encode(self.train)[cells], self.posterior_scale(self.train)[cells]
        library = library_of(self.train)[cells]
        return self.sample(z + scale * rng.standard_normal(z.shape), library, seed)


def recipe() -> CIVAE:
    """The network of this package without its discriminator, all else the same."""
    method = CIVAE(discriminator_weight=0.0)
    method.uses_labels = False
    return method


def VAE(**settings) -> CIVAE:
    """The textbook VAE: no discriminator, and the KL term counts in full."""
    settings = {"kl_weight": 1.0, **settings}
    method = CIVAE(discriminator_weight=0.0, plan={"thinning": 0.0}, **settings)
    method.uses_labels = False
    return method


def AE() -> CIVAE:
    """The auto-encoder: no discriminator, no KL term, no noise."""
    return VAE(kl_weight=0.0, sample_latent=False)


class SCVI(Method):
    """scVI, and what all models of scvi-tools share."""

    uses_labels = False

    def fit(self, train, key, seed, epochs):
        self.train, self.key, self.codes = train, key, None
        epochs = epochs or epochs_for(train.n_obs)
        scvi.settings.seed = seed
        self.model = self._build(train, key)
        self.model.train(
            epochs,
            train_size=1.0,
            enable_progress_bar=False,
            plan_kwargs={"lr": LEARNING_RATE, "n_epochs_kl_warmup": max(1, epochs // 2)},
        )

    def rules(self):
        return {
            "made cells": "all are kept",
            "counts lost before encoding, at most": 0.0,
            "weight of the KL term": 1.0,
            "learning rate": "constant",
            "cells held out": "0%",
            "settings tried": 1,
        }

    def versions(self):
        return {"scvi-tools": version("scvi-tools")}

    def _build(self, train, key):
        scvi.model.SCVI.setup_anndata(train, layer="counts")
        return scvi.model.SCVI(train, n_latent=N_LATENT, gene_likelihood="nb")

    def encode(self, adata):
        return self.model.get_latent_representation(self._known(adata))

    @torch.inference_mode()
    def sample(self, z, library, seed, label=None):
        torch.manual_seed(seed)
        self.model.module.eval()
        batch = np.zeros(len(z)) if self.codes is None else [self.codes[x] for x in label]
        outputs = self.model.module.generative(
            z=torch.as_tensor(np.asarray(z), dtype=torch.float32),
            library=torch.as_tensor(np.log(library)[:, None], dtype=torch.float32),
            batch_index=torch.as_tensor(np.asarray(batch)[:, None], dtype=torch.long),
            y=torch.zeros(len(z), 1, dtype=torch.long),
        )
        return log_normalize(outputs["px"].sample().numpy())

    def reconstruction(self, adata):
        return reconstruction_loss(self.model, self._known(adata))

    @staticmethod
    def _known(adata):
        """A copy, as a transfer of the setup writes into what it is given."""
        return adata.copy()


class ConditionalVAE(SCVI):
    """scVI whose decoder is given the class, as scvi-tools gives it a batch."""

    uses_labels = True

    def _build(self, train, key):
        self.codes = {c: i for i, c in enumerate(sorted(set(labels_of(train, key))))}
        train.obs["_class"] = pd.Categorical(labels_of(train, key), categories=list(self.codes))
        scvi.model.SCVI.setup_anndata(train, layer="counts", batch_key="_class")
        return scvi.model.SCVI(train, n_latent=N_LATENT, gene_likelihood="nb")

    def _known(self, adata):
        adata = adata.copy()
        adata.obs["_class"] = pd.Categorical(
            labels_of(adata, self.key), categories=list(self.codes)
        )
        return adata


class ConditionalVAEPrior(ConditionalVAE):
    """The textbook use of a conditional VAE: z ~ N(0, I), decoded with the label."""

    def fit(self, train, key, seed, epochs):
        vars(self).update(vars(fitted(ConditionalVAE(), train, key, seed, epochs)))

    def augment(self, label, n, seed):
        rng = np.random.default_rng([seed, n])
        library = rng.choice(library_of(self.train)[labels_of(self.train, self.key) == label], n)
        z = rng.standard_normal((n, N_LATENT))
        return self.sample(z, library, seed, np.full(n, label))


class SCANVI(SCVI):
    """SCANVI from a trained scVI; with ``linear_classifier`` the nearest published model."""

    uses_labels = True
    start = SCVI  # what makes the scVI

    def __init__(
        self, linear_classifier: bool = False, ratio: float = 50, epochs: int = 20, lr: float = 1e-3
    ):
        self.linear_classifier = linear_classifier
        self.ratio, self.epochs, self.lr = ratio, epochs, lr  # those of scvi-tools and its tutorial
        self.tried = 1

    def rules(self):
        told = {"classes": "100 cells of each in an epoch", "settings tried": self.tried}
        return {**super().rules(), **told}

    def fit(self, train, key, seed, epochs):
        start = fitted(self.start(), train, key, seed, epochs)
        began = time.process_time()
        self.train, self.key, self.codes = train, key, None
        scvi.settings.seed = seed
        self.model = scvi.model.SCANVI.from_scvi_model(
            start.model,
            unlabeled_category=UNKNOWN,
            labels_key=key,
            adata=train,
            linear_classifier=self.linear_classifier,
        )
        self._train(epochs)
        self.seconds = start.seconds + time.process_time() - began

    def _train(self, epochs):
        epochs = min(self.epochs, epochs or self.epochs)
        self.model.train(
            epochs,
            n_samples_per_label=100,
            train_size=1.0,
            enable_progress_bar=False,
            plan_kwargs={
                "n_epochs_kl_warmup": max(1, epochs // 2),
                "classification_ratio": self.ratio,
                "lr": self.lr,
            },
        )

    def predict(self, adata) -> pd.DataFrame:
        """Probabilities of the known classes."""
        return self.model.predict(self._known(adata), soft=True)


# `scanvi_settings.py` chooses among these; the first are those of scvi-tools and its tutorial.
SCANVI_CANDIDATES: dict[str, dict[str, float]] = {
    "default": {},
    "weight of the labels / 5": {"ratio": 10},
    "weight of the labels × 5": {"ratio": 250},
    "3 × the epochs": {"epochs": 60},
    "3 × the rate": {"lr": 3e-3},
    "weight of the labels × 5, 3 × the epochs": {"ratio": 250, "epochs": 60},
}
SCANVI_CHOSEN = "3 × the rate"


def tuned_scanvi() -> SCANVI:
    """SCANVI with the settings that `scanvi_settings.py` found best, on other data or splits."""
    method = SCANVI(**SCANVI_CANDIDATES[SCANVI_CHOSEN])
    method.tried = len(SCANVI_CANDIDATES)
    return method


class JointEmbedding(SCVI):
    """scVI that is trained to encode a cell and a thinning of it alike (scvi-tools 1.5)."""

    def rules(self):
        return {**super().rules(), "counts lost before encoding, at most": "all but 10"}

    def _build(self, train, key):
        model = getattr(scvi.external, "JointEmbeddingSCVI", None)
        if model is None:
            raise Unavailable("scvi-tools 1.5 (Python 3.12) has it")
        model.setup_anndata(train, layer="counts")
        return model(train, n_latent=N_LATENT, gene_likelihood="nb")


class LatentArithmetic(CIVAE):
    """scGen's vector arithmetic on a VAE: other cells, moved by the difference of two means."""

    def fit(self, train, key, seed, epochs):
        vars(self).update(vars(fitted(VAE(), train, key, seed, epochs)))
        self.train, self.key = train, key

    def augment(self, label, n, seed):
        """Cells of the nearest other class, moved by δ = mean of the class − mean of that class."""
        rng = np.random.default_rng([seed, n])
        z, y = self.encode(self.train), labels_of(self.train, self.key)
        names = np.unique(y)
        means = {name: z[y == name].mean(axis=0) for name in names}
        nearest = min(
            (name for name in names if name != label),
            key=lambda name: np.linalg.norm(means[name] - means[label]),
        )
        cells = rng.choice(np.flatnonzero(y == nearest), n)
        library = rng.choice(library_of(self.train)[y == label], n)
        return self.sample(z[cells] + means[label] - means[nearest], library, seed)


class GeneSpace(Method):
    """Straight lines between log-normalised cells. Nothing is learned."""

    def versions(self):
        return {}

    def fit(self, train, key, seed, epochs):
        self.train, self.key = train, key

    def encode(self, adata):
        counts = "counts" in adata.layers
        return log_normalize(matrix_of(adata)) if counts else np.asarray(adata.X)

    def sample(self, z, library, seed, label=None):
        return np.asarray(z)


class PCA(GeneSpace):
    """Straight lines between scores of principal components, taken back to genes."""

    def __init__(self, n_components: int = 50):
        self.n_components = n_components

    def fit(self, train, key, seed, epochs):
        super().fit(train, key, seed, epochs)
        x = super().encode(train)
        self.pca = SklearnPCA(min(self.n_components, *x.shape), random_state=seed).fit(x)

    def encode(self, adata):
        return self.pca.transform(super().encode(adata))

    def sample(self, z, library, seed, label=None):
        return np.maximum(self.pca.inverse_transform(z), 0)  # no value is below zero in our data


class OTMidpoint(PCA):
    """Cells of one half of a class joined to the other half by optimal transport; midpoints."""

    def augment(self, label, n, seed):
        rng = np.random.default_rng([seed, n])
        z = self.encode(self.train)[labels_of(self.train, self.key) == label]
        made: list[np.ndarray] = []
        while sum(map(len, made)) < n:  # each time another way to halve the class
            first, second = np.array_split(rng.permutation(len(z)), 2)
            a, b = transport_pairs(z[first], z[second], len(z), rng)
            made.append((z[first][a] + z[second][b]) / 2)
        return self.sample(np.concatenate(made)[:n], None, seed)


class Gaussian(PCA):
    """Cells drawn from a normal distribution for each class, in 20 principal components."""

    def __init__(self):
        super().__init__(n_components=20)

    def augment(self, label, n, seed):
        z = self.encode(self.train)[labels_of(self.train, self.key) == label]
        found = LedoitWolf().fit(z)  # its covariance can be relied on with few cells, too
        rng = np.random.default_rng([seed, n])
        return self.sample(
            rng.multivariate_normal(z.mean(axis=0), found.covariance_, n), None, seed
        )


class SMOTE(GeneSpace):
    """Cells on lines to one of the five nearest cells of the class, in gene space."""

    def augment(self, label, n, seed):
        from imblearn.over_sampling import SMOTE as Sampler

        x, y = self.encode(self.train), labels_of(self.train, self.key)
        size = int((y == label).sum())
        # the sampler balances two classes; a stand-in for the others says how many to make
        others = np.zeros((size + n, x.shape[1]), dtype=x.dtype)
        sampler = Sampler(
            sampling_strategy={1: size + n}, k_neighbors=min(5, size - 1), random_state=seed
        )
        balanced, _ = sampler.fit_resample(
            np.concatenate([others, x[y == label]]), np.repeat([0, 1], [len(others), size])
        )
        return balanced[-n:]


class LogisticGenes(GeneSpace):
    """Logistic regression on log-normalised genes of labeled cells.

    ``balanced`` weighs classes by one over their size.
    """

    def __init__(self, balanced: bool = False):
        self.balanced = balanced

    def rules(self):
        return {"classes": "balanced" if self.balanced else "none"}

    def fit(self, train, key, seed, epochs):
        super().fit(train, key, seed, epochs)
        y = labels_of(train, key)
        weight = "balanced" if self.balanced else None
        self.regression = LogisticRegression(C=1.0, max_iter=2000, class_weight=weight)
        self.regression.fit(self.encode(train)[y != UNKNOWN], y[y != UNKNOWN])

    def predict(self, adata) -> pd.DataFrame:
        """Probabilities of the classes."""
        chances = self.regression.predict_proba(self.encode(adata))
        return pd.DataFrame(chances, index=adata.obs_names, columns=self.regression.classes_)


class LogisticLatent(LogisticGenes):
    """Logistic regression on the latent space of a network that was trained on all cells.

    ``make`` makes the network.
    """

    def __init__(self, make: Any = VAE, balanced: bool = False):
        super().__init__(balanced)
        self.make = make

    def rules(self):
        return {**self.make().rules(), **super().rules()}

    def versions(self):
        return self.make().versions()

    def fit(self, train, key, seed, epochs):
        self.network = fitted(self.make(), train, key, seed, epochs)
        began = time.process_time()
        super().fit(train, key, seed, epochs)
        self.seconds = self.network.seconds + time.process_time() - began

    def encode(self, adata):
        return self.network.encode(adata)


# Ways to make cells of a class, rows of both studies of augmentation.
AUGMENTERS = {
    "SMOTE": SMOTE,
    "PCA, OT midpoints": OTMidpoint,
    "PCA, Gaussian": Gaussian,
    "VAE, lines": VAE,
    "VAE, latent arithmetic": LatentArithmetic,
    "scVI, lines": SCVI,
    "JointEmbeddingSCVI, lines": JointEmbedding,
    "SCANVI, lines": SCANVI,
    "SCANVI, linear classifier, lines": lambda: SCANVI(linear_classifier=True),
    "conditional VAE, prior": ConditionalVAEPrior,
    "conditional VAE, lines": ConditionalVAE,
    "CI-VAE, β = 0 (the recipe), lines": recipe,
    "CI-VAE, lines": CIVAE,
    "CI-VAE, decoder told the class, lines": CIVAETold,
    "CI-VAE, augment (default)": CIVAEAugment,
    "CI-VAE, augment, normal": lambda: CIVAEAugment(method="normal"),
}


def reconstruction_loss(model, adata=None, indices=None) -> float:
    """Negative log likelihood of a cell, with the same noise for every model."""
    torch.manual_seed(0)
    found = model.get_reconstruction_error(adata, indices=indices)
    return float(found["reconstruction_loss"])


def transport_pairs(x, y, n: int, rng: np.random.Generator):
    """``n`` pairs drawn from the optimal plan between two clouds: positions in each."""
    import ot

    plan = ot.emd([], [], cdist(x, y, "sqeuclidean"), numItermax=10_000_000)
    rows, columns = np.nonzero(plan)
    mass = plan[rows, columns]
    drawn = rng.choice(len(mass), size=n, p=mass / mass.sum())
    return rows[drawn], columns[drawn]


def ours() -> dict[str, str]:
    """Version and defaults of this package: where one changes, its rows are measured again."""
    from scivae.model import _drawing, _train, _weights
    from scivae.train import calibration, dispersion, plan

    constants = {
        f"{module.__name__}.{k}": repr(v)
        for module in (_drawing, _train, _weights, calibration, dispersion, plan)
        for k, v in vars(module).items()
        if k.isupper() and isinstance(v, int | float | str)
    }
    defaults = {
        f"{function.__qualname__}.{p.name}": repr(p.default)
        for function in (
            scivae.model.CIVAE.__init__,
            scivae.model.CIVAE.train,
            scivae.model.CIVAE.augment,
            plan.CIVAETrainingPlan.__init__,
        )
        for p in inspect.signature(function).parameters.values()
        if p.default is not p.empty and p.name != "seed"  # rows say their own
    }
    return {"scivae-tools": version("scivae-tools"), **constants, **defaults}


def fingerprint(make: Any) -> str:
    """What a row of a study stands for, as text: its method, settings, and versions."""
    if isinstance(make, tuple):  # a row that says more of its method
        return repr([type(make).__name__, *map(fingerprint, make)])
    if not callable(make):
        return repr(make)
    try:
        method = make()
    except TypeError:  # a function of the study, which takes more
        method = None
    if not isinstance(method, Method):
        name = getattr(getattr(make, "func", make), "__qualname__", "")
        settings = repr(getattr(make, "keywords", {}))
        return repr((name, settings, sorted(ours().items())))
    settings = {k: getattr(v, "__qualname__", repr(v)) for k, v in vars(method).items()}
    told = (settings, method.rules(), method.versions())
    return repr((type(method).__name__, *(sorted(d.items()) for d in told)))


_MEMO: OrderedDict[str, Method] = OrderedDict()


def fitted(method: Method, train, key: str, seed: int, epochs: int | None) -> Method:
    """The method, trained; rows that ask for the same model on the same cells share it."""
    settings = {k: getattr(v, "__qualname__", repr(v)) for k, v in vars(method).items()}
    counts = sparse.csr_matrix(matrix_of(train))
    digest = hashlib.sha256(repr((type(method).__name__, settings, seed, epochs)).encode())
    parts: list[Any] = [counts.data, counts.indices, counts.indptr]
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    if method.uses_labels:
        digest.update("\n".join(labels_of(train, key)).encode())
    name = digest.hexdigest()
    if name not in _MEMO:
        start = time.process_time()
        method.fit(train.copy(), key, seed, epochs)
        method.__dict__.setdefault("seconds", time.process_time() - start)
        _MEMO[name] = method
        while len(_MEMO) > 6:
            _MEMO.popitem(last=False)
    _MEMO.move_to_end(name)
    found = _MEMO[name]
    if not method.uses_labels:  # it may have been trained when its cells bore other labels
        found.train.obs[key] = train.obs[key].to_numpy()
    return found
