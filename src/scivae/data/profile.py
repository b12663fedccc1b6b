"""A summary of the values of an AnnData, from one pass over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from .._names import layer_names
from .._storage import iter_blocks
from .checks import values_of, where

PROFILE = "found"  # entry of a datamodule's registry; see ``DataProfile``


# Approximate number of rows that are examined for signs of a normalization.
ROWS_LOOKED_AT = 256


class DataSummary(NamedTuple):
    """Summary of the values of an AnnData, from one pass over them.

    Attributes
    ----------
    minimum, maximum
        Smallest and largest value.
    integer
        Whether all are whole numbers.
    zero_rows
        Cells whose values are all zero.
    median_sum
        Median over cells of the sum of absolute values.
    first_bad
        Cell and gene of the first value that is NaN or infinite.
    near_integer
        Whether all are whole numbers apart from rounding errors, such as 2.9999998.
    transformed
        Transformation of counts that was recognized: ``"log-normalized"``, ``"normalized"``,
        ``"square-root"``, ``"proportions"`` (rows sum to one), ``"scaled"`` (columns have a standard
        deviation of one), or none.
    """

    minimum: float
    maximum: float
    integer: bool
    zero_rows: np.ndarray
    median_sum: float
    first_bad: tuple[int, int] | None
    near_integer: bool = False
    transformed: str = ""

    @property
    def kind(self) -> str:
        """``counts``, ``near counts``, ``unit``, ``signed``, ``fractions``, or :attr:`transformed`."""
        if self.minimum < 0 and not self.near_integer:
            return "signed"
        if self.maximum <= 1:
            return "unit"
        if self.integer:
            return "counts"
        return "near counts" if self.near_integer else self.transformed or "fractions"

    def to_plain(self) -> dict[str, Any]:
        """Numbers and text, for a registry or a file, without values of single cells."""
        names = ("minimum", "maximum", "integer", "near_integer", "transformed", "median_sum")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_plain(cls, found: dict[str, Any]) -> DataSummary:
        """Undo :meth:`to_plain`."""
        return cls(**found, zero_rows=np.array([], dtype=int), first_bad=None)


class DataProfile(NamedTuple):
    """Properties of the cells that are needed to create a model.

    Attributes
    ----------
    summary
        Summary of the values.
    class_counts
        Labeled cells of each class, shape ``(n_classes,)``.
    library
        Median library size, or median size factor if there are size factors.
    layers
        Names of the layers.
    obs_names
        Names of the cells.
    n_obs
        Number of cells, labeled or not.
    information
        Information (nats) about a cell that principal components capture, if it was computed; see
        :func:`scivae.data.information.pca_information`.
    """

    summary: DataSummary
    class_counts: np.ndarray
    library: float
    layers: Sequence[str]
    obs_names: pd.Index
    n_obs: int
    information: np.ndarray | None = None

    @classmethod
    def in_adata(
        cls,
        adata: AnnData,
        layer: str,
        size_factor_key: str | None,
        counts: np.ndarray,
        values: Any = None,
    ) -> DataProfile:
        """The profile of an AnnData; ``values`` replaces the values of its layer."""
        summary = summarize(values_of(adata, layer) if values is None else values)
        check_finite(adata, layer, summary)
        library = summary.median_sum
        if size_factor_key is not None:
            library = float(adata.obs[size_factor_key].median())
        return cls(summary, counts, library, layer_names(adata), adata.obs_names, adata.n_obs)

    def to_plain(self) -> dict[str, Any]:
        """Numbers and text, for a registry; the list of cells without counts is left out."""
        return {
            **self.summary.to_plain(),
            "class_counts": self.class_counts.tolist(),
            "n_obs": self.n_obs,
            "library": self.library,
            "layers": layer_names(self),
            "nats": None if self.information is None else self.information.tolist(),
        }

    @classmethod
    def from_plain(cls, found: dict[str, Any]) -> DataProfile:
        """Undo :meth:`to_plain`."""
        names = ("minimum", "maximum", "integer", "near_integer", "transformed")
        numbers = {name: found[name] for name in names if name in found}  # older files lack some
        summary = DataSummary.from_plain(
            {**numbers, "median_sum": found.get("median_sum", found["library"])}
        )
        counts = np.asarray(found["class_counts"], dtype=float)
        n_obs = int(found.get("n_obs", counts.sum()))  # older files have none
        nats = found.get("nats")
        return cls(
            summary,
            counts,
            found["library"],
            found["layers"],
            pd.Index([]),
            n_obs,
            None if nats is None else np.asarray(nats),
        )


def class_counts(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Labeled cells of each class, shape ``(n_classes,)``."""
    return np.bincount(codes[codes < n_classes], minlength=n_classes).astype(float)


