"""The negative binomial straight from the decoder's logits, with its gradient, in one pass.

The mean of gene g is library · softmax(logits)_g. Value and gradient with regard to the logits need one
exponential and one logarithm a gene; gamma functions are needed only where a count is not zero. Both are
worked out together while the numbers are in the cache, so that the backward pass only scales them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ._negative_binomial import EPS
from ._rows import TABLED, Rows


class _Gammas:
    """What gamma functions of counts and inverse dispersions come to at the nonzero counts.

    Small counts are looked up in a table, as Γ(k + θ) / Γ(θ) = θ (θ + 1) … (θ + k - 1).

    Parameters
    ----------
    rows
        The counts.
    theta
        Inverse dispersions, shape ``(n_vars,)``.
    """

    def __init__(self, rows: Rows, theta: torch.Tensor):
        self.small, self.at, self.large = rows.places
        self.large_counts = rows.counts.index_select(0, self.large)
        self.large_theta = theta.index_select(0, rows.columns.index_select(0, self.large))
        steps = torch.arange(TABLED, dtype=theta.dtype, device=theta.device)
        self.terms = theta + steps[:, None]  # (TABLED, n_vars)
        self.log_factorials = torch.lgamma(
            torch.arange(1, TABLED + 2, dtype=theta.dtype, device=theta.device)
        )

    def _look_up(self, terms: torch.Tensor) -> torch.Tensor:
        table = terms.new_zeros(TABLED + 1, terms.shape[1])
        torch.cumsum(terms, 0, out=table[1:])
        return table.view(-1).index_select(0, self.at)

    def log(self) -> torch.Tensor:
        """lgamma(k + theta) - lgamma(theta) - lgamma(k + 1), shape ``(nnz,)``."""
        found = self._look_up(self.terms.log()) - self.log_factorials.index_select(0, self.small)
        k, theta = self.large_counts, self.large_theta
        exact = torch.lgamma(k + theta) - torch.lgamma(theta) - torch.lgamma(k + 1)
        return found.index_copy_(0, self.large, exact)

    def slope(self) -> torch.Tensor:
        """digamma(k + theta) - digamma(theta), shape ``(nnz,)``."""
        exact = torch.digamma(self.large_counts + self.large_theta)
        exact -= torch.digamma(self.large_theta)
        return self._look_up(self.terms.reciprocal()).index_copy_(0, self.large, exact)


class _Loss(torch.autograd.Function):
    """Negative log-probability of each cell, shape ``(n_obs,)``."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,  # (n_obs, n_vars)
        log_theta: torch.Tensor,  # (n_vars,)
        library: torch.Tensor,  # (n_obs, 1)
        rows: Rows,
    ) -> torch.Tensor:
        theta, counts, flat = log_theta.exp(), rows.counts, rows.flat
        mu = (logits - logits.amax(1, keepdim=True)).exp_()
        mu *= library / mu.sum(1, keepdim=True)
        total = mu + (theta + EPS)
        means, totals = mu.view(-1).index_select(0, flat), total.view(-1).index_select(0, flat)
        ratio = torch.div(theta + EPS, total, out=total)  # total is not needed any more
        log_ratio = ratio.log()
        gammas = _Gammas(rows, theta)
        # the first part is of all counts, the second of those that are not zero
        log_prob = log_ratio @ theta
        log_prob += rows.sum(counts * ((means + EPS) / totals).log_() + gammas.log())
        if any(ctx.needs_input_grad):
            shrunk = theta / (theta + EPS)
            ratio *= shrunk  # theta / total
            over_total = counts / totals
            # mu · d log_prob / d mu, (n_obs, n_vars), and from it that by the logits
            slope = (mu * ratio).neg_()
            slope.view(-1).scatter_add_(0, flat, means * (counts / (means + EPS) - over_total))
            # an empty cell has neither mean nor slope: 0 / EPS
            slope -= mu.mul_(slope.sum(1, keepdim=True) / library.clamp(min=EPS))
            ctx.save_for_backward(
                slope, log_ratio, ratio, gammas.slope() - over_total, theta, shrunk
            )
            ctx.rows = rows
        return log_prob.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        slope, log_ratio, ratio, by_theta, theta, shrunk = ctx.saved_tensors
        rows: Rows = ctx.rows
        weight = -grad  # of each cell's log-probability
        d_theta = weight @ log_ratio - weight @ ratio + shrunk * weight.sum()
        d_theta.index_add_(0, rows.columns, by_theta * weight.index_select(0, rows.cells))
        return slope.mul_(weight[:, None]), d_theta.mul_(theta), None, None


def negative_binomial_loss(
    logits: torch.Tensor, log_theta: torch.Tensor, library: torch.Tensor, rows: Rows
) -> torch.Tensor:
    """Negative log-probability of cells whose means are library · softmax(logits).

    The numbers are those of :class:`scvi.distributions.NegativeBinomial`.

    Parameters
    ----------
    logits
        Logits of the shares of the genes, shape ``(n_obs, n_vars)``.
    log_theta
        Logarithms of the inverse dispersions, shape ``(n_vars,)``.
    library
        Counts of each cell, shape ``(n_obs, 1)``; without a gradient.
    rows
        The counts.

    Returns
    -------
    One number a cell, summed over genes, shape ``(n_obs,)``.
    """
    # under mixed precision, the logits come in half of it
    return _Loss.apply(logits.to(log_theta.dtype), log_theta, library, rows)
