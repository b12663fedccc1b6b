"""Figures of tables: training curves, confusion, trade-off."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix
from tests.pl import conftest as make

import scivae
from scivae.pl._confusion import confusion_counts


def test_curves_are_what_was_logged(trained):
    axes = scivae.pl.history(trained)
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles[:2] == ["objective J", "reconstruction"]
    logged = trained.history["reconstruction_loss_train"].iloc[:, 0].to_numpy(dtype=float)
    curve = axes[1].get_lines()[0]
    np.testing.assert_allclose(curve.get_ydata(), logged)
    np.testing.assert_array_equal(curve.get_xdata(), np.arange(1, 31))
    assert axes[1].get_ylabel() == "nats per cell"
    assert axes[0].get_figure().get_supxlabel() == "epoch"


def test_validation_stands_at_the_epochs_at_which_it_was_measured():
    axes = scivae.pl.history(make.make_history())
    training, validation = axes[1].get_lines()
    np.testing.assert_array_equal(validation.get_xdata(), [1, 3, 5])
    assert (training.get_label(), validation.get_label()) == ("training", "validation")
    np.testing.assert_allclose(axes[4].get_lines()[0].get_ydata()[0], 200)  # percent


def test_history_of_an_untrained_model(adata):
    scivae.model.CIVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match="got an empty history of CIVAE; call model.train"):
        scivae.pl.history(scivae.model.CIVAE(adata, n_latent=2, n_hidden=4))
    with pytest.raises(TypeError, match="trained model or its history, got int"):
        scivae.pl.history(3)


def test_confusion_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    true, predicted = (np.array(["x", "y", "z"])[rng.integers(3, size=50)] for _ in range(2))
    counts, names = confusion_counts(pd.Series(true), pd.Series(predicted))
    np.testing.assert_array_equal(counts, confusion_matrix(true, predicted))
    assert names == ["x", "y", "z"]
    ax = scivae.pl.confusion(true, predicted)
    want = confusion_matrix(true, predicted, normalize="true")
    np.testing.assert_allclose(ax.images[0].get_array(), 100 * want)
    assert ax.get_title(loc="left") == "% of true class"


def test_confusion_keeps_the_order_of_categories_and_compares_by_position():
    true = pd.Series(pd.Categorical(["b", "a", "a"], categories=["b", "a"]), index=[5, 6, 7])
    counts, names = confusion_counts(true, pd.Series(["b", "a", "c"]))
    assert names == ["b", "a", "c"]
    np.testing.assert_array_equal(counts, [[1, 0, 0], [0, 1, 1], [0, 0, 0]])


def test_long_names_stand_once():
    names = [f"a long name of class {i}" for i in range(4)]
    ax = scivae.pl.confusion(names, names)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "3", "4"]
    assert ax.get_yticklabels()[2].get_text() == "3  a long name of class 2 (1)"


def test_confusion_of_bad_input():
    with pytest.raises(ValueError, match="got 2 and 1"):
        scivae.pl.confusion(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="y_pred must have a class for every cell, got 1 of 2"):
        scivae.pl.confusion(["a", "b"], ["a", None])
    with pytest.raises(
        ValueError, match="labels must include every class that occurs, got none for 'b'"
    ):
        scivae.pl.confusion(["a", "b"], ["a", "b"], labels=["a"])


def test_tradeoff_draws_means_and_every_seed():
    table = make.make_table()
    axes = scivae.pl.tradeoff(table, chosen=10, ceilings={"purity": 0.98})
    assert [ax.get_ylabel() for ax in axes] == ["mae", "purity"]
    by_points = {len(line.get_xdata()): line for line in axes[0].get_lines()}
    np.testing.assert_allclose(by_points[8].get_ydata(), table["mae"])
    np.testing.assert_allclose(
        by_points[4].get_ydata(), table.groupby("discriminator_weight")["mae"].mean()
    )
    assert axes[0].get_xscale() == "symlog"
    assert any(set(line.get_xdata()) == {10} for line in axes[0].get_lines())
    assert any(set(line.get_ydata()) == {0.98} for line in axes[1].get_lines())
    assert axes[0].get_figure().get_supxlabel() == "discriminator weight β"


def test_long_labels_of_tradeoff_are_not_cut_off():
    labels = {"mae": "reconstruction loss of held-out cells", "purity": "purity of the classes"}
    axes = scivae.pl.tradeoff(make.make_table(), labels=labels)
    figure = axes[0].get_figure()
    figure.canvas.draw()
    for ax in axes:
        label, whole = ax.yaxis.label.get_window_extent(), figure.bbox
        assert whole.y0 <= label.y0 < label.y1 <= whole.y1, ax.get_ylabel()
    assert axes[0].get_ylabel().split() == labels["mae"].split()


def test_a_legend_names_the_colors_of_gene_sets():
    ax = scivae.pl.enrichment(make.make_sets())
    lengths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert lengths == {"rising": [5.0, 2.5], "falling": [-4.0], "FDR above 5 %": [-0.5]}
    (legend,) = ax.get_figure().legends
    assert [text.get_text() for text in legend.get_texts()] == list(lengths)
    sure = scivae.pl.enrichment(make.make_sets()[:1])
    assert [bars.get_label() for bars in sure.containers] == ["rising"]


def test_the_scale_of_tradeoff_fits_the_weights():
    table = make.make_table()
    positive = table[table["discriminator_weight"] > 0]
    assert scivae.pl.tradeoff(positive)[0].get_xscale() == "log"
    for one in (0.0, 5.0):
        axes = scivae.pl.tradeoff(table.assign(discriminator_weight=one))
        assert axes[0].get_xscale() == "linear"
    assert len(scivae.pl.tradeoff(table, metrics=["purity"])) == 1
    with pytest.raises(TypeError, match="table must be a DataFrame, got dict"):
        scivae.pl.tradeoff({})


def test_tradeoff_of_bad_input():
    table = make.make_table()
    with pytest.raises(KeyError, match="got 'purty'.*Did you mean 'purity'"):
        scivae.pl.tradeoff(table, metrics=["purty"])
    with pytest.raises(KeyError, match="weight must be a column of table, got 'beta'"):
        scivae.pl.tradeoff(table, weight="beta")
    with pytest.raises(ValueError, match="finite and not negative"):
        scivae.pl.tradeoff(table.assign(discriminator_weight=-1.0))
    with pytest.raises(ValueError, match="table must have rows"):
        scivae.pl.tradeoff(table[:0])


@pytest.mark.parametrize("n_classes", [3, 12, 15, 30])
def test_names_of_classes_do_not_overlap(n_classes):
    names = [f"Enterocyte.Immature.Proximal {'x' * (200 * (i == 1))}{i}" for i in range(n_classes)]
    ax = scivae.pl.confusion(names * 2, names * 2)
    ax.figure.canvas.draw()
    for labels, low, high in (
        (ax.get_yticklabels(), "y0", "y1"),
        (ax.get_xticklabels(), "x0", "x1"),
    ):
        spans = sorted(
            (getattr(box, low), getattr(box, high))
            for box in (label.get_window_extent() for label in labels)
        )
        assert all(end <= start for (_, end), (start, _) in zip(spans[:-1], spans[1:], strict=True))
    assert ax.figure.get_size_inches().max() < 9


def test_attribution_shows_what_speaks_for_a_class_and_how():
    ax = scivae.pl.attribution(make.make_attribution(), n_genes=3)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["CD79A", "CD3D", "NKG7"]
    assert [bar.get_width() for bar in ax.patches] == [1.5, -0.8, 0.4]
    assert "CD19+ B against all other classes" in ax.get_xlabel()
    higher, lower = ax.patches[0].get_facecolor(), ax.patches[2].get_facecolor()
    assert ax.patches[1].get_facecolor() == higher != lower  # NKG7 is expressed, and speaks against
    with pytest.raises(TypeError, match="genes must be the DataFrame of scivae.tl.attribute"):
        scivae.pl.attribution(["CD79A"])
    with pytest.raises(ValueError, match="got no column 'sd'"):
        scivae.pl.attribution(make.make_attribution().drop(columns="sd"))
