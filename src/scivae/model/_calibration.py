"""Calibration on held-out cells: temperature, prediction sets, novelty."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from .. import _keys
from .._errors import warn
from .._progress import track
from .._quiet import quiet_about_sparse_tensors
from .._random import seeded
from .._validate.arguments import check_integer, check_trained
from ..data import checks
from ..data.checks import resolve_indices
from ..metrics import conformal_thresholds
from ..module import CIVAEModule, Posterior, encoded_minibatches
from ..train.calibration import (
    MAX_CELLS,
    MAX_RESIDUALS,
    MIN_OF_CLASS,
    OF_TRAINING,
    ClassGaussians,
    Loader,
    ResidualScale,
    at_most,
    calibrated_rank,
    cells_for_temperature,
    check_level,
    larger_of,
    log_library_of,
    log_odds_against,
    misfits_of,
    own_log_odds,
    useful_temperature,
    with_residuals,
)
from ._base import CellsModel


@checks.leaves_unchanged
def calibrate(
    self: CellsModel,
    adata: AnnData | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    batch_size: int | None = None,
) -> None:
    """Calibrate probabilities, prediction sets and novelty on labeled cells.

    :meth:`train` does this with the cells that it holds out. Call it for a model that has no
    calibration, or to calibrate on cells that resemble later ones more closely, such as labeled cells
    of other donors or of the query. Do not use cells that the model was trained on: it is overconfident
    about those.

    Parameters
    ----------
    adata
        Cells with the genes and labels of the model. ``None``: the training data.
    indices
        Positions of the cells, or a mask. ``None``: the cells that training held out, if
        ``adata`` is the training data, else all.
    batch_size
        Cells in a minibatch.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    ValueError
        If no cell has a label, or there are no held-out cells.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=5, enable_progress_bar=False)
    >>> others = scivae.datasets.synthetic(n_cells=300, n_genes=40, seed=1)
    >>> model.calibrate(others)
    >>> model.predict(return_sets=True, level=0.95).shape
    (300, 3)
    """
    check_trained(self)
    if batch_size is not None:
        check_integer("batch_size", batch_size, minimum=1)
    own = adata is None or adata is self.adata
    # Done before the cells are validated, because scvi-tools attaches them to a model without an AnnData.
    training = _training_loaders(self, _cells_of_training(self))
    adata = self._validate_anndata(adata)
    self._warn_of_changed_columns(adata)
    if own and indices is None:
        held_out = self.validation_indices
        if held_out is None or not len(held_out):
            raise ValueError(
                "calibration needs held-out cells, but training held out none; pass adata= or "
                "indices= with labeled cells that the model was not trained on, or train with "
                "train_size below 1."
            )
        indices = held_out
    cells = np.unique(resolve_indices(adata, indices))
    if learned := self._n_learned(adata, cells):
        warn(
            f"calibrate needs cells that the model was not trained on, but it was trained on {learned:,} of these "
            f"{len(cells):,}, so sets will be too small and probabilities too high; leave "
            "adata and indices out, or pass cells that were held out."
        )
    if not _calibrate_on(self, lambda: self._minibatches(adata, cells, batch_size), training):
        raise ValueError(
            f"calibration needs labels, but none of the {len(cells)} cells has one; "
            f"fill adata.obs[{self.setup.labels_key!r}] with classes of the model."
        )


@checks.leaves_unchanged
def novelty(
    self: CellsModel,
    adata: AnnData | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    batch_size: int | None = None,
    dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
) -> pd.Series | np.ndarray:
    """Novelty of cells: how different they are from all classes, from 0 to 1.

    Novelty is a rank among the held-out cells: 0.95 means that 95 % of them are closer to a class. If new
    cells belong to known classes and resemble the training cells, 5 % of them exceed 0.95. If they come
    from other donors or batches, more than 5 % do. Each cell has two scores, and the larger is ranked: the
    Mahalanobis distance in latent space to the nearest class, and the misfit of the values decoded from the
    latent point. Unexpectedly expressed genes contribute most to the misfit.

    Parameters
    ----------
    adata
        Cells with the genes of the model; labels are not needed. ``None``: the training data.
    indices
        Positions of the cells, or a mask; ``None`` for all.
    batch_size
        Cells in a minibatch.
    dataloader
        Minibatches in place of ``adata``.

    Returns
    -------
    Series with the obs names as index, shape ``(n,)``; an array for a ``dataloader``. Training cells
    get lower values than other cells.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    ValueError
        If the model has no calibration.

    See Also
    --------
    CIVAE.annotate : Writes novelty into ``obs["civae_novelty"]``.

    References
    ----------
    Lee et al., "A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks", NeurIPS 31 (2018); here with a covariance for each class, shrunk toward
    the pooled one. The two scores were chosen on `pbmc_kang` and `colon_crc`.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=5, enable_progress_bar=False)
    >>> new = scivae.datasets.synthetic(n_cells=300, n_genes=40, seed=1)
    >>> bool(model.novelty(new).between(0, 1).all())
    True
    """
    check_trained(self)
    if batch_size is not None:
        check_integer("batch_size", batch_size, minimum=1)
    require_calibration(self, "distances")
    self._warn_without_classifier()
    if dataloader is not None:
        loader = self.requirements.checked_loader(dataloader, adata=adata, indices=indices)
        return _novelty_of(self, loader)
    adata = self._validate_anndata(adata, every_row=False)
    index = resolve_indices(adata, indices)
    # Loaders read files in sorted order, whatever the order asked for.
    cells, inverse = np.unique(index, return_inverse=True)
    found = _novelty_of(self, self._minibatches(adata, cells, batch_size))[inverse]
    return pd.Series(found, index=adata.obs_names[index], name=_keys.novelty_key())


def _novelty_of(model: CellsModel, loader: Iterable[dict[str, torch.Tensor]]) -> np.ndarray:
    with model.codec.evaluating() as module, seeded(model._seed), quiet_about_sparse_tensors():
        followed = track(loader, "comparing cells with classes", unit="batches")
        return np.concatenate([found for _, found in with_novelty(model, module, followed)])


def with_novelty(
    model: CellsModel, module: CIVAEModule, minibatches: Iterable[dict[str, torch.Tensor]]
) -> Iterator[tuple[Posterior, np.ndarray]]:
    """Cells and their novelty, shape ``(n,)``, block by block."""
    held = require_calibration(model, "distances")
    gaussians = ClassGaussians(held["means"], held["whitening"])
    known = [held["distances"]]
    # Minified data have no expression values to compare with decoded ones.
    if "misfits" in held and module.minified_data_type is None:
        scale = ResidualScale(*(held[f"residual_{name}"] for name in ResidualScale._fields))
        known.append(held["misfits"])
        for part, misfit in misfits_of(module, minibatches, scale):
            scores = [gaussians.distance(part.mean), misfit]
            yield part, calibrated_rank(larger_of(scores, known), larger_of(known, known))
    else:
        if "misfits" in held:
            warn(
                "novelty of minified cells compares their latent points alone, because their values are "
                "gone; it differs from that of the full cells, so calculate it before minify_adata."
            )
        for part in encoded_minibatches(module, minibatches):
            scores = [gaussians.distance(part.mean)]
            yield part, calibrated_rank(larger_of(scores, known), larger_of(known, known))


def sets_of(model: CellsModel, logits: np.ndarray, level: float) -> np.ndarray:
    """Whether each class belongs to the prediction set of each cell, ``(n, n_classes)``."""
    held = require_calibration(model, "scores")
    thresholds = conformal_thresholds(
        held["scores"],
        held["labels"],
        classes=np.arange(len(model.classes)),
        level=check_level(level),
        min_cells=MIN_OF_CLASS,
        # The seed depends on the labels too: otherwise the same classes would be rounded up on all data.
        seed=model._seed ^ zlib.crc32(np.asarray(held["labels"], dtype=np.int64).tobytes()),
    )
    return log_odds_against(logits) <= thresholds


def require_calibration(model: CellsModel, part: str) -> dict[str, np.ndarray]:
    """Return the calibration of a model; raise a ValueError if it lacks this part."""
    if model.calibration_ is not None and part not in model.calibration_:
        raise ValueError(
            "this model has no class means, which come from training cells; load the "
            "model with its training AnnData and call model.calibrate() again."
        )
    if model.calibration_ is None:
        raise ValueError(
            "this model has no scores of held-out cells, because it was trained on all labeled "
            "cells or saved by an earlier version; call model.calibrate() with labeled cells that "
            "it was not trained on."
        )
    return model.calibration_


def calibrate_held_out(model: CellsModel, datamodule: Any = None) -> None:
    """Calibrate on labeled held-out cells, if there are any.

    A model mapped onto a reference keeps the calibration of the reference unless the query has enough
    labeled held-out cells.
    """
    if not model.mapped_:
        model.temperature_, model.calibration_ = 1.0, None
    cells = _cells_of_training(model, datamodule)
    if cells is None or not len(cells.held_out):
        return

    def held_out() -> Iterable[dict[str, torch.Tensor]]:
        return cells.minibatches(cells.held_out)

    if model.mapped_:  # a query need not contain all classes of the reference
        _calibrate_on(model, held_out, None, min_labeled=MIN_OF_CLASS)
    else:
        _calibrate_on(model, held_out, _training_loaders(model, cells))


def _calibrate_on(
    model: CellsModel,
    held_out: Loader,
    training: tuple[Loader, Loader] | None,
    min_labeled: int = 1,
) -> bool:
    """Set temperature and calibration from labeled held-out cells; return whether there were enough.

    ``training`` holds loaders of training cells, from :func:`_training_loaders`; without them, the
    statistics of the classes are kept. With fewer than ``min_labeled`` labeled held-out cells, nothing
    is changed and the result is ``False``.
    """
    n_classes = len(model.classes)
    known = {k: v for k, v in (model.calibration_ or {}).items() if k in OF_TRAINING}
    with model.codec.evaluating() as module, seeded(model._seed), quiet_about_sparse_tensors():
        if training is not None:
            known = _describe_classes(model, module, *training)
        parts: Iterable[tuple[Posterior, np.ndarray | None]]
        if "residual_mean" in known:
            names = (f"residual_{name}" for name in ResidualScale._fields)
            scale = ResidualScale(*(known[name] for name in names))
            parts = list(misfits_of(module, held_out(), scale))
        else:
            parts = [(part, None) for part in encoded_minibatches(module, held_out())]
    cells = Posterior.concatenate([part for part, _ in parts])
    labeled = cells.labels < n_classes
    if labeled.sum() < min_labeled:
        return False
    z, labels = cells.mean[labeled], cells.labels[labeled]
    classes = model.linear_classes
    scores = own_log_odds(lambda rows: classes.logits(z[rows]), labels, n_classes)
    found = {"scores": scores, "labels": labels}
    if "means" in known:
        found["distances"] = ClassGaussians(known["means"], known["whitening"]).distance(z)
    misfits = [misfit for _, misfit in parts if misfit is not None]
    if misfits:
        found["misfits"] = np.concatenate(misfits)[labeled]
    some = cells_for_temperature(len(labels), n_classes, model._seed)
    model.temperature_ = useful_temperature(classes.logits(z[some]), labels[some])
    model.calibration_ = {**found, **known}
    return True


def _describe_classes(
    model: CellsModel, module: CIVAEModule, training: Loader, few: Loader
) -> dict[str, np.ndarray]:
    """Means and covariances of classes, and residual scales, of training cells.

    Unlabeled cells count for their predicted class.
    """
    cells = Posterior.concatenate(list(encoded_minibatches(module, training())))
    predicted = model.linear_classes.logits(cells.mean).argmax(axis=1)
    n_classes = len(model.classes)
    labels = np.where(cells.labels < n_classes, cells.labels, predicted)
    found = ClassGaussians.fit(cells.mean, labels, n_classes)._asdict()
    if module.minified_data_type is None:
        scale = ResidualScale.fit(
            (
                ((x, log_library_of(part.covariates)) for part, x in with_residuals(module, few()))
                for _ in range(2)
            ),
            degree=2 if module.family.counts else 0,
        )
        found |= {f"residual_{name}": values for name, values in scale._asdict().items()}
    return found


class _CellsOfTraining(NamedTuple):
    """Positions of the training and held-out cells, and a function that makes a loader of cells."""

    minibatches: Callable[[np.ndarray], Iterable[dict[str, torch.Tensor]]]
    training: np.ndarray
    held_out: np.ndarray


def _cells_of_training(model: CellsModel, datamodule: Any = None) -> _CellsOfTraining | None:
    """Training and held-out cells of a datamodule or of the model; ``None`` if neither has them."""
    if hasattr(datamodule, "inference_dataloader"):
        return _CellsOfTraining(
            datamodule.inference_dataloader, datamodule.train_idx, datamodule.val_idx
        )
    parts = (model.train_indices, model.validation_indices, model.test_indices)
    training, held_out, rest = (np.sort(np.zeros(0, int) if p is None else p) for p in parts)
    n_obs = len(training) + len(held_out) + len(rest)
    # The model may have another AnnData now than the one that the split refers to.
    if model.adata is None or not len(training) or n_obs != model.adata.n_obs:
        return None
    return _CellsOfTraining(partial(model._minibatches, model.adata), training, held_out)


def _training_loaders(
    model: CellsModel, cells: _CellsOfTraining | None
) -> tuple[Loader, Loader] | None:
    """Two loaders of training cells, one of many and one of few; ``None`` if there are no such cells."""
    if cells is None:
        return None
    rng = np.random.default_rng(model._seed)
    some = (at_most(np.asarray(cells.training), n, rng) for n in (MAX_CELLS, MAX_RESIDUALS))
    many, few = (partial(cells.minibatches, index) for index in some)
    return many, few
