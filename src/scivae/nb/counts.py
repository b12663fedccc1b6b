"""Counts of a minibatch: sparse on a CPU, dense on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from . import kernels


class Order(NamedTuple):
    """The counts ordered by gene: their ``cells``, their ``places`` in the rows, and where each gene ``starts``."""

    cells: torch.Tensor
    places: torch.Tensor
    starts: torch.Tensor


def _drawn(seed: int | None) -> int:
    """The seed, or one from the global generator of torch."""
    return int(torch.randint(2**62, ())) if seed is None else seed


_of_thread = threading.local()


def _generator(seed: int | None) -> np.random.Generator:
    """The generator of this thread, reseeded: compiled code is slow to accept a new one."""
    state = np.random.PCG64(_drawn(seed)).state
    if not hasattr(_of_thread, "generator"):
        _of_thread.generator = np.random.default_rng(0)
    _of_thread.generator.bit_generator.state = state
    return _of_thread.generator


class DenseCounts(NamedTuple):
    """Counts as a dense matrix, for a GPU, where zeros cost less than a search for nonzero values.

    Attributes
    ----------
    counts
        The counts, shape ``(n_obs, n_vars)``; of an integer type where a kernel reads them.
    encoder_input
        Counts that the encoder is given, of the same shape.
    logged
        Whether ``encoder_input`` is ``log(1 + counts)`` already.
    """

    counts: torch.Tensor
    encoder_input: torch.Tensor
    logged: bool = False

    @property
    def totals(self) -> torch.Tensor:
        """Counts of each cell, shape ``(n_obs, 1)``."""
        return self.counts.sum(1, keepdim=True, dtype=self.encoder_input.dtype)

    def encoded(self, log: bool) -> torch.Tensor:
        """``encoder_input``, or ``log(1 + encoder_input)``."""
        return self.encoder_input.log1p() if log and not self.logged else self.encoder_input


@dataclass(eq=False)
class SparseCounts:
    """Nonzero counts of some cells, row after row, on a CPU.

    Derived values are calculated when they are first used, or by :meth:`prepare`.

    Attributes
    ----------
    counts
        The counts, shape ``(nnz,)``, and below for each of them
    columns, cells
        its gene and its cell, both ``(nnz,)`` integers.
    starts
        Position of the first count of each cell, shape ``(n_obs,)``.
    n_vars
        Number of genes.
    encoder_input
        Counts that the encoder is given, shape ``(nnz,)``; thinned by :meth:`prepare`.
    """

    counts: torch.Tensor
    columns: torch.Tensor
    cells: torch.Tensor
    starts: torch.Tensor
    n_vars: int

    def __post_init__(self) -> None:
        self.encoder_input = self.counts
        self._chunks: list[SparseCounts] = []

    @classmethod
    def of(cls, x: torch.Tensor) -> SparseCounts:
        """Rows of a matrix ``(n_obs, n_vars)``, dense or in a sparse layout of torch."""
        n_obs, n_vars = x.shape
        if x.layout is torch.sparse_csr:
            ends, columns, counts = x.crow_indices().long(), x.col_indices().long(), x.values()
            cells = torch.repeat_interleave(
                torch.arange(n_obs), ends.diff(), output_size=len(counts)
            )
            return cls(counts, columns, cells, ends[:-1], n_vars)
        values = x.to_dense().reshape(-1)
        flat = torch.from_numpy(np.flatnonzero(values.numpy()))  # in a third of torch's time
        cells = flat // n_vars
        starts = torch.searchsorted(cells, torch.arange(n_obs))
        return cls(values[flat], flat - cells * n_vars, cells, starts, n_vars)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.starts)

    def prepare(
        self, thinning: float = 0.0, seed: int | None = None, n_chunks: int = 1
    ) -> SparseCounts:
        """Thin the counts for the encoder, and compute everything that does not depend on weights.

        Parameters
        ----------
        thinning
            See :func:`scivae.module.thin`.
        seed
            Seed of the draws; ``None`` draws from the global generator of torch.
        n_chunks
            Parts of the cells that can be scored by threads of their own.
        """
        # in one call, during which Python is left to other threads
        encoder_input, order, totals, large = kernels.prepare(
            self.counts.numpy(),
            self.columns.numpy(),
            self.bounds.numpy(),
            self.n_vars,
            float(thinning),
            _generator(seed if thinning > 0 else 0),
        )
        self.encoder_input, self.totals, self.large = map(
            torch.from_numpy, (encoder_input, totals, large)
        )
        self.by_gene = Order(*map(torch.from_numpy, order))
        if n_chunks > 1:
            self._chunks = list(self.split(-(-self.n_obs // n_chunks)))
            for chunk in self._chunks:
                chunk.totals, chunk.bounds, chunk.large  # noqa: B018
        return self

    @property
    def chunks(self) -> list[SparseCounts]:
        """Consecutive parts of the cells; a single part unless :meth:`prepare` was asked for more."""
        return self._chunks or [self]  # not kept: what holds itself is not freed at once

    def split(self, size: int) -> Iterator[SparseCounts]:
        """The rows in parts of ``size`` cells; the last may be smaller."""
        firsts = range(0, self.n_obs, size)
        bounds = [*self.starts[::size].tolist(), len(self.counts)]
        for first, start, stop in zip(firsts, bounds[:-1], bounds[1:], strict=True):
            yield SparseCounts(
                self.counts[start:stop],
                self.columns[start:stop],
                self.cells[start:stop] - first,
                self.starts[first : first + size] - start,
                self.n_vars,
            )

    @cached_property
    def totals(self) -> torch.Tensor:
        """Counts of each cell, shape ``(n_obs, 1)``."""
        return torch.segment_reduce(self.counts, "sum", offsets=self.bounds)[:, None]

    def encoded(self, log: bool) -> torch.Tensor:
        """``encoder_input``, or ``log(1 + encoder_input)``."""
        return self.encoder_input.log1p() if log else self.encoder_input

    @cached_property
    def bounds(self) -> torch.Tensor:
        """``starts``, and where the last row ends, shape ``(n_obs + 1,)``."""
        return torch.cat([self.starts, self.starts.new_tensor([len(self.counts)])])

    @cached_property
    def large(self) -> torch.Tensor:
        """Which counts are beyond the table of gamma functions, shape ``(n_large,)``."""
        return torch.from_numpy(np.flatnonzero(self.counts.numpy() > kernels.TABLED))

    @cached_property
    def by_gene(self) -> Order:
        """The counts in the order of the genes."""
        found = kernels.by_gene(self.columns.numpy(), self.bounds.numpy(), self.n_vars)
        return Order(*(torch.from_numpy(a) for a in found))

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """Matrix ``(n_obs, n_vars)`` with these values in place of the counts."""
        matrix = values.new_zeros(self.n_obs, self.n_vars)
        matrix.view(-1).scatter_(0, self.cells * self.n_vars + self.columns, values)
        return matrix

    def in_gene_order(self, values: torch.Tensor) -> torch.Tensor:
        """These values, gene after gene, shape ``(nnz,)``."""
        return values.index_select(0, self.by_gene.places)

    def times(self, values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """``x @ matrix`` for x with these values, shape ``(n_obs, matrix.shape[1])``."""
        return F.embedding_bag(
            self.columns, matrix, self.starts, mode="sum", per_sample_weights=values
        )

    def transpose_times(self, values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """``x.T @ matrix`` for x with these values, which are in the order of the genes, shape ``(n_vars, matrix.shape[1])``."""
        cells, _, starts = self.by_gene
        return F.embedding_bag(cells, matrix, starts, mode="sum", per_sample_weights=values)


def counts_of(x: torch.Tensor) -> SparseCounts | DenseCounts:
    """Cells of a matrix ``(n_obs, n_vars)``, dense or in a sparse layout of torch, as its device reads them."""
    return SparseCounts.of(x) if x.is_cpu else DenseCounts(x := x.to_dense(), x)


def store_by_input(layer: torch.nn.Linear) -> None:
    """Lay out the weights of a layer input by input, as :func:`sparse_linear` reads them.

    Shape and values stay; only the strides of ``layer.weight`` change.
    """
    layer.weight.data = layer.weight.data.t().contiguous().t()


class _SparseLinear(torch.autograd.Function):
    """``x @ weight.T`` for sparse ``x``, which has no gradient of its own."""

    @staticmethod
    def forward(
        ctx, values: torch.Tensor, weight: torch.Tensor, rows: SparseCounts
    ) -> torch.Tensor:
        ctx.save_for_backward(values)
        ctx.rows = rows
        return rows.times(values, weight.t().contiguous())

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (values,), rows = ctx.saved_tensors, ctx.rows
        ctx.rows = None  # not to be kept for as long as the loss is
        by_gene = rows.in_gene_order(values)
        return None, rows.transpose_times(by_gene, grad.contiguous()).t(), None


def sparse_linear(values: torch.Tensor, rows: SparseCounts, layer: torch.nn.Linear) -> torch.Tensor:
    """A linear layer on sparse rows.

    Parameters
    ----------
    values
        Values at the places of the counts, shape ``(nnz,)``.
    rows
        Those places.
    layer
        The layer. Its first ``n_vars`` inputs are the genes; others, if any, are left to the caller.

    Returns
    -------
    ``layer`` of the dense matrix, shape ``(n_obs, out_features)``.
    """
    weight = layer.weight if layer.in_features == rows.n_vars else layer.weight[:, : rows.n_vars]
    out = _SparseLinear.apply(values, weight, rows)
    return out if layer.bias is None else out + layer.bias
