"""Random data of every shape, storage and name, some of it corrupt: a right answer, or words of our own.

A right answer is that of a plain twin: the same values as CSR in memory, with plain names. More data sets than the
suite takes: ``python tests/test_fuzz.py 2000``.
"""

from __future__ import annotations

import argparse
import collections
import logging
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.conftest import assert_unchanged, snapshot
from tests.test_storage import doubled, unsorted, with_zeros

import scivae
from scivae._names import as_text
from scivae._storage import dense
from scivae.model import CIVAE, BlockDataModule
from scivae.module import LIKELIHOODS

PACKAGE = str(Path(scivae.__file__).parent)
OURS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, FloatingPointError)


def lazily(kind):
    """An array of dask whose chunks are of a kind."""

    def store(x):
        da = pytest.importorskip("dask.array")
        size = (max(1, x.shape[0] // 2), x.shape[1])
        return da.from_array(np.asarray(x), chunks=size).map_blocks(kind, dtype=x.dtype)

    return store


STORAGE = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "frame": pd.DataFrame,
    "unsorted": lambda x: unsorted(sparse.csr_matrix(x)),
    "doubled": lambda x: doubled(sparse.csr_matrix(x)),
    "stored zeros": lambda x: with_zeros(sparse.csr_matrix(x)),
    "dask": lazily(np.asarray),
    "dask of csr": lazily(sparse.csr_matrix),
    "dask of csc": lazily(sparse.csc_matrix),
}
NAMES = ("a", "β/γ", "", "T cell 🧬", "x\ty", "10", "None", "nan", "a|b", "l" * 400, "..", " ")
ODD = ("/", "|", ":", "\n", " → ", "🧬", "ß", "é" * 300, "'", '"', ".", "\\", "%s", "{}", "\x07")


def pick(rng, options, p=None):
    """One of the options, as it is (``Generator.choice`` would make arrays of them)."""
    return options[rng.choice(len(options), p=p)]


def maybe(rng, share, **arguments):
    return arguments if rng.random() < share else {}


def random_values(rng, n_cells, n_genes):
    """Values of many kinds: counts, fractions, signed, constant, very large, empty."""
    kind = pick(rng, ["counts"] * 8 + ["fraction", "signed", "log", "binary", "zero", "huge"])
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


def random_column(rng, n, n_classes):
    """A column of names of many kinds, some of which no file can hold."""
    code = rng.integers(n_classes, size=n)
    kinds = ["str", "category", "ordered", "int", "float", "bool", "string", "Int64", "boolean"]
    kind = pick(rng, [*kinds * 8, "mixed", "None", "interval", "date", "bytes"])
    words = [NAMES[k] if k < len(NAMES) else f"class {k}" for k in range(n_classes)]
    rng.shuffle(words)
    word = np.array(words, dtype=object)[code]
    column = {
        "str": lambda: word,
        "category": lambda: pd.Categorical(word, categories=[*words, "unused"]),
        "ordered": lambda: pd.Categorical(word, categories=words, ordered=True),
        "int": lambda: code,
        "float": lambda: code / 2,
        "bool": lambda: code % 2 == 0,
        "string": lambda: pd.array(word, dtype="string"),
        "Int64": lambda: pd.array(code, dtype="Int64"),
        "boolean": lambda: pd.array(code % 2 == 0, dtype="boolean"),
        "mixed": lambda: np.where(code == 0, code.astype(object), word),
        "None": lambda: pd.Series([None if k % 7 == 6 else w for k, w in enumerate(word)]).values,
        "interval": lambda: pd.cut(code, max(2, n_classes)),
        "date": lambda: pd.to_datetime("2020-01-01") + pd.to_timedelta(code, "D"),
        "bytes": lambda: np.array([w.encode() for w in word], dtype=object),
    }[kind]()
    column = pd.Series(column)
    if rng.random() < 0.05:
        column = column.where(rng.random(n) < 0.8)
    return column.array


def random_names(rng, n, plain):
    """Names of cells or genes: plain, odd, long, numbers, or one for all."""
    kind = pick(rng, [*["plain"] * 8, *["odd"] * 8, "one", *["long", "numbers", "categories"] * 2])
    names = {
        "plain": lambda: [f"{plain}_{i}" for i in range(n)],
        "odd": lambda: [f"{pick(rng, ODD)}{i}{pick(rng, ODD)}" for i in range(n)],
        "long": lambda: [f"{'x' * 3000}{i}" for i in range(n)],
        "numbers": lambda: list(range(n)),
        "categories": lambda: pd.CategoricalIndex([f"{plain}_{i}" for i in range(n)]),
        "one": lambda: [plain] * n,
    }[kind]()
    return pd.Index(names)


def corrupt(rng, x):
    """One value that is none."""
    if x.size and x.dtype.kind == "f":
        x[tuple(rng.integers(s) for s in x.shape)] = pick(rng, [np.nan, np.inf, -np.inf, -1.0])
    return x


def random_adata(rng):
    sizes = [1, 2, 3, *[7, 20, 33, 65] * 4]
    n_cells, n_genes = (int(pick(rng, sizes)) for _ in range(2))
    x = random_values(rng, n_cells, n_genes)
    if rng.random() < 0.08:
        x = corrupt(rng, x)
    storage = pick(rng, list(STORAGE))
    if x.dtype == np.float16 and storage not in ("dense", "fortran", "big-endian", "dask"):
        storage = "dense"  # scipy has no sparse halves
    with np.errstate(all="ignore"):
        stored = STORAGE[storage](x)
    obs = pd.DataFrame(
        {
            "cell_type": random_column(rng, n_cells, int(pick(rng, [1, *[2, 3] * 10, 5, n_cells]))),
            "batch": random_column(rng, n_cells, 2),
            "site": random_column(rng, n_cells, 2),
            "age": rng.normal(size=n_cells) * 10.0 ** rng.integers(-2, 4),
            "size": rng.uniform(0 if rng.random() < 0.1 else 0.1, 3, size=n_cells).round(1),
        }
    )
    in_layer = rng.random() < 0.6
    if isinstance(stored, pd.DataFrame):
        stored = stored.set_axis(obs.index.astype(str)).set_axis(map(str, range(n_genes)), axis=1)
    adata = anndata.AnnData(
        X=None if in_layer else stored,
        obs=obs.set_axis(obs.index.astype(str)),
        var=pd.DataFrame({"symbol": [f"S{i}" for i in range(n_genes)]}).rename(index=str),
        layers={"counts": stored} if in_layer else {},
    )
    adata.obs.index, adata.var.index = (
        random_names(rng, n, plain) for n, plain in ((n_cells, "cell"), (n_genes, "gene"))
    )
    if rng.random() < 0.3:
        adata.obs.index.name, adata.var.index.name = "barcode 🧬", "gene"
    return adata


def said_by_us(error):
    """Whether the package itself raised it, and not what lies below it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = last.filename.startswith(PACKAGE) and (last.line or "").startswith("raise ")
    return isinstance(error, OURS) and ours


def values_of(generated, model):
    layer = model.setup.layer
    return dense(generated.X if layer == "X" else generated.layers[layer])


def twin(adata, model):
    """The same cells, stored and named plainly, with the codes of the setup in place of names."""
    key = model.setup.layer
    values = sparse.csr_matrix(dense(adata.X if key == "X" else adata.layers[key]), dtype="float32")
    codes = adata.obs["_scvi_labels"].to_numpy()
    names = [f"k{k:03}" for k in range(len(model.classes))]
    obs = {
        "cell_type": pd.Categorical.from_codes(np.where(codes < len(names), codes, -1), names),
        "batch": [f"b{k:03}" for k in adata.obs["_scvi_batch"]],
        "age": adata.obs["age"].to_numpy(),
        "size": adata.obs["size"].to_numpy(),
    }
    if "_scvi_extra_categorical_covs" in adata.obsm:
        covariates = np.asarray(adata.obsm["_scvi_extra_categorical_covs"])
        obs["site"] = [f"s{k:03}" for k in covariates[:, 0]]
    return anndata.AnnData(
        X=values if key == "X" else None,
        obs=pd.DataFrame(obs, index=[f"cell_{i}" for i in range(adata.n_obs)]),
        var=pd.DataFrame(index=[f"gene_{i}" for i in range(adata.n_vars)]),
        layers={} if key == "X" else {"counts": values},
    )


def writable(adata):
    """Whether files can hold what the user has named so."""
    texts = [*as_text(adata.obs_names), *as_text(adata.var_names)]
    try:
        return bool("".join(texts).encode()) and adata.obs_names.inferred_type == "string"
    except UnicodeEncodeError:
        return False


def follow(rng, model, adata, label, arguments):
    """What a model makes of cells, each answer checked as soon as it is there."""
    z = model.get_latent_representation(adata)
    assert np.isfinite(z).all()
    soft = model.predict(adata, soft=True)
    assert soft.shape == (adata.n_obs, len(model.classes))
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)

    a, b = rng.integers(adata.n_obs, size=(2, 3)).tolist()
    method = pick(rng, ["linear", "linear", "spherical", "geodesic"] if len(z) > 20 else ["linear"])
    path = model.interpolate(a, b, n_steps=4, method=method, n_samples=3, adata=adata, **arguments)
    assert path.shape == (12, adata.n_vars)
    assert path.var.columns.tolist() == adata.var.columns.tolist()
    assert np.isfinite(values_of(path, model)).all()
    assert (path.layers["q05"] <= path.layers["q95"]).all()
    assert not path.obs.isna().any().any() or len(model.classes) == 1
    assert path.obs["civae_source"].astype(str).tolist() == [
        name for name in as_text(adata.obs_names)[a] for _ in range(4)
    ]
    labels = adata.obs["cell_type"].to_numpy()
    codes = adata.obs["_scvi_labels"].to_numpy()
    for cell, row in zip(a, range(0, 12, 4), strict=True):
        if codes[cell] < len(model.classes):
            assert path.obs["cell_type"].iloc[row] == labels[cell]

    cells = model.augment(
        label, 5, min_confidence=pick(rng, [None, 0.0, 0.0]), adata=adata, **arguments
    )
    assert cells.shape == (5, adata.n_vars)
    assert np.isfinite(values_of(cells, model)).all()
    assert (cells.obs["cell_type"] == label).all()
    found = {"z": z, "soft": soft.to_numpy(), "path": values_of(path, model)}
    return found | {"cells": values_of(cells, model)}, path, cells


def join(adata, made):
    """Real and generated cells in one AnnData; no column of the setup changes its type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = [cells.obs.set_axis(as_text(cells.obs_names)) for cells in (adata, made)]
        joined = anndata.concat([anndata.AnnData(obs=frame) for frame in frames], index_unique="-")
    for column in joined.obs.columns.intersection(made.obs.columns):
        kind, now = adata.obs[column].dtype, joined.obs[column].dtype
        same = kind == now or pd.api.types.is_string_dtype(kind)
        numbers = column in ("age", "size") and now.kind == "f"
        unlabeled = isinstance(now, pd.CategoricalDtype) and set(kind.categories) <= set(
            now.categories
        )
        assert same or numbers or unlabeled, f"{column} was {kind} and became {now}"


def to_disk(rng, model, adata, path, cells, z):
    """Models and cells are written and read back; the cells of a file are annotated."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "ß 🧬 (1)"
        model.save(home / "model")
        again = CIVAE.load(home / "model", adata)
        np.testing.assert_array_equal(again.get_latent_representation(), z)
        if not writable(adata):
            return
        for name, made in (("path", path), ("cells", cells)):
            made.write_h5ad(home / f"{name}.h5ad")
            back = anndata.read_h5ad(home / f"{name}.h5ad")
            np.testing.assert_array_equal(values_of(back, model), values_of(made, model))
            assert np.isfinite(model.get_latent_representation(back)).all()
        plain = anndata.AnnData(
            X=adata.X,
            layers={k: v for k, v in adata.layers.items() if k is not None},
            obs=adata.obs[[c for c in adata.obs if not str(c).startswith("_scvi")]],
            var=adata.var,
        )
        plain.obs.index, plain.var.index = map(as_text, (plain.obs_names, plain.var_names))
        plain.obs.index.name = plain.var.index.name = None
        try:
            plain.write_h5ad(home / "real.h5ad")
        except Exception:  # noqa: BLE001  what no file can hold is the user's affair
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = BlockDataModule(home / "real.h5ad", registry=model.registry_)
            model.annotate(data)
        known = anndata.read_h5ad(home / "real.h5ad")
        np.testing.assert_allclose(known.obsm["X_civae"], z, rtol=1e-3, atol=1e-3)


def genes_along(model, adata, named, z):
    """Trends between two batches, of which ``named`` says what they are called."""
    adata.obsm["X_civae"] = z
    codes, found = pd.factorize(named.obs["batch"])
    if len(found) < 2:
        return {}
    if adata is not named:
        adata.obs["batch"], found = codes, [0, 1]
    pairs = scivae.tl.pair_cells(adata, "batch", found[0], found[1], n_pairs=10)
    trends = scivae.tl.gene_trends(model, pairs, adata=adata, n_steps=3)
    values = dense(trends.layers.get("decoded", trends.X))
    assert np.isfinite(values).all()
    return {"trends": values}


def train(adata, setup, options, training):
    CIVAE.setup_anndata(adata, **setup)
    model = CIVAE(adata, **options)
    model.train(enable_progress_bar=False, **training)
    return model


def run(seed):
    """Take random data all the way, and a plain twin with them."""
    rng = np.random.default_rng(seed)
    adata = random_adata(rng)
    before = snapshot(adata)
    setup = {
        **maybe(rng, 0.4, unlabeled_category=pick(rng, ["a", "Unknown", np.nan, 1])),
        **maybe(rng, 0.3, batch_key="batch"),
        **maybe(rng, 0.2, categorical_covariate_keys=["site"]),
        **maybe(rng, 0.2, continuous_covariate_keys=["age"]),
        **maybe(rng, 0.1, size_factor_key="size"),
        **maybe(rng, 0.04, layer=pick(rng, ["X", "counts", "missing"])),
    }
    options = {
        "n_latent": int(rng.integers(1, 5)),
        "n_hidden": 8,
        **maybe(rng, 0.1, likelihood=pick(rng, [x for x in LIKELIHOODS if x != "nb"])),
        **maybe(rng, 0.2, discriminator_weight=0.0),
        **maybe(rng, 0.2, n_layers=2),
    }
    training = {
        "max_epochs": 2,
        "batch_size": int(pick(rng, [2, 32, 64, 128], p=[0.1, 0.3, 0.3, 0.3])),
        **maybe(rng, 0.2, train_size=1.0),
    }
    arguments = maybe(rng, 0.2, key_added=pick(rng, ["x", "ß 🧬", None, "a/b", "..", "y" * 250]))
    try:
        CIVAE.setup_anndata(adata, **setup)
    except OURS:
        if adata.obs_names.inferred_type == "string":
            assert_unchanged(adata, before)
        raise
    model = train(adata, setup, options, training)
    label = pick(rng, [*model.predict()] * 3 + model.classes.tolist())
    number = np.flatnonzero(model.classes == label)[0]
    draws = int(rng.integers(2**31))
    found, path, cells = follow(np.random.default_rng(draws), model, adata, label, arguments)
    join(adata, path)
    join(adata, cells)
    if rng.random() < 0.4:
        to_disk(rng, model, adata, path, cells, found["z"])
    along = genes_along(model, adata, adata, found["z"]) if rng.random() < 0.4 else None

    plain = twin(adata, model)
    if "unlabeled_category" in setup or plain.obs["cell_type"].isna().any():
        setup = {**setup, "unlabeled_category": "Unknown"}
    other = train(plain, {**setup, "layer": None}, options, training)
    expected, _, _ = follow(np.random.default_rng(draws), other, plain, f"k{number:03}", {})
    if along is not None:
        found |= along
        expected |= genes_along(other, plain, adata, expected["z"])
    for name, value in found.items():
        scale = max(float(np.abs(expected[name]).max(initial=0)), 1.0)
        np.testing.assert_allclose(
            value, expected[name], rtol=0.02, atol=2e-3 * scale, err_msg=f"{name} differs"
        )


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
        return " ".join(text.split()[:6])
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


def main():
    """Many data sets, one after another; what went wrong, and how often which answer was given."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("n", type=int, help="data sets")
    parser.add_argument("--first", type=int, default=10_000, help="seed of the first")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    scivae.model.CIVAE  # noqa: B018
    answers, wrong, start = collections.Counter(), [], time.perf_counter()
    for i, seed in enumerate(range(args.first, args.first + args.n)):
        try:
            answers[outcome(seed)] += 1
        except Exception as error:  # noqa: BLE001
            wrong.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {str(error).strip()[:600]}", flush=True)
            print("".join(traceback.format_tb(error.__traceback__)[-3:]), flush=True)
        if i % 100 == 99:
            print(f"{i + 1} of {args.n}, {time.perf_counter() - start:.0f} s", flush=True)
    for answer, n in answers.most_common():
        print(f"{n:6} {answer}")
    print(f"{len(wrong)} of {args.n} went wrong: {wrong}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
