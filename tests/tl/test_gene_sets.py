"""Curves of gene sets: those of the scores of measured cells, which a test calculates by itself."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae import pl, tl
from scivae.stats import measured_curves

N_GENES = 40


@pytest.fixture(scope="module")
def walk():
    """Cells whose genes 0 to 9 rise and 10 to 19 fall between two sites; trends; sets."""
    rng = np.random.default_rng(0)
    adata = make_adata(n_cells=240)
    t = np.where(adata.obs["site"] == "left", 0.0, 1.0)
    counts = adata.layers["counts"].toarray()
    counts[:, :10] = rng.poisson(np.exp(0.5 + 1.5 * t)[:, None], (240, 10))
    counts[:, 10:20] = rng.poisson(np.exp(2.0 - 1.5 * t)[:, None], (240, 10))
    adata.layers["counts"] = counts.astype(np.float32)
    model = make_model(adata, epochs=5)
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = tl.pair_cells(adata, "site", "left", "right", label="alpha", n_pairs=30)
    trends = tl.gene_trends(model, pairs, n_steps=11, n_bootstraps=20)
    names = adata.var_names
    sets = {"rising": names[:10], "falling": names[10:20], "still": names[20:]}
    return adata, trends, {name: list(genes) for name, genes in sets.items()}


def scores(adata, trends, genes) -> np.ndarray:
    """Mean z-score of the genes in each cell of the trends, by scanpy's steps."""
    cells = trends.uns["civae"]["cells"]
    used = adata[cells.index[cells["weight"] > 0]]
    counts = np.asarray(used.layers["counts"], dtype=float)
    x = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    return z[:, used.var_names.get_indexer(genes)].mean(axis=1)


def test_curves_are_those_of_the_scores_of_cells(walk):
    adata, trends, sets = walk
    before = snapshot(adata)
    found = tl.set_trends(adata, trends, sets, n_bootstraps=30)
    assert_unchanged(adata, before)
    assert found.var_names.tolist() == list(sets)
    assert found.var["n_genes"].tolist() == [10, 10, 20]
    cells = trends.uns["civae"]["cells"]
    cells = cells[cells["weight"] > 0]
    expected = measured_curves(
        np.stack([scores(adata, trends, genes) for genes in sets.values()]),
        cells["t"],
        library=None,
        weights=cells["weight"],
        free_ends=trends.uns["civae"]["free_ends"],
        n_steps=11,
        n_bootstraps=0,
    )
    np.testing.assert_allclose(found.layers["fit"], expected.fit, atol=1e-4)
    change = found.var["change"]
    assert change["rising"] > 0.5
    assert change["falling"] < -0.5
    assert (found.layers["fit_low"] <= found.layers["fit_high"]).all()
    # Control: genes at random move less than either set.
    rng = np.random.default_rng(1)
    chance = {f"r{i}": rng.choice(adata.var_names, 10, replace=False) for i in range(5)}
    null = tl.set_trends(adata, trends, chance, n_bootstraps=0).var["change"].abs()
    assert null.max() < 0.7 * change[["rising", "falling"]].abs().min()


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_bands_do_not_take_genes_for_independent(walk):
    """Genes that are copies of one add nothing: the band of the set is that of the gene."""
    adata, trends, _ = walk
    copies = adata[:, [0] * 10].copy()
    copies.var_names = [f"copy_{i}" for i in range(10)]
    both = anndata.concat([adata, copies], axis=1, merge="same")
    names = trends[:, [0] * 10].copy()
    names.var_names = copies.var_names
    wide = anndata.concat([trends, names], axis=1, merge="same", uns_merge="first")
    sets = {"one": [adata.var_names[0]], "ten": list(copies.var_names)}
    found = tl.set_trends(both, wide, sets, min_size=1, n_bootstraps=50)
    np.testing.assert_allclose(found[:, "one"].X, found[:, "ten"].X, atol=1e-3)
    width = found.layers["fit_high"] - found.layers["fit_low"]
    np.testing.assert_allclose(width[:, 0], width[:, 1], rtol=0.01)


def test_weights_and_files(walk, tmp_path):
    adata, trends, sets = walk
    net = pd.DataFrame({"source": "both", "target": [*sets["rising"], *sets["falling"]], "weight": [1.0] * 10 + [-1.0] * 10})  # fmt: skip
    one = tl.set_trends(adata, trends, net, n_bootstraps=0)
    other = tl.set_trends(adata, trends, net.assign(weight=-net["weight"]), n_bootstraps=0)
    np.testing.assert_allclose(one.X, -other.X, atol=1e-4)
    assert one.var["change"].iloc[0] > 0.5
    text = "\n".join("\t".join([name, "about", *genes]) for name, genes in sets.items())
    (tmp_path / "sets.gmt").write_text(text, encoding="utf-8")
    read = tl.set_trends(adata, trends, tmp_path / "sets.gmt", n_bootstraps=0)
    np.testing.assert_allclose(read.X, tl.set_trends(adata, trends, sets, n_bootstraps=0).X)


