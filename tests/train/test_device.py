"""Training on a device that holds the data; where there is no GPU, a CPU does all but record."""

import gc
import warnings
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins import DoublePrecision, Precision
from scipy import sparse
from tests.conftest import make_adata, needs_triton
from torch.distributions import Distribution

from scivae._scvi import unchecked_distributions
from scivae.model import CIVAE
from scivae.module import CIVAEModule
from scivae.nb import loss as loss_of
from scivae.train import device, engines, steps
from scivae.train.device import (
    DeviceDataset,
    IndexBatch,
    IndexLoader,
    narrowest,
    rates_on_device,
    why_not_held,
)

cuda = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not cuda, reason="there is no GPU")
ACCELERATOR = "gpu" if cuda else "cpu"


class AsItIs:
    """What takes the place of a recorder on a CPU; notes what it is called with."""

    shapes: list

    def __init__(self, function):
        self.function = function

    def __call__(self, indices):
        self.shapes.append(tuple(indices.shape))
        return self.function(indices)


@pytest.fixture
def holds(monkeypatch):
    """A CPU holds the cells, too; shapes of what is run."""
    AsItIs.shapes = []
    if not cuda:
        monkeypatch.setattr(engines, "why_not_held", lambda trainer: None)
        monkeypatch.setattr(steps, "rates_on_device", lambda *args: nullcontext())
        monkeypatch.setattr(device, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(steps, "CudaGraphStep", AsItIs)
    return AsItIs.shapes


def train(resident, monkeypatch, likelihood="nb", epochs=3, callbacks=(), batch_size=5, **plan):
    """A model with nothing drawn, trained on cells that lie in the device, or not."""
    adata = make_adata()
    CIVAE.setup_anndata(adata, batch_key="batch")
    model = CIVAE(adata, n_latent=4, likelihood=likelihood, dropout_rate=0.0)
    model.module.sample_latent = False
    plan = {"thinning": 0.0, **plan}
    with monkeypatch.context() as patch:
        if not resident:
            patch.setattr(engines, "why_not_held", lambda trainer: "asked for")
        model.train(
            epochs,
            batch_size=batch_size,
            plan_kwargs=plan,
            accelerator=ACCELERATOR,
            callbacks=list(callbacks),
        )
    return model


def assert_same(model, other, tolerance=2e-4):
    for name in ("train_loss", "validation_loss", "accuracy_validation", "kl_weight"):
        found, expected = (m.history[name].to_numpy(float) for m in (model, other))
        np.testing.assert_allclose(found, expected, rtol=tolerance)
    others = dict(other.module.named_parameters())
    for name, weight in model.module.named_parameters():
        torch.testing.assert_close(
            weight, others[name], rtol=0, atol=tolerance, msg=lambda why, of=name: f"{of}: {why}"
        )


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_results_do_not_depend_on_where_cells_lie(holds, monkeypatch, likelihood):
    models = [train(resident, monkeypatch, likelihood) for resident in (False, True)]
    assert_same(*models)
    n_train, n_held_out = (len(i) for i in (models[1].train_indices, models[1].validation_indices))
    assert sum(n * size for n, size in holds) == 3 * (n_train + n_held_out)
    assert {n for n, _ in holds} == {1, device.MINIBATCHES_A_GRAPH}
    assert models[0].trainer.global_step == models[1].trainer.global_step


@needs_triton
def test_kernels_train_as_torch_does(holds, monkeypatch):
    """On a CPU, Triton interprets them."""
    models = []
    for usable in (False, True):
        for module in (device, loss_of):
            monkeypatch.setattr(module, "usable", lambda device, usable=usable: usable)
        models.append(train(True, monkeypatch, epochs=1, batch_size=36))
    assert_same(*models)


@needs_gpu
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_a_replayed_step_is_the_step(holds, monkeypatch, likelihood):
    as_it_is = train(True, monkeypatch, likelihood, epochs=6)
    recorded, record = [], device.CudaGraphStep._record

    def noted(self, indices):
        recorded.append(tuple(indices.shape))
        return record(self, indices)

    monkeypatch.setattr(device.CudaGraphStep, "_record", noted)
    monkeypatch.setattr(steps, "CudaGraphStep", device.CudaGraphStep)
    assert_same(train(True, monkeypatch, likelihood, epochs=6), as_it_is)
    assert {(16, 5), (1, 5), (1, 3)} <= set(recorded)


@needs_gpu
def test_steps_that_wait_for_the_device_are_not_recorded(holds, monkeypatch):
    expected = train(True, monkeypatch, "zinb")
    monkeypatch.setattr(steps, "CudaGraphStep", device.CudaGraphStep)
    monkeypatch.setattr(device.CudaGraphStep, "_record", lambda *args: pytest.fail("recorded"))
    loss = CIVAEModule.loss

    def waiting(self, *args, **kwargs):
        assert float(self.px_r.sum()) < 1e9
        return loss(self, *args, **kwargs)

    monkeypatch.setattr(CIVAEModule, "loss", waiting)
    assert_same(train(True, monkeypatch, "zinb"), expected)
    assert torch.cuda.get_sync_debug_mode() == 0


@needs_gpu
def test_replayed_steps_draw_anew_and_repeat_with_the_seed():
    losses = []
    for _ in range(2):
        adata = make_adata()
        CIVAE.setup_anndata(adata)
        # without what depends on the order of the cells, the loss of an epoch changes by what is drawn alone
        model = CIVAE(adata, n_latent=4, use_batch_norm="none", dropout_rate=0.0)
        model.train(6, batch_size=5, accelerator="gpu", plan_kwargs={"lr": 1e-12})
        losses.append(model.history["reconstruction_loss_train"].to_numpy(float).ravel())
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert np.abs(np.diff(losses[0])).min() > 1e-4


class Breaks(Callback):
    """Stops training by an error."""

    def on_train_epoch_end(self, trainer, plan):
        raise MemoryError


@pytest.mark.parametrize("callbacks", [[], [Breaks()]], ids=["whole", "broken off"])
def test_memory_of_the_device_is_given_back(holds, monkeypatch, callbacks):
    """Although the model lives on, with its trainer, and an error, with its traceback."""
    held, of = [], DeviceDataset.of

    def noted(*args):
        cells = of(*args)
        held.extend(weakref.ref(tensor) for tensor in cells.tensors.values())
        return cells

    monkeypatch.setattr(DeviceDataset, "of", noted)
    error = None
    try:
        model = train(True, monkeypatch, callbacks=callbacks)
    except MemoryError as caught:
        error = caught
    assert len(held) >= 3
    gc.collect()
    alive = [tuple(tensor().shape) for tensor in held if tensor() is not None]
    assert not alive, alive
    assert (error is None) or callbacks
    assert error or model.trainer is not None


class Sees(Callback):
    """Looks at each gradient."""

    def __init__(self):
        self.n = 0

    def on_after_backward(self, trainer, plan):
        self.n += 1


def test_callbacks_that_look_at_a_step_see_each(monkeypatch):
    fake = SimpleNamespace(
        precision_plugin=Precision(),
        callbacks=[EarlyStopping("x")],
        strategy=SimpleNamespace(root_device=torch.device("cuda")),
        world_size=1,
    )
    assert why_not_held(fake) is None
    for change in (
        {"callbacks": [Sees()]},
        {"precision_plugin": DoublePrecision()},
        {"world_size": 2},
        {"strategy": SimpleNamespace(root_device=torch.device("cpu"))},
    ):
        assert why_not_held(SimpleNamespace(**{**vars(fake), **change}))
    looks = Sees()
    train(False, monkeypatch, callbacks=[looks], epochs=1)
    assert looks.n == 22  # 108 cells, five at a time


def test_the_order_is_that_of_the_other_loader(monkeypatch, holds):
    cells = DeviceDataset({"X": torch.zeros(50, 1)})
    loader = IndexLoader(cells, np.arange(10, 50), 4, shuffle=True)
    assert len(loader) == 1
    loader.generator = torch.Generator().manual_seed(3)
    (chosen,) = loader
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3)) + 10
    assert torch.equal(chosen.indices, order)
    (chosen,) = IndexLoader(cells, np.arange(10, 50), 4, shuffle=False)
    assert torch.equal(chosen.indices, torch.arange(10, 50))


