"""What all figures promise: axes in, axes out, and nothing else changes."""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from tests.pl import conftest as make

import scivae.pl

# What is drawn, how, and in how many panels.
FIGURES = {
    "animate": (make.make_images, lambda d, **k: scivae.pl.animate(d, **k), 1),
    "augmentation": (
        lambda: make.make_cells(kind="sampled"),
        lambda d, **k: scivae.pl.augmentation(make.make_cells(seed=1), d, method="pca", **k),
        1,
    ),
    "attribution": (None, lambda d, **k: scivae.pl.attribution(make.make_attribution(), **k), 1),
    "class_margin": (make.make_written_back, lambda d, **k: scivae.pl.class_margin(d, **k), 1),
    "confusion": (
        make.make_cells,
        lambda d, **k: scivae.pl.confusion(d.obs["cell_type"], d.obs["cell_type"][::-1], **k),
        1,
    ),
    "enrichment": (None, lambda d, **k: scivae.pl.enrichment(make.make_sets(), **k), 1),
    "gene_order": (make.make_trends, lambda d, **k: scivae.pl.gene_order(d, **k), 1),
    "gene_trends": (
        make.make_trends,
        lambda d, **k: scivae.pl.gene_trends(d, ["late", "early"], **k),
        2,
    ),
    "history": (None, lambda d, **k: scivae.pl.history(make.make_history(), **k), 5),
    "latent": (make.make_cells, lambda d, **k: scivae.pl.latent(d, method="pca", **k), 1),
    "path": (make.make_joint, lambda d, **k: scivae.pl.path(d, color="cell_type", **k), 1),
    "reconstruction": (
        make.make_images,
        lambda d, **k: scivae.pl.reconstruction(d, d.X * 0.9, **k),
        1,
    ),
    "tradeoff": (None, lambda d, **k: scivae.pl.tradeoff(make.make_table(), **k), 2),
    "traversal_images": (make.make_images, lambda d, **k: scivae.pl.traversal_images(d, **k), 1),
    "trend_heatmap": (make.make_trends, lambda d, **k: scivae.pl.trend_heatmap(d, **k), 1),
}
CELL_NAMES = [f"CD{i}+ effector memory T cell" for i in range(14)]
MANY_NAMES = [f"CD{i}+ effector memory T cell" for i in range(40)]
# What is hard to fit on half a column.
HARD = {
    "confusion_40": lambda: scivae.pl.confusion(MANY_NAMES, MANY_NAMES),
    "latent_40": lambda: scivae.pl.latent(many_classes(40), method="pca"),
    "latent_100": lambda: scivae.pl.latent(many_classes(100), method="pca"),
    "augmentation_40": lambda: scivae.pl.augmentation(
        many_classes(40), many_classes(40), method="pca"
    ),
    "confusion": lambda: scivae.pl.confusion(CELL_NAMES, CELL_NAMES[::-1]),
    "confusion_12": lambda: scivae.pl.confusion(CELL_NAMES[:12], CELL_NAMES[:12]),
    "latent": lambda: scivae.pl.latent(many_classes(), method="pca"),
    "latent_on_data": lambda: scivae.pl.latent(many_classes(), method="pca", legend="on data"),
    "latent_3d": lambda: scivae.pl.latent(many_classes(), method="pca", n_components=3),
    "reconstruction": lambda: scivae.pl.reconstruction(
        np.eye(12, 64) * 1000, np.eye(12, 64), shape=(8, 8), n=12
    ),
    "traversal_images": lambda: scivae.pl.traversal_images(make.make_images(), n_steps=2),
    "trend_heatmap": lambda: scivae.pl.trend_heatmap(make.make_trends(), n_genes=1),
}
every_figure = pytest.mark.parametrize("name", sorted(FIGURES))


def described(adata) -> tuple:
    """All that could be changed in an AnnData, as text and bytes."""
    return (
        adata.obs.to_csv(),
        adata.var.to_csv(),
        np.asarray(adata.X).tobytes(),
        {k: np.asarray(v).tobytes() for k, v in adata.layers.items()},
        {k: np.asarray(v).tobytes() for k, v in adata.obsm.items()},
        repr(dict(adata.uns)),
    )


def axes_of(result) -> np.ndarray:
    if isinstance(result, FuncAnimation):
        result._draw_was_started = True  # it is looked at here, not played
        result = result._fig.axes[0]
    return np.atleast_1d(np.asarray(result, dtype=object))


def many_classes(n: int = 14):
    adata = make.make_cells(2 * n)
    adata.obs["cell_type"] = [f"CD{i % n}+ effector memory T cell" for i in range(2 * n)]
    return adata


def legend_part(figure) -> float:
    """Height of the highest legend, as a part of the height of the figure."""
    heights = [legend.get_window_extent().height for legend in figure.findobj(mpl.legend.Legend)]
    return max(heights, default=0.0) / figure.bbox.height


def assert_inside(figure) -> None:
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    slack = 0.01
    assert box.x0 > -slack
    assert box.y0 > -slack
    assert box.x1 < width + slack
    assert box.y1 < height + slack


def test_every_public_name_is_tested_here():
    assert sorted(scivae.pl.__all__) == sorted(FIGURES)


