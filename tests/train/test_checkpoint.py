import copy
import os
import re
import signal

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from scipy import sparse
from scvi import REGISTRY_KEYS
from tests.conftest import make_adata

from scivae.data import files as _files
from scivae.model import CIVAE
from scivae.module import LIKELIHOODS
from scivae.train.checkpoint import join_histories

PLAN = {"lr": 0.01, "minibatch_size": None}


# The likelihoods that the tiny counts can be trained with.
OF_COUNTS_OR_ANY = [x for x, family in LIKELIHOODS.items() if not family.in_unit_interval]


def make(adata=None, **kwargs) -> CIVAE:
    adata = make_adata() if adata is None else adata
    CIVAE.setup_anndata(adata)
    return CIVAE(adata, **{"n_latent": 4, "n_hidden": 16, **kwargs})


def train(model: CIVAE, *callbacks: Callback, epochs: int = 4, **kwargs) -> None:
    arguments = {"plan_kwargs": PLAN, "batch_size": 32, "enable_progress_bar": False, **kwargs}
    model.train(max_epochs=epochs, callbacks=list(callbacks), **arguments)


class Spoil(Callback):
    """From an epoch on, one layer of the network gives NaN, or its weights are NaN."""

    def __init__(self, epoch: int, name: str, weights: bool = False):
        self.epoch, self.name, self.weights = epoch, name, weights
        self.good: dict = {}

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch != self.epoch:
            return
        self.good = copy.deepcopy(plan.module.state_dict())
        layer = plan.module.get_submodule(self.name)
        if not self.weights:
            self.hook = layer.register_forward_hook(lambda layer, x, out: out * torch.nan)

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
        if self.weights and (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            plan.module.get_submodule(self.name).weight.data[0, 0] = torch.inf


@pytest.mark.parametrize(
    ("layer", "term", "cure"),
    [
        ("discriminator", "discriminator term is", "lower discriminator_weight"),
        ("decoder.px_decoder", "reconstruction term is", "extreme values in the data"),
        (
            "z_encoder.mean_encoder",
            "KL term is",
            "kl_weight",
        ),
    ],
)
def test_nan_is_one_error_that_says_where(layer, term, cure):
    model = make()
    spoil = Spoil(2, layer)
    with pytest.raises(FloatingPointError) as caught:
        train(model, spoil)
    message = str(caught.value)
    assert "in epoch 2, step 8 (training)" in message
    assert term in message
    assert cure in message
    assert "the weights of the end of epoch 1" in message
    spoil.hook.remove()
    # The model is the one that two epochs had made, and works.
    for name, weights in spoil.good.items():
        assert torch.equal(model.module.state_dict()[name].cpu(), weights.cpu()), name
    assert model.is_trained
    assert not model.module.training
    assert len(model.train_indices) + len(model.validation_indices) == model.adata.n_obs
    assert len(model.history["train_loss"]) == 2
    assert np.isfinite(model.predict(soft=True)).all(axis=None)


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = make()
    with pytest.raises(
        FloatingPointError, match="'decoder.px_decoder.fc_layers.Layer 0.0"
    ) as caught:
        train(model, Spoil(1, "decoder.px_decoder.fc_layers.Layer 0.0", weights=True))
    assert "before the loss in epoch 1, step 6" in str(caught.value)
    assert "gradient_clip_val=1.0" in str(caught.value)
    model.save(tmp_path / "model")
    again = CIVAE.load(tmp_path / "model", adata=make_adata())
    assert np.isfinite(again.get_latent_representation()).all()


def test_weights_spoiled_by_the_last_step():
    class Last(Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (3, 3):
                plan.module.discriminator.bias.data[0] = torch.nan

    model = make()
    with pytest.raises(FloatingPointError, match="at the end of epoch 3 .*'discriminator.bias'"):
        train(model, Last(), train_size=1.0)
    assert np.isfinite(model.linear_classes.bias).all()
    assert model.is_trained


@pytest.mark.parametrize("likelihood", [x for x in OF_COUNTS_OR_ANY if x != "nb"])
def test_a_decoder_that_gives_nan_is_the_reconstruction(likelihood):
    model = make(likelihood=likelihood)
    with pytest.raises(FloatingPointError, match="its reconstruction term is NaN"):
        train(model, Spoil(1, "decoder.px_scale_decoder.0"))


def test_nan_in_the_first_epoch_leaves_an_untrained_model():
    model = make()
    before = copy.deepcopy(model.module.state_dict())
    with pytest.raises(FloatingPointError, match="the weights that training began with"):
        train(model, Spoil(0, "discriminator"))
    assert not model.is_trained
    for name, weights in before.items():
        assert torch.equal(model.module.state_dict()[name].cpu(), weights.cpu()), name
    with pytest.raises(RuntimeError, match="not trained yet"):
        model.predict()


def test_a_learning_rate_that_explodes():
    model = make()
    with pytest.raises(FloatingPointError, match=r"smaller learning rate"):
        train(model, epochs=20, plan_kwargs={"lr": 1e30})
    train(model, plan_kwargs={"lr": 1e-3})  # what the error says to try
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whatever_stops_training_the_epochs_before_count(error):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            if trainer.current_epoch == 2:
                raise error

    model = make()
    with pytest.raises(error):
        train(model, Stop())
    assert {len(column) for column in model.history.values()} == {2}
    whole = make()
    train(whole, epochs=2, plan_kwargs={**PLAN, "n_epochs_kl_warmup": 2})
    assert model.is_trained
    for name, weights in whole.module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name].cpu(), weights.cpu()), name


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_epoch_end"])
def test_ctrl_c_reaches_the_user(hook, capfd):
    """As what it is, with nothing printed; weights and history are those of the epochs before."""

    class Press(Callback):
        pressed = False

    def press(self, trainer, plan, *args):
        if trainer.current_epoch == 2 and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)

    setattr(Press, hook, press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may ignore Ctrl-C
    handler = signal.getsignal(signal.SIGINT)
    model, whole = make(), make()
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            train(model, Press())
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.__cause__ is None
    assert capfd.readouterr() == ("", "")
    train(whole, epochs=2, plan_kwargs={**PLAN, "n_epochs_kl_warmup": 2})
    assert model.is_trained
    assert not model.module.training
    for name, weights in whole.module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], weights), name
    for name, column in whole.history.items():
        assert column.equals(model.history[name]), name
    train(model, epochs=3)  # and on
    assert {tuple(column.index) for column in model.history.values()} == {(0, 1, 2, 3, 4)}


