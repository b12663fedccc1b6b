"""Images as AnnData: one row an image, one variable a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

# Rows scaled at once, so that no second array of the full size is ever made.
_ROWS = 4096


def from_images(
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    labels_key: str = "label",
    max_value: float | None = None,
    obs_names: Sequence[str] | None = None,
) -> AnnData:
    """Anyone's gray images as AnnData, with pixels in [0, 1].

    Parameters
    ----------
    images
        ``(n_images, height, width)``.
    labels
        ``(n_images,)``, the class of each image. Missing ones (None, NaN) stay missing. They become
        strings: the class 3 is named ``"3"``.
    labels_key
        Column of ``obs`` for the labels.
    max_value
        The value that becomes 1. By default that of the type: whole numbers are divided by the
        largest of their type (255 for uint8, 65,535 for uint16), booleans and floats are
        taken as they are, so floats must lie in [0, 1] already. Give it for anything else.
    obs_names
        ``(n_images,)``, unique. By default ``image_0``, ``image_1``, …

    Returns
    -------
    AnnData of ``n_images`` rows and ``height · width`` variables, row by row:

    - ``X``: float32 in [0, 1], dense
    - ``obs[labels_key]``: categorical, in sorted order (numbers by value)
    - ``var``: ``row``, ``column``
    - ``uns["image"]``: ``shape`` (height, width), ``max_value``

    Raises
    ------
    ValueError
        Not three dimensions, no image, as many labels as images not given, a value outside of
        [0, ``max_value``], or a type with no known maximum.

    Examples
    --------
    >>> import numpy as np
    >>> import scivae
    >>> images = np.zeros((4, 2, 3), dtype=np.uint8)
    >>> images[1] = 255
    >>> adata = scivae.datasets.from_images(images, ["dark", "light", "dark", "dark"])
    >>> adata.shape, float(adata.X.max()), list(adata.obs["label"].cat.categories)
    ((4, 6), 1.0, ['dark', 'light'])

    Back to images:

    >>> adata.X.reshape(-1, *adata.uns["image"]["shape"]).shape
    (4, 2, 3)
    """
    import anndata as ad

    array = np.asarray(images)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"images must be (n_images, height, width), none of them 0, got shape {array.shape}; "
            "average color channels first, and give a single image as image[None]."
        )
    n_images, height, width = array.shape
    scale = _scale(array, max_value)
    flat = array.reshape(n_images, height * width)
    x = np.empty(flat.shape, dtype=np.float32)
    for start in range(0, n_images, _ROWS):
        block = slice(start, start + _ROWS)
        x[block] = flat[block]
        x[block] /= np.float32(scale)
        low, high = x[block].min(), x[block].max()
        if not (low >= 0 and high <= 1):  # also when one of them is NaN
            raise ValueError(
                f"pixels must lie in [0, {scale:g}], got [{low * scale:g}, {high * scale:g}]; "
                "give max_value= the value that is to become 1."
            )

    if obs_names is None:
        obs_names = [f"image_{i}" for i in range(n_images)]
    obs = pd.DataFrame(index=pd.Index(list(obs_names), dtype=str))
    if len(obs) != n_images:
        raise ValueError(f"obs_names must name each of the {n_images} images, got {len(obs)}.")
    if not obs.index.is_unique:
        name = obs.index[obs.index.duplicated()][0]
        raise ValueError(f"obs_names must be unique, got {name!r} twice.")
    if labels is not None:
        obs[labels_key] = _categorical(labels, n_images)
    row, column = np.divmod(np.arange(height * width), width)
    names = [f"pixel_{r}_{c}" for r, c in zip(row, column, strict=True)]
    var = pd.DataFrame({"row": row, "column": column}, index=pd.Index(names, dtype=str))
    # Arrays and floats only: written to h5ad and zarr as they are.
    uns: dict[str, Any] = {"image": {"shape": np.array([height, width]), "max_value": float(scale)}}
    return ad.AnnData(x, obs=obs, var=var, uns=uns)


def _scale(array: np.ndarray, max_value: float | None) -> float:
    if max_value is not None:
        if not (np.isfinite(max_value) and max_value > 0):
            raise ValueError(f"max_value must be positive and finite, got {max_value}.")
        return float(max_value)
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating):
        return 1.0
    if array.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(array.dtype).max)
    raise ValueError(
        f"pixels of type {array.dtype} have no known maximum (uint8 and uint16 have); give "
        "max_value= the value that is to become 1."
    )


def _categorical(labels: ArrayLike, n_images: int) -> pd.api.extensions.ExtensionArray:
    values = pd.Series(np.asarray(labels).ravel())
    if len(values) != n_images:
        raise ValueError(
            f"labels must have one entry for each of the {n_images} images, got {len(values)}."
        )
    # Sorted before they become strings: 2 comes before 10.
    codes = pd.Series(values, dtype="category").cat
    names = pd.CategoricalDtype([str(category) for category in codes.categories])
    return pd.Categorical.from_codes(codes.codes.to_numpy(), dtype=names)


def describe(adata: AnnData, name: str, **source: str) -> AnnData:
    """Write where a data set comes from to ``adata.uns[name]``; returns ``adata``."""
    adata.uns[name] = dict(source)
    return adata
