"""Warnings of the report, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._display import counted, listed
from . import _data
from ._data import percent

if TYPE_CHECKING:
    from ..model import CIVAE
    from ._quality import HeldOut, Made

# Limits beyond which a number leads to a warning.
MIN_IN_CLASS, MIN_BETWEEN, CLEARLY_WORSE = 0.8, 20, 0.1
# Proportion of the cells in the middle half of the path below which most lie near the ends (evenly spread: 0.5).
MIN_SHARE_BETWEEN = 0.2
# Limits for the AUC of synthetic against real cells, and for the share of cells close to training cells.
TOLD_APART, COPIES = 0.75, 0.7
# Number of donors of a group below which much is missed, and distance from an end within which switches are "at the end".
FEW_DONORS, AT_END = 5, 0.03


def notes(
    model: CIVAE,
    said: Mapping[str, Any],
    ranked: pd.DataFrame | None,
    held_out: HeldOut | None,
    made: Made | None,
    qc: Mapping[str, Any],
    *,
    minified: bool,
) -> list[str]:
    """The warnings, as sentences."""
    found = [
        *_of_values(model),
        *_of_data(qc, minified=minified),
        *_of_classifier(model, held_out, minified=minified),
    ]
    if ranked is not None:
        found += _of_trends(said, ranked)
    if made is not None:
        found += _of_synthetic(made)
    return found


def _of_values(model: CIVAE) -> list[str]:
    """A warning if the model uses values that were made from counts, or others although the cells have counts."""
    from ..data.checks import resolve_layer, where
    from ..data.likelihoods import (
        choose_likelihood,
        counts_elsewhere,
        values_instead_of_counts,
    )
    from ..data.profile import DataSummary
    from ..module import COUNT_LIKELIHOODS

    if model.likelihood in COUNT_LIKELIHOODS or model.adata is None:
        return []
    layer = model.setup.layer or resolve_layer(model.adata, None)
    cure = counts_elsewhere(model.adata, layer)
    if not cure:
        if model.data_summary_ is None:
            return []
        summary = DataSummary.from_plain(model.data_summary_)
        said = values_instead_of_counts(model.adata, layer, summary, model.likelihood)
        if said is None or choose_likelihood(summary) != model.likelihood:
            return []
        return [
            f"The model was trained on {where(layer)}, which holds {said[0]}, not counts (likelihood "
            f"{model.likelihood}). {said[1]}."
        ]
    return [
        f"The model was trained on {layer}, not on counts (likelihood {model.likelihood}), but these cells have "
        f"counts. {cure}; scivae run has --layer."
    ]


def _of_data(qc: Mapping[str, Any], *, minified: bool) -> list[str]:
    found = []
    if minified:
        found.append(
            "The cells were minified: their values are gone, so nothing here was compared with measured cells."
        )
    if qc["small"]:
        found.append(
            f"Classes with fewer than ten cells: {listed(qc['small'])}. The model can hardly have learned them."
        )
    return found


def _of_classifier(model: CIVAE, held_out: HeldOut | None, *, minified: bool) -> list[str]:
    if model.module.discriminator_weight == 0:
        return [
            "The model was trained without its classifier: the classes, margins and probabilities that it gives mean nothing."
        ]
    if held_out is None:
        if minified:
            return []
        return [
            "No labeled cells were held out, so how well the model labels new cells is not known. Train with "
            "train_size=0.9."
        ]
    found = []
    own, control, majority = held_out.scores[:3]
    if own.accuracy <= majority.accuracy:
        found.append(
            "On held-out cells the model labels no better than always naming the largest class. Labels may be wrong "
            "or not be in the data, or training was too short."
        )
    elif own.macro_f1 < control.macro_f1 - 0.02:
        found.append(
            "On held-out cells, a logistic regression on principal components labels better than the model "
            f"(macro-F1 {control.macro_f1:.2f} and {own.macro_f1:.2f}). If labels are all that you need, use that."
        )
    if len(held_out.true) < 50:
        low, high = held_out.interval
        found.append(
            f"Only {len(held_out.true)} cells were held out: the accuracy lies between {percent(low, 0)} and {percent(high, 0)} "
            "(95 % interval)."
        )
    worst = _worst_class(held_out)
    if worst:
        found.append(worst)
    return found


def _worst_class(held_out: HeldOut) -> str | None:
    """Classes with at least five held-out cells, less than half of them classified correctly."""
    names = []
    for name in np.unique(held_out.true):
        own = held_out.true == name
        right = (held_out.predicted[own] == name).mean()
        if own.sum() >= 5 and right < 0.5:
            names.append(f"{name} (right: {percent(right, 0)} of {int(own.sum())})")
    return (
        f"Most held-out cells of these classes are labeled wrong: {listed(names)}."
        if names
        else None
    )


def _of_trends(said: Mapping[str, Any], ranked: pd.DataFrame) -> list[str]:
    found = []
    if ranked.attrs.get("unit") != "donors":
        candidate = said.get("donor_candidate")
        cure = (
            f" The column “{candidate}” looks like donors: name it as the donor key."
            if candidate
            else ""
        )
        why = (
            "Too few donors to compare"
            if len(said.get("donors", ())) > 1
            else "One sample per group"
        )
        found.append(
            f"{why}: the p-values compare cells of these samples. A difference between the groups may be one "
            f"between donors, and no p-value here can tell.{cure}"
        )
    else:
        found += _of_few_donors(said)
    check = ranked.attrs.get("permutation")
    if check and check.get("p_value", 0) > 0.1:
        found.append(
            f"With the groups of donors exchanged, {check['called_permuted']:,.0f} genes are called in the median, and "
            f"{check['called']:,} as the donors are (p {check['p_value']:.2g}): the list as a whole is no more than "
            "chance could give."
        )
    share = said.get("share_in_class")
    if said.get("label") is not None and share is not None and float(share) < MIN_IN_CLASS:
        found.append(
            f"Only {percent(float(share), 0)} of the paths have both ends classified as their class, so many of the others "
            "leave it. Train longer, or choose the groups by what the model predicts."
        )
    if said.get("evidence") != "measured":
        found.append(
            "The curves are decoded, not measured: they are predictions of the model, and do not show the order in "
            "which genes change."
        )
        return found
    found += _of_middle(said)
    called = ranked[_data.changed(ranked)]
    if said.get("free_ends") and len(called):
        switch = called[_keys.SWITCH].astype(float)
        n = int(((switch < AT_END) | (switch > 1 - AT_END)).sum())
        if n > len(called) / 5:
            found.append(
                f"For {n:,} of the {len(called):,} genes that differ, half of the change lies between one group and the "
                "cells next to it, so their position along the path says only at which end they change."
            )
    if _keys.RESOLVED in ranked:
        unresolved = float(1 - called[_keys.RESOLVED].mean()) if len(called) else 0.0
        if unresolved > 0.5:
            found.append(
                f"{percent(unresolved, 0)} of the genes that differ have an unsure position along the path (unresolved): they cannot be "
                "ordered. Do not read the order of their rows as an order in time."
            )
    return found


def _of_middle(said: Mapping[str, Any]) -> list[str]:
    """A warning if too little was measured between the groups to order genes."""
    n, n_used = int(said.get("n_between", 0)), int(said.get("n_used", 0))
    ends = [said.get(end) for end in ("source", "target")]
    groups = "the two groups" if None in ends else f"“{ends[0]}” and “{ends[1]}”"
    named = len(said.get("between", ())) > 0
    if n < max(MIN_BETWEEN, 0 if named else MIN_SHARE_BETWEEN * n_used):
        return [
            f"Almost nothing was measured between {groups}: {n:,} of {counted(n_used, 'cell')} lie in the middle half of the "
            "path. These data do not show an order of genes; the position at which a gene changes is guided by the shape of "
            "its curve."
        ]
    if named:
        return []
    return [
        f"No group is named that lies between {groups}, so it was not tested whether the {n:,} cells in the middle half of the "
        "path are intermediates. If they are not, these data do not show an order of genes. If there is such a group, name it "
        "with between=."
    ]


def _of_few_donors(said: Mapping[str, Any]) -> list[str]:
    """A warning about the limits of a test between few donors."""
    table = said.get("samples")
    if table is None or not len(table):
        return []
    donors = [
        set(table["donor"].astype(str)[(table["group"].astype(str) == end).to_numpy()]) - {""}
        for end in ("source", "target")
    ]
    both = len(donors[0] & donors[1])
    n, what = min(map(len, donors)), "in the smaller group"
    if both >= 3:
        n, what = both, "with both groups"
    if n >= FEW_DONORS:
        return []
    return [
        f"Only {counted(n, 'donor')} {what}: a gene that is not called may still differ. Small p-values are "
        "possible with few donors, as variances are estimated over all genes, but hold if these donors are typical."
    ]


def _of_synthetic(made: Made) -> list[str]:
    found = []
    bad = [
        c.label
        for c in made.classes
        if c.n_real >= 5 and c.recognized < c.real_recognized - CLEARLY_WORSE
    ]
    if bad:
        found.append(
            f"Synthetic cells of these classes are recognized clearly less often than real cells are: {listed(bad)}."
        )
    if made.auc > TOLD_APART and made.auc > made.real_auc + CLEARLY_WORSE:
        found.append(
            f"A random forest tells synthetic cells from real ones (area under the curve {made.auc:.2f}; real cells "
            f"from each other {made.real_auc:.2f}). Do not use them where single genes matter."
        )
    if made.closer > COPIES:
        found.append(
            f"Synthetic cells lie nearer to training cells than held-out cells do ({percent(made.closer, 0)} of comparisons): "
            "some may be close copies."
        )
    return found
