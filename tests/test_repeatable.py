"""The same seed gives the same result, wherever and beside whatever it runs; nobody's state is changed."""

from __future__ import annotations

import hashlib
import inspect
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import make_adata, make_model

from scivae import tl
from scivae.model import CIVAE

DIGEST = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.test_repeatable import digest
print(digest())
"""

OF_MANY_GENES = """
import hashlib
import torch
torch.set_num_threads(1)
import scivae
adata = scivae.datasets.synthetic(256, 1000)
scivae.model.CIVAE.setup_anndata(adata)
model = scivae.model.CIVAE(adata)
model.train(3, enable_progress_bar=False)
print(hashlib.sha256(model.get_latent_representation().tobytes()).hexdigest())
"""


def everything(model):
    """What a model makes: latents, probabilities, a path with its bands, cells, trends."""
    path = model.interpolate(0, 4, n_steps=5, n_samples=5, key_added=None)
    bent = model.interpolate(0, 3, n_steps=5, method="geodesic", key_added=None)
    return {
        "latent": model.get_latent_representation(),
        "soft": model.predict(soft=True).to_numpy(),
        "samples": model.decode(np.ones((3, 4)), sample=True),
        "path": path.layers["counts"],
        "band": path.layers["q95"],
        "bent": bent.layers["counts"],
        "cells": model.augment("alpha", 8, min_confidence=0.0, key_added=None)
        .layers["counts"]
        .toarray(),
        "trends": trends(model).layers["fit"],
    }


def pairs_of(model):
    adata = model.adata.copy()
    adata.obsm["X_civae"] = model.get_latent_representation()
    return tl.pair_cells(adata, "cell_type", "alpha", "beta", n_pairs=8)


def trends(model):
    return tl.gene_trends(model, pairs_of(model), n_steps=3)


def digest():
    """Of the bytes of everything that a freshly trained model makes."""
    parts = everything(make_model(make_adata(), epochs=8))
    return hashlib.sha256(
        b"".join(np.ascontiguousarray(p).tobytes() for p in parts.values())
    ).hexdigest()


def equal(found, expected):
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def expected():
    return everything(make_model(make_adata(), epochs=8))


@pytest.fixture
def threads():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def test_after_unrelated_draws(expected):
    np.random.seed(5), torch.manual_seed(5), random.seed(5)  # noqa: NPY002
    np.random.rand(7), torch.rand(7), random.random()  # noqa: NPY002
    equal(everything(make_model(make_adata(), epochs=8)), expected)


def test_whatever_torch_does_by_default(expected):
    torch.set_default_dtype(torch.float64)
    try:
        found = everything(make_model(make_adata(), epochs=8))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    equal(found, expected)


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")]
)
def test_where_nothing_else_is_trained(expected, mode):
    with mode():
        equal(everything(make_model(make_adata(), epochs=8)), expected)


@pytest.mark.usefixtures("threads")
def test_on_one_thread_or_two():
    """Sums are rounded in another order on two threads: equal to 0.1 %, samples aside."""
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        found.append(everything(make_model(make_adata(), epochs=4)))
    for name in ("latent", "soft", "path", "bent", "trends"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("threads")
def test_in_another_process():
    torch.set_num_threads(1)
    root = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-W", "ignore", "-c", DIGEST.format(root=root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest()


def test_with_an_empty_cache_of_compiled_code_or_a_full_one(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", OF_MANY_GENES]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    )
    assert any(tmp_path.rglob("*.nbc"))  # of compiled code
    assert first.stdout.split()[-1] == second.stdout.split()[-1]


def test_two_models_do_not_disturb_each_other(expected):
    first, other = make_adata(), make_adata(seed=4, n_genes=30)
    for adata in (first, other):
        CIVAE.setup_anndata(adata)
    model = CIVAE(first, n_latent=4, n_hidden=16)
    beside = CIVAE(other, n_latent=3, n_hidden=8, seed=9)
    arguments = {"batch_size": 32, "enable_progress_bar": False, "plan_kwargs": {"lr": 0.01}}
    beside.train(max_epochs=1, **arguments)
    model.train(max_epochs=8, **arguments)
    beside.train(max_epochs=1, **arguments)
    beside.interpolate(0, 3, n_steps=3)
    equal(everything(model), expected)


def test_asked_twice(expected):
    model = make_model(make_adata(), epochs=8)
    for _ in range(2):
        equal(everything(model), expected)


def random_state():
    return (
        np.random.get_state()[1].tobytes(),  # noqa: NPY002
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
    )


def group(model):
    return {"groupby": "cell_type", "group1": "alpha", "group2": "beta", "silent": True}


def sets_of_genes(model):
    pytest.importorskip("decoupler")
    found = trends(model)
    return tl.enrich(found, {"half": list(found.var_names[::2])}, n_permutations=100)


PUBLIC = {
    "setup": lambda m: CIVAE.setup_anndata(make_adata()),
    "init": lambda m: CIVAE(m.adata, n_latent=3),
    "train": lambda m: make_model(make_adata()),
    "predict": lambda m: m.predict(soft=True),
    "latent": lambda m: m.get_latent_representation(),
    "latent samples": lambda m: m.get_latent_representation(give_mean=False),
    "decode": lambda m: m.decode(np.zeros((2, 4)), sample=True),
    "interpolate": lambda m: m.interpolate(0, 3, n_steps=3, n_samples=3, key_added=None),
    "geodesic": lambda m: m.interpolate(0, 3, n_steps=3, method="geodesic", key_added=None),
    "augment": lambda m: m.augment("alpha", 3, key_added=None),
    "pair_cells, gene_trends": trends,
    "attribute": lambda m: tl.attribute(m, "alpha", n_steps=2, max_cells=5),
    "rank_genes": lambda m: tl.rank_genes(trends(m), n_permutations=100),
    "check_paths": lambda m: tl.check_paths(m, pairs_of(m), n_permutations=20),
    "predict_condition": lambda m: tl.predict_condition(m, "site", "left", "right", level="alpha"),
    "enrich": sets_of_genes,
    "set_trends": lambda m: tl.set_trends(
        m.adata, trends(m), {"half": [f"gene_{i}" for i in range(20)]}, n_bootstraps=5
    ),
    "compare_trends": lambda m: tl.compare_trends(trends(m), trends(m)),
    "project": lambda m: tl.project(
        m.adata.copy(), m.interpolate(0, 3, n_steps=3, key_added=None), model=m
    ),
    "get_elbo": lambda m: float(m.get_elbo()),
    "get_reconstruction_error": lambda m: m.get_reconstruction_error(),
    "get_marginal_ll": lambda m: m.get_marginal_ll(n_mc_samples=2),
    "get_normalized_expression": lambda m: m.get_normalized_expression(n_samples=2),
    "get_likelihood_parameters": lambda m: m.get_likelihood_parameters(),
    "get_latent_library_size": lambda m: m.get_latent_library_size(give_mean=False),
    "get_feature_correlation_matrix": lambda m: m.get_feature_correlation_matrix(n_samples=2),
    "posterior_predictive_sample": lambda m: m.posterior_predictive_sample(n_samples=2),
    "differential_expression": lambda m: m.differential_expression(**group(m)),
}


def test_every_function_with_a_seed_is_among_them():
    found = {
        name
        for of in (CIVAE, tl)
        for name in dir(of)
        if not name.startswith("_") and callable(getattr(of, name))
        if "seed" in inspect.signature(getattr(of, name)).parameters
    }
    assert len(found) > 10
    assert found <= {name for key in PUBLIC for name in key.split(", ")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "call",
    [  # that one compiles its sparse arrays first
        pytest.param(c, marks=pytest.mark.slow if c == "posterior_predictive_sample" else ())
        for c in PUBLIC
    ],
)
def test_nobodys_random_state_is_touched(trained, call):
    before = random_state()
    PUBLIC[call](trained)
    assert random_state() == before


@pytest.mark.filterwarnings("ignore")
def test_inherited_methods_draw_by_the_seed(trained):
    calls = [
        lambda: trained.get_normalized_expression(return_numpy=True),
        lambda: trained.differential_expression(**group(trained))["scale1"].to_numpy(),
    ]
    for call in calls:
        first = call()
        torch.rand(3)
        np.testing.assert_array_equal(call(), first)
    # Two samples of one call are two samples.
    samples = trained.get_normalized_expression(n_samples=2, return_mean=False, return_numpy=True)
    assert not np.allclose(samples[0], samples[1])


def test_at_once_in_threads(expected):
    """Whatever runs beside it, each gives what it gives alone, and leaves the process as it was."""
    model = make_model(make_adata(), epochs=8)
    model.module.train()  # so that a mode that is put back too early would show
    before, n_threads = random_state(), torch.get_num_threads()
    found, errors = {}, []

    def work(name):
        try:
            found[name] = everything(model)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    for parts in found.values():
        equal(parts, expected)
    assert len(found) == 4
    assert random_state() == before
    assert torch.get_num_threads() == n_threads
    assert model.module.training
