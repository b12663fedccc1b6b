"""What every metric asks of its arrays, in one place, so that all of them refuse alike."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Points: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[Any]


class SparseLike(Protocol):
    """Any sparse matrix that can become compressed sparse rows (scipy's, or a view of AnnData's)."""

    def tocsr(self) -> Any:
        """Compressed sparse rows."""


MatrixLike: TypeAlias = npt.ArrayLike | SparseLike


def as_matrix(x: MatrixLike, name: str, *, min_rows: int = 1) -> Any:
    """Finite floating-point matrix (n, p): CSR where sparse was given, dense otherwise."""
    if hasattr(x, "tocsr"):
        matrix = x.tocsr()
        if not np.issubdtype(matrix.dtype, np.floating):
            matrix = matrix.astype(np.float64)
        values = matrix.data
    else:
        matrix = values = _as_float(x, name)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(
            f"{name} must be two-dimensional (rows, columns) with at least one column, "
            f"got shape {matrix.shape}; turn one column of values into values[:, None]."
        )
    if matrix.shape[0] < min_rows:
        raise ValueError(
            f"{name} needs at least {min_rows} rows, got {matrix.shape[0]}; pass more of them."
        )
    check_finite(values, name)
    return matrix


def as_points(x: MatrixLike, name: str, *, min_rows: int = 1) -> Points:
    """Finite dense double-precision matrix (n, p): a point cloud to take distances in."""
    matrix = as_matrix(x, name, min_rows=min_rows)
    dense = matrix.toarray() if hasattr(matrix, "toarray") else matrix
    return np.asarray(dense, dtype=np.float64)


def as_vector(x: npt.ArrayLike, name: str, *, min_size: int = 1) -> Points:
    """Finite dense double-precision vector (n,)."""
    vector = np.asarray(_as_float(x, name), dtype=np.float64)
    if vector.ndim != 1 or vector.size < min_size:
        raise ValueError(
            f"{name} must be one-dimensional with at least {min_size} values, "
            f"got shape {vector.shape}; flatten it, or pass more values."
        )
    check_finite(vector, name)
    return vector


def as_paths(x: npt.ArrayLike, name: str, *, min_steps: int = 3) -> Points:
    """Finite paths (n_paths, n_steps, p) of at least ``min_steps``; one path gains a first axis."""
    paths = np.asarray(_as_float(x, name), dtype=np.float64)
    if paths.ndim == 2:
        paths = paths[None]
    if paths.ndim != 3 or paths.shape[1] < min_steps or 0 in paths.shape:
        raise ValueError(
            f"{name} must be (n_steps, p) or (n_paths, n_steps, p) with at least {min_steps} "
            f"steps, got shape {np.shape(x)}; decode more steps."
        )
    check_finite(paths, name)
    return paths


def as_labels(y: npt.ArrayLike, name: str) -> Labels:
    """One-dimensional labels (n,) of one type (text, integers or booleans), none missing."""
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(
            f"{name} must be one-dimensional with at least one label, got shape {labels.shape}; "
            "pass one label a cell."
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


def check_finite(values: npt.NDArray[Any], name: str) -> None:
    """Refuse NaN and infinity."""
    finite = np.isfinite(values)
    if not finite.all():
        n_bad = int(finite.size - finite.sum())
        raise ValueError(
            f"{name} must be finite, got {n_bad} NaN or infinite of {finite.size} stored values; "
            "remove those rows or columns first."
        )


def check_rows(labels: Labels, labels_name: str, matrix: Any, matrix_name: str) -> None:
    """Refuse labels that are not one a row."""
    if labels.shape[0] != matrix.shape[0]:
        raise ValueError(
            f"{labels_name} must have one label for each row of {matrix_name}, got "
            f"{labels.shape[0]} labels for {matrix.shape[0]} rows; select the same cells in both."
        )


def check_columns(a: Any, a_name: str, b: Any, b_name: str) -> None:
    """Refuse two matrices that do not live in the same space."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{a_name} and {b_name} must have the same columns, got {a.shape[1]} and "
            f"{b.shape[1]}; select the same genes (or latent dimensions), in the same order."
        )


def check_same_shape(a: Any, a_name: str, b: Any, b_name: str) -> None:
    """Refuse two arrays that are compared entry by entry and have other shapes."""
    if a.shape != b.shape:
        raise ValueError(
            f"{a_name} and {b_name} are compared entry by entry and must have the same shape, "
            f"got {a.shape} and {b.shape}; select the same rows and columns in both."
        )


def check_two_classes(labels: Labels, name: str) -> None:
    """Refuse labels that hold one class only."""
    classes = np.unique(labels)
    if classes.size < 2:
        raise ValueError(
            f"{name} must hold at least two classes, got only {classes[0]!s}; "
            "a classifier needs something to tell apart."
        )


def check_known(labels: Labels, name: str, known: Labels, known_name: str) -> None:
    """Refuse labels outside a known set."""
    unknown = sorted(set(labels.tolist()) - set(known.tolist()), key=str)
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(
            f"every label of {name} must be among {known_name}, got {len(unknown)} that "
            f"{'is' if len(unknown) == 1 else 'are'} not ({shown}); "
            "drop those cells, or add the class where the labels are learnt."
        )


def check_integer(value: int, name: str, *, minimum: int, maximum: int | None = None) -> int:
    """Refuse what is not an integer in [minimum, maximum]."""
    integral = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integral or value < minimum or (maximum is not None and value > maximum):
        bound = f"of at least {minimum}" + ("" if maximum is None else f" and at most {maximum}")
        raise ValueError(f"{name} must be an integer {bound}, got {value!r}; choose one in range.")
    return int(value)


def check_positive(value: float, name: str) -> float:
    """Refuse what is not a finite number above zero."""
    if not np.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}; choose one.")
    return float(value)


def check_option(value: str, name: str, options: tuple[str, ...]) -> None:
    """Refuse what is not one of the named options."""
    if value not in options:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}; choose one."
        )


def subsample(x: Points, max_points: int | None, rng: np.random.Generator) -> Points:
    """At most ``max_points`` rows, drawn without replacement; all of them where there are fewer."""
    if max_points is None or x.shape[0] <= max_points:
        return x
    return x[rng.choice(x.shape[0], size=max_points, replace=False)]


def _as_float(x: Any, name: str) -> npt.NDArray[Any]:
    array = np.asarray(x)
    if array.dtype.kind == "f":
        return array
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be numbers, got {array.dtype} values that are not; pass a numeric array."
        ) from error


def _is_missing(label: object) -> bool:
    # pandas' NA refuses to be compared; it is known by its type, so that pandas is not imported
    if label is None or type(label).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(label, float | np.floating) and bool(np.isnan(label))
