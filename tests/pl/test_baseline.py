"""Figures beside committed pictures of them.

``SCIVAE_UPDATE_BASELINE=1`` draws the pictures anew; look at them before you commit them.
"""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.legend import Legend
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter
from tests.pl import conftest as make

import scivae.pl

BASELINE = Path(__file__).with_name("baseline")
# Root mean square of the difference in gray levels. Without letters, and with the axes at fixed places,
# another rendering of fonts gives 0; a band or a line that is missing, or data that moved, more than 8.
TOLERANCE = 4.0
DPI = 70


def first_frame(animation):
    animation._draw_was_started = True  # it is looked at here, not played
    return animation._fig.axes[0]


FIGURES = {
    "animate": lambda: first_frame(scivae.pl.animate(make.make_images())),
    "attribution": lambda: scivae.pl.attribution(make.make_attribution()),
    "augmentation": lambda: scivae.pl.augmentation(
        make.make_cells(seed=1), make.make_cells(kind="sampled"), method="pca"
    ),
    "class_margin": lambda: scivae.pl.class_margin(make.make_path()),
    "confusion": lambda: scivae.pl.confusion(list("aabbbc"), list("ababbc")),
    "enrichment": lambda: scivae.pl.enrichment(make.make_sets()),
    "gene_order": lambda: scivae.pl.gene_order(make.make_trends()),
    "gene_trends": lambda: scivae.pl.gene_trends(make.make_trends(), ["late", "early", "middle"]),
    "gene_trends_overlay": lambda: scivae.pl.gene_trends(
        make.make_trends(), ["late", "early", "middle"], overlay=True
    ),
    "history": lambda: scivae.pl.history(make.make_history()),
    "latent": lambda: scivae.pl.latent(make.make_cells(), method="pca"),
    "latent_gene": lambda: scivae.pl.latent(make.make_cells(), method="pca", color="0"),
    "latent_3d": lambda: scivae.pl.latent(make.make_cells(), method="pca", n_components=3),
    "path": lambda: scivae.pl.path(make.make_joint(), color="cell_type"),
    "reconstruction": lambda: scivae.pl.reconstruction(
        make.make_images(), make.make_images().X ** 2
    ),
    "tradeoff": lambda: scivae.pl.tradeoff(make.make_table(), chosen=10),
    "traversal_images": lambda: scivae.pl.traversal_images(make.make_images()),
    "trend_heatmap": lambda: scivae.pl.trend_heatmap(make.make_trends()),
}


def save(drawn, file: Path) -> Path:
    """A picture without letters: these differ from one version of the font library to the next."""
    figure = np.atleast_1d(np.asarray(drawn, dtype=object))[0].get_figure()
    figure.canvas.draw()
    figure.set_layout_engine("none")
    boxes = np.linspace(0.1, 0.95, len(figure.axes) + 1)
    for legend in figure.findobj(Legend):
        legend.remove()
    for ax, left, right in zip(figure.axes, boxes[:-1], boxes[1:], strict=True):
        ax.set_axes_locator(None)
        ax.set_position([left, 0.1, 0.9 * (right - left), 0.8])
        for axis in ("xaxis", "yaxis", "zaxis"):
            if hasattr(ax, axis):
                getattr(ax, axis).set_major_formatter(NullFormatter())
    for text in figure.findobj(Text):
        text.set_text("")
    figure.savefig(file, dpi=DPI, metadata={"Software": None})
    return file


def difference(name: str, drawn, folder: Path) -> float:
    """Root mean square of the difference from the committed picture."""
    actual = save(drawn, folder / f"{name}.png")
    found = compare_images(str(BASELINE / f"{name}.png"), str(actual), tol=0, in_decorator=True)
    return 0.0 if found is None else float(found["rms"])


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_looks_as_it_did(name, tmp_path):
    if os.environ.get("SCIVAE_UPDATE_BASELINE"):
        save(FIGURES[name](), BASELINE / f"{name}.png")
    assert (BASELINE / f"{name}.png").stat().st_size < 40_000
    assert difference(name, FIGURES[name](), tmp_path) < TOLERANCE


def test_every_public_figure_has_a_picture():
    drawn = {name for name in scivae.pl.__all__ if any(f.startswith(name) for f in FIGURES)}
    assert drawn == set(scivae.pl.__all__)
    assert {f.stem for f in BASELINE.glob("*.png")} == set(FIGURES)


def test_another_rendering_of_letters_does_not_matter(tmp_path):
    with mpl.rc_context({"text.hinting": "none"}):
        for name in ("confusion", "gene_trends_overlay", "history", "trend_heatmap"):
            assert difference(name, FIGURES[name](), tmp_path) < TOLERANCE / 4


def changed_trends():
    trends = make.make_trends()
    trends.layers["fit"][:] = trends.layers["fit"][::-1]
    return trends


def moved_path():
    joint = make.make_joint()
    joint.obsm["X_umap"][60:69, 1] += 0.5
    return joint


CHANGED = {
    "trend_heatmap": lambda: scivae.pl.trend_heatmap(changed_trends()),
    "gene_trends_overlay": lambda: scivae.pl.gene_trends(
        changed_trends(), ["late", "early", "middle"], overlay=True
    ),
    "gene_trends": lambda: scivae.pl.gene_trends(
        make.make_trends(), ["late", "early", "middle"], bands=False
    ),
    "path": lambda: scivae.pl.path(moved_path(), color="cell_type"),
    "tradeoff": lambda: scivae.pl.tradeoff(make.make_table(), chosen=1),
    "traversal_images": lambda: scivae.pl.traversal_images(make.make_images(), cmap="cividis"),
}


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_a_change_is_found(name, tmp_path):
    assert difference(name, CHANGED[name](), tmp_path) > TOLERANCE
