"""The IDX format of MNIST: a magic number, sizes and bytes."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from ._errors import DamagedFileError
from ._geo import open_text

# Third byte of the magic number. Numbers are stored with the high byte first.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> tuple[np.ndarray, str]:
    """Array in an IDX file.

    Parameters
    ----------
    path
        The file, gzipped or not.

    Returns
    -------
    array
        As many dimensions as the header says, native byte order; a view where that is possible.
    checksum
        ``"md5:hex"`` of the unpacked file.

    Raises
    ------
    DamagedFileError
        Not IDX, or another length than the header says.

    Notes
    -----
    Format: `<https://yann.lecun.com/exdb/mnist>`_, "the IDX file format".
    """
    try:
        with open_text(path) as stream:
            header = stream.read(4)
            if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in _TYPES:
                raise DamagedFileError(f"{path} is no IDX file: it starts with {header!r}")
            dtype, n_dims = np.dtype(_TYPES[header[2]]), header[3]
            sizes = stream.read(4 * n_dims)
            if n_dims == 0 or len(sizes) < 4 * n_dims:
                raise DamagedFileError(f"{path} is no whole IDX file: its header is cut short")
            shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
            n_bytes = math.prod(shape) * dtype.itemsize
            # One byte more than promised: enough to see that there is more, however much.
            body = stream.read(n_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(f"{path} is not a whole gzip file: {error}") from error
    except (MemoryError, OverflowError) as error:
        raise DamagedFileError(f"{path} promises {n_bytes} bytes, more than fit") from error
    if len(body) != n_bytes:
        more = "more" if len(body) > n_bytes else str(len(body))
        raise DamagedFileError(
            f"{path} has {more} of the {n_bytes} bytes that its header {shape} asks for"
        )
    array = np.frombuffer(body, dtype=dtype).reshape(shape)
    digest = hashlib.md5(header + sizes, usedforsecurity=False)
    digest.update(body)
    return array.astype(dtype.newbyteorder("="), copy=False), f"md5:{digest.hexdigest()}"
