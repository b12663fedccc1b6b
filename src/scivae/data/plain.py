"""Arrays and tables as numbers, text, lists and dicts, so that files contain no code.

A pickled array or table refers to functions that must be called to read it. A file of plain values can be
read by torch with nothing but tensors allowed, and with any version of numpy and pandas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

# Key of a dict that represents an array, a table or another object.
_KIND = "__scivae__"

# Name of the dtype of text in files. When read, it becomes "object" in pandas 2 and "str" in pandas 3.
_TEXT = "str"


def to_plain(value: Any) -> Any:
    """Convert a value, with all arrays and tables in it, to plain values.

    Objects that have no plain form are left unchanged.
    """
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)  # also members of an enumeration
    if isinstance(value, np.ndarray):
        objects = value.dtype.hasobject
        return {
            _KIND: "array",
            "dtype": value.dtype.str,
            "shape": value.shape,
            # Bytes as text, because pickled bytes refer to a function.
            "values": to_plain(value.ravel().tolist())
            if objects
            else value.tobytes().decode("latin-1"),
        }
    if isinstance(value, pd.DataFrame):
        return {
            _KIND: "table",
            "dtypes": [_TEXT if isinstance(d, pd.StringDtype) else str(d) for d in value.dtypes],
            **to_plain(value.to_dict(orient="tight")),
        }
    return value


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`."""
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {key: from_plain(item) for key, item in value.items()}
    kind = fields.pop(_KIND, None)
    if kind == "array":
        values, dtype = fields["values"], np.dtype(fields["dtype"])
        if isinstance(values, str):
            array = np.frombuffer(values.encode("latin-1"), dtype)
            return array.reshape(fields["shape"]).copy()
        array = np.empty(len(values), dtype)
        array[:] = values
        return array.reshape(fields["shape"])
    if kind == "table":
        dtypes = fields.pop("dtypes")
        table = pd.DataFrame.from_dict(fields, orient="tight")
        named = zip(table.columns, dtypes, strict=True)
        return table.astype({name: dtype for name, dtype in named if dtype != _TEXT})
    return fields


def foreign(value: Any) -> set[str]:
    """Names of the types in a value that have no plain form."""
    if isinstance(value, dict):
        return foreign(list(value)) | foreign(list(value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*map(foreign, value))
    if value is None or type(value) in (bool, int, float, str, torch.Tensor):
        return set()
    return {f"{type(value).__module__}.{type(value).__qualname__}"}
