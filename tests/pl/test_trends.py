from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib import pyplot as plt
from tests.pl.conftest import make_joint, make_trends

import scivae


def lines(ax) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_ydata() for line in ax.get_lines()}


def test_lines_and_bands_are_the_layers(trends):
    ax = scivae.pl.gene_trends(trends, "late")
    gene = trends.var_names.get_loc("late")
    np.testing.assert_array_equal(lines(ax)["fit to cells"], trends.layers["fit"][:, gene])
    dashed = next(line for line in ax.get_lines() if "decoded" in str(line.get_label()))
    np.testing.assert_array_equal(dashed.get_ydata(), trends.layers["decoded"][:, gene])
    assert (dashed.get_linestyle(), dashed.get_label()) == ("--", "decoded (prediction)")
    bins = trends.uns["civae"]["bins"]
    own = (bins["donor"] == 0).to_numpy()
    expected = np.log1p(trends.varm["civae_bins"][gene, own])
    np.testing.assert_allclose(lines(ax)["each of 3 donors"], expected)
    band = next(c for c in ax.collections if c.get_label() == "90 % band")
    vertices = band.get_paths()[0].vertices
    for layer in ("fit_low", "fit_high"):
        edge = np.column_stack([trends.obs["civae_t"], trends.layers[layer][:, gene]])
        assert all((np.isclose(vertices, point).all(axis=1)).any() for point in edge)
    assert ax.get_xlabel() == "position along path, t\n(0: normal, 1: tumor)"
    assert ax.get_ylabel() == "log1p of\nmean counts\nper 10,000"
    assert ax.get_title(loc="left") == "late"


def test_bins_are_means_over_donors_with_their_interval(trends):
    ax = scivae.pl.gene_trends(trends, "middle")
    (bars,) = ax.containers
    assert bars.get_label() == "cells, 90 % by donor"
    gene = trends.var_names.get_loc("middle")
    values = np.log1p(trends.varm["civae_bins"][gene]).reshape(10, 3)
    np.testing.assert_allclose(np.asarray(bars.lines[0].get_ydata(), float), values.mean(axis=1))
    half = scipy.stats.t.ppf(0.95, 2) * values.std(axis=1, ddof=1) / np.sqrt(3)
    segments = bars.lines[2][0].get_segments()
    np.testing.assert_allclose(
        [float(s[1, 1]) for s in segments], values.mean(axis=1) + half, atol=1e-9
    )
    # with one donor the interval is over cells
    trends.uns["civae"]["bins"] = trends.uns["civae"]["bins"].assign(donor=-1, bin=np.arange(30))
    ax = scivae.pl.gene_trends(trends, "middle")
    assert ax.containers[0].get_label() == "cells, 90 % by cell"


def test_parts_can_be_left_out(trends):
    ax = scivae.pl.gene_trends(
        trends, "late", bands=False, donors=False, measured=False, decoded=False
    )
    assert list(lines(ax)) == ["fit to cells"]
    assert not ax.collections


def test_decoded_trends_are_dashed_and_named_a_prediction():
    trends = make_trends(evidence="decoded")
    ax = scivae.pl.gene_trends(trends, "late")
    (line,) = ax.get_lines()
    assert (line.get_linestyle(), line.get_label()) == ("--", "decoded (prediction)")
    assert ax.collections[0].get_label() == "5–95 % of paths"


def test_p_values_say_their_unit(trends):
    ranked = pd.DataFrame({"p_value": [0.2, 1e-5]}, index=["late", "early"])
    axes = scivae.pl.gene_trends(trends, ranked)
    assert [said(ax) for ax in axes] == [["p = 0.2 (donors)"], ["p < 0.001 (donors)"]]
    cells = ranked.rename(columns={"p_value": "p_cells"})
    ax = scivae.pl.gene_trends(trends, "late", ranked=cells)
    assert said(ax) == ["p = 0.2 (cells)"]
    assert said(scivae.pl.gene_trends(trends, "late")) == []


