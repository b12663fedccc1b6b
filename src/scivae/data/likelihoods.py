"""Choose the likelihood that fits the values, and check values against a likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from .. import _keys
from .._errors import near_matches, shown, warn
from .._names import layer_names
from .._storage import rows_of
from ..module import COUNT_LIKELIHOODS, LIKELIHOODS, MAX_RATE
from .checks import MAX_VALUE, X_LAYER, where
from .profile import DataProfile, DataSummary


def choose_likelihood(summary: DataSummary) -> str:
    """Choose ``"nb"`` for counts, ``"bernoulli"`` for values in [0, 1], and ``"normal"`` for others."""
    if (summary.integer and summary.minimum >= 0 or summary.near_integer) and summary.maximum > 1:
        return "nb"
    if summary.minimum >= 0 and summary.maximum <= 1:
        return "bernoulli"
    return "normal"


def check_likelihood(likelihood: str) -> None:
    """Raise a ValueError for an unknown likelihood."""
    if likelihood not in (*LIKELIHOODS, "auto"):
        raise ValueError(
            f"likelihood must be 'auto' or one of {shown(LIKELIHOODS)}, got {likelihood!r}."
            f"{near_matches(likelihood, LIKELIHOODS)}"
        )


def check_values(
    adata: AnnData | DataProfile,
    layer: str,
    summary: DataSummary,
    likelihood: str,
    *,
    training: bool,
    here: str | None = None,
) -> None:
    """Raise a ValueError if the values cannot come from the likelihood.

    Expected counts (not whole numbers) can be encoded, but not trained on. Normalized counts can be neither.
    ``here`` is the location of the values for the error, if they are not in an AnnData.
    """
    here = where(layer) if here is None else here
    greatest = max(-summary.minimum, summary.maximum)
    limit = MAX_RATE if likelihood in COUNT_LIKELIHOODS else MAX_VALUE
    if greatest > limit:
        raise ValueError(
            f"values must not exceed {limit:g} under likelihood={likelihood!r}, but the largest of "
            f"{here} is {greatest:g}; scale them, or remove invalid entries."
        )
    if likelihood in COUNT_LIKELIHOODS:
        what = None
        whole = summary.integer or summary.near_integer
        if summary.minimum < 0 and not summary.near_integer:
            what = f"negative values (the smallest is {summary.minimum:g})"
        elif not whole and summary.transformed:
            what = f"{summary.transformed} values, which are not whole numbers"
        elif not whole and training:
            what = "values that are not whole numbers"
        if what:
            others = [name for name in layer_names(adata) if name != layer]
            cure = (
                "pass layer= with the name of the raw counts to setup_anndata (available layers: "
                f"{shown(others) or 'none'}), or choose likelihood='normal'"
                if training
                else "put the raw counts there (the model was trained on counts)"
            )
            raise ValueError(
                f"likelihood={likelihood!r} needs raw counts, but {here} holds {what}; {cure}."
            )
        if summary.zero_rows.size:
            names = adata.obs_names[summary.zero_rows]
            raise ValueError(
                f"every cell needs at least one count under likelihood={likelihood!r}, but "
                f"{summary.zero_rows.size} cells of {here} are all zero ({shown(names, 3)}); "
                "remove them with scanpy.pp.filter_cells(adata, min_counts=1)."
            )
    elif LIKELIHOODS[likelihood].in_unit_interval and (summary.minimum < 0 or summary.maximum > 1):
        raise ValueError(
            f"likelihood='bernoulli' needs values in [0, 1], but those of {here} lie in "
            f"[{summary.minimum:g}, {summary.maximum:g}]; scale them (pixels / 255), or choose "
            "likelihood='normal' or 'laplace'."
        )


def check_like_training(
    layer: str, summary: DataSummary, likelihood: str, trained_on: DataSummary | None
) -> None:
    """Raise a ValueError if continuous values were preprocessed differently from those of training.

    Warn if this is only likely.

    Parameters
    ----------
    layer
        Layer of the values.
    summary
        Summary of the values.
    likelihood
        Likelihood of the model.
    trained_on
        Summary of the values of training; ``None`` if unknown.
    """
    here = where(layer)
    if likelihood in COUNT_LIKELIHOODS:
        if summary.kind == "fractions":
            warn(
                f"{here} holds values that are not whole numbers; they are taken as expected "
                "counts, such as model.decode gives. Round counts that were corrected for ambient "
                "RNA."
            )
        return
    if trained_on is None or LIKELIHOODS[likelihood].in_unit_interval:
        return
    counts = ("counts", "near counts")
    were_counts, are_counts = trained_on.kind in counts, summary.kind in counts
    if (are_counts and not were_counts) or (were_counts and summary.transformed):
        raise ValueError(
            "cells must have the same kind of values as the training cells, "
            f"{_in_words(trained_on)}, but {here} holds {_in_words(summary)}; prepare them like "
            "the training cells."
        )
    width = max(trained_on.maximum - trained_on.minimum, 1e-30)
    beyond = max(trained_on.minimum - summary.minimum, summary.maximum - trained_on.maximum)
    if beyond > width or (summary.minimum < 0 <= trained_on.minimum and beyond > 0.1 * width):
        warn(
            f"the values of {here} lie in [{summary.minimum:g}, {summary.maximum:g}], those of "
            f"training in [{trained_on.minimum:g}, {trained_on.maximum:g}]; check that both were "
            "normalized and scaled in the same way."
        )


def _in_words(summary: DataSummary) -> str:
    """A description of the values, for errors and warnings."""
    words = {"counts": "whole numbers", "near counts": "whole numbers", "fractions": "fractions"}
    kind = summary.kind
    return f"{words.get(kind, kind + ' values')} up to {summary.maximum:g}"


def say_what_was_chosen(
    adata: AnnData | None, layer: str, found: DataProfile, likelihood: str
) -> None:
    """Warn if the choice of ``likelihood="auto"`` may be unexpected.

    Parameters
    ----------
    adata
        The cells, if they are in an AnnData.
    layer
        Layer of the values.
    found
        Profile of the values.
    likelihood
        The chosen likelihood.
    """
    here = where(layer)
    if found.summary.kind == "near counts":
        warn(
            f"{here} holds whole numbers apart from rounding errors; they are rounded, and modeled "
            f"as counts (likelihood {likelihood!r})."
        )
        return
    if layer == X_LAYER and _keys.COUNTS_LAYER in found.layers:
        return  # the user chose the layer
    said = values_instead_of_counts(adata, layer, found.summary, likelihood)
    if said is not None:
        what, cure = said
        warn(
            f"likelihood='auto' chose {likelihood!r}, because {here} holds {what}, not counts. {cure}."
        )


def values_instead_of_counts(
    adata: AnnData | None, layer: str, summary: DataSummary, likelihood: str
) -> tuple[str, str] | None:
    """A description of values for which ``"auto"`` chose a likelihood that is not for counts, and advice.

    ``None`` if the values cannot be mistaken for counts.
    """
    here, kind = where(layer), summary.kind
    if likelihood != "normal" and summary.transformed != "proportions":
        return None
    cure = "" if adata is None else counts_elsewhere(adata, layer)
    if kind == "signed" and layer != _keys.COUNTS_LAYER and not cure:
        return None
    what = {
        "fractions": "values that are neither whole numbers nor in [0, 1]",
        "signed": "negative values",
        "unit": "proportions",
    }.get(kind, f"{kind} values")
    if not cure and kind == "fractions":
        cure = f"Round {here} if these are counts that were corrected for ambient RNA"
    elif not cure and layer == _keys.COUNTS_LAYER:
        cure = f"Put the raw counts into {here}, or pass layer='X' to model normalized values"
    elif not cure:
        cure = "Pass layer= with the name of the raw counts to setup_anndata if there are some"
    return what, cure


def counts_elsewhere(adata: AnnData, layer: str) -> str:
    """Advice on how to use counts in another layer of the AnnData; an empty string if there are none."""
    for name in layer_names(adata):
        if name != layer and _are_counts(adata.layers[name]):
            return f"Pass layer={name!r} to setup_anndata, which holds counts"
    if layer != X_LAYER and adata.X is not None and _are_counts(adata.X):
        return "Pass layer='X' to setup_anndata, which holds counts"
    raw = adata.raw
    if raw is None or not adata.var_names.isin(raw.var_names).all() or not _are_counts(raw.X):
        return ""
    return (
        "Set adata.layers['counts'] = adata.raw[:, adata.var_names].X first: adata.raw holds counts"
    )


def _are_counts(x: Any, n: int = 100) -> bool:
    """Whether the first rows of a matrix are counts."""
    return are_counts(rows_of(x, slice(0, n)))


def are_counts(rows: Any) -> bool:
    """Whether values in memory, dense or sparse, are counts: whole, not negative, and some above 1."""
    values = np.asarray(rows.data if sparse.issparse(rows) else rows)
    if not values.size or values.dtype.kind not in "fiu":
        return False
    return bool((values == np.round(values)).all() and values.min() >= 0 and values.max() > 1)
