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
from .._errors import check_type, near_matches, shown
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


class DataSummary(NamedTuple):
    """What a single pass over the values of an AnnData tells."""

    minimum: float
    maximum: float
    integer: bool
    zero_rows: np.ndarray
    median_sum: float
    first_bad: tuple[int, int] | None


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
            **{key: getattr(self.summary, key) for key in ("minimum", "maximum", "integer")},
            "class_counts": self.class_counts.tolist(),
            "n_obs": self.n_obs,
            "library": self.library,
            "layers": layer_names(self),
            "nats": None if self.nats is None else self.nats.tolist(),
        }

    @classmethod
    def from_plain(cls, found: dict[str, Any]) -> Found:
        """Undo :meth:`to_plain`."""
        summary = DataSummary(
            found["minimum"],
            found["maximum"],
            found["integer"],
            zero_rows=np.array([], dtype=int),
            median_sum=found["library"],
            first_bad=None,
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
    minimum, maximum, integer = np.inf, -np.inf, True
    sums: list[np.ndarray] = []
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
            if integer and values.dtype.kind == "f":
                integer = bool((values == np.round(values)).all())
        if is_sparse and values.size < block.shape[0] * block.shape[1]:
            minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
        sums.append(np.asarray(abs(block).sum(axis=1), dtype=float).ravel())
    total = np.concatenate(sums)
    return DataSummary(
        minimum=minimum,
        maximum=maximum,
        integer=integer,
        zero_rows=np.flatnonzero(total == 0),
        median_sum=float(np.median(total)),
        first_bad=None,
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
    if summary.integer and summary.minimum >= 0 and summary.maximum > 1:
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
    adata: AnnData | Found, layer: str, summary: DataSummary, likelihood: str, *, training: bool
) -> None:
    """Raise a ValueError where the values cannot come from the likelihood.

    Expected counts (not whole numbers) may be encoded, but not trained on.
    """
    here = where(layer)
    greatest = max(-summary.minimum, summary.maximum)
    limit = MAX_RATE if likelihood in COUNT_LIKELIHOODS else MAX_VALUE
    if greatest > limit:
        raise ValueError(
            f"values must not exceed {limit:g} under likelihood={likelihood!r}, but the greatest of "
            f"{here} is {greatest:g}; scale them, or remove what is no measurement."
        )
    if likelihood in COUNT_LIKELIHOODS:
        what = None
        if summary.minimum < 0:
            what = f"negative values (the smallest is {summary.minimum:g})"
        elif training and not summary.integer:
            what = "values that are not whole numbers"
        if what:
            others = [name for name in layer_names(adata) if name != layer]
            raise ValueError(
                f"likelihood={likelihood!r} needs raw counts, but {here} holds {what}; pass "
                f"layer= with the name of the raw counts to setup_anndata (layers there are: "
                f"{shown(others) or 'none'}), or choose likelihood='normal'."
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


def check_genes(adata: AnnData, expected: np.ndarray) -> None:
    """Raise a ValueError unless the genes are those of the model, in the same order."""
    genes = pd.Index(expected, dtype=object)
    if same_names(adata.var_names, genes):
        return
    missing = genes[~genes.isin(as_objects(adata.var_names))]
    if len(missing):
        raise ValueError(
            f"adata must have the {len(genes)} genes that the model was trained on, but "
            f"{len(missing)} are missing ({shown(missing, 3)}); "
            "CIVAE.prepare_query_anndata(adata, model) fills them with zeros."
        )
    raise ValueError(
        f"adata must have the {len(expected)} genes of the model in the same order, got "
        f"{adata.n_vars} in another order; use adata[:, model.get_var_names()].copy()."
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
