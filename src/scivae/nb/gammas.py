"""Gamma functions of the negative binomial, at nonzero counts only."""

from __future__ import annotations

import torch

from .counts import SparseCounts
from .kernels import TABLED


def _summed(terms: torch.Tensor) -> torch.Tensor:
    """Sums of the first 0, 1, … rows."""
    table = terms.new_zeros(len(terms) + 1, terms.shape[1])
    torch.cumsum(terms, 0, out=table[1:])
    return table


def gamma_tables(rows: SparseCounts, theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Gamma functions of counts and inverse dispersions, from tables.

    Small counts are looked up in a table, as Γ(k + θ) / Γ(θ) = θ (θ + 1) … (θ + k - 1).

    Parameters
    ----------
    rows
        The counts.
    theta
        Inverse dispersions, shape ``(n_vars,)``.

    Returns
    -------
    ``lgamma(k + theta) - lgamma(theta) - lgamma(k + 1)`` and its gradient by theta, each by small count and
    gene, ``(TABLED + 1, n_vars)``, then each of the large counts, ``(n_large,)``.
    """
    steps = torch.arange(TABLED + 2, dtype=theta.dtype)
    terms = theta + steps[:TABLED, None]  # (TABLED, n_vars)
    k = rows.counts.index_select(0, rows.large)
    shape = theta.index_select(0, rows.columns.index_select(0, rows.large))
    return (
        _summed(terms.log()).sub_(torch.lgamma(steps[1:])[:, None]),
        _summed(terms.reciprocal()),
        torch.lgamma(k + shape) - torch.lgamma(shape) - torch.lgamma(k + 1),
        torch.digamma(k + shape) - torch.digamma(shape),
    )
