"""Reader of the IDX format of MNIST: a magic number, sizes, and data."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from ._errors import DamagedFileError
from ._geo import open_text

# Dtype by the third byte of the magic number. Numbers are big-endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> tuple[np.ndarray, str]:
    """Read the array in an IDX file.

    Parameters
    ----------
    path
        The file, gzipped or not.

    Returns
    -------
    array
        Array with the shape given in the header, in native byte order (without a copy if possible).
    checksum
        ``"md5:hex"`` of the unpacked file.

    Raises
    ------
    DamagedFileError
        If the file is not IDX, or its length does not match the header.

    Notes
    -----
    Format: `<https://yann.lecun.com/exdb/mnist>`_, "the IDX file format".
    """
    try:
        with open_text(path) as stream:
            header = stream.read(4)
            if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in _TYPES:
                raise DamagedFileError(
                    f"{path} must be an IDX file, got a file that starts with {header!r}"
                )
            dtype, n_dims = np.dtype(_TYPES[header[2]]), header[3]
            sizes = stream.read(4 * n_dims)
            if n_dims == 0 or len(sizes) < 4 * n_dims:
                raise DamagedFileError(
                    f"{path} must be a complete IDX file, got a truncated header"
                )
            shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
            n_bytes = math.prod(shape) * dtype.itemsize
            # Read one byte more than declared, to detect files that are too long.
            body = stream.read(n_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(f"{path} is not a complete gzip file: {error}") from error
    except (MemoryError, OverflowError) as error:
        raise DamagedFileError(
            f"the header of {path} must declare a size that fits in memory, got {n_bytes} bytes"
        ) from error
    if len(body) != n_bytes:
        more = "more" if len(body) > n_bytes else str(len(body))
        raise DamagedFileError(
            f"{path} must have {n_bytes} bytes of data for its header {shape}, got {more}"
        )
    array = np.frombuffer(body, dtype=dtype).reshape(shape)
    digest = hashlib.md5(header + sizes, usedforsecurity=False)
    digest.update(body)
    return array.astype(dtype.newbyteorder("="), copy=False), f"md5:{digest.hexdigest()}"
