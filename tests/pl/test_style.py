from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from scipy.optimize import minimize

from scivae.pl._style import OKABE_ITO, category_colors, drawing, palette, spread


def test_colours_are_distinct():
    assert palette(8) == list(OKABE_ITO)
    for n in (9, 21, 40):
        assert len({to_rgb(c) for c in palette(n)}) == n


def test_the_users_colours_win_where_they_are_enough():
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
    subplots = plt.subplots

    def load_backend(*args, **kwargs):
        mpl.rcParams["interactive"] = True
        return subplots(*args, **kwargs)

    before = mpl.rcParams["interactive"]
    monkeypatch.setattr(plt, "subplots", load_backend)
    try:
        mpl.rcParams["interactive"] = False
        font = mpl.rcParams["font.size"]
        with drawing(None):
            pass
        assert mpl.rcParams["interactive"]
        assert mpl.rcParams["font.size"] == font
    finally:
        mpl.rcParams["interactive"] = before
