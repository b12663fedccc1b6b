"""The method ``annotate``: latent space, classes and novelty, written into the file of the cells."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _keys
from .._random import seeded
from .._validate.arguments import check_integer, check_key, check_trained
from ..data.writers import Annotation
from ..module import encoded_minibatches
from ._base import CellsModel
from ._calibration import with_novelty

if TYPE_CHECKING:
    from anndata import AnnData

    from ..data.datamodule import BlockDataModule


def annotate(
    self: CellsModel,
    data: BlockDataModule | AnnData | str | os.PathLike,
    *,
    key_added: str = _keys.KEY_ADDED,
    batch_size: int = 1024,
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

    Raises
    ------
    RuntimeError
        If the model is not trained.
    ValueError
        If the cells do not fit the model.
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
    check_key("key_added", key_added)
    check_integer("batch_size", batch_size, minimum=1)
    if not isinstance(data, BlockDataModule):
        data = BlockDataModule(data, registry=self.registry_)
    self.requirements.check_source(data, "data")
    classes = self.linear_classes
    kind = np.min_scalar_type(len(self.classes))
    predicted = np.empty(data.n_obs, dtype=kind)
    confidence = np.empty(data.n_obs, dtype=np.float32)
    has_novelty = self.calibration_ is not None and "distances" in self.calibration_
    novelty = np.empty(data.n_obs if has_novelty else 0, dtype=np.float32)
    loader = data.inference_dataloader(batch_size=batch_size)
    with data.cells.opened("r+") as root:
        shape = (data.n_obs, self.module.n_latent)
        path = None if data.cells.adata is not None else data.cells.path
        written = Annotation(root, path, _keys.latent_key(key_added), shape)
        try:
            with self.codec.evaluating() as module, seeded(self._seed):
                start = 0
                matrix = data.cells.matrix(root, data.layer)
                minibatches: Iterable = loader.minibatches(matrix)
                if not data.is_checked:
                    minibatches = self.requirements.checked_minibatches(minibatches)
                for part, unlike in (
                    with_novelty(self, module, minibatches)
                    if has_novelty
                    else ((part, None) for part in encoded_minibatches(module, minibatches))
                ):
                    rows = slice(start, start + len(part.mean))
                    written.latent[rows] = part.mean
                    logits = classes.logits(part.mean)
                    predicted[rows] = logits.argmax(axis=1)
                    confidence[rows] = self.codec.probabilities(logits).max(axis=1)
                    if unlike is not None:
                        novelty[rows] = unlike
                    start = rows.stop
        except BaseException:
            written.discard()
            raise
        names = pd.Index(self.classes).infer_objects()
        columns = {
            _keys.predicted_key(key_added): pd.Categorical.from_codes(predicted, names),
            _keys.confidence_key(key_added): confidence,
        }
        if has_novelty:
            columns[_keys.novelty_key(key_added)] = novelty
        written.finish(columns)
