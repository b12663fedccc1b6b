import copy
import random
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from scipy.special import log_softmax
from tests.conftest import make_adata, make_model

from scivae.data.split import stratified_split
from scivae.datasets import synthetic
from scivae.model import CIVAE
from scivae.model._civae import Likelihood
from scivae.module import LIKELIHOODS
from scivae.report._methods import LIKELIHOOD_NAMES
from scivae.train.calibration import fit_temperature
from scivae.train.plan import default_epochs
from scivae.train.terms import Terms, joined_terms


def test_history_has_every_term(trained):
    for part in ("train", "validation"):
        for name in ("reconstruction_loss", "kl_local", "classification_loss", "accuracy"):
            column = trained.history[f"{name}_{part}"]
            assert len(column) == 30
            assert np.isfinite(column.to_numpy(float)).all()
    accuracy = trained.history["accuracy_train"].to_numpy(float)
    assert accuracy[-1] > 0.9 > accuracy[0]


def test_kl_reaches_its_weight(trained):
    assert float(trained.history["kl_weight"].iloc[-1, 0]) == 1.0


def test_same_seed_same_model_and_nobody_elses_randomness():
    first = make_model(make_adata()).get_latent_representation()
    np.random.seed(5), torch.manual_seed(5), random.seed(5)  # noqa: NPY002
    state = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # noqa: NPY002
    second = make_model(make_adata()).get_latent_representation()
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.random.get_state()[1], state[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state[1])
    assert random.getstate() == state[2]
    other = make_model(make_adata(), seed=1).get_latent_representation()
    assert not np.allclose(first, other)


def test_continuous_values_can_be_lost_too(adata):
    CIVAE.setup_anndata(adata, layer="X")
    latent = []
    for plan in ({}, {"thinning": 0.0}, {"thinning": 0.5}):
        model = CIVAE(adata, likelihood="normal")
        model.train(max_epochs=2, plan_kwargs=plan, enable_progress_bar=False)
        latent.append(model.get_latent_representation())
    np.testing.assert_array_equal(latent[0], latent[1])
    assert np.abs(latent[0] - latent[2]).max() > 1e-3


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])  # compiled steps, and those of autograd
def test_the_history_is_the_same_however_steps_are_taken(adata, likelihood):
    """Terms of the classifier are means over labeled cells, of which a minibatch may have any number."""
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    few = np.concatenate([np.arange(3), np.arange(30, adata.n_obs, 17)])
    adata.obs.loc[np.setdiff1d(adata.obs_names, adata.obs_names[few]), "cell_type"] = "unknown"
    histories = []
    for plan in ({}, {"minibatch_size": None}):
        CIVAE.setup_anndata(adata, unlabeled_category="unknown")
        model = CIVAE(adata, likelihood=likelihood, sample_latent=False, dropout_rate=0.0)
        model.train(3, batch_size=20, train_size=0.7, plan_kwargs={"thinning": 0.0, **plan})
        histories.append(model.history)
    found, expected = histories
    for name, column in found.items():
        np.testing.assert_allclose(
            column.to_numpy(float), expected[name].to_numpy(float), rtol=1e-4, err_msg=name
        )


def test_losses_are_joined_without_reading_a_number():
    """On a GPU, they are joined while steps are recorded, where nothing can be waited for."""
    few = {"device": "meta"}
    of_cells = torch.zeros(5, **few)
    labels = torch.zeros(5, dtype=torch.long, **few)
    each = Terms(
        torch.zeros((), **few), of_cells, of_cells, torch.zeros((), **few),
        torch.zeros(5, 3, **few), labels,
    )  # fmt: skip
    assert joined_terms([each, each]).classification_loss.device.type == "meta"


def test_mixed_precision_reads_the_weights_of_each_step(adata):
    """Autocast keeps what it has made of weights; several steps of the optimizer are within one of its blocks."""
    latent = []
    for plan in ({}, {"minibatch_size": None}):  # one block of minibatches; each on its own
        CIVAE.setup_anndata(adata)
        model = CIVAE(adata, likelihood="zinb")
        plan = {"lr": 0.05, "thinning": 0.0, **plan}
        model.train(2, batch_size=20, plan_kwargs=plan, precision="bf16-mixed")
        latent.append(model.get_latent_representation())
    np.testing.assert_allclose(*latent, rtol=0, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])  # the fused loss, and that of scvi-tools