def test_minibatches_have_few_shapes_and_every_cell():
    indices = torch.arange(8 * 37 + 3)
    parts = list(IndexBatch(DeviceDataset({}), indices, 8).minibatches())
    assert {tuple(p.shape) for p in parts} == {(16, 8), (1, 8), (1, 3)}
    assert torch.equal(torch.cat([p.flatten() for p in parts]), indices)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 255.0], torch.uint8),
        ([0.0, 256.0], torch.int16),
        ([-1.0, 3.0], torch.int16),
        ([0.0, 40_000.0], torch.float32),
        ([0.5], torch.float32),
        ([], torch.float32),
    ],
)
def test_counts_take_few_bytes(values, expected):
    assert narrowest(np.array(values)) == expected


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_cells_are_held_as_they_are(monkeypatch, layout):
    adata = make_adata()
    adata.layers["counts"] = layout(adata.layers["counts"].toarray())
    CIVAE.setup_anndata(adata, batch_key="batch")
    manager = CIVAE(adata).adata_manager
    monkeypatch.setattr(device, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(device, "CELLS_A_COPY", 50)
    cells = DeviceDataset.of(manager, torch.device("cpu"))
    some = torch.tensor([3, 0, 70])
    found = cells.at(some)
    dense = make_adata().layers["counts"].toarray()
    np.testing.assert_array_equal(found["X"], dense[some])
    np.testing.assert_array_equal(found["labels"][:, 0], adata.obs["_scvi_labels"].iloc[some])
    monkeypatch.setattr(device, "free_memory", lambda device: adata.n_obs * adata.n_vars)
    assert DeviceDataset.of(manager, torch.device("cpu")) is None


def test_values_that_are_stored_twice_are_summed_before_bytes_are_saved(monkeypatch):
    adata = make_adata()
    x = sparse.csr_matrix(
        (np.array([200.0, 100.0] * 120, np.float32), [3, 3] * 120, np.arange(0, 241, 2)),
        shape=adata.shape,
    )
    assert not x.has_canonical_format
    adata.layers["counts"] = x
    CIVAE.setup_anndata(adata)
    monkeypatch.setattr(device, "free_memory", lambda device: 10**9)
    cells = DeviceDataset.of(CIVAE(adata).adata_manager, torch.device("cpu"))
    assert (cells.at(torch.arange(5))["X"][:, 3] == 300).all()


def test_rates_are_floats_before_and_after():
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=0.1)
    rates = [torch.zeros(())]
    optimizer.param_groups[0]["lr"] = 0.05
    with rates_on_device(optimizer.param_groups, rates):
        assert optimizer.param_groups[0]["lr"] is rates[0]
        assert optimizer.param_groups[0]["capturable"]
    assert float(rates[0]) == pytest.approx(0.05)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert not optimizer.param_groups[0]["capturable"]


def test_distributions_look_at_their_arguments_afterwards():
    before = Distribution._validate_args
    with unchecked_distributions():
        torch.distributions.Normal(torch.tensor(float("nan")), 1.0)
    assert Distribution._validate_args == before
    with pytest.raises(ValueError, match="nan"):
        torch.distributions.Normal(torch.tensor(float("nan")), 1.0)


def test_a_number_that_is_not_finite_is_told(holds, monkeypatch):
    with pytest.raises(FloatingPointError, match="no longer finite"):
        train(True, monkeypatch, lr=1e6)
    assert holds  # found by the engine that holds the cells


def test_only_a_wait_is_taken_for_one(monkeypatch):
    """Torch tells of the mode itself when it is first asked for, in much the same words."""
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(
        torch.cuda,
        "set_sync_debug_mode",
        lambda mode: warnings.warn(
            "Synchronization debug mode is a prototype feature and does not yet detect all "
            "synchronizing operations",
            stacklevel=1,
        ),
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with device._noting_waits() as waits:
            warnings.warn("another", stacklevel=1)
        assert not waits
        with device._noting_waits() as waits:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        assert len(waits) == 1
    assert [str(w.message) for w in told] == ["another"]
