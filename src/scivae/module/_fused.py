"""The last layer of the decoder and the negative binomial in one, with their gradient.

The mean of gene g is library · softmax(logits)_g. Value and gradient with regard to the logits need one
exponential and one logarithm a gene; gamma functions are needed only where a count is not zero. Both are
worked out together while the numbers are in the cache, so that the backward pass only scales them.
Cells do not need each other for this: each of several threads takes its share of the minibatch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ._negative_binomial import EPS
from ._rows import TABLED, Rows

LOG2_E = 1 / math.log(2)


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


class _Part(NamedTuple):
    """What the backward pass needs of some of the cells."""

    hidden: torch.Tensor  # (n, n_hidden)
    slope: torch.Tensor  # of each cell's log-probability by the logits, (n, n_vars)
    log_ratio: torch.Tensor  # log of what follows, (n, n_vars)
    ratio: torch.Tensor  # theta / (theta + mean), (n, n_vars)
    by_theta: torch.Tensor  # what the nonzero counts add to the slope by theta, (nnz,)
    rows: Rows


def _times(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``a @ b + bias``, of the precision of ``a``; the product in that of ``b``."""
    if a.dtype == b.dtype:
        return a @ b if bias is None else torch.addmm(bias, a, b)
    product = (a.to(b.dtype) @ b).to(a.dtype)
    return product if bias is None else product.add_(bias)


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
    logits = _times(hidden, weight.t(), bias)  # (n, n_vars)
    # to the base of two: torch works that out in a third of the time
    mu = logits.sub_(logits.amax(1, keepdim=True)).mul_(LOG2_E).exp2_()
    mu *= library / mu.sum(1, keepdim=True)
    total = mu + (theta + EPS)
    means, totals = mu.view(-1).index_select(0, flat), total.view(-1).index_select(0, flat)
    ratio = torch.div(theta + EPS, total, out=total)  # total is not needed any more
    log_ratio = ratio.log()
    gammas = _Gammas(rows, theta)
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
    by_weight = _times(slope.t(), part.hidden.to(weight.dtype))
    return _times(slope, weight), by_weight, slope.sum(0), by_theta


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
        found = _in_threads(
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
        found = _in_threads(lambda part, cells: _slopes(part, cells, weight), parts, by_cell)
        hidden, *others = zip(*found, strict=True)
        by_weight, by_bias, by_theta = (sum(values[1:], values[0]) for values in others)
        by_theta -= grad.sum() * theta / (theta + EPS)
        return torch.cat(hidden), by_weight, by_bias, by_theta * theta, None, None


class _Threads(NamedTuple):
    """Threads of a ``sharing`` block."""

    n_sharing: int  # with the one that is in the block
    sharing: ThreadPoolExecutor
    ahead: ThreadPoolExecutor  # works on what comes next


_threads: list[_Threads] = []  # of the blocks that are open, the innermost last


@contextmanager
def sharing(n_threads: int) -> Iterator[None]:
    """Let so many threads share a minibatch inside the block, this one among them.

    One more is there for :func:`ahead`. They live as long as the block: each thread has memory of
    its own, which is not given back.
    """
    like_this = partial(torch.set_num_threads, torch.get_num_threads())
    with (
        ThreadPoolExecutor(max(1, n_threads - 1), initializer=like_this) as others,
        ThreadPoolExecutor(1, initializer=like_this) as one,
    ):
        _threads.append(_Threads(n_threads, others, one))
        try:
            yield
        finally:
            _threads.pop()


def n_sharing() -> int:
    """Threads that share a minibatch here."""
    return _threads[-1].n_sharing if _threads else 1


def ahead(calls: Iterable[Callable[[], Any]], n: int) -> Iterator[Any]:
    """Results of calls in their order, each worked out while up to ``n`` before it are used."""
    if not _threads:
        yield from (call() for call in calls)
        return
    waiting: deque[Future] = deque()
    for call in calls:
        waiting.append(_threads[-1].ahead.submit(call))
        if len(waiting) > n:
            yield waiting.popleft().result()
    yield from (call.result() for call in waiting)


def _in_threads(function: Callable, *arguments: Sequence) -> list:
    """``map``: this thread takes the first, the others those that remain."""
    first, *others = zip(*arguments, strict=True)
    if not others or n_sharing() == 1:
        return [function(*these) for these in (first, *others)]
    # the gradient is worked out here, in every thread
    waiting = [_threads[-1].sharing.submit(torch.no_grad()(function), *these) for these in others]
    return [function(*first), *(found.result() for found in waiting)]


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
    return _Loss.apply(hidden, layer.weight, layer.bias, log_theta, rows, products)
