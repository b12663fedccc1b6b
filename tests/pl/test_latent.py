from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA
from tests.pl import conftest as make

import scivae


def offsets(ax) -> np.ndarray:
    return np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])


def test_principal_components_are_those_of_scikit_learn():
    adata = make.make_cells()
    drawn = offsets(scivae.pl.latent(adata, method="pca"))
    want = PCA(2, svd_solver="full").fit_transform(adata.obsm["X_civae"])
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(want, axis=0), atol=1e-6)


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_embeddings_repeat_and_leave_the_random_state_alone(method):
    adata = make.make_cells(30)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (offsets(scivae.pl.latent(adata, method=method)) for _ in range(2))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.testing.assert_allclose(first, second)
    assert first.shape == (30, 2)


def test_umap_is_seeded_and_fits_small_data(monkeypatch):
    asked = {}

    class Recorder:
        def __init__(self, **kwargs):
            asked.update(kwargs)

        def fit_transform(self, x):
            return x[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Recorder))
    adata = make.make_cells(10)
    drawn = offsets(scivae.pl.latent(adata, method="umap", seed=3))
    assert asked == {"n_components": 2, "n_neighbors": 9, "random_state": 3, "n_jobs": 1}
    want = adata.obsm["X_civae"][:, :2]
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(want, axis=0), rtol=1e-6)


def test_three_dimensions():
    adata = make.make_cells()
    ax = scivae.pl.latent(adata, method="pca", n_components=3)
    assert ax.name == "3d"
    assert ax.get_zlabel() == "PC 3 of z"
    with pytest.raises(ValueError, match="ax must be three-dimensional for three components"):
        scivae.pl.latent(adata, method="pca", n_components=3, ax=plt.subplots()[1])


def test_at_most_so_many_cells_are_drawn():
    assert len(offsets(scivae.pl.latent(make.make_cells(), method="pca", max_cells=25))) == 25


def test_real_and_synthetic_cells_are_placed_alike():
    real = make.make_cells()
    synthetic = make.make_cells(kind="sampled")  # the same counts
    real.X = real.X * 0.5  # X may be scaled in another way: the counts are compared
    ax = scivae.pl.augmentation(real, synthetic, method="pca")
    first, second = (np.asarray(c.get_offsets()) for c in ax.collections)
    np.testing.assert_allclose(first, second, atol=1e-6)
    markers = [h.get_label() for h in ax.get_figure().legends[0].legend_handles]
    assert markers == ["real", "synthetic"]


def test_withheld_cells_are_placed_and_drawn_as_circles():
    real, withheld = make.make_cells(), make.make_cells(16)
    synthetic = make.make_cells(kind="sampled")
    ax = scivae.pl.augmentation(real, synthetic, withheld=withheld, method="pca")
    first, second, third = ax.collections
    assert [len(c.get_offsets()) for c in ax.collections] == [40, 40, 16]
    assert third.get_facecolor().size == 0  # open circles, in the colors of the classes
    assert {tuple(c) for c in third.get_edgecolor()[:, :3]} == {
        tuple(c) for c in second.get_facecolor()[:, :3]
    }
    markers = [h.get_label() for h in ax.get_figure().legends[0].legend_handles]
    assert markers == ["real", "synthetic", "withheld"]
    # Cells that are equal lie in one place.
    again = scivae.pl.augmentation(real, synthetic, withheld=real, method="pca").collections
    np.testing.assert_allclose(again[0].get_offsets(), again[2].get_offsets(), atol=1e-6)
    with pytest.raises(ValueError, match=r"use real\[:, withheld.var_names\]"):
        scivae.pl.augmentation(real, synthetic, withheld=withheld[:, :3].copy())


def test_cells_without_a_label_are_in_the_legend():
    adata = make.make_cells()
    adata.obs.loc[adata.obs_names[:5], "cell_type"] = np.nan
    (legend,) = scivae.pl.latent(adata, method="pca").get_figure().legends
    assert [t.get_text() for t in legend.get_texts()] == ["A", "B", "no label"]


