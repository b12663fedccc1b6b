import numpy as np
import pytest
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial as SCVINegativeBinomial
from scvi.distributions import Normal
from scvi.module import VAE
from torch.nn import functional as F

from scivae.module import CIVAEModule, mask, thin
from scivae.module._civae import robust_cross_entropy
from scivae.module._likelihoods import CONTINUOUS_LIKELIHOODS, LIKELIHOODS, ContinuousDecoder
from scivae.nb.distributions import NegativeBinomial

N_GENES, N_CELLS, N_CLASSES = 30, 16, 3


def minibatch(dtype=torch.float32, *, n_labeled=N_CELLS, continuous=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.rand(N_CELLS, N_GENES, generator=generator) * 3, generator=generator)
    if continuous:
        x = torch.rand(N_CELLS, N_GENES, generator=generator)
    labels = torch.arange(N_CELLS)[:, None] % N_CLASSES
    labels[n_labeled:] = N_CLASSES
    return {
        "X": x.to(dtype),
        "batch": torch.arange(N_CELLS)[:, None] % 2,
        "labels": labels,
    }


def module(**kwargs):
    torch.manual_seed(0)
    return CIVAEModule(N_GENES, n_classes=N_CLASSES, n_batch=2, n_labels=N_CLASSES, **kwargs)


def loss_and_gradients(network, tensors):
    torch.manual_seed(1)
    _, _, output = network(tensors, loss_kwargs={"kl_weight": 0.7})
    network.zero_grad()
    output.loss.backward()
    gradients = {k: p.grad for k, p in network.named_parameters() if p.grad is not None}
    return output, gradients


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("training", [True, False])
def test_without_discriminator_it_is_the_vae_of_scvi(likelihood, training):
    ours = module(gene_likelihood=likelihood, discriminator_weight=0.0).double()
    theirs = VAE(N_GENES, n_batch=2, n_labels=N_CLASSES, gene_likelihood=likelihood).double()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    ours.train(training), theirs.train(training)
    tensors = minibatch(torch.float64)
    output, gradients = loss_and_gradients(ours, tensors)
    expected, expected_gradients = loss_and_gradients(theirs, tensors)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-9, atol=1e-9)
    assert expected_gradients.keys() <= gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("warm_up", "beta"), [(False, 7.0), (True, 3.5)])
def test_loss_is_equation_3(warm_up, beta):
    tensors = minibatch(n_labeled=10)
    weights = [0.5, 1.0, 2.0]
    network = module(
        discriminator_weight=7.0,
        kl_weight=3.0,
        class_weights=weights,
        warm_up_discriminator=warm_up,
    ).eval()
    torch.manual_seed(1)
    inference, _, output = network(tensors, loss_kwargs={"kl_weight": 0.5})
    labels = tensors["labels"][:10].ravel()
    logits = network.discriminator(inference["z"])[:10]
    ce = (F.cross_entropy(logits, labels, reduction="none") * torch.tensor(weights)[labels]).sum()
    reconstruction = output.reconstruction_loss["reconstruction_loss"]
    elbo = (reconstruction + 0.5 * 3.0 * output.kl_local["kl_divergence_z"]).mean()
    torch.testing.assert_close(output.loss, elbo + beta * ce / N_CELLS)  # not / 10: see there
    torch.testing.assert_close(output.classification_loss, ce / 10)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_a_doubted_label_pulls_less(q):
    """The closed form, and its gradient: that of the cross-entropy times p^q."""
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    logits.requires_grad_()
    y = torch.arange(7) % 4
    p = logits.softmax(-1)[torch.arange(7), y]
    robust = robust_cross_entropy(logits, y, q)
    torch.testing.assert_close(robust, (1 - p**q) / q)
    plain = F.cross_entropy(logits, y, reduction="none")
    (slope,) = torch.autograd.grad(robust.sum(), logits, retain_graph=True)
    (plain_slope,) = torch.autograd.grad(plain.sum(), logits)
    torch.testing.assert_close(slope, plain_slope * p.detach()[:, None] ** q)
    without = robust_cross_entropy(logits, y, 0.0)
    torch.testing.assert_close(without, plain, rtol=1e-2, atol=1e-3)


def test_robustness_rises_with_the_warm_up():
    network = module(discriminator_weight=9.0, label_robustness=0.8)
    network.eval()
    tensors = minibatch()
    for reached in (0.0, 0.5, 1.0):
        torch.manual_seed(1)
        _, _, output = network(tensors, loss_kwargs={"kl_weight": reached})
        y = tensors["labels"].ravel()
        expected = robust_cross_entropy(output.logits, y, 0.8 * reached).mean()
        torch.testing.assert_close(output.classification_loss, expected)
        rest = (
            output.reconstruction_loss_sum / N_CELLS + reached * output.kl_local["kl_divergence_z"]
        )
        torch.testing.assert_close(output.loss, rest.mean() + 9.0 * reached * expected)


