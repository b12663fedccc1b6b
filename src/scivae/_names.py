"""Names of layers, genes and cells, read alike under every version of anndata and pandas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def layer_names(adata: Any) -> list[str]:
    """Names of the layers. anndata lists X among them from 0.13 on, under the key ``None``."""
    return [name for name in adata.layers if name is not None]


def same_names(names: Iterable[Any], others: Iterable[Any]) -> bool:
    """Whether both hold the same names in the same order, whatever type the text is stored as.

    :meth:`pandas.Index.equals` also compares the type: text written by pandas 3 and read by
    pandas 2 is a ``string``, the same text made by pandas 2 is an ``object``.
    """
    return np.array_equal(as_text(names), as_text(others))


def as_text(names: Iterable[Any]) -> np.ndarray:
    """Names as text, shape ``(n,)``: files turn numbers into text, and so do generated cells."""
    import pandas as pd

    return np.fromiter(pd.Index(names).astype(str), dtype=object)


def as_objects(names: Iterable[Any]) -> np.ndarray:
    """Names as an array of Python objects, shape ``(n,)``."""
    return np.fromiter(names, dtype=object)


def native_text(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose text, index included, has the type that pandas 2 gives text.

    pandas 2 reads what pandas 3 wrote as ``string``, which anndata before 0.13 refuses to write.
    With pandas 3 the frame is returned as it is.
    """
    import pandas as pd

    if pd.Index(["text"]).dtype != object:
        return frame
    frame = frame.copy(deep=False)
    if isinstance(frame.index.dtype, pd.StringDtype):
        frame.index = frame.index.astype(object)
    for name, column in frame.items():
        if isinstance(column.dtype, pd.StringDtype):
            frame[name] = column.astype(object).where(column.notna(), None)
        elif isinstance(column.dtype, pd.CategoricalDtype):
            categories = column.cat.categories
            if isinstance(categories.dtype, pd.StringDtype):
                frame[name] = column.cat.rename_categories(list(categories))
    return frame


@contextmanager
def any_text_written() -> Iterator[None]:
    """Let anndata write cells whose text pandas 3 wrote; before 0.13 it refuses unless told."""
    from anndata import settings

    if hasattr(settings, "allow_write_nullable_strings"):
        with settings.override(allow_write_nullable_strings=True):
            yield
    else:
        yield
