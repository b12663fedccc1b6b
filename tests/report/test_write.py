"""The report says what is true: its figures against others, its warnings against data that earn them."""

from __future__ import annotations

import json
import re
import warnings
from html.parser import HTMLParser

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import accuracy_score, f1_score
from tests.conftest import HARD, assert_unchanged, make_adata, make_model, snapshot

import scivae
from scivae.report import compose


def with_map(adata):
    """An embedding, so that none is calculated."""
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    return adata


@pytest.fixture(scope="module")
def model():
    return make_model(with_map(make_adata()), epochs=30)


@pytest.fixture
def no_figures(monkeypatch):
    """For what is told of a model: no figures are drawn."""
    monkeypatch.setattr("scivae.report._figures.Drawer.__call__", lambda *a: None)


class Page(HTMLParser):
    """Text of a page, its scripts, and the addresses that it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.addresses, self.scripts, self.tags = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "script":
            self.current = given.get("id", "code")
        self.addresses += [given[k] for k in ("src", "href", "srcset", "data") if k in given]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts[self.current] = self.scripts.get(self.current, "") + data
        else:
            self.text.append(data)


def read(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def words(report) -> str:
    return " ".join(report.notes)


def composed(model, *results, **options):
    results = [*results, None, None, None][:3]
    return compose(model, *results, **options)


def test_the_page_needs_nothing_else_and_escapes_names(results):
    page = read(results / "report.html")
    assert page.addresses
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttp", (results / "report.html").read_text("utf-8")
    )
    assert f"early → late in {HARD}" in "".join(page.text)
    assert page.tags.count("script") == 3
    assert page.tags.count("img") == len(list(results.glob("*.png")))
    genes = json.loads(page.scripts["gene-data"])
    table = pd.read_csv(results / "genes.csv", index_col=0)
    assert [row[0] for row in genes["rows"]] == table.index.tolist()
    at = {c["key"]: c["at"] for c in genes["columns"]}
    column = [row[at["p_value"]] for row in genes["rows"]]
    np.testing.assert_allclose(np.array(column, dtype=float), table["p_value"], rtol=1e-3)
    column = [row[at["observed"]] for row in genes["rows"]]
    np.testing.assert_allclose(np.array(column, dtype=float), table["observed"], rtol=1e-3)
    labels = {c["key"]: c["label"] for c in genes["columns"]}
    assert (labels["change"], labels["observed"]) == (
        "log2 FC, fitted",
        "log2 FC, measured",
    )
    cells = json.loads(page.scripts["map-data"])
    assert sorted(cells["names"]) == sorted(anndata.read_h5ad(results / "cells.h5ad").obs_names)
    assert [c["name"] for c in cells["columns"]][:3] == ["cell_type", "stage", "donor"]


@pytest.mark.usefixtures("no_figures")
def test_units_are_named(results, model):
    page = "".join(read(results / "report.html").text)
    assert "p-values are between donors: 4 donors with both groups, paired moderated t-test" in page
    assert "moderated t-test) [5, 6]" in page  # in the methods: pseudobulk, and the test
    adata = model.adata
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = scivae.tl.pair_cells(adata, "site", "left", "right", label="alpha")
    trends = scivae.tl.gene_trends(model, pairs, n_steps=5, n_bootstraps=20, key_added=None)
    report = composed(model, trends)
    assert "One sample per group" in words(report)
    assert report.contents["unit"].startswith("p-values are between cells within these samples")
    assert "between cells" in " ".join(c["label"] for c in report.contents["table"]["columns"])
    assert "do not extend to other donors" in report.contents["methods"]
    decoded = scivae.tl.gene_trends(model, pairs, evidence="decoded", n_steps=5)
    assert "they are predictions of the model" in words(composed(model, decoded))


@pytest.mark.usefixtures("no_figures")
def test_controls_of_the_path(model, results):
    """All verdicts are with the path, and one that failed is in the box at the top."""
    adata = model.adata
    adata.obsm["X_civae"] = model.get_latent_representation()
    adata.obs["coin"] = np.random.default_rng(1).choice(["heads", "tails"], adata.n_obs)
    pairs = scivae.tl.pair_cells(adata, "coin", "heads", "tails")
    checks = scivae.tl.check_paths(model, pairs, n_permutations=20)
    report = composed(model, checks=checks)
    verdicts = [verdict for _, verdict in report.contents["controls"]]
    assert verdicts == checks["verdict"].tolist()
    assert all(verdict in report.contents["methods"] for verdict in verdicts)
    failed = (
        "A control of the path failed: unseen cells of heads and tails are told apart no better"
    )
    assert report.contents["notes"][0].startswith(failed)
    table = pd.read_csv(results / "path_checks.csv", index_col=0)
    page = "".join(read(results / "report.html").text)
    text = (results / "report.txt").read_text(encoding="utf-8")
    assert len(table) == 3
    for verdict in table["verdict"]:
        assert verdict in page
        assert verdict in text
    assert "between=" not in text  # in the words of the command


@pytest.mark.usefixtures("no_figures")
def test_held_out_figures_are_those_of_scikit_learn(model):
    report = composed(model)
    held_out = np.sort(model.validation_indices)
    true = model.adata.obs["cell_type"].astype(str).to_numpy()
    guess = model.predict(indices=held_out)
    own, control, largest, chance = report.held_out.scores
    assert own.accuracy == accuracy_score(true[held_out], guess)
    assert own.macro_f1 == pytest.approx(f1_score(true[held_out], guess, average="macro"))
    assert control.name.startswith("4 principal components")  # as many as the latent space has
    sizes = pd.Series(true[model.train_indices]).value_counts()
    assert largest.accuracy == np.mean(true[held_out] == sizes.index[0])
    drawn = np.random.default_rng(0).choice(true[model.train_indices], size=(4000, len(held_out)))
    assert chance.accuracy == pytest.approx((drawn == true[held_out]).mean(), abs=0.01)


@pytest.mark.usefixtures("no_figures")
def test_labels_that_are_not_in_the_data_are_told():
    adata = with_map(make_adata())
    labels = np.random.default_rng(1).permutation(adata.obs["cell_type"].astype(str))
    adata.obs["cell_type"] = pd.Categorical(labels)
    report = composed(make_model(adata, epochs=2))
    own, _, _, chance = report.held_out.scores
    assert abs(own.accuracy - chance.accuracy) < 0.35
    assert re.search("no better than|labels better than the model|labeled wrong", words(report))


@pytest.mark.usefixtures("no_figures")
def test_checks_of_synthetic_cells_see_copies_and_wrong_classes(model):
    made = model.augment(dict.fromkeys(model.classes, 20), key_added=None, min_confidence=0.0)
    fine = composed(model, None, None, made).made
    assert 0 < fine.recognized <= 1
    assert [c.n for c in fine.classes] == [20, 20, 20]
    copies = made.copy()  # cells that are training cells of another class
    rows = np.concatenate(
        [np.flatnonzero(model.adata.obs["cell_type"] == c)[:20] for c in ("beta", "gamma", "alpha")]
    )
    copies.layers["counts"] = sparse.csr_matrix(model.adata.layers["counts"][rows])
    report = composed(model, None, None, copies)
    assert report.made.recognized < 0.2
    assert "recognized clearly less often" in words(report) or report.made.classes[0].n_real < 5


@pytest.mark.parametrize(
    "kind", ["continuous", "unlabeled", "none held out", "one class", "minified"]
)
def test_data_of_every_kind(kind):
    adata, setup, options, training = with_map(make_adata()), {}, {}, {}
    if kind == "continuous":
        del adata.layers["counts"]
        adata.X = np.random.default_rng(0).normal(size=adata.shape).astype(np.float32)
    elif kind == "unlabeled":
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("?")
        adata.obs.loc[adata.obs_names[::3], "cell_type"] = "?"
        setup = {"unlabeled_category": "?"}
    elif kind == "one class":
        adata.obs["cell_type"] = pd.Categorical(["only"] * adata.n_obs)
        options = {"discriminator_weight": 0}
    elif kind == "none held out":
        training = {"train_size": 1.0}
    scivae.model.CIVAE.setup_anndata(adata, **setup)
    model = scivae.model.CIVAE(adata, n_latent=4, n_hidden=16, **options)
    model.train(max_epochs=2, batch_size=32, enable_progress_bar=False, **training)
    if kind == "minified":
        posterior = model.get_latent_representation(return_dist=True)
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = posterior
        model.minify_adata()
    before = snapshot(model.adata)
    report = composed(model)
    assert_unchanged(model.adata, before)
    told = {
        "none held out": "No labeled cells were held out",
        "minified": "The cells were minified",
    }
    assert told.get(kind, "") in words(report)
    assert (report.held_out is None) == (kind in ("none held out", "one class", "minified"))
    header = report.contents["qc"]["header"]
    assert ("counts, median" in header) == (kind not in ("continuous", "minified"))
    if kind == "unlabeled":
        assert report.contents["qc"]["rows"][-1][:2] == ["no label", "40"]
        assert "?" not in report.held_out.true


@pytest.mark.usefixtures("no_figures")
def test_the_map_is_of_some_cells_where_there_are_many(model):
    report = composed(model, max_cells=50)
    assert report.contents["map"]["n"] == 50
    assert report.contents["n_cells"] == 120


def test_a_report_is_written_whole_or_not_at_all(model, tmp_path, monkeypatch):
    target = tmp_path / "deep" / "é.html"
    assert scivae.report.write(model, out=target, title="A & B") == target
    assert "<h1>A &amp; B</h1>" in target.read_text(encoding="utf-8")
    assert scivae.report.write(model, out=tmp_path).name == "report.html"
    monkeypatch.setattr("scivae.report._page.render", lambda contents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scivae.report.write(model, out=target)
    assert [f.name for f in target.parent.iterdir()] == ["é.html"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"model": "m"}, TypeError, "model must be a CIVAE, got 'm'"),
        ({"trends": "t"}, TypeError, "trends must be an AnnData"),
        ({"trends": make_adata()}, ValueError, "trends must be made by scivae.tl.gene_trends"),
        ({"paths": "out/"}, TypeError, "paths must be an AnnData"),
        ({"paths": make_adata()}, ValueError, "paths must be made by model.interpolate"),
        ({"synthetic": make_adata()}, ValueError, "synthetic must be made by model.augment"),
        ({"checks": "c"}, TypeError, "checks must be a DataFrame, got 'c'"),
        ({"checks": pd.DataFrame({"a": [1]})}, ValueError, "checks must be made by scivae.tl.check_paths"),
        ({"out": 3}, TypeError, "out must be a path, got 3"),
        ({"out": "/dev/null/report.html"}, ValueError, "out must be a file in a folder"),
        ({"max_cells": 0}, ValueError, "max_cells must be at least 10, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"title": 3}, TypeError, "title must be text or None"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, kind, message, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        scivae.report.write(**{"model": model, **arguments})
    assert not list(tmp_path.iterdir())


def test_models_without_cells_or_training(model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="load it with CIVAE.load\\(folder, adata\\)"):
        scivae.report.write(scivae.model.CIVAE.load(tmp_path / "model", adata=False))
    adata = make_adata()
    scivae.model.CIVAE.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="not trained"):
        scivae.report.write(scivae.model.CIVAE(adata))


def test_genes_that_are_not_there(results):
    adata = anndata.read_h5ad(results / "cells.h5ad")
    model = scivae.model.CIVAE.load(results / "model", adata)
    trends = anndata.read_h5ad(results / "trends.h5ad")
    with pytest.raises(KeyError, match="genes must be among the 40 genes.*Did you mean 'gene_5'"):
        compose(model, trends, None, None, genes=["gene5"])


@pytest.mark.usefixtures("no_figures")
def test_genes_are_named_by_symbol(model):
    """In the page; the results that were given keep their names. Two genes of one symbol stay two."""
    adata = model.adata
    adata.var["symbol"] = [f"S{max(i, 1)}" for i in range(adata.n_vars)]
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = scivae.tl.pair_cells(adata, "site", "left", "right", label="alpha")
    trends = scivae.tl.gene_trends(model, pairs, n_steps=5, n_bootstraps=20, key_added=None)
    before = trends.var_names.tolist()
    sets = {"odd": [f"S{i}" for i in range(1, 40, 2)]}
    report = composed(model, trends, genes=["S7", "gene_3"], gene_symbols="symbol", gene_sets=sets)
    assert report.contents["shown"] == ["S7", "S3"]
    table = report.contents["table"]
    at = {c["key"]: c["at"] for c in table["columns"]}
    of_name = {row[at["id"]]: row[at["gene"]] for row in table["rows"]}
    assert of_name == {f"gene_{i}": ("S1-1" if i == 1 else f"S{max(i, 1)}") for i in range(40)}
    assert report.sets["n_genes"].tolist() == [20]
    assert trends.var_names.tolist() == before
    with pytest.raises(KeyError, match="gene_symbols must be a column of adata.var, got 'name'"):
        composed(model, trends, gene_symbols="name")


def test_a_model_of_other_values_than_counts_is_noted():
    """Log values in X, counts in a layer of another name."""
    from scivae.report import _notes

    adata = make_adata()
    adata.layers["umi"] = adata.layers.pop("counts")
    adata.X = np.log1p(adata.layers["umi"].toarray())
    for layer, noted in ((None, True), ("umi", False)):
        scivae.model.CIVAE.setup_anndata(adata, layer=layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = scivae.model.CIVAE(adata)
        text = " ".join(_notes._of_values(model))
        assert ("not on counts (likelihood normal)" in text and "layer='umi'" in text) == noted
        assert bool(text) == noted


def test_a_model_without_a_classifier_is_described_as_one():
    from scivae.report import _methods, _notes

    adata = make_adata()
    scivae.model.CIVAE.setup_anndata(adata)
    model = scivae.model.CIVAE(adata, discriminator_weight=0)
    assert "without its classifier" in _notes._of_classifier(model, None, minified=False)[0]
    text = _methods._Text()
    _methods._of_model(text, model)
    assert "without a classifier (20 latent dimensions" in text.sentences[0]
    assert "cross-entropy" not in text.sentences[0]


@pytest.mark.parametrize(
    ("likelihood", "scale", "noted"),
    [("auto", 1.0, True), ("normal", 1.0, True), ("laplace", 1.0, False), ("auto", -1.0, False)],
)
def test_values_that_were_made_from_counts_are_noted(likelihood, scale, noted):
    """Not if the likelihood was chosen by hand, or the values cannot be mistaken for counts."""
    from scivae.report import _notes

    adata = make_adata()
    adata.X = scale * np.log1p(adata.layers.pop("counts").toarray())
    scivae.model.CIVAE.setup_anndata(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = scivae.model.CIVAE(adata, likelihood=likelihood)
    found = [note.split(". ")[0] for note in _notes._of_values(model)]
    assert found == noted * [
        "The model was trained on adata.X, which holds log-normalized values, not counts (likelihood normal)"
    ]


def test_genes_that_differ_are_counted_once():
    """Genes with a sure position that do not differ are in neither number."""
    from scivae.report import _data

    ranked = pd.DataFrame(
        {"fdr": [0.01, 0.01, 0.5, np.nan], "resolved": [True, False, True, True]},
        index=list("abcd"),
    )
    ranked = ranked.assign(p_value=ranked["fdr"])
    ranked.attrs |= {"unit": "donors", "test": "moderated", "scale": "log2 of counts"}
    ranked.attrs["permutation"] = {
        "called": 2, "called_permuted": 0.0, "n_permutations": 125, "p_value": 1 / 126,
    }  # fmt: skip
    (n, said), (sure, _) = _data.headline({"evidence": "measured"}, ranked, None, None)
    assert (n, sure) == ("2", "1")
    assert said.startswith("of 3 tested genes differ (")  # the false discovery rate is over these
    assert "; 1 had too few counts to test)" in said
    assert said.endswith("; 0 in the median of 125 permutations of donors (p 0.0079)")


@pytest.mark.parametrize(
    ("n_between", "between", "phrase"),
    [
        (47, [], "Almost nothing was measured between “vehicle” and “drug”: 47 of 335 cells"),
        (19, ["low dose"], "These data do not show an order of genes"),
        (160, [], "not tested whether the 160 cells in the middle half"),
        (47, ["low dose"], ""),
    ],
)
def test_an_order_of_genes_needs_cells_between_the_groups(n_between, between, phrase):
    from scivae.report import _notes

    said = {
        "source": "vehicle", "target": "drug", "n_used": 335, "n_between": n_between,
        "between": np.array(between, dtype=str),
    }  # fmt: skip
    text = " ".join(_notes._of_middle(said))
    assert phrase in text
    assert bool(text) == bool(phrase)
