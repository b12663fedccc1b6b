"""Split cells into training, held-out and test cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from anndata import AnnData

from .._names import as_text
from .checks import LABEL_CODES


def stratified_split(
    labels: np.ndarray,
    *,
    train_size: float,
    validation_size: float | None,
    batch_size: int,
    seed: int,
) -> list[np.ndarray]:
    """Split cells, stratified by class.

    If less than one cell of a class would be held out, all its cells are used for training, because holding
    out one could remove the only cell with its label.

    Parameters
    ----------
    labels
        Codes of the classes, shape ``(n_obs,)``.
    train_size, validation_size
        Fractions of the cells; the rest are test cells.
    batch_size
        Cells per minibatch. The split avoids a last minibatch of one cell, on which batch normalization
        cannot train.
    seed
        Seed of the permutation.

    Returns
    -------
    Indices of the training, validation and test cells.
    """
    if not 0 < train_size <= 1:
        raise ValueError(f"train_size must lie in (0, 1], got {train_size}.")
    if validation_size is None:
        validation_size = 1 - train_size
    if not 0 <= validation_size <= 1 - train_size + 1e-9:
        raise ValueError(
            f"validation_size must lie in [0, 1 - train_size], got {validation_size} with "
            f"train_size={train_size}."
        )
    n_obs = len(labels)
    sizes = np.bincount(labels)[labels]
    spared = np.round(sizes * (1 - train_size), 6) < 1
    n_train = int(np.ceil(round(train_size * (~spared).sum() + spared.sum(), 6)))
    n_validation = min(int(round(validation_size * (~spared).sum())), n_obs - n_train)
    if 0 < n_train % batch_size < 3 and n_train > batch_size and n_train < n_obs:
        n_validation += n_train % batch_size
        n_train -= n_train % batch_size
    permuted = np.random.default_rng(seed).permutation(n_obs)
    by_class = permuted[np.argsort(labels[permuted], kind="stable")]
    # In the order of the classes, each part gets cells at even intervals.
    part = np.zeros(n_obs, dtype=int)
    for number, size in ((1, n_validation), (2, n_obs - n_train - n_validation)):
        free = np.flatnonzero((part == 0) & ~spared[by_class])
        part[free[((np.arange(size) + 0.5) * len(free) / max(size, 1)).astype(int)]] = number
    return [by_class[part == number] for number in range(3)]


def labeled_sides(
    adata: AnnData, labels_key: str, n_classes: int, sides: Iterable[Any]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels as text, and the labeled cells in each part of a split.

    Parameters
    ----------
    adata
        Cells that were set up.
    labels_key
        Column of the labels.
    n_classes
        Number of classes; codes of unlabeled cells are not smaller.
    sides
        Positions of the cells of each part, or ``None`` for none.

    Returns
    -------
    Labels, shape ``(n_obs,)``, and positions for each part.
    """
    known = np.asarray(adata.obs[LABEL_CODES]) < n_classes
    found = [np.asarray([] if side is None else side, dtype=int) for side in sides]
    return as_text(adata.obs[labels_key]).astype(str), [side[known[side]] for side in found]