@every_figure
def test_makes_a_figure_and_returns_its_axes(name):
    data, draw, n_panels = FIGURES[name]
    style = dict(mpl.rcParams)
    adata = None if data is None else data()
    before = None if adata is None else described(adata)
    axes = axes_of(draw(adata))
    assert len(axes) == n_panels
    assert all(isinstance(ax, Axes) for ax in axes)
    assert len(plt.get_fignums()) == 1
    assert dict(mpl.rcParams) == style
    assert adata is None or described(adata) == before
    assert axes[0].get_figure().get_size_inches()[0] <= 8.6 / 2.54
    axes[0].get_figure().canvas.draw()


@every_figure
def test_draws_in_the_axes_given(name):
    data, draw, n_panels = FIGURES[name]
    figure, given = plt.subplots(1, n_panels, squeeze=False)
    given = given.ravel()
    style = dict(mpl.rcParams)
    axes = axes_of(draw(None if data is None else data(), ax=given if n_panels > 1 else given[0]))
    assert [id(ax) for ax in axes] == [id(ax) for ax in given]
    assert plt.get_fignums() == [figure.number]
    assert dict(mpl.rcParams) == style
    assert all(ax.has_data() for ax in given)
    figure.canvas.draw()


@every_figure
def test_shows_only_when_asked(name, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(1))
    data, draw, _ = FIGURES[name]
    axes_of(draw(None if data is None else data()))
    assert not shown
    axes_of(draw(None if data is None else data(), show=True))
    assert shown == [1]


@every_figure
def test_refuses_what_is_no_axes(name):
    data, draw, _ = FIGURES[name]
    with pytest.raises(TypeError, match="ax must be matplotlib Axes, got str"):
        draw(None if data is None else data(), ax="left")
    assert plt.get_fignums() == []


@every_figure
def test_text_is_large_enough_to_read(name):
    data, draw, _ = FIGURES[name]
    figure = axes_of(draw(None if data is None else data()))[0].get_figure()
    figure.canvas.draw()
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_text().strip() and t.get_visible()]
    assert texts
    assert min(t.get_fontsize() for t in texts) >= 5.5


@every_figure
def test_nothing_is_cut_off(name):
    data, draw, _ = FIGURES[name]
    figure = axes_of(draw(None if data is None else data()))[0].get_figure()
    figure.canvas.draw()
    assert_inside(figure)
    assert legend_part(figure) <= 0.4


@pytest.mark.parametrize("name", sorted(HARD))
def test_long_names_and_many_of_them_fit(name):
    figure = np.atleast_1d(np.asarray(HARD[name](), dtype=object))[0].get_figure()
    figure.canvas.draw()
    assert_inside(figure)
    assert legend_part(figure) <= 0.4
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_text().strip() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= 5.5


@pytest.mark.parametrize("given", [False, True])
@every_figure
def test_tick_labels_do_not_touch(name, given):
    data, draw, n_panels = FIGURES[name]
    options = {}
    if given:  # by a user, on half a column, in matplotlib's own style
        rows = -(-n_panels // 2)
        size = (3.35, 2.4 if n_panels == 1 else 2.0 * rows)
        _, axes = plt.subplots(
            rows, min(n_panels, 2), figsize=size, squeeze=False, layout="constrained"
        )
        axes = axes.ravel()[:n_panels]
        options["ax"] = axes if n_panels > 1 else axes[0]
    axes = axes_of(draw(None if data is None else data(), **options))
    figure = axes[0].get_figure()
    figure.canvas.draw()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [
                t.get_window_extent()
                for t in axis.get_ticklabels()
                if t.get_visible() and t.get_text().strip()
            ]
            touching = [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
            assert not touching, f"{name}: {touching}"


@every_figure
def test_signature(name):
    parameters = inspect.signature(getattr(scivae.pl, name)).parameters.values()
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert 1 <= len(positional) <= 3
    defaults = {p.name: p.default for p in parameters}
    assert defaults["ax"] is None
    assert defaults["show"] is False


def test_a_figure_that_fails_halfway_is_closed(joint, monkeypatch):
    del joint.obs["cell_type"]
    with pytest.raises(KeyError, match="color must be a column of obs or a gene"):
        scivae.pl.path(joint, color="cell_type")
    monkeypatch.setattr("scivae.pl._path.arrow_heads", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scivae.pl.path(joint)
    assert plt.get_fignums() == []


def test_plotting_libraries_are_imported_when_a_figure_is_drawn():
    heavy = {"matplotlib", "scanpy", "seaborn", "umap", "sklearn"}
    for file in Path(scivae.pl.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert not {n.split(".")[0] for n in names} & heavy, f"{file.name}: {names}"


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "name", ["gene_trends", "trend_heatmap", "gene_order", "confusion", "latent"]
)
def test_names_with_dollar_signs_are_no_formulas(name, given):
    odd = "$\\frac$"
    trends, cells = make.make_trends(), make.make_cells()
    trends.var_names = [odd, *trends.var_names[1:]]
    cells.obs["cell_type"] = pd.Categorical([odd] * cells.n_obs)
    draw = {
        "gene_trends": lambda **k: scivae.pl.gene_trends(trends, [odd], **k),
        "trend_heatmap": lambda **k: scivae.pl.trend_heatmap(trends, **k),
        "gene_order": lambda **k: scivae.pl.gene_order(trends, **k),
        "confusion": lambda **k: scivae.pl.confusion([odd, "b"], ["b", odd], **k),
        "latent": lambda **k: scivae.pl.latent(cells, method="pca", **k),
    }[name]
    figure = axes_of(draw(ax=plt.subplots()[1]) if given else draw())[0].get_figure()
    figure.canvas.draw()
    assert any(odd in text.get_text() for text in figure.findobj(mpl.text.Text))
