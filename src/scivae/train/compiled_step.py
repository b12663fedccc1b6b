"""Training steps of the default network on a CPU, calculated in compiled loops.

With autograd, a step is some two hundred small operations. At 128 cells, starting them takes a third of its time.
Here, the loops of :mod:`scivae.nb.hidden`, those of :mod:`scivae.nb.adam` and five products over genes calculate the same. Results are equal to
rounding, and random numbers are drawn in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import nn

from .._scvi import count_step, is_watched
from ..module import LEAST_ROBUSTNESS, CIVAEModule, covariate_inputs, mixed_precision
from ..nb import adam, hidden
from ..nb.compiled import Last, score_all
from ..nb.counts import SparseCounts
from .device import why_seen
from .engines import is_ddp
from .terms import Terms

# The parts of a layer.
_BLOCK = [nn.Linear, nn.BatchNorm1d, type(None), nn.ReLU]


class Values(NamedTuple):
    """The weights that are trained, or their gradients."""

    first: torch.Tensor  # (n_hidden, n_vars), stored by input
    first_bias: torch.Tensor
    encoder_weight: torch.Tensor  # of the batch normalization
    encoder_bias: torch.Tensor
    mean: torch.Tensor  # (n_latent, n_hidden)
    mean_bias: torch.Tensor
    log: torch.Tensor
    log_bias: torch.Tensor
    decoder: torch.Tensor  # (n_hidden, n_latent + covariates)
    decoder_bias: torch.Tensor
    decoder_norm_weight: torch.Tensor
    decoder_norm_bias: torch.Tensor
    classifier: torch.Tensor  # (n_classes, n_latent)
    classifier_bias: torch.Tensor
    last: torch.Tensor  # (n_vars, n_hidden)
    last_bias: torch.Tensor
    log_theta: torch.Tensor

    @classmethod
    def of(cls, module: CIVAEModule) -> Values:
        """The parameters of a network."""
        (encoder,), (decoder,) = _blocks(module)
        mean, variance, discriminator, last = _linear(module)
        layers = (*encoder[:2], mean, variance, *decoder[:2], discriminator, last)
        weights = [w for layer in layers for w in (layer.weight, layer.bias)]
        weights.append(module.px_r)
        return cls(*weights)

    def between(self, encoder: Any, decoder: Any) -> hidden.Layers:
        """Those between the first layer and the last one, with the statistics of both normalizations."""
        a = [value.numpy() for value in self[1:12]]

        def normalization(weight: np.ndarray, bias: np.ndarray, norm: Any):
            statistics = norm.running_mean.numpy(), norm.running_var.numpy()
            return hidden.Normalization(weight, bias, *statistics)

        return hidden.Layers(
            a[0],
            normalization(a[1], a[2], encoder),
            hidden.Heads(*a[3:7]),
            a[7],
            a[8],
            normalization(a[9], a[10], decoder),
        )


class Prepared(NamedTuple):
    """A minibatch, with all that does not depend on weights."""

    rows: SparseCounts
    values: torch.Tensor  # (nnz,), what the first layer reads
    by_gene: torch.Tensor  # the same, gene after gene
    kept: np.ndarray  # (n_obs, n_hidden), factors of the dropout; empty without it
    noise: np.ndarray  # (n_obs, n_latent)


class CompiledStep:
    """Steps on the minibatches of one batch of a loader.

    Parameters
    ----------
    plan
        The training plan, for which :func:`can_compile` is true.
    batch
        The minibatches that the loader yielded at once.
    """

    def __init__(self, plan: Any, batch: dict[str, torch.Tensor]):
        module = plan.module
        self.plan, self.module, self.optimizer = plan, module, plan.optimizers()
        (encoder,), (decoder,) = _blocks(module)
        self.norms, self.dropout = (encoder[1], decoder[1]), encoder[4]
        self.weights = Values.of(module)
        self.values = Values(*(w.detach() for w in self.weights))
        self.grads = Values(*map(torch.empty_like, self.values))
        self.layers, self.by_layers = (v.between(*self.norms) for v in (self.values, self.grads))
        self.flat = tuple(map(_flat, self.values))
        both = (self.values, self.grads)
        self.classifier = [a.numpy() for v in both for a in (v.classifier, v.classifier_bias)]
        self.of_classes = [a.numpy() for a in (module.class_weights, module.latent_grad_scale)]
        state = [_moments(self.optimizer, w) for w in self.weights]
        self.counts = [s["step"] for s in state]  # steps that the optimizer has taken
        self.moments = [tuple(_flat(s[k]) for s in state) for k in ("exp_avg", "exp_avg_sq")]
        self.labels = batch[REGISTRY_KEYS.LABELS_KEY].long().ravel()
        covariates, _ = covariate_inputs(batch, module.decoder.px_decoder.n_cat_list, module.px_r)
        none = np.empty((len(self.labels), 0), np.float32)
        self.covariates = none if covariates is None else covariates.numpy()

    def prepare(self, rows: SparseCounts, thinning: float, seed: int, n_chunks: int) -> Prepared:
        """Thin the counts of a minibatch, and draw the random numbers of the network, as it draws them."""
        rows.prepare(thinning, seed, n_chunks)
        values = rows.encoded(self.module.log_variational)
        n_latent, n_hidden = self.weights.mean.shape
        kept = np.empty((0, 0), np.float32)
        if self.dropout is not None and self.dropout.p:
            keep = 1 - self.dropout.p
            kept = torch.empty(rows.n_obs, n_hidden).bernoulli_(keep).div_(keep).numpy()
        draw = torch.randn if self.module.sample_latent else torch.zeros
        noise = draw(rows.n_obs, n_latent).numpy()
        return Prepared(rows, values, rows.in_gene_order(values), kept, noise)

    def take_all(self, minibatches: Iterator[Prepared]) -> list[Terms]:
        """Take a step on each minibatch. A loss is that of the weights before its step."""
        hidden.load()
        adam.load()
        products = mixed_precision("cpu")
        found: list[Terms] = []
        start, before = 0, int(self.counts[0])
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            try:
                for cells in minibatches:
                    part = slice(start, start := start + cells.rows.n_obs)
                    terms = self._gradients(
                        cells, self.labels[part], self.covariates[part], products
                    )
                    if not math.isfinite(terms.loss.item()):
                        self.plan.check_loss(terms.output())
                    if self.plan.trainer.world_size > 1:
                        self._share()
                    self._update(before + len(found) + 1)
                    found.append(terms)
                    count_step(self.optimizer)
            finally:  # what others read: steps, and the last gradients
                for norm in self.norms:
                    norm.num_batches_tracked += len(found)
                for count in self.counts:
                    count.fill_(before + len(found))
                for weight, grad in zip(self.weights, self.grads, strict=True):
                    weight.grad = grad
        return found

    def _gradients(
        self,
        cells: Prepared,
        labels: torch.Tensor,
        covariates: np.ndarray,
        products: torch.dtype | None,
    ) -> Terms:
        """The loss of a minibatch; its gradients are in ``grads``."""
        module, rows, values = self.module, cells.rows, self.values
        norm, least = self.norms[0], np.float32(module.z_encoder.var_eps)
        kl_weight = float(self.plan.loss_kwargs["kl_weight"])
        alpha = np.float32(kl_weight * module.kl_weight)
        beta = np.float32(module.discriminator_weight_at(kl_weight))
        q = module.label_robustness
        first = rows.times(cells.values, values.first.t()).numpy()
        encoder, latent, decoder = hidden.forward(
            first,
            cells.kept,
            cells.noise,
            covariates,
            self.layers,
            np.float32(norm.momentum),
            np.float32(norm.eps),
            least,
        )
        logits, penalty, by_z, n_labeled = hidden.classify(
            latent.z,
            *self.classifier[:2],
            labels.numpy(),
            *self.of_classes,
            beta,
            np.float32(max(q * kl_weight, LEAST_ROBUSTNESS) if q else 0),
            *self.classifier[2:],
        )
        theta = values.log_theta.exp()[None]
        last = Last(values.last.to(products or values.last.dtype), values.last_bias, theta)
        by_cell = torch.full((rows.n_obs,), -1 / rows.n_obs)
        groups = torch.zeros(rows.n_obs, dtype=torch.long)
        units = torch.from_numpy(decoder.units)
        gradient: Any
        log_prob, gradient = score_all(units, rows, by_cell, groups, last, True)
        by_units = hidden.backward(
            gradient.hidden.numpy(),
            by_z,
            cells.kept,
            covariates,
            encoder,
            latent,
            decoder,
            self.layers,
            self.by_layers,
            alpha,
            least,
        )
        by_first = rows.transpose_times(cells.by_gene, torch.from_numpy(by_units))
        self.grads = self.grads._replace(
            first=by_first.t(),
            last=gradient.weight,
            last_bias=gradient.bias,
            log_theta=(gradient.theta * theta)[0],
        )
        reconstruction, kl, penalties = (
            log_prob.neg_(),
            *map(torch.from_numpy, (latent.kl, penalty)),
        )
        return Terms(
            (reconstruction + float(alpha) * kl).mean() + float(beta) * penalties.mean(),
            reconstruction,
            kl,
            penalties.sum() / max(n_labeled, 1),
            torch.from_numpy(logits),
            labels,
        )

    def _share(self) -> None:
        """Average the gradients over the processes that train together."""
        flat = [torch.from_numpy(_flat(grad)) for grad in self.grads]
        shared = torch.cat(flat)
        torch.distributed.all_reduce(shared)
        shared /= self.plan.trainer.world_size
        for grad, mean in zip(flat, shared.split([len(g) for g in flat]), strict=True):
            grad.copy_(mean)

    def _update(self, step: int) -> None:
        """The given step of Adam, with the gradients in ``grads``."""
        group = self.optimizer.param_groups[0]
        adam.adam(
            self.flat,
            tuple(map(_flat, self.grads)),
            *self.moments,
            step,
            float(group["lr"]),
            tuple(map(float, group["betas"])),
            float(group["weight_decay"]),
            bool(group["decoupled_weight_decay"]),
            float(group["eps"]),
        )


def can_compile(plan: Any, n_obs: int) -> bool:
    """Whether a training plan can take its next steps as :class:`CompiledStep`.

    The network has to be the default one, on a CPU, with all weights trained by Adam or AdamW, and nothing may
    watch a step.

    Parameters
    ----------
    plan
        The training plan.
    n_obs
        Cells that the loader yielded.
    """
    module = plan.module
    if (
        not plan.training
        or plan.automatic_optimization
        or type(module) is not CIVAEModule
        or plan.device.type != "cpu"
        or n_obs % plan.minibatch_size == 1  # batch normalization refuses a single cell
        or not module.supports_fused_nb
        or module.dispersion != "gene"
        or module.encode_covariates
        or module.z_encoder.var_activation is not torch.exp
        or any(type(layer) is not nn.Linear for layer in _linear(module))
        or not _is_default(*_blocks(module))
        or why_seen(plan.trainer) is not None
        or not (plan.trainer.world_size == 1 or is_ddp(plan.trainer.strategy))
    ):
        return False
    optimizer = plan.optimizers().optimizer
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return False
    if is_watched(module, optimizer):
        return False
    if len(optimizer.param_groups) != 1 or any(
        optimizer.param_groups[0][name] for name in ("amsgrad", "maximize", "differentiable")
    ):
        return False
    weights = Values.of(module)
    given = set(map(id, optimizer.param_groups[0]["params"]))
    return (
        all(
            w is not None
            and id(w) in given
            and w.dtype == torch.float32
            and w.requires_grad
            and (w.t() if w is weights.first else w).is_contiguous()
            and all(v.stride() == w.stride() for k, v in optimizer.state[w].items() if k != "step")
            for w in weights
        )
        and len(set(map(id, weights))) == len(weights)  # none is used twice
        # as many steps so far: a weight that was frozen has fewer
        and len({float(optimizer.state[w].get("step", 0)) for w in weights}) == 1
    )


def _moments(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The moments that Adam keeps of a weight. As in Adam itself, they begin with zeros."""
    state = optimizer.state[weight]
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(weight) for _ in range(2))
    return state


