"""Read an AnnData on disk (h5ad or zarr) a block of cells at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from .._names import layer_names
from .._storage import rows_of, summed
from .checks import X_LAYER, check_adata, values_of


def import_zarr() -> Any:
    """The package zarr; if it is missing, the ImportError says how to install it."""
    try:
        import zarr
    except ImportError as error:  # anndata installs it from version 0.12 on
        raise ImportError(
            "zarr stores need the package zarr, which is not installed; run pip install zarr."
        ) from error
    return zarr


class Cells:
    """Cells in an h5ad file, a zarr store or an AnnData; only the requested parts are read.

    Parameters
    ----------
    source
        Path of an h5ad file or of the folder of a zarr store, or an AnnData, in memory or backed.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it does not contain an AnnData.
    """

    def __init__(self, source: Any):
        self.adata = source if isinstance(source, AnnData) else None
        if self.adata is not None:
            check_adata(self.adata)
        else:
            if not isinstance(source, (str, os.PathLike)):
                raise TypeError(
                    "the source of cells must be an AnnData or the path of an h5ad file or zarr "
                    f"store, got {type(source).__name__}; pass the path as text."
                )
            self.path = Path(source).absolute()
            if not self.path.exists():
                raise FileNotFoundError(
                    f"there is no h5ad file and no zarr store at {self.path}; check the path."
                )
            with self.opened() as root:
                # Files of anndata before 0.8 have no encoding-type.
                said = root.attrs.get("encoding-type", "anndata")
                if said != "anndata" or not {"obs", "var"} <= set(root):
                    raise ValueError(
                        f"a file of cells must hold an AnnData, but {self.path} holds something else; "
                        "write one with adata.write_h5ad or write_zarr."
                    )
                if not all(hasattr(root[table], "keys") for table in ("obs", "var")):
                    raise ValueError(
                        f"cells are read from files of anndata 0.7 or later, but {self.path} is "
                        f"older; run anndata.read_h5ad({str(self.path)!r}).write_h5ad(...) to "
                        "convert it."
                    )

    def __str__(self) -> str:
        return "adata" if self.adata is not None else str(self.path)

    @contextmanager
    def opened(self, mode: str = "r") -> Iterator[Any]:
        """Yield the AnnData, or the root of the open file."""
        if self.adata is not None:
            yield self.adata
        elif self.path.is_dir():
            zarr = import_zarr()
            # Consolidated metadata would be outdated when the store is changed. zarr 2 never reads them.
            kwargs = {} if zarr.__version__.startswith("2.") else {"use_consolidated": False}
            try:
                root = zarr.open_group(str(self.path), mode=mode, **kwargs)
            except (FileNotFoundError, ValueError) as error:
                raise ValueError(
                    f"a folder of cells must be a zarr store, but {self.path} is none; pass the path "
                    "of the h5ad file in it."
                ) from error
            yield root
        else:
            try:
                file = h5py.File(self.path, mode)
            except OSError as error:
                reason = str(error).strip().splitlines()[0]
                raise OSError(
                    f"{self.path} cannot be opened as an h5ad file ({reason}); close other "
                    "programs that have it open, or write it again."
                ) from error
            with file:
                yield file

    def skeleton(self, columns: Iterable[Any]) -> AnnData:
        """The AnnData with zeros as values and these columns of ``obs``, as far as they exist."""
        with self.opened() as root:
            if self.adata is not None:
                obs, var_names = self.adata.obs, self.adata.var_names
                obs = obs[[c for c in dict.fromkeys(columns) if c in obs]].copy()
                layers, has_x = layer_names(self.adata), self.adata.X is not None
            else:
                obs = self._obs(root, columns)
                with _old_files():
                    var_names = pd.Index(read_elem(root["var"][root["var"].attrs["_index"]]))
                layers = list(root["layers"]) if "layers" in root else []
                has_x = "X" in root
        empty = sparse.csr_matrix((len(obs), len(var_names)), dtype=np.float32)
        return AnnData(
            X=empty if has_x else None,
            obs=obs,
            var=pd.DataFrame(index=var_names.astype(str)),
            layers=dict.fromkeys(layers, empty),
        )

    @property
    def columns(self) -> list[str]:
        """Names of the columns of ``obs``."""
        if self.adata is not None:
            return list(self.adata.obs.columns)
        with self.opened() as root:
            return [str(name) for name in root["obs"].attrs["column-order"]]

    def _obs(
        self, root: Any, columns: Iterable[Any], rows: np.ndarray | slice = slice(None)
    ) -> pd.DataFrame:
        """Some columns and rows of ``obs`` of an open file."""
        obs = root["obs"]
        names = set(self.columns)
        wanted = [n for n in dict.fromkeys(columns) if isinstance(n, str) and n in names]
        with _old_files():
            found = {name: read_elem(obs[name])[rows] for name in wanted}
            index = pd.Index(read_elem(obs[obs.attrs["_index"]])[rows])
        return pd.DataFrame(found, index=index.astype(str))

    def matrix(self, root: Any, layer: str) -> Any:
        """The values of a layer, read only when it is sliced; slices are CSR matrices or arrays.

        Raises
        ------
        ValueError
            If they are not stored by rows.
        """
        where = "X" if layer == X_LAYER else f"layers/{layer}"
        if self.adata is not None:
            matrix = values_of(self.adata, layer)
            if sparse.issparse(matrix) and matrix.format == "csc":
                matrix = matrix.tocsr()  # is in memory anyway
            kind = getattr(matrix, "format", "array")
            known = sparse.issparse(matrix) or hasattr(matrix, "group") or _is_array(matrix)
        else:
            # A layer can be named "X" too.
            found = root["layers/X"] if layer == X_LAYER and "layers/X" in root else root[where]
            encoding = str(found.attrs.get("encoding-type", "array"))
            kind = encoding.removesuffix("_matrix")
            known = True
            matrix = sparse_dataset(found) if kind in ("csr", "csc") else found
        if kind == "csc":
            raise ValueError(
                f"cells are read in blocks of rows, but {where} of {self} is stored by columns "
                "(CSC); store adata.X.tocsr(), or the same for a layer."
            )
        if not known or kind not in ("csr", "array"):
            raise ValueError(
                f"values must be stored as CSR or as an array, but {where} of {self} is "
                f"{type(matrix).__name__} ({kind}); convert them."
            )
        return matrix

    def to_memory(self, rows: np.ndarray, layer: str) -> AnnData:
        """Some cells with all of their ``obs``, and the values of a layer."""
        if self.adata is not None and not self.adata.isbacked:
            chosen = self.adata[rows].copy()
            return chosen.to_memory() if hasattr(values_of(chosen, layer), "compute") else chosen
        with self.opened() as root:
            columns = self.columns
            if self.adata is not None:
                obs, var = self.adata.obs.iloc[rows].copy(), self.adata.var.copy()
            else:
                with _old_files():
                    obs, var = self._obs(root, columns, rows), read_elem(root["var"])
            order = np.argsort(rows, kind="stable")
            values = self.matrix(root, layer)[rows[order]][np.argsort(order)]
        own = {"X": values} if layer == X_LAYER else {"layers": {layer: values}}
        return AnnData(obs=obs, var=var, **own)


def _is_array(matrix: Any) -> bool:
    lazy = hasattr(matrix, "compute") or type(matrix).__module__.partition(".")[0] == "zarr"
    return lazy or isinstance(matrix, (np.ndarray, h5py.Dataset))


@contextmanager
def _old_files() -> Iterator[None]:
    """Suppress anndata's warning for each column of files written before 0.8."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was written without encoding metadata")
        yield


