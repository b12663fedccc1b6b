"""Training on sparse rows gives the numbers of scvi-tools on dense ones."""

import gc
import weakref
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from numba.core.caching import CacheImpl
from scipy import sparse, stats
from scvi.distributions import NegativeBinomial
from torch import nn

from scivae.module import CIVAEModule
from scivae.module._civae import MOST_GROUPS
from scivae.nb import compiled as _compiled
from scivae.nb import kernels as _kernels
from scivae.nb.counts import DenseCounts, SparseCounts, sparse_linear, store_by_input
from scivae.nb.kernels import FEW, TABLED, _exp2, _log1p
from scivae.nb.loss import negative_binomial_loss
from scivae.nb.workers import worker_pool

N_CELLS, N_GENES, N_CLASSES = 24, 40, 3


def counts(dtype=torch.float64):
    """Mostly zeros, some counts that no table holds, and a cell without any."""
    rng = np.random.default_rng(0)
    x = rng.negative_binomial(0.15, 0.02, (N_CELLS, N_GENES)).astype(float)
    x[5] = 0
    assert (x == 0).mean() > 0.5
    assert (x > TABLED).any()
    return torch.tensor(x, dtype=dtype)


def tensors(x):
    return {
        "X": x,
        "batch": torch.arange(N_CELLS)[:, None] % 2,
        "labels": torch.arange(N_CELLS)[:, None] % (N_CLASSES + 1),  # some unlabeled
    }


def network(**kwargs):
    torch.manual_seed(0)
    kwargs = {"gene_likelihood": "nb", "n_batch": 2, "n_labels": N_CLASSES, **kwargs}
    return CIVAEModule(N_GENES, n_classes=N_CLASSES, dropout_rate=0.1, **kwargs).double()


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_rows_are_the_matrix(layout):
    x = counts()
    rows = SparseCounts.of(x if layout == "dense" else x.to_sparse_csr())
    assert torch.equal(rows.dense(rows.counts), x)
    assert torch.equal(rows.totals, x.sum(1, keepdim=True))
    parts = list(rows.split(7))
    assert [p.n_obs for p in parts] == [7, 7, 7, 3]
    assert torch.equal(torch.cat([p.dense(p.counts) for p in parts]), x)
    assert torch.equal(torch.cat([p.totals for p in parts]), rows.totals)


