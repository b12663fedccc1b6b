from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection

import scivae
from scivae.pl._path import arrow_heads


def walks(ax) -> list[LineCollection]:
    return [c for c in ax.collections if isinstance(c, LineCollection)]


def points(ax) -> list[np.ndarray]:
    return [np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)]


def test_a_path_runs_through_its_steps(joint):
    ax = scivae.pl.path(joint, paths=1)
    (walk,) = walks(ax)
    rows = (joint.obs["civae_path"] == "c → d").to_numpy()
    want = joint.obsm["X_umap"][rows]
    np.testing.assert_allclose(np.array(walk.get_segments()), np.stack([want[:-1], want[1:]], 1))
    t = np.linspace(0, 1, 9)
    np.testing.assert_allclose(walk.get_array(), (t[:-1] + t[1:]) / 2)
    assert walk.get_clim() == (0, 1)
    assert sum(a.arrow_patch is not None for a in ax.texts) == 3
    ends = [line.get_xydata()[0] for line in ax.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(ends, want[[0, -1]])


def test_steps_are_drawn_in_order_of_t_whatever_that_of_the_rows(joint):
    shuffled = joint[np.random.default_rng(0).permutation(joint.n_obs)].copy()
    segments = [
        np.array(walks(scivae.pl.path(d, paths="a → b"))[0].get_segments())
        for d in (joint, shuffled)
    ]
    np.testing.assert_allclose(*segments)


def test_real_and_augmented_cells_are_there(joint):
    ax = scivae.pl.path(joint)
    real, augmented = points(ax)
    assert len(real) == 60
    np.testing.assert_allclose(augmented, joint.obsm["X_umap"][-5:])
    assert len(walks(ax)) == 2
    assert ax.get_xlabel() == "UMAP 1"
    assert ax.get_figure().axes[1].get_ylabel() == "position along path, t"


def test_cells_take_the_colors_of_the_user(joint):
    joint.uns["cell_type_colors"] = ["#ff0000", "#00ff00"]
    ax = scivae.pl.path(joint, color="cell_type")
    (legend,) = ax.get_figure().legends
    assert [h.get_color() for h in legend.legend_handles] == ["#ff0000", "#00ff00"]
    del joint.uns["cell_type_colors"]
    (legend,) = scivae.pl.path(joint, color="cell_type").get_figure().legends
    assert [h.get_color() for h in legend.legend_handles] == ["#0072B2", "#E69F00"]


def test_cells_are_colored_by_a_gene(joint):
    ax = scivae.pl.path(joint, color="G2", basis="civae")
    np.testing.assert_allclose(np.sort(ax.collections[1].get_array()), np.sort(joint.X[:60, 1]))
    assert [a.get_ylabel() for a in ax.get_figure().axes[1:]] == [
        "G2, value in X",
        "position along path, t",
    ]
    assert ax.get_ylabel() == "z 2"


def test_values_that_no_real_cell_has_need_no_color_bar(joint):
    ax = scivae.pl.path(joint, color="civae_t")
    assert [a.get_ylabel() for a in ax.get_figure().axes[1:]] == ["position along path, t"]


def test_arrow_heads_are_spread_over_the_length():
    line = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    heads = arrow_heads(line, 3)
    np.testing.assert_allclose([(a + b)[0] / 2 for a, b in heads], [2.5, 5, 7.5])
    assert all(b[0] > a[0] for a, b in heads)
    assert arrow_heads(np.zeros((5, 2)), 3) == []
    assert arrow_heads(line, 0) == []


def test_bad_input(joint):
    with pytest.raises(KeyError, match="got 'tsne'; available: 'X_umap', 'X_civae'"):
        scivae.pl.path(joint, basis="tsne")
    with pytest.raises(KeyError, match="got 'cell_typ'.*Did you mean 'cell_type'"):
        scivae.pl.path(joint, color="cell_typ")
    with pytest.raises(ValueError, match="dimensions must lie in .0, 1. for basis 'umap', got 2"):
        scivae.pl.path(joint, dimensions=(0, 2))
    with pytest.raises(ValueError, match="joint must contain generated cells"):
        scivae.pl.path(joint[:60].copy())
    del joint.obs["civae_kind"]
    with pytest.raises(ValueError, match="must be made by scivae.tl.embed"):
        scivae.pl.path(joint)


def test_short_paths_are_shown_close_up(joint):
    ax = scivae.pl.path(joint)
    whole = ax.get_xlim()
    rows = (joint.obs["civae_kind"] == "interpolated").to_numpy()
    points = joint.obsm["X_umap"]
    points[rows] = points[rows] / 8  # within the first class
    ax = scivae.pl.path(joint)
    left, right = ax.get_xlim()
    assert right - left < 0.5 * (whole[1] - whole[0])
    assert left < points[rows, 0].min() < points[rows, 0].max() < right
    bottom, top = ax.get_ylim()
    assert bottom < points[rows, 1].min() < points[rows, 1].max() < top
    left, right = scivae.pl.path(joint, zoom=False).get_xlim()
    assert right - left > 0.8 * (whole[1] - whole[0])
    with pytest.raises(TypeError, match="zoom must be True, False or None"):
        scivae.pl.path(joint, zoom=2)


def test_a_close_up_shows_cells_of_the_classes_of_the_paths(joint):
    rows = (joint.obs["civae_kind"] == "interpolated").to_numpy()
    joint.obsm["X_umap"][rows] /= 8  # within class A, as two touching dots
    joint.obs.loc[rows, "cell_type"] = "A"
    real = np.concatenate(points(scivae.pl.path(joint, color="cell_type")))
    np.testing.assert_allclose(np.sort(real, 0), np.sort(joint.obsm["X_umap"][:30], 0))
    whole = np.concatenate(points(scivae.pl.path(joint, color="cell_type", zoom=False)))
    assert len(whole) == 65  # the augmented ones, too
    # By another column, and by genes, with the class named.
    joint.obs["stage"] = np.where(np.arange(joint.n_obs) % 2, "early", "late")
    for color in ("stage", "G1", None):
        shown = np.concatenate(points(scivae.pl.path(joint, color=color, within="cell_type")))
        assert len(shown) == 30
    (legend,) = scivae.pl.path(joint, color="stage", within="cell_type").get_figure().legends
    assert [t.get_text() for t in legend.get_texts()] == ["early", "late"]


def test_within_must_have_the_classes_of_the_paths(joint):
    with pytest.raises(KeyError, match="within must be a column of adata.obs, got 'cell_typ'"):
        scivae.pl.path(joint, within="cell_typ")
    joint.obs["other"] = np.where(joint.obs["civae_kind"] == "real", "x", "y")
    with pytest.raises(ValueError, match="within must be a column with the classes of the paths"):
        scivae.pl.path(joint, within="other")
