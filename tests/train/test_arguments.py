"""What ``train`` is given by mistake has an answer before anything is trained."""

import inspect

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from scvi.train import TrainerConfig, TrainingPlanConfig
from tests.conftest import make_adata

from scivae.data.split import stratified_split
from scivae.model import CIVAE
from scivae.train import arguments as _arguments
from scivae.train.plan import CIVAETrainingPlan


@pytest.fixture
def model(adata) -> CIVAE:
    CIVAE.setup_anndata(adata)
    return CIVAE(adata, n_latent=4, n_hidden=16)


def plan(**options):
    return {"plan_kwargs": options}


def split(*parts):
    return {"datasplitter_kwargs": {"external_indexing": list(parts)}}


CASES = [
    ({"use_gpu": True}, "train() has no argument 'use_gpu'; pass accelerator='gpu' (or 'cpu'), and devices=… to choose among several."),
    ({"gpus": 1}, "train() has no argument 'gpus'; pass accelerator='gpu', and devices=… for how many or which."),
    ({"n_epochs": 3}, "train() has no argument 'n_epochs'; pass max_epochs=…."),
    ({"epochs": 3}, "train() has no argument 'epochs'; pass max_epochs=…."),
    ({"lr": 1e-3}, "train() has no argument 'lr'; pass plan_kwargs={'lr': …}."),
    ({"learning_rate": 1e-3}, "train() has no argument 'learning_rate'; pass plan_kwargs={'lr': …}."),
    ({"weight_decay": 0}, "train() has no argument 'weight_decay'; pass plan_kwargs={'weight_decay': …}."),
    ({"num_workers": 2}, "train() has no argument 'num_workers'; pass datasplitter_kwargs={'num_workers': …}."),
    ({"patience": 3}, "train() has no argument 'patience'; pass early_stopping_patience=…."),
    ({"early_stoping": True}, "train() has no argument 'early_stoping'. Did you mean 'early_stopping'?"),
    ({"max_epoch": 3}, "train() has no argument 'max_epoch'. Did you mean 'max_epochs'?"),
    ({"thining": 0.5}, "train() has no argument 'thining'; did you mean plan_kwargs={'thinning': …}?"),
    ({"zzz": 1}, "train() has no argument 'zzz'."),
    (plan(learning_rate=1e-3), "plan_kwargs has no 'learning_rate'. Did you mean 'lr'?"),
    (plan(max_epochs=3), "plan_kwargs has no 'max_epochs'; pass max_epochs=…."),
    (plan(epochs=3), "plan_kwargs has no 'epochs'; pass max_epochs=…."),
    (plan(thining=0.5), "plan_kwargs has no 'thining'. Did you mean 'thinning'?"),
    ({"datasplitter_kwargs": {"num_worker": 2}}, "datasplitter_kwargs has no 'num_worker'. Did you mean 'num_workers'?"),
    ({"datasplitter_kwargs": {"batch_size": 20}}, "datasplitter_kwargs has no 'batch_size'; pass batch_size=…."),
    ({"datasplitter_kwargs": {"lr": 20}}, "datasplitter_kwargs has no 'lr'; pass plan_kwargs={'lr': …}."),
    ({"trainer_config": {"use_gpu": True}}, "trainer_config has no 'use_gpu'; pass accelerator='gpu' (or 'cpu'), and devices=… to choose among several."),
    ({"trainer_config": "fast"}, "trainer_config must be a dict of arguments, got 'fast' (str); write {argument: value}."),
    (plan(optimizer="SGD"), "plan_kwargs['optimizer'] must be one of 'Adam', 'AdamW', 'Custom', got 'SGD'."),
    (plan(n_epochs_kl_warmup=2.5), "plan_kwargs['n_epochs_kl_warmup'] must be an integer, got 2.5 (float)."),
    ({"early_stopping": "yes"}, "early_stopping must be True or False, got 'yes' (str)."),
    ({"early_stopping": True, "early_stopping_mode": "up"}, "early_stopping_mode must be one of 'min', 'max', got 'up'."),
    ({"early_stopping": True, "train_size": 1.0}, "early_stopping=True monitors 'elbo_validation', but no cells are held out; lower train_size (0.9 holds out a tenth), or pass early_stopping_monitor='elbo_train'."),
    ({"enable_checkpointing": True, "train_size": 1.0}, "enable_checkpointing=True monitors 'validation_loss', but no cells are held out; lower train_size (0.9 holds out a tenth), or pass checkpointing_monitor='train_loss'."),
    (plan(reduce_lr_on_plateau=True) | {"train_size": 1.0}, "reduce_lr_on_plateau=True monitors 'elbo_validation', but no cells are held out; lower train_size (0.9 holds out a tenth), or pass lr_scheduler_metric='elbo_train'."),
    ({"early_stopping": True} | split(np.arange(120)), "early_stopping=True monitors 'elbo_validation', but no cells are held out; lower train_size (0.9 holds out a tenth), or pass early_stopping_monitor='elbo_train'."),
    ({"precision": "bf16-true"}, "precision must be one of '32-true', '64-true', '16-mixed', 'bf16-mixed', got 'bf16-true'; weights of half precision cannot hold counts and their gradients."),
    ({"devices": "cuda:1"}, "devices must not be a device of torch, got 'cuda:1'; pass accelerator='gpu', devices=[1]."),
    ({"accelerator": torch.device("cpu")}, "accelerator must not be a device of torch, got 'cpu'; pass accelerator='cpu'."),
    ({"devices": "cpu"}, "devices must say how many or which devices to use, or be 'auto', got 'cpu'; pass accelerator='cpu'."),
    ({"callbacks": [print]}, "callbacks must be callbacks of lightning.pytorch, got <built-in function print> (builtin_function_or_method)."),
    ({"datasplitter_kwargs": {"external_indexing": np.arange(120) < 90}}, "external_indexing must be [train, validation, test], each with positions of cells or a mask, got one array of 120; pass [train] or [train, validation]."),
    (split(np.arange(90) < 50), "a mask of external_indexing must have one value for each of 120 cells, got shape (90,) for train; make it from the AnnData of the model."),
    (split(np.arange(121)), "external_indexing must hold positions from 0 to 119, got 120 for train; use positions in the AnnData of the model."),
    (split(np.arange(100), np.arange(99, 120)), "external_indexing must hold each cell once, but cell 99 appears 2 times; 1 cells appear more than once."),
    (split(np.arange(100), np.arange(100, 110)), "external_indexing must hold every cell, but 10 of 120 are in none of the parts; put unused cells into the third part, the test cells."),
    (split(["cell_1", "cell_2"]), "external_indexing must be [train, validation, test], each with positions of cells or a mask, got ['cell_1', 'cell_2'] (list) for train; convert it with np.flatnonzero or .astype(int)."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), CASES, ids=[text[:60] for _, text in CASES])
