from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from scipy.optimize import minimize
from scipy.spatial.distance import pdist

from scivae.pl._style import OKABE_ITO, category_colors, drawing, palette, spread


def test_colors_are_distinct():
    assert palette(8) == list(OKABE_ITO)
    for n in (9, 21, 40):
        assert len({to_rgb(c) for c in palette(n)}) == n


# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision
# deficiency", IEEE Transactions on Visualization and Computer Graphics 15 (2009), severity 1.
SEEN = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def smallest_difference(colors, seen) -> float:
    """Smallest CIELAB distance of two colors, as they are seen."""
    rgb = np.array([to_rgb(c) for c in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(seen), 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = linear @ np.transpose(to_xyz) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    return pdist(lab).min()


@pytest.mark.parametrize("vision", SEEN)
def test_colors_are_told_apart_with_every_kind_of_vision(vision):
    """2.3 is the least difference that is seen side by side; the tab20 of others falls to 2."""
    assert smallest_difference(palette(8), SEEN[vision]) > 16
    assert smallest_difference(palette(12), SEEN[vision]) > 16
    assert smallest_difference(palette(20), SEEN[vision]) > 14
    assert smallest_difference(palette(24), SEEN[vision]) > 13


def test_the_measure_of_colors_knows_bad_ones():
    confused = ["#2ca02c", "#d62728"]  # green and red of the usual cycle
    far = smallest_difference(confused, SEEN["normal"])
    assert smallest_difference(confused, SEEN["deuteranopia"]) < far / 2
    tab20 = [colormaps["tab20"](i) for i in range(20)]
    assert smallest_difference(tab20, SEEN["deuteranopia"]) < 7


def test_the_users_colors_win_where_they_are_enough():
    uns = {"kind_colors": ["#111111", "#222222"]}
    assert category_colors(["a", "b"], uns, "kind") == {"a": "#111111", "b": "#222222"}
    assert category_colors(["a", "b", "c"], uns, "kind")["a"] == OKABE_ITO[0]


@given(st.lists(st.floats(-5, 5), max_size=6), st.floats(0.1, 2))
def test_spread_keeps_the_order_and_the_gap(y, gap):
    placed = spread(y, gap)
    order = np.argsort(y, kind="stable")
    assert (np.diff(placed[order]) >= gap - 1e-9).all()


def test_spread_is_the_nearest_such_placement():
    y, gap = np.array([1.0, 0.0, 0.1, 0.2, 3.0]), 0.5
    order = np.argsort(y)
    found = minimize(
        lambda p: ((p - y) ** 2).sum(),
        y,
        constraints={"type": "ineq", "fun": lambda p: np.diff(p[order]) - gap},
    )
    np.testing.assert_allclose(spread(y, gap), found.x, atol=1e-4)
    np.testing.assert_array_equal(spread([0, 2, 1], 0.5), [0, 2, 1])


def test_a_backend_that_a_figure_loads_stays_interactive(monkeypatch):
    """In a notebook the first figure switches interactive mode on; later ones depend on it."""
    mosaic = plt.subplot_mosaic

    def load_backend(*args, **kwargs):
        mpl.rcParams["interactive"] = True
        return mosaic(*args, **kwargs)

    before = mpl.rcParams["interactive"]
    monkeypatch.setattr(plt, "subplot_mosaic", load_backend)
    try:
        mpl.rcParams["interactive"] = False
        font = mpl.rcParams["font.size"]
        with drawing(None):
            pass
        assert mpl.rcParams["interactive"]
        assert mpl.rcParams["font.size"] == font
    finally:
        mpl.rcParams["interactive"] = before