def _blocks(module: CIVAEModule) -> tuple[list[Any], list[Any]]:
    """The layers of the encoder and of the decoder."""
    return list(module.z_encoder.encoder.fc_layers), list(module.decoder.px_decoder.fc_layers)


def _linear(module: CIVAEModule) -> tuple[nn.Module, ...]:
    """The heads of the encoder, the discriminator, and the last layer of the decoder."""
    heads = module.z_encoder.mean_encoder, module.z_encoder.var_encoder
    return *heads, module.discriminator, module.decoder.px_scale_decoder[0]


def _is_default(encoder: list[Any], decoder: list[Any]) -> bool:
    """Whether there is one layer each, with batch normalization that is trained, and ReLU."""
    if len(encoder) != 1 or len(decoder) != 1:
        return False
    (one,), (other,) = encoder, decoder
    if [*map(type, one[:4])] != _BLOCK or [*map(type, other[:4])] != _BLOCK:
        return False
    dropout, norms = one[4], (one[1], other[1])
    return (
        (dropout is None or (type(dropout) is nn.Dropout and dropout.p < 1 and dropout.training))
        and other[4] is None
        and all(
            norm.training and norm.affine and norm.track_running_stats and norm.momentum
            for norm in norms
        )
        and len({(norm.momentum, norm.eps) for norm in norms}) == 1
    )


def _flat(values: torch.Tensor) -> np.ndarray:
    """The memory of a tensor, ``(n,)``."""
    return (values if values.is_contiguous() else values.t()).view(-1).numpy()