def test_a_mistake_is_one_line_with_the_cure(model, arguments, text):
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    with pytest.raises((TypeError, ValueError)) as caught:
        model.train(**{"max_epochs": 1, **arguments})
    assert str(caught.value) == text
    assert not model.is_trained
    for name, values in before.items():
        assert torch.equal(values, model.module.state_dict()[name])


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_a_gpu_that_is_not_there(model, monkeypatch, accelerator):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=f"accelerator='{accelerator}' needs a GPU, but torch finds"
    ):
        model.train(1, accelerator=accelerator)


def test_a_metric_that_is_not_logged(model):
    with pytest.raises(
        ValueError,
        match="early_stopping_monitor must be a number that training logs, got 'val_loss'; available: "
        "'accuracy_train', .* Did you mean 'validation_loss'",
    ):
        model.train(1, early_stopping=True, early_stopping_monitor="val_loss")


def test_a_callback_may_log_a_metric_of_its_own(model):
    class Log(Callback):
        def on_validation_epoch_end(self, trainer, plan):
            plan.log("mine", float(trainer.current_epoch))

    model.train(
        8,
        callbacks=Log(),  # one stands for itself
        early_stopping=True,
        early_stopping_monitor="mine",
        early_stopping_patience=2,
        enable_progress_bar=False,
    )
    assert len(model.history["train_loss"]) == 3


def test_what_training_logs_is_what_can_be_monitored(model):
    model.train(1, enable_progress_bar=False)
    logged = {name.removesuffix("_step").removesuffix("_epoch") for name in model.history}
    assert logged == _arguments.MONITORS


def test_accuracy_is_to_rise(model):
    """By default, what is monitored is to fall: early stopping would stop at the first gain."""
    seen = {}

    class Look(Callback):
        def on_train_start(self, trainer, plan):
            seen.update(vars(trainer.early_stopping_callback))

    monitored = {"early_stopping": True, "early_stopping_monitor": "accuracy_validation"}
    model.train(1, callbacks=[Look()], enable_progress_bar=False, **monitored)
    assert seen["mode"] == "max"
    model.train(
        1, callbacks=[Look()], enable_progress_bar=False, early_stopping_mode="min", **monitored
    )
    assert seen["mode"] == "min"