def test_sparse_layer_is_the_dense_one():
    x = counts()
    torch.manual_seed(0)
    layer = nn.Linear(N_GENES, 5).double()
    weight = torch.rand(N_CELLS, 5, dtype=torch.float64)
    expected = torch.autograd.grad((layer(x) * weight).sum(), layer.parameters())
    for store in (lambda layer: None, store_by_input):
        before = layer.weight.detach().clone()
        store(layer)
        assert torch.equal(layer.weight, before)
        rows = SparseCounts.of(x)
        out = sparse_linear(rows.counts, rows, layer)
        torch.testing.assert_close(out, layer(x))
        found = torch.autograd.grad((out * weight).sum(), layer.parameters())
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_loss_is_the_negative_binomial_of_scvi(scale):
    x = counts()[torch.arange(N_CELLS) != 5]  # a cell without counts has no library in scvi-tools
    torch.manual_seed(1)
    layer = nn.Linear(6, N_GENES).double()
    hidden = (3 * torch.randn(len(x), 6, dtype=torch.float64)).requires_grad_()
    log_theta = (torch.randn(N_GENES, dtype=torch.float64) + np.log(scale)).requires_grad_()
    weight, library = torch.rand(len(x), dtype=torch.float64), x.sum(1, keepdim=True)
    mu = library * layer(hidden).softmax(1)
    theirs = -NegativeBinomial(mu=mu, theta=log_theta.exp()).log_prob(x).sum(1)
    by = [hidden, layer.weight, layer.bias, log_theta]
    ours = negative_binomial_loss(hidden, layer, log_theta, SparseCounts.of(x))
    found = torch.autograd.grad((ours * weight).sum(), by)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    expected = torch.autograd.grad((theirs * weight).sum(), by)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    single = negative_binomial_loss(
        hidden.float(), layer.float(), log_theta.float(), SparseCounts.of(x.float())
    )
    torch.testing.assert_close(single, theirs.float(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("n_chunks", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_single_precision_gives_the_numbers_of_double_precision(
    scale, n_chunks, equal, monkeypatch
):
    monkeypatch.setattr(_compiled, "CHUNK_VALUES", 5 * N_GENES)  # several parts, the last smaller
    monkeypatch.setattr(_compiled, "FEWEST_CELLS", 1)
    torch.manual_seed(2)
    layer, x = nn.Linear(6, N_GENES), counts()
    hidden = 3 * torch.randn(N_CELLS, 6)
    log_theta = torch.randn(N_GENES) + np.log(scale)
    by_cell = torch.full((N_CELLS,), 0.25) if equal else torch.rand(N_CELLS)
    found, parts, part = {}, [], _compiled._part
    monkeypatch.setattr(
        _compiled, "_part", lambda *args, **kwargs: parts.append(0) or part(*args, **kwargs)
    )
    for way in ("exact", "scvi", "matrix", "compiled"):
        dtype = torch.float64 if way == "exact" else torch.float32
        these = [t.detach().to(dtype).requires_grad_() for t in (hidden, layer.weight, layer.bias)]
        theta, counted = log_theta.to(dtype).requires_grad_(), x.to(dtype)
        last = SimpleNamespace(weight=these[1], bias=these[2])
        cells = DenseCounts(counted, counted)
        if way == "compiled":
            cells = SparseCounts.of(counted).prepare(n_chunks=n_chunks)
            assert len(cells.chunks) == n_chunks
        with worker_pool(n_chunks):
            if way == "scvi":
                shares = torch.nn.functional.linear(*these).softmax(1)
                px = NegativeBinomial(mu=shares * counted.sum(1, keepdim=True), theta=theta.exp())
                loss = -px.log_prob(counted).sum(1)
            else:
                loss = negative_binomial_loss(these[0], last, theta, cells)
                with torch.no_grad(), monkeypatch.context() as patch:
                    patch.setattr(_compiled, "add_product", None)  # of the gradient, not asked for
                    torch.testing.assert_close(
                        negative_binomial_loss(these[0], last, theta, cells), loss
                    )
            slopes = torch.autograd.grad((loss * by_cell.to(dtype)).sum(), [*these, theta])
        assert len(parts) >= n_chunks if way == "compiled" else not parts  # what ran
        found[way] = [loss.detach(), *slopes]
    exact = found.pop("exact")
    errors = {
        way: [float((t - e).abs().max() / e.abs().max()) for t, e in zip(of, exact, strict=True)]
        for way, of in found.items()
    }
    for theirs, *ours in zip(*errors.values(), strict=True):
        # where numbers of single precision cannot tell, as well as scvi-tools
        assert max(ours) < max(1e-5, 2 * theirs)
        assert max(ours) < 3e-4
        assert ours[-1] < 2e-4 or not equal
        assert scale != 1 or max(ours) < 2e-6


@pytest.mark.parametrize("culprit", ["hidden", "theta"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_compiled_loops_hide_nothing_that_is_not_finite(culprit, value):
    layer, x = nn.Linear(6, N_GENES), counts().float()
    hidden, log_theta = torch.ones(N_CELLS, 6), torch.zeros(N_GENES)
    if culprit == "hidden":
        hidden[3, 2] = value
    else:
        log_theta[7] = value
    loss = negative_binomial_loss(hidden.requires_grad_(), layer, log_theta, SparseCounts.of(x))
    broken = ~loss.isfinite()
    assert broken[3]
    assert broken.all() or (culprit == "hidden" and broken.sum() == 1)


def test_compiled_functions_are_exact_to_the_last_bits():
    @numba.njit
    def of_all(x, y):
        return np.array([_exp2(v) for v in x]), np.array([_log1p(v) for v in y])

    x = np.linspace(-125, 0, 20_001, dtype=np.float32)
    y = np.concatenate([[0], np.geomspace(1e-30, 1e30, 20_001)]).astype(np.float32)
    powers, logs = of_all(x, y)
    assert np.isclose(powers, np.exp2(x.astype(float)), rtol=2e-7, atol=0).all()
    assert np.isclose(logs, np.log1p(y.astype(float)), rtol=3e-7, atol=0).all()


def test_loops_are_compiled_where_nothing_can_be_written(monkeypatch):
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(lambda x: x + 1)
    assert _kernels.compiled(lambda x: x + 1)(1) == 2


def test_counts_gene_after_gene():
    rows = SparseCounts.of(counts())
    expected = sparse.csc_array(counts().numpy())
    cells, places, starts = rows.by_gene
    assert torch.equal(rows.counts[places], torch.from_numpy(expected.data))
    assert np.array_equal(cells, expected.indices)
    assert np.array_equal(starts, expected.indptr[:-1])


def test_a_seed_thins_as_before():
    rows = SparseCounts.of(counts())
    before = torch.get_rng_state()
    rows.prepare()
    rows.prepare(0.7, 3)
    assert torch.equal(torch.get_rng_state(), before)  # which a seed, or nothing to draw, leaves
    rows.prepare(0.7)
    assert not torch.equal(torch.get_rng_state(), before)

    def thinned(seed):
        return rows.prepare(0.7, seed).encoder_input

    assert torch.equal(thinned(3), thinned(3))
    assert not torch.equal(thinned(3), thinned(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cell_without_counts_has_a_finite_gradient(dtype):
    layer = nn.Linear(2, N_GENES).to(dtype)
    x, hidden = counts(dtype), torch.ones(N_CELLS, 2, dtype=dtype, requires_grad=True)
    log_theta = torch.zeros(N_GENES, dtype=dtype)
    loss = negative_binomial_loss(hidden, layer, log_theta, SparseCounts.of(x))
    assert float(loss[5].detach()) == pytest.approx(0, abs=1e-6)
    by_hidden, by_weight = torch.autograd.grad(loss.sum(), [hidden, layer.weight])
    assert (by_hidden[5] == 0).all()  # its mean is zero whatever the shares are
    assert (by_hidden[:5] != 0).any()
    others = torch.arange(N_CELLS) != 5
    alone = negative_binomial_loss(hidden[others], layer, log_theta, SparseCounts.of(x[others]))
    (expected,) = torch.autograd.grad(alone.sum(), [layer.weight])
    torch.testing.assert_close(by_weight, expected)


def test_only_the_products_of_the_last_layer_are_in_half_precision():
    torch.manual_seed(1)
    layer, x = nn.Linear(6, N_GENES), counts().float()
    hidden, log_theta = torch.randn(len(x), 6, requires_grad=True), torch.zeros(N_GENES)
    found = {}
    for products in (None, torch.bfloat16):
        loss = negative_binomial_loss(hidden, layer, log_theta, SparseCounts.of(x), products)
        found[products] = loss, *torch.autograd.grad(loss.sum(), [hidden, layer.weight])
    for exact, half in zip(*found.values(), strict=True):
        assert half.dtype == torch.float32
        assert 0 < (half - exact).norm() / exact.norm() < 0.02  # bfloat16 has eight bits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network().float().fused_loss(tensors(SparseCounts.of(x)))
    assert output.logits.dtype == output.loss.dtype == torch.float32


def test_an_error_in_a_thread_is_raised_here():
    rows = SparseCounts.of(counts(torch.float32)).prepare(n_chunks=2)
    hidden, layer = torch.ones(N_CELLS, 3), nn.Linear(2, N_GENES)
    with worker_pool(2), pytest.raises(RuntimeError, match="cannot be multiplied|inner product"):
        negative_binomial_loss(hidden, layer, torch.zeros(N_GENES), rows)


@pytest.mark.parametrize(
    "way", [SparseCounts.of, lambda x: DenseCounts(x, x)], ids=["rows", "matrix"]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_layers": 2, "log_variational": False},
        {"use_batch_norm": "none", "use_layer_norm": "both"},
        {"n_continuous_cov": 1, "n_cats_per_cov": [3]},
        {"n_continuous_cov": 1, "n_cats_per_cov": [3], "encode_covariates": True},
        {
            "n_continuous_cov": 1,
            "n_cats_per_cov": [3],
            "encode_covariates": True,
            "deeply_inject_covariates": False,
            "n_layers": 2,
        },
        {"encode_covariates": True, "n_layers": 3},
        {"class_weights": [0.5, 1.0, 2.0], "discriminator_weight": 7.0, "kl_weight": 3.0},
        {"sample_latent": False},
        {"dispersion": "gene-batch"},
    ],
)
def test_loss_and_gradients_of_the_whole_network(settings, training, way):
    assert network(**settings).float().supports_fused_nb
    # In double precision, to compare to 1e-9; scvi-tools has dispersions by batch in single precision only.
    single = settings.get("dispersion") == "gene-batch"
    dtype = torch.float32 if single else torch.float64
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if single else {"rtol": 1e-9, "atol": 1e-9}
    of_gradients = {"rtol": 1e-3, "atol": 1e-4} if single else {"rtol": 1e-7, "atol": 1e-8}
    module = network(**settings).to(dtype).train(training)
    x = counts(dtype)
    x[5, 0] = 1
    batch = tensors(x)
    if "n_continuous_cov" in settings:
        batch["extra_continuous_covs"] = torch.randn(N_CELLS, 1, dtype=torch.float64)
        batch["extra_categorical_covs"] = torch.arange(N_CELLS)[:, None] % 3
    results = []
    for cells in (None, way(x)):
        torch.manual_seed(3)
        if cells is None:
            output = module(batch, loss_kwargs={"kl_weight": 0.7})[2]
        else:
            output = module.fused_loss({**batch, "X": cells}, kl_weight=0.7)
        module.zero_grad()
        output.loss.backward()
        gradients = {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}
        results.append((output, gradients))
    (dense, expected), (ours, found) = results
    for name in (
        "loss",
        "reconstruction_loss_sum",
        "kl_local_sum",
        "classification_loss",
        "logits",
    ):
        torch.testing.assert_close(getattr(ours, name), getattr(dense, name), **tolerance)
    # what has no part in the loss has no gradient, or one that is zero
    assert not any(expected[name].any() for name in expected.keys() - found.keys())
    assert found.keys() <= expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], **of_gradients)


@pytest.mark.parametrize(
    "settings",
    [
        {"gene_likelihood": "zinb"},
        {"dispersion": "gene-batch", "n_batch": MOST_GROUPS + 1},
        {"dispersion": "gene-cell"},
        {"use_size_factor_key": True},
        {"latent_distribution": "ln"},
        {"batch_representation": "embedding"},
        {"extra_payload_autotune": True},
    ],
)
def test_other_networks_are_left_to_scvi(settings):
    assert not network(**settings).float().supports_fused_nb


def test_dispersions_by_group_in_single_precision():
    """Compiled, with cells that count differently, against scvi-tools' distribution."""
    torch.manual_seed(2)
    x, layer = counts().float(), nn.Linear(6, N_GENES)
    groups = torch.arange(N_CELLS) % 3
    weights = torch.linspace(0.5, 2, N_CELLS)
    hidden = torch.randn(N_CELLS, 6, requires_grad=True)
    log_theta = torch.randn(N_GENES, 3, requires_grad=True)
    leaves = [hidden, layer.weight, layer.bias, log_theta]
    mean = layer(hidden).softmax(1) * x.sum(1, keepdim=True)
    theta = log_theta.exp().t()[groups]
    expected = -NegativeBinomial(mu=mean, theta=theta).log_prob(x).sum(1)
    slopes = torch.autograd.grad((weights * expected).sum(), leaves)
    for n_chunks in (1, 2):
        with worker_pool(n_chunks):
            rows = SparseCounts.of(x).prepare(n_chunks=n_chunks)
            loss = negative_binomial_loss(hidden, layer, log_theta.t(), rows, groups=groups)
            found = torch.autograd.grad((weights * loss).sum(), leaves)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
        for ours, theirs in zip(found, slopes, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1.0, 10.0, FEW + 8.0])
def test_thinned_rows_are_binomial(count):
    """Share uniform in [0.4, 1], then binomial: mean and variance in closed form, and the range."""
    torch.manual_seed(0)
    n = 40_000
    x = torch.zeros(n, 2)
    x[:, 0] = count
    thinned = SparseCounts.of(x).prepare(0.6).encoder_input.double()
    assert ((thinned >= 0) & (thinned <= count) & (thinned == thinned.round())).all()
    mean = 0.7 * count
    variance = count * (0.7 - (0.49 + 0.03)) + count**2 * 0.03
    assert abs(float(thinned.mean()) - mean) < 5 * (variance / n) ** 0.5
    assert float(thinned.var()) == pytest.approx(variance, rel=0.05)


def test_thinned_counts_of_one_share_are_a_binomial_distribution():
    torch.manual_seed(0)
    x = torch.full((1, 20_000), 5.0)
    thinned = SparseCounts.of(x).prepare(0.9).encoder_input.numpy()
    share = thinned.mean() / 5  # one cell, one share
    observed = np.bincount(thinned.astype(int), minlength=6)
    expected = stats.binom.pmf(np.arange(6), 5, share) * x.shape[1]
    assert (
        stats.chisquare(observed, expected * observed.sum() / expected.sum(), ddof=1).pvalue > 1e-4
    )


def test_a_minibatch_is_freed_when_it_was_used():
    """Without waiting for the collector of cycles, which thousands of minibatches would wait for, too."""
    gc.disable()
    try:
        module, x = network(), counts()
        with worker_pool(2):
            for n_chunks in (1, 2):
                rows = SparseCounts.of(x).prepare(thinning=0.5, n_chunks=n_chunks)
                columns, freed = weakref.ref(rows.columns), weakref.ref(rows)
                output = module.fused_loss({**tensors(x), "X": rows})
                output.loss.backward()
                del rows
                assert freed() is None  # although the loss is kept
                assert columns() is None
    finally:
        gc.enable()
