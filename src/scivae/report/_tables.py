"""Tables of genes and of gene sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .. import _keys
from ._data import fixed, number

# Rows of the table of genes in the page itself, for printing and for browsers without scripts.
ROWS_IN_PAGE = 25


def gene_table(ranked: pd.DataFrame) -> dict[str, Any]:
    """The table of genes: columns, values for the script, and the first rows as text."""
    between_donors = ranked.attrs.get("unit") == "donors"
    log2 = str(ranked.attrs.get("scale", "")).startswith("log2")
    p, fdr = _keys.columns_of_significance(ranked)
    unit = "between donors" if between_donors else "between cells"
    wanted: list[dict[str, Any]] = [
        {"key": "gene", "label": "gene", "kind": "text", "title": "Name of the gene"},
        {"key": "id", "label": "id", "kind": "text", "title": "Name of the gene in the data"},
        {"key": "change", "label": "log2 FC, fitted" if log2 else "fitted change", "kind": "fixed" if log2 else "number",
         "title": "Change from the start to the end of the curve that was fitted to measured cells, with its 90 % interval"},
        {"key": "observed", "label": "log2 FC, measured" if log2 else "measured change", "kind": "fixed" if log2 else "number",
         "title": "Change: second group minus first group in the samples that are tested, mean over donors: the value to report"},
        {"key": fdr, "label": "FDR", "kind": "number",
         "title": "False discovery rate (Benjamini and Hochberg): expected proportion of false genes from the first row to this one; "
         "empty where a gene was not tested"},
        {"key": "shape", "label": "shape", "kind": "text",
         "title": "up, down, transient (measured groups in between are above or below both ends), or flat"},
        {"key": "switch", "label": "half of change at t", "kind": "fixed",
         "title": "Position at which half of the change is reached (0: first group, 1: second group), with its 90 % interval"},
        {"key": "resolved", "label": "position sure", "kind": "text",
         "title": "yes: the interval of the change excludes zero, and that of its position is 0.3 or narrower (column resolved of genes.csv)"},
        {"key": p, "label": f"p, {unit}", "kind": "number", "title": f"p-value of the difference of the groups, {unit}"},
        {"key": "agreement", "label": "donors agree", "kind": "fixed",
         "title": "Proportion of the donors with both groups that differ in the direction of most of them"},
    ]  # fmt: skip
    columns: list[dict[str, Any]] = []
    values: list[list[Any]] = []
    for column in wanted:
        key = column["key"]
        if key != "gene" and (key not in ranked or ranked[key].isna().all()):
            continue
        column["at"] = len(values)
        if key == "gene":
            values.append([str(name) for name in ranked.index])
        elif key == "resolved":
            values.append(["yes" if r else "no" for r in ranked[key]])
        elif column["kind"] == "text":
            values.append(ranked[key].astype(str).tolist())
        else:
            values.append(_plain(ranked[key]))
            low, high = f"{key}_low", f"{key}_high"
            if low in ranked and ranked[low].notna().any():
                column["low"], column["high"] = len(values), len(values) + 1
                values += [_plain(ranked[low]), _plain(ranked[high])]
        columns.append(column)
    rows = [list(row) for row in zip(*values, strict=True)]
    fdr_at = next((c["at"] for c in columns if c["key"] == fdr), None)
    return {
        "columns": columns,
        "rows": rows,
        "fdr": fdr_at,
        "first": [[_cell(row, column) for column in columns] for row in rows[:ROWS_IN_PAGE]],
        "n": len(rows),
    }


def _plain(values: pd.Series) -> list[float | None]:
    """Numbers with four digits, for JSON."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values.astype(float).tolist()]


def _cell(row: list[Any], column: dict[str, Any]) -> tuple[str, str]:
    """Text of a cell, and of its interval."""
    value = row[column["at"]]
    if column["kind"] == "text":
        return str(value), ""
    shown = fixed if column["kind"] == "fixed" else number
    interval = ""
    if "low" in column and row[column["low"]] is not None and value is not None:
        interval = f"{shown(row[column['low']])} to {shown(row[column['high']])}"
    return shown(np.nan if value is None else value), interval


def set_table(sets: pd.DataFrame) -> dict[str, Any]:
    """Table of gene sets, most significant first."""
    p, fdr = _keys.columns_of_significance(sets)
    rows = [
        [str(name), f"{int(row['n_genes']):,}", number(row["score"]), number(row["switch"], 2), number(row[p]), number(row[fdr])]
        for name, row in sets.head(30).iterrows()
    ]  # fmt: skip
    unit = "between donors" if sets.attrs.get("unit") == "donors" else "between cells"
    return {
        "header": ["set", "genes", "score", "half of change at t", f"p, {unit}", "FDR"],
        "rows": rows,
        "n": len(sets),
    }
