"""Tables and sentences of the report, from the cells, the model and its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._display import counted, listed
from .._ranked import permuted, tested

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE
    from ._quality import HeldOut, Made

# False discovery rate up to which a gene counts as changed.
LEVEL = 0.05
# Number of genes that are named at the top of the page.
N_SUREST = 10


def path_name(said: Mapping[str, Any]) -> str:
    """Short name of the path: its groups and its class."""
    if said.get("source") is None or said.get("target") is None:
        return "along the paths"
    inside = f" in {said['label']}" if said.get("label") is not None else ""
    return f"{said['source']} → {said['target']}{inside}"


def title(model: CIVAE, said: Mapping[str, Any]) -> str:
    """Heading of the page."""
    if said.get("source") is not None:
        return path_name(said)
    return f"A model of {counted(len(model.classes), 'class')} of {model.setup.labels_key}"


def question(model: CIVAE, said: Mapping[str, Any], ranked: pd.DataFrame | None) -> str:
    """The question of the report, in a sentence."""
    if said.get("source") is not None:
        of = "" if said.get("label") is None else f" of the class “{said['label']}”"
        return (
            f"Which genes change between “{said['source']}” and “{said['target']}” cells{of} "
            f"(column “{said['groupby']}”), where along the path, and with what certainty?"
        )
    if said:
        return "Which genes change along the paths between the chosen cells, where, and with what certainty?"
    return (
        f"How well does the model tell the {len(model.classes)} classes of “{model.setup.labels_key}” "
        "apart, and what does it make of them?"
    )


def changed(ranked: pd.DataFrame) -> np.ndarray:
    """Which genes differ between the ends, at a false discovery rate of :data:`LEVEL`."""
    return (ranked[_keys.columns_of_significance(ranked)[1]] <= LEVEL).to_numpy(dtype=bool)


def surest(ranked: pd.DataFrame) -> list[tuple[str, str]]:
    """The most significant genes (at most ten), each with the direction of its change."""
    found = ranked[changed(ranked)].head(N_SUREST)
    arrows = np.where(found["change"] > 0, "↑", "↓")
    return [(str(name), str(arrow)) for name, arrow in zip(found.index, arrows, strict=True)]


def headline(
    said: Mapping[str, Any],
    ranked: pd.DataFrame | None,
    held_out: HeldOut | None,
    made: Made | None,
) -> list[tuple[str, str]]:
    """The most important numbers with their captions."""
    found = []
    if ranked is not None:
        n = int(changed(ranked).sum())
        unit = (
            "between donors"
            if ranked.attrs.get("unit") == "donors"
            else "cells within these samples"
        )
        of, others = tested(ranked)
        text = f"of {of} differ (false discovery rate 5 %, {unit}{others and '; ' + others})"
        chance = permuted(ranked)
        found.append((f"{n:,}", text + (chance and f"; {chance}")))
    if ranked is not None and "resolved" in ranked and said.get("evidence") == "measured":
        n = int((ranked["resolved"].to_numpy(dtype=bool) & changed(ranked)).sum())
        found.append((f"{n:,}", "of these have a position that is sure enough to be ordered"))
    if held_out is not None:
        first, control = held_out.scores[:2]
        found.append(
            (
                percent(first.accuracy),
                f"of {len(held_out.true):,} held-out cells are labeled right; principal components with a "
                f"logistic regression: {percent(control.accuracy)}",
            )
        )
    if made is not None:
        found.append(
            (
                percent(made.recognized),
                "of synthetic cells are recognized as their class, by a classifier that knows the cells they "
                "come from",
            )
        )
    return found


def percent(value: float, digits: int = 1) -> str:
    """A proportion as text; a dash where it is not known."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f} %"


def number(value: float, digits: int = 3) -> str:
    """A number in a few digits; a dash where it is not known."""
    if value is None or not np.isfinite(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.1e}"


def fixed(value: float) -> str:
    """A number with two decimals; a dash where it is not known."""
    return f"{value:.2f}" if value is not None and np.isfinite(value) else "–"


def donor_column(adata: AnnData, said: Mapping[str, Any]) -> str | None:
    """Column with the donors of the trends, if the AnnData has it."""
    key = said.get("donor_key")
    return str(key) if key is not None and str(key) in adata.obs else None


def facts(model: CIVAE, adata: AnnData, donor_key: str | None) -> list[tuple[str, str]]:
    """Names and values that describe the data."""
    from ..data.checks import where

    setup = model.setup
    found = [
        ("cells", f"{adata.n_obs:,}"),
        ("genes", f"{adata.n_vars:,}"),
        (f"classes ({setup.labels_key})", f"{len(setup.classes)}: {listed(setup.classes, 8)}"),
        ("values", f"{where(setup.layer).removeprefix('adata.')}, likelihood {model.likelihood}"),
    ]
    if donor_key is not None:
        names = adata.obs[donor_key].dropna().astype(str).unique()
        found.append((f"donors ({donor_key})", f"{len(names)}: {listed(sorted(names), 8)}"))
    if setup.batch_key is not None:
        found.append(
            (f"batches ({setup.batch_key})", f"{len(setup.batches)}: {listed(setup.batches, 8)}")
        )
    return found


