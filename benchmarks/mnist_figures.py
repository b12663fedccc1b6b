"""Figures 4 to 8 of the paper, VAE beside CI-VAE, from the networks of ``mnist_paper.py``.

    python benchmarks/mnist_figures.py --networks mnist_networks

They go to ``docs/_static/mnist_*.png``. All of them are of the first split; images shown are test images, which
no network saw.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from _data import labels_of
from _figures import FOLDER, STYLE
from _mnist_networks import KEY, PAPER_NETWORKS
from matplotlib import pyplot as plt
from mnist_paper import Trained, options, prepare

MODELS = {"VAE": "VAE, images distorted", "CI-VAE": "CI-VAE, images distorted"}
LINES = {"VAE": "#D55E00", "CI-VAE": "#0072B2"}
DIGITS = plt.get_cmap("tab10").colors
SHOWN = 3000  # points of a map
STEPS = 10  # images of a walk


def draw(fig, name: str, folder: Path) -> None:
    fig.savefig(folder / f"mnist_{name}.png", dpi=150, facecolor="white")
    plt.close(fig)


def training(data, folder: Path) -> None:
    """Figure 4: the terms of both losses by epoch."""
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.6), layout="constrained")
    columns = (4, 1, 2)
    titles = ("mean absolute error, %", "KL term, nats", "cross-entropy, nats")
    for name, method in data.methods.items():
        log = method.saved["log"].numpy()
        checks = method.saved["checks"].numpy()
        epochs = np.arange(1, len(log) + 1)
        for ax, column in zip(axes, columns, strict=True):
            if column == 2 and name == "VAE":  # it has no such term
                continue
            ax.plot(epochs, log[:, column], color=LINES[name], lw=1, label=f"{name}, training")
            if column != 1:
                found = checks[:, {4: 1, 2: 3}[column]]
                ax.plot(
                    checks[:, 0], found, "--", color=LINES[name], lw=1.2, label=f"{name}, held out"
                )
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlabel="epoch", xscale="log")
    axes[2].set_yscale("log")
    fig.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    draw(fig, "training", folder)


def latent(data, folder: Path) -> None:
    """Figure 5: both latent spaces as t-SNE, UMAP and UMAP in three dimensions."""
    from sklearn.manifold import TSNE
    from umap import UMAP

    some = np.random.default_rng(0).permutation(len(data.y_test))[:SHOWN]
    codes = data.y_test[some].astype(int)
    maps = {
        "t-SNE": TSNE(random_state=0),
        "UMAP": UMAP(random_state=0),
        "UMAP, 3 dimensions": UMAP(n_components=3, random_state=0),
    }
    fig = plt.figure(figsize=(7.6, 5.2), layout="constrained")
    for row, (name, method) in enumerate(data.methods.items()):
        z = method.encode(data.test)[some]
        for column, (kind, found) in enumerate(maps.items()):
            points = found.fit_transform(z)
            deep = points.shape[1] == 3
            ax = fig.add_subplot(
                2, 3, 3 * row + column + 1, **({"projection": "3d"} if deep else {})
            )
            ax.scatter(*points.T, c=[DIGITS[code] for code in codes], s=2, lw=0, rasterized=True)
            ax.set_title(f"{name}: {kind}")
            ax.set(xticks=[], yticks=[])
            if deep:
                ax.set_zticks([])
            else:
                for digit in range(10):
                    at = np.median(points[codes == digit], axis=0)
                    ax.text(*at, str(digit), weight="bold", ha="center", va="center", fontsize=8)
    draw(fig, "latent", folder)


def reconstruction(data, folder: Path) -> None:
    """Figure 6: test images, what both make of them, and the differences."""
    first = [int(np.flatnonzero(data.y_test == digit)[0]) for digit in np.unique(data.y_test)]
    real = np.asarray(data.test.X[first])
    made = {name: m.decode(m.encode(data.test[first].copy())) for name, m in data.methods.items()}
    rows = [("test image", real, "gray")]
    for name, images in made.items():
        rows += [(name, images, "gray"), (f"{name} − test image", images - real, "RdBu_r")]
    fig, axes = plt.subplots(
        len(rows), len(first), figsize=(7.6, 4.0), gridspec_kw={"wspace": 0.06, "hspace": 0.06}
    )
    for (label, images, cmap), line in zip(rows, axes, strict=True):
        low = 0 if cmap == "gray" else -1
        for ax, image in zip(line, images, strict=True):
            tile(ax, image, cmap, low)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    fig.subplots_adjust(left=0.2, right=0.995, top=0.99, bottom=0.01)
    draw(fig, "reconstruction", folder)


def tile(ax, image: np.ndarray, cmap: str = "gray", low: float = 0) -> None:
    side = round(len(image) ** 0.5)
    ax.imshow(image.reshape(side, side), cmap=cmap, vmin=low, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def paths(data, folder: Path) -> None:
    """Figure 7: the same ends for both, and what the judge calls each image."""
    judge = data.judges["perceptron"]
    rng = np.random.default_rng(3)
    fig, axes = plt.subplots(
        6, STEPS, figsize=(7.6, 5.6), gridspec_kw={"wspace": 0.06, "hspace": 0.3}
    )
    z = {name: method.encode(data.test) for name, method in data.methods.items()}
    for i, digit in enumerate("358"):
        a, b = rng.choice(np.flatnonzero(data.y_test == digit), 2, replace=False)
        for j, (name, method) in enumerate(data.methods.items()):
            t = np.linspace(0, 1, STEPS)[:, None]
            images = method.decode((1 - t) * z[name][a] + t * z[name][b])
            line = axes[2 * i + j]
            for ax, image, called in zip(line, images, judge.predict(images), strict=True):
                tile(ax, image)
                wrong = called != digit
                ax.set_xlabel(
                    called,
                    labelpad=1,
                    fontsize=9,
                    color="#D55E00" if wrong else "0.3",
                    weight="bold" if wrong else "normal",
                )
            line[0].set_ylabel(f"{digit}, {name}", rotation=0, ha="right", va="center", fontsize=9)
    fig.subplots_adjust(left=0.12, right=0.995, top=0.99, bottom=0.04)
    draw(fig, "paths", folder)


def augmentation(data, folder: Path) -> None:
    """Figure 8: images of a three that were made, among real ones, by their pixels."""
    from umap import UMAP

    rng = np.random.default_rng(0)
    some = rng.permutation(len(data.y_test))[:SHOWN]
    real, codes = np.asarray(data.test.X[some]), data.y_test[some].astype(int)
    found = UMAP(random_state=0).fit(real)
    threes = np.flatnonzero(labels_of(data.train, KEY)[data.methods["VAE"].trained_on] == "3")
    a, b = rng.choice(threes, (2, 300))
    fig, axes = plt.subplots(
        1, 2, figsize=(7.6, 3.6), layout="constrained", sharex=True, sharey=True
    )
    for ax, (name, method) in zip(axes, data.methods.items(), strict=True):
        z = method.encode(data.train)[method.trained_on]
        t = rng.random((len(a), 1))
        made = method.decode((1 - t) * z[a] + t * z[b])
        called = np.mean(data.judges["perceptron"].predict(made) == "3")
        ax.scatter(
            *found.embedding_.T, c=[DIGITS[code] for code in codes], s=2, lw=0, alpha=0.5,
            rasterized=True,
        )  # fmt: skip
        ax.scatter(*found.transform(made).T, s=9, color="black", marker="x", lw=0.7)
        for digit in range(10):
            at = np.median(found.embedding_[codes == digit], axis=0)
            ax.text(*at, str(digit), weight="bold", ha="center", va="center", fontsize=9)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{name}: {called:.0%} of 300 new images called 3")
    draw(fig, "augmentation", folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options(parser)  # of networks that are not there yet
    parser.add_argument("--quick", action="store_true", help="on small images; no evidence")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    folder = args.out or (Path(tempfile.mkdtemp(prefix="mnist_")) if args.quick else FOLDER)
    recipes = {name: PAPER_NETWORKS[name] for name in MODELS.values()}
    args.methods = list(MODELS.values())
    data = prepare(recipes, {}, 0, args)
    data.methods = {name: Trained(data, network, 0) for name, network in MODELS.items()}
    with plt.rc_context(STYLE):
        for figure in (training, latent, reconstruction, paths, augmentation):
            figure(data, folder)
    print(f"five figures in {folder}")


if __name__ == "__main__":
    main()