def said(ax) -> list[str]:
    """What is written in an Axes, but for its titles."""
    return [text.get_text() for text in ax.texts]


def test_a_transient_gene_has_the_value_of_its_own_test(trends):
    ranked = pd.DataFrame(
        {"fdr": [0.97, 0.02], "fdr_transient": [0.001, 0.5], "shape": ["transient", "down"]},
        index=["late", "early"],
    )
    axes = scivae.pl.gene_trends(trends, ranked)
    said = [" ".join(t.get_text() for t in ax.texts) for ax in axes]
    assert said == ["transient, FDR = 0.001 (donors)", "FDR = 0.02 (donors)"]


def test_a_long_name_does_not_run_into_the_next_panel_or_its_p_value(trends):
    trends.var_names = ["APOBEC3A_ENSG00000128383", *trends.var_names[1:]]
    ranked = pd.DataFrame({"p_value": [0.2, 1e-5]}, index=trends.var_names[:2])
    axes = scivae.pl.gene_trends(trends, ranked)
    figure = axes[0].get_figure()
    figure.canvas.draw()
    title = axes[0]._left_title.get_window_extent()
    assert not title.overlaps(axes[1]._left_title.get_window_extent())
    assert not title.overlaps(axes[0].texts[0].get_window_extent())


def test_bins_of_few_cells_are_joined(trends):
    bins = trends.uns["civae"]["bins"]
    thin = bins["bin"].between(3, 6)
    trends.uns["civae"]["bins"] = bins.assign(n_cells=np.where(thin, 1, 20))
    ax = scivae.pl.gene_trends(trends, "middle")
    drawn = np.asarray(ax.containers[0].lines[0].get_xdata(), dtype=float)
    # Bins 3 to 6 hold three cells each: they are one. So is what a donor has of them, with the next.
    assert len(drawn) == 7
    (t,) = (line.get_xdata() for line in ax.get_lines() if line.get_label() == "each of 3 donors")
    assert len(t) == 6


def test_groups_with_levels_of_their_own_are_points_beside_the_curve(trends):
    trends.uns["civae"]["free_ends"] = True
    ax = scivae.pl.gene_trends(trends, "late")
    found = {str(line.get_label()): line for line in ax.get_lines()}
    fit = trends.layers["fit"][:, trends.var_names.get_loc("late")]
    np.testing.assert_array_equal(found["fit to cells"].get_ydata(), fit[1:-1])
    np.testing.assert_array_equal(found["fit, each group"].get_ydata(), fit[[0, -1]])
    # The jump from a group to the cells next to it is drawn.
    np.testing.assert_array_equal(found["fit, no cells between"].get_ydata(), fit)
    # Solid only where there are cells of neither group.
    at = [0.0, 0.32, 0.52, 0.95, 1.0]
    cells = pd.DataFrame({"t": at, "weight": [1.0, 1, 1, 0, 1]}, index=list("abcde"))
    trends.uns["civae"]["cells"] = cells
    ax = scivae.pl.gene_trends(trends, "late")
    solid = next(line for line in ax.get_lines() if line.get_label() == "fit to cells")
    np.testing.assert_allclose(solid.get_xdata(), [0.3, 0.4, 0.5])


def test_a_long_table_is_cut_with_a_warning(trends, monkeypatch):
    monkeypatch.setattr("scivae.pl._trends.MAX_PANELS", 2)
    table = pd.DataFrame({"fdr": 0.01}, index=["late", "early", "middle"])
    with pytest.warns(UserWarning, match="genes has 3 rows, of which the first 2 are drawn"):
        axes = scivae.pl.gene_trends(trends, table)
    assert [ax.get_title(loc="left") for ax in axes] == ["late", "early"]
    assert len(scivae.pl.gene_trends(trends, list(table.index))) == 3  # genes that were named


