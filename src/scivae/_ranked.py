"""Sentences about the table of :func:`scivae.tl.rank_genes`, for descriptions and reports."""

from __future__ import annotations

from typing import Any

from . import _keys


def tested(ranked: Any) -> tuple[str, str]:
    """The tested genes as a number and noun, and a clause about the others (empty if there are none)."""
    p, _ = _keys.columns_of_significance(ranked)
    known = ranked[p].notna()
    if "shape" in ranked:
        known |= ranked["shape"] == "transient"
    n, said = int(known.sum()), ranked.attrs
    if n in (0, len(ranked)):
        return f"{len(ranked):,} genes", "" if n else "no gene was tested"
    why = "could not be tested"
    if said.get("unit") != "donors":
        why = "did not vary"
    elif said.get("test") == "moderated" and str(said.get("scale")).startswith("log2"):
        why = "had too few counts to test"
    return f"{n:,} tested genes", f"{len(ranked) - n:,} {why}"


def permuted(ranked: Any) -> str:
    """The number of genes that differ with permuted donors, in words; empty if they could not be permuted."""
    check = ranked.attrs.get("permutation")
    if not check:
        return ""
    return (
        f"{check['called_permuted']:,.0f} in the median of {check['n_permutations']} permutations of "
        f"donors (p {check['p_value']:.2g})"
    )
