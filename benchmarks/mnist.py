"""MNIST: reconstruction, linear separability, and whether decoded digits are of their class.

    python benchmarks/mnist.py

All 70,000 images, gray value / 255, split at random into 80 % to train on, 10 % for validation and 10 % for
testing, classes in equal shares. Networks have 20 latent dimensions, two layers of 512 units each way, batch
normalization, ReLU and dropout of 0.1 (the paper's own network is in ``mnist_paper.py``). α = 1, β = 500, 15
epochs. α and β rise over the first half of the epochs, and the learning rate falls over the second. Batches are of
128 images.

"Long" are trained for 30 epochs on five times the images: each is there also moved by a pixel up, down,
left and right. α = 0.03, β = 400, batches of 256 images, a learning rate of 0.003, and of each image up to
12 % of the pixels are lost before it is encoded.

MAE is the mean absolute error of reconstructed test images, in per cent of the range of the pixels.
Separability is the accuracy of a logistic regression on latent points by three protocols, named by what it
is fitted on and scored on: train-test is the honest one, test-test the paper's, train-train the optimistic one.

Purity is judged by a logistic regression (L2 penalty, 100 iterations) and a perceptron of 256 hidden
units, fitted on the pixels of real training images. Walks: 1,000 random same-digit pairs of test images a
digit, which no network saw, decoded at t = 1/4, 1/2 and 3/4. The row of real test images says what judges know of real ones.
"Unbroken" is the share of walks with all three images in class. Decoded are expected pixel values.

The paper states MAE 2.82 % and separability 90.81 % for its VAE, 2.56 % and 99.87 % for CI-VAE.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
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

    def __init__(
        self,
        args: argparse.Namespace,
        epochs: int = 15,
        batch_size: int = 128,
        plan: dict | None = None,
        moved: bool = False,
        **settings,
    ):
        self.args, self.settings, self.moved = args, settings, moved
        self.plan = {"lr": 1e-3, **(plan or {})}
        self.epochs, self.batch_size = args.epochs or epochs, args.batch_size or batch_size

    def fit(self, train, seed):
        self.train = train
        seen = with_moved(train) if self.moved else train
        scivae.model.CIVAE.setup_anndata(seen, labels_key=KEY)
        self.model = scivae.model.CIVAE(seen, seed=seed, **self.settings)
        self.model.train(
            self.epochs,
            train_size=8 / 9,
            batch_size=self.batch_size,
            precision=self.args.precision,
            plan_kwargs=self.plan,
            check_val_every_n_epoch=self.epochs,
            enable_progress_bar=False,
        )
        # what the network was trained on; the others of the nine tenths are for validation
        self.trained_on = self.model.train_indices[self.model.train_indices < train.n_obs]

    def encode(self, adata):
        return self.model.get_latent_representation(adata)

    def decode(self, z):
        return self.model.decode(z)


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


def with_moved(adata):
    """The images, then the same moved by a pixel each way; what leaves the frame is lost."""
    side = round(adata.n_vars**0.5)
    padded = np.pad(np.asarray(adata.X).reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    images = [padded[:, i : i + side, j : j + side].reshape(adata.shape) for i, j in corners]
    obs = pd.concat([adata.obs[[KEY]]] * len(corners), ignore_index=True)
    return anndata.AnnData(
        np.concatenate(images), obs=obs.set_index(obs.index.astype(str)), var=adata.var
    )


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
    return SimpleNamespace(
        train=train, test=test, y_test=labels_of(test, KEY), judges=judges_of(train, seed)
    )


def judges_of(train, seed: int) -> dict[str, Judge]:
    """Classifiers of the pixels of real images."""
    y = labels_of(train, KEY)
    judges = {
        "logistic": LogisticRegression(max_iter=100),
        "perceptron": MLPClassifier(256, early_stopping=True, max_iter=30, random_state=seed),
    }
    return {
        kind: Judge(kind, np.unique(y), train.n_vars, judge.fit(train.X, y))
        for kind, judge in judges.items()
    }


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
    if make is None:  # real images, as if they lay between two others
        return {"MAE, %": 0.0, **purity("walks", data.test.X, data.y_test, data)}
    start = time.perf_counter()
    method = make(args)
    method.fit(data.train.copy(), seed)
    seconds = time.perf_counter() - start
    return {**measure_method(method, data, seed, args), "training time, s": seconds}


def measure_method(method, data, seed, args):
    """Columns of a trained method."""
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
    return row


TWO = {"n_layers": 2, "n_hidden": 512, "kl_weight": 1.0}
LONG = {
    "kl_weight": 0.03,
    "epochs": 30,
    "batch_size": 256,
    "plan": {"lr": 3e-3, "thinning": 0.12},
    "moved": True,
}
METHODS = {
    "real test images": None,
    "PCA": Components,
    "VAE, Laplace": partial(Network, likelihood="laplace", discriminator_weight=0.0, **TWO),
    "CI-VAE, Laplace": partial(Network, likelihood="laplace", discriminator_weight=500.0, **TWO),
    "VAE, Laplace, long": partial(
        Network, likelihood="laplace", discriminator_weight=0.0, **{**TWO, **LONG}
    ),
    "CI-VAE, Laplace, long": partial(
        Network, likelihood="laplace", discriminator_weight=400.0, **{**TWO, **LONG}
    ),
}


def options(parser):
    parser.add_argument("--n-pairs", type=int, default=1000, help="pairs a digit")
    parser.add_argument("--batch-size", type=int, help="in place of each method's own")
    parser.add_argument("--precision", default="32", help="bf16-mixed, where the processor has it")


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
