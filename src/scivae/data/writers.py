"""Write generated cells and annotations block by block."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, read_zarr, sparse_dataset, write_elem
from scipy import sparse

from .._names import layer_names
from . import files
from .sources import import_zarr


class Annotation:
    """Annotation that is written to a file or an AnnData, block by block.

    Existing entries with the same names are unchanged until :meth:`finish`.

    Parameters
    ----------
    root
        The AnnData, or the root of a file that is open for writing.
    path
        Path of the file.
    key
        Key of ``obsm`` for the latent space.
    shape
        Shape of the latent space.
    """

    def __init__(self, root: Any, path: Path | None, key: str, shape: tuple[int, int]):
        self.root, self.path, self.key = root, path, key
        self.part = f"{key}.part"
        if isinstance(root, AnnData):
            self.latent: Any = np.empty(shape, dtype=np.float32)
            return
        obsm = root.require_group("obsm")
        if self.part in obsm:  # left by a killed process
            del obsm[self.part]
        create = getattr(obsm, "create_array", None) or obsm.create_dataset
        chunks = (min(16_384, shape[0]), shape[1])
        self.latent = create(self.part, shape=shape, dtype="float32", chunks=chunks)
        self.latent.attrs["encoding-type"] = "array"
        self.latent.attrs["encoding-version"] = "0.2.0"

    def discard(self) -> None:
        """Remove what has been written so far."""
        if not isinstance(self.root, AnnData):
            del self.root["obsm"][self.part]

    def finish(self, columns: dict[str, Any]) -> None:
        """Write the latent space and columns of ``obs`` under their names, replacing existing entries."""
        if isinstance(self.root, AnnData):
            self.root.obsm[self.key] = self.latent
            for name, column in columns.items():
                self.root.obs[name] = column
            return
        obsm, obs = self.root["obsm"], self.root["obs"]
        if self.key in obsm:
            del obsm[self.key]
        if self.path is not None and self.path.is_dir():  # zarr cannot rename
            folder = self.path / "obsm"
            os.rename(folder / self.part, folder / self.key)
        else:
            obsm.move(self.part, self.key)
        order = [str(name) for name in obs.attrs["column-order"]]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*autosharding.*")
            for name, column in columns.items():
                write_elem(obs, name, column)
        obs.attrs["column-order"] = [*order, *(name for name in columns if name not in order)]
        if self.path is not None and self.path.is_dir():
            _consolidate(self.root)


# File name endings of formats that are single files.
_OTHER_FORMATS = (
    ".h5ad",
    ".h5",
    ".hdf5",
    ".h5mu",
    ".loom",
    ".csv",
    ".tsv",
    ".txt",
    ".parquet",
    ".npz",
)


def new_store(path: str | os.PathLike, argument: str = "store") -> Path:
    """The path of a store to be written; raise unless it can be a zarr store."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"{argument} must be a path, got {type(path).__name__}; pass the path as text."
        )
    target = Path(path).absolute()
    if target.suffix.lower() in _OTHER_FORMATS:
        raise ValueError(
            f"{argument} must be the folder of a zarr store, got {str(path)!r}; call it "
            f"{target.with_suffix('.zarr').name!r}, and write a file with anndata.read_zarr(...).write_h5ad."
        )
    import_zarr()
    return target


def check_new(target: Path, argument: str = "store") -> None:
    """Raise if a store already exists."""
    if target.exists():
        raise ValueError(f"{target} already exists; delete it, or choose another {argument}.")


def read_uns(store: Path) -> dict[str, Any]:
    """``uns`` of a store."""
    return dict(read_elem(import_zarr().open_group(str(store), mode="r")["uns"]))


def read_cells(store: Path) -> AnnData:
    """All cells of a store, in memory, without ``uns``."""
    cells = read_zarr(store)
    cells.uns = {}
    return cells


def write_blocks(
    target: Path, blocks: Iterable[AnnData], uns: Callable[[], dict[str, Any]]
) -> None:
    """Write cells to a zarr store that :func:`anndata.read_zarr` reads, all of them or nothing.

    Parameters
    ----------
    target
        Folder of the store, which must not exist.
    blocks
        Blocks of cells. All have the same entries and, in each categorical column, the same categories.
    uns
        Function that returns ``uns`` of the store; it is called after the last block.
    """
    zarr = import_zarr()
    with files.new_files(target) as part, warnings.catch_warnings():
        # anndata warns about its own defaults.
        warnings.filterwarnings("ignore", message=".*autosharding.*")
        root = zarr.open_group(str(part), mode="w")
        for number, block in enumerate(blocks):
            if number:
                _append(root, block)
            else:
                for values in (block.X, *(block.layers[name] for name in layer_names(block))):
                    _for_many(values)
                write_elem(root, "/", block)
        write_elem(root, "uns", uns())
        _consolidate(root)


def _consolidate(root: Any) -> None:
    """Consolidate the metadata of a zarr store, as :meth:`anndata.AnnData.write_zarr` does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        import_zarr().consolidate_metadata(root.store)


def _for_many(values: Any) -> None:
    """Widen indptr to int64, so that appended rows can pass 2³¹ nonzero values."""
    if sparse.issparse(values):
        values.indptr = values.indptr.astype(np.int64)


def _append(root: Any, block: AnnData) -> None:
    """Append the rows of a block to every array of a store that has a row per cell."""
    arrays = {"X": block.X}
    arrays |= {f"layers/{name}": block.layers[name] for name in layer_names(block)}
    arrays |= {f"obsm/{name}": values for name, values in block.obsm.items()}
    for name, values in arrays.items():
        if sparse.issparse(values):
            sparse_dataset(root[name]).append(values)
        else:
            root[name].append(np.asarray(values))
    obs = root["obs"]
    _append_column(obs[obs.attrs["_index"]], block.obs_names.to_series())
    for name, column in block.obs.items():
        _append_column(obs[str(name)], column)


def _append_column(stored: Any, column: pd.Series) -> None:
    """Append values to a column that is stored as an array, as categories, or as values with a mask."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        stored["codes"].append(column.cat.codes.to_numpy())
    elif str(stored.attrs.get("encoding-type")).startswith("nullable"):
        missing = column.isna().to_numpy()
        kept = column.astype(object).to_numpy(copy=True)
        # Masked values are never read.
        kept[missing] = np.zeros(1, dtype=stored["values"].dtype)[0]
        stored["values"].append(kept.astype(stored["values"].dtype))
        stored["mask"].append(missing)
    elif column.dtype.kind in "Ubiufc":
        stored.append(column.to_numpy())
    else:
        stored.append(column.to_numpy(dtype=object))
