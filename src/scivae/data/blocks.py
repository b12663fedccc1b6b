"""Minibatches of cells that are read from the disk in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from .._random import epoch_seed
from .manager import rounded
from .sources import Cells

Minibatch = dict[str, torch.Tensor]


class Pool(NamedTuple):
    """Blocks that are read together, and the order in which their cells are used.

    Attributes
    ----------
    spans
        Row ranges of the file to read: first row, and the row after the last.
    order
        Positions of the used cells among the rows that were read, shape ``(n,)``.
    rows
        The same cells as rows of the file, shape ``(n,)``.
    """

    spans: list[tuple[int, int]]
    order: np.ndarray
    rows: np.ndarray


class BlockSource(Protocol):
    """The attributes of a datamodule that :class:`BlockLoader` uses."""

    n_obs: int
    block_size: int
    pool_size: int
    seed: int
    rounds: bool
    layer: str
    cells: Cells
    fields: dict[str, np.ndarray]
    read_pools: Callable[..., Iterator[Any]]

    def check_unchanged(self, matrix: Any) -> None:
        """Raise a ValueError if the values have changed."""


class BlockLoader:
    """A loader of some cells of a file, used by :class:`BlockDataModule`.

    The order of the cells depends only on the seed and the number of the epoch. With several processes, all
    read the same blocks, and each takes its part of every minibatch. Together, they have the same
    minibatches as a single process.

    Parameters
    ----------
    data
        The cells.
    index
        Positions of the cells to yield, shape ``(n,)``; in increasing order unless they are shuffled.
    batch_size
        Cells that a process is given at once.
    minibatch_size
        Cells per minibatch and process; what a process is given at once holds its parts of several minibatches. ``None``:
        ``batch_size``.
    shuffle
        Read blocks in random order, and shuffle cells within a pool of blocks. ``False``: the order
        of the file.
    smallest
        Smallest number of cells of a minibatch; a smaller last one is dropped.
    as_rows
        Yield sparse values as CSR tensors instead of dense ones.
    rank, world_size
        Rank of this process, and number of processes.
    """

    def __init__(
        self,
        data: BlockSource,
        index: np.ndarray,
        *,
        batch_size: int,
        minibatch_size: int | None = None,
        shuffle: bool,
        smallest: int = 1,
        as_rows: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.data = data
        self.index = index
        self.selected = np.zeros(data.n_obs, dtype=bool)
        self.selected[index] = True
        self.batch_size = batch_size
        self.minibatch_size = minibatch_size or batch_size
        self.shuffle = shuffle
        self.smallest = smallest
        self.as_rows = as_rows
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    batch_sampler = None  # Lightning looks here before it looks at ``sampler``

    @property
    def sampler(self) -> BlockLoader:
        """The object whose :meth:`set_epoch` Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch; Lightning calls this before each epoch."""
        self.epoch = epoch

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.index)

    def __len__(self) -> int:
        full, rest = divmod(self.n_obs, self.batch_size * self.world_size)
        return full + (rest // self.world_size >= self.smallest)

    def pools(self) -> Iterator[Pool]:
        """The pools of this epoch."""
        size, n_obs = self.data.block_size, len(self.selected)
        rng = np.random.default_rng((self.data.seed, self.epoch))
        blocks = np.flatnonzero(np.add.reduceat(self.selected, np.arange(0, n_obs, size)))
        if self.shuffle:
            blocks = rng.permutation(blocks)
        per_pool = max(1, self.data.pool_size // size)
        for first in range(0, len(blocks), per_pool):
            # Read in the order of the file; adjacent blocks form one range.
            together = np.sort(blocks[first : first + per_pool])
            runs = np.split(together, np.flatnonzero(np.diff(together) != 1) + 1)
            spans = [(int(run[0]) * size, min((int(run[-1]) + 1) * size, n_obs)) for run in runs]
            read = np.concatenate([np.arange(*span) for span in spans])
            order = np.flatnonzero(self.selected[read])
            if self.shuffle and len(blocks) <= per_pool:
                order = np.searchsorted(read, self._order_in_memory())
            elif self.shuffle:
                order = rng.permutation(order)
            yield Pool(spans, order, read[order])

    def _within(self) -> tuple[int, int]:
        """Row range of the blocks of all cells: first row, and the row after the last."""
        if not len(self.index):
            return 0, 0
        size = self.data.block_size
        first, last = int(self.index.min()) // size, int(self.index.max()) // size
        return first * size, min((last + 1) * size, len(self.selected))

    def _order_in_memory(self) -> np.ndarray:
        """Positions of all cells in the order that training in memory would use, shape ``(n_obs,)``."""
        generator = torch.Generator().manual_seed(epoch_seed(self.data.seed, self.epoch))
        return self.index[torch.randperm(len(self.index), generator=generator).numpy()]

    def __iter__(self) -> Iterator[Minibatch]:
        with self.data.cells.opened() as root:
            yield from self.minibatches(self.data.cells.matrix(root, self.data.layer))

    def minibatches(self, matrix: Any) -> Iterator[Minibatch]:
        """The minibatches of an epoch, from an open matrix.

        Parameters
        ----------
        matrix
            The result of ``Cells.matrix``.
        """
        self.data.check_unchanged(matrix)
        size = self.batch_size * self.world_size
        left: list[tuple[Any, Pool]] = []  # rest of earlier pools, less than a minibatch
        n_left = 0
        read = self.data.read_pools(matrix, (pool.spans for pool in self.pools()), self._within())
        with ThreadPoolExecutor(1) as executor:  # reads the next pool ahead
            reading = executor.submit(next, read, None)
            for pool in self.pools():
                values: Any = reading.result()
                reading = executor.submit(next, read, None)
                start = 0
                while n_left + len(pool.order) - start >= size:
                    stop = start + size - n_left
                    yield self._minibatch([*left, (values, _part(pool, start, stop))], size)
                    start, left, n_left = stop, [], 0
                if start < len(pool.order):
                    rest = _part(pool, start, len(pool.order))
                    # Copy the rest, so that the memory of the pool is freed.
                    order = np.arange(len(rest.rows))
                    left.append((values[rest.order], rest._replace(order=order)))
                    n_left += len(rest.rows)
        if n_left // self.world_size >= self.smallest:
            yield self._minibatch(left, n_left)

    def _mine(self, n: int) -> np.ndarray:
        """Positions of the cells of this process among n cells of all processes: a part of each minibatch."""
        of_all = self.minibatch_size * self.world_size
        full, rest = divmod(n, of_all)
        firsts = np.arange(full) * of_all + self.rank * self.minibatch_size
        mine = (firsts[:, None] + np.arange(self.minibatch_size)).ravel()
        if (share := rest // self.world_size) < self.smallest:
            return mine
        return np.append(mine, n - rest + self.rank * share + np.arange(share))

    def _minibatch(self, parts: Sequence[tuple[Any, Pool]], size: int) -> Minibatch:
        """The cells of this process among so many, which come from one or several pools."""
        mine = self._mine(size)
        blocks, rows, start = [], [], 0
        for values, part in parts:
            first, last = np.searchsorted(mine, (start, start + len(part.order)))
            here = mine[first:last] - start
            start += len(part.order)
            if len(here):
                order = part.order[here]
                block = values[order]
                as_they_are = self.as_rows or not sparse.issparse(block)
                blocks.append(block if as_they_are else block.toarray())
                rows.append(part.rows[here])
        stack = sparse.vstack if sparse.issparse(blocks[0]) else np.concatenate
        x: Any = blocks[0] if len(blocks) == 1 else stack(blocks)  # (per_rank, n_vars)
        if self.data.rounds:
            x = rounded(x)
        index = rows[0] if len(rows) == 1 else np.concatenate(rows)
        if sparse.issparse(x):
            x = x.tocsr()
            x = torch.sparse_csr_tensor(x.indptr, x.indices, x.data, size=x.shape)
        else:
            x = torch.from_numpy(x)
        tensors = {REGISTRY_KEYS.X_KEY: x}
        for key, values in self.data.fields.items():
            tensors[key] = torch.from_numpy(values[index])
        return tensors


def _part(pool: Pool, start: int, stop: int) -> Pool:
    return Pool(pool.spans, pool.order[start:stop], pool.rows[start:stop])
