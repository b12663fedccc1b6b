"""Gamma functions of the negative binomial, at nonzero counts only."""

from __future__ import annotations

import torch

from .counts import SparseCounts
from .kernels import TABLED


def _summed(terms: torch.Tensor) -> torch.Tensor:
    """Sums of the first 0, 1, … rows of each group."""
    table = terms.new_zeros(len(terms), terms.shape[1] + 1, terms.shape[2])
    table[:, 1:] = torch.cumsum(terms, 1)
    return table


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
        Which of them each cell has, shape ``(n_obs,)``.

    Returns
    -------
    ``lgamma(k + theta) - lgamma(theta) - lgamma(k + 1)`` and its gradient by theta, each by group, small count
    and gene, ``(n_groups, TABLED + 1, n_vars)``, then each of the large counts, ``(n_large,)``.
    """
    steps = torch.arange(TABLED + 2, dtype=theta.dtype)
    terms = theta[:, None] + steps[:TABLED, None]  # (n_groups, TABLED, n_vars)
    k = rows.counts.index_select(0, rows.large)
    group, gene = groups[rows.cells.index_select(0, rows.large)], rows.columns[rows.large]
    shape = theta[group, gene]
    return (
        _summed(terms.log()).sub_(torch.lgamma(steps[1:])[:, None]),
        _summed(terms.reciprocal()),
        torch.lgamma(k + shape) - torch.lgamma(shape) - torch.lgamma(k + 1),
        torch.digamma(k + shape) - torch.digamma(shape),
    )
