"""Checks of arrays: matrices, vectors, paths, labels, positions, designs."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .._errors import got

Points: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[Any]


class SparseLike(Protocol):
    """Any sparse matrix with a ``tocsr`` method, such as those of scipy and anndata."""

    def tocsr(self) -> Any:
        """Convert to compressed sparse rows."""


MatrixLike: TypeAlias = npt.ArrayLike | SparseLike


def as_matrix(name: str, x: MatrixLike, *, min_rows: int = 1) -> Any:
    """Return a finite floating-point matrix (n, p): CSR if the input is sparse, dense otherwise."""
    if hasattr(x, "tocsr"):
        matrix = x.tocsr()
        if not np.issubdtype(matrix.dtype, np.floating):
            matrix = matrix.astype(np.float64)
        values = matrix.data
    else:
        matrix = values = _as_float(name, x)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(
            f"{name} must be two-dimensional (rows, columns) with at least one column, "
            f"got shape {matrix.shape}; for a single column, pass values[:, None]."
        )
    if matrix.shape[0] < min_rows:
        raise ValueError(
            f"{name} must have at least {min_rows} rows, got {matrix.shape[0]}; pass more rows."
        )
    check_finite(name, values)
    return matrix


def as_points(name: str, x: MatrixLike, *, min_rows: int = 1) -> Points:
    """Return a finite dense float64 matrix (n, p), for calculating distances."""
    matrix = as_matrix(name, x, min_rows=min_rows)
    dense = matrix.toarray() if hasattr(matrix, "toarray") else matrix
    return np.asarray(dense, dtype=np.float64)


def as_vector(name: str, x: npt.ArrayLike, n: int | None = None, *, min_size: int = 1) -> Points:
    """Return a finite dense float64 vector (n,); its length must be ``n`` if that is passed."""
    vector = np.asarray(_as_float(name, x), dtype=np.float64)
    if vector.ndim != 1 or vector.size < min_size:
        raise ValueError(
            f"{name} must be one-dimensional with at least {min_size} values, "
            f"got shape {vector.shape}; flatten it, or pass more values."
        )
    if n is not None and vector.size != n:
        raise ValueError(
            f"{name} must have {n} values, one for each cell, got {vector.size}; select the same "
            "cells in both."
        )
    check_finite(name, vector)
    return vector


def as_paths(name: str, x: npt.ArrayLike, *, min_steps: int = 3) -> Points:
    """Return finite paths (n_paths, n_steps, p); one path of shape (n_steps, p) becomes a batch."""
    paths = np.asarray(_as_float(name, x), dtype=np.float64)
    if paths.ndim == 2:
        paths = paths[None]
    if paths.ndim != 3 or paths.shape[1] < min_steps or 0 in paths.shape:
        raise ValueError(
            f"{name} must be (n_steps, p) or (n_paths, n_steps, p) with at least {min_steps} "
            f"steps, got shape {np.shape(x)}; decode more steps."
        )
    check_finite(name, paths)
    return paths


def as_labels(name: str, y: npt.ArrayLike) -> Labels:
    """Return labels (n,) of one type (strings, integers or booleans) without missing values."""
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(
            f"{name} must be one-dimensional with at least one label, got shape {labels.shape}; "
            "pass one label per cell."
        )
    if labels.dtype == object:
        missing = [_is_missing(label) for label in labels]
    elif labels.dtype.kind == "f":
        missing = list(np.isnan(labels))
    else:
        missing = []
    if any(missing):
        raise ValueError(
            f"{name} must not have missing labels, got {sum(missing)} of {labels.size}, "
            f"the first at position {missing.index(True)}; drop those cells or label them."
        )
    if labels.dtype == object:
        kinds = sorted({type(label).__name__ for label in labels})
        if len(kinds) > 1:
            raise TypeError(
                f"{name} must be labels of one type, got {', '.join(kinds)}; "
                f"convert them, for example with {name}.astype(str)."
            )
        labels = np.array(labels.tolist())
    return labels


def check_finite(name: str, values: npt.NDArray[Any]) -> None:
    """Raise a ValueError if there is NaN or infinity."""
    finite = np.isfinite(values)
    if not finite.all():
        n_bad = int(finite.size - finite.sum())
        first = ", ".join(str(i) for i in np.argwhere(~finite)[0]) if finite.ndim else "0"
        raise ValueError(
            f"{name} must be finite, got {n_bad} NaN or infinite values of {finite.size} stored "
            f"values, the first at position {first}; remove those rows or columns first."
        )


def check_rows(labels_name: str, labels: Labels, matrix_name: str, matrix: Any) -> None:
    """Raise a ValueError unless there is one label per row."""
    if labels.shape[0] != matrix.shape[0]:
        raise ValueError(
            f"{labels_name} must have one label for each row of {matrix_name}, got "
            f"{labels.shape[0]} labels for {matrix.shape[0]} rows; select the same cells in both."
        )


def check_columns(a_name: str, a: Any, b_name: str, b: Any) -> None:
    """Raise a ValueError if two matrices have different numbers of columns."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{a_name} and {b_name} must have the same columns, got {a.shape[1]} and "
            f"{b.shape[1]}; select the same genes (or latent dimensions), in the same order."
        )