def test_unlabeled_cells_give_the_discriminator_no_gradient():
    network = module(discriminator_weight=5.0)
    _, gradients = loss_and_gradients(network, minibatch(n_labeled=0))
    assert not gradients["discriminator.weight"].any()
    assert gradients["z_encoder.mean_encoder.weight"].any()


def test_loss_of_several_samples():
    """Each term is the mean over the samples of z."""
    network, tensors = module(discriminator_weight=7.0).eval(), minibatch(n_labeled=10)
    inference, generative, output = network(tensors, inference_kwargs={"n_samples": 3})
    logits = network.discriminator(inference["z"])
    assert logits.shape == (3, N_CELLS, N_CLASSES)
    torch.testing.assert_close(output.logits, logits)
    labels = tensors["labels"][:10].ravel()
    parts = [F.cross_entropy(sample[:10], labels, reduction="sum") for sample in logits]
    reconstruction = -generative["px"].log_prob(tensors["X"]).sum(-1).mean()
    kl = torch.distributions.kl_divergence(inference["qz"], generative["pz"]).sum(-1).mean()
    expected = reconstruction + network.kl_weight * kl + 7.0 * sum(parts) / 3 / N_CELLS
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("likelihood", "log_prob"),
    [
        ("normal", lambda x, px: stats.norm.logpdf(x, px.loc, px.scale)),
        ("laplace", lambda x, px: stats.laplace.logpdf(x, px.loc, px.scale)),
        ("bernoulli", lambda x, px: x * np.log(px.probs) + (1 - x) * np.log1p(-px.probs)),
    ],
)
def test_continuous_likelihoods(likelihood, log_prob):
    network = module(gene_likelihood=likelihood, discriminator_weight=0.0).double().eval()
    tensors = minibatch(torch.float64, continuous=True)
    tensors["X"] = tensors["X"] - (0 if likelihood == "bernoulli" else 0.5)
    with torch.no_grad():
        _, generative, output = network(tensors)
    px = generative["px"]
    values = {k: np.asarray(getattr(px, k)) for k in px.arg_constraints if hasattr(px, k)}
    expected = -log_prob(tensors["X"].numpy(), type("px", (), values)).sum(axis=1)
    np.testing.assert_allclose(output.reconstruction_loss["reconstruction_loss"], expected)


def test_autoencoder_decodes_the_mean():
    network = module(sample_latent=False)
    inference, _, _ = network(minibatch())
    torch.testing.assert_close(inference["z"], inference["qz"].loc)