def test_panels_share_their_labels(trends):
    axes = scivae.pl.gene_trends(trends, ["late", "early", "flat"])
    assert axes.shape == (3,)
    figure = axes[0].get_figure()
    assert figure.get_supylabel() == "log1p of mean counts\nper 10,000"
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
    trends.layers["fit"][:, 1] = trends.layers["fit"][:, 0]
    ax = scivae.pl.gene_trends(trends, ["late", "early"], overlay=True)
    ax.get_figure().canvas.draw()
    first, second = (t.get_window_extent() for t in ax.texts)
    assert not first.overlaps(second)


def test_heatmap_rows_are_rising_then_falling_in_the_order_of_the_switch(trends):
    ax = scivae.pl.trend_heatmap(trends)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["middle", "late", "early", "flat"]
    z = np.asarray(ax.images[0].get_array())
    mean = trends.layers["fit"][:, [3, 0, 1]]
    np.testing.assert_allclose(z[:3].T, (mean - mean.mean(0)) / mean.std(0))
    assert (z[3] == 0).all()
    x, y = ax.get_lines()[0].get_data()
    np.testing.assert_allclose(x[:3], [0.5, 0.8, 0.2])
    assert np.isnan(x[3])
    np.testing.assert_array_equal(y, range(4))
    intervals = ax.collections[0].get_segments()
    np.testing.assert_allclose(intervals[1][:, 0], [0.7, 0.85])


def test_heatmap_marks_unresolved_genes_and_shows_changes(trends):
    ax = scivae.pl.trend_heatmap(trends)
    colors = {t.get_text(): t.get_color() for t in ax.get_yticklabels()}
    assert colors["middle"] != colors["late"] == colors["early"]
    assert "unresolved" in ax.get_xlabel()
    strip = ax.child_axes[0]
    assert strip.get_title(loc="center") == "log2 FC"
    expected = trends.var.loc[["middle", "late", "early", "flat"], "change"]
    np.testing.assert_allclose(np.asarray(strip.images[0].get_array())[:, 0], expected)


def test_heatmap_of_gene_sets(trends):
    sets = {"first": ["early", "elsewhere"], "second": ["late", "middle"]}
    ax = scivae.pl.trend_heatmap(trends, gene_sets=sets)
    strips = ax.child_axes[1:]
    assert [s.get_title(loc="center") for s in strips] == ["first", "second"]
    filled = [(np.asarray(s.images[0].get_array())[:, 0] < 1).any(axis=1) for s in strips]
    assert filled[0].tolist() == [False, False, True, False]
    assert filled[1].tolist() == [True, True, False, False]


def test_heatmap_of_a_ranked_table(trends):
    ranked = pd.DataFrame(
        {"switch": [0.9, 0.1, 0.4], "change": [1.0, 1.0, 1.0]}, index=["early", "late", "middle"]
    )
    ax = scivae.pl.trend_heatmap(trends, ranked, n_genes=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["late", "early"]
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [0.1, 0.9])


