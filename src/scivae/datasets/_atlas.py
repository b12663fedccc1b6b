"""Read what the Single Cell Expression Atlas serves: a zip of three text files and a design table.

``scanpy.datasets.ebi_expression_atlas`` asks the same addresses and keeps the same file names, but it
writes downloads under their final name, trusts the entry count in the matrix header (a matrix that
is cut short gives uninitialized memory) and caches whatever came out. So the files are fetched by
:mod:`._download` and read here. Nothing is ever extracted: members are streamed out of the archive.
"""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

import numpy as np
import pandas as pd
from scipy import sparse

from ._errors import DamagedFileError

# The three members, by the end of their names.
_PARTS = (".mtx", ".mtx_rows", ".mtx_cols")
# Text matrices deflate about 5-fold; deflate itself cannot do more than 1032-fold.
_MAX_RATIO = 200
# Below this size a high ratio is harmless.
_HARMLESS = 10 * 2**20
# The largest experiment of the atlas is well under this, unpacked.
_MAX_BYTES = 32 * 2**30
# Matrix entries parsed at once: 2 M entries are about 30 MB of text.
_ENTRIES = 2_000_000
# An entry takes at least this many bytes ("1 1 1" and the end of the line).
_ENTRY_BYTES = 6


def check_archive(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members of an atlas archive by the end of their name, or a refusal.

    Raises
    ------
    DamagedFileError
        A path that leaves the archive, a link, an encrypted or repeated member, a part that
        is missing, or sizes of a decompression bomb.
    """
    parts: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in archive.infolist():
        name = info.filename
        windows = PureWindowsPath(name)
        if (
            windows.drive
            or windows.root
            or ".." in windows.parts
            or PurePosixPath(name).is_absolute()
        ):
            raise DamagedFileError(f"the archive holds a path outside of itself: {name!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DamagedFileError(f"the archive holds a link: {name!r}")
        if info.flag_bits & 0x1:
            raise DamagedFileError(f"the archive holds an encrypted member: {name!r}")
        total += info.file_size
        if info.file_size > _HARMLESS and info.file_size > _MAX_RATIO * max(info.compress_size, 1):
            raise DamagedFileError(
                f"member {name!r} unpacks {info.compress_size} to {info.file_size} bytes, more "
                f"than {_MAX_RATIO}-fold: a decompression bomb"
            )
        if total > _MAX_BYTES:
            raise DamagedFileError(
                f"the archive unpacks to more than {_MAX_BYTES} bytes: a decompression bomb"
            )
        for part in _PARTS:
            if name.endswith(part):
                if part in parts:
                    raise DamagedFileError(f"the archive holds two {part} members: {name!r}")
                parts[part] = info
    missing = [part for part in _PARTS if part not in parts]
    if missing:
        raise DamagedFileError(f"the archive lacks its {missing[0]} member")
    return parts


def read_archive(path: Path) -> tuple[sparse.csr_matrix, pd.Index, pd.DataFrame]:
    """Counts, cells and genes of an atlas archive.

    Parameters
    ----------
    path
        The zip with ``*.mtx`` (genes × cells, Matrix Market), ``*.mtx_rows``, ``*.mtx_cols``.

    Returns
    -------
    counts
        ``(n_cells, n_genes)``, CSR, float32, as stored (not rounded).
    cells
        Names of the cells, length ``n_cells``.
    genes
        ``gene_ids`` and, where the archive gives names, ``symbol``; ``n_genes`` rows.

    Raises
    ------
    DamagedFileError
        The archive is hostile or broken, or its parts disagree.
    """
    with zipfile.ZipFile(path) as archive:
        parts = check_archive(archive)
        with archive.open(parts[".mtx_rows"]) as stream:
            rows = pd.read_csv(stream, sep="\t", header=None, dtype=str, keep_default_na=False)
        with archive.open(parts[".mtx_cols"]) as stream:
            columns = pd.read_csv(stream, sep="\t", header=None, dtype=str, keep_default_na=False)
        with archive.open(parts[".mtx"]) as stream:
            counts = read_matrix_market(stream, size=parts[".mtx"].file_size)
    if counts.shape != (len(columns), len(rows)):
        raise DamagedFileError(
            f"the matrix is {counts.shape[1]} genes × {counts.shape[0]} cells, but the archive "
            f"names {len(rows)} genes and {len(columns)} cells"
        )
    cells = pd.Index(columns[0].to_numpy(), dtype=str)
    if not cells.is_unique:
        name = cells[cells.duplicated()][0]
        raise DamagedFileError(f"the archive names cell {name!r} twice")
    genes = pd.DataFrame({"gene_ids": rows[0].to_numpy()})
    # The second column repeats the Ensembl id in most experiments.
    genes["symbol"] = (
        np.where(rows[1] != rows[0], rows[1], "") if rows.shape[1] > 1 else np.full(len(rows), "")
    )
    return counts, cells, genes


def read_matrix_market(stream: IO[bytes], *, size: int) -> sparse.csr_matrix:
    """Sparse matrix from Matrix Market coordinate text, transposed, in blocks.

    Parameters
    ----------
    stream
        Text of the file, as bytes.
    size
        Its length in bytes: a header that promises more entries than fit is refused before
        anything is allocated.

    Returns
    -------
    ``(columns, rows)`` of the file, CSR, float32.

    Raises
    ------
    DamagedFileError
        Wrong or missing header, an index out of range, a value that is no count, too few or too
        many entries.
    """
    first = stream.readline(1 << 16)
    words = first.lower().split()
    if words[:3] != [b"%%matrixmarket", b"matrix", b"coordinate"] or words[4:] != [b"general"]:
        raise DamagedFileError(
            f"the matrix must start with '%%MatrixMarket matrix coordinate real general', "
            f"found {first[:80]!r}"
        )
    line = stream.readline(1 << 16)
    while line.startswith(b"%") or line.strip() == b"":
        if not line:
            raise DamagedFileError("the matrix ends before its sizes")
        line = stream.readline(1 << 16)
    try:
        n_rows, n_columns, n_entries = (int(word) for word in line.split())
    except ValueError as error:
        raise DamagedFileError(f"the matrix has no line of three sizes: {line[:80]!r}") from error
    if min(n_rows, n_columns, n_entries) < 0 or n_entries * _ENTRY_BYTES > size + _ENTRY_BYTES:
        raise DamagedFileError(
            f"the matrix promises {n_rows} × {n_columns} with {n_entries} entries in {size} bytes"
        )
    if max(n_rows, n_columns) * 2 > size + 64 and max(n_rows, n_columns) > 10_000_000:
        raise DamagedFileError(f"the matrix promises {n_rows} × {n_columns} in {size} bytes")

    rows = np.empty(n_entries, dtype=np.int32)
    columns = np.empty(n_entries, dtype=np.int32)
    values = np.empty(n_entries, dtype=np.float32)
    done = 0
    try:
        with pd.read_csv(
            stream,
            sep=" ",
            header=None,
            names=["row", "column", "value"],
            dtype={"row": np.int64, "column": np.int64, "value": np.float64},
            chunksize=_ENTRIES,
        ) as reader:
            for block in reader:
                if block.empty:  # a matrix of zeros
                    continue
                stop = done + len(block)
                if stop > n_entries:
                    raise DamagedFileError(f"the matrix has more than its {n_entries} entries")
                row, column = block["row"].to_numpy(), block["column"].to_numpy()
                value = block["value"].to_numpy()
                for what, index, limit in (("row", row, n_rows), ("column", column, n_columns)):
                    if index.min() < 1 or index.max() > limit:
                        raise DamagedFileError(
                            f"the matrix has {what} {index.max() if index.min() >= 1 else index.min()}"
                            f", outside of 1 to {limit}"
                        )
                if not np.isfinite(value).all() or value.min() < 0:
                    culprit = value[~np.isfinite(value) | (value < 0)][0]
                    raise DamagedFileError(f"the matrix has value {culprit}, which is no count")
                rows[done:stop], columns[done:stop], values[done:stop] = row - 1, column - 1, value
                done = stop
    except pd.errors.EmptyDataError:
        pass  # no entry at all; counted below
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"the matrix has a line that is no entry: {error}") from error
    if done != n_entries:
        raise DamagedFileError(f"the matrix has {done} of its {n_entries} entries: cut short")
    return sparse.csr_matrix((values, (columns, rows)), shape=(n_columns, n_rows))


def read_design(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Annotation of the cells.

    Parameters
    ----------
    path
        The design table: one row a cell, its name first.
    columns
        From columns of the table to those that come back.

    Returns
    -------
    One row a cell, indexed by its name; strings, missing where the table has nothing.
    """
    table = pd.read_csv(path, sep="\t", index_col=0, dtype=str, usecols=_first_and(path, columns))
    table.index = table.index.astype(object)
    return table[list(columns)].rename(columns=columns)


def _first_and(path: Path, columns: dict[str, str]) -> list[str]:
    header = list(pd.read_csv(path, sep="\t", nrows=0).columns)
    missing = [column for column in columns if column not in header]
    if missing:
        raise DamagedFileError(
            f"{path.name} lacks column {missing[0]!r}; it has {', '.join(map(repr, header))}"
        )
    return [header[0], *(column for column in columns if column != header[0])]
