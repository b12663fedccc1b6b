"""AnnData on the disk, a block of cells at a time: written to zarr, never held at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from . import _files


def import_zarr() -> Any:
    """The package zarr; an ImportError says how to get it."""
    try:
        import zarr
    except ImportError as error:  # a dependency of anndata from 0.12 on
        raise ImportError("zarr stores need the package zarr; pip install zarr.") from error
    return zarr


def new_store(path: str | os.PathLike, argument: str = "store") -> Path:
    """The path of a store to be written; raise where there is something already."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{argument} must be a path, got {type(path).__name__}.")
    target = Path(path).absolute()
    if target.exists():
        raise ValueError(f"{target} already exists; delete it, or choose another {argument}.")
    import_zarr()
    return target


def write_blocks(
    target: Path, blocks: Iterable[AnnData], uns: Callable[[], dict[str, Any]]
) -> None:
    """Write cells to a zarr store that :func:`anndata.read_zarr` reads, all of them or nothing.

    Parameters
    ----------
    target
        Folder of the store, which must not exist yet.
    blocks
        Cells in their order. Every block has the same slots and, in each categorical column, the
        same categories.
    uns
        Called after the last block: what the store says of all of them.
    """
    zarr = import_zarr()
    with _files.new_files(target) as part, warnings.catch_warnings():
        # Of anndata's own defaults, to those who would set them.
        warnings.filterwarnings("ignore", message=".*autosharding.*")
        root = zarr.open_group(str(part), mode="w")
        for number, block in enumerate(blocks):
            if number:
                _append(root, block)
            else:
                for values in (block.X, *block.layers.values()):
                    _for_many(values)
                write_elem(root, "/", block)
        write_elem(root, "uns", uns())
        if hasattr(zarr, "consolidate_metadata"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # not part of the zarr 3 format yet
                zarr.consolidate_metadata(root.store)


def _for_many(values: Any) -> None:
    """Let the rows that follow hold more than 2³¹ values in all."""
    if sparse.issparse(values):
        values.indptr = values.indptr.astype(np.int64)


def _append(root: Any, block: AnnData) -> None:
    """Add the rows of a block to every slot of a store that has rows."""
    arrays = {"X": block.X}
    arrays |= {f"layers/{name}": values for name, values in block.layers.items()}
    arrays |= {f"obsm/{name}": values for name, values in block.obsm.items()}
    for name, values in arrays.items():
        if sparse.issparse(values):
            sparse_dataset(root[name]).append(values)
        else:
            root[name].append(np.asarray(values))
    obs = root["obs"]
    obs[obs.attrs["_index"]].append(block.obs_names.to_numpy(dtype=object))
    for name, column in block.obs.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            obs[f"{name}/codes"].append(column.cat.codes.to_numpy())
        else:
            obs[str(name)].append(column.to_numpy())
