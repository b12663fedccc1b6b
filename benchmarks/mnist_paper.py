"""The paper's MNIST study with the paper's own network: seven layers each way, batches of 512 images.

    python benchmarks/mnist_paper.py --seeds 5 --accelerator gpu     # Table 1
    python benchmarks/mnist_paper.py --claims --accelerator gpu      # claims of the text
    python benchmarks/mnist_paper.py --choose --accelerator gpu      # what was tried, on validation images
    python benchmarks/mnist_paper.py --train --accelerator gpu       # the networks alone
    python benchmarks/mnist_paper.py --seeds 3 --bfloat16 --together 1 --methods "CI-VAE, images distorted"   # on a CPU

All 70,000 images, gray value / 255; 80 % to train on, 10 % for validation, 10 % for testing. Encoder and decoder have
seven fully connected layers each, with batch normalization and ReLU after each; 20 latent dimensions; batches of 512
images; Laplace likelihood. A VAE (β = 0) is trained exactly as long as each CI-VAE. What the paper does not state was
chosen on the validation images of the first split: a learning rate of 0.002 that falls to zero, α = 0.1, β = 500, both
rising over the first tenth of the epochs.

"As in the paper": 256 units, dropout of 0.05 in the encoder, 1,000 epochs, half of the paper's; eight networks were
trained at once on an NVIDIA H200, in 153 s, and weights were kept in half precision.

"Images distorted": 512 units, no dropout, 200 epochs, of which all but the last 20 see each image turned, scaled, moved
and bent at random each time; each network on one core of a CPU, with products in bfloat16.

MAE is the mean absolute error of reconstructed test images, in per cent of the range of the pixels.
Separability is the accuracy of a logistic regression on latent points by three protocols, named by what it
is fitted on and scored on: train-test is the honest one, test-test the paper's, train-train the optimistic one. The regression has scikit-learn's
default penalty; "no penalty" has a ten-thousandth of it, and asks whether planes between the classes exist.

Purity is judged by a logistic regression and a perceptron of 256 hidden units, fitted on the pixels of real
training images. Walks: 1,000 random same-digit pairs of test images a digit, which no network saw, decoded at
t = 1/4, 1/2 and 3/4. The row of real test images says what judges know of real ones. "Unbroken" is the
share of walks with all three images in class.

The paper states MAE 2.82 % and separability 90.81 % for its VAE, 2.56 % and 99.87 % for CI-VAE.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from _common import DOCS, markdown_table, provenance
from _data import class_pairs, labels_of
from _mnist_networks import (
    CHOICES,
    CLAIM_NETWORKS,
    CLASSES,
    KEY,
    PAPER_NETWORKS,
    Networks,
    choice_networks,
    classes_of,
    labels_few,
    split,
)
from _study import Study, replace, run, text_of
from mnist import POSITIONS, Components, judges_of, measure_method, purity
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scivae.metrics import linear_separability, path_purity, reconstruction_error

CLAIMS_TEXT = """
    Claims of the paper's text

    Images and splits as in `mnist_paper`. Networks have two layers of 256 units each way and are trained for 15
    epochs in batches of 128 images; α = 1, β = 500. Each row changes one thing of the row *CI-VAE*.

    "Digits separated" is the accuracy of a logistic regression on latent points, fitted on training images and
    scored on test images, for the ten digits whatever the classes of the row are. "Own classes, discriminator" is the share of test
    images that the network's own discriminator calls by the row's classes; "training images, discriminator" the same of training
    images. With permuted digits, those of test images are permuted, too: chance is 10 %.

    Walks join 1,000 random same-digit pairs of test images a digit. "Walks, mean" is the share of images at t = 1/4, 1/2 and
    3/4 that a perceptron, fitted on the pixels of real training images, calls by the digit of the ends. "Walks that leave": of the pairs of test images that the
    discriminator calls the same, the share whose straight line has a point, of 19 between the ends, that it calls otherwise. For a linear
    discriminator this is 0 by construction.

    "100 labels" and "1,000 labels": only so many training images have a label. "VAE, logistic regression" is fitted on the
    latent points of the same images. Published for 100 labels (Kingma et al., 2014): errors of 11.8 % (M1) and 12.0 % (M2).
