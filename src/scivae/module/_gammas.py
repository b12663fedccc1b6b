"""Gamma functions of the negative binomial, where they are needed."""

from __future__ import annotations

import torch

from ._kernels import TABLED
from ._rows import Rows


class Gammas:
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
        self.rows = rows
        self.large_counts = rows.counts.index_select(0, rows.large)
        self.large_theta = theta.index_select(0, rows.columns.index_select(0, rows.large))
        steps = torch.arange(TABLED, dtype=theta.dtype, device=theta.device)
        self.terms = theta + steps[:, None]  # (TABLED, n_vars)

    @staticmethod
    def _summed(terms: torch.Tensor) -> torch.Tensor:
        table = terms.new_zeros(TABLED + 1, terms.shape[1])
        torch.cumsum(terms, 0, out=table[1:])
        return table

    def _log_table(self) -> torch.Tensor:
        steps = torch.arange(1, TABLED + 2, dtype=self.terms.dtype, device=self.terms.device)
        return self._summed(self.terms.log()).sub_(torch.lgamma(steps)[:, None])

    def _slope_table(self) -> torch.Tensor:
        return self._summed(self.terms.reciprocal())

    def _log_of_large(self) -> torch.Tensor:
        k, theta = self.large_counts, self.large_theta
        return torch.lgamma(k + theta) - torch.lgamma(theta) - torch.lgamma(k + 1)

    def _slope_of_large(self) -> torch.Tensor:
        theta = self.large_theta
        return torch.digamma(self.large_counts + theta) - torch.digamma(theta)

    def tables(self) -> tuple[torch.Tensor, ...]:
        """:meth:`log` and :meth:`slope` by small count and gene, then of the large counts."""
        return (
            self._log_table(),
            self._slope_table(),
            self._log_of_large(),
            self._slope_of_large(),
        )

    def _at_counts(self, table: torch.Tensor, of_large: torch.Tensor) -> torch.Tensor:
        found = table.view(-1).index_select(0, self.rows.places)
        return found.index_copy_(0, self.rows.large, of_large)

    def log(self) -> torch.Tensor:
        """lgamma(k + theta) - lgamma(theta) - lgamma(k + 1), shape ``(nnz,)``."""
        return self._at_counts(self._log_table(), self._log_of_large())

    def slope(self) -> torch.Tensor:
        """digamma(k + theta) - digamma(theta), shape ``(nnz,)``."""
        return self._at_counts(self._slope_table(), self._slope_of_large())
