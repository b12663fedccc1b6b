from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import scivae


def lines(ax) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_ydata() for line in ax.get_lines()}


def test_lines_and_bands_are_the_layers(trends):
    ax = scivae.pl.gene_trends(trends, "late")
    gene = trends.var_names.get_loc("late")
    np.testing.assert_array_equal(lines(ax)["mean"], trends.layers["mean"][:, gene])
    np.testing.assert_array_equal(lines(ax)["each of 2 donors"], trends.layers["mean_d1"][:, gene])
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    for layer in ("q05", "q95"):
        edge = np.column_stack([trends.obs["civae_t"], trends.layers[layer][:, gene]])
        assert all((np.isclose(vertices, point).all(axis=1)).any() for point in edge)
    assert ax.get_xlabel() == "position along path, t\n(0: normal, 1: tumour)"
    assert ax.get_ylabel() == "log2(counts per 10,000 + 1)"
    assert ax.get_title(loc="left") == "late"


def test_bands_and_donors_can_be_left_out(trends):
    ax = scivae.pl.gene_trends(trends, "late", bands=False, donors=False)
    assert list(lines(ax)) == ["mean"]
    assert not ax.collections


def test_panels_share_their_labels(trends):
    axes = scivae.pl.gene_trends(trends, ["late", "early", "flat"])
    assert axes.shape == (3,)
    figure = axes[0].get_figure()
    assert figure.get_supylabel() == "log2(counts per 10,000 + 1)"
    assert "normal" in figure.get_supxlabel()
    assert len(figure.axes) == 3


def test_several_genes_in_one_axes_are_named_at_their_ends(trends):
    ax = scivae.pl.gene_trends(trends, ["late", "middle", "early"], overlay=True, donors=False)
    names = {t.get_text(): t.xy[1] for t in ax.texts}
    assert set(names) == {"late", "middle", "early"}
    assert names["middle"] > names["late"] > names["early"]
    colors = {t.get_text(): t.get_color() for t in ax.texts}
    assert len(set(colors.values())) == 3
    _, given = plt.subplots()
    assert scivae.pl.gene_trends(trends, ["late", "early"], ax=given) is given


def test_names_that_would_overlap_are_moved_apart(trends):
    trends.layers["mean"][:, 1] = trends.layers["mean"][:, 0]
    ax = scivae.pl.gene_trends(trends, ["late", "early"], overlay=True)
    ax.get_figure().canvas.draw()
    first, second = (t.get_window_extent() for t in ax.texts)
    assert not first.overlaps(second)


def test_heatmap_rows_are_in_the_order_of_the_switch(trends):
    ax = scivae.pl.trend_heatmap(trends)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["early", "middle", "late", "flat"]
    z = np.asarray(ax.images[0].get_array())
    mean = trends.layers["mean"][:, [1, 3, 0]]
    np.testing.assert_allclose(z[:3].T, (mean - mean.mean(0)) / mean.std(0))
    assert (z[3] == 0).all()
    x, y = ax.get_lines()[0].get_data()
    np.testing.assert_allclose(x[:3], [0.2, 0.5, 0.8], atol=0.02)
    assert np.isnan(x[3])
    np.testing.assert_array_equal(y, range(4))


def test_heatmap_of_a_ranked_table(trends):
    ranked = pd.DataFrame({"switch": [0.9, 0.1, 0.4]}, index=["early", "late", "middle"])
    ax = scivae.pl.trend_heatmap(trends, ranked, n_genes=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["late", "early"]
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [0.1, 0.9])


def test_heatmap_of_named_genes_and_of_those_that_vary_most(trends):
    ax = scivae.pl.trend_heatmap(trends, ["late", "early"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["early", "late"]
    ax = scivae.pl.trend_heatmap(trends, n_genes=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["middle", "late"]


def test_bad_input(trends, joint):
    with pytest.raises(KeyError, match="got 'lat'. Did you mean 'late'"):
        scivae.pl.gene_trends(trends, "lat")
    with pytest.raises(KeyError, match="got 'erly'"):
        scivae.pl.trend_heatmap(trends, ["late", "erly"])
    with pytest.raises(ValueError, match="genes must name at least one gene"):
        scivae.pl.gene_trends(trends, [])
    with pytest.raises(ValueError, match="must be made by scivae.tl.gene_trends"):
        scivae.pl.trend_heatmap(joint)
    with pytest.raises(TypeError, match="trends must be an AnnData, got dict"):
        scivae.pl.gene_trends({}, "late")
    with pytest.raises(ValueError, match="3 panels, got 2 axes"):
        scivae.pl.gene_trends(trends, ["late", "early", "flat"], ax=plt.subplots(1, 2)[1])
    with pytest.raises(ValueError, match="max_z must be positive, got nan"):
        scivae.pl.trend_heatmap(trends, max_z=float("nan"))
    with pytest.raises(ValueError, match="n_genes must be at least 1, got 0"):
        scivae.pl.trend_heatmap(trends, n_genes=0)


def test_trends_of_a_file_are_drawn_alike(trends, tmp_path):
    import anndata as ad

    trends.write_h5ad(tmp_path / "trends.h5ad")
    ax = scivae.pl.gene_trends(ad.read_h5ad(tmp_path / "trends.h5ad"), "late")
    assert set(lines(ax)) >= {"mean", "each of 2 donors"}
