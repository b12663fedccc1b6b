from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scivae.datasets import from_images


@settings(max_examples=30, deadline=None)
@given(
    images=arrays(
        st.sampled_from([np.uint8, np.uint16]),
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    )
)
def test_pixels_come_back(images):
    adata = from_images(images)
    top = np.iinfo(images.dtype).max
    back = np.rint(adata.X.reshape(-1, *adata.uns["image"]["shape"]) * top)
    np.testing.assert_array_equal(back, images)
    row, column = adata.var["row"].to_numpy(), adata.var["column"].to_numpy()
    np.testing.assert_array_equal(np.rint(adata.X * top), images[:, row, column])
    assert adata.X.dtype == np.float32
    assert adata.var_names.is_unique


@pytest.mark.parametrize("dtype", [bool, np.float16, np.float32, np.float64])
def test_values_in_the_unit_interval_stay(dtype):
    images = np.array([[[0, 1], [1, 0]]], dtype=dtype)
    assert from_images(images).X.tolist() == [[0, 1, 1, 0]]


def test_max_value_becomes_one():
    images = np.array([[[0, 8, 16]]])
    assert from_images(images, max_value=16).X.tolist() == [[0, 0.5, 1]]


def test_more_rows_than_a_block():
    images = np.arange(5000, dtype=np.float64)[:, None, None]
    assert from_images(images, max_value=4999).X[-1, 0] == 1


@pytest.mark.parametrize(
    ("labels", "categories"),
    [
        ([10, 2, 10], ["2", "10"]),
        (["b", "a", "b"], ["a", "b"]),
        (["b", None, "b"], ["b"]),
        (np.array([1, 0, 1], dtype=np.uint8), ["0", "1"]),
    ],
)
def test_labels_become_strings_in_order(labels, categories, tmp_path):
    adata = from_images(np.zeros((3, 2, 2)), labels, labels_key="kind")
    assert list(adata.obs["kind"].cat.categories) == categories
    present = [str(label) for label in labels if label is not None]
    assert list(adata.obs["kind"].dropna()) == present
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert list(ad.read_h5ad(tmp_path / "x.h5ad").obs["kind"].dropna()) == present


@pytest.mark.parametrize(
    ("images", "options", "told"),
    [
        (np.zeros((2, 2)), {}, r"shape \(n_images, height, width\).*got \(2, 2\)"),
        (np.zeros((2, 2, 2, 3)), {}, "average color channels"),
        (np.zeros((0, 2, 2)), {}, "without zeros, got"),
        (np.full((1, 1, 1), 2.0), {}, r"must lie in \[0, 1\], got \[2, 2\]; set max_value"),
        (np.full((1, 1, 1), -0.5), {}, r"got \[-0.5, -0.5\]"),
        (np.full((1, 1, 1), np.nan), {}, "must lie in"),
        (np.full((1, 1, 1), 3), {}, "pixels must be uint8, .* got int64"),
        (np.full((1, 1, 1), 3), {"max_value": 2}, r"must lie in \[0, 2\], got \[3, 3\]"),
        (np.zeros((1, 1, 1)), {"max_value": 0}, "max_value must be positive"),
        (np.zeros((2, 1, 1)), {"labels": ["a"]}, "each of the 2 images, got 1"),
        (np.zeros((2, 1, 1)), {"obs_names": ["a"]}, "each of the 2 images, got 1"),
        (np.zeros((2, 1, 1)), {"obs_names": ["a", "a"]}, "unique, got 'a' more than once"),
    ],
)
def test_errors(images, options, told):
    with pytest.raises(ValueError, match=told):
        from_images(images, **options)


def test_input_is_not_changed():
    images = np.full((2, 2, 2), 100, dtype=np.uint8)
    from_images(images)
    assert (images == 100).all()