def test_gradients_of_mixed_precision_can_be_clipped(adata, likelihood):
    """The optimizer that updates all weights in one pass cannot be clipped by Lightning."""
    moved = {}
    for clip in (None, 1e-9):
        CIVAE.setup_anndata(adata)
        model = CIVAE(adata, likelihood=likelihood)
        weights = model.module.decoder.px_scale_decoder[0].bias
        before = weights.detach().clone()
        clipped = {} if clip is None else {"gradient_clip_val": clip}
        model.train(1, precision="bf16-mixed", plan_kwargs={"weight_decay": 0.0}, **clipped)
        moved[clip] = (weights.detach() - before).abs().max().item()
    # eps of Adam is 0.01: a gradient of 1e-9 moves nothing
    assert moved[1e-9] < 1e-6 < 1e-3 < moved[None]


DOMAINS = {
    "zinb": lambda x: (x >= 0) & (x == np.round(x)),
    "poisson": lambda x: (x >= 0) & (x == np.round(x)),
    "normal": np.isfinite,
    "laplace": np.isfinite,
    "bernoulli": lambda x: (x == 0) | (x == 1),
}


def test_every_likelihood_is_here():
    assert {*DOMAINS, "nb"} == set(LIKELIHOODS)
    assert set(LIKELIHOOD_NAMES) == set(LIKELIHOODS)  # in the report
    assert set(get_args(Likelihood)) == {"auto", *LIKELIHOODS}
    for name in LIKELIHOODS:
        assert f'``"{name}"``' in CIVAE.__doc__


@pytest.mark.parametrize("likelihood", DOMAINS)
def test_every_likelihood_trains_and_generates(adata, likelihood):
    adata.layers["unit"] = np.asarray(adata.X) / adata.X.max()
    family = LIKELIHOODS[likelihood]
    layer = "counts" if family.counts else "unit" if family.in_unit_interval else "X"
    model = make_model(adata, likelihood=likelihood, setup={"layer": layer}, epochs=8)
    loss = model.history["reconstruction_loss_train"].to_numpy(float).ravel()
    assert loss[-1] < loss[0]
    path = model.interpolate(0, 3, n_steps=3, n_samples=5)
    cells = model.augment("alpha", 5, min_confidence=0.0)

    def values(generated):
        found = generated.X if layer == "X" else generated.layers[layer]
        return found.toarray() if hasattr(found, "toarray") else np.asarray(found)

    assert DOMAINS[likelihood](values(cells)).all()
    ends, decoded = values(path)[[0, -1]], model.decode(path.obsm["X_civae"][[0, -1]])
    if layer == "counts":  # of another library
        ends, decoded = (x / x.sum(axis=1, keepdims=True) for x in (ends, decoded))
    np.testing.assert_allclose(ends, decoded, rtol=1e-3, atol=1e-6)
    for generated in (path, cells):
        assert model.get_latent_representation(generated).shape == (generated.n_obs, 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"discriminator_weight": 0.0},
        {"discriminator_weight": 0.0, "kl_weight": 0.0, "sample_latent": False},
    ],
)
def test_vae_and_autoencoder_are_settings(adata, settings):
    """The loss is what is left of J; nothing trains the discriminator."""
    model = make_model(adata, epochs=4, **settings)
    last = {name: float(np.ravel(column)[-1]) for name, column in model.history.items()}
    kl_weight = settings.get("kl_weight", 0.1)  # reached after the warm-up, half of the epochs
    expected = last["reconstruction_loss_train"] + kl_weight * last["kl_local_train"]
    assert last["train_loss"] == pytest.approx(expected, rel=1e-3)
    fresh = CIVAE(adata, **model.init_params_["non_kwargs"])
    torch.testing.assert_close(
        model.module.discriminator.weight.detach(),
        fresh.module.discriminator.weight.detach(),
        rtol=1e-3,  # weight decay
        atol=1e-3,
    )


def test_train_without_held_out_cells(adata):
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4)
    model.train(max_epochs=2, train_size=1.0, enable_progress_bar=False)
    assert model.temperature_ == 1.0
    assert "accuracy_validation" not in model.history


def test_train_size_above_one(adata):
    CIVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match="train_size must lie in .*, got 1.5"):
        CIVAE(adata).train(train_size=1.5)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=6),
    train=st.floats(0.5, 1.0),
    batch=st.integers(2, 64),
)
def test_split_is_a_stratified_partition(sizes, train, batch):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = stratified_split(
        labels, train_size=train, validation_size=None, batch_size=batch, seed=0
    )
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    spared = [round(size * (1 - train), 6) < 1 for size in sizes]
    others = sum(size for size, whole in zip(sizes, spared, strict=True) if not whole)
    for code, (size, whole) in enumerate(zip(sizes, spared, strict=True)):
        held_out = (labels[parts[1]] == code).sum()
        assert abs(held_out - (0 if whole else len(parts[1]) / others * size)) <= (
            0 if whole else 1
        )
    if len(parts[1]) and len(parts[0]) > batch:
        assert len(parts[0]) % batch != 1


