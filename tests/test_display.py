"""What things say of themselves, in text, in HTML, and in a running IPython."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from tests.conftest import make_adata, make_model

import scivae
from scivae import _display, tl
from scivae.model import CIVAE
from scivae.model._repr import describe


@pytest.fixture
def shell():
    """An IPython that shows things as scivae asks it to."""
    shell = InteractiveShell.instance()
    _display.register()
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def results():
    model = make_model(make_adata(), epochs=30)
    adata = model.adata
    adata.obs["stage"] = np.array(["early", "late"])[(np.arange(120) // 3) % 2]
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = tl.pair_cells(adata, "stage", "early", "late", label="alpha")
    trends = tl.gene_trends(model, pairs, n_steps=5, adata=adata)
    both = adata.copy()
    both.obs["stage"] = pd.Categorical(both.obs["stage"])
    predicted = tl.predict_condition(model, "stage", "early", "late", level="alpha", adata=both)
    halves = {"half": trends.var_names[:20], "other": trends.var_names[20:]}
    return {
        "predicted": predicted,
        "sets": tl.enrich(trends, halves, n_permutations=100),
        "curves": tl.set_trends(adata, trends, halves, n_bootstraps=0),
        "net": halves,
        "model": model,
        "path": model.interpolate([0, 0], [3, 1], n_steps=5, adata=adata),
        "cells": model.augment({"alpha": 3, "beta": 4}, adata=adata),
        "pairs": pairs,
        "trends": trends,
        "genes": tl.rank_genes(trends),
        "adata": adata,
    }


class Balanced(HTMLParser):
    """Tags that were opened and not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_an_untrained_model_says_what_it_is_and_to_train_it(adata, capsys):
    CIVAE.setup_anndata(adata, batch_key="batch")
    model = CIVAE(adata, n_latent=4, n_hidden=16, discriminator_weight=7)
    text = repr(model)
    assert capsys.readouterr().out == ""  # a repr returns its text, and prints nothing
    assert text.startswith("CIVAE of 3 classes, not trained")
    for phrase in (
        "120 cells × 40 variables, adata.layers['counts']",
        "obs['cell_type']: alpha, beta, gamma",
        "obs['batch']: one, two",
        "nb",
        "n_latent 4, 1 hidden layer of 16",
        "β = 7",
        "model.train()",
    ):
        assert phrase in text
    assert "interpolate" not in text
    assert "accuracy" not in text
    assert max(map(len, text.splitlines())) <= 88


def test_a_trained_model_says_how_well_it_knows_held_out_cells(trained, tmp_path):
    text = repr(trained)
    cells = trained.validation_indices
    labels = trained.adata.obs["cell_type"].to_numpy()[cells]
    accuracy = np.mean(trained.predict(indices=cells) == labels)
    assert f"held-out accuracy  {accuracy:.1%}" in text
    assert f"30 epochs, {len(trained.train_indices)} cells, {len(cells)} held out" in text
    for call in ("get_latent_representation()", "interpolate(", "augment('alpha'"):
        assert call in text
    trained.save(tmp_path / "model")
    loaded = CIVAE.load(tmp_path / "model", adata=make_adata())
    assert repr(loaded) == text
    without = CIVAE.load(tmp_path / "model", adata=False)
    assert "none; methods take adata=" in repr(without)


def test_names_cannot_break_the_page(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"alpha": "<b>&"})
    CIVAE.setup_anndata(adata)
    page = CIVAE(adata, n_latent=4)._repr_html_()
    assert "&lt;b&gt;&amp;" in page
    assert Balanced(page).open == []


@pytest.mark.parametrize(
    ("name", "phrases"),
    [
        ("path", ["2 paths", "cell_0 → cell_3", "alpha → beta", "1 of 1 path", "class_margin"]),
        ("cells", ["7 synthetic cells", "alpha 3, beta 4", "samples", "pl.augmentation"]),
        ("pairs", ["pairs of cells", "stage: early → late in alpha", "ot", "tl.gene_trends"]),
        ("trends", ["40 genes", "early → late in alpha", "per 10,000", "tl.rank_genes"]),
        ("genes", ["40 ranked genes", "one sample per group", "of 40 genes", "trend_heatmap"]),
        (
            "predicted",
            ["20 predicted cells", "transfer", "learned from", "left-out levels", "var['change']"],
        ),
        (
            "sets",
            [
                "2 gene sets",
                "one sample per group",
                "of 2 sets",
                "ulm of decoupler",
                "pl.enrichment",
            ],
        ),
        ("curves", ["2 gene sets", "half, other", "mean z-score", "early → late", "no test"]),
    ],
)
def test_results_say_what_they_hold_and_what_comes_next(results, shell, name, phrases):
    said = tl.describe(results[name])
    data, _ = shell.display_formatter.format(results[name])
    assert Balanced(said._repr_html_()).open == []
    for phrase in phrases:
        assert phrase in str(said)
        assert phrase in data["text/plain"]
    assert said.title in data["text/html"]