def check_same_shape(a_name: str, a: Any, b_name: str, b: Any) -> None:
    """Raise a ValueError if two arrays that are compared element by element differ in shape."""
    if a.shape != b.shape:
        raise ValueError(
            f"{a_name} and {b_name} must have the same shape, because they are compared element "
            f"by element, got {a.shape} and {b.shape}; select the same rows and columns in both."
        )


def check_two_classes(name: str, labels: Labels) -> None:
    """Raise a ValueError if all labels are of one class."""
    classes = np.unique(labels)
    if classes.size < 2:
        raise ValueError(
            f"{name} must hold at least two classes, got only {classes[0]!s}; "
            "pass labels of at least two classes."
        )


def check_known(name: str, labels: Labels, known_name: str, known: Labels) -> None:
    """Raise a ValueError if a label is not in a known set."""
    unknown = sorted(set(labels.tolist()) - set(known.tolist()), key=str)
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(
            f"every label of {name} must be among {known_name}, got {len(unknown)} unknown "
            f"{'label' if len(unknown) == 1 else 'labels'} ({shown}); drop those cells, or fit "
            "with those classes included."
        )


def subsample(x: Points, max_points: int | None, rng: np.random.Generator) -> Points:
    """Draw ``max_points`` rows without replacement; return all rows if there are fewer."""
    if max_points is None or x.shape[0] <= max_points:
        return x
    return x[rng.choice(x.shape[0], size=max_points, replace=False)]


def _as_float(name: str, x: Any) -> npt.NDArray[Any]:
    array = np.asarray(x)
    if array.dtype.kind == "f":
        return array
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must hold numbers, got dtype {array.dtype}; pass a numeric array."
        ) from error


def _is_missing(label: object) -> bool:
    # pandas.NA cannot be compared. It is recognized by type name, to avoid importing pandas.
    if label is None or type(label).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(label, float | np.floating) and bool(np.isnan(label))


def as_numbers(name: str, value: Any) -> np.ndarray:
    """Return the value as a float64 array; raise a TypeError unless all entries are numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different length
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must hold numbers in rows of equal length, got {got(value)}; pass a numeric "
            "array."
        )
    return array.astype(np.float64)


def check_positions(name: str, t: np.ndarray) -> None:
    """Raise a ValueError unless the step positions of trends increase within [0, 1]."""
    wrong = ~((t >= 0) & (t <= 1))
    wrong[1:] |= ~(np.diff(t) > 0)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{name} must increase within [0, 1], got {t[first]:g} at step {first}; pass trends as "
            "scivae.tl.gene_trends returns them."
        )


def as_positions(name: str, value: Any) -> Points:
    """Return positions in [0, 1], shape ``(n,)``; a ValueError names the first one outside."""
    array = as_vector(name, value)
    check_unit_interval(name, array, "rescale or clip the positions")
    return array


def check_unit_interval(name: str, array: npt.NDArray[Any], cure: str) -> None:
    """Raise a ValueError that names the first value of a vector outside of [0, 1]."""
    outside = (array < 0) | (array > 1)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"{name} must lie in [0, 1], got {array[first]} at position {first}; {cure}."
        )


def as_design(value: Any, n: int) -> Points:
    """Return a finite dense design matrix, shape ``(n, n_columns)``."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != n or array.shape[1] == 0:
        raise ValueError(
            f"design must have the shape ({n}, n_columns), with one row for each cell, got "
            f"{array.shape}; pass the design of the same cells."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"design must be finite, got {int((~np.isfinite(array)).sum())} NaN or infinite "
            "values; drop those cells or replace the values."
        )
    return array
