"""Cells that do not fit in memory, read in blocks: a datamodule for training and inference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from .. import _keys
from .._scvi import MODEL_NAME, SETUP_ARGS, SETUP_METHOD_NAME
from .._validate.arguments import check_bool, check_choice, check_integer, check_number
from ..module import COUNT_LIKELIHOODS
from . import annbatch, checks, likelihoods, profile, sources
from .blocks import BlockLoader
from .checks import resolve_indices
from .fingerprint import Fingerprint
from .information import pca_information
from .registry import register
from .setup import Setup
from .split import stratified_split


class BlockDataModule(LightningDataModule):
    """Train on cells that do not fit in memory: a datamodule that reads blocks from disk.

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
        Registry of a trained model, instead of the arguments above: to apply the model to these cells.
        They are read with its classes, batches and covariates, and need no labels.
    batch_size
        Cells per minibatch (and per process, if there are several). It is increased if a last minibatch
        of one cell would be left.
    train_size, validation_size
        Fractions of the cells to train on and to hold out (default: the rest), stratified by class.
    block_size
        Cells per block. Larger blocks are read faster, but in a sorted file, cells of a pool are then more
        similar to each other.
    pool_size
        Cells that are shuffled together; two pools are in memory at a time.
    seed
        Seed of the split and of the order of the cells.
    check
        Read all values once: for errors that name the cell, ``likelihood="auto"``,
        ``discriminator_weight="auto"``, the class weights and the library size. ``False`` skips this, for
        data that were checked before.
    reader
        Package that reads the file. ``"annbatch"`` is several times faster, but only reads zarr stores;
        it needs Python 3.12 or later (``pip install "scivae-tools[large]"``).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If a column or the layer does not exist; the error lists the existing ones.
    ValueError
        If the values are stored by columns, are NaN or infinite, if labels or covariates are missing,
        or if a cell has no counts.

    Notes
    -----
    If all blocks fit into one pool, minibatches, losses and weights are the same, bit for bit on a CPU, as
    those of :meth:`CIVAE.train` with the cells in memory and the same seed.

    With ``strategy="ddp"``, each process gets ``batch_size`` cells, and all processes read all blocks.
    Together, n processes have the minibatches of a single process with n times the ``batch_size``. Batch
    normalization uses the statistics of each process's part, unless the trainer is given
    ``sync_batchnorm=True``, which torch supports on GPUs only.

    The chunk size of the file affects the speed. Best are chunks with about as many values as a block
    (100,000 values for 500 cells with 200 nonzero genes each). From larger chunks, more is read than the
    block needs.

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
        self.cells = sources.Cells(source)
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
        self.read_pools = {"anndata": sources.read_pools, "annbatch": annbatch.read_pools}[reader]
        if reader == "annbatch" and (self.cells.adata is not None or not self.cells.path.is_dir()):
            raise ValueError(
                f"reader='annbatch' reads zarr stores, but {self.cells} is not one; use "
                "reader='anndata', or write the cells with adata.write_zarr."
            )
        if registry is not None:
            arguments |= {"ordered": False, **registry["setup_args"]}
        adata = self._skeleton(arguments, needs_labels=registry is None)
        if registry is not None:
            checks.check_genes(adata, Setup.from_registry(registry).genes)
        further: dict[str, Any] = {} if registry is None else {"source_registry": registry}
        said = {MODEL_NAME: "CIVAE", SETUP_METHOD_NAME: "setup_anndata", SETUP_ARGS: arguments}
        manager = register(
            adata,
            said,
            **arguments,
            **further,
        )
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
                    f"{self.cells} holds {matrix.shape[0]} × {matrix.shape[1]} values, but names "
                    f"of {adata.n_obs} cells and {adata.n_vars} genes; write it again."
                )
            if check:
                counts = profile.class_counts(codes, len(self.setup_.classes))
                found = profile.DataProfile.in_adata(
                    adata, self.layer, self.setup_.size_factor_key, counts, matrix
                )
                likelihood = likelihoods.choose_likelihood(found.summary)
                if likelihood in COUNT_LIKELIHOODS:
                    likelihoods.check_values(
                        adata, self.layer, found.summary, likelihood, training=registry is None
                    )
                self.rounds = found.summary.kind == "near counts"
                information = pca_information(matrix, counts=likelihood in COUNT_LIKELIHOODS)
                self.registry[profile.PROFILE] = found._replace(information=information).to_plain()
        parts = stratified_split(
            codes,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=batch_size,
            seed=self.seed,
        )
        self._train_order = parts[0]
        self.train_idx, self.val_idx, self.test_idx = (np.sort(part) for part in parts)
        # Batch normalization cannot train on a last minibatch of one cell.
        while len(self.train_idx) % batch_size == 1:
            batch_size += 1
        self.batch_size = batch_size

    def _skeleton(self, arguments: dict[str, Any], *, needs_labels: bool) -> AnnData:
        """The AnnData without values and with the columns of the setup only; raise if one is missing."""
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
                checks.check_columns(columns, {name: key})
        return self.cells.skeleton(key for _, key in wanted)

    def check_unchanged(self, matrix: Any) -> None:
        """Raise a ValueError if values, or the number of cells or genes, have changed.

        Parameters
        ----------
        matrix
            The result of ``Cells.matrix``. Values are compared only if they are in memory.
        """
        known = self._fingerprint
        if tuple(matrix.shape) != (self.n_obs, self.n_vars) or not (
            known is None or known.holds(matrix, every_row=True)
        ):
            raise ValueError(
                f"{self.cells} must not change after the datamodule is created, but its values "
                "have changed; create a new datamodule."
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
        """Number of labels, including the unlabeled category."""
        return len(self.setup_.classes) + (self.setup_.unlabeled_category is not None)

    def _loader(self, index: np.ndarray, **kwargs: Any) -> BlockLoader:
        return BlockLoader(self, index, **kwargs)

    def take_together(self, minibatches: int, *, as_rows: bool) -> None:
        """Set how cells are yielded; called by :meth:`CIVAE.train`.

        Parameters
        ----------
        minibatches
            Number of minibatches that are yielded at once, concatenated.
        as_rows
            Whether to yield sparse values as CSR tensors instead of dense ones.
        """
        self._minibatches, self._as_rows = minibatches, as_rows

    def _of_training(self) -> dict[str, Any]:
        at_once: dict[str, Any] = {
            "batch_size": self.batch_size * self._minibatches,
            "minibatch_size": self.batch_size,
            "as_rows": self._as_rows,
        }
        trainer = self.trainer
        if trainer is not None:
            at_once |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
        return at_once

    def train_dataloader(self) -> BlockLoader:
        """Minibatches of the training cells, shuffled anew in every epoch."""
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
        AnnData with ``obs``, ``var`` and the values that are modeled.
        """
        return self.cells.to_memory(resolve_indices(self, indices), self.layer)


def _column(key: str, values: Any) -> np.ndarray:
    """Values of a registered field, with the type and shape that scvi-tools' loaders yield."""
    numbers = key in (REGISTRY_KEYS.CONT_COVS_KEY, REGISTRY_KEYS.SIZE_FACTOR_KEY)
    array = np.asarray(values).astype(np.float32 if numbers else np.int64)
    return array.reshape(len(array), -1)