@pytest.mark.parametrize(
    ("attrs", "untested", "phrases"),
    [
        ({}, 0, ["of 40 genes (false discovery rate 5 %)"]),
        ({}, 3, ["of 37 tested genes", "3 did not vary"]),
        ({}, 40, ["0 of 40 genes", "no gene was tested"]),
        ({"unit": "donors", "test": "moderated"}, 3, ["of 37 tested genes", "3 had too few counts to test"]),
        ({"unit": "donors", "test": "deseq2"}, 3, ["of 37 tested genes", "3 could not be tested"]),
    ],
)  # fmt: skip
def test_genes_without_a_p_value_are_told(results, attrs, untested, phrases):
    ranked = results["genes"].copy()
    ranked.loc[ranked.index[40 - untested :], ["p_cells", "fdr_cells"]] = np.nan
    ranked.attrs |= attrs
    if attrs:
        ranked = ranked.rename(columns={"p_cells": "p_value", "fdr_cells": "fdr"})
    text = " ".join(str(tl.describe(ranked)).split())
    for phrase in phrases:
        assert phrase in text


def test_steps_that_are_proposed_can_be_run(results):
    names = {**results, "scivae": scivae, "anndata": anndata}
    names["adata"].obsm["X_umap"] = names["adata"].obsm["X_civae"][:, :2].copy()
    names |= {"cell_a": 0, "cell_b": 3}
    steps = [
        tl.describe(results[name]).steps
        for name in ("pairs", "path", "trends", "genes", "sets", "curves")
    ]
    for code, _ in [*itertools.chain(*steps), *describe(results["model"]).steps]:
        exec(code, dict(names))


def test_what_is_not_of_scivae_is_shown_as_before(results, shell):
    plain = AnnData(np.zeros((2, 3)))
    odd = AnnData(np.zeros((2, 3)), uns={"civae": "mine"})
    table = pd.DataFrame({"a": [1]})
    for data in (plain, odd, results["adata"]):
        assert shell.display_formatter.format(data)[0]["text/plain"] == repr(data)
    shown = shell.display_formatter.format(table)[0]
    assert shown == {"text/plain": repr(table), "text/html": table._repr_html_()}
    parts = (results["pairs"]["source"], results["pairs"][["label"]], results["genes"]["fdr_cells"])
    path = results["path"].copy()
    del path.obs["civae_margin"]
    for data in (plain, odd, table, 3, None, path, *parts):
        with pytest.raises(TypeError, match="data must be what interpolate, augment"):
            tl.describe(data)


def test_labels_are_completed(trained, shell):
    assert trained.labels["beta"] == "beta"
    assert trained.labels.gamma == "gamma"
    shell.push({"model": trained})
    for text, wanted in (('model.labels["b', "beta"), ("model.labels.ga", "gamma")):
        with provisionalcompleter():
            found = [c.text for c in shell.Completer.completions(text, len(text))]
        assert any(wanted in one for one in found), (text, found)
    with pytest.raises(KeyError, match="labels must be classes of the model, got 'alfa'.*'alpha'"):
        trained.labels["alfa"]
    with pytest.raises(AttributeError, match="the model has no class 'delta'"):
        _ = trained.labels.delta
    assert list(trained.labels) == ["alpha", "beta", "gamma"]


def test_numbers_as_labels_stay_numbers(adata):
    adata.obs["cell_type"] = pd.Categorical(np.arange(120) % 2)
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4)
    assert model.labels["1"] == 1
    assert list(model.labels) == ["0", "1"]


def test_what_is_written_back_prints_in_short(trained):
    adata = trained.adata.copy()
    trained.interpolate([0] * 20, [3] * 20, adata=adata)
    trained.augment({"alpha": 3, "beta": 3}, adata=adata)
    text = repr(adata.uns["civae"])
    assert len(text.splitlines()) < 60
    for word in ("source", "margin", "crossings", "n_drawn", "parameters"):
        assert word in text


def test_trends_print_in_short(results):
    trends = results["trends"]
    assert len(str(tl.describe(trends)).splitlines()) <= 12
    assert len(repr(trends).splitlines()) <= 12
    # Whoever prints uns itself sees its five tables, each of which pandas cuts: none is a dump of all cells.
    said = repr(trends.uns["civae"])
    assert len(said.splitlines()) < 100
