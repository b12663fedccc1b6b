"""Names of genes from a column of var, as in scanpy's plots."""

from __future__ import annotations

import pytest
from tests.pl import conftest as make

import scivae

SYMBOLS = {"late": "LYZ", "early": "CD74", "flat": "", "middle": "CD74"}


def with_symbols():
    trends = make.make_trends()
    trends.var["symbol"] = [SYMBOLS[name] for name in trends.var_names]
    return trends


def labels(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def attribution(**options):
    genes = make.make_attribution().assign(symbol=["a", "b", "c", "d"])
    return scivae.pl.attribution(genes, **options)


FIGURES = {
    "gene_trends": lambda **k: scivae.pl.gene_trends(with_symbols(), "late", **k),
    "trend_heatmap": lambda **k: scivae.pl.trend_heatmap(with_symbols(), **k),
    "gene_order": lambda **k: scivae.pl.gene_order(with_symbols(), **k),
    "attribution": attribution,
    "animate": lambda **k: scivae.pl.animate(
        make.make_joint(), basis="umap", trends=with_symbols(), genes="late", **k
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_missing_column_is_named(name):
    with pytest.raises(KeyError, match=r"gene_symbols must be a column .* Did you mean 'symbol'"):
        FIGURES[name](gene_symbols="symbols")


def test_genes_are_shown_and_asked_for_by_symbol():
    trends = with_symbols()
    axes = scivae.pl.gene_trends(trends, ["LYZ", "middle", "flat"], gene_symbols="symbol")
    # A gene without a symbol keeps its name.
    assert [ax.get_title(loc="left") for ax in axes] == ["LYZ", "CD74", "flat"]
    ax = scivae.pl.gene_trends(trends, ["late", "flat"], gene_symbols="symbol", overlay=True)
    assert [text.get_text() for text in ax.texts] == ["LYZ", "flat"]
    with pytest.raises(ValueError, match=r"'CD74' is the symbol of 2 genes \('early', 'middle'\)"):
        scivae.pl.gene_trends(trends, "CD74", gene_symbols="symbol")
    with pytest.raises(KeyError, match="genes must be among the 4 var_names, got 'LYZ'"):
        scivae.pl.gene_trends(trends, "LYZ")


def test_tables_of_genes_show_symbols():
    trends = with_symbols()
    plain = labels(scivae.pl.trend_heatmap(trends))
    ax = scivae.pl.trend_heatmap(trends, gene_symbols="symbol", gene_sets={"set": ["LYZ", "early"]})
    assert labels(ax) == [SYMBOLS[name] or name for name in plain]
    strip = ax.child_axes[1].images[0].get_array()
    marked = [name for name, row in zip(plain, strip, strict=True) if (row < 1).any()]
    assert sorted(marked) == ["early", "late"]
    plain = labels(scivae.pl.gene_order(trends))
    assert labels(scivae.pl.gene_order(trends, gene_symbols="symbol")) == [
        SYMBOLS[name] for name in plain
    ]
    assert sorted(labels(attribution(gene_symbols="symbol"))) == ["a", "b", "c", "d"]
