"""The last layer of the decoder and the negative binomial on a CPU, in single precision.

It gives the results of :mod:`.loss`, calculated one cell at a time from its nonzero counts, so that the values
of a cell stay in the processor's first-level cache. Matrix products take the rest of the time of a step.

The gradient is calculated together with the value, with the same weight for every cell, as in a mean over
cells. If the backward pass asks for different weights, the gradient is calculated again.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .counts import SparseCounts
from .distributions import EPS
from .kernels import TABLED, fill_tables, load, score
from .products import add_product, times
from .workers import in_threads

# Number of logits that are processed between two matrix products: one megabyte.
CHUNK_VALUES = 2**18
# Smallest number of cells per matrix product.
FEWEST_CELLS = 64


class Gradient(NamedTuple):
    """Gradients of the sum of log-probabilities."""

    hidden: torch.Tensor  # (n_obs, n_hidden)
    weight: torch.Tensor  # (n_vars, n_hidden)
    bias: torch.Tensor  # (n_vars,)
    theta: torch.Tensor  # (n_groups, n_vars)

    def scale(self, factor: torch.Tensor) -> None:
        """Multiply all gradients by a number."""
        for gradient in self:
            gradient.mul_(factor)


class Last(NamedTuple):
    """The last layer and the inverse dispersions."""

    weight: torch.Tensor  # (n_vars, n_hidden)
    bias: torch.Tensor  # (n_vars,)
    theta: torch.Tensor  # (n_groups, n_vars)


def gamma_tables(
    rows: SparseCounts, theta: torch.Tensor, groups: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Gamma functions of counts and inverse dispersions, from tables.

    Small counts are looked up in a table, as Γ(k + θ) / Γ(θ) = θ (θ + 1) … (θ + k - 1).

    Parameters
    ----------
    rows
        The counts.
    theta
        Inverse dispersions, shape ``(n_groups, n_vars)``.
    groups
        Row of ``theta`` of each cell, shape ``(n_obs,)``.

    Returns
    -------
    ``lgamma(k + theta) - lgamma(theta) - lgamma(k + 1)`` and its gradient with respect to theta: tables by group,
    small count and gene, ``(n_groups, TABLED + 1, n_vars)``, then values for each large count, ``(n_large,)``.
    """
    load()
    logs = theta.new_zeros(len(theta), TABLED + 1, theta.shape[1])
    slopes = torch.zeros_like(logs)
    logs[:, 1], slopes[:, 1] = theta.log(), theta.reciprocal()
    fill_tables(theta.numpy(), logs.numpy(), slopes.numpy())
    k = rows.counts.index_select(0, rows.large)
    group, gene = groups[rows.cells.index_select(0, rows.large)], rows.columns[rows.large]
    shape = theta[group, gene]
    return (
        logs,
        slopes,
        torch.lgamma(k + shape) - torch.lgamma(shape) - torch.lgamma(k + 1),
        torch.digamma(k + shape) - torch.digamma(shape),
    )


