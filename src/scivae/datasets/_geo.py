"""Read text tables of the Gene Expression Omnibus: genes × cells, several GB unpacked.

Most values are zero. A table is read in blocks of complete lines, and each block is converted to
sparse form before the next one is read.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import pandas as pd
from scipy import sparse

from ._errors import DamagedFileError

# Bytes of text per block. Parsing needs about 15 times as much memory.
_BLOCK = 1 << 20
# Longest allowed line (in the SMC cohort, 64,000 cells take 130 kB).
_MAX_LINE = 256 << 20
_TAB, _NEWLINE, _ZERO, _NINE = 9, 10, 48, 57


def open_text(path: Path) -> IO[bytes]:
    """Open a file in binary mode; unpack it if its content is gzipped, regardless of its name."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def read_counts(path: Path) -> tuple[sparse.csr_matrix, pd.Index, pd.Index]:
    """Read counts from a tab-separated table and transpose them.

    Parameters
    ----------
    path
        Text, gzipped or not: a header with cell names, then one line per gene, which starts with
        the gene name. Peak memory is about twice the size of the result.

    Returns
    -------
    counts
        ``(n_cells, n_genes)``, CSR, float32, whole numbers.
    cells
        Names of the cells, length ``n_cells``.
    genes
        Names of the genes, length ``n_genes``.

    Raises
    ------
    DamagedFileError
        If a line does not match the header, a value is not a whole number, a cell name is repeated,
        or the file is truncated.
    """
    genes: list[str] = []
    blocks: list[sparse.csr_matrix] = []
    with open_text(path) as stream:
        try:
            header = _names(stream.readline(_MAX_LINE))
            cells: list[str] | None = None
            for text in _blocks_of_lines(stream):
                if cells is None:
                    # Tables written by R may omit the first header field.
                    n_fields = text[: text.index(b"\n")].count(b"\t") + 1
                    cells = header if n_fields == len(header) + 1 else header[1:]
                names, block = parse_block(text, len(cells))
                genes += names
                blocks.append(block)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedFileError(f"{path.name} is truncated: {error}") from error
    if cells is None or not cells:
        raise DamagedFileError(f"{path.name} must have at least one line of counts, got none")
    index = pd.Index(cells, dtype=str)
    if not index.is_unique:
        raise DamagedFileError(
            f"cell names in {path.name} must be unique, got {index[index.duplicated()][0]!r} twice"
        )
    by_gene = sparse.vstack(blocks, format="csr", dtype=np.float32)
    del blocks
    return by_gene.T.tocsr(), index, pd.Index(genes, dtype=str)


def _names(line: bytes) -> list[str]:
    return [name.strip('"') for name in line.decode().rstrip("\r\n").split("\t")]


def _blocks_of_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Iterate over blocks of complete lines."""
    rest = b""
    while piece := stream.read(_BLOCK):
        rest += piece
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > _MAX_LINE:
            raise DamagedFileError(
                f"lines of the table must have at most {_MAX_LINE} bytes, got more"
            )
    if rest.strip():
        yield rest + b"\n"


def parse_block(text: bytes, n_cells: int) -> tuple[list[str], sparse.csr_matrix]:
    """Parse lines of a count table into sparse form.

    Parameters
    ----------
    text
        Complete lines: a name, then ``n_cells`` whole numbers, separated by tabs.
    n_cells
        Number of values per line.

    Returns
    -------
    Names of the lines, and a matrix ``(n_lines, n_cells)``, CSR, float32.

    Raises
    ------
    DamagedFileError
        As :func:`read_counts`.
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    names, numbers = [], []
    for line in text.splitlines():
        if not line.strip():
            continue
        name, _, rest = line.partition(b"\t")
        label = name.decode().strip('"')
        n_found = rest.count(b"\t") + 1 if rest else 0
        if n_found != n_cells:
            raise DamagedFileError(
                f"each gene must have {n_cells} values, one for each cell in the header, got "
                f"{n_found} for {label!r}"
            )
        names.append(label)
        numbers.append(rest)
    if not names:
        return [], sparse.csr_matrix((0, n_cells), dtype=np.float32)

    # All values in one byte array; each value ends with a tab.
    raw = np.frombuffer(b"\t".join(numbers) + b"\t", dtype=np.uint8)
    ends = np.flatnonzero(raw == _TAB)
    lengths = np.diff(ends, prepend=-1) - 1
    digits = (raw >= _ZERO) & (raw <= _NINE)
    if len(raw) - np.count_nonzero(digits) != len(ends) or lengths.min() < 1 or lengths.max() > 9:
        _refuse(names, numbers)
    # Most values are the single digit 0. The others are built digit by digit.
    values = raw[ends - 1].astype(np.int32) - _ZERO
    for place in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > place)
        values[longer] += (raw[ends[longer] - 1 - place].astype(np.int32) - _ZERO) * 10**place
    found = np.flatnonzero(values)
    indptr = np.searchsorted(found, np.arange(len(names) + 1) * n_cells)
    block = sparse.csr_matrix(
        (
            values[found].astype(np.float32),
            (found % n_cells).astype(np.int32),
            indptr.astype(np.int32),
        ),
        shape=(len(names), n_cells),
    )
    return names, block


def _refuse(names: list[str], numbers: list[bytes]) -> None:
    """Raise an error that names the first value that is not a count."""
    for name, line in zip(names, numbers, strict=True):
        for value in line.split(b"\t"):
            if not value.isdigit() or len(value) > 9:
                raise DamagedFileError(
                    "raw counts must be whole numbers of at most nine digits, got "
                    f"{value.decode(errors='replace')!r} for gene {name!r}"
                )


def read_annotation(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read the annotation of the cells.

    Parameters
    ----------
    path
        Tab-separated text, gzipped or not, with cell names in the column ``Index``.
    columns
        Mapping from columns of the table to names of the returned columns.

    Returns
    -------
    One row per cell, indexed by cell name; strings, missing if the table has no value.

    Raises
    ------
    DamagedFileError
        If a column is missing.
    """
    with open_text(path) as stream:
        try:
            table = pd.read_csv(stream, sep="\t", dtype=str)
        except (EOFError, gzip.BadGzipFile, zlib.error, pd.errors.ParserError) as error:
            raise DamagedFileError(f"{path.name} cannot be read: {error}") from error
    missing = [column for column in ("Index", *columns) if column not in table.columns]
    if missing:
        raise DamagedFileError(
            f"{path.name} must have a column {missing[0]!r}, got "
            f"{', '.join(map(repr, table.columns))}"
        )
    return table.set_index("Index")[list(columns)].rename(columns=columns)
