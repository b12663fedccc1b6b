"""Triton's kernels: on a GPU where there is one, else as Triton interprets them on a CPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial
from tests.conftest import needs_triton

from scivae.module import thin
from scivae.nb import loss as loss_of
from scivae.nb import on_gpu
from scivae.nb.counts import DenseCounts
from scivae.nb.loss import negative_binomial_loss
from scivae.train.device import DeviceDataset

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
needs_gpu = pytest.mark.skipif(not CUDA, reason="there is no GPU")


@pytest.fixture
def on(monkeypatch):
    """The kernels are used, also where the device is a CPU."""
    if not CUDA:
        for module in (loss_of, on_gpu):
            monkeypatch.setattr(module, "usable", lambda device: True)
        monkeypatch.setattr("scivae.train.device.usable", lambda device: True)


def problem(n_obs=11, n_vars=70, n_groups=1, dtype=torch.int16):
    """Cells, one of them empty, with some large counts; dispersions from exp(-12) to exp(15)."""
    rng = np.random.default_rng(0)
    x = rng.negative_binomial(0.15, 0.02, (n_obs, n_vars))
    x[5] = 0
    x = torch.from_numpy(np.minimum(x, 255)).to(dtype)
    torch.manual_seed(0)
    hidden, weight = 3 * torch.randn(n_obs, 6), torch.randn(n_vars, 6) / 3
    log_theta = 2 * torch.randn(n_groups, n_vars)
    log_theta[:, :4] = torch.tensor([-12.0, -5.0, 9.0, 15.0])
    groups = torch.arange(n_obs) % n_groups
    return [hidden, weight, torch.randn(n_vars), log_theta], groups, x


def loss_and_gradients(parts, groups, x, by_cell, dtype, products=None):
    these = [p.to(DEVICE, dtype).requires_grad_() for p in parts]
    hidden, weight, bias, log_theta = these
    x = x.to(DEVICE)
    if dtype == torch.float64:
        mean = torch.nn.functional.linear(hidden, weight, bias).softmax(1)
        mean = mean * x.to(dtype).sum(1, keepdim=True)
        theta = log_theta.exp()[groups.to(DEVICE)]
        loss = -NegativeBinomial(mu=mean, theta=theta).log_prob(x.to(dtype)).sum(1)
    else:
        cells, layer = DenseCounts(x, x.float()), SimpleNamespace(weight=weight, bias=bias)
        of = (log_theta, groups.to(DEVICE)) if len(log_theta) > 1 else (log_theta[0], None)
        loss = negative_binomial_loss(hidden, layer, of[0], cells, products, of[1])
    weights = by_cell.to(DEVICE, dtype)
    return [loss.detach(), *torch.autograd.grad((loss * weights).sum(), these)]


def assert_near(found, expected, tolerance):
    for ours, exact in zip(found, expected, strict=True):
        assert ours.shape == exact.shape
        error = float((ours - exact).abs().max() / exact.abs().max())
        assert error < tolerance, (error, tuple(exact.shape))


@needs_triton
@pytest.mark.parametrize(
    ("n_groups", "dtype", "block"),
    [(1, torch.uint8, 2048), (3, torch.int16, 2048), (1, torch.float32, 32), (3, torch.uint8, 32)],
)
def test_loss_and_gradients_are_those_of_scvi_in_double_precision(
    on, monkeypatch, n_groups, dtype, block
):
    monkeypatch.setattr(on_gpu, "VALUE_GENES", block)
    monkeypatch.setattr(on_gpu, "GRADIENT_GENES", block)
    parts, groups, x = problem(n_groups=n_groups, dtype=dtype)
    x[5, 0] = 1  # scvi-tools has no library for an empty cell
    weights = torch.rand(len(x))
    by = (weights, torch.float32), (weights, torch.float64)
    found, expected = (loss_and_gradients(parts, groups, x, *of) for of in by)
    assert_near(found, expected, 1e-5)


@needs_triton
@pytest.mark.parametrize(
    ("n_obs", "n_vars", "n_groups"), [(1, 70, 1), (5, 70, 1), (1, 70, 2), (8, 1, 1), (9, 16, 2)]
)
def test_loss_of_few_cells_and_genes(on, n_obs, n_vars, n_groups):
    """A compiler may take sizes of 1, and multiples of 16, apart."""
    hidden, weight, bias, log_theta = problem(n_groups=n_groups)[0]
    parts = [hidden[:n_obs], weight[:n_vars], bias[:n_vars], log_theta[:, -n_vars:]]
    x = torch.arange(1, n_obs * n_vars + 1).view(n_obs, n_vars).remainder(7).to(torch.uint8)
    groups = torch.arange(n_obs) % n_groups
    by = (torch.ones(n_obs), torch.float32), (torch.ones(n_obs), torch.float64)
    found, expected = (loss_and_gradients(parts, groups, x, *of) for of in by)
    for ours, exact in zip(found, expected, strict=True):
        atol = 2e-5 * max(1.0, float(exact.abs().max()))  # softmax of one gene has no gradient
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=atol)


@needs_triton
@needs_gpu
def test_no_place_of_the_cells_needs_another_kernel(monkeypatch):
    """As what is recorded must not be compiled then."""
    x = problem(dtype=torch.uint8)[2].to(DEVICE)
    order = torch.arange(8, device=DEVICE)
    for thinning in (0.0, 0.5):
        on_gpu.gathered(x, order[:4], thinning, log=True)
        with monkeypatch.context() as patch:
            patch.setattr(
                "triton.runtime.jit.JITFunction._do_compile", lambda *args: pytest.fail("compiled")
            )
            for first in (1, 2, 3):
                on_gpu.gathered(x, order[first : first + 4], thinning, log=True)


@needs_triton
def test_an_empty_cell_has_loss_and_gradient_zero(on):
    parts, groups, x = problem()
    loss, by_hidden, *_ = loss_and_gradients(parts, groups, x, torch.ones(len(x)), torch.float32)
    assert loss[5] == 0, loss[5]
    assert not by_hidden[5].any()


@needs_triton
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_kernels_hide_nothing_that_is_not_finite(on, value):
    parts, groups, x = problem()
    parts[0][3, 2] = value
    loss = loss_and_gradients(parts, groups, x, torch.ones(len(x)), torch.float32)[0]
    assert not loss[3].isfinite()
    assert loss[torch.arange(len(x)) != 3].isfinite().all()


@needs_triton
def test_products_can_be_of_half_the_precision(on):
    parts, groups, x = problem()
    ones = torch.ones(len(x))
    half = loss_and_gradients(parts, groups, x, ones, torch.float32, torch.bfloat16)
    exact = loss_and_gradients(parts, groups, x, ones, torch.float32)
    assert_near(half, exact, 0.05)
    assert not torch.equal(half[1], exact[1])


@needs_triton
@pytest.mark.parametrize(("dtype", "log"), [(torch.uint8, True), (torch.int16, False)])
def test_cells_are_gathered_and_counts_can_only_fall(on, dtype, log):
    x = problem(dtype=dtype)[2].to(DEVICE)
    cells = DeviceDataset({"X": x, "labels": torch.arange(len(x), device=DEVICE)})
    some = torch.tensor([7, 0, 10], device=DEVICE)
    expected = x[some].float().log1p() if log else x[some].float()
    for thinning in (0.0, 0.7):
        found = cells.counts_at(some, thinning, log)
        assert torch.equal(found["X"].counts, x[some])
        assert torch.equal(found["labels"], some)
        assert found["X"].logged == log
        encoded = found["X"].encoded(log)
        if thinning == 0:
            torch.testing.assert_close(encoded, expected)
        else:
            kept = encoded.expm1() if log else encoded
            torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-3)
            assert (kept <= x[some] + 1e-3).all()
            assert (kept.sum(1) < x[some].sum(1)).any()


@needs_triton
@pytest.mark.parametrize("count", [1, 6, 60, *([255, 3000, 30_000] if CUDA else [300])])
def test_thinned_counts_are_binomial(on, count):
    """Given the proportion kept of a cell, which many genes with the same count tell."""
    n_obs, n_vars = (40, 20_000) if CUDA else (3, 700)
    x = torch.full((n_obs, n_vars), count, dtype=torch.int16, device=DEVICE)
    torch.manual_seed(1)
    indices = torch.arange(n_obs, device=DEVICE)
    kept = on_gpu.gathered(x, indices, 0.9, log=False).encoder_input.cpu().numpy()
    proportions = kept.mean(1) / count
    assert ((proportions > 0.09) & (proportions < 1)).all()
    assert proportions.std() > 0.1
    below = []
    for of_cell, proportion in zip(kept, proportions, strict=True):
        edges = np.unique(stats.binom.ppf(np.linspace(0.1, 0.9, 9), count, proportion))
        observed = np.searchsorted(edges, of_cell, side="left")
        expected = np.diff(np.r_[0, stats.binom.cdf(edges, count, proportion), 1])
        observed = np.bincount(observed, minlength=len(expected))
        near = expected > 1e-12
        assert not observed[~near].any()
        # one degree of freedom less, as the proportion was fitted
        ddof = min(1, near.sum() - 2) if near.sum() > 2 else 0
        below.append(
            stats.chisquare(observed[near], expected[near] * n_vars, ddof=ddof).pvalue
            if count > 1
            else 0.5
        )
    assert min(below) > 1e-3 / n_obs


@needs_triton
@needs_gpu
def test_proportions_kept_are_uniform_and_those_of_torch():
    x = torch.full((4000, 300), 9, dtype=torch.uint8, device=DEVICE)
    kept = on_gpu.gathered(x, torch.arange(4000, device=DEVICE), 0.7, log=False).encoder_input
    ours, theirs = ((k.mean(1) / 9).cpu().numpy() for k in (kept, thin(x.float(), 0.7)))
    assert stats.kstest(ours, stats.uniform(0.3, 0.7).cdf).statistic < 0.03
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    assert abs(np.corrcoef(ours[:-1], ours[1:])[0, 1]) < 0.06


@needs_triton
def test_draws_repeat_with_the_seed_alone(on):
    x = torch.full((4, 64), 9, dtype=torch.uint8, device=DEVICE)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        for _ in range(2):
            indices = torch.arange(4, device=DEVICE)
            drawn.append(on_gpu.gathered(x, indices, 0.7, log=False).encoder_input)
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    for other in (drawn[1], drawn[4]):
        assert not torch.equal(drawn[0], other)


@needs_triton
@needs_gpu
def test_a_replayed_graph_draws_anew():
    x = torch.full((8, 500), 9, dtype=torch.uint8, device=DEVICE)
    indices = torch.arange(8, device=DEVICE)
    on_gpu.gathered(x, indices, 0.7, log=True)  # compiled
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cells = [on_gpu.gathered(x, indices, 0.7, log=False) for _ in range(2)]
    drawn = []
    for _ in range(3):
        graph.replay()
        drawn += [of.encoder_input.clone() for of in cells]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert 0.5 < float((one != other).float().mean()) < 1


def test_without_triton_torch_does_the_same(monkeypatch):
    def missing():
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(on_gpu, "_kernels", missing)
    on_gpu._works.cache_clear()
    try:
        assert not on_gpu.usable(DEVICE)
        assert not on_gpu._works(DEVICE)
        parts, groups, x = problem(dtype=torch.uint8)
        parts[3].clamp_(-5, 3)  # beyond, torch subtracts large numbers
        x[5, 0] = 1
        ones = torch.ones(len(x))
        found = loss_and_gradients(parts, groups, x, ones, torch.float32)
        expected = loss_and_gradients(parts, groups, x, ones, torch.float64)
        assert_near(found, expected, 1e-4)
        cells = DeviceDataset({"X": x.to(DEVICE)})
        counts = cells.counts_at(torch.arange(4, device=DEVICE), 0.5, log=True)["X"]
        assert counts.counts.dtype == torch.float32
        assert not counts.logged
    finally:
        on_gpu._works.cache_clear()


class FakeKernel:
    """A kernel that counts its launches, or cannot be compiled."""

    def __init__(self, broken):
        self.broken, self.launches = broken, 0

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **kwargs):
        self.launches += 1
        if self.broken:
            raise RuntimeError("out of resource: registers")


@pytest.mark.parametrize("broken", [None, "gather", "value", "gradient"])
@pytest.mark.parametrize("inference", [False, True])
def test_one_kernel_that_fails_leaves_all_to_torch(monkeypatch, broken, inference):
    kernels = {name: FakeKernel(name == broken) for name in ("gather", "value", "gradient")}
    monkeypatch.setattr(on_gpu, "_kernels", lambda: SimpleNamespace(**kernels))
    with torch.inference_mode(inference):
        assert on_gpu._works.__wrapped__(torch.device("cpu")) == (broken is None)
    assert kernels[broken or "gradient"].launches == 1


@needs_triton
def test_the_check_passes_where_the_kernels_work(monkeypatch):
    monkeypatch.setattr(on_gpu, "VALUE_GENES", 2048 if CUDA else 32)
    assert on_gpu._works.__wrapped__(DEVICE)
