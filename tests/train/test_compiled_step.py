"""Steps in compiled loops are the steps of autograd and torch's optimizer."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from tests.conftest import make_adata
from torch.optim.optimizer import register_optimizer_step_post_hook

from scivae.model import CIVAE
from scivae.train import steps
from scivae.train.compiled_step import Values


@pytest.fixture
def by_autograd(monkeypatch):
    """Function that trains with each step left to autograd, or not."""

    def train(plain, epochs=3, setup=(), module=(), calls=1, **kwargs):
        adata = kwargs.pop("adata", None)
        adata = make_adata() if adata is None else adata
        CIVAE.setup_anndata(adata, **dict(setup))
        model = CIVAE(adata, **{"n_latent": 4, "n_hidden": 16, **dict(module)})
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(steps, "can_compile", lambda *args: False)
            for _ in range(calls):
                model.train(epochs, batch_size=32, enable_progress_bar=False, **kwargs)
        assert ("compiled loops" in model.engine) is not plain
        return model

    return train


def assert_equal(found, expected, tolerance=1e-5):
    assert found.history.keys() == expected.history.keys()
    for name, column in found.history.items():
        np.testing.assert_allclose(
            column.to_numpy(float), expected.history[name].to_numpy(float), rtol=tolerance
        )
    values = expected.module.state_dict()
    for name, value in found.module.state_dict().items():
        torch.testing.assert_close(
            value,
            values[name],
            rtol=tolerance,
            atol=tolerance,
            msg=lambda why, of=name: f"{of}: {why}",
        )


def partly_labeled():
    adata = make_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs_names[::3], "cell_type"] = "unknown"
    return adata


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"setup": {"batch_key": "batch"}},
        {"setup": {"categorical_covariate_keys": ["batch"], "continuous_covariate_keys": ["n"]}},
        {"adata": partly_labeled, "setup": {"unlabeled_category": "unknown"}},
        {"module": {"class_weights": "none", "discriminator_weight": 7.0, "kl_weight": 2.0}},
        {"module": {"label_robustness": 0.7, "dropout_rate": 0.0}},
        {"module": {"sample_latent": False, "log_variational": False}},
        {"plan": {"optimizer": "AdamW", "weight_decay": 0.1, "n_epochs_kl_warmup": 2}},
        {"plan": {"lr_decay": 1.0, "thinning": 0.0}, "calls": 2},
        {"train": {"precision": "bf16-mixed"}, "tolerance": 2e-3},  # which rounds to 1 in 256
        {"train": {"train_size": 1.0}},
    ],
)
def test_it_is_the_step_of_autograd(by_autograd, settings):
    settings = dict(settings)
    make, tolerance = settings.pop("adata", make_adata), settings.pop("tolerance", 1e-5)
    plan = {"lr": 0.001, **settings.pop("plan", {})}
    more = settings.pop("train", {})
    models = []
    for plain in (False, True):
        adata = make()
        adata.obs["n"] = np.linspace(-1, 1, adata.n_obs)
        models.append(by_autograd(plain, adata=adata, plan_kwargs=plan, **more, **settings))
    assert_equal(*models, tolerance)
    assert models[0].trainer.global_step == models[1].trainer.global_step > 0


class Last(Callback):
    """Keeps what the optimizer knows, and the gradients, after each step of Lightning."""

    def on_train_batch_end(self, trainer, plan, *args):
        named = Values.of(plan.module)
        self.grads = [w.grad.clone() for w in named]
        state = trainer.optimizers[0].state
        self.state = [{k: v.clone() for k, v in state[w].items()} for w in named]


def test_gradients_and_the_state_of_the_optimizer_are_those_of_torch(by_autograd):
    looks = [Last(), Last()]
    for look, plain in zip(looks, (False, True), strict=True):
        by_autograd(plain, epochs=2, callbacks=[look])
    found, expected = looks
    for name, grad, other in zip(Values._fields, found.grads, expected.grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-5, msg=name)
    for state, other in zip(found.state, expected.state, strict=True):
        assert state.keys() == other.keys()
        assert state["step"] == other["step"] > 0
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[key], other[key], rtol=1e-4, atol=1e-5)
            assert state[key].stride() == other[key].stride()


def test_a_training_that_was_interrupted_goes_on_either_way(by_autograd, tmp_path):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, plan):
            if trainer.current_epoch == 1:
                raise InterruptedError

    whole = by_autograd(False, epochs=4)
    for plain in (False, True):
        folder = tmp_path / str(plain)
        with pytest.raises(InterruptedError):
            by_autograd(False, epochs=4, checkpoint_dir=folder, callbacks=[Stop()])
        assert_equal_weights(by_autograd(plain, epochs=4, checkpoint_dir=folder), whole)


def assert_equal_weights(model, other):
    values = other.module.state_dict()
    for name, value in model.module.state_dict().items():
        torch.testing.assert_close(value, values[name], rtol=1e-5, atol=1e-5, msg=name)


def engine_of(module=(), setup=(), watch=None, **kwargs) -> str:
    adata = make_adata()
    CIVAE.setup_anndata(adata, **dict(setup))
    model = CIVAE(adata, **{"n_latent": 4, "n_hidden": 16, **dict(module)})
    if watch is not None:
        watch(model.module)
    model.train(1, enable_progress_bar=False, **kwargs)
    return model.engine


class Watch(Callback):
    def on_after_backward(self, trainer, plan): ...


class Other(torch.nn.Linear):
    """A layer of the same shape, which could do something else."""


def other_head(module):
    head = module.z_encoder.mean_encoder
    module.z_encoder.mean_encoder = Other(head.in_features, head.out_features)


def tied_heads(module):
    module.z_encoder.var_encoder.weight = module.z_encoder.mean_encoder.weight


def no_bias(module):
    module.z_encoder.encoder.fc_layers[0][0].bias = None


def dropout_at_rest(module):
    dropout = module.z_encoder.encoder.fc_layers[0][4]
    dropout.train = lambda mode=True: dropout
    dropout.training = False


def weight_norm(module):
    torch.nn.utils.parametrizations.weight_norm(module.decoder.px_scale_decoder[0])


def adam_of(n=None, watched=False):
    """Adam of the first weights, which may call something before each step."""

    def create(weights):
        optimizer = torch.optim.Adam(list(weights)[:n], lr=1e-3, eps=0.01)
        if watched:
            optimizer.register_step_pre_hook(lambda *args: None)
        return optimizer

    return {"optimizer": "Custom", "optimizer_creator": create}


@pytest.mark.parametrize(
    "settings",
    [
        {"watch": other_head},
        {"watch": tied_heads},
        {"watch": no_bias},
        {"watch": dropout_at_rest},
        {"watch": weight_norm},
        {"plan_kwargs": adam_of(4)},
        {"plan_kwargs": adam_of(watched=True)},
        {"module": {"n_layers": 2}},
        {"module": {"use_batch_norm": "none"}},
        {"module": {"use_layer_norm": "both"}},
        {"module": {"encode_covariates": True}, "setup": {"batch_key": "batch"}},
        {"module": {"dispersion": "gene-batch"}, "setup": {"batch_key": "batch"}},
        {"module": {"likelihood": "zinb"}},
        {"callbacks": [Watch()]},
        {"plan_kwargs": {"minibatch_size": None}},
        {"watch": lambda module: module.px_r.register_hook(lambda grad: None)},
        {"watch": lambda module: module.discriminator.register_forward_hook(lambda *a: None)},
        {"watch": lambda module: module.px_r.requires_grad_(False)},
    ],
)
def test_others_are_left_to_autograd(settings):
    assert "compiled loops" not in engine_of(**settings)
    assert "compiled loops" in engine_of()
    assert "compiled loops" in engine_of(plan_kwargs=adam_of())


@pytest.mark.parametrize("register", ["module", "optimizer"])
def test_what_is_called_for_all_layers_or_optimizers_is_called(register):
    called = []
    if register == "module":
        watch = torch.nn.modules.module.register_module_forward_hook(lambda *a: called.append(1))
    else:
        watch = register_optimizer_step_post_hook(lambda *a: called.append(1))
    try:
        assert "compiled loops" not in engine_of()
    finally:
        watch.remove()
    assert called


@pytest.mark.parametrize("name", ["first", "last", "log_theta"])
def test_a_weight_that_was_frozen_has_taken_fewer_steps(by_autograd, name):
    class Thaw(Callback):
        def on_train_epoch_start(self, trainer, plan):
            weight = getattr(Values.of(plan.module), name)
            weight.requires_grad_(trainer.current_epoch >= 1)

    models = []
    for plain in (False, True):
        adata = make_adata()
        CIVAE.setup_anndata(adata)
        model = CIVAE(adata, n_latent=4, n_hidden=16)
        with pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(steps, "can_compile", lambda *args: False)
            model.train(3, batch_size=32, enable_progress_bar=False, callbacks=[Thaw()])
        models.append(model)
    assert_equal(*models)


def test_a_weight_that_is_not_finite_is_told(by_autograd):
    adata = make_adata()
    CIVAE.setup_anndata(adata)
    for name in ("z_encoder.encoder.fc_layers", "decoder.px_scale_decoder", "discriminator"):
        model = CIVAE(adata, n_latent=4, n_hidden=16)
        model.is_trained_ = True  # dispersions stay as they are
        weights = {k: w for k, w in model.module.named_parameters() if k.startswith(name)}
        with torch.no_grad():
            next(iter(weights.values()))[0, 0] = torch.nan
        with pytest.raises(FloatingPointError, match="no longer finite before the loss"):
            model.train(1, enable_progress_bar=False)
