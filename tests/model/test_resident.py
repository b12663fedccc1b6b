"""Training on a device that holds the data; where there is no GPU, a CPU does all but record."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import sparse
from tests.conftest import make_adata
from torch.distributions import Distribution

from scivae.model import CIVAE, _resident, _splitter, _training
from scivae.model._resident import Chosen, ChosenLoader, Resident, narrowest, rates_on_device
from scivae.module import CIVAEModule

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
        monkeypatch.setattr(_splitter, "can_hold", lambda trainer: True)
        monkeypatch.setattr(_training, "rates_on_device", lambda *args: nullcontext())
        monkeypatch.setattr(_resident, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(_training, "Replayed", AsItIs)
    return AsItIs.shapes


def train(resident, monkeypatch, likelihood="nb", epochs=3, **plan):
    """A model with nothing drawn, trained on cells that lie in the device, or not."""
    adata = make_adata()
    CIVAE.setup_anndata(adata, batch_key="batch")
    model = CIVAE(adata, n_latent=4, likelihood=likelihood, dropout_rate=0.0)
    model.module.sample_latent = False
    plan = {"thinning": 0.0, **plan}
    with monkeypatch.context() as patch:
        if not resident:
            patch.setattr(_splitter, "can_hold", lambda trainer: False)
        model.train(epochs, batch_size=5, plan_kwargs=plan, accelerator=ACCELERATOR)
    return model


def assert_same(model, other, tolerance=2e-4):
    for name in ("train_loss", "validation_loss", "accuracy_validation", "kl_weight"):
        found, expected = (m.history[name].to_numpy(float) for m in (model, other))
        np.testing.assert_allclose(found, expected, rtol=tolerance)
    for a, b in zip(model.module.parameters(), other.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_results_do_not_depend_on_where_cells_lie(holds, monkeypatch, likelihood):
    models = [train(resident, monkeypatch, likelihood) for resident in (False, True)]
    assert_same(*models)
    n_train, n_held_out = (len(i) for i in (models[1].train_indices, models[1].validation_indices))
    assert sum(n * size for n, size in holds) == 3 * (n_train + n_held_out)
    assert {n for n, _ in holds} == {1, _resident.MINIBATCHES_A_GRAPH}
    assert models[0].trainer.global_step == models[1].trainer.global_step


@needs_gpu
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_a_replayed_step_is_the_step(holds, monkeypatch, likelihood):
    as_it_is = train(True, monkeypatch, likelihood, epochs=6)
    monkeypatch.setattr(_training, "Replayed", _resident.Replayed)
    assert_same(train(True, monkeypatch, likelihood, epochs=6), as_it_is)


@needs_gpu
def test_steps_that_wait_for_the_device_are_not_recorded(holds, monkeypatch):
    expected = train(True, monkeypatch, "zinb")
    monkeypatch.setattr(_training, "Replayed", _resident.Replayed)
    monkeypatch.setattr(_resident.Replayed, "_record", lambda *args: pytest.fail("recorded"))
    loss = CIVAEModule.loss

    def waiting(self, *args, **kwargs):
        assert float(self.px_r.sum()) < 1e9
        return loss(self, *args, **kwargs)

    monkeypatch.setattr(CIVAEModule, "loss", waiting)
    assert_same(train(True, monkeypatch, "zinb"), expected)
    assert torch.cuda.get_sync_debug_mode() == 0


@needs_gpu
def test_replayed_steps_draw_anew_and_repeat_with_the_seed(monkeypatch):
    found = []
    for seed in (0, 0, 1):
        adata = make_adata()
        CIVAE.setup_anndata(adata)
        model = CIVAE(adata, n_latent=4, seed=seed)
        model.train(4, batch_size=8, accelerator="gpu")
        found.append(model.get_latent_representation())
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)  # sums in any order
    assert np.abs(found[0] - found[2]).max() > 0.1


@needs_gpu
def test_memory_of_the_device_is_given_back(monkeypatch):
    train(True, monkeypatch)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    train(True, monkeypatch)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() < before + 10e6


def test_the_order_is_that_of_the_other_loader(monkeypatch, holds):
    cells = Resident({"X": torch.zeros(50, 1)})
    loader = ChosenLoader(cells, np.arange(10, 50), 4, shuffle=True)
    assert len(loader) == 1
    loader.generator = torch.Generator().manual_seed(3)
    (chosen,) = loader
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3)) + 10
    assert torch.equal(chosen.indices, order)
    (chosen,) = ChosenLoader(cells, np.arange(10, 50), 4, shuffle=False)
    assert torch.equal(chosen.indices, torch.arange(10, 50))


def test_minibatches_have_few_shapes_and_every_cell():
    indices = torch.arange(8 * 37 + 3)
    parts = list(Chosen(Resident({}), indices, 8).minibatches())
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
    monkeypatch.setattr(_resident, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(_resident, "CELLS_A_COPY", 50)
    cells = Resident.of(manager, torch.device("cpu"))
    some = torch.tensor([3, 0, 70])
    found = cells.at(some)
    dense = make_adata().layers["counts"].toarray()
    np.testing.assert_array_equal(found["X"], dense[some])
    np.testing.assert_array_equal(found["labels"][:, 0], adata.obs["_scvi_labels"].iloc[some])
    monkeypatch.setattr(_resident, "free_memory", lambda device: adata.n_obs * adata.n_vars)
    assert Resident.of(manager, torch.device("cpu")) is None


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
    with _resident._distributions_unchecked():
        torch.distributions.Normal(torch.tensor(float("nan")), 1.0)
    assert Distribution._validate_args == before


def test_a_number_that_is_not_finite_is_told(holds, monkeypatch):
    with pytest.raises(FloatingPointError, match="no longer finite"):
        train(True, monkeypatch, lr=1e6)


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
        with _resident._noting_waits() as waits:
            warnings.warn("another", stacklevel=1)
        assert not waits
        with _resident._noting_waits() as waits:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        assert len(waits) == 1
    assert [str(w.message) for w in told] == ["another"]