def qc_table(
    model: CIVAE, adata: AnnData, donor_key: str | None, *, minified: bool
) -> dict[str, Any]:
    """Table by class: numbers of cells in each part of the split, sequencing depth, number of donors."""
    from .._storage import iter_blocks
    from ..data.checks import LABEL_CODES, resolve_layer, values_of
    from ..module import COUNT_LIKELIHOODS

    code = np.asarray(adata.obs[LABEL_CODES])
    counts = model.likelihood in COUNT_LIKELIHOODS and not minified
    total, genes = np.zeros((2, adata.n_obs))
    if counts:
        values = values_of(adata, resolve_layer(adata, model.setup.layer))
        for start, block in iter_blocks(values):
            rows = slice(start, start + block.shape[0])
            total[rows] = np.asarray(block.sum(axis=1)).ravel()
            genes[rows] = np.asarray((block > 0).sum(axis=1)).ravel()
    part = np.zeros(adata.n_obs, dtype=int)
    for value, given in ((1, model.train_indices), (2, model.validation_indices)):
        if given is not None:
            part[np.asarray(given, dtype=int)] = value
    donors = None if donor_key is None else adata.obs[donor_key].astype(object).to_numpy()
    names = [*model.classes.astype(str), "no label"]
    header = ["class", "cells", "trained on", "held out"]
    header += ["counts, median", "genes, median"] if counts else []
    header += ["donors"] if donors is not None else []
    rows_of = []
    for k, name in enumerate(names):
        own = code == k if k < len(model.classes) else code >= len(model.classes)
        if not own.any():
            continue
        row = [
            name,
            *(
                f"{int(n):,}"
                for n in (own.sum(), (own & (part == 1)).sum(), (own & (part == 2)).sum())
            ),
        ]
        if counts:
            row += [f"{np.median(total[own]):,.0f}", f"{np.median(genes[own]):,.0f}"]
        if donors is not None:
            row.append(str(pd.Series(donors[own]).nunique()))
        rows_of.append(row)
    small = [row[0] for row in rows_of if int(row[1].replace(",", "")) < 10]
    return {"header": header, "rows": rows_of, "small": small}


def samples_table(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """Numbers of cells of each donor and group in the comparison."""
    table = said.get("samples")
    if table is None or not len(table):
        return None
    inner = [str(level) for level in said.get("between", ())]
    between = inner[0] if len(inner) == 1 else "between"
    named = {"source": said.get("source"), "target": said.get("target"), "between": between}
    groups = [g for g in ("source", "between", "target") if (table["group"].astype(str) == g).any()]
    donors = list(dict.fromkeys(table["donor"].astype(str)))
    rows = []
    for donor in sorted(donors):
        own = table[table["donor"].astype(str) == donor]
        cells = [int(own.loc[own["group"].astype(str) == g, "n_cells"].sum()) for g in groups]
        rows.append([donor or "all cells", *(f"{n:,}" if n else "–" for n in cells)])
    return {
        "header": ["donor" if any(donors) else "", *(str(named.get(g) or g) for g in groups)],
        "rows": rows,
    }


def training_facts(model: CIVAE) -> list[tuple[str, str]]:
    """Names and values that describe the model and its training."""
    from ._methods import epochs_of

    module = model.module
    train, held = (
        0 if i is None else len(i) for i in (model.train_indices, model.validation_indices)
    )
    found = [
        ("latent space", f"{module.n_latent} dimensions"),
        ("trained on", f"{train:,} cells, {counted(epochs_of(model), 'epoch')}"),
        ("held out", f"{held:,} cells" if held else "none"),
    ]
    return found


def positions(adata: AnnData, trends: AnnData | None) -> pd.Series | None:
    """Position along the path of the cells that have one, by name."""
    if trends is not None:
        table = trends.uns[_keys.UNS].get("cells")
        if table is None:
            return None
        found = pd.Series(table["t"].to_numpy(dtype=float), index=table.index.astype(str))
    elif _keys.t_key() in adata.obs:
        found = adata.obs[_keys.t_key()].astype(float)
        found.index = found.index.astype(str)
    else:
        return None
    return found[~found.index.duplicated()]


def unit_sentence(ranked: pd.DataFrame, groups: Mapping[str, Any]) -> str:
    """A sentence about the unit of the p-values; ``groups`` has the names of source and target."""
    said = ranked.attrs
    note = f" {str(said['note'])[:1].upper()}{str(said['note'])[1:]}." if said.get("note") else ""
    between = (
        "donors"
        if said.get("unit") == "donors"
        else "cells within these samples, and not between donors"
    )
    text = f"p-values are between {between}: {said.get('unit_text')}.{note}"
    for end in ("source", "target"):
        if groups.get(end) is not None:
            text = text.replace(f" with {end}", f" with “{groups[end]}” cells")
    return text


def parameters(
    model: CIVAE, trends: AnnData | None, settings: Mapping[str, Any] | None
) -> dict[str, dict[str, str]]:
    """Parameters of the model, of the trends, and options of the command."""
    found: dict[str, dict[str, str]] = {}
    if settings:
        given = {str(k): str(v) for k, v in settings.items() if v is not None}
        found["command"] = given
    found["setup"] = {
        str(k): str(v)
        for k, v in (model.registry_.get("setup_args") or {}).items()
        if v not in (None, False)
    }
    found["model"] = {
        str(k): str(v)
        for group in model.init_params_.values()
        for k, v in group.items()
        if isinstance(v, str | int | float | bool)
    }
    module = model.module
    found["training"] = {
        "weight of the classifier": f"{module.discriminator_weight:.3g}",
        "weight of the KL term": f"{module.kl_weight:g}",
    }
    if model.engine:
        found["training"]["steps"] = str(model.engine)
    if trends is not None:
        wanted = (
            "evidence",
            "scale",
            "method",
            "pairing",
            "n_pairs",
            "n_steps",
            "n_bootstraps",
            "penalty",
            "seed",
        )
        said = trends.uns[_keys.UNS]
        found["trends"] = {k: str(said[k]) for k in wanted if said.get(k) is not None}
    return found
