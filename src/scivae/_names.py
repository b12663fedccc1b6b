"""Names of layers, genes, cells and columns, handled the same way for all versions of anndata and pandas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

# A column whose name consists of these words and of fillers contains donors, or samples of donors.
_DONORS = {"donor", "donors", "patient", "patients", "individual", "individuals", "subject", "subjects",
           "participant", "participants", "person", "mouse", "mice", "animal", "animals"}  # fmt: skip
_SAMPLES = {"sample", "samples", "biosample", "specimen", "replicate", "orig"}
_FILLERS = {"id", "ids", "name", "names", "no", "nr", "number", "key", "code", "ident"}
# Words in the names of columns with cell types and clusters.
_CLASSES = {"type", "types", "celltype", "cluster", "clusters", "class", "classes", "annotation", "leiden",
            "louvain", "state", "lineage", "subset", "subtype", "compartment"}  # fmt: skip


def layer_names(adata: Any) -> list[str]:
    """Names of the layers. From 0.13 on, anndata also lists X, under the key ``None``."""
    return [name for name in adata.layers if name is not None]


def same_names(names: Iterable[Any], others: Iterable[Any]) -> bool:
    """Whether both hold the same names in the same order, regardless of how strings are stored.

    :meth:`pandas.Index.equals` also compares dtypes: strings written by pandas 3 and read by
    pandas 2 have dtype ``string``, strings made by pandas 2 have dtype ``object``.
    """
    return np.array_equal(as_text(names), as_text(others))


def as_text(names: Iterable[Any]) -> np.ndarray:
    """Names as strings, shape ``(n,)``. Files and generated cells store numbers as strings too."""
    import pandas as pd

    return np.fromiter(pd.Index(names).astype(str), dtype=object)


def as_objects(names: Iterable[Any]) -> np.ndarray:
    """Names as an array of Python objects, shape ``(n,)``."""
    return np.fromiter(names, dtype=object)


def native_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the strings of a frame and its index the dtype that pandas 2 uses for strings.

    pandas 2 reads strings written by pandas 3 as dtype ``string``, which anndata before 0.13 cannot
    write. With pandas 3 the frame is returned unchanged.
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
    """Let anndata write strings of dtype ``string``; before 0.13 this needs a setting."""
    from anndata import settings

    if hasattr(settings, "allow_write_nullable_strings"):
        with settings.override(allow_write_nullable_strings=True):
            yield
    else:
        yield


def write_plain(adata: AnnData, path: Path) -> None:
    """Write an h5ad file, or a zarr store for ``.zarr``, that other programs can read.

    With pandas 3, anndata stores names of cells and genes as nullable strings, which earlier versions of it,
    R and viewers in a browser do not know. Plain strings are stored. Only tables in ``uns`` in which text is
    missing are stored as nullable strings.
    """
    from anndata import settings

    write = adata.write_zarr if path.suffix.lower() == ".zarr" else adata.write_h5ad
    if not hasattr(settings, "allow_write_nullable_strings"):
        write(path)
        return
    try:
        with settings.override(allow_write_nullable_strings=False):
            write(path)
    except (ValueError, TypeError, RuntimeError, NotImplementedError):
        obs, var = adata.obs, adata.var
        try:
            adata.obs, adata.var = _of_objects(obs), _of_objects(var)
            with any_text_written():
                write(path)
        finally:
            adata.obs, adata.var = obs, var


def _of_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with its text as objects, which anndata writes as plain strings or as categories."""
    import pandas as pd

    frame = frame.copy(deep=False)
    frame.index = frame.index.astype(object)
    for name, column in frame.items():
        if isinstance(column.dtype, pd.StringDtype):
            frame[name] = column.astype(object).where(column.notna(), None)
    return frame


def donor_name_rank(name: str) -> int | None:
    """Rank of a column by its name: 0 for a name of donors, 1 for a name of samples, None for others."""
    words = _words(name)
    if not words or words - _DONORS - _SAMPLES:
        return None
    return 0 if words & _DONORS else 1


def is_class_name(name: str) -> bool:
    """Whether a column is named as one of cell types or clusters."""
    return bool(_words(name) & _CLASSES)


def _words(name: str) -> set[str]:
    """Words of the name of a column in lower case, without fillers such as ``id``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = {re.sub(r"(?<=[a-z]{4})id$", "", word) for word in re.findall("[a-z]+", spaced)}
    return words - _FILLERS
