import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from scivae.data.plain import foreign, from_plain, to_plain

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
DTYPES = (
    st_numpy.integer_dtypes(endianness="=")
    | st_numpy.floating_dtypes(endianness="=")
    | st_numpy.boolean_dtypes()
    | st_numpy.unicode_string_dtypes(endianness="=", min_len=1)
    | st.just(np.dtype("datetime64[ns]"))
)
ARRAYS = st_numpy.arrays(DTYPES, st_numpy.array_shapes(min_dims=0, min_side=0)) | st.lists(
    SCALARS
).map(lambda values: np.array([*values, None], dtype=object)[:-1])
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=8,
)


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.dtype.hasobject:  # numpy finds no NaN among objects
            same(a.tolist(), b.tolist())
        else:
            np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (a != a and b != b)


@given(VALUES)
@settings(deadline=None)
def test_there_and_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("plain") / "value.pt"
    plain = to_plain(value)
    assert foreign(plain) == set()
    torch.save(plain, path)
    same(from_plain(torch.load(path, weights_only=True)), value)


def test_tables():
    table = pd.DataFrame(
        {"loss": np.array([1.5, np.nan], dtype=object), "n": [1, 2]},
        index=pd.Index([3, 4], name="epoch"),
    )
    pd.testing.assert_frame_equal(from_plain(to_plain(table)), table)
    empty = pd.DataFrame(columns=["loss"])
    pd.testing.assert_frame_equal(from_plain(to_plain(empty)), empty, check_index_type=False)


def test_scalars_of_numpy_are_those_of_python():
    plain = to_plain({np.str_("a"): np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)})
    assert plain == {"a": 0.5, "b": 3, "c": True}
    assert [type(v) for v in plain.values()] == [float, int, bool]


def test_what_has_no_plain_form_is_named():
    value = {"a": [pd.Interval(0, 1), {2}], "b": {"c": np.array([pd.Timestamp(0)], dtype=object)}}
    names = foreign(to_plain(value))
    assert {name.split(".")[-1] for name in names} == {"Interval", "set", "Timestamp"}


def test_an_array_of_objects_cannot_be_made_of_bytes():
    with pytest.raises(ValueError, match="OBJECT"):
        from_plain({"__scivae__": "array", "dtype": "|O", "shape": (1,), "values": "\x00" * 8})
