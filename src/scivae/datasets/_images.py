"""Images as AnnData: one row per image, one variable per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

# Rows per block, to avoid a second array of the full size.
_ROWS = 4096


def from_images(
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    labels_key: str = "label",
    max_value: float | None = None,
    obs_names: Sequence[str] | None = None,
) -> AnnData:
    """Convert grayscale images to AnnData, with pixels in [0, 1].

    Parameters
    ----------
    images
        ``(n_images, height, width)``.
    labels
        ``(n_images,)``, the class of each image. Missing labels (None, NaN) stay missing. Labels
        are converted to strings: class 3 becomes ``"3"``.
    labels_key
        Column of ``obs`` for the labels.
    max_value
        The value that becomes 1. Default: the largest value of the dtype (255 for uint8, 65,535 for
        uint16). Booleans and floats are not scaled by default, so floats must lie in [0, 1].
        Required for all other dtypes.
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
        If ``images`` is not three-dimensional or empty, the number of labels differs from the
        number of images, a value is outside [0, ``max_value``], or the dtype has no default
        maximum.

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
            "images must have the shape (n_images, height, width) without zeros, got "
            f"{array.shape}; average color channels first, and pass a single image as image[None]."
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
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise ValueError(
                f"pixels must lie in [0, {scale:g}], got [{low * scale:g}, {high * scale:g}]; "
                "set max_value= to the value that should become 1."
            )

    if obs_names is None:
        obs_names = [f"image_{i}" for i in range(n_images)]
    obs = pd.DataFrame(index=pd.Index(list(obs_names), dtype=str))
    if len(obs) != n_images:
        raise ValueError(
            f"obs_names must have one name for each of the {n_images} images, got {len(obs)}; omit "
            "it for default names."
        )
    if not obs.index.is_unique:
        name = obs.index[obs.index.duplicated()][0]
        raise ValueError(
            f"obs_names must be unique, got {name!r} more than once; omit it for default names."
        )
    if labels is not None:
        obs[labels_key] = _categorical(labels, n_images)
    row, column = np.divmod(np.arange(height * width), width)
    names = [f"pixel_{r}_{c}" for r, c in zip(row, column, strict=True)]
    var = pd.DataFrame({"row": row, "column": column}, index=pd.Index(names, dtype=str))
    # Only arrays and floats, which h5ad and zarr store unchanged.
    uns: dict[str, Any] = {"image": {"shape": np.array([height, width]), "max_value": float(scale)}}
    return ad.AnnData(x, obs=obs, var=var, uns=uns)


def _scale(array: np.ndarray, max_value: float | None) -> float:
    if max_value is not None:
        if not (np.isfinite(max_value) and max_value > 0):
            raise ValueError(
                f"max_value must be positive and finite, got {max_value}; pass the value of white."
            )
        return float(max_value)
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating):
        return 1.0
    if array.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(array.dtype).max)
    raise ValueError(
        "pixels must be uint8, uint16, bool or float if max_value is not given, got "
        f"{array.dtype}; set max_value= to the value that should become 1."
    )


def _categorical(labels: ArrayLike, n_images: int) -> pd.api.extensions.ExtensionArray:
    values = pd.Series(np.asarray(labels).ravel())
    if len(values) != n_images:
        raise ValueError(
            f"labels must have one entry for each of the {n_images} images, got {len(values)}; "
            "pass None for missing labels."
        )
    # Sorted before conversion to strings, so that 2 comes before 10.
    codes = pd.Series(values, dtype="category").cat
    names = pd.CategoricalDtype([str(category) for category in codes.categories])
    return pd.Categorical.from_codes(codes.codes.to_numpy(), dtype=names)


def describe(adata: AnnData, name: str, **source: str) -> AnnData:
    """Write the source of a data set to ``adata.uns[name]``; return ``adata``."""
    adata.uns[name] = dict(source)
    return adata
