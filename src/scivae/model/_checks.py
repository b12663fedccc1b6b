"""What an AnnData must satisfy before it reaches the network, and what it is told when it does not."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from .. import _keys
from .._errors import check_type, in_another_case, near_matches, shown, warn
from .._names import as_objects, layer_names, same_names
from .._storage import rows_of
from ..module import COUNT_LIKELIHOODS, LIKELIHOODS
from ._decoding import MAX_RATE

Method = TypeVar("Method", bound=Callable[..., Any])
LABEL_CODES = "_scvi_labels"  # where scvi-tools keeps the codes of the labels
FOUND = "found"  # entry of a datamodule's registry; see ``Found``
X_LAYER = "X"  # as ``layer=``, means adata.X even where there is a layer of counts
# Squares of greater values, summed over genes, overflow the single precision of the network.
MAX_VALUE = 1e15
# Rows in which the trace of a normalization is looked for, about.
ROWS_LOOKED_AT = 256


class DataSummary(NamedTuple):
    """What a single pass over the values of an AnnData tells.

    Attributes
    ----------
    minimum, maximum
        Of all values.
    integer
        Whether all are whole numbers.
    zero_rows
        Cells whose values are all zero.
    median_sum
        Median over cells of the sum of absolute values.
    first_bad
        Cell and gene of the first value that is NaN or infinite.
    near_integer
        Whether all are whole numbers but for rounding errors, as 2.9999998.
    transformed
        What was done to counts: ``"log-normalized"``, ``"normalized"``, ``"square-root"``,
        ``"proportions"`` (rows sum to one), ``"scaled"`` (columns have a standard deviation of one), or
        nothing that left a trace.
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
        """``counts``, ``near counts``, ``unit``, ``signed``, ``fractions`` or what :attr:`transformed` says."""
        if self.minimum < 0 and not self.near_integer:
            return "signed"
        if self.maximum <= 1:
            return "unit"
        if self.integer:
            return "counts"
        return "near counts" if self.near_integer else self.transformed or "fractions"

    def to_plain(self) -> dict[str, Any]:
        """Numbers and text, for a registry or a file; cells are not told apart there."""
        names = ("minimum", "maximum", "integer", "near_integer", "transformed", "median_sum")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_plain(cls, found: dict[str, Any]) -> DataSummary:
        """Undo :meth:`to_plain`."""
        return cls(**found, zero_rows=np.array([], dtype=int), first_bad=None)


class Found(NamedTuple):
    """What a model must know of its cells before it is made, wherever they lie.

    Attributes
    ----------
    summary
        Of the values.
    class_counts
        Labeled cells of each class, shape ``(n_classes,)``.
    library
        Median library size, or size factor where there is one.
    layers
        Names of the layers.
    obs_names
        Names of the cells.
    n_obs
        Number of cells, labeled or not.
    nats
        What a linear code tells of a cell, where that was worked out; see
        :func:`scivae.model._weights.nats_told`.
    """

    summary: DataSummary
    class_counts: np.ndarray
    library: float
    layers: Sequence[str]
    obs_names: pd.Index
    n_obs: int
    nats: np.ndarray | None = None

    @classmethod
    def in_adata(
        cls,
        adata: AnnData,
        layer: str,
        size_factor_key: str | None,
        counts: np.ndarray,
        values: Any = None,
    ) -> Found:
        """What there is in an AnnData; ``values`` in place of its own."""
        summary = summarize(values_of(adata, layer) if values is None else values)
        check_finite(adata, layer, summary)
        library = summary.median_sum
        if size_factor_key is not None:
            library = float(adata.obs[size_factor_key].median())
        return cls(summary, counts, library, layer_names(adata), adata.obs_names, adata.n_obs)

    def to_plain(self) -> dict[str, Any]:
        """Numbers and text, for a registry. Cells without counts are not told apart there."""
        return {
            **self.summary.to_plain(),
            "class_counts": self.class_counts.tolist(),
            "n_obs": self.n_obs,
            "library": self.library,
            "layers": layer_names(self),
            "nats": None if self.nats is None else self.nats.tolist(),
        }

    @classmethod
    def from_plain(cls, found: dict[str, Any]) -> Found:
        """Undo :meth:`to_plain`."""
        names = ("minimum", "maximum", "integer", "near_integer", "transformed")
        numbers = {name: found[name] for name in names if name in found}  # older files have fewer
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


