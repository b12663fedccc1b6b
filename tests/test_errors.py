"""Words that errors share: names in quotes, numbers without, hints of the right kind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_adata

from scivae._errors import near_matches, shown
from scivae._validate.arguments import check_key
from scivae.model import CIVAE


def test_numbers_are_not_quoted():
    assert shown([3, np.int64(4), 2.5, True, "3"]) == "3, 4, 2.5, True, '3'"
    assert shown(range(10), 2) == "0, 1, … (10 in all)"
    assert len(shown(["x" * 5000])) < 130
    assert "\n" not in shown(["two\nlines"])


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("3", [3, 4], " Did you mean 3?"),
        (3, ["3", "4"], " Did you mean '3'?"),
        ("ANXA2", ["Anxa1", "Anxa2"], " Did you mean 'Anxa2'?"),
        ("Gobelt", ["Goblet", "Tuft"], " Did you mean 'Goblet'?"),
        ("x", ["Goblet"], ""),
    ],
)
def test_hints(name, known, hint):
    assert near_matches(name, known) == hint


@pytest.mark.parametrize("key", ["", ".", "..", " ", "a/b", "a\nb", "é" * 101, "\udc80", None, 3])
def test_keys_that_files_cannot_have(key):
    with pytest.raises(ValueError, match="name must be a name of at most 200 bytes") as caught:
        check_key("name", key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["nan", "None", "<NA>", ""])
def test_a_missing_label_that_became_text_is_told(text):
    adata = make_adata()
    labels = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[::10] = text
    adata.obs["cell_type"] = labels
    with pytest.warns(UserWarning, match=f"has the text '{text}' as a class .*unlabeled_category"):
        CIVAE.setup_anndata(adata)
    adata.obs["cell_type"] = pd.Series(labels).replace(text, None).to_numpy()
    CIVAE.setup_anndata(adata, unlabeled_category="Unknown")
    assert text not in CIVAE(adata).classes