@pytest.mark.parametrize("size", [1.0, 1e-8])  # the second as small as what is added to logs
@pytest.mark.parametrize("shared", [True, False])
def test_negative_binomial_equals_scvi(shared, size):
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(8, 50, dtype=torch.float64).pow(4) * 20)
    mu = (torch.rand(8, 50, dtype=torch.float64).pow(6) * 30 * size).requires_grad_()
    theta = torch.randn((50,) if shared else (8, 50), dtype=torch.float64).exp() * size
    theta.requires_grad_()
    weight = torch.rand(8, 50, dtype=torch.float64)
    results = []
    for distribution in (NegativeBinomial(mu, theta, mu), SCVINegativeBinomial(mu=mu, theta=theta)):
        log_prob = distribution.log_prob(x)
        results.append((log_prob, *torch.autograd.grad((log_prob * weight).sum(), [mu, theta])))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_negative_binomial_gradient_by_differences():
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 3.0, 0.0], [1.0, 0.0, 9.0]], dtype=torch.float64)
    mu = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    theta = (torch.rand(3, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, t: NegativeBinomial(m, t, m).log_prob(x), (mu, theta))


def test_thinned_counts_are_binomial():
    torch.manual_seed(0)
    x = torch.full((20_000, 2), 10.0)
    x[:, 1] = 0
    thinned = thin(x, 0.6)
    assert (thinned <= x).all()
    assert (thinned == thinned.round()).all()
    # E[share] = 1 - 0.6 / 2 = 0.7; Var of the count = 10 E[p(1-p)] + 100 Var[p]
    assert thinned[:, 0].mean() == pytest.approx(7.0, abs=0.05)
    variance = 10 * (0.7 - (0.49 + 0.03)) + 100 * 0.03
    assert thinned[:, 0].var() == pytest.approx(variance, rel=0.05)


def test_labels_move_cells_with_a_share_of_their_weight():
    """The boundary's gradient is that of the cross-entropy, a cell's is scaled by its class."""
    z, labels = torch.randn(8, 4), torch.arange(8)[:, None] % (N_CLASSES + 1)
    found = []
    for pulls in (None, [0.5, 1.0, 0.0]):
        network = module(class_weights=[2.0, 1.0, 3.0], latent_grad_scale=pulls, n_latent=4)
        points = z.clone().requires_grad_()
        output = network._with_discriminator(
            points, labels, 1.0, loss=torch.zeros(()), reconstruction_loss=z[:, 0], kl_local=z[:, 0]
        )
        parts = [points, *network.discriminator.parameters()]
        found.append((output.loss.detach(), *torch.autograd.grad(output.loss, parts)))
    (loss, by_z, *by_boundary), (same_loss, less, *same) = found
    torch.testing.assert_close(same_loss, loss)
    torch.testing.assert_close(same, by_boundary)
    share = torch.tensor([0.5, 1.0, 0.0, 1.0])[labels]  # the last: unlabeled, not moved at all
    torch.testing.assert_close(less, share * by_z)
    assert (by_z[labels.ravel() < N_CLASSES].abs().sum(1) > 0).all()


def test_masking_loses_values_whole():
    torch.manual_seed(0)
    x = torch.full((4000, 30), -2.5)
    masked = mask(x, 0.6)
    assert set(masked.unique().tolist()) == {-2.5, 0.0}
    kept = (masked != 0).float().mean(1)  # the shares are uniform on [0.4, 1]
    assert kept.mean() == pytest.approx(0.7, abs=0.01)
    assert kept.var() == pytest.approx(0.6**2 / 12 + (0.7 - 0.49 - 0.03) / 30, rel=0.1)
    torch.testing.assert_close(mask(x, 0.0), x)


def test_thinning_keeps_the_library_of_the_whole_cell():
    network = module()
    tensors = minibatch()
    inputs = network._get_inference_input(tensors, thinning=0.9)
    assert inputs["x"].sum() < tensors["X"].sum()
    outputs = network.inference(**inputs)
    torch.testing.assert_close(outputs["library"], tensors["X"].sum(1, keepdim=True).log())


@pytest.mark.parametrize("shared", [True, False])
def test_negative_binomial_has_the_values_and_gradients_of_scvi_tools(shared):
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(8, 50) * 3)
    results = []
    for distribution in (NegativeBinomial, SCVINegativeBinomial):
        mu = (torch.rand(8, 50, generator=torch.Generator().manual_seed(1)) + 0.1).requires_grad_()
        theta = torch.rand(50, generator=torch.Generator().manual_seed(2)) + 0.1
        theta = (theta if shared else theta.expand(8, 50).contiguous()).requires_grad_()
        log_prob = distribution(mu=mu, theta=theta, scale=mu).log_prob(x)
        weight = torch.linspace(0.5, 2, 50)
        results.append((log_prob, *torch.autograd.grad((log_prob * weight).sum(), (mu, theta))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_scales_of_continuous_values_have_a_floor_and_nan_is_left_to_the_training():
    loc = torch.zeros(3)
    for name in ("normal", "laplace"):
        narrow = LIKELIHOODS[name].distribution(Normal(loc, torch.tensor([1e-5, 0.02, 3.0])))
        torch.testing.assert_close(narrow.scale, torch.tensor([0.01, 0.02, 3.0]))
    broken = Normal(loc * torch.nan, loc + 1, validate_args=False)
    for name in CONTINUOUS_LIKELIHOODS:
        assert LIKELIHOODS[name].distribution(broken).log_prob(loc).isnan().all()
    NegativeBinomial(loc[None] * torch.nan, loc + 1, loc[None])


def test_means_are_confined_only_on_demand():
    z, library = torch.randn(5, 2) * 100, torch.ones(5, 1)
    torch.manual_seed(0)
    free, confined = ContinuousDecoder(2, 40).eval(), ContinuousDecoder(2, 40, sigmoid=True).eval()
    assert free("gene", z, library)[0].min() < 0
    mean = confined("gene", z, library)[2]
    assert ((mean >= 0) & (mean <= 1)).all()
    # a library is no part of it
    torch.testing.assert_close(confined("gene", z, 9 * library)[2], mean)


def test_without_warmup_the_kl_term_has_its_full_weight():
    network = module(kl_weight=3.0).eval()
    tensors = minibatch()
    torch.manual_seed(1)
    inference, generative, output = network(tensors, loss_kwargs={"kl_weight": 1.0})
    assert network.loss(tensors, inference, generative).loss == output.loss
