"""Networks of the MNIST studies: their recipes, the images that they see, and their training.

Each is trained once and kept in a file; see ``_together.py``. What the paper leaves open (units, dropout, learning
rate, α and β) was chosen on the validation images of the first split; ``--choose`` of ``mnist_paper.py`` shows the tries.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import torch
from _data import data_folder, labels_of
from _together import Recipe, Stack, Task, build, load, train_together
from sklearn.model_selection import train_test_split

import scivae

KEY = "digit"
CLASSES = "class"
UNLABELED = "not labeled"

PAPER = Recipe(beta=500.0, alpha=0.1, dropout=0.05, lr=2e-3, epochs=1000)
BETTER = replace(
    PAPER, n_hidden=512, dropout=0.0, distorted=True, settle=0.1, lr_decay=0.7, epochs=200
)


def with_vae(name: str, recipe: Recipe) -> dict[str, Recipe]:
    """CI-VAE and the VAE that is trained in the same way."""
    return {f"VAE, {name}": replace(recipe, beta=0.0), f"CI-VAE, {name}": recipe}


# What is measured for the paper's Table 1.
PAPER_NETWORKS = {
    **with_vae("as in the paper", PAPER),
    **with_vae("images distorted", BETTER),
}
# For the claims of the text, of which there are many: minutes each on a CPU.
SHORT = Recipe(beta=500.0, n_layers=2, n_hidden=256, batch_size=128, epochs=15, warm_up=0.5)
CLAIM_NETWORKS = {
    "VAE": replace(SHORT, beta=0.0),
    "VAE, linear classifier on the side": replace(SHORT, discriminator="stopped"),
    "CI-VAE": SHORT,
    "one hidden layer in the discriminator": replace(SHORT, discriminator="hidden"),
    **{f"β = {beta:g}": replace(SHORT, beta=beta) for beta in (5.0, 50.0, 5000.0)},
    **{f"α = {alpha:g}": replace(SHORT, alpha=alpha) for alpha in (0.1, 10.0)},
    "classes: odd, even": replace(SHORT, labels="parity"),
    "classes: thin, thick": replace(SHORT, labels="thickness"),
    "classes: digits, permuted": replace(SHORT, labels="permuted"),
    "100 labels": replace(SHORT, labels="100"),
    "1,000 labels": replace(SHORT, labels="1000"),
}
# What was tried, each as changes of the first row. All are trained for 40 epochs where they do not say otherwise.
TRIED = replace(BETTER, n_hidden=256, alpha=0.03, epochs=40)
CHOICES = {
    "none": {},
    "images as they are": {"distorted": False},
    "images as they are, but up to 12 % of the pixels lost": {"distorted": False, "thinning": 0.12},
    "β = 0 (a VAE)": {"beta": 0.0},
    "β = 150": {"beta": 150.0},
    "β = 1,500": {"beta": 1500.0},
    "α = 0.01": {"alpha": 0.01},
    "α = 0.1": {"alpha": 0.1},
    "learning rate 0.001": {"lr": 1e-3},
    "learning rate 0.004": {"lr": 4e-3},
    "no warm-up of α and β": {"warm_up": 0.0},
    "512 units": {"n_hidden": 512},
    "512 units, β = 150, 80 epochs": {"n_hidden": 512, "beta": 150.0, "epochs": 80},
    "512 units, β = 300, 80 epochs": {"n_hidden": 512, "beta": 300.0, "epochs": 80},
    "512 units, β = 150, α = 0.1, 80 epochs": {
        "n_hidden": 512,
        "beta": 150.0,
        "alpha": 0.1,
        "epochs": 80,
    },
}


def choice_networks() -> dict[str, Recipe]:
    """What was tried before the recipe was fixed."""
    return {name: replace(TRIED, **change) for name, change in CHOICES.items()}


def images(quick: bool = False) -> anndata.AnnData:
    """All images; with ``quick`` those of scikit-learn."""
    if quick:
        return scivae.datasets.digits()
    folder = data_folder() / "mnist"
    return scivae.datasets.mnist(path=folder if folder.exists() else None)


def split(adata: anndata.AnnData, seed: int) -> SimpleNamespace:
    """Positions: 80 % to train on, 10 % for validation, 10 % for testing, classes in equal shares."""
    y = labels_of(adata, KEY)
    seen, test = train_test_split(
        np.arange(adata.n_obs), test_size=0.1, random_state=seed, stratify=y
    )
    train, validation = train_test_split(seen, test_size=1 / 9, random_state=seed, stratify=y[seen])
    return SimpleNamespace(seen=seen, train=train, validation=validation, test=test)


def classes_of(adata: anndata.AnnData, labels: str, parts: SimpleNamespace, seed: int):
    """What the classes of a network are, of all images."""
    y = labels_of(adata, KEY)
    rng = np.random.default_rng(seed)
    if labels == "digit":
        return y
    if labels == "parity":
        return np.where(y.astype(int) % 2, "odd", "even")
    if labels == "thickness":
        ink = np.asarray(adata.X.sum(axis=1)).ravel()
        return np.where(ink > np.median(ink[parts.train]), "thick", "thin")
    if labels == "permuted":
        given = y.copy()
        for some in (parts.seen, parts.test):
            given[some] = rng.permutation(y[some])
        return given
    few = labels_few(y, parts, int(labels), seed)
    return np.where(np.isin(np.arange(len(y)), few), y, UNLABELED)


def labels_few(y: np.ndarray, parts: SimpleNamespace, n: int, seed: int) -> np.ndarray:
    """Positions of ``n`` training images, as many of each digit."""
    few, _ = train_test_split(parts.train, train_size=n, random_state=seed, stratify=y[parts.train])
    return np.sort(few)


class Networks:
    """Trained networks of a folder; those that are not there are trained.

    Parameters
    ----------
    recipes
        By name.
    folder
        Of their files.
    quick
        Whether on few, small images, and for a few epochs.
    """

    def __init__(self, recipes: dict[str, Recipe], folder: Path, quick: bool = False):
        if quick:
            recipes = {
                k: replace(r, epochs=3, batch_size=64, n_hidden=16, n_layers=2)
                for k, r in recipes.items()
            }
        self.recipes, self.folder = recipes, folder
        self.all = images(quick)

    def path(self, name: str, seed: int) -> Path:
        """File of a network."""
        return self.folder / f"{slug(name)}_{seed}.pt"

    def model(self, name: str, seed: int) -> scivae.model.CIVAE:
        """The model of a recipe, not trained; its AnnData are the images of training and validation."""
        recipe = self.recipes[name]
        return build(recipe, self._seen(recipe.labels, seed), seed)

    @lru_cache(maxsize=8)  # noqa: B019  # lives as long as a run
    def _seen(self, labels: str, seed: int) -> anndata.AnnData:
        """The images of training and validation, set up."""
        parts = split(self.all, seed)
        return self._set_up(parts.seen, classes_of(self.all, labels, parts, seed))

    def _set_up(self, cells: np.ndarray, given: np.ndarray) -> anndata.AnnData:
        """Some of the images, with these classes."""
        adata, given = self.all[cells].copy(), given[cells]
        adata.obs[CLASSES] = pd.Categorical(given)
        rest = {"unlabeled_category": UNLABELED} if UNLABELED in given else {}
        scivae.model.CIVAE.setup_anndata(adata, labels_key=CLASSES, **rest)
        return adata

    def trained(self, name: str, seed: int) -> tuple[scivae.model.CIVAE, dict]:
        """A trained model, and what was logged."""
        model = self.model(name, seed)
        return model, load(model, self.path(name, seed))

    def task(self, name: str, seed: int) -> Task:
        """The training of a network."""
        recipe, parts = self.recipes[name], split(self.all, seed)
        given = classes_of(self.all, recipe.labels, parts, seed)
        # the network does not depend on how many images there are
        few = np.sort(parts.seen[np.unique(given[parts.seen], return_index=True)[1]])
        few = np.union1d(few, parts.seen[:200])
        module = build(recipe, self._set_up(few, given), seed).module
        classes = sorted(set(given[parts.seen]) - {UNLABELED})
        codes = np.array([classes.index(c) if c in classes else len(classes) for c in given])
        return Task(
            self.path(name, seed).stem, recipe, module, codes, parts.train, parts.validation, seed
        )

    def train(
        self,
        seeds: Iterable[int],
        names: Iterable[str],
        *,
        accelerator: str = "cpu",
        half: bool = False,
        limit: float = np.inf,
        together: int = 10,
        bfloat16: bool = False,
    ) -> bool:
        """Train what is not there; whether all is there in the end.

        Parameters
        ----------
        seeds
            Of splits and networks.
        names
            Of the recipes.
        accelerator
            ``"cpu"`` or ``"gpu"``.
        half
            Whether weights are written in half precision.
        limit
            Seconds after which training stops, to go on another time.
        together
            Most networks that are trained at once.
        bfloat16
            Whether matrices are multiplied in bfloat16, which some processors do several times as fast.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        device = torch.device("cuda" if accelerator == "gpu" else "cpu")
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        missing = [
            (name, seed)
            for seed in seeds
            for name in self.recipes
            if name in names and not self.path(name, seed).exists()
        ]
        if not missing:
            return True
        top = self.all.X.max()
        pixels = torch.as_tensor(np.asarray(self.all.X * (255 / top)).round(), dtype=torch.uint8)
        pixels = pixels.to(device)
        alike: dict[tuple, list] = {}
        for name, seed in missing:
            alike.setdefault(self.recipes[name].shape, []).append((name, seed))
        stop = time.perf_counter() + limit
        for group in alike.values():
            for i in range(0, len(group), together):
                tasks = [self.task(name, seed) for name, seed in group[i : i + together]]
                compiled = len(pixels) > 10_000
                stack = Stack(tasks, pixels, compiled=compiled, bfloat16=bfloat16)
                if not train_together(stack, self.folder, limit=stop - time.perf_counter()):
                    return False
                stack.save(self.folder, half)
        return True


def slug(name: str) -> str:
    """Name of a file."""
    return "".join(
        c if c.isalnum() else "_" for c in name.replace("β", "beta").replace("α", "alpha")
    )
