"""MNIST: reconstruction, linear separability, and whether decoded digits are of their class.

    python benchmarks/mnist.py

All 70,000 images, grey value / 255, split at random into 80 % to train on, 10 % for validation and 10 % for
testing, classes in equal shares. Networks have 20 latent dimensions, batch normalisation, ReLU and
dropout of 0.1: "seven layers" is the paper's, seven fully connected layers each way (their width, α and β are
not stated there; here 128 units, α = 1, β = 500), the others have two of 512 units. α and β rise over
the first half of the epochs, and the learning rate falls over the second. Batches are of 128 images, where
the paper has 512: an epoch takes as long, and has four times the steps.

MAE is the mean absolute error of reconstructed test images, in per cent of the range of the pixels.
Separability is the accuracy of a logistic regression on latent points by three protocols, named by what it
is fitted on and scored on: train-test is the honest one, test-test the paper's, train-train the optimistic one.

Purity is judged by a logistic regression (L2 penalty, 100 iterations) and a perceptron of 256 hidden
units, fitted on the pixels of real training images. Walks: 1,000 random same-digit pairs of test images a
digit, decoded at t = 1/4, 1/2 and 3/4. Augmented: 1,000 images a digit, by CIVAE.augment for CI-VAE, at
random places between two training images for the others. The row of real test images is the ceiling.
"Unbroken" is the share of walks with all three images in class. Decoded are expected pixel values.

The paper states MAE 2.82 % and separability 90.81 % for its VAE, 2.56 % and 99.87 % for CI-VAE.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
from _data import class_pairs, data_folder, labels_of
from _study import Study, run, text_of
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import scivae
from scivae.metrics import Judge, linear_separability, path_purity, reconstruction_error

KEY = "digit"
POSITIONS = (0.25, 0.5, 0.75)


class Network:
    """CI-VAE on images, or with β = 0 a VAE."""

    def __init__(self, args: argparse.Namespace, **settings):
        self.args, self.settings = args, settings

    def fit(self, train, seed):
        scivae.model.CIVAE.setup_anndata(train, labels_key=KEY)
        self.train, self.model = train, scivae.model.CIVAE(train, seed=seed, **self.settings)
        self.model.train(
            self.args.epochs,
            train_size=8 / 9,
            batch_size=self.args.batch_size,
            precision=self.args.precision,
            plan_kwargs={"lr": 1e-3},
            check_val_every_n_epoch=self.args.epochs,
            enable_progress_bar=False,
        )
        # what the network was trained on; the others of the nine tenths are for validation
        self.trained_on = self.model.train_indices

    def encode(self, adata):
        return self.model.get_latent_representation(adata)

    def decode(self, z):
        return self.model.decode(z)

    def augment(self, n, seed):
        if self.settings["discriminator_weight"] == 0:
            return lines(self, n, seed)
        try:
            made = self.model.augment(
                dict.fromkeys(self.model.classes, n), sample=False, key_added=None, seed=seed
            )
        except RuntimeError as error:  # hardly an image was accepted: the lines then speak
            print(error)
            return lines(self, n, seed)
        return np.asarray(made.X), labels_of(made, KEY)


class Components:
    """20 principal components of the pixels."""

    def __init__(self, args: argparse.Namespace):
        pass

    def fit(self, train, seed):
        self.train, self.trained_on = train, np.arange(train.n_obs)
        self.pca = SklearnPCA(20, random_state=seed).fit(train.X)

    def encode(self, adata):
        return self.pca.transform(adata.X)

    def decode(self, z):
        return np.clip(self.pca.inverse_transform(z), 0, 1)

    def augment(self, n, seed):
        return lines(self, n, seed)


def lines(method, n: int, seed: int):
    """Images at random places between two training images of a digit, ``n`` a digit."""
    rng = np.random.default_rng([seed, 1])
    y, z = labels_of(method.train, KEY), method.encode(method.train)
    a, b = class_pairs(y, n, rng)
    t = rng.random((len(a), 1))
    return method.decode((1 - t) * z[a] + t * z[b]), y[a]


def prepare(setting, seed, args):
    if args.quick:
        adata = scivae.datasets.digits()
    else:
        folder = data_folder() / "mnist"
        adata = scivae.datasets.mnist(path=folder if folder.exists() else None)
    train, test = train_test_split(
        np.arange(adata.n_obs), test_size=0.1, random_state=seed, stratify=adata.obs[KEY]
    )
    train, test = adata[train].copy(), adata[test].copy()
    y = labels_of(train, KEY)
    judges = {
        "logistic": LogisticRegression(max_iter=100),
        "perceptron": MLPClassifier(256, early_stopping=True, max_iter=30, random_state=seed),
    }
    return SimpleNamespace(
        train=train,
        test=test,
        y_test=labels_of(test, KEY),
        judges={
            kind: Judge(kind, np.unique(y), train.n_vars, judge.fit(train.X, y))
            for kind, judge in judges.items()
        },
    )


def purity(name, images, labels, data, paths=None):
    """Columns of purity."""
    row = {}
    for kind, judge in data.judges.items():
        found = path_purity(judge, images, labels, paths=paths)
        row[f"{name}, mean ({kind})"] = found.mean
        row[f"{name}, worst digit ({kind})"] = found.worst
        if paths is not None:
            row[f"{name}, unbroken ({kind})"] = found.unbroken
    return row


def measure(make, data, seed, args):
    if make is None:  # real images, as if walked to and as if augmented
        x, y = data.test.X, data.y_test
        return {
            "MAE, %": 0.0,
            **purity("walks", x, y, data),
            **purity("augmented", x, y, data),
        }
    start = time.perf_counter()
    method = make(args)
    method.fit(data.train.copy(), seed)
    seconds = time.perf_counter() - start
    z_test, y_test = method.encode(data.test), data.y_test
    z, y = method.encode(method.train)[method.trained_on], labels_of(method.train, KEY)
    error = reconstruction_error(data.test.X, method.decode(z_test), value_range=1.0)
    row = {"MAE, %": error.percent}
    for protocol in ("train-test", "test-test", "train-train"):
        row[f"separability, {protocol}, %"] = 100 * linear_separability(
            z, y[method.trained_on], z_test, y_test, protocol=protocol
        )
    a, b = class_pairs(y_test, args.n_pairs, np.random.default_rng(seed))
    walked = np.concatenate([method.decode((1 - t) * z_test[a] + t * z_test[b]) for t in POSITIONS])
    row |= purity(
        "walks",
        walked,
        np.tile(y_test[a], len(POSITIONS)),
        data,
        np.tile(np.arange(len(a)), len(POSITIONS)),
    )
    row |= purity("augmented", *method.augment(args.n_pairs, seed), data)
    return {**row, "training time, s": seconds}


SEVEN = {"n_layers": 7, "n_hidden": 128}
TWO = {"n_layers": 2, "n_hidden": 512}
METHODS = {
    "real test images": None,
    "PCA": Components,
    "VAE, seven layers, Laplace": partial(
        Network, likelihood="laplace", discriminator_weight=0.0, **SEVEN
    ),
    "CI-VAE, seven layers, Laplace": partial(
        Network, likelihood="laplace", discriminator_weight=500.0, **SEVEN
    ),
    "VAE, Laplace": partial(Network, likelihood="laplace", discriminator_weight=0.0, **TWO),
    "CI-VAE, Laplace": partial(Network, likelihood="laplace", discriminator_weight=500.0, **TWO),
    "CI-VAE, Laplace, α = 0.1": partial(
        Network, likelihood="laplace", discriminator_weight=500.0, kl_weight=0.1, **TWO
    ),
    "VAE, Bernoulli": partial(Network, likelihood="bernoulli", discriminator_weight=0.0, **TWO),
    "CI-VAE, Bernoulli": partial(
        Network, likelihood="bernoulli", discriminator_weight=500.0, **TWO
    ),
}


def options(parser):
    parser.add_argument("--n-pairs", type=int, default=1000, help="pairs, and images, a digit")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", default="32", help="bf16-mixed, where the processor has it")
    parser.set_defaults(epochs=15)


STUDY = Study(
    name="mnist",
    title="MNIST",
    text=text_of(__doc__),
    methods=METHODS,
    prepare=prepare,
    measure=measure,
    options=options,
    quick={"n_pairs": 10, "epochs": 2, "batch_size": 64},
)

if __name__ == "__main__":
    run(STUDY)
