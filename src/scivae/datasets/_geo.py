"""Read the text tables of the Gene Expression Omnibus: genes × cells, several GB once unpacked.

Nine of ten values are zero, so a table is read in blocks of whole lines, each of which is turned
into sparse form before the next one is read.
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

# Text unpacked at once. The block's arrays take about 15 times as much while it is parsed.
_BLOCK = 1 << 20
# A line longer than this is no line of a count table (SMC: 64 k cells, 130 kB).
_MAX_LINE = 256 << 20
_TAB, _NEWLINE, _ZERO, _NINE = 9, 10, 48, 57


def open_text(path: Path) -> IO[bytes]:
    """Bytes of a file, unpacked if it is gzipped, whatever its name says."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def read_counts(path: Path) -> tuple[sparse.csr_matrix, pd.Index, pd.Index]:
    """Counts of a tab-separated table, transposed.

    Parameters
    ----------
    path
        Text, gzipped or not: a header with the names of the cells, then one line a gene, its
        name first. Peak memory is about twice that of the result.

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
        A line of another length than the header, a value that is no whole number, a repeated
        cell, or a file that ends too early.
    """
    genes: list[str] = []
    blocks: list[sparse.csr_matrix] = []
    with open_text(path) as stream:
        try:
            header = _names(stream.readline(_MAX_LINE))
            cells: list[str] | None = None
            for text in _blocks_of_lines(stream):
                if cells is None:
                    # Tables written by R may leave the corner out.
                    n_fields = text[: text.index(b"\n")].count(b"\t") + 1
                    cells = header if n_fields == len(header) + 1 else header[1:]
                names, block = parse_block(text, len(cells))
                genes += names
                blocks.append(block)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedFileError(f"{path.name} is cut short: {error}") from error
    if cells is None or not cells:
        raise DamagedFileError(f"{path.name} has no line of counts")
    index = pd.Index(cells, dtype=str)
    if not index.is_unique:
        raise DamagedFileError(f"{path.name} names cell {index[index.duplicated()][0]!r} twice")
    by_gene = sparse.vstack(blocks, format="csr", dtype=np.float32)
    del blocks
    return by_gene.T.tocsr(), index, pd.Index(genes, dtype=str)


def _names(line: bytes) -> list[str]:
    return [name.strip('"') for name in line.decode().rstrip("\r\n").split("\t")]


def _blocks_of_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Text in pieces that end where a line ends."""
    rest = b""
    while piece := stream.read(_BLOCK):
        rest += piece
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > _MAX_LINE:
            raise DamagedFileError(f"the table has a line of more than {_MAX_LINE} bytes")
    if rest.strip():
        yield rest + b"\n"


def parse_block(text: bytes, n_cells: int) -> tuple[list[str], sparse.csr_matrix]:
    """Lines of a count table, in sparse form.

    Parameters
    ----------
    text
        Whole lines: a name, then ``n_cells`` whole numbers, separated by tabs.
    n_cells
        Numbers in a line.

    Returns
    -------
    Names of the lines, and ``(n_lines, n_cells)`` CSR, float32.

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
                f"gene {label!r} has {n_found} values, the header names {n_cells} cells"
            )
        names.append(label)
        numbers.append(rest)
    if not names:
        return [], sparse.csr_matrix((0, n_cells), dtype=np.float32)

    # All numbers in one array of bytes; every number ends at one separator.
    raw = np.frombuffer(b"\t".join(numbers) + b"\t", dtype=np.uint8)
    ends = np.flatnonzero(raw == _TAB)
    lengths = np.diff(ends, prepend=-1) - 1
    digits = (raw >= _ZERO) & (raw <= _NINE)
    if len(raw) - np.count_nonzero(digits) != len(ends) or lengths.min() < 1 or lengths.max() > 9:
        _refuse(names, numbers)
    # Most are the single digit 0. Build the others digit by digit.
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
    """Name the first value that is no count."""
    for name, line in zip(names, numbers, strict=True):
        for value in line.split(b"\t"):
            if not value.isdigit() or len(value) > 9:
                raise DamagedFileError(
                    f"gene {name!r} has value {value.decode(errors='replace')!r}, which is no raw "
                    "count: a whole number of at most nine digits"
                )


def read_annotation(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Annotation of the cells.

    Parameters
    ----------
    path
        Tab-separated text, gzipped or not, with the cells' names in column ``Index``.
    columns
        From columns of the table to those that come back.

    Returns
    -------
    One row a cell, indexed by its name; strings, missing where the table has nothing.

    Raises
    ------
    DamagedFileError
        A column is not there.
    """
    with open_text(path) as stream:
        try:
            table = pd.read_csv(stream, sep="\t", dtype=str)
        except (EOFError, gzip.BadGzipFile, zlib.error, pd.errors.ParserError) as error:
            raise DamagedFileError(f"{path.name} cannot be read: {error}") from error
    missing = [column for column in ("Index", *columns) if column not in table.columns]
    if missing:
        raise DamagedFileError(
            f"{path.name} lacks column {missing[0]!r}; it has {', '.join(map(repr, table.columns))}"
        )
    return table.set_index("Index")[list(columns)].rename(columns=columns)