def test_three_way_split():
    labels = np.repeat([0, 1], [60, 40])
    parts = stratified_split(labels, train_size=0.6, validation_size=0.2, batch_size=10, seed=0)
    assert [len(p) for p in parts] == [60, 20, 20]
    assert [(labels[p] == 1).sum() for p in parts] == [24, 8, 8]


def test_temperature_recovers_the_scale_of_the_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    labels = (np.exp(log_softmax(logits, axis=1)).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("n_cells", [1, 3])
def test_a_few_held_out_cells_do_not_make_it_certain(n_cells):
    logits = np.eye(4)[:n_cells] * 3
    assert 0.5 < fit_temperature(logits, np.arange(n_cells)) < 1  # all right: as well by chance
    assert 1 < fit_temperature(logits, np.full(n_cells, 3)) < 2


@pytest.mark.parametrize("minibatch_size", [None, 32])
@pytest.mark.parametrize(
    ("lr_decay", "expected"),
    [(0.5, [1, 1, 1, 0.8, 0.4]), (1.0, [1, 0.8, 0.6, 0.4, 0.2]), (0.0, [1] * 5)],
)
def test_the_learning_rate_falls_over_the_last_epochs(adata, minibatch_size, lr_decay, expected):
    seen = []

    class Look(Callback):
        def on_train_epoch_end(self, trainer, plan):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4, n_hidden=16)
    model.train(
        5,
        batch_size=32,
        callbacks=[Look()],
        enable_progress_bar=False,
        plan_kwargs={"lr": 0.01, "lr_decay": lr_decay, "minibatch_size": minibatch_size},
    )
    np.testing.assert_allclose(seen, np.multiply(expected, 0.01))


def test_default_epochs():
    assert default_epochs(500) == 400
    assert default_epochs(10_000) == 26
    assert default_epochs(500_000) == 20


def test_datamodule_in_place_of_adata(adata):
    from scvi.dataloaders import DataSplitter

    CIVAE.setup_anndata(adata)
    source = CIVAE(adata, n_latent=4)
    datamodule = DataSplitter(source.adata_manager, batch_size=32)
    model = CIVAE(registry=source.registry, likelihood="nb", n_latent=4)
    model.train(max_epochs=2, datamodule=datamodule, enable_progress_bar=False)
    assert model.is_trained
    assert len(model.history["accuracy_train"]) == 2
    with pytest.raises(
        ValueError, match="adata must be given, because this model was made or loaded without one"
    ):
        model.predict()
    assert model.predict(make_adata(seed=2)).shape == (len(adata),)
    with pytest.raises(ValueError, match="likelihood='auto' needs data to choose from"):
        CIVAE(registry=source.registry)


def test_rows_are_read_without_a_copy_of_all_indices(adata):
    """As anndata reads a file whose row pointers are of 64 bits; scipy copies the others at each look then."""
    x = adata.layers["counts"]
    x.indptr = x.indptr.astype(np.int64)
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata)
    for indices in (None, np.arange(20, 0, -2)):
        loader = model._make_data_loader(adata, indices=indices, batch_size=200)
        held = getattr(loader.dataset, "dataset", loader.dataset).data["X"]
        assert held.indices.dtype == held.indptr.dtype == np.int32
        assert np.shares_memory(held.data, x.data)
        assert np.shares_memory(held.indices, x.indices)
        (some,) = loader
        expected = x.toarray() if indices is None else x.toarray()[indices]
        np.testing.assert_array_equal(some["X"], expected)
    assert adata.layers["counts"] is x
    assert x.indptr.dtype == np.int64


def test_a_last_minibatch_that_is_not_whole_can_be_dropped(adata):
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata)
    model.train(1, batch_size=50, datasplitter_kwargs={"drop_last": True})
    assert model.trainer.global_step == len(model.train_indices) // 50 > 0
    with pytest.raises(
        ValueError, match="drop_last leaves no cells .* 108 cells .* batch_size=500"
    ):
        model.train(1, batch_size=500, datasplitter_kwargs={"drop_last": True})


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (1, ValueError), ("x", TypeError)])
def test_a_minibatch_has_at_least_two_cells(adata, size, error):
    CIVAE.setup_anndata(adata)
    with pytest.raises(error, match=r"plan_kwargs\['minibatch_size'\] must be"):
        CIVAE(adata).train(1, plan_kwargs={"minibatch_size": size})


def fresh_copy(model, adata, **kwargs) -> CIVAE:
    """A model that was never trained, with the weights and statistics of one that was."""
    fresh = CIVAE(adata, **{**model.init_params_["non_kwargs"], **kwargs})
    assert fresh.module.training
    fresh.module.load_state_dict(copy.deepcopy(model.module.state_dict()))
    fresh.is_trained_ = True  # the dispersions of a new one would start at moments
    return fresh


