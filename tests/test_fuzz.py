"""Random data of every shape and storage, some of it corrupt: a right answer, or words of our own."""

from __future__ import annotations

import traceback
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.conftest import assert_unchanged, snapshot

import scivae
from scivae.model import CIVAE

PACKAGE = str(Path(scivae.__file__).parent)
OURS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, FloatingPointError)
STORAGE = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "frame": pd.DataFrame,
}
NAMES = ("a", "β/γ", "", "T cell 🧬", "x\ty", "10", "None", "nan")


def pick(rng, options, p=None):
    """One of the options, as it is (``Generator.choice`` would make arrays of them)."""
    return options[rng.choice(len(options), p=p)]


def random_values(rng, n_cells, n_genes):
    """Values of many kinds: counts, fractions, signed, constant, very large, empty."""
    kind = pick(rng, ["counts"] * 5 + ["fraction", "signed", "log", "binary", "zero", "huge"])
    x = rng.poisson(rng.gamma(1.0, 4.0, size=n_genes), size=(n_cells, n_genes)).astype(float)
    x = {
        "counts": lambda: x,
        "fraction": lambda: x / max(x.max(), 1),
        "signed": lambda: x - x.mean(),
        "log": lambda: np.log1p(x),
        "binary": lambda: x > 1,
        "zero": lambda: 0 * x,
        "huge": lambda: x * 10.0 ** rng.integers(3, 300),
    }[kind]()
    dtypes = [np.float32, np.float64, np.float16]
    if kind in ("counts", "binary", "zero"):
        dtypes += [np.int32, np.uint8, np.int64]
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(pick(rng, dtypes))


def random_labels(rng, n):
    """Labels of many kinds, few classes or as many as cells, some missing."""
    n_classes = int(pick(rng, [1, *[2, 3] * 4, 5, 8, n]))
    code = rng.integers(n_classes, size=n)
    kind = pick(
        rng, [*["str", "category", "int", "float", "bool", "string"] * 2, "mixed", "object"]
    )
    words = [NAMES[k] if k < len(NAMES) else f"class {k}" for k in range(n_classes)]
    word = np.array(words, dtype=object)[code]
    column = {
        "str": lambda: word,
        "category": lambda: pd.Categorical(word, categories=[*words, "unused"]),
        "int": lambda: code,
        "float": lambda: code / 2,
        "bool": lambda: code % 2 == 0,
        "string": lambda: pd.array(word, dtype="string"),
        "mixed": lambda: np.where(code == 0, code.astype(object), word),
        "object": lambda: pd.Series([None if k % 7 == 6 else w for k, w in enumerate(word)]).values,
    }[kind]()
    column = pd.Series(column)
    if rng.random() < 0.1:
        column = column.where(rng.random(n) < 0.8)
    return column.to_numpy() if not isinstance(column.dtype, pd.CategoricalDtype) else column.array


def corrupt(rng, x):
    """One value that is none."""
    if x.size and x.dtype.kind == "f":
        x[tuple(rng.integers(s) for s in x.shape)] = pick(rng, [np.nan, np.inf, -np.inf, -1.0])
    return x


def random_adata(rng):
    sizes = [1, 2, 3, *[7, 20, 33, 65, 129] * 3]
    n_cells, n_genes = (int(pick(rng, sizes)) for _ in range(2))
    x = random_values(rng, n_cells, n_genes)
    if rng.random() < 0.1:
        x = corrupt(rng, x)
    storage = pick(rng, list(STORAGE))
    if x.dtype == np.float16 and storage.startswith("cs"):
        storage = "dense"  # scipy has no sparse halves
    stored = STORAGE[storage](x)
    index = [f"cell_{i}" for i in range(n_cells)]
    genes = [f"gene_{i}" for i in range(n_genes)]
    if rng.random() < 0.05:
        genes = ["gene"] * n_genes
    if rng.random() < 0.05:
        index = ["cell"] * n_cells
    if isinstance(stored, pd.DataFrame):
        stored = stored.set_axis(index).set_axis(genes, axis=1)
    obs = pd.DataFrame(
        {
            "cell_type": random_labels(rng, n_cells),
            "batch": rng.integers(3, size=n_cells).astype(pick(rng, [int, str])),
            "site": pd.Categorical(rng.choice(["l", "r"], size=n_cells)),
            "age": rng.normal(size=n_cells) * 10.0 ** rng.integers(-2, 4),
            "size": rng.uniform(0 if rng.random() < 0.1 else 0.1, 3, size=n_cells).round(1),
        },
        index=index,
    )
    in_layer = rng.random() < 0.6
    adata = anndata.AnnData(
        X=None if in_layer else stored,
        obs=obs,
        var=pd.DataFrame(index=genes),
        layers={"counts": stored} if in_layer else {},
    )
    return adata


