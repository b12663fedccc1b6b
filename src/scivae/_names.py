"""Names of layers, genes and cells, read alike under every version of anndata and pandas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers. anndata lists X among them from 0.13 on, under the key ``None``."""
    return [name for name in adata.layers if name is not None]


def same_names(names: Iterable[Any], others: Iterable[Any]) -> bool:
    """Whether both hold the same names in the same order, whatever type the text is stored as.

    :meth:`pandas.Index.equals` also compares the type: text written by pandas 3 and read by
    pandas 2 is a ``string``, the same text made by pandas 2 is an ``object``.
    """
    return np.array_equal(as_objects(names), as_objects(others))


def as_objects(names: Iterable[Any]) -> np.ndarray:
    """Names as an array of Python objects, shape ``(n,)``."""
    return np.fromiter(names, dtype=object)