def read_pools(
    matrix: Any, pools: Iterable[list[tuple[int, int]]], within: tuple[int, int]
) -> Iterator[Any]:
    """Read the rows of each pool, and yield them as one float32 CSR matrix or array.

    Parameters
    ----------
    matrix
        The result of :meth:`Cells.matrix`.
    pools
        For each pool, the row ranges to read: first row, and the row after the last.
    within
        Row range that holds all pools. Where its rows begin in the file is read first, and kept.
    """
    if not hasattr(matrix, "format"):  # an array, whose rows may be sparse
        for spans in pools:
            blocks = [rows_of(matrix, slice(start, stop)) for start, stop in spans]
            if sparse.issparse(blocks[0]):
                yield summed(sparse.vstack(blocks, format="csr", dtype=np.float32), copy=False)
            else:
                yield np.concatenate([block.astype(np.float32, copy=False) for block in blocks])
        return
    # Reading into preallocated arrays is three times faster than stacking the slices of anndata.
    if sparse.issparse(matrix):
        data, indices, indptr = matrix.data, matrix.indices, matrix.indptr
    else:
        data, indices = matrix.group["data"], matrix.group["indices"]
        # A run over a part of the cells must not read the positions of all.
        indptr = matrix.group["indptr"][within[0] : within[1] + 1]
    offset = 0 if sparse.issparse(matrix) else within[0]
    for pool in pools:
        spans = [(start - offset, stop - offset) for start, stop in pool]
        ends = np.cumsum([indptr[stop] - indptr[start] for start, stop in spans])
        values = np.empty(ends[-1], dtype=np.float32)
        columns = np.empty(ends[-1], dtype=np.int32)
        pointers = [np.zeros(1, dtype=np.int64)]
        for (start, stop), end in zip(spans, ends, strict=True):
            first, last = int(indptr[start]), int(indptr[stop])
            here = slice(end - (last - first), end)
            values[here] = data[first:last]
            columns[here] = indices[first:last]
            pointers.append(indptr[start + 1 : stop + 1] - first + here.start)
        rows = np.concatenate(pointers)
        if ends[-1] <= np.iinfo(np.int32).max:
            rows = rows.astype(np.int32)
        shape = (len(rows) - 1, matrix.shape[1])
        yield summed(sparse.csr_matrix((values, columns, rows), shape=shape), copy=False)