def maybe(rng, share, **arguments):
    return arguments if rng.random() < share else {}


def said_by_us(error):
    """Whether the package itself raised it, and not what lies below it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, OURS) and last.filename.startswith(PACKAGE)


def values_of(generated, model):
    x = generated.X if model.setup.layer == "X" else generated.layers[model.setup.layer]
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def run(seed):
    """Take random data all the way; each answer is checked as soon as it is there."""
    rng = np.random.default_rng(seed)
    adata = random_adata(rng)
    before = snapshot(adata)
    setup = {
        **maybe(rng, 0.4, unlabeled_category=pick(rng, ["a", "Unknown", np.nan, 1])),
        **maybe(rng, 0.4, batch_key="batch"),
        **maybe(rng, 0.2, categorical_covariate_keys=["site"]),
        **maybe(rng, 0.2, continuous_covariate_keys=["age"]),
        **maybe(rng, 0.1, size_factor_key="size"),
        **maybe(rng, 0.04, layer=pick(rng, ["X", "counts", "missing"])),
    }
    try:
        CIVAE.setup_anndata(adata, **setup)
    except OURS:
        assert_unchanged(adata, before)
        raise
    model = CIVAE(
        adata,
        n_latent=int(rng.integers(1, 5)),
        n_hidden=8,
        **maybe(
            rng, 0.2, likelihood=pick(rng, ["zinb", "poisson", "laplace", "bernoulli", "normal"])
        ),
        **maybe(rng, 0.2, discriminator_weight=0.0),
        **maybe(rng, 0.2, n_layers=2),
    )
    model.train(
        max_epochs=2,
        batch_size=int(pick(rng, [2, 32, 64, 128])),
        enable_progress_bar=False,
        **maybe(rng, 0.2, train_size=1.0),
    )
    assert np.isfinite(model.get_latent_representation()).all()
    soft = model.predict(soft=True)
    assert soft.shape == (adata.n_obs, len(model.classes))
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)

    a, b = rng.integers(adata.n_obs, size=(2, 3)).tolist()
    method = pick(rng, ["linear", "linear", "geodesic"])
    path = model.interpolate(a, b, n_steps=4, method=method, n_samples=3)
    assert path.shape == (12, adata.n_vars)
    assert np.isfinite(values_of(path, model)).all()
    assert (path.layers["q05"] <= path.layers["q95"]).all()
    assert not path.obs.isna().any().any() or len(model.classes) == 1
    labels = adata.obs["cell_type"].to_numpy()
    codes = adata.obs["_scvi_labels"].to_numpy()
    for cell, row in zip(a, range(0, 12, 4), strict=True):
        if codes[cell] < len(model.classes):
            assert path.obs["cell_type"].iloc[row] == labels[cell]

    label = pick(rng, [*model.predict(), *model.classes.tolist()])
    cells = model.augment(label, 5, min_confidence=pick(rng, [None, 0.0]))
    assert cells.shape == (5, adata.n_vars)
    assert np.isfinite(values_of(cells, model)).all()
    assert (cells.obs["cell_type"] == label).all()


def outcome(seed):
    """``"right"``, or the first words of an error of ours; anything else is raised."""
    try:
        run(seed)
    except OURS as error:
        if not said_by_us(error):
            raise
        text = str(error.args[0])
        assert "\n" not in text
        assert len(text) > 20
        return " ".join(text.split()[:4])
    return "right"


@pytest.mark.filterwarnings("ignore")
def test_forty_random_data_sets():
    found = [outcome(seed) for seed in range(40)]
    assert 8 <= found.count("right") < 40  # both kinds of answer occur


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(1000, 1600, 50))
def test_hundreds_of_random_data_sets(first):
    found = [outcome(seed) for seed in range(first, first + 50)]
    assert 5 <= found.count("right") < 50
