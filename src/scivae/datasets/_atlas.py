"""Read files of the Single Cell Expression Atlas: a zip of three text files, and a design table.

``scanpy.datasets.ebi_expression_atlas`` uses the same addresses and file names, but it writes
unfinished downloads under the final name, trusts the entry count in the matrix header (a truncated
matrix then contains uninitialized memory), and caches the result unchecked. Therefore the files are
downloaded by :mod:`._download` and read here. Members are streamed from the archive; nothing is
extracted to disk.
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

# File extensions of the three members.
_PARTS = (".mtx", ".mtx_rows", ".mtx_cols")
# Text matrices compress about 5-fold; the limit of deflate is 1032-fold.
_MAX_RATIO = 200
# Below this size, a high compression ratio is harmless.
_HARMLESS = 10 * 2**20
# Upper limit of the unpacked size, well above the largest experiment of the atlas.
_MAX_BYTES = 32 * 2**30
# Matrix entries per block: 2 million entries are about 30 MB of text.
_ENTRIES = 2_000_000
# Smallest size of an entry in bytes ("1 1 1" and the end of the line).
_ENTRY_BYTES = 6


def check_archive(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Check an atlas archive and return its members by file extension.

    Raises
    ------
    DamagedFileError
        If the archive contains a path outside itself, a link, or an encrypted or duplicate member,
        if a member is missing, or if it looks like a decompression bomb.
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
            raise DamagedFileError(
                f"the archive must not contain paths outside itself, got {name!r}"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DamagedFileError(f"the archive must not contain links, got {name!r}")
        if info.flag_bits & 0x1:
            raise DamagedFileError(f"the archive must not contain encrypted members, got {name!r}")
        total += info.file_size
        if info.file_size > _HARMLESS and info.file_size > _MAX_RATIO * max(info.compress_size, 1):
            raise DamagedFileError(
                f"members of the archive must unpack to at most {_MAX_RATIO} times their size, got "
                f"{info.compress_size} to {info.file_size} bytes for {name!r}: a decompression bomb"
            )
        if total > _MAX_BYTES:
            raise DamagedFileError(
                f"the archive must unpack to at most {_MAX_BYTES} bytes, got more: a decompression "
                "bomb"
            )
        for part in _PARTS:
            if name.endswith(part):
                if part in parts:
                    raise DamagedFileError(
                        f"the archive must have one {part} member, got a second one: {name!r}"
                    )
                parts[part] = info
    missing = [part for part in _PARTS if part not in parts]
    if missing:
        raise DamagedFileError(f"the archive must have a {missing[0]} member, got none")
    return parts


def read_archive(path: Path) -> tuple[sparse.csr_matrix, pd.Index, pd.DataFrame]:
    """Read counts, cell names and genes from an atlas archive.

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
        ``gene_ids`` and ``symbol`` (empty if the archive has no symbols); ``n_genes`` rows.

    Raises
    ------
    DamagedFileError
        If the archive is malicious or damaged, or its parts do not match.
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
            f"the matrix must have the {len(rows)} genes and {len(columns)} cells that the archive "
            f"lists, got {counts.shape[1]} genes × {counts.shape[0]} cells"
        )
    cells = pd.Index(columns[0].to_numpy(), dtype=str)
    if not cells.is_unique:
        name = cells[cells.duplicated()][0]
        raise DamagedFileError(f"cell names in the archive must be unique, got {name!r} twice")
    genes = pd.DataFrame({"gene_ids": rows[0].to_numpy()})
    # In most experiments the second column repeats the Ensembl id.
    genes["symbol"] = (
        np.where(rows[1] != rows[0], rows[1], "") if rows.shape[1] > 1 else np.full(len(rows), "")
    )
    return counts, cells, genes