"""
N_POINTS = 19


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--claims", action="store_true", help="claims of the text")
    parser.add_argument("--n-pairs", type=int, default=1000, help="pairs a digit")
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--networks", type=Path, default=Path("mnist_networks"), help="folder")
    parser.add_argument("--limit", type=float, default=np.inf, help="seconds of training")
    parser.add_argument("--together", type=int, default=10, help="networks at once")
    parser.add_argument("--half", action="store_true", help="write weights in half precision")
    parser.add_argument("--bfloat16", action="store_true", help="multiply matrices in bfloat16")


def how(args: argparse.Namespace) -> dict:
    """Arguments of training."""
    names = ("accelerator", "half", "limit", "bfloat16")
    return {name: getattr(args, name) for name in names}


def prepare(recipes, setting, seed, args) -> SimpleNamespace:
    """Images, judges, and networks, which are trained if they are not there."""
    folder = Path(tempfile.mkdtemp()) if args.quick else args.networks
    networks = Networks(recipes, folder, args.quick)
    asked = {CLAIMS.methods[m][0] if m in CLAIMS.methods else m for m in args.methods}
    networks.train([seed], asked & set(recipes), together=args.together, **how(args))
    parts = split(networks.all, seed)
    train, test = networks.all[parts.seen].copy(), networks.all[parts.test].copy()
    return SimpleNamespace(
        networks=networks,
        parts=parts,
        train=train,
        test=test,
        y_test=labels_of(test, KEY),
        judges=judges_of(train, seed),
    )


class Trained:
    """A trained network, as ``mnist.py`` asks for it."""

    def __init__(self, data: SimpleNamespace, name: str, seed: int):
        self.model, self.saved = data.networks.trained(name, seed)
        self.train = data.train
        self.trained_on = np.flatnonzero(np.isin(data.parts.seen, data.parts.train))

    def set_up(self, adata):
        """The images, with a column of labels as the network knows them."""
        cells = adata.copy()
        given = pd.Categorical([self.model.classes[0]] * adata.n_obs, self.model.classes)
        cells.obs = pd.DataFrame({CLASSES: given}, index=adata.obs_names)
        return cells

    def encode(self, adata):
        return self.model.get_latent_representation(self.set_up(adata))

    def decode(self, z):
        return self.model.decode(z)


def measure(name, data, seed, args):
    """A row of Table 1."""
    if name == "real test images":
        return {"MAE, %": 0.0, **purity("walks", data.test.X, data.y_test, data)}
    if name == "PCA":
        method, more = Components(args), {}
        method.fit(data.train, seed)
    else:
        method = Trained(data, name, seed)
        more = {"training time, s": method.saved["seconds"]}
    z = method.encode(data.test)
    separable = linear_separability(
        z, data.y_test, z, data.y_test, protocol="test-test", inverse_penalty=1e4, max_iter=5000
    )
    return {
        **measure_method(method, data, seed, args),
        "separability, test-test, no penalty, %": 100 * separable,
        **more,
    }


def measure_claim(what, data, seed, args):
    """A row of the claims: a network, its paths, or a regression on the latent points of few images."""
    name, kind = what
    method = Trained(data, name, seed)
    y = labels_of(data.networks.all, KEY)
    z, z_test = method.encode(data.train), method.encode(data.test)
    if kind in ("linear", "geodesic"):
        return paths_between_known(method, z, z_test, kind, data, seed, args)
    if kind:
        few = np.isin(data.parts.seen, labels_few(y, data.parts, int(kind), seed))
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        found = regression.fit(z[few], labels_of(data.train, KEY)[few]).predict(z_test)
        return {"own classes, discriminator, %": 100 * np.mean(found == data.y_test)}
    recipe, on = data.networks.recipes[name], method.trained_on
    given = classes_of(data.networks.all, recipe.labels, data.parts, seed)
    own, truth = given[data.parts.seen], given[data.parts.test]
    if recipe.labels in ("100", "1000"):
        own, truth = labels_of(data.train, KEY), data.y_test
    called, called_test = called_by(method.model, z), called_by(method.model, z_test)
    a, b = class_pairs(data.y_test, args.n_pairs, np.random.default_rng(seed))
    walked = np.concatenate([method.decode((1 - t) * z_test[a] + t * z_test[b]) for t in POSITIONS])
    return {
        "MAE, %": reconstruction_error(data.test.X, method.decode(z_test), value_range=1.0).percent,
        "digits separated, %": 100
        * linear_separability(z[on], labels_of(data.train, KEY)[on], z_test, data.y_test),
        "own classes, discriminator, %": 100 * np.mean(called_test == truth),
        "training images, discriminator, %": 100 * np.mean(called[on] == own[on]),
        "walks, mean": path_purity(
            data.judges["perceptron"], walked, np.tile(data.y_test[a], len(POSITIONS))
        ).mean,
        "walks that leave": share_that_leave(method.model, z_test, called_test, seed, args.n_pairs),
        "training time, s": method.saved["seconds"],
    }


def paths_between_known(method, z, z_test, kind, data, seed, args):
    """Columns of paths between test images that are called by their digit."""
    right = called_by(method.model, z_test) == data.y_test
    digits, sizes = np.unique(data.y_test[right], return_counts=True)
    known = np.flatnonzero(right & np.isin(data.y_test, digits[sizes > 1]))
    a, b = class_pairs(data.y_test[known], max(1, args.n_pairs // 10), np.random.default_rng(seed))
    a, b = known[a], known[b]
    path = method.model.interpolate(
        a, b, adata=method.set_up(data.test), method=kind, n_steps=5, key_added=None
    )
    inner = path[path.obs["civae_t"].between(0.1, 0.9)]
    middle = path[np.isclose(path.obs["civae_t"], 0.5)]
    nearest = NearestNeighbors(n_neighbors=1).fit(z[method.trained_on])
    away = [nearest.kneighbors(x)[0].mean() for x in (middle.obsm["X_civae"], z_test)]
    labels = np.repeat(data.y_test[a], len(inner) // len(a))
    return {
        "walks, mean": path_purity(data.judges["perceptron"], inner.X, labels).mean,
        "midpoints to training images": away[0] / away[1],
    }


@torch.inference_mode()
def called_by(model, z: np.ndarray) -> np.ndarray:
    """Classes by the discriminator of a network, linear or not."""
    logits = model.module.discriminator(torch.as_tensor(z, dtype=torch.float32))
    return np.asarray(model.classes)[logits.argmax(-1).numpy()]


def share_that_leave(model, z: np.ndarray, called: np.ndarray, seed: int, n_pairs: int) -> float:
    """Share of straight lines between points of one called class that have a point called otherwise."""
    classes, sizes = np.unique(called, return_counts=True)
    some = np.isin(called, classes[sizes > 1])
    z, called = z[some], called[some]
    a, b = class_pairs(called, n_pairs, np.random.default_rng(seed))
    left = np.zeros(len(a), dtype=bool)
    for t in np.linspace(0, 1, N_POINTS + 2)[1:-1]:
        left |= called_by(model, (1 - t) * z[a] + t * z[b]) != called[a]
    return float(left.mean())


STUDY = Study(
    name="mnist_paper",
    title="MNIST with the paper's own network",
    text=text_of(__doc__),
    methods={name: name for name in ("real test images", "PCA", *PAPER_NETWORKS)},
    prepare=partial(prepare, PAPER_NETWORKS),
    measure=measure,
    options=options,
    quick={"n_pairs": 10},
)
FEW = {"100 labels": "100", "1,000 labels": "1000"}
PATHS = {
    "CI-VAE: straight lines between images called right": "linear",
    "CI-VAE: geodesics between the same images": "geodesic",
}
CLAIMS = Study(
    name="mnist_claims",
    title="MNIST: claims of the paper's text",
    text=text_of("\n\n" + CLAIMS_TEXT.split("\n", 3)[3]),
    methods={
        **{name: (name, "") for name in CLAIM_NETWORKS},
        **{name: ("CI-VAE", kind) for name, kind in PATHS.items()},
        **{f"VAE, logistic regression, {few}": ("VAE", n) for few, n in FEW.items()},
    },
    prepare=partial(prepare, CLAIM_NETWORKS),
    measure=measure_claim,
    options=options,
    quick={"n_pairs": 10},
)


def choose(args: argparse.Namespace) -> pd.DataFrame:
    """Train every try on the first split, and write what validation images say of it."""
    networks = Networks(choice_networks(), args.networks, args.quick)
    if not networks.train([0], networks.recipes, together=len(CHOICES), **how(args)):
        raise SystemExit("not all networks are trained; call again to go on.")
    parts, y = split(networks.all, 0), labels_of(networks.all, KEY)
    data = SimpleNamespace(networks=networks, parts=parts, train=networks.all[parts.seen].copy())
    images = [networks.all[rows].copy() for rows in (parts.train, parts.validation)]
    rows = []
    for name in networks.recipes:
        method = Trained(data, name, 0)
        saved = method.saved
        epoch, error, accuracy, entropy = saved["checks"][-1].tolist()
        z, z_validation = map(method.encode, images)
        separability = linear_separability(z, y[parts.train], z_validation, y[parts.validation])
        rows.append(
            {
                "change": name,
                "validation MAE, %": error,
                "separability of validation images, %": 100 * separability,
                "validation accuracy, %": 100 * accuracy,
                "validation cross-entropy": entropy,
                "KL": float(saved["log"][-1, 1]),
                "epochs": int(epoch),
            }
        )
    table = pd.DataFrame(rows)
    out = Path(args.out or DOCS)
    table.to_csv(out / "mnist_choice.csv", index=False, float_format="%.6g", encoding="utf-8")
    text = (
        "# MNIST: what was tried before the network was fixed\n\nOne change at a time of the row *none*, on the validation images "
        "of the first split. No test image of it was looked at.\n\n"
    )
    replace(out / "mnist_choice.md", f"{text}{markdown_table(table)}\n\n{provenance()}\n")
    return table


def main(argv: list[str] | None = None) -> pd.DataFrame:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--choose" in argv:
        parser = argparse.ArgumentParser(description="what was tried")
        options(parser)
        for flag in ("--choose", "--quick"):
            parser.add_argument(flag, action="store_true")
        parser.add_argument("--out")
        start = time.perf_counter()
        found = choose(parser.parse_args(argv))
        print(found.to_string(), f"\n{time.perf_counter() - start:.0f} s")
        return found
    claims = "--claims" in argv
    if "--train" in argv:
        parser = argparse.ArgumentParser(description="train the networks, and measure nothing")
        options(parser)
        for flag in ("--train", "--quick"):
            parser.add_argument(flag, action="store_true")
        parser.add_argument("--seeds", type=int, default=5)
        parser.add_argument("--methods", nargs="+")
        args = parser.parse_args(argv)
        networks = Networks(CLAIM_NETWORKS if claims else PAPER_NETWORKS, args.networks, args.quick)
        networks.train(
            range(args.seeds),
            [name for name in networks.recipes if name in (args.methods or networks.recipes)],
            together=args.together,
            **how(args),
        )
        return pd.DataFrame()
    return run(CLAIMS if claims else STUDY, argv)


if __name__ == "__main__":
    main()