def check_adata(adata: Any) -> None:
    """Raise a TypeError unless this is an AnnData; of a MuData, one modality has the counts."""
    modalities = getattr(adata, "mod", None)
    if isinstance(modalities, Mapping):
        first = next(iter(modalities), "rna")
        raise TypeError(
            f"adata must be an AnnData, got {type(adata).__name__}; pass the modality with the counts, "
            f"as in adata[{first!r}] (there are: {shown(modalities)}), with the labels in its own obs."
        )
    check_type("adata", adata, AnnData, "an AnnData")
    for slot, index in (("obs_names", adata.obs_names), ("var_names", adata.var_names)):
        if isinstance(index, pd.MultiIndex):
            raise TypeError(
                f"adata.{slot} must be one name each, but are a MultiIndex of {index.nlevels} levels; "
                f"set adata.{slot} = ['_'.join(map(str, name)) for name in adata.{slot}]."
            )
    if not isinstance(adata.obs, pd.DataFrame):
        raise TypeError(
            f"adata.obs must be in memory, but is a {type(adata.obs).__name__} that is read lazily; "
            "pass adata.to_memory(), or give the path of the file to BlockDataModule."
        )


def resolve_layer(adata: AnnData, layer: str | None) -> str:
    """Name of the layer to model: the one asked for, else ``counts`` if there is one, else X."""
    if layer is None:
        layer = _keys.COUNTS_LAYER if _keys.COUNTS_LAYER in adata.layers else X_LAYER
    check_type("layer", layer, str, "the name of a layer")
    names = layer_names(adata)
    if layer not in names and (layer != X_LAYER or adata.X is None):
        rule = "'X'" if adata.X is not None else "there must be values in adata.X"
        raise KeyError(
            f"layer must be a key of adata.layers or {rule}, got {layer!r}; the layers there are: "
            f"{shown(names) or 'none'}.{near_matches(layer, names)}"
        )
    return layer


def values_of(adata: AnnData, layer: str) -> Any:
    """Matrix of a layer that :func:`resolve_layer` named."""
    return adata.layers[layer] if layer != X_LAYER or X_LAYER in adata.layers else adata.X


def where(layer: str) -> str:
    """Where a user finds the values of a layer."""
    return "adata.X" if layer == X_LAYER else f"adata.layers[{layer!r}]"


def check_columns(adata: AnnData, keys: dict[str, str | None]) -> None:
    """Raise an error for the first argument that names no column, or several, of ``adata.obs``."""
    for argument, key in keys.items():
        if key is None:
            continue
        check_type(argument, key, str, "the name of a column of adata.obs")
        if (n := int((adata.obs.columns == key).sum())) > 1:
            raise ValueError(
                f"{argument} must name one column of adata.obs, but {n} are called {key!r}; "
                "rename or drop the others."
            )
        if n == 0:
            columns = [c for c in adata.obs.columns if not str(c).startswith("_scvi")]
            raise KeyError(
                f"{argument} must be a column of adata.obs, got {key!r}; the columns there are: "
                f"{shown(columns, 20) or 'none'}.{near_matches(key, columns)}"
            )


def check_shape(adata: AnnData) -> None:
    """Raise a ValueError for an AnnData without cells or genes, or with repeated gene names."""
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(
            f"adata must have cells and genes, got {adata.n_obs} × {adata.n_vars}; "
            "check the filter that made it."
        )
    if not adata.var_names.is_unique:
        repeated = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"adata.var_names must be unique, but {shown(repeated, 3)} appear more than once; "
            "call adata.var_names_make_unique()."
        )


def iter_blocks(x: Any, n_rows: int = 4096) -> Iterator[tuple[int, Any]]:
    """Blocks of rows of an array of any kind (dense, sparse, backed, dask), in memory."""
    for start in range(0, x.shape[0], n_rows):
        yield start, rows_of(x, slice(start, start + n_rows))


