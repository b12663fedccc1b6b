from __future__ import annotations

import numpy as np
import pytest

import scivae
from scivae.pl._pixels import centers, image_shape, mosaic


def test_a_row_is_a_path(images):
    ax = scivae.pl.traversal_images(images, n_steps=3)
    drawn = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert drawn.shape == (2 * 2 + 1, 3 * 3 + 2)
    for row in (0, 3):
        np.testing.assert_allclose(drawn[row, [1, 5, 9]], [0, 0.5, 1])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["3", "3 → 8"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "0.5", "1"]
    assert ax.images[0].get_clim() == (0, 1)


def test_written_positions_include_both_ends_at_even_distances():
    from anndata import AnnData

    for n in (2, 5, 10, 14, 16):
        t = np.linspace(0, 1, n)
        path = AnnData(np.zeros((n, 4), dtype=np.float32))
        path.obs["civae_kind"], path.obs["civae_path"] = "interpolated", "a"
        path.obs["civae_predicted"], path.obs["civae_t"] = "A", t
        ax = scivae.pl.traversal_images(path, n_steps=n, shape=(2, 2))
        where = np.diff(ax.get_xticks())
        assert np.allclose(where, where[0])
        texts = [x.get_text() for x in ax.get_xticklabels()]
        assert (texts[0], texts[-1]) == ("0", "1")
        assert len(texts) <= 8


def test_new_images_have_a_row_for_each_class(images):
    images.obs["civae_kind"] = "augmented"
    ax = scivae.pl.traversal_images(images)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["3", "8"]
    assert ax.get_xlabel() == "generated images of each class"


def test_rows_and_paths_can_be_chosen(images):
    ax = scivae.pl.traversal_images(images, n_rows=1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["3"]
    ax = scivae.pl.traversal_images(images, paths="c → d")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["3 → 8"]


def test_reconstruction_shows_both_and_the_difference(images):
    ax = scivae.pl.reconstruction(images, images.X - 0.25, n=2)
    gray, signed = (np.ma.filled(i.get_array(), np.nan) for i in ax.images)
    assert gray[0, 0] == 0
    assert gray[3, 0] == -0.25
    np.testing.assert_allclose(signed[6:8, :3], -0.25)
    assert ax.images[1].get_clim() == (-0.25, 0.25)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["25.0", "25.0"]
    assert "%" in ax.get_xlabel()


def test_shape_of_images(images):
    assert image_shape(images) == (2, 3)
    assert image_shape(images, (3, 2)) == (3, 2)
    images.uns["image"] = {"shape": np.array([1, 6])}
    assert image_shape(images) == (1, 6)
    with pytest.raises(ValueError, match=r"of images with 6 pixels, got \(2, 2\)"):
        image_shape(images, (2, 2))
    with pytest.raises(ValueError, match="pass shape="):
        image_shape(np.zeros((1, 6)))


def test_mosaic():
    tiles = np.arange(8.0).reshape(1, 2, 2, 2)
    np.testing.assert_array_equal(mosaic(tiles), [[0, 1, np.nan, 4, 5], [2, 3, np.nan, 6, 7]])
    np.testing.assert_array_equal(centers(2, 2), [0.5, 3.5])


def test_bad_input(images):
    with pytest.raises(ValueError, match=r"got shapes \(10, 6\) and \(9, 6\)"):
        scivae.pl.reconstruction(images, images.X[1:])
    with pytest.raises(KeyError, match="layer must be a key of layers, got 'pixels'"):
        scivae.pl.traversal_images(images, layer="pixels")
    with pytest.raises(ValueError, match="n_steps must be at least 2, got 1"):
        scivae.pl.traversal_images(images, n_steps=1)
    del images.obs["civae_t"]
    with pytest.raises(ValueError, match="without the obs column 'civae_t'"):
        scivae.pl.traversal_images(images)
