"""The latent space and the classes of the cells of a file, written into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import check_integer, check_key
from ._decoding import encoded_minibatches
from ._generation import GenerationMixin
from ._random import seeded
from ._stores import Annotation

if TYPE_CHECKING:
    from ._blocks import BlockDataModule


class AnnotationMixin(GenerationMixin):
    """The method ``annotate`` of ``CIVAE``."""

    def annotate(
        self,
        data: BlockDataModule | str | os.PathLike,
        *,
        key_added: str = _keys.KEY_ADDED,
        batch_size: int = 1024,
    ) -> None:
        """Write the latent space and the classes of the cells of a file into it.

        Cells are read and their latent points written block by block, so that any number takes the
        memory of a few thousand. What has the same names is replaced, when all is done.

        Parameters
        ----------
        data
            The cells: a :class:`BlockDataModule`, or the path of an h5ad file or zarr store with the
            columns that the model was set up on. Labels are not needed.
        key_added
            The word in ``obsm["X_civae"]`` (posterior means, float32, shape ``(n_obs, n_latent)``),
            ``obs["civae_predicted"]`` (classes) and ``obs["civae_confidence"]`` (their
            probabilities, in [0, 1]).
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
        from ._blocks import BlockDataModule

        self._require_trained()
        check_key("key_added", key_added)
        check_integer("batch_size", batch_size, minimum=1)
        if not isinstance(data, BlockDataModule):
            data = BlockDataModule(data, registry=self.registry_)
        elif data.n_vars != self.module.n_input or not np.array_equal(
            data.setup_.classes, self.classes
        ):
            raise ValueError(
                f"data must have the {self.module.n_input} genes and {len(self.classes)} classes of "
                f"the model, got {data.n_vars} and {len(data.setup_.classes)}; make it with "
                "BlockDataModule(…, registry=model.registry)."
            )
        classes = self.linear_classes
        kind = np.min_scalar_type(len(self.classes))
        predicted = np.empty(data.n_obs, dtype=kind)
        confidence = np.empty(data.n_obs, dtype=np.float32)
        loader = data.inference_dataloader(batch_size=batch_size)
        with data.cells.opened("r+") as root:
            shape = (data.n_obs, self.module.n_latent)
            path = None if data.cells.adata is not None else data.cells.path
            written = Annotation(root, path, _keys.latent_key(key_added), shape)
            try:
                with self._evaluating() as module, seeded(self._seed):
                    start = 0
                    matrix = data.cells.matrix(root, data.layer)
                    for part in encoded_minibatches(module, loader.minibatches(matrix)):
                        rows = slice(start, start + len(part.mean))
                        written.latent[rows] = part.mean
                        logits = classes.logits(part.mean)
                        predicted[rows] = logits.argmax(axis=1)
                        confidence[rows] = self._probabilities(logits).max(axis=1)
                        start = rows.stop
            except BaseException:
                written.discard()
                raise
            names = pd.Index(self.classes).infer_objects()
            written.finish(
                {
                    _keys.predicted_key(key_added): pd.Categorical.from_codes(predicted, names),
                    _keys.confidence_key(key_added): confidence,
                }
            )
