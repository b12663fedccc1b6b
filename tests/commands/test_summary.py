"""The short report of ``scivae run``: its sentences are those of the table of genes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scivae.commands.request import Request
from scivae.commands.summary import text_of


def test_genes_are_counted_among_those_tested_and_beside_permuted_donors():
    p = [0.001, 0.002, 0.9, np.nan]
    genes = pd.DataFrame(
        {"p_value": p, "fdr": p, "shape": ["up", "up", "flat", "flat"]}, index=list("abcd")
    )
    genes.attrs = {
        "unit": "donors", "test": "moderated", "scale": "log2 of counts per 10,000, plus one",
        "unit_text": "5 donors with source against 5 with target",
        "permutation": {"called": 2, "called_permuted": 0.0, "n_permutations": 125, "p_value": 1 / 126},
    }  # fmt: skip
    numbers = {"n_obs": 9, "n_vars": 4, "n_classes": 2, "likelihood": "nb", "held_out": None,
               "made": None, "notes": [], "controls": [], "seconds": 1.0}  # fmt: skip
    request = Request(groupby="drug", source="no", target="yes")
    text = text_of(numbers, request, None, ("c0", "c1"), genes)
    assert "2 of 3 tested genes change from no to yes (false discovery rate 5%; 5 donors" in text
    assert "'yes'; 1 had too few counts to test)" in text
    assert "by chance: 0 in the median of 125 permutations of donors (p 0.0079)" in text