def summarize(x: Any) -> DataSummary:
    """Read every value once.

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
                "expression values must be there for every cell and gene, got a masked array; "
                "fill it with .filled(0)."
            )
        values = np.asarray(block.data if is_sparse else block)
        if values.dtype.kind not in "fiub":
            raise TypeError(
                f"expression values must be numbers, got dtype {values.dtype}; "
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
    """Values that are not zero of some rows of a block, at even intervals."""
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
    """What was done to counts, if each row shows it.

    A row of counts of which most are one, two or three, divided by a size factor, holds multiples of its
    smallest value; so does one that was then put on a log scale, once this is undone.

    Parameters
    ----------
    rows
        For some cells, values greater than zero.
    precision
        Smallest relative difference of values.
    """
    scales: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "normalized": lambda v: v,
        "log-normalized": np.expm1,
        "log-normalized by base 2": lambda v: np.exp2(v) - 1,
        "log-normalized by base 10": lambda v: 10.0**v - 1,
        "square-root": np.square,
    }
    rows = [row for row in rows if len(row) > 4 and len(np.unique(row)) > 1]
    # Rows of whole numbers tell nothing, and where many are there was no normalization.
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
    """Whether values that are near the smallest are multiples of it, or of its half or third."""
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


def choose_likelihood(summary: DataSummary) -> str:
    """The likelihood that suits the values: counts, values in [0, 1], or any others."""
    if (summary.integer and summary.minimum >= 0 or summary.near_integer) and summary.maximum > 1:
        return "nb"
    if summary.minimum >= 0 and summary.maximum <= 1:
        return "bernoulli"
    return "normal"


def check_likelihood(likelihood: str) -> None:
    """Raise a ValueError for a likelihood that is not there."""
    if likelihood not in (*LIKELIHOODS, "auto"):
        raise ValueError(
            f"likelihood must be 'auto' or one of {shown(LIKELIHOODS)}, got {likelihood!r}."
            f"{near_matches(likelihood, LIKELIHOODS)}"
        )


def check_values(
    adata: AnnData | Found,
    layer: str,
    summary: DataSummary,
    likelihood: str,
    *,
    training: bool,
    here: str | None = None,
) -> None:
    """Raise a ValueError where the values cannot come from the likelihood.

    Expected counts (not whole numbers) may be encoded, but not trained on; counts that were normalized
    may be neither. ``here`` says where they are, if not in an AnnData.
    """
    here = where(layer) if here is None else here
    greatest = max(-summary.minimum, summary.maximum)
    limit = MAX_RATE if likelihood in COUNT_LIKELIHOODS else MAX_VALUE
    if greatest > limit:
        raise ValueError(
            f"values must not exceed {limit:g} under likelihood={likelihood!r}, but the greatest of "
            f"{here} is {greatest:g}; scale them, or remove what is no measurement."
        )
    if likelihood in COUNT_LIKELIHOODS:
        what = None
        whole = summary.integer or summary.near_integer
        if summary.minimum < 0 and not summary.near_integer:
            what = f"negative values (the smallest is {summary.minimum:g})"
        elif not whole and summary.transformed:
            what = f"{summary.transformed} values, which are not whole numbers"
        elif not whole and training:
            what = "values that are not whole numbers"
        if what:
            others = [name for name in layer_names(adata) if name != layer]
            cure = (
                "pass layer= with the name of the raw counts to setup_anndata (layers there are: "
                f"{shown(others) or 'none'}), or choose likelihood='normal'"
                if training
                else "put the raw counts there (the model was trained on counts)"
            )
            raise ValueError(
                f"likelihood={likelihood!r} needs raw counts, but {here} holds {what}; {cure}."
            )
        if summary.zero_rows.size:
            names = adata.obs_names[summary.zero_rows]
            raise ValueError(
                f"every cell needs at least one count under likelihood={likelihood!r}, but "
                f"{summary.zero_rows.size} cells of {here} are all zero ({shown(names, 3)}); remove "
                "them with scanpy.pp.filter_cells(adata, min_counts=1)."
            )
    elif likelihood == "bernoulli" and (summary.minimum < 0 or summary.maximum > 1):
        raise ValueError(
            f"likelihood='bernoulli' needs values in [0, 1], but those of {here} lie in "
            f"[{summary.minimum:g}, {summary.maximum:g}]; scale them (pixels / 255), or choose "
            "likelihood='normal' or 'laplace'."
        )


def check_like_training(
    layer: str, summary: DataSummary, likelihood: str, trained_on: DataSummary | None
) -> None:
    """Raise a ValueError where continuous values are another quantity than those of training.

    Warn where they may be.

    Parameters
    ----------
    layer
        Where they are.
    summary
        Of the values.
    likelihood
        Of the model.
    trained_on
        Summary of the values of training; ``None`` where it is not known.
    """
    here = where(layer)
    if likelihood in COUNT_LIKELIHOODS:
        if summary.kind == "fractions":
            warn(
                f"{here} holds values that are not whole numbers; they are taken as expected counts, "
                "such as model.decode gives. Round counts that were corrected for ambient RNA."
            )
        return
    if trained_on is None or likelihood == "bernoulli":
        return
    counts = ("counts", "near counts")
    were_counts, are_counts = trained_on.kind in counts, summary.kind in counts
    if (are_counts and not were_counts) or (were_counts and summary.transformed):
        raise ValueError(
            f"cells must hold what the model was trained on, {_in_words(trained_on)}, but {here} "
            f"holds {_in_words(summary)}; prepare them as the cells of training."
        )
    width = max(trained_on.maximum - trained_on.minimum, 1e-30)
    beyond = max(trained_on.minimum - summary.minimum, summary.maximum - trained_on.maximum)
    if beyond > width or (summary.minimum < 0 <= trained_on.minimum and beyond > 0.1 * width):
        warn(
            f"the values of {here} lie in [{summary.minimum:g}, {summary.maximum:g}], those of "
            f"training in [{trained_on.minimum:g}, {trained_on.maximum:g}]; check that they were "
            "normalized and scaled alike."
        )


def _in_words(summary: DataSummary) -> str:
    """What the values are."""
    words = {"counts": "whole numbers", "near counts": "whole numbers", "fractions": "fractions"}
    kind = summary.kind
    return f"{words.get(kind, kind + ' values')} up to {summary.maximum:g}"


def say_what_was_chosen(adata: AnnData | None, layer: str, found: Found, likelihood: str) -> None:
    """Warn where ``likelihood="auto"`` chose what may surprise.

    Parameters
    ----------
    adata
        The cells, if they lie in an AnnData.
    layer
        Where the values are.
    found
        What is known of them.
    likelihood
        What was chosen.
    """
    summary = found.summary
    here, kind = where(layer), summary.kind
    if kind == "near counts":
        warn(
            f"{here} holds whole numbers but for rounding errors; they are rounded, and modeled as "
            f"counts (likelihood {likelihood!r})."
        )
        return
    if layer == X_LAYER and _keys.COUNTS_LAYER in found.layers:
        return  # asked for
    proportions = summary.transformed == "proportions"
    if likelihood != "normal" and not proportions:
        return
    if kind == "signed" and layer != _keys.COUNTS_LAYER:
        return  # nobody takes these for counts
    what = {
        "fractions": "values that are neither whole numbers nor in [0, 1]",
        "signed": "negative values",
        "unit": "proportions",
    }.get(kind, f"{kind} values")
    cure = "" if adata is None else counts_elsewhere(adata, layer)
    if not cure and kind == "fractions":
        cure = f"Round {here} if these are counts that were corrected for ambient RNA"
    elif not cure and layer == _keys.COUNTS_LAYER:
        cure = f"Put the raw counts into {here}, or pass layer='X' to model normalized values"
    elif not cure:
        cure = "Pass layer= with the name of the raw counts to setup_anndata if there are some"
    warn(
        f"likelihood='auto' chose {likelihood!r}, because {here} holds {what}, not counts. {cure}."
    )


def counts_elsewhere(adata: AnnData, layer: str) -> str:
    """How to use counts that lie elsewhere in an AnnData; nothing where there are none."""
    for name in layer_names(adata):
        if name != layer and _are_counts(adata.layers[name]):
            return f"Pass layer={name!r} to setup_anndata, which holds counts"
    if layer != X_LAYER and adata.X is not None and _are_counts(adata.X):
        return "Pass layer='X' to setup_anndata, which holds counts"
    raw = adata.raw
    if raw is None or not adata.var_names.isin(raw.var_names).all() or not _are_counts(raw.X):
        return ""
    return (
        "Set adata.layers['counts'] = adata.raw[:, adata.var_names].X first: adata.raw holds counts"
    )


def _are_counts(x: Any, n: int = 100) -> bool:
    """Whether the first rows of a matrix hold counts."""
    rows = rows_of(x, slice(0, n))
    values = np.asarray(rows.data if sparse.issparse(rows) else rows)
    if not values.size or values.dtype.kind not in "fiu":
        return False
    return bool((values == np.round(values)).all() and values.min() >= 0 and values.max() > 1)


class Genes:
    """What has names of genes, and no more.

    Parameters
    ----------
    genes
        The names.
    """

    def __init__(self, genes: Iterable[Any]):
        self.var_names = as_objects(genes)


def check_genes(
    adata: Any, expected: Iterable[Any], *, cure: str | None = None, model: str = "model"
) -> None:
    """Raise a ValueError unless the genes are those of the model, in the same order.

    Parameters
    ----------
    adata
        What has the ``var_names``.
    expected
        Genes of the model.
    cure
        What to do about it, in place of what can be done about query cells.
    model
        What the model is called in the cure.
    """
    genes, names = pd.Index(as_objects(expected)), pd.Index(as_objects(adata.var_names))
    if same_names(names, genes):
        return
    missing = genes[~genes.isin(names)]
    if len(missing):
        text = (
            f"adata must have the {len(genes)} genes that the model was trained on, but "
            f"{len(missing)} are missing ({shown(missing, 3)})"
        )
        found = in_another_case(missing, names)
        if found:
            cure = (
                f"{len(found)} of them are there in another case, such as {next(iter(found.values()))!r}: "
                "rename adata.var_names first"
            )
        filled = f"CIVAE.prepare_query_anndata(adata, {model}) fills them with zeros"
        raise ValueError(f"{text}; {filled if cure is None else cure}.")
    order = f"use adata[:, {model}.get_var_names()].copy()"
    if model != "model":
        order = f"CIVAE.prepare_query_anndata(adata, {model}) puts them in order"
    more = names[~names.isin(genes)]
    got = f"{len(names)} in another order"
    if len(more):
        got = f"{len(names)}, of which {len(more)} are not of the model ({shown(more, 3)})"
    raise ValueError(
        f"adata must have the {len(genes)} genes of the model in the same order, got {got}; "
        f"{order if cure is None else cure}."
    )


@contextmanager
def unchanged_on_error(adata: AnnData, managers: dict[str, Any] | None = None) -> Iterator[None]:
    """Put obs, obsm, uns back as they were if the block raises, and forget what it registered.

    Parameters
    ----------
    adata
        What the block may write to.
    managers
        The AnnData that a model knows, by what scvi-tools calls them.
    """
    managers = {} if managers is None else managers
    obs, obsm, uns = adata.obs.copy(deep=False), dict(adata.obsm), dict(adata.uns)
    known = set(managers)
    try:
        yield
    except BaseException:
        for column in adata.obs.columns.difference(obs.columns):
            del adata.obs[column]
        if not adata.obs.equals(obs):  # to set it would make text of an index of numbers
            adata.obs = obs
        adata.obsm = obsm
        adata.uns = uns
        for key in managers.keys() - known:
            del managers[key]
        raise


def leaves_unchanged(method: Method) -> Method:
    """Make a method of the model put its ``adata`` back as it was if it raises."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        adata = signature.bind(self, *args, **kwargs).arguments.get("adata")
        with self._unchanged_on_error(adata):
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def check_arguments(argument: str, names: Iterable[str], *takers: type) -> None:
    """Raise a TypeError for the first name that is no argument of any of the classes."""
    known = {name for taker in takers for name in inspect.signature(taker).parameters}
    for name in names:
        if name not in known:
            raise TypeError(
                f"{argument} must be arguments of {takers[-1].__module__.partition('._')[0]}."
                f"{takers[-1].__name__}, but {name!r} is none.{near_matches(name, known)}"
            )