def test_is_drawn_like_trends(walk):
    adata, trends, sets = walk
    names = [k.upper() for k in sets]
    found = tl.set_trends(
        adata, trends, {f"HALLMARK_{k.upper()}_OF_GENES": v for k, v in sets.items()}
    )
    axes = pl.gene_trends(found, list(found.var_names))
    assert [ax.get_title(loc="left") for ax in axes] == [f"{k} OF GENES" for k in names]
    assert axes[0].title.get_style() == "normal"  # names of genes are in italics
    assert axes[0].get_figure().get_supylabel() == "mean z-score of the genes"
    assert len(pl.trend_heatmap(found).get_yticklabels()) == 3


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"net": {"a": ["x"] * 9}}, ValueError, "a set with at least min_size=5 genes"),
        ({"net": "none.gmt"}, ValueError, "net must be a file, got none.gmt"),
        ({"layer": "raw"}, KeyError, "layer must be a layer of adata, got 'raw'"),
        ({"trends": make_adata()}, ValueError, "trends must be made by scivae.tl.gene_trends"),
        ({"adata": make_adata(n_cells=50)}, KeyError, "adata must have the .* cells"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_arguments(walk, change, kind, message):
    adata, trends, sets = walk
    with pytest.raises(kind, match=message):
        tl.set_trends(**{"adata": adata, "trends": trends, "net": sets, **change})


def test_files_that_are_no_gene_sets(tmp_path):
    for text, message in (("a\tb", "got 2 parts in line 1"), ("\n\n", "at least one set of genes")):
        (tmp_path / "a.gmt").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            tl.read_gene_sets(tmp_path / "a.gmt")


@pytest.mark.parametrize(("n_between", "resolved"), [(10, False), (60, True)])
def test_no_set_is_resolved_without_cells_in_between(walk, n_between, resolved):
    """As for genes: the same curve, with few or many cells in the middle half of the path."""
    adata, trends, sets = walk
    trends = trends.copy()
    cells = trends.uns["civae"]["cells"].query("weight > 0").copy()
    order = np.argsort(scores(adata, trends, sets["rising"]), kind="stable")
    n = len(cells)
    ends = np.linspace(0, 0.24, (n - n_between) // 2)
    t = np.concatenate([ends, np.linspace(0.26, 0.74, n - 2 * len(ends)), 1 - ends[::-1]])
    cells.iloc[order, cells.columns.get_loc("t")] = t
    trends.uns["civae"].update(cells=cells, free_ends=False)
    found = tl.set_trends(adata, trends, {"rising": sets["rising"]}, n_bootstraps=20)
    assert found.var["resolved"].tolist() == [resolved]


def test_sets_of_symbols_are_those_of_names(walk):
    """The symbols of ``adata.var`` are in the trends; several genes may share one."""
    adata, trends, sets = walk
    adata = adata.copy()
    symbols = {name: f"S{i // 2}" for i, name in enumerate(adata.var_names)}
    adata.var["symbol"] = pd.Categorical(list(symbols.values()))
    adata.var["length"] = 7
    named = tl.gene_trends(
        make_model(adata, epochs=1), pairs_of(adata), n_steps=3, evidence="decoded"
    )
    assert named.var["symbol"].to_dict() == symbols
    assert "length" not in named.var
    trends = trends.copy()
    trends.var["symbol"] = named.var["symbol"]
    net = {name: {symbols[gene] for gene in genes} for name, genes in sets.items()}
    expected = tl.set_trends(adata, trends, sets, n_bootstraps=0)
    found = tl.set_trends(adata, trends, net, gene_symbols="symbol", n_bootstraps=0)
    np.testing.assert_allclose(found.layers["fit"], expected.layers["fit"], rtol=1e-5)
    pd.testing.assert_frame_equal(
        tl.enrich(trends, net, gene_symbols="symbol", n_permutations=100),
        tl.enrich(trends, sets, n_permutations=100),
    )
    with pytest.raises(KeyError, match="gene_symbols must be a column of trends.var, got 'name'"):
        tl.enrich(trends, net, gene_symbols="name")


def pairs_of(adata):
    adata.obsm["X_civae"] = np.zeros((adata.n_obs, 4))
    return tl.pair_cells(adata, "site", "left", "right", label="alpha", n_pairs=3)
