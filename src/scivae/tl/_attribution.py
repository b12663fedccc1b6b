"""Which genes make the discriminator choose a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .._errors import warn
from .._progress import track
from .._validate.arguments import check_choice, check_integer
from ._model import check_measured, check_model

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

MEAN, ZERO = "mean", "zero"
# Cells per minibatch; the gradients of all genes are in memory for each of them.
BATCH_SIZE = 128
# Largest deviation from completeness, as a fraction of the mean difference of logits.
TOLERANCE = 0.05


def attribute(
    model: CIVAE,
    label: Any,
    other: Any = None,
    *,
    adata: AnnData | None = None,
    baseline: Literal["mean", "zero"] = "mean",
    max_cells: int = 500,
    n_steps: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Find the genes by which the classifier recognizes a class, or tells two classes apart.

    Parameters
    ----------
    model
        A trained model.
    label
        Class whose cells are explained.
    other
        Class to tell it apart from; ``None`` for all other classes.
    adata
        The cells; ``None`` for the training data. A cell without a label counts as the class that
        is predicted.
    baseline
        Expression profile that cells are compared with. ``"mean"``: the mean of the cells of
        ``other``, or of all other classes, each class with the same weight. ``"zero"``: no
        expression.
    max_cells
        Maximum number of cells of each class; a random subset is used if there are more.
    n_steps
        Number of points at which the gradient is evaluated between the baseline and a cell.
    seed
        Seed of the random subsets.

    Returns
    -------
    DataFrame with one row per gene. Genes that raise the logit of ``label`` most come first, those that lower
    it most come last:

    - ``attribution``: how much the gene raises the logit of the class, averaged over cells (a logit is a
      natural logarithm of odds)
    - ``sd``: standard deviation over cells
    - ``agreement``: fraction of cells in which the attribution has the sign of the mean
    - ``value``, ``baseline``: mean expression of the cells and of the baseline, in the units of the
      encoder (log1p of counts, or the values of continuous data)

    ``attrs``: ``label``, ``other``, ``n_cells``; ``difference``, the mean difference of logits between the
    cells and the baseline, to which the attributions add up; ``error``, the largest deviation of a
    cell from this sum, as a fraction of the mean size of the difference.

    Raises
    ------
    KeyError
        If ``label`` or ``other`` is not a class of the model.
    ValueError
        If a class has no cells, if both classes are the same, or if the data are minified.

    Warns
    -----
    UserWarning
        If ``error`` is above 5 %.

    Notes
    -----
    A single logit is only defined up to a constant, so a difference of logits is explained: the logit of
    ``label`` minus that of ``other``, or minus the mean of all other classes. The classifier is linear in z and
    needs no approximation. For the encoder, integrated gradients are used. For each cell, attributions
    add up to the difference of logits between the cell and the baseline (completeness).

    An attribution describes the model. A gene that changes along with better markers can have a small
    attribution, because the model does not need every marker. Its sign is not the direction of expression.
    It is not a test of differential expression.

    Classes should have similar library sizes, because the baseline has the library sizes of the other class.
    In a simulation with three times the depth in one class, markers had attributions no larger than other
    genes; at equal depth, all markers ranked first.

    References
    ----------
    Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML (2017).

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=5, enable_progress_bar=False)
    >>> genes = scivae.tl.attribute(model, "CD14+ Monocyte", "Dendritic")
    >>> genes.columns.tolist()
    ['attribution', 'sd', 'agreement', 'value', 'baseline']
    >>> bool(abs(genes["attribution"].sum() / genes.attrs["difference"] - 1) < 0.05)
    True
    """
    import torch

    from .._random import seeded
    from ..module import encoder_values, integrated_gradients

    check_choice("baseline", baseline, (MEAN, ZERO))
    max_cells = check_integer("max_cells", max_cells, minimum=1)
    n_steps = check_integer("n_steps", n_steps, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    check_model(model)
    code, others = _contrast(model, label, other)
    with model.reading(adata) as adata:
        check_measured(adata, "attribute", "adata= with the cells and their values")
        codec = model.codec
        classes = codec.class_codes(codec.encode(adata, np.arange(adata.n_obs)))
        cells = _some(classes, [code, *others], max_cells, seed)
        if not len(cells[0]):
            raise ValueError(
                f"label must be a class with cells, got {label!r}, which has none of "
                f"{adata.n_obs}; pass cells of this class as adata=."
            )
        if baseline == MEAN and not any(len(c) for c in cells[1:]):
            raise ValueError(
                "baseline='mean' needs cells of the other classes, but adata has none; pass adata= "
                "with cells of them, or baseline='zero'."
            )
        with codec.evaluating() as module, seeded(seed):
            profile = torch.zeros(module.n_input, device=module.device)
            if baseline == MEAN:
                means = []
                for rows in (c for c in cells[1:] if len(c)):
                    loader = codec.minibatches(adata, rows, BATCH_SIZE)
                    parts = [encoder_values(module, batch).double().sum(0) for batch in loader]
                    means.append(torch.stack(parts).sum(0) / len(rows))
                profile = torch.stack(means).mean(0).float()
            w = model.linear_classes.weights
            weights = torch.as_tensor(w[code] - w[others].mean(axis=0), dtype=torch.float32)
            weights = weights.to(module.device)
            sums, squares, positive, negative, values = np.zeros((5, module.n_input))
            errors: list[float] = []
            differences: list[np.ndarray] = []
            loader = codec.minibatches(adata, cells[0], BATCH_SIZE)
            for batch in track(loader, "attributing", unit="batches"):
                found, whole = integrated_gradients(
                    module, batch, profile, weights, n_steps=n_steps
                )
                found = found.double()
                sums += found.sum(0).cpu().numpy()
                squares += found.square().sum(0).cpu().numpy()
                positive += (found > 0).sum(0).cpu().numpy()
                negative += (found < 0).sum(0).cpu().numpy()
                values += encoder_values(module, batch).double().sum(0).cpu().numpy()
                differences.append(whole.cpu().numpy())
                errors.append((found.sum(1) - whole).abs().max().item())
        genes = model.setup.genes
    n = len(cells[0])
    mean = sums / n
    difference = np.concatenate(differences)
    error = max(errors) / max(float(np.abs(difference).mean()), float(np.finfo(np.float32).tiny))
    if error > TOLERANCE:
        warn(
            f"the attributions of a cell do not add up: they deviate by {100 * error:.0f} % of the mean "
            f"difference of logits; pass n_steps={4 * n_steps}."
        )
    table = pd.DataFrame(
        {
            "attribution": mean,
            "sd": np.sqrt(np.maximum(squares / n - mean**2, 0)),
            "agreement": np.where(mean > 0, positive, negative) / n,
            "value": values / n,
            "baseline": profile.cpu().numpy().astype(float),
        },
        index=pd.Index(genes),
    )
    table = table.iloc[np.argsort(-mean, kind="stable")]
    table.attrs = {
        "label": label,
        "other": other,
        "n_cells": n,
        "difference": float(difference.mean()),
        "error": error,
    }
    return table


def _contrast(model: CIVAE, label: Any, other: Any) -> tuple[int, list[int]]:
    """Code of the class, and codes of the classes that it is compared with."""
    code = model.setup.label_code(label, "label")
    if other is None:
        return code, [k for k in range(len(model.classes)) if k != code]
    second = model.setup.label_code(other, "other")
    if second == code:
        raise ValueError(
            f"label and other must be two classes, got {label!r} twice; pass other=None to compare "
            "with all other classes."
        )
    return code, [second]


def _some(classes: np.ndarray, codes: list[int], most: int, seed: int) -> list[np.ndarray]:
    """Positions of at most ``most`` cells of each class, in increasing order."""
    rng = np.random.default_rng(seed)
    found = []
    for code in codes:
        rows = np.flatnonzero(classes == code)
        found.append(rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False)))
    return found