def test_heatmap_of_named_genes_and_of_those_that_vary_most(trends):
    ax = scivae.pl.trend_heatmap(trends, ["early", "late"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["late", "early"]
    ax = scivae.pl.trend_heatmap(trends, n_genes=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["middle", "late"]


def test_heatmap_of_decoded_trends_has_no_intervals():
    ax = scivae.pl.trend_heatmap(make_trends(evidence="decoded"))
    assert "unresolved" in ax.get_xlabel()


class TestOrder:
    def test_genes_by_switch_with_intervals(self, trends):
        trends.var["resolved"] = [True, True, False, True]
        ax = scivae.pl.gene_order(trends)
        assert [t.get_text() for t in ax.get_yticklabels()] == ["early", "middle", "late"]
        points = {str(x.get_label()): x.get_xdata() for x in ax.get_lines()}
        np.testing.assert_allclose(points["rising"], [0.5, 0.8])
        np.testing.assert_allclose(points["falling"], [0.2])
        # early before middle before late: two arrows, none from early to late
        arrows = [t for t in ax.texts if t.arrow_patch is not None]
        assert [(a.xyann[1], a.xy[1]) for a in arrows] == [(0, 1), (1, 2)]
        assert ax.get_title("left") == "3 of 4 genes resolved\n3 of 3 pairs ordered"

    def test_the_title_says_that_nothing_is_ordered(self, trends):
        """Rows are sorted, also those of genes whose intervals overlap."""
        order = scivae.tl.gene_order(trends)
        nothing = order._replace(before=np.zeros_like(order.before))
        title = "2 of 4 genes resolved\n0 of 1 pairs ordered"
        assert scivae.pl.gene_order(nothing).get_title("left") == title
        plain = scivae.tl.GeneOrder(
            pd.DataFrame(dict(order.genes), index=order.genes.index), order.before
        )
        assert scivae.pl.gene_order(plain).get_title("left") == "2 genes\n1 of 1 pairs ordered"

    def test_those_that_change_most_all_over_the_path(self):
        n = 40
        switch = np.repeat([0.05, 0.5, 0.95], [30, 5, 5])
        genes = pd.DataFrame(
            {"switch": switch, "change": np.arange(1.0, n + 1), "direction": "up"},
            index=[f"g{i}" for i in range(n)],
        ).assign(switch_low=switch - 0.01, switch_high=switch + 0.01)
        order = scivae.tl.GeneOrder(genes, np.zeros((n, n), dtype=bool))
        ax = scivae.pl.gene_order(order, n_genes=6)
        names = [t.get_text() for t in ax.get_yticklabels()]
        assert names == ["g28", "g29", "g33", "g34", "g38", "g39"]

    def test_arrows_that_nobody_could_follow_are_not_drawn(self):
        switch = np.repeat([0.1, 0.9], 6)
        genes = pd.DataFrame(
            {"switch": switch, "direction": "up"}, index=[f"g{i}" for i in range(12)]
        ).assign(switch_low=switch - 0.01, switch_high=switch + 0.01)
        before = np.zeros((12, 12), dtype=bool)
        before[:6, 6:] = True  # 36 pairs
        assert not scivae.pl.gene_order(scivae.tl.GeneOrder(genes, before)).texts

    def test_no_lines(self, trends):
        ax = scivae.pl.gene_order(scivae.tl.gene_order(trends), n_genes=1, arrows=False)
        assert len(ax.get_yticklabels()) == 1
        assert not ax.texts
        with pytest.raises(TypeError, match="arrows must be True or False"):
            scivae.pl.gene_order(trends, arrows="no")
        with pytest.raises(ValueError, match="trends must be made by scivae.tl.gene_trends"):
            scivae.pl.gene_order(make_joint())


def test_bad_input(trends, joint):
    with pytest.raises(KeyError, match="got 'lat'. Did you mean 'late'"):
        scivae.pl.gene_trends(trends, "lat")
    with pytest.raises(KeyError, match="got 'erly'"):
        scivae.pl.trend_heatmap(trends, ["late", "erly"])
    with pytest.raises(ValueError, match="genes must name at least one gene"):
        scivae.pl.gene_trends(trends, [])
    with pytest.raises(ValueError, match="must be made by scivae.tl.gene_trends"):
        scivae.pl.trend_heatmap(joint)
    with pytest.raises(TypeError, match=r"trends must be an AnnData, got \{\}"):
        scivae.pl.gene_trends({}, "late")
    with pytest.raises(ValueError, match="3 panels, got 2;"):
        scivae.pl.gene_trends(trends, ["late", "early", "flat"], ax=plt.subplots(1, 2)[1])
    with pytest.raises(ValueError, match="max_z must be positive, got nan"):
        scivae.pl.trend_heatmap(trends, max_z=float("nan"))
    with pytest.raises(ValueError, match="n_genes must be at least 1, got 0"):
        scivae.pl.trend_heatmap(trends, n_genes=0)


def test_trends_of_a_file_are_drawn_alike(trends, tmp_path):
    import anndata as ad

    trends.write_h5ad(tmp_path / "trends.h5ad")
    ax = scivae.pl.gene_trends(ad.read_h5ad(tmp_path / "trends.h5ad"), "late")
    assert set(lines(ax)) >= {"fit to cells", "each of 3 donors"}
