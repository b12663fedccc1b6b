"""The numbers of a run, and the short report in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _keys
from .._ranked import permuted, tested
from .log import printable_path
from .request import Request

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..model import CIVAE

# False discovery rate up to which a gene counts as changed.
SIGNIFICANT = 0.05


def numbers_of(
    model: CIVAE, adata: AnnData, report: Any, synthetic: AnnData | None
) -> dict[str, Any]:
    """Quality of the model, measured on held-out cells and with an independent classifier."""
    held_out, made = report.held_out, report.made
    found: dict[str, Any] = {
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
        "n_classes": len(model.classes),
        "likelihood": model.likelihood,
        "held_out": held_out,
        "made": made,
        "n_synthetic": 0 if synthetic is None else synthetic.n_obs,
        "notes": report.notes,
        "controls": report.contents["controls"],
    }
    if held_out is not None:
        found["separability"] = _separability(model, adata)
    if synthetic is not None:
        drawn = synthetic.uns[_keys.UNS]["classes"]["n_drawn"].sum()
        found["yield"] = synthetic.n_obs / drawn
    return found


def _separability(model: CIVAE, adata: AnnData) -> float:
    """Held-out accuracy of a linear classifier that was fitted to z of training cells."""
    from ..data.split import labeled_sides
    from ..metrics import linear_separability

    y, (train, test) = labeled_sides(
        adata,
        model.setup.labels_key,
        len(model.classes),
        (model.train_indices, model.validation_indices),
    )
    z = adata.obsm[_keys.LATENT]
    return linear_separability(z[train], y[train], z[test], y[test])


def text_of(
    report: dict[str, Any],
    request: Request,
    label: str | None,
    ends: tuple[str, str],
    genes: pd.DataFrame | None,
) -> str:
    """The text of the short report."""
    lines = [
        "",
        f"CI-VAE on {report['n_obs']:,} cells × {report['n_vars']:,} features, "
        f"{report['n_classes']} classes, likelihood {report['likelihood']}",
        "",
        *_of_held_out(report),
        *_of_synthetic(report),
        "",
        f"  path       {ends[0]} → {ends[1]}" + ("" if label is None else f", in class {label}"),
    ]
    if genes is not None:
        column = _keys.columns_of_significance(genes)[1]
        found = genes[genes[column] <= SIGNIFICANT]
        unit = str(genes.attrs["unit_text"])
        for end in ("source", "target"):
            unit = unit.replace(f"with {end}", f"with {getattr(request, end)!r}")
        of, others = tested(genes)
        lines.append(
            f"  genes      {len(found)} of {of} change from {request.source} to {request.target} "
            f"(false discovery rate {SIGNIFICANT:.0%}; {unit}{others and '; ' + others})"
        )
        if chance := permuted(genes):
            lines.append(f"             by chance: {chance}")
        for shape in ("up", "down", "transient"):
            names = found.index[found["shape"] == shape][:8]
            if len(names):
                lines.append(f"             {shape + ':':<11}{', '.join(map(str, names))}")
    if report["controls"] or report["notes"]:
        lines += ["", "  before you believe it"]
        lines += [f"  - {question} {verdict}" for question, verdict in report["controls"]]
        lines += [f"  - {note}" for note in report["notes"]]
    folder = printable_path(request.out)
    lines += [
        "",
        f"  results in {folder}/, open {folder}/report.html  ({report['seconds']:.0f} s)",
        "",
    ]
    return "\n".join(lines)


def _of_held_out(report: dict[str, Any]) -> list[str]:
    held_out = report["held_out"]
    if held_out is None:
        return ["  no labeled cells were held out, so accuracy is not known"]
    own, control, majority = held_out.scores[:3]
    return [
        f"  accuracy of the discriminator      {own.accuracy:6.1%}   on {len(held_out.true)} "
        "cells held out",
        f"    principal components instead     {control.accuracy:6.1%}   as many, with a logistic "
        "regression",
        f"    always the largest class         {majority.accuracy:6.1%}",
        f"  linear separability of z           {report['separability']:6.1%}   "
        "fitted on training cells, scored on these",
    ]


def _of_synthetic(report: dict[str, Any]) -> list[str]:
    made = report["made"]
    if made is None:
        return []
    worst = min(made.classes, key=lambda row: row.recognized)
    return [
        f"  generated cells of the right class {made.recognized:6.1%}   of "
        f"{report['n_synthetic']}, by a classifier that knows the cells they start from",
        f"    in the worst class               {worst.recognized:6.1%}   {worst.label}",
        f"    the same classifier, real cells  {made.real_recognized:6.1%}   held out, which it "
        "does not know",
        f"  drawn cells that were accepted     {report['yield']:6.1%}",
    ]