def summarize(x: Any) -> DataSummary:
    """Summarize a matrix, reading every value once.

    Parameters
    ----------
    x
        Matrix, shape ``(n_obs, n_vars)``: dense, sparse, backed or dask.
    """
    minimum, maximum, integer, near_integer = np.inf, -np.inf, True, True
    sums: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    columns = np.zeros((2, x.shape[1]))  # sums of values, and of their squares
    precision = 0.0
    per_block = -(-ROWS_LOOKED_AT // max(1, -(-x.shape[0] // 4096)))
    for start, block in iter_blocks(x):
        is_sparse = sparse.issparse(block)
        if isinstance(block, np.ma.MaskedArray):
            raise TypeError(
                "expression values must not be missing, got a masked array; "
                "fill it with .filled(0)."
            )
        values = np.asarray(block.data if is_sparse else block)
        if values.dtype.kind not in "fiub":
            raise TypeError(
                f"expression values must hold numbers, got dtype {values.dtype}; "
                "convert the matrix with .astype('float32')."
            )
        finite = np.isfinite(values)
        if not finite.all():
            dense = np.isfinite(np.asarray(block.todense() if is_sparse else block))
            row, column = np.argwhere(~dense)[0]
            return DataSummary(
                minimum=np.nan,
                maximum=np.nan,
                integer=False,
                zero_rows=np.array([], dtype=int),
                median_sum=np.nan,
                first_bad=(start + int(row), int(column)),
            )
        if values.size:
            minimum = min(minimum, float(values.min()))
            maximum = max(maximum, float(values.max()))
            if near_integer and values.dtype.kind == "f":
                whole = np.round(values)
                if not (values == whole).all():
                    integer = False
                    room = np.minimum(1e-6 + 1e-5 * np.abs(values), 0.05)
                    near_integer = bool((np.abs(values - whole) <= room).all())
            if not near_integer:
                rows += _some_rows(block, per_block)
                precision = max(precision, float(np.finfo(values.dtype).eps))
            if not integer:
                columns += [
                    np.asarray(b.sum(axis=0), float).ravel() for b in (block, _square(block))
                ]
        if is_sparse and values.size < block.shape[0] * block.shape[1]:
            minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
        sums.append(np.asarray(abs(block).sum(axis=1), dtype=float).ravel())
    total = np.concatenate(sums)
    near_integer = near_integer and minimum > -1e-6
    transformed = ""
    if not near_integer and minimum >= 0:
        alike = np.ptp(total) <= 1e-3 * total.max() and abs(total.max() - 1) <= 1e-3
        spread = np.sqrt(np.maximum(columns[1] / len(total) - (columns[0] / len(total)) ** 2, 0))
        spread = spread[spread > 0] * np.sqrt(len(total) / max(len(total) - 1, 1))
        if alike and x.shape[1] > 1:
            transformed = "proportions"
        elif len(spread) > 4 and (np.abs(spread - 1) < 0.05).mean() > 0.8:
            transformed = "scaled"
        else:
            transformed = trace_of_counts(rows, precision)
    return DataSummary(
        minimum=minimum,
        maximum=maximum,
        integer=integer,
        zero_rows=np.flatnonzero(total == 0),
        median_sum=float(np.median(total)),
        first_bad=None,
        near_integer=near_integer,
        transformed=transformed,
    )


def _some_rows(block: Any, n: int) -> list[np.ndarray]:
    """Nonzero values of some rows of a block, at even intervals."""
    found = []
    for i in np.unique(np.linspace(0, block.shape[0] - 1, n).astype(int)):
        row = block[[i]]
        values = row.toarray() if sparse.issparse(row) else np.asarray(row)
        found.append(values[values != 0].astype(np.float64))
    return found


def _square(block: Any) -> Any:
    """Squares of values, dense or sparse."""
    if sparse.issparse(block):
        return block.multiply(block)
    return np.square(np.asarray(block, dtype=np.float64))


def trace_of_counts(rows: Sequence[np.ndarray], precision: float = 0.0) -> str:
    """The transformation of counts, if all examined rows show signs of it.

    Most counts are one, two or three. After division by a size factor, the values of a row are multiples of
    its smallest value. After a log transformation, they are so once the logarithm is undone.

    Parameters
    ----------
    rows
        Values greater than zero, of some cells.
    precision
        Relative precision of the dtype of the values.
    """
    scales: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "normalized": lambda v: v,
        "log-normalized": np.expm1,
        "log-normalized by base 2": lambda v: np.exp2(v) - 1,
        "log-normalized by base 10": lambda v: 10.0**v - 1,
        "square-root": np.square,
    }
    rows = [row for row in rows if len(row) > 4 and len(np.unique(row)) > 1]
    # Rows of whole numbers are not informative; if many rows are whole, there was no normalization.
    telling = [row for row in rows if not np.allclose(row, np.round(row), 0, 1e-3)]
    if 2 * len(telling) < len(rows):
        return ""
    with np.errstate(over="ignore", invalid="ignore"):
        for name, undo in scales.items():
            found = [_are_multiples(undo(row), max(1e-3, 8 * precision)) for row in telling]
            if found and np.mean(found) > 0.8:
                return name.partition(" ")[0]
    return ""


def _are_multiples(values: np.ndarray, tolerance: float) -> bool:
    """Whether values close to the smallest one are multiples of it, or of its half or third."""
    ratio = values / values.min()
    ratio = ratio[ratio < 0.05 / tolerance]
    if len(ratio) < 5 or len(np.unique(np.round(ratio, 1))) < 2:
        return False
    return any(
        (np.abs(k * ratio - np.round(k * ratio)) <= tolerance * np.maximum(k * ratio, 1)).mean()
        > 0.99
        for k in (1, 2, 3)
    )


def check_finite(adata: AnnData, layer: str, summary: DataSummary | None = None) -> None:
    """Raise a ValueError that names the first value that is NaN or infinite."""
    if summary is None:
        summary = summarize(values_of(adata, layer))
    if summary.first_bad is not None:
        row, column = summary.first_bad
        raise ValueError(
            f"expression values must be finite, but {where(layer)} is NaN or infinite at cell "
            f"{str(adata.obs_names[row])!r}, gene {str(adata.var_names[column])!r}; "
            "remove such cells or genes, or replace the values."
        )