def test_many_classes_are_numbered():
    adata = make.make_cells(60)
    adata.obs["cell_type"] = [f"a long name of class {i % 30}" for i in range(60)]
    ax = scivae.pl.latent(adata, method="pca")
    (legend,) = ax.get_figure().legends
    labels = [t.get_text() for t in legend.get_texts()]
    assert len(labels) == 30
    assert labels[0] == "1 a long name of class 0"
    assert {t.get_text() for t in ax.texts} == {str(i + 1) for i in range(30)}


@pytest.mark.parametrize("n", [8, 9])
def test_classes_of_more_colors_than_are_told_apart_are_numbered(n):
    adata = make.make_cells(60)
    adata.obs["cell_type"] = [f"type {i % n}" for i in range(60)]
    ax = scivae.pl.latent(adata, method="pca")
    (legend,) = ax.get_figure().legends
    numbered = n > 8
    assert len(ax.texts) == (n if numbered else 0)
    names = [f"{i + 1} type {i}" if numbered else f"type {i}" for i in range(n)]
    assert [t.get_text() for t in legend.get_texts()] == names


@pytest.mark.parametrize("n", [10, 40])
def test_short_names_stand_on_the_cells_without_numbers(n):
    """A number beside the name of a cluster, or a digit, would be mistaken for it."""
    adata = make.make_cells(80)
    adata.obs["cell_type"] = [str(i % n) for i in range(80)]
    ax = scivae.pl.latent(adata, method="pca")
    names = {str(i) for i in range(n)}
    assert {t.get_text() for t in ax.texts} == names
    for legend in ax.get_figure().legends:
        assert {t.get_text() for t in legend.get_texts()} == names


def test_expected_values_are_refused():
    with pytest.raises(ValueError, match="synthetic must hold samples.*sample=True"):
        scivae.pl.augmentation(make.make_cells(), make.make_cells(kind="expected"))


def test_bad_input():
    adata = make.make_cells()
    with pytest.raises(KeyError, match=r"got 'X_civa'.*Did you mean 'X_civae'"):
        scivae.pl.latent(adata, key="X_civa")
    with pytest.raises(ValueError, match="method must be one of 'umap', 'tsne', 'pca', got 'ump'"):
        scivae.pl.latent(adata, method="ump")
    with pytest.raises(ValueError, match="n_components must be one of 2, 3, got 4"):
        scivae.pl.latent(adata, n_components=4)
    with pytest.raises(ValueError, match="same variables in the same order, got 12 and 11"):
        scivae.pl.augmentation(adata, make.make_cells(kind="sampled")[:, :11].copy())
    with pytest.raises(ValueError, match="synthetic must have at least one cell, got none"):
        scivae.pl.augmentation(adata, adata[:0].copy())
    with pytest.raises(KeyError, match="which is not in real"):
        scivae.pl.augmentation(adata, adata, layer="raw")


def test_without_colors_and_legend():
    real, synthetic = make.make_cells(), make.make_cells(kind="sampled")
    ax = scivae.pl.latent(real, method="pca", color=None)
    assert not ax.get_figure().legends
    ax = scivae.pl.augmentation(real, synthetic, method="pca", color=None)
    real_face, made_face = (c.get_facecolor()[0, :3] for c in ax.collections)
    assert not np.allclose(real_face, made_face)  # told apart all the same
    assert len(ax.get_figure().legends) == 1  # shapes only
    ax = scivae.pl.augmentation(real, synthetic, method="pca", legend=False)
    assert not ax.get_figure().legends
    _, own = plt.subplots()
    ax = scivae.pl.augmentation(real, synthetic, method="pca", ax=own)
    assert ax is own
    assert [t.get_text() for t in own.get_legend().get_texts()][:2] == ["real", "synthetic"]


def test_numbers_are_no_classes():
    real, synthetic = make.make_cells(), make.make_cells(kind="sampled")
    for data in (real, synthetic):
        data.obs["depth"] = np.linspace(0, 1, data.n_obs)
    with pytest.raises(ValueError, match="must be a column of classes, got numbers in 'depth'"):
        scivae.pl.augmentation(real, synthetic, color="depth", method="pca")
