"""A held-out loss that rises is told, once, with what to do about it."""

import re
import warnings

import numpy as np
import pytest
from scvi.data import synthetic_iid

import scivae
from scivae.model import CIVAE
from scivae.train.overfitting import Rise, find_rise

FALLING = 100 + 900 * np.exp(-np.arange(100) / 10)


@pytest.mark.parametrize("seed", range(20))
def test_noise_around_a_loss_that_falls_is_no_rise(seed):
    noise = np.random.default_rng(seed).normal(scale=20, size=100)
    assert find_rise(FALLING + noise) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_rise_is_found_in_noise(seed):
    noise = np.random.default_rng(seed).normal(scale=20, size=100)
    rise = find_rise(FALLING + noise + 3 * np.maximum(np.arange(100) - 50, 0))
    assert isinstance(rise, Rise)
    assert 35 <= rise.epochs <= 65
    assert rise.last == pytest.approx(100 + 3 * 39.5, rel=0.15)
    assert rise.lowest < 130


def test_a_short_rise_or_a_short_training_says_nothing():
    late = FALLING + 30 * (np.arange(100) > 90)
    assert find_rise(late) is None
    assert find_rise(np.arange(9.0)) is None
    assert find_rise(np.full(50, np.nan)) is None


@pytest.fixture(scope="module")
def few_cells():
    """Noise in which there is nothing to learn but the cells themselves."""
    state = np.random.get_state()  # noqa: NPY002  # scvi-tools draws from the global generator
    np.random.seed(0)  # noqa: NPY002
    adata = synthetic_iid(batch_size=40, n_genes=60)
    np.random.set_state(state)  # noqa: NPY002
    adata.obs["cell_type"] = adata.obs["labels"].astype(str)
    adata.layers["counts"] = adata.X
    return adata


def trained(adata, epochs, **arguments):
    """A model that overfits at once, and what its training warned of."""
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=10, n_hidden=128, dropout_rate=0.0, kl_weight=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = {"lr": 0.01, "thinning": 0.0}
        model.train(
            epochs, train_size=0.6, plan_kwargs=plan, enable_progress_bar=False, **arguments
        )
    return model, [str(w.message) for w in caught if "held-out loss" in str(w.message)]


def test_overfitting_is_told_and_the_cure_works(few_cells):
    model, told = trained(few_cells, 60)
    assert len(told) == 1
    epochs = int(re.search(r"max_epochs=(\d+)", told[0])[1])
    assert 1 <= epochs < 48
    assert not trained(few_cells, epochs)[1]
    assert not trained(few_cells, 60, early_stopping=True)[1]
    with warnings.catch_warnings(record=True) as caught:  # of the second training alone
        warnings.simplefilter("always")
        model.train(5, enable_progress_bar=False)
    assert not [w for w in caught if "held-out loss" in str(w.message)]


def test_the_default_training_of_the_quick_start_is_not_told_so():
    adata = scivae.datasets.pbmc()
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.train(60, enable_progress_bar=False)
