"""Columns of ``obs`` of generated cells, of the type that those of the real cells have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def column_like(values: pd.Categorical, column: pd.Series | None) -> Any:
    """Names as a column of the type that the column of the real cells has.

    So both can be joined without a change of type: with the same categories in the same order,
    ordered or not, or as integers, floats or booleans. Text stays categorical.

    Parameters
    ----------
    values
        Names, without missing values.
    column
        Of the real cells; ``None`` where they have none.
    """
    if column is None:
        return values
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        known = pd.Index(values.categories[np.unique(values.codes)]).isin(kind.categories).all()
        return pd.Categorical(values, dtype=kind) if known else values
    numpy = getattr(kind, "numpy_dtype", kind)  # of nullable columns
    names = values.categories.to_numpy()
    if not isinstance(numpy, np.dtype) or numpy.kind not in "biuf" or not len(names):
        return values
    try:
        numbers = names.astype(numpy)
    except (ValueError, TypeError, OverflowError):  # text, for one
        return values
    if not (numbers == names).all():
        return values
    # Nullable integers and booleans have a form on the disk; other extension types may not.
    nullable = isinstance(kind, pd.BooleanDtype) or (
        pd.api.types.is_extension_array_dtype(kind) and str(kind)[:1] in "IU"
    )
    return pd.array(numbers[values.codes], dtype=kind) if nullable else numbers[values.codes]


def numbers_like(values: np.ndarray, column: pd.Series | None) -> np.ndarray:
    """Numbers in the type of a column of the real cells where it can hold them, else float64."""
    kind = getattr(getattr(column, "dtype", None), "numpy_dtype", getattr(column, "dtype", None))
    if isinstance(kind, np.dtype) and kind.kind in "iuf":
        with np.errstate(all="ignore"):
            converted = values.astype(kind)
        if kind.kind == "f" or (converted == values).all():
            return converted
    return values.astype(np.float64)