def test_every_name_of_the_trainer_and_the_plan_is_known(model):
    names = _arguments.Arguments(CIVAE.train, CIVAETrainingPlan)
    names.check("", set(inspect.signature(LightningTrainer).parameters))
    names.check("plan_kwargs", set(TrainingPlanConfig().to_kwargs()))
    names.check("trainer_config", set(TrainerConfig().to_kwargs()))
    names.check(
        "datasplitter_kwargs", ["num_workers", "drop_last", "pin_memory", "external_indexing"]
    )


@pytest.mark.parametrize("name", sorted(_arguments.RENAMED))
def test_a_cure_names_arguments_that_there_are(model, name):
    """An old name must not be one that there is by now, nor stand for one that there is no more."""
    names = _arguments.Arguments(CIVAE.train, CIVAETrainingPlan)
    assert name not in names.known[""]
    with pytest.raises(TypeError):
        names.check("", [name])
    where, _, key = _arguments.RENAMED[name].partition("=")
    if where.startswith("CIVAE(…, "):
        assert where.removeprefix("CIVAE(…, ") in inspect.signature(CIVAE).parameters
    elif "{'" in key:
        assert key.split("'")[1] in names.known[where]
    else:
        assert where in names.known[""]


def test_masks_and_positions_are_the_same_split(adata):
    parts = stratified_split(
        np.arange(120) % 3, train_size=0.7, validation_size=0.2, batch_size=32, seed=0
    )
    parts = [np.sort(part) for part in parts]
    masks = [np.isin(np.arange(120), part) for part in parts]
    latent = []
    for given in (parts, tuple(part.tolist() for part in parts), masks):
        CIVAE.setup_anndata(adata)
        model = CIVAE(adata, n_latent=4, n_hidden=16)
        model.train(2, enable_progress_bar=False, datasplitter_kwargs={"external_indexing": given})
        for found, part in zip(
            (model.train_indices, model.validation_indices, model.test_indices), parts, strict=True
        ):
            np.testing.assert_array_equal(found, part)
        latent.append(model.get_latent_representation())
    np.testing.assert_array_equal(latent[0], latent[1])
    np.testing.assert_array_equal(latent[0], latent[2])


def test_what_a_configuration_says_is_done(model):
    """Defaults of ``train`` do not take the place of what it says, arguments do."""
    rates = []

    class Look(Callback):
        def on_train_epoch_start(self, trainer, plan):
            rates.append((plan.lr, plan.n_epochs_kl_warmup, trainer.check_val_every_n_epoch))

    options = {"callbacks": [Look()], "enable_progress_bar": False}
    config = {"lr": 0.01, "n_epochs_kl_warmup": 7}
    model.train(
        plan_config=config,
        trainer_config={"max_epochs": 1, "check_val_every_n_epoch": 5},
        **options,
    )
    model.train(1, plan_config=config, plan_kwargs={"lr": 0.03}, **options)
    model.train(
        1, plan_config=TrainingPlanConfig(lr=0.02), trainer_config=TrainerConfig(), **options
    )
    assert rates == [(0.01, 7, 5), (0.03, 7, 1), (0.02, 400, 1)]


def test_double_precision_trains_and_leaves_a_model_that_works(adata):
    CIVAE.setup_anndata(adata)
    for likelihood in ("nb", "zinb"):
        model = CIVAE(adata, n_latent=4, n_hidden=16, likelihood=likelihood)
        seen = []

        class Look(Callback):
            def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx, seen=seen):
                seen.append(plan.module.px_r.dtype)

        model.train(2, precision="64-true", callbacks=[Look()], enable_progress_bar=False)
        assert set(seen) == {torch.float64}
        assert model.get_latent_representation().dtype == np.float32
        assert model.interpolate(0, 3, n_steps=3).n_obs == 3
        model.train(1, enable_progress_bar=False)


def test_a_split_in_the_order_of_the_cells():
    adata = make_adata()
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4)
    model.train(1, shuffle_set_split=False, enable_progress_bar=False)
    np.testing.assert_array_equal(model.validation_indices, np.arange(12))
    np.testing.assert_array_equal(model.train_indices, np.arange(12, 120))
