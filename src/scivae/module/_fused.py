"""The last layer of the decoder and the negative binomial in one, with their gradient.

The mean of gene g is library · softmax(logits)_g. Value and gradient with regard to the logits need one
exponential and one logarithm a gene; gamma functions are needed only where a count is not zero. Both are
worked out together while the numbers are in the cache, so that the backward pass only scales them.
Cells do not need each other for this: each of several threads takes its share of the minibatch.

Here are torch's operations, for any device and precision; :mod:`._compiled` has the same for single
precision on a CPU.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ._compiled import CompiledLoss, times
from ._gammas import Gammas
from ._negative_binomial import EPS
from ._rows import Rows
from ._threads import in_threads

LOG2_E = 1 / math.log(2)


class _Part(NamedTuple):
    """What the backward pass needs of some of the cells."""

    hidden: torch.Tensor  # (n, n_hidden)
    slope: torch.Tensor  # of each cell's log-probability by the logits, (n, n_vars)
    log_ratio: torch.Tensor  # log of what follows, (n, n_vars)
    ratio: torch.Tensor  # theta / (theta + mean), (n, n_vars)
    by_theta: torch.Tensor  # what the nonzero counts add to the slope by theta, (nnz,)
    rows: Rows


def _score(
    hidden: torch.Tensor,
    rows: Rows,
    weight: torch.Tensor,
    bias: torch.Tensor,
    theta: torch.Tensor,
    keep: bool,
) -> tuple[torch.Tensor, _Part | None]:
    """Log-probability of each cell, and what its gradient needs if that is to be kept."""
    counts, flat, library = rows.counts, rows.flat, rows.totals
    logits = times(hidden, weight.t(), bias)  # (n, n_vars)
    # to the base of two: torch works that out in a third of the time
    mu = logits.sub_(logits.amax(1, keepdim=True)).mul_(LOG2_E).exp2_()
    mu *= library / mu.sum(1, keepdim=True)
    total = mu + (theta + EPS)
    means, totals = mu.view(-1).index_select(0, flat), total.view(-1).index_select(0, flat)
    ratio = torch.div(theta + EPS, total, out=total)  # total is not needed any more
    log_ratio = ratio.log()
    gammas = Gammas(rows, theta)
    # the first part is of all counts, the second of those that are not zero
    log_prob = log_ratio @ theta
    log_prob += rows.sum(counts * ((means + EPS) / totals).log_() + gammas.log())
    if not keep:
        return log_prob, None
    ratio *= theta / (theta + EPS)
    over_total = counts / totals
    # mu · d log_prob / d mu, and from it that by the logits
    slope = (mu * ratio).neg_()
    slope.view(-1).scatter_add_(0, flat, means * (counts / (means + EPS) - over_total))
    # an empty cell has neither mean nor slope: 0 / EPS
    slope -= mu.mul_(slope.sum(1, keepdim=True) / library.clamp(min=EPS))
    return log_prob, _Part(hidden, slope, log_ratio, ratio, gammas.slope() - over_total, rows)


def _slopes(
    part: _Part, by_cell: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by hidden units, weights, bias and theta, given that by each log-probability."""
    slope, rows = part.slope * by_cell[:, None], part.rows
    by_theta = by_cell @ part.log_ratio - by_cell @ part.ratio
    by_theta.index_add_(0, rows.columns, part.by_theta * by_cell.index_select(0, rows.cells))
    by_weight = times(slope.t(), part.hidden.to(weight.dtype))
    return times(slope, weight), by_weight, slope.sum(0), by_theta


class _Loss(torch.autograd.Function):
    """Negative log-probability of each cell, shape ``(n_obs,)``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (n_obs, n_hidden)
        weight: torch.Tensor,  # (n_vars, n_hidden)
        bias: torch.Tensor,  # (n_vars,)
        log_theta: torch.Tensor,  # (n_vars,)
        rows: Rows,
        products: torch.dtype | None,
    ) -> torch.Tensor:
        weight = weight.to(products or weight.dtype)
        keep, shares = any(ctx.needs_input_grad), rows.shares
        theta = log_theta.exp()
        found = in_threads(
            lambda cells, part: _score(cells, part, weight, bias, theta, keep),
            hidden.split([part.n_obs for part in shares]),
            shares,
        )
        if keep:
            ctx.parts = [part for _, part in found]
            ctx.save_for_backward(weight, theta)
        return torch.cat([log_prob for log_prob, _ in found]).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        weight, theta = ctx.saved_tensors
        parts, ctx.parts = ctx.parts, None  # not to be kept for as long as the loss is
        by_cell = (-grad).split([part.rows.n_obs for part in parts])
        found = in_threads(lambda part, cells: _slopes(part, cells, weight), parts, by_cell)
        hidden, *others = zip(*found, strict=True)
        by_weight, by_bias, by_theta = (sum(values[1:], values[0]) for values in others)
        by_theta -= grad.sum() * theta / (theta + EPS)
        return torch.cat(hidden), by_weight, by_bias, by_theta * theta, None, None


def negative_binomial_loss(
    hidden: torch.Tensor,
    layer: torch.nn.Linear,
    log_theta: torch.Tensor,
    rows: Rows,
    products: torch.dtype | None = None,
) -> torch.Tensor:
    """Negative log-probability of cells whose means are library · softmax(layer(hidden)).

    The numbers are those of :class:`scvi.distributions.NegativeBinomial`.

    Parameters
    ----------
    hidden
        Last hidden units of the decoder, shape ``(n_obs, n_hidden)``.
    layer
        Makes of them the logits of the shares of the genes, ``n_vars`` a cell.
    log_theta
        Logarithms of the inverse dispersions, shape ``(n_vars,)``.
    rows
        The counts; their sums are the libraries.
    products
        Precision in which the layer is multiplied, forwards and backwards; ``None`` for its own. All
        else is in the precision of ``hidden``.

    Returns
    -------
    One number a cell, summed over genes, shape ``(n_obs,)``.
    """
    compiled = hidden.dtype == rows.counts.dtype == torch.float32 and hidden.is_cpu
    loss = CompiledLoss if compiled else _Loss
    return loss.apply(hidden, layer.weight, layer.bias, log_theta, rows, products)
