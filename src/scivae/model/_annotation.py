"""The method ``annotate``: latent space, classes and novelty, written into the file of the cells."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._parts import Parts, digest, digest_of_weights
from .._random import seeded
from .._validate.arguments import check_integer, check_key, check_trained
from ..data.writers import Annotation
from ..module import CIVAEModule, encoded_minibatches
from ._base import CellsModel
from ._calibration import with_novelty

if TYPE_CHECKING:
    from anndata import AnnData

    from ..data.datamodule import BlockDataModule

# Smallest number of cells of a part, and most parts: each part reads the positions of all rows.
CELLS_PER_PART, MOST_PARTS = 65_536, 1024


def annotate(
    self: CellsModel,
    data: BlockDataModule | AnnData | str | os.PathLike,
    *,
    key_added: str = _keys.KEY_ADDED,
    batch_size: int = 1024,
    parts: str | os.PathLike | None = None,
) -> None:
    """Write the latent space, classes and novelty of cells into their file or AnnData.

    Cells are read and written block by block, so any number of cells needs the memory of a few thousand.
    Existing entries of the same names are replaced once all results are complete.

    Parameters
    ----------
    data
        The cells: a :class:`BlockDataModule`, an AnnData, or the path of an h5ad file or zarr
        store, with the columns that the model was set up on. Labels are not needed.
    key_added
        The ``civae`` in the names ``obsm["X_civae"]`` (posterior means, float32, shape
        ``(n_obs, n_latent)``), ``obs["civae_predicted"]`` (classes), ``obs["civae_confidence"]``
        (their probabilities, in [0, 1]) and ``obs["civae_novelty"]`` (how different a cell is from all
        classes, in [0, 1]; see :meth:`novelty`, which writes nothing). Novelty is left out if the
        model has no held-out cells to compare with.
    batch_size
        Cells in a minibatch.
    parts
        Folder for finished parts, blocks of 65,536 cells or more. Processes that torchrun or Lightning
        started share the parts, if all make this call and can read the folder; the first process then
        writes the results. A call that was interrupted goes on from the parts that are there. Results
        are those of one process. ``None``: this process does everything, in one pass.

    Raises
    ------
    RuntimeError
        If the model is not trained, or another process fails.
    ValueError
        If the cells do not fit the model, or ``parts`` holds parts of another call.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import anndata, scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> scivae.datasets.pbmc().write_h5ad("new_cells.h5ad")
    >>> model.annotate("new_cells.h5ad")
    >>> anndata.read_h5ad("new_cells.h5ad", backed="r").obsm["X_civae"].shape
    (700, 20)
    """
    from ..data.datamodule import BlockDataModule

    check_trained(self)
    self._warn_without_classifier()
    check_key("key_added", key_added)
    check_integer("batch_size", batch_size, minimum=1)
    if not isinstance(data, BlockDataModule):
        data = BlockDataModule(data, registry=self.registry_)
    self.requirements.check_source(data, "data")
    has_novelty = self.calibration_ is not None and "distances" in self.calibration_

    def blocks(root: Any, rows: np.ndarray | None = None) -> Iterator[Block]:
        loader = data.inference_dataloader(rows, batch_size=batch_size)
        minibatches: Iterable = loader.minibatches(data.cells.matrix(root, data.layer))
        if not data.is_checked:
            minibatches = self.requirements.checked_minibatches(minibatches)
        return _described(self, self.module, minibatches, has_novelty)

    with self.codec.evaluating(), seeded(self._seed):
        if parts is None:
            _write(self, data, key_added, blocks)
            return
        if data.cells.adata is not None:
            raise ValueError(
                "parts needs cells in a file, which all processes can read, but data is an AnnData; pass "
                "the path of an h5ad file or zarr store, or parts=None."
            )
        bounds = _bounds(data.n_obs, batch_size)
        with data.cells.opened() as root:
            work = _work(self, data.cells.matrix(root, data.layer), data)
        work |= {"key_added": key_added, "batch_size": batch_size}
        with Parts(Path(parts) / "annotate", len(bounds) - 1, **work) as shared:
            for i in () if shared.done else shared.missing():
                with data.cells.opened() as root:
                    found = list(blocks(root, np.arange(bounds[i], bounds[i + 1])))
                shared.write(i, [np.concatenate(column) for column in zip(*found, strict=True)])
            shared.finish(lambda: _write(self, data, key_added, lambda root: shared.read()))


# Latent points (n, n_latent), codes of classes, probabilities and, if there is a calibration, novelty.
Block = Sequence[np.ndarray]


def _described(
    model: CellsModel, module: CIVAEModule, minibatches: Iterable, has_novelty: bool
) -> Iterator[Block]:
    """Annotation of the cells of each minibatch."""
    classes = model.linear_classes
    kind = np.min_scalar_type(len(model.classes))
    for part, unlike in (
        with_novelty(model, module, minibatches)
        if has_novelty
        else ((part, None) for part in encoded_minibatches(module, minibatches))
    ):
        logits = classes.logits(part.mean)
        confidence = model.codec.probabilities(logits).max(axis=1)
        block = [part.mean, logits.argmax(axis=1).astype(kind), confidence.astype(np.float32)]
        yield block if unlike is None else [*block, unlike.astype(np.float32)]


def _write(
    model: CellsModel,
    data: BlockDataModule,
    key_added: str,
    blocks: Callable[[Any], Iterable[Block]],
) -> None:
    """Write blocks of annotation, in the order of the cells; ``blocks`` takes the root of the open file."""
    with data.cells.opened("r+") as root:
        shape = (data.n_obs, model.module.n_latent)
        path = None if data.cells.adata is not None else data.cells.path
        written = Annotation(root, path, _keys.latent_key(key_added), shape)
        columns: list[Block] = []
        try:
            start = 0
            for latent, *block in blocks(root):
                written.latent[start : start + len(latent)] = latent
                start += len(latent)
                columns.append(block)
        except BaseException:
            written.discard()
            raise
        predicted, *others = (np.concatenate(column) for column in zip(*columns, strict=True))
        names = pd.Index(model.classes).infer_objects()
        keys = (_keys.confidence_key(key_added), _keys.novelty_key(key_added))
        written.finish(
            {
                _keys.predicted_key(key_added): pd.Categorical.from_codes(predicted, names),
                **dict(zip(keys, others, strict=False)),
            }
        )


def _bounds(n_obs: int, batch_size: int) -> list[int]:
    """First cell of each part and the end: whole minibatches, as the size of one changes the last bits."""
    size = max(CELLS_PER_PART, -(-n_obs // MOST_PARTS))
    size = -(-size // batch_size) * batch_size
    return [*range(0, n_obs, size), n_obs]


def _work(model: CellsModel, matrix: Any, data: BlockDataModule) -> dict[str, Any]:
    """The cells and the model, as far as a look at a few cells and at all columns shows them."""
    starts = np.unique(np.linspace(0, max(data.n_obs - 4, 0), 8).astype(int))
    values = [matrix[int(start) : int(start) + 4] for start in starts]
    calibration = {"temperature": model.temperature_, **(model.calibration_ or {})}
    return {
        "cells": digest(np.array([data.n_obs, data.n_vars]), *data.fields.values(), *values),
        "model": digest_of_weights(model.module.state_dict()),
        "calibration": digest(*(x for item in calibration.items() for x in item)),
    }
