from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from scivae.datasets import DamagedFileError
from scivae.datasets._idx import read_idx


@settings(max_examples=40, deadline=None)
@given(
    code=st.sampled_from([(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4")]),
    data=st.data(),
    packed=st.booleans(),
)
def test_round_trip(tmp_path_factory, code, data, packed):
    number, dtype = code
    array = data.draw(arrays(dtype, array_shapes(max_dims=4, max_side=5)))
    head = struct.pack(f">HBB{array.ndim}I", 0, number, array.ndim, *array.shape)
    content = head + array.tobytes()
    path = tmp_path_factory.mktemp("idx") / "x"
    path.write_bytes(gzip.compress(content) if packed else content)
    found, checksum = read_idx(path)
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative
    assert checksum == f"md5:{hashlib.md5(content).hexdigest()}"


GOOD = struct.pack(">HBB2I", 0, 8, 2, 2, 3) + bytes(6)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "must be an IDX file"),
        (b"\x89PNG1234", "must be an IDX file, got a file that starts with"),
        (b"\0\0\x07\x01", "must be an IDX file"),
        (b"\0\0\x08\x00", "got a truncated header"),
        (GOOD[:9], "got a truncated header"),
        (GOOD[:-1], "must have 6 bytes of data for its header .*, got 5"),
        (GOOD + b"\0", "must have 6 bytes .*, got more"),
        (
            struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
            "declare a size that fits|bytes of data .*, got 0",
        ),
        (gzip.compress(GOOD)[:-5], "not a complete gzip file"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 8, "not a complete gzip file"),
    ],
    ids=range(10),
)
def test_broken_file_is_refused(tmp_path, content, told):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=told):
        read_idx(path)


def test_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(GOOD + bytes(50_000_000)))
    with pytest.raises(DamagedFileError, match="must have 6 bytes .*, got more"):
        read_idx(path)
