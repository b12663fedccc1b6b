"""The methods ``predict`` and ``decode``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .._errors import warn
from .._validate.arguments import check_bool, check_integer, check_trained
from ..data import checks
from ..data.checks import resolve_indices
from ..train.calibration import check_level
from ._base import CellsModel
from ._calibration import require_calibration, sets_of

# Default coverage of prediction sets.
LEVEL = 0.9


@checks.leaves_unchanged
def predict(
    self: CellsModel,
    adata: AnnData | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    soft: bool = False,
    batch_size: int | None = None,
    dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
    *,
    return_sets: bool = False,
    level: float = LEVEL,
) -> np.ndarray | pd.DataFrame:
    """Classify cells: the class, probabilities, or prediction sets with a given coverage.

    Parameters
    ----------
    adata
        Cells with the genes of the model; labels are not needed. ``None``: the training data.
    indices
        Positions of the cells, or a mask; ``None`` for all.
    soft
        Return probabilities: the softmax of the logits divided by a temperature. The temperature was
        fitted on the held-out cells of training (Guo et al., "On calibration of modern neural
        networks", 2017); it is 1 if cross-validation on these cells does not show that it helps.
    batch_size
        Cells in a minibatch.
    dataloader
        Minibatches in place of ``adata``, as :meth:`BlockDataModule.inference_dataloader` gives
        them.

    return_sets
        Return prediction sets: all classes that a cell could belong to. A set contains the true class
        with probability ``level`` if the cell is like the held-out cells of training: not of
        another donor, batch or unknown class. Each class with 20 or more held-out cells has this
        coverage by itself; the other classes have it jointly.
    level
        Coverage of the sets, between 0 and 1.

    Returns
    -------
    Names of the classes, shape ``(n,)``; with ``soft`` a DataFrame of probabilities, cells ×
    classes; with ``return_sets`` a boolean DataFrame, cells × classes, true where the class
    belongs to the set of the cell. A row can be empty: no class fits the cell well enough. Empty sets
    are common if the most probable class is correct more often than ``level``.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    ValueError
        If sets are requested and the model has no calibration; call :meth:`calibrate`.

    Notes
    -----
    Split conformal prediction on the odds against each class. The rank of the threshold among n held-out
    scores is rounded up or down at random, once, with a seed made from the seed of the model and the labels.
    So the coverage is ``level`` itself, not up to 1 / (n + 1) above it
    (:func:`scivae.metrics.conformal_thresholds`).

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> model.predict(soft=True).shape
    (700, 10)
    >>> sets = model.predict(return_sets=True, level=0.8)
    >>> sets.shape, sets.dtypes.unique().tolist()
    ((700, 10), [dtype('bool')])
    """
    check_trained(self)
    self._warn_without_classifier()
    check_bool("soft", soft)
    check_bool("return_sets", return_sets)
    if return_sets:
        check_level(level)
        require_calibration(self, "scores")
        if soft:
            raise ValueError(
                "soft and return_sets must not both be True, because they return different tables; "
                "pass only one of them."
            )
    elif level != LEVEL:
        warn(
            f"level={level!r} has no effect without return_sets=True; pass return_sets=True for sets."
        )
    if batch_size is not None:
        check_integer("batch_size", batch_size, minimum=1)
    names: pd.Index | None = None
    if dataloader is None:
        adata = self._validate_anndata(adata, every_row=False)
        index = resolve_indices(adata, indices)
        names = adata.obs_names[index]
        means = self.codec.encode(adata, index, batch_size).mean
    else:
        loader = self.requirements.checked_loader(dataloader, adata=adata, indices=indices)
        means = np.concatenate([part.mean for part in self.codec.encode_loader(loader)])
    logits = self.linear_classes.logits(means)
    if return_sets:
        return pd.DataFrame(sets_of(self, logits, level), index=names, columns=self.classes)
    if not soft:
        return self.classes[logits.argmax(axis=1)]
    return pd.DataFrame(self.codec.probabilities(logits), index=names, columns=self.classes)


def decode(
    self: CellsModel,
    z: np.ndarray,
    covariates: pd.DataFrame | None = None,
    *,
    library_size: float | np.ndarray | None = None,
    sample: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Decode latent points to expression values.

    Parameters
    ----------
    z
        Latent points, shape ``(n, n_latent)``.
    covariates
        One row per point, with columns of the setup (batch, categorical and continuous covariates,
        in their own units). Missing columns: the first category, or for continuous
        covariates the mean of the cells of the setup.
    library_size
        Total counts of each cell, one number or shape ``(n,)`` (the size factor, if the model was
        set up with one); ``None`` for the median of the training cells. Has no effect on
        continuous data.
    sample
        Draw from the likelihood instead of taking its mean. Compare only samples with real
        cells in gene space: the log of a mean is not the mean of logs.
    seed
        Seed of the samples.

    Returns
    -------
    Expected values or samples in the units of the layer that was modeled, float32, shape
    ``(n, n_vars)``.

    Raises
    ------
    ValueError
        If shapes do not match, or points are not finite.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> z = model.get_latent_representation(indices=[0, 1])
    >>> model.decode(z, library_size=1000.0).sum(axis=1).round()
    array([1000., 1000.], dtype=float32)
    """
    check_trained(self)
    return self.codec.decode(z, covariates, library_size=library_size, sample=sample, seed=seed)
