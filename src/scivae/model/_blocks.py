"""Cells that do not fit in memory, read in blocks: a datamodule for training and inference."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch import LightningDataModule
from scipy import sparse
from scvi import REGISTRY_KEYS

from .. import _keys
from .._errors import check_bool, check_choice, check_integer, check_number
from ..module import COUNT_LIKELIHOODS
from . import _annbatch, _checks, _stores
from ._cells import resolve_indices
from ._civae import CIVAE
from ._fingerprint import Fingerprint
from ._manager import rounded
from ._random import epoch_seed
from ._setup import Setup
from ._training import stratified_split
from ._weights import nats_told

Minibatch = dict[str, torch.Tensor]


class Pool(NamedTuple):
    """Blocks that are read together, and the order in which their cells are used.

    Attributes
    ----------
    spans
        First row of each stretch of the file, and the row after its last.
    order
        Positions in what is read, shape ``(n,)``.
    rows
        Rows of the file at these positions, shape ``(n,)``.
    """

    spans: list[tuple[int, int]]
    order: np.ndarray
    rows: np.ndarray


class BlockLoader:
    """Minibatches of some cells of a file: what :class:`BlockDataModule` gives to a trainer.

    The order of the cells follows from the seed and the number of the epoch alone. With several
    processes, each takes its part of every minibatch, and all read the same blocks: the minibatches
    that they make together are those that a single process makes.

    Parameters
    ----------
    data
        The cells.
    index
        Positions of those that are used, shape ``(n,)``; in increasing order unless they are shuffled.
    batch_size
        Cells in a minibatch of a process.
    shuffle
        Blocks in random order, and cells in random order within a pool of blocks. ``False``: all in
        the order of the file.
    smallest
        Cells that a minibatch must have to be used.
    as_rows
        Give sparse values as a tensor in the layout CSR, in place of a dense one.
    rank, world_size
        Number of this process, and of all.
    """

    def __init__(
        self,
        data: BlockDataModule,
        index: np.ndarray,
        *,
        batch_size: int,
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
        self.shuffle = shuffle
        self.smallest = smallest
        self.as_rows = as_rows
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    batch_sampler = None  # where Lightning looks for a sampler first

    @property
    def sampler(self) -> BlockLoader:
        """Where Lightning looks for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch; Lightning calls this before each."""
        self.epoch = epoch

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.index)

    def __len__(self) -> int:
        full, rest = divmod(self.n_obs, self.batch_size * self.world_size)
        return full + (rest // self.world_size >= self.smallest)

    def pools(self) -> Iterator[Pool]:
        """What is read together in this epoch, pool by pool."""
        size, n_obs = self.data.block_size, len(self.selected)
        rng = np.random.default_rng((self.data.seed, self.epoch))
        blocks = np.flatnonzero(np.add.reduceat(self.selected, np.arange(0, n_obs, size)))
        if self.shuffle:
            blocks = rng.permutation(blocks)
        per_pool = max(1, self.data.pool_size // size)
        for first in range(0, len(blocks), per_pool):
            # Read in the order of the file, neighbours at once.
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

    def _order_in_memory(self) -> np.ndarray:
        """Positions of all cells, in the order in which training takes them from memory, shape ``(n_obs,)``."""
        generator = torch.Generator().manual_seed(epoch_seed(self.data.seed, self.epoch))
        return self.index[torch.randperm(len(self.index), generator=generator).numpy()]

    def __iter__(self) -> Iterator[Minibatch]:
        with self.data.cells.opened() as root:
            yield from self.minibatches(self.data.cells.matrix(root, self.data.layer))

    def minibatches(self, matrix: Any) -> Iterator[Minibatch]:
        """The minibatches of an epoch, from a matrix that is open.

        Parameters
        ----------
        matrix
            What ``Cells.matrix`` gives.
        """
        self.data.check_unchanged(matrix)
        size = self.batch_size * self.world_size
        left: list[tuple[Any, Pool]] = []  # of pools before, less than a minibatch
        n_left = 0
        read = self.data.read_pools(matrix, (pool.spans for pool in self.pools()))
        with ThreadPoolExecutor(1) as executor:  # reads a pool while the one before is used
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
                    # Its rows only: the pool is not to be kept.
                    order = np.arange(len(rest.rows))
                    left.append((values[rest.order], rest._replace(order=order)))
                    n_left += len(rest.rows)
        if n_left // self.world_size >= self.smallest:
            yield self._minibatch(left, n_left)

    def _minibatch(self, parts: Sequence[tuple[Any, Pool]], size: int) -> Minibatch:
        """The part of this process of a minibatch of cells of one or several pools."""
        per_rank = size // self.world_size
        first, last = self.rank * per_rank, (self.rank + 1) * per_rank
        blocks, rows, start = [], [], 0
        for values, part in parts:
            mine = slice(max(first - start, 0), max(last - start, 0))
            start += len(part.order)
            if len(order := part.order[mine]):
                block = values[order]
                as_they_are = self.as_rows or not sparse.issparse(block)
                blocks.append(block if as_they_are else block.toarray())
                rows.append(part.rows[mine])
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


class BlockDataModule(LightningDataModule):
    """Cells on the disk, read in blocks, for training on more than fits in memory.

    Contiguous blocks of cells are read in random order. Several of them make a pool, in which cells
    are shuffled and cut into minibatches, while the next pool is read. The minibatches, and so the
    model, do not depend on how the cells are stored: as h5ad or zarr (version 2 or 3), on the disk or
    in memory, as CSR or as an array.

    Parameters
    ----------
    source
        Path of an h5ad file or of the folder of a zarr store, or an AnnData, in memory or backed.
        It is not changed.
    labels_key, unlabeled_category, layer, batch_key, size_factor_key
        As :meth:`CIVAE.setup_anndata` takes them.
    categorical_covariate_keys, continuous_covariate_keys, ordered
        As :meth:`CIVAE.setup_anndata` takes them.
    registry
        Registry of a model, in place of the arguments before: cells that a model is to be used on
        are read by its classes, batches and covariates. They need no labels.
    batch_size
        Cells in a minibatch (of a process, where there are several); one more where one cell would be
        left over.
    train_size, validation_size
        Shares of the cells to train on and to hold out (the rest). Every class has its share in both.
    block_size
        Cells in a block. Greater blocks are read faster, but if the file is sorted, cells of a pool
        are more alike.
    pool_size
        Cells that are shuffled together; two pools are in memory at a time.
    seed
        Seed of the split and of the order of the cells.
    check
        Read all values once, for errors that name the cell, for ``likelihood="auto"``, for
        ``discriminator_weight="auto"``, the weights of the classes and the library size. ``False``
        leaves this out: for data that were checked before.
    reader
        Package that reads. ``"annbatch"`` is several times faster on zarr stores, and can read no
        others; it needs Python 3.12 or later (``pip install "scivae-tools[large]"``).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If a column or the layer is not there; the error lists those that are.
    ValueError
        If the values are stored by columns, are NaN or infinite, if labels or covariates are missing,
        or if a cell has no counts.

    Notes
    -----
    Where all blocks fit in one pool, minibatches, losses and weights are those that :meth:`CIVAE.train`
    gives with the cells in memory and the same seed, bit for bit on a CPU.

    With ``strategy="ddp"``, ``batch_size`` cells go to each process, and all processes read all
    blocks: the minibatches that they make together are those of a single process with as many times
    the ``batch_size``. Batch normalisation takes the statistics of each process's part unless the
    trainer is given ``sync_batchnorm=True``, which torch can do on GPUs only.

    What the data are stored in matters for speed: chunks of about a block's values are best (100,000
    values for 500 cells with 200 nonzero genes each); in larger ones, each block reads more than its
    own.

    Examples
    --------
    >>> import scivae
    >>> scivae.datasets.pbmc().write_h5ad("pbmc.h5ad")
    >>> data = scivae.model.BlockDataModule("pbmc.h5ad")
    >>> model = scivae.model.CIVAE(registry=data.registry)
    >>> model.train(datamodule=data, max_epochs=2, enable_progress_bar=False)
    >>> model.get_latent_representation(dataloader=data.inference_dataloader()).shape
    (700, 20)
    >>> model.annotate(data)  # writes obsm["X_civae"] and the predicted classes into the file
    >>> cells = data.to_memory(data.val_idx)
    >>> model.augment("Dendritic", 20, adata=cells).n_obs
    20
    """

    def __init__(
        self,
        source: str | os.PathLike | AnnData,
        labels_key: str = _keys.LABELS_KEY,
        unlabeled_category: Any = None,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        *,
        ordered: bool = False,
        registry: dict[str, Any] | None = None,
        batch_size: int = 128,
        train_size: float = 0.9,
        validation_size: float | None = None,
        block_size: int = 512,
        pool_size: int = 32_768,
        seed: int = 0,
        check: bool = True,
        reader: Literal["anndata", "annbatch"] = "anndata",
    ):
        super().__init__()
        batch_size = check_integer("batch_size", batch_size, minimum=2)
        self.block_size = check_integer("block_size", block_size, minimum=1)
        self.pool_size = check_integer("pool_size", pool_size, minimum=self.block_size)
        self.seed = check_integer("seed", seed, minimum=0)
        check_number("train_size", train_size, minimum=0, maximum=1)
        if validation_size is not None:
            check_number("validation_size", validation_size, minimum=0, maximum=1)
        check_bool("check", check)
        self.is_checked = check
        self.rounds = False
        check_choice("reader", reader, ("anndata", "annbatch"))
        self.cells = _stores.Cells(source)
        arguments = {
            "labels_key": labels_key,
            "unlabeled_category": unlabeled_category,
            "layer": layer,
            "batch_key": batch_key,
            "size_factor_key": size_factor_key,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
            "ordered": ordered,
        }
        self.take_together(1, as_rows=False)
        self.read_pools = {"anndata": _stores.read_pools, "annbatch": _annbatch.read_pools}[reader]
        if reader == "annbatch" and (self.cells.adata is not None or not self.cells.path.is_dir()):
            raise ValueError(
                f"reader='annbatch' reads zarr stores, but {self.cells} is none; use "
                "reader='anndata', or write the cells with adata.write_zarr."
            )
        if registry is not None:
            arguments = dict(registry["setup_args"])
        adata = self._skeleton(arguments, needs_labels=registry is None)
        if registry is None:
            CIVAE.setup_anndata(adata, **arguments)
        else:
            _checks.check_genes(adata, Setup.from_registry(registry).genes)
            CIVAE.setup_anndata(adata, **arguments, source_registry=registry)
        manager = CIVAE._get_most_recent_anndata_manager(adata, required=True)
        # The class remembers every AnnData that was set up; this one is of no further use.
        CIVAE._setup_adata_manager_store.pop(manager.adata_uuid)
        self.registry = dict(manager.registry)
        self.setup_ = Setup.from_registry(self.registry)
        self.layer = self.setup_.layer
        self.n_obs, self.n_vars = adata.shape
        self.fields = {
            key: _column(key, manager.get_from_registry(key))
            for key in manager.data_registry
            if key != REGISTRY_KEYS.X_KEY
        }
        codes = self.fields[REGISTRY_KEYS.LABELS_KEY].ravel()
        with self.cells.opened() as root:
            matrix = self.cells.matrix(root, self.layer)
            self._fingerprint = Fingerprint(matrix) if Fingerprint.can_read(matrix) else None
            if tuple(matrix.shape) != adata.shape:
                raise ValueError(
                    f"{self.cells} holds {matrix.shape[0]} × {matrix.shape[1]} values, but names of "
                    f"{adata.n_obs} cells and {adata.n_vars} genes; write it again."
                )
            if check:
                counts = _checks.class_counts(codes, len(self.setup_.classes))
                found = _checks.Found.in_adata(
                    adata, self.layer, self.setup_.size_factor_key, counts, matrix
                )
                likelihood = _checks.choose_likelihood(found.summary)
                if likelihood in COUNT_LIKELIHOODS:
                    _checks.check_values(
                        adata, self.layer, found.summary, likelihood, training=registry is None
                    )
                self.rounds = found.summary.kind == "near counts"
                nats = nats_told(matrix, counts=likelihood in COUNT_LIKELIHOODS)
                self.registry[_checks.FOUND] = found._replace(nats=nats).to_plain()
        parts = stratified_split(
            codes,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=batch_size,
            seed=self.seed,
        )
        self._train_order = parts[0]
        self.train_idx, self.val_idx, self.test_idx = (np.sort(part) for part in parts)
        # Batch normalisation cannot train on a last minibatch of one cell.
        while len(self.train_idx) % batch_size == 1:
            batch_size += 1
        self.batch_size = batch_size

    def _skeleton(self, arguments: dict[str, Any], *, needs_labels: bool) -> AnnData:
        """The AnnData with the columns that the setup reads; raise for one that is not there."""
        wanted: list[Any] = []
        for name in ("labels_key", "batch_key", "size_factor_key"):
            if arguments[name] is not None:
                wanted.append((name, arguments[name]))
        for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
            if isinstance(arguments[name], (list, tuple)):
                wanted += [(name, key) for key in arguments[name]]
        columns = SimpleNamespace(obs=pd.DataFrame(columns=self.cells.columns))
        for name, key in wanted:
            if name != "labels_key" or needs_labels:
                _checks.check_columns(columns, {name: key})
        return self.cells.skeleton(key for _, key in wanted)

    def check_unchanged(self, matrix: Any) -> None:
        """Raise a ValueError if values, or the number of cells and genes, are not what they were.

        Parameters
        ----------
        matrix
            The values, as ``Cells.matrix`` gives them. Those of an AnnData in memory are compared.
        """
        known = self._fingerprint
        if tuple(matrix.shape) != (self.n_obs, self.n_vars) or not (
            known is None or known.holds(matrix, every_row=True)
        ):
            raise ValueError(
                f"{self.cells} must hold what it held when the datamodule was made, but its values have "
                "changed; make the datamodule anew."
            )

    @property
    def n_train(self) -> int:
        """Number of cells to train on."""
        return len(self.train_idx)

    @property
    def n_val(self) -> int:
        """Number of cells held out."""
        return len(self.val_idx)

    @property
    def n_batch(self) -> int:
        """Number of batches."""
        return len(self.setup_.batches)

    @property
    def n_labels(self) -> int:
        """Number of labels, the unlabeled category among them."""
        return len(self.setup_.classes) + (self.setup_.unlabeled_category is not None)

    def _loader(self, index: np.ndarray, **kwargs: Any) -> BlockLoader:
        return BlockLoader(self, index, **kwargs)

    def take_together(self, minibatches: int, *, as_rows: bool) -> None:
        """How :meth:`CIVAE.train` wants its cells.

        Parameters
        ----------
        minibatches
            Minibatches that are given at once, one below the other.
        as_rows
            Sparse values as a tensor in the layout CSR, in place of a dense one.
        """
        self._minibatches, self._as_rows = minibatches, as_rows

    def _of_training(self) -> dict[str, Any]:
        at_once: dict[str, Any] = {
            "batch_size": self.batch_size * self._minibatches,
            "as_rows": self._as_rows,
        }
        trainer = self.trainer
        if trainer is not None:
            at_once |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
        return at_once

    def train_dataloader(self) -> BlockLoader:
        """Minibatches to train on, in an order of its own for each epoch."""
        return self._loader(self._train_order, shuffle=True, smallest=2, **self._of_training())

    def val_dataloader(self) -> BlockLoader | list:
        """Minibatches of held-out cells, in the order of the file."""
        if not self.n_val:
            return []
        return self._loader(self.val_idx, shuffle=False, **self._of_training())

    def inference_dataloader(
        self, indices: Sequence[int] | np.ndarray | None = None, *, batch_size: int = 1024
    ) -> BlockLoader:
        """Minibatches of cells in the order of the file, for methods that take a ``dataloader``.

        Parameters
        ----------
        indices
            Positions of the cells, in increasing order, or a mask; ``None`` for all.
        batch_size
            Cells in a minibatch.
        """
        index = resolve_indices(self, indices)
        if (np.diff(index) <= 0).any():
            raise ValueError(
                "indices must increase, since cells are read in the order of the file; pass "
                "np.unique(indices), and order the result."
            )
        check_integer("batch_size", batch_size, minimum=1)
        return self._loader(index, batch_size=batch_size, shuffle=False)

    def to_memory(self, indices: Sequence[int] | np.ndarray) -> AnnData:
        """Some of the cells as an AnnData in memory, for methods that take ``adata``.

        Parameters
        ----------
        indices
            Positions of the cells, or a mask.

        Returns
        -------
        AnnData with ``obs``, ``var`` and the values that are modelled.
        """
        return self.cells.to_memory(resolve_indices(self, indices), self.layer)


def _column(key: str, values: Any) -> np.ndarray:
    """Values of a registered field, of the type and shape that scvi-tools' loaders give them."""
    numbers = key in (REGISTRY_KEYS.CONT_COVS_KEY, REGISTRY_KEYS.SIZE_FACTOR_KEY)
    array = np.asarray(values).astype(np.float32 if numbers else np.int64)
    return array.reshape(len(array), -1)
