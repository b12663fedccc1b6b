"""Detect whether the values of a matrix have changed since it was last checked.

There are two fingerprints. The fast one sums the memory of the arrays (half a percent of the time to encode
the cells); it also differs if the same values are stored in another format. If it differs, a slower
fingerprint of each row decides, which depends only on the values.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

# Number of rows per block or, if a matrix is not stored by rows, number of values per block.
ROWS, VALUES = 32, 2**14
# Number of blocks that are checked if no rows are given.
SAMPLED = 8


class _Part(NamedTuple):
    """An array of a matrix as unsigned integers (words), and the starts of its blocks."""

    words: np.ndarray
    starts: np.ndarray

    @property
    def _ends(self) -> np.ndarray:
        return np.append(self.starts[1:], len(self.words))

    @property
    def _kind(self) -> type[np.unsignedinteger]:
        return np.uint64 if self.words.itemsize == 8 else np.uint32

    def sums(self) -> np.ndarray:
        """Sum of the words of each block, modulo the word size, shape ``(n_blocks,)``."""
        sums = np.zeros(len(self.starts), dtype=np.uint64)
        filled = np.flatnonzero(self._ends > self.starts)
        sums[filled] = np.add.reduceat(self.words, self.starts[filled], dtype=self._kind)
        return sums

    def sums_of(self, blocks: np.ndarray) -> np.ndarray:
        """Sums of some blocks; if these are many, all sums are computed in one call."""
        if len(blocks) * 4 > len(self.starts):
            return self.sums()[blocks]
        bounds = zip(self.starts[blocks], self._ends[blocks], strict=True)
        sums = [self.words[start:end].sum(dtype=self._kind) for start, end in bounds]
        return np.array(sums, dtype=np.uint64)


class Fingerprint:
    """Fingerprint of the memory of a matrix.

    Parameters
    ----------
    x
        The matrix, shape ``(n_obs, n_vars)``, dense or sparse, in memory.
    """

    def __init__(self, x: Any):
        stored = _stored(x)
        self._layout = stored.layout
        self._sums = [part.sums() for part in stored.parts]
        self._order = _order(x)

    @staticmethod
    def can_read(x: Any) -> bool:
        """Whether the matrix is in memory."""
        return sparse.issparse(x) or type(x) is np.ndarray

    def holds(self, x: Any, rows: np.ndarray | None = None, *, every_row: bool = False) -> bool:
        """Whether the memory is unchanged.

        Parameters
        ----------
        x
            The matrix now.
        rows
            Rows to compare, shape ``(n,)``; ``None`` for a sample of blocks.
        every_row
            Compare all rows.
        """
        if not self.can_read(x):
            return False
        now = _stored(x)
        if now.layout != self._layout:
            return False
        every_row = every_row or (rows is not None and not now.by_rows)
        for part, sums in zip(now.parts, self._sums, strict=True):
            blocks = _looked_at(len(sums), rows, every_row)
            if not np.array_equal(part.sums_of(blocks), sums[blocks]):
                return False
        return (rows is not None and not every_row) or np.array_equal(_order(x), self._order)


def _looked_at(n: int, rows: np.ndarray | None, every_row: bool) -> np.ndarray:
    """Which of n blocks to compare: all, those of the given rows, or :data:`SAMPLED` of them."""
    if every_row or not n:
        return np.arange(n)
    if rows is None:
        return np.unique(np.linspace(0, n - 1, SAMPLED).astype(int))
    asked = np.zeros(n, dtype=bool)
    asked[rows // ROWS] = True
    return np.flatnonzero(asked)


def _words(array: np.ndarray) -> np.ndarray:
    """The memory of an array as unsigned integers, shape ``(size,)``."""
    flat = array.ravel(order="K")
    width = flat.dtype.itemsize
    return flat.view(f"u{width}") if width in (1, 2, 4, 8) else flat.view("u1")


class _Stored(NamedTuple):
    """How a matrix is stored: its layout, whether by rows, and its arrays, divided into blocks."""

    layout: tuple
    by_rows: bool
    parts: list[_Part]


def _stored(x: Any) -> _Stored:
    """The arrays of a matrix, divided into blocks of rows if it is stored by rows, else of values."""
    if not sparse.issparse(x):
        words = _words(x)
        per_row = len(words) // max(1, x.shape[0])
        by_rows = x.flags.c_contiguous
        step = max(ROWS * per_row if by_rows else VALUES, 1)
        part = _Part(words, np.arange(0, len(words), step))
        return _Stored((x.flags.f_contiguous, by_rows, x.shape, x.dtype.str), by_rows, [part])
    layout: tuple = (x.format, x.shape, x.dtype.str, x.nnz)
    if x.format == "csr":
        starts = np.asarray(x.indptr[:-1:ROWS], dtype=np.intp)
        pointers = _Part(_words(x.indptr[1:]), np.arange(0, x.shape[0], ROWS))
        parts = [_Part(_words(x.data), starts), _Part(_words(x.indices), starts), pointers]
        return _Stored(layout, True, parts)
    if x.format not in ("csc", "bsr"):
        x = x.tocoo()
    names = ("row", "col") if x.format == "coo" else ("indices", "indptr")
    arrays = [_words(np.asarray(a)) for a in (x.data, *(getattr(x, name) for name in names))]
    return _Stored(layout, False, [_Part(a, np.arange(0, len(a), VALUES)) for a in arrays])


def _order(x: Any) -> np.ndarray:
    """Hashes of some rows of a dense matrix, because its block sums do not change if columns are swapped."""
    if sparse.issparse(x) or not x.shape[0]:
        return np.zeros(0, dtype=np.uint32)
    rows = np.unique(np.linspace(0, x.shape[0] - 1, SAMPLED).astype(int))
    return row_numbers(x[rows])


def row_numbers(block: Any) -> np.ndarray:
    """A hash of each row that depends only on its values, in single precision, and their columns.

    Parameters
    ----------
    block
        Rows, dense or sparse, shape ``(n, n_vars)``.

    Returns
    -------
    Shape ``(n,)``; the same for any way to store the rows.
    """
    weights = _weights(block.shape[1])
    if sparse.issparse(block):
        rows = sparse.csr_matrix(block)
        products = _bits(rows.data) * weights[rows.indices]
        return _sums_of_rows(products, rows.indptr)
    return _bits(np.asarray(block)) @ weights


@cache
def _weights(n_vars: int) -> np.ndarray:
    """An odd number for each column; multiplication by an odd number loses no bits."""
    drawn = np.random.default_rng(0).integers(2**32, size=n_vars, dtype=np.uint32)
    return drawn | np.uint32(1)


def _bits(values: np.ndarray) -> np.ndarray:
    """The bits of values in single precision, mixed; those of zero are zero.

    Without mixing, small whole numbers would differ only in their upper bits, which products lose to overflow.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    bits = np.where(bits == np.uint32(2**31), np.uint32(0), bits)  # -0 is 0
    bits ^= bits >> np.uint32(16)
    bits ^= bits >> np.uint32(7)
    return bits


def _sums_of_rows(products: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    out = np.zeros(len(indptr) - 1, dtype=np.uint32)
    filled = np.flatnonzero(np.diff(indptr))
    starts = np.asarray(indptr)[:-1][filled]
    out[filled] = np.add.reduceat(products, starts, dtype=np.uint32)
    return out
