"""Arrays and tables as numbers, text, lists and dicts: what a file can hold without holding code.

A pickled array or table names functions that reading it has to call. A file of plain values names
none, so it is read with nothing allowed but tensors, and by any version of numpy and pandas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

# Key of a dict that stands for something else.
_KIND = "__scivae__"

# How the type of text is written. It is read as pandas takes it: "object" in pandas 2, "str" in 3.
_TEXT = "str"


def to_plain(value: Any) -> Any:
    """A value, with the arrays and tables in it written out as plain values.

    What has no plain form is left as it is.
    """
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)  # members of an enumeration too
    if isinstance(value, np.ndarray):
        objects = value.dtype.hasobject
        return {
            _KIND: "array",
            "dtype": value.dtype.str,
            "shape": value.shape,
            # Bytes as text: pickled bytes name a function.
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