def _part(
    hidden: torch.Tensor,
    rows: SparseCounts,
    by_cell: torch.Tensor,
    groups: torch.Tensor,
    last: Last,
    keep: bool,
) -> tuple[torch.Tensor, Gradient | None]:
    """Log-probability of each cell and, with ``keep``, the gradient of their weighted sum."""
    weight, bias, theta = last
    n_obs, n_vars = rows.n_obs, len(bias)
    inverse = (theta + EPS).reciprocal()
    log_prob, by_bias = theta.new_zeros(n_obs), theta.new_zeros(n_vars)
    by_theta = theta.new_zeros(theta.shape)
    by_weight, by_hidden = None, torch.empty_like(hidden)
    size = min(n_obs, max(CHUNK_VALUES // n_vars, FEWEST_CELLS))
    starts, libraries = rows.bounds.numpy(), rows.totals.numpy()[:, 0]
    group_of = groups.numpy()
    counts, gammas, of_genes, sums = (
        [t.numpy() for t in these]
        for these in (
            (rows.columns, rows.counts),
            gamma_tables(rows, theta, groups),
            (theta, inverse),
            (by_theta, by_bias),
        )
    )
    n_large = 0
    for first in range(0, n_obs, size):
        part = slice(first, min(first + size, n_obs))
        logits = times(hidden[part], weight.t(), bias)
        n_large = score(
            logits.numpy(),
            logits.amax(1).numpy(),
            starts[first : part.stop + 1],
            *counts,
            libraries[part],
            group_of[part],
            *gammas,
            n_large,
            *of_genes,
            by_cell[part].numpy(),
            log_prob[part].numpy(),
            *sums,
        )
        if keep:
            gradient = logits.to(weight.dtype)  # ``score`` has replaced the logits
            by_weight = add_product(by_weight, gradient.t(), hidden[part].to(weight.dtype))
            by_hidden[part] = times(gradient, weight)
    if by_weight is None:  # without ``keep``
        return log_prob, None
    in_groups = by_cell.sum()[None]
    if len(theta) > 1:
        in_groups = theta.new_zeros(len(theta)).index_add_(0, groups, by_cell)
    by_theta += in_groups[:, None] * theta * inverse
    return log_prob, Gradient(by_hidden, by_weight, by_bias, by_theta)


def score_all(
    hidden: torch.Tensor,
    rows: SparseCounts,
    by_cell: torch.Tensor,
    groups: torch.Tensor,
    last: Last,
    keep: bool,
) -> tuple[torch.Tensor, Gradient | None]:
    """:func:`_part` for all cells, divided between the threads of the worker pool."""
    chunks = rows.chunks
    sizes = [part.n_obs for part in chunks]
    score_part = partial(_part, last=last, keep=keep)
    of_cells = (by_cell.split(sizes), groups.split(sizes))
    found = in_threads(score_part, hidden.split(sizes), chunks, *of_cells)
    log_prob = torch.cat([of_part for of_part, _ in found])
    if not keep:
        return log_prob, None
    by_hidden, *others = zip(*(gradient for _, gradient in found), strict=True)
    sums = (sum(values[1:], values[0]) for values in others)
    return log_prob, Gradient(torch.cat(by_hidden), *sums)


class CompiledLoss(torch.autograd.Function):
    """Negative log-probability of each cell, shape ``(n_obs,)``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (n_obs, n_hidden)
        weight: torch.Tensor,  # (n_vars, n_hidden)
        bias: torch.Tensor,  # (n_vars,)
        log_theta: torch.Tensor,  # (n_groups, n_vars)
        groups: torch.Tensor,  # (n_obs,)
        rows: SparseCounts,
        products: torch.dtype | None,
        keep: bool,  # whether a gradient will be needed
    ) -> torch.Tensor:
        """Negative log-probability of each cell."""
        theta = log_theta.exp().contiguous()
        last = Last(weight.to(products or weight.dtype), bias, theta)
        equal = -torch.ones_like(rows.totals[:, 0])
        log_prob, ctx.gradient = score_all(hidden, rows, equal, groups, last, keep)
        if keep:
            ctx.save_for_backward(hidden, groups, *last)
            ctx.rows = rows
        return log_prob.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        """Gradients with respect to hidden units, weights, biases and inverse dispersions."""
        hidden, groups, *last = ctx.saved_tensors
        last = Last(*last)
        gradient, rows = ctx.gradient, ctx.rows
        ctx.gradient = ctx.rows = None  # free the memory now
        factor = grad[0]
        if not (grad == factor).all():  # equal in a mean over cells
            factor = grad.new_ones(())
            gradient = score_all(hidden, rows, -grad.contiguous(), groups, last, True)[1]
        gradient.scale(factor)
        return *gradient[:3], gradient.theta * last.theta, None, None, None, None