ARGUMENTS = {"batch_size": 32, "enable_progress_bar": False, "plan_kwargs": {"lr": 0.01}}


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("how", ["a second time", "loaded"])
def test_training_trains(adata, tmp_path, how, likelihood):
    """Dropout and batch normalization work as in the first training: the losses are those of a new model."""
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4, n_hidden=16, dropout_rate=0.4, likelihood=likelihood)
    model.train(2, **ARGUMENTS)
    if how == "loaded":
        model.save(tmp_path / "model")
        model = CIVAE.load(tmp_path / "model", adata)
    assert not model.module.training
    fresh = fresh_copy(model, adata)
    before = copy.deepcopy(model.module.state_dict())
    model.train(3, **ARGUMENTS)
    fresh.train(3, **ARGUMENTS)
    assert len(model.history["train_loss"]) == 5
    for name, column in fresh.history.items():
        np.testing.assert_array_equal(model.history[name].to_numpy()[-3:], column.to_numpy())
    assert_moves(model, before, "z_encoder", "decoder")
    # Without dropout the losses would be others.
    dry = fresh_copy(fresh, adata, dropout_rate=0.0)
    dry.module.load_state_dict(before)
    dry.train(3, **ARGUMENTS)
    column = "reconstruction_loss_train"
    assert (dry.history[column].to_numpy() != fresh.history[column].to_numpy()).all()
    assert not model.module.training


def assert_moves(model, before, *parts):
    """Running means of the batch normalization of parts of the network, and of no others, have moved."""
    for name, values in model.module.state_dict().items():
        if name.endswith("running_mean") and not name.startswith("l_encoder"):
            moved = not torch.equal(values, before[name])
            assert moved == name.startswith(parts), name


def test_a_mapping_learns_the_weight_of_a_new_batch():
    """Batch normalization over cells of one batch would cancel it; its statistics are frozen instead."""
    adata = synthetic(200, 30, n_batches=2)
    CIVAE.setup_anndata(adata, batch_key="batch")
    reference = CIVAE(adata, n_latent=3, encode_covariates=True)
    reference.train(2, enable_progress_bar=False)
    query = synthetic(100, 30, seed=1)
    query.obs["batch"] = "new"
    mapped = CIVAE.load_query_data(query, reference)
    first = mapped.module.z_encoder.encoder.fc_layers[0]
    before, statistics = first[0].weight.detach().clone(), first[1].running_mean.clone()
    mapped.train(3, plan_kwargs={"weight_decay": 0.0}, enable_progress_bar=False)
    moved = (first[0].weight - before).abs().amax(0)
    assert moved[-1] > 1e-3  # the batch of the query
    assert (moved[:-1] == 0).all()
    assert torch.equal(first[1].running_mean, statistics)


def test_a_query_model_trains_what_is_not_frozen(adata):
    """As scArches does: weights of new batches, and the batch normalization of the decoder."""
    CIVAE.setup_anndata(adata, batch_key="batch")
    model = CIVAE(adata, n_latent=4, n_hidden=16, dropout_rate=0.4)
    model.train(2, **ARGUMENTS)
    query = make_adata(seed=1)
    query.obs["batch"] = "new"
    mapped = CIVAE.load_query_data(query, model)
    before = copy.deepcopy(mapped.module.state_dict())
    seen = set()

    class Look(Callback):
        def on_train_batch_start(self, trainer, plan, batch, batch_idx):
            frozen = (getattr(m, "momentum", None) == 0 for m in plan.module.modules())
            seen.update(
                m.training for m, f in zip(plan.module.modules(), frozen, strict=True) if not f
            )

    mapped.train(3, callbacks=[Look()], **ARGUMENTS)
    assert seen == {True}
    assert not mapped.module.training
    assert_moves(mapped, before, "decoder")
    for name, values in mapped.module.named_parameters():
        if name == "decoder.px_decoder.fc_layers.Layer 0.0.weight":  # (hidden, latent and batches)
            same = (values == before[name]).all(0)
            assert same.tolist() == [True] * (values.shape[1] - 1) + [False]
        elif name.startswith("decoder.px_decoder.fc_layers.Layer 0.1"):
            assert not torch.equal(values, before[name]), name
        else:
            assert torch.equal(values, before[name]), name


def test_a_training_that_does_not_begin_leaves_the_mode(adata):
    model = make_model(adata)
    with pytest.raises(ValueError, match="accelerator"):
        model.train(1, accelerator="abacus")
    assert not model.module.training