def read_matrix_market(stream: IO[bytes], *, size: int) -> sparse.csr_matrix:
    """Read a sparse matrix from Matrix Market text in blocks, and transpose it.

    Parameters
    ----------
    stream
        Binary stream of the file.
    size
        Size of the file in bytes. A header that declares more entries than fit in this size is
        rejected before memory is allocated.

    Returns
    -------
    ``(columns, rows)`` of the file, CSR, float32.

    Raises
    ------
    DamagedFileError
        If the header is wrong or missing, an index is out of range, a value is not a count, or the
        number of entries differs from the header.
    """
    first = stream.readline(1 << 16)
    words = first.lower().split()
    if words[:3] != [b"%%matrixmarket", b"matrix", b"coordinate"] or words[4:] != [b"general"]:
        raise DamagedFileError(
            f"the matrix must start with '%%MatrixMarket matrix coordinate real general', "
            f"got {first[:80]!r}"
        )
    line = stream.readline(1 << 16)
    while line.startswith(b"%") or line.strip() == b"":
        if not line:
            raise DamagedFileError(
                "the matrix must have a line of three sizes, got the end of the file"
            )
        line = stream.readline(1 << 16)
    try:
        n_rows, n_columns, n_entries = (int(word) for word in line.split())
    except ValueError as error:
        raise DamagedFileError(
            f"the matrix must have a line of three sizes, got {line[:80]!r}"
        ) from error
    if min(n_rows, n_columns, n_entries) < 0 or n_entries * _ENTRY_BYTES > size + _ENTRY_BYTES:
        raise DamagedFileError(
            f"the sizes of the matrix must fit its {size} bytes, got {n_rows} × {n_columns} with "
            f"{n_entries} entries"
        )
    if max(n_rows, n_columns) * 2 > size + 64 and max(n_rows, n_columns) > 10_000_000:
        raise DamagedFileError(
            f"the sizes of the matrix must fit its {size} bytes, got {n_rows} × {n_columns}"
        )

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
                if block.empty:  # an all-zero matrix
                    continue
                stop = done + len(block)
                if stop > n_entries:
                    raise DamagedFileError(
                        f"the matrix must have {n_entries} entries as in its header, got more"
                    )
                row, column = block["row"].to_numpy(), block["column"].to_numpy()
                value = block["value"].to_numpy()
                for what, index, limit in (("row", row, n_rows), ("column", column, n_columns)):
                    if index.min() < 1 or index.max() > limit:
                        raise DamagedFileError(
                            f"each {what} of the matrix must lie in 1 to {limit}, got "
                            f"{index.max() if index.min() >= 1 else index.min()}"
                        )
                if not np.isfinite(value).all() or value.min() < 0:
                    culprit = value[~np.isfinite(value) | (value < 0)][0]
                    raise DamagedFileError(
                        f"values of the matrix must be finite and not negative, got {culprit}"
                    )
                rows[done:stop], columns[done:stop], values[done:stop] = row - 1, column - 1, value
                done = stop
    except pd.errors.EmptyDataError:
        pass  # no entries; checked below
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"the matrix has a line that cannot be parsed: {error}") from error
    if done != n_entries:
        raise DamagedFileError(
            f"the matrix must have {n_entries} entries as in its header, got {done}: truncated"
        )
    return sparse.csr_matrix((values, (columns, rows)), shape=(n_columns, n_rows))


def read_design(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read the annotation of the cells.

    Parameters
    ----------
    path
        The design table: one row per cell, with the cell name in the first column.
    columns
        Mapping from columns of the table to names of the returned columns.

    Returns
    -------
    One row per cell, indexed by cell name; strings, missing if the table has no value.
    """
    table = pd.read_csv(path, sep="\t", index_col=0, dtype=str, usecols=_first_and(path, columns))
    table.index = table.index.astype(object)
    return table[list(columns)].rename(columns=columns)


def _first_and(path: Path, columns: dict[str, str]) -> list[str]:
    header = list(pd.read_csv(path, sep="\t", nrows=0).columns)
    missing = [column for column in columns if column not in header]
    if missing:
        raise DamagedFileError(
            f"{path.name} must have a column {missing[0]!r}, got {', '.join(map(repr, header))}"
        )
    return [header[0], *(column for column in columns if column != header[0])]
