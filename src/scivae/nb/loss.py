"""The last layer of the decoder and the negative binomial in one operation, with its gradient.

The mean of gene g is library · softmax(logits)_g. The backend in this file calculates values and gradients
together from a dense matrix of counts, with torch operations that every device and precision supports and a CUDA
graph can record. In single precision, two other backends give the same results faster: :mod:`.compiled` on a
CPU, from nonzero counts, and :mod:`.on_gpu` on a GPU on which Triton works.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .compiled import CompiledLoss
from .counts import DenseCounts, SparseCounts
from .distributions import EPS
from .on_gpu import TritonLoss, usable
from .products import times


def score(
    logits: torch.Tensor, counts: torch.Tensor, theta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each cell, and its gradients.

    Parameters
    ----------
    logits, counts
        Shape ``(n_obs, n_vars)``.
    theta
        Inverse dispersions, shape ``(n_vars,)`` or ``(n_obs, n_vars)``.

    Returns
    -------
    The log-probabilities ``(n_obs,)``, and their gradients by logits and by theta, both ``(n_obs, n_vars)``.
    """
    library = counts.sum(1, keepdim=True)
    mean = logits.softmax(1) * library
    total, more = mean + (theta + EPS), counts + theta
    near, over_total = mean + EPS, more / total
    log_ratio = ((theta + EPS) / total).log()
    gammas = torch.lgamma(more) - torch.lgamma(theta) - torch.lgamma(counts + 1)
    log_prob = torch.addcmul(gammas, theta, log_ratio) + torch.xlogy(counts, near / total)
    gradient = mean * (counts / near - over_total)  # by the logarithms of the means
    # an empty cell has neither mean nor gradient: 0 / EPS
    surplus = gradient.sum(1, keepdim=True) / library.clamp(min=EPS)
    by_logits = torch.addcmul(gradient, mean, surplus, value=-1)
    digammas = torch.digamma(more) - torch.digamma(theta)
    by_theta = log_ratio + (theta / (theta + EPS)) - over_total + digammas
    return log_prob.sum(1), by_logits, by_theta


class DenseLoss(torch.autograd.Function):
    """Negative log-probability of each cell, shape ``(n_obs,)``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (n_obs, n_hidden)
        weight: torch.Tensor,  # (n_vars, n_hidden)
        bias: torch.Tensor,  # (n_vars,)
        log_theta: torch.Tensor,  # (n_groups, n_vars)
        groups: torch.Tensor,  # (n_obs,)
        counts: torch.Tensor,  # (n_obs, n_vars)
        products: torch.dtype | None,
        keep: bool,  # whether a gradient will be needed
    ) -> torch.Tensor:
        """Negative log-probability of each cell."""
        weight, theta = weight.to(products or weight.dtype), log_theta.exp()
        of_cells = theta if len(theta) == 1 else theta[groups]
        log_prob, *gradients = score(times(hidden, weight.t(), bias), counts, of_cells)
        if keep:
            ctx.save_for_backward(hidden, weight, theta, groups, *gradients)
        return log_prob.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        """Gradients with respect to hidden units, weights, biases and inverse dispersions."""
        hidden, weight, theta, groups, by_logits, by_theta = ctx.saved_tensors
        by_cell = -grad
        in_groups = by_cell[None]
        if len(theta) > 1:  # a product, whose sums are in the same order each time
            in_groups = F.one_hot(groups, len(theta)).to(by_cell).t() * by_cell
        # Cells are weighted where there is least of them: before the product, or after it.
        weighted = (hidden * by_cell[:, None]).to(weight.dtype)
        return (
            times(by_logits, weight) * by_cell[:, None],
            times(by_logits.t(), weighted),
            by_cell @ by_logits,
            (in_groups @ by_theta) * theta,
            None,
            None,
            None,
            None,
        )


def negative_binomial_loss(
    hidden: torch.Tensor,
    layer: torch.nn.Linear,
    log_theta: torch.Tensor,
    cells: SparseCounts | DenseCounts,
    products: torch.dtype | None = None,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Negative log-probability of cells whose means are library · softmax(layer(hidden)).

    The results are those of :class:`scvi.distributions.NegativeBinomial`.

    Parameters
    ----------
    hidden
        Last hidden units of the decoder, shape ``(n_obs, n_hidden)``.
    layer
        Linear layer that maps them to ``n_vars`` logits per cell.
    log_theta
        Logarithms of the inverse dispersions, shape ``(n_vars,)``, or ``(n_groups, n_vars)`` with ``groups``.
    cells
        The counts; their sums are the libraries.
    products
        Precision of the products with the layer, forward and backward; ``None`` for that of the layer.
        Everything else is in the precision of ``hidden``.
    groups
        The row of ``log_theta`` of each cell, integers of shape ``(n_obs,)``.

    Returns
    -------
    Sum over genes for each cell, shape ``(n_obs,)``.
    """
    if groups is None:
        log_theta, groups = log_theta[None], hidden.new_zeros(len(hidden), dtype=torch.long)
    last = layer.weight, layer.bias, log_theta, groups
    keep = torch.is_grad_enabled()  # which cannot be asked inside
    if isinstance(cells, SparseCounts) and hidden.dtype == cells.counts.dtype == torch.float32:
        return CompiledLoss.apply(hidden, *last, cells, products, keep)
    values = cells.dense(cells.counts) if isinstance(cells, SparseCounts) else cells.counts
    if hidden.dtype == torch.float32 and usable(hidden.device):
        return TritonLoss.apply(hidden, *last, values, products, keep)
    return DenseLoss.apply(hidden, *last, values.to(hidden.dtype), products, keep)
