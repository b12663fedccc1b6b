"""Figures beside committed pictures of them.

``SCIVAE_UPDATE_BASELINE=1`` draws the pictures anew; look at them before you commit them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.testing.compare import compare_images
from tests.pl import conftest as make

import scivae.pl

BASELINE = Path(__file__).with_name("baseline")
# Root mean square of the difference in grey levels. Other versions of the font library give about 3;
# a line that is missing or elsewhere gives more than 9.
TOLERANCE = 7.0
DPI = 70

FIGURES = {
    "augmentation": lambda: scivae.pl.augmentation(
        make.make_cells(seed=1), make.make_cells(kind="sampled"), method="pca"
    ),
    "class_margin": lambda: scivae.pl.class_margin(make.make_path()),
    "confusion": lambda: scivae.pl.confusion(list("aabbbc"), list("ababbc")),
    "gene_trends": lambda: scivae.pl.gene_trends(make.make_trends(), ["late", "early", "middle"]),
    "gene_trends_overlay": lambda: scivae.pl.gene_trends(
        make.make_trends(), ["late", "early", "middle"], overlay=True
    ),
    "history": lambda: scivae.pl.history(make.make_history()),
    "latent": lambda: scivae.pl.latent(make.make_cells(), method="pca"),
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
    figure = np.atleast_1d(np.asarray(drawn, dtype=object))[0].get_figure()
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


def test_a_figure_that_changed_is_found(tmp_path):
    trends = make.make_trends()
    trends.layers["mean"][:] = trends.layers["mean"][::-1]
    assert difference("trend_heatmap", scivae.pl.trend_heatmap(trends), tmp_path) > TOLERANCE
    overlay = scivae.pl.gene_trends(trends, ["late", "early", "middle"], overlay=True)
    assert difference("gene_trends_overlay", overlay, tmp_path) > TOLERANCE
    walked = make.make_joint()
    walked.obsm["X_umap"] = walked.obsm["X_umap"] * [1, -1]
    drawn = scivae.pl.path(walked, color="cell_type")
    assert difference("path", drawn, tmp_path) > TOLERANCE