def test_an_exit_stays_one():
    class Leave(Callback):
        def on_train_epoch_end(self, trainer, plan):
            raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        train(make(), Leave())
    assert caught.value.code == 3


def test_the_history_goes_on():
    """What one training logged and the other did not keeps its epochs."""
    model = make()
    train(model, epochs=2, train_size=1.0)
    assert "accuracy_validation" not in model.history
    train(model, epochs=4, check_val_every_n_epoch=2)
    train(model, epochs=1, train_size=1.0)
    assert list(model.history["train_loss"].index) == [*range(7)]
    assert list(model.history["accuracy_validation"].index) == [3, 5]
    assert model.history["train_loss"].index.name == "epoch"


def test_histories_are_joined():
    before = {"a": pd.DataFrame({"a": [1.0, 2.0]}), "b": pd.DataFrame({"b": [3.0]}, index=[1])}
    after = {"a": pd.DataFrame({"a": [5.0]}), "c": pd.DataFrame({"c": [6.0]})}
    joined = join_histories(before, after)
    assert {name: column[name].to_dict() for name, column in joined.items()} == {
        "a": {0: 1.0, 1: 2.0, 2: 5.0},
        "b": {1: 3.0},
        "c": {2: 6.0},
    }


class Break(Callback):
    """Breaks training off."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch == self.epoch:
            raise KeyError("stopped here")


class Plain(LightningDataModule):
    """Cells in loaders of torch, the order of which is drawn from its global generator."""

    def __init__(self, adata, num_workers: int):
        super().__init__()
        keys = {"X": "counts", "labels": "_scvi_labels", "batch": "_scvi_batch"}
        values = [
            adata.layers["counts"].toarray(),
            *(adata.obs[k] for k in list(keys.values())[1:]),
        ]
        self.cells = [
            {
                REGISTRY_KEYS.X_KEY: torch.tensor(x),
                REGISTRY_KEYS.LABELS_KEY: torch.tensor([int(label)]),
                REGISTRY_KEYS.BATCH_KEY: torch.tensor([int(batch)]),
            }
            for x, label, batch in zip(*values, strict=True)
        ]
        self.options = {"batch_size": 30, "num_workers": num_workers}
        self.n_val = 0

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.cells, shuffle=True, **self.options)


@pytest.mark.parametrize("num_workers", [(0, 0), (2, 2), (0, 2)])
@pytest.mark.parametrize("source", ["blocks", "minibatches", "backed", "datamodule"])
def test_a_run_that_was_broken_off_ends_where_it_would_have(source, num_workers, tmp_path):
    """Bit for bit, however many processes load, before and after."""
    arguments = {"minibatches": {"plan_kwargs": {"minibatch_size": None}}}.get(source, {})

    def run(workers: int, *callbacks, **kwargs) -> CIVAE:
        adata = make_adata()
        if source == "backed":
            adata.X = adata.layers.pop("counts")
            path = tmp_path / "cells.h5ad"
            if not path.exists():
                adata.write_h5ad(path)
            adata = anndata.read_h5ad(path, backed="r")
        CIVAE.setup_anndata(adata)
        if source == "datamodule":
            registry = CIVAE(adata).registry
            model = CIVAE(registry=registry, n_latent=4, n_hidden=16, likelihood="nb")
            kwargs["datamodule"] = Plain(adata, workers)
        else:
            model = CIVAE(adata, n_latent=4, n_hidden=16)
            kwargs["datasplitter_kwargs"] = {"num_workers": workers}
        train(model, *callbacks, **{"plan_kwargs": {"lr": 0.01}, **arguments, **kwargs})
        return model

    whole = run(num_workers[0])
    with pytest.raises(KeyError, match="stopped here"):
        run(num_workers[0], Break(2), checkpoint_dir=tmp_path / "run")
    again = run(num_workers[1], checkpoint_dir=tmp_path / "run")
    for name, weights in whole.module.state_dict().items():
        assert torch.equal(weights, again.module.state_dict()[name]), name
    for name, column in whole.history.items():
        assert column.equals(again.history[name]), name


def test_each_epoch_draws_for_itself():
    class Disturb(Callback):
        def on_train_epoch_end(self, trainer, plan):
            torch.rand(7)

    one, other = make(), make()
    train(one)
    train(other, Disturb())
    for name, weights in one.module.state_dict().items():
        assert torch.equal(other.module.state_dict()[name], weights), name


def test_checkpoint_of_another_run(tmp_path):
    train(make(), epochs=2, checkpoint_dir=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["training.ckpt"]
    for model, kwargs, difference in (
        (make(seed=1), {}, "seed, split, initial weights"),
        (make(), {"epochs": 3}, "max_epochs, plan_kwargs"),
        (make(), {"plan_kwargs": {"lr": 0.02}}, "plan_kwargs"),
        (make(), {"shuffle_set_split": False}, "split"),
    ):
        with pytest.raises(ValueError, match=f"differs in {re.escape(difference)}. To go on"):
            train(model, **{"epochs": 2, **kwargs}, checkpoint_dir=tmp_path)
        assert not model.is_trained
    adata = make_adata()
    adata.layers["counts"].data[0] += 1
    model = make(adata)
    with pytest.raises(ValueError, match="differs in data"):
        train(model, epochs=2, checkpoint_dir=tmp_path)


def test_a_checkpoint_that_does_not_fit(tmp_path, monkeypatch):
    """A full disk stops training, and loses neither the checkpoint before nor the model."""

    class Fill(Callback):
        def on_train_epoch_end(self, trainer, plan):
            if trainer.current_epoch == 3:
                monkeypatch.setattr(_files.os, "fsync", self.full)

        @staticmethod
        def full(descriptor):
            raise OSError(28, "No space left on device")

    model = make()
    with pytest.raises(OSError, match="No space left on device"):
        train(model, Fill(), checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["training.ckpt"]
    assert model.is_trained
    again, whole = make(), make()
    train(again, checkpoint_dir=tmp_path)
    train(whole)
    np.testing.assert_array_equal(
        again.get_latent_representation(), whole.get_latent_representation()
    )


def outputs(model: CIVAE) -> dict[str, np.ndarray]:
    """Everything that a user reads off a model."""
    path = model.interpolate(0, 3, n_steps=3, n_samples=3, key_added=None)
    return {
        "latent": model.get_latent_representation(),
        "probabilities": model.predict(soft=True).to_numpy(),
        "expression": model.get_normalized_expression(n_samples=1).to_numpy(),
        **{name: np.asarray(values) for name, values in path.layers.items()},
        **{name: column.to_numpy(float) for name, column in model.history.items()},
    }


def assert_finite(model: CIVAE) -> None:
    for name, values in outputs(model).items():
        assert np.isfinite(values).all(), name


def strange(kind: str) -> sparse.csr_matrix:
    counts = make_adata().layers["counts"].toarray()
    if kind == "huge":
        counts[np.random.default_rng(0).random(counts.shape) < 0.05] = 1e6
    else:  # a single count, in a cell of every class
        counts[:12] = 0
        counts[np.arange(12), np.arange(12)] = 1
    return sparse.csr_matrix(counts)


@pytest.mark.parametrize("likelihood", OF_COUNTS_OR_ANY)
@pytest.mark.parametrize("kind", ["huge", "nearly empty"])
def test_strange_cells(kind, likelihood):
    adata = make_adata()
    adata.layers["counts"] = strange(kind)
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4, n_hidden=16, likelihood=likelihood)
    train(model, epochs=3)
    assert_finite(model)


@pytest.mark.parametrize("discriminator_weight", [1e-4, 1e4])
@pytest.mark.parametrize("kl_weight", [1e-4, 1e4])
def test_weights_of_the_terms_over_eight_orders_of_magnitude(kl_weight, discriminator_weight):
    model = make(kl_weight=kl_weight, discriminator_weight=discriminator_weight)
    train(model, epochs=5)
    assert_finite(model)


def test_twenty_thousand_genes():
    adata = make_adata(n_genes=20_000)
    adata.layers["counts"].data[::1000] = 1e6
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4)
    train(model, epochs=2)
    assert_finite(model)
