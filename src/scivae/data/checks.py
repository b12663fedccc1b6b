"""Checks of an AnnData, and of names, positions and masks of its cells."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData

from .. import _keys
from .._errors import in_another_case, near_matches, shown
from .._names import as_objects, as_text, layer_names, same_names
from .._validate.arguments import check_type

Method = TypeVar("Method", bound=Callable[..., Any])
LABEL_CODES = "_scvi_labels"  # where scvi-tools keeps the codes of the labels
X_LAYER = "X"  # layer="X" means adata.X, even if there is a layer "counts"
# Sums over genes of squares of larger values could overflow single precision.
MAX_VALUE = 1e15


def check_adata(adata: Any) -> None:
    """Raise a TypeError unless this is an AnnData; for a MuData, the error says to pass one modality."""
    modalities = getattr(adata, "mod", None)
    if isinstance(modalities, Mapping):
        first = next(iter(modalities), "rna")
        raise TypeError(
            f"adata must be an AnnData, got {type(adata).__name__}; pass the modality with the "
            f"counts, as in adata[{first!r}] (available: {shown(modalities)}), with the labels in "
            "its own obs."
        )
    check_type("adata", adata, AnnData, "an AnnData")
    for slot, index in (("obs_names", adata.obs_names), ("var_names", adata.var_names)):
        if isinstance(index, pd.MultiIndex):
            raise TypeError(
                f"adata.{slot} must be a plain index, got a MultiIndex of {index.nlevels} levels; "
                f"set adata.{slot} = ['_'.join(map(str, name)) for name in adata.{slot}]."
            )
    if not isinstance(adata.obs, pd.DataFrame):
        raise TypeError(
            f"adata.obs must be in memory, got a {type(adata.obs).__name__} that is read lazily; "
            "pass adata.to_memory(), or give the path of the file to BlockDataModule."
        )


def resolve_layer(adata: AnnData, layer: str | None) -> str:
    """Name of the layer to model: the requested one, else ``counts`` if there is one, else X."""
    if layer is None:
        layer = _keys.COUNTS_LAYER if _keys.COUNTS_LAYER in adata.layers else X_LAYER
    check_type("layer", layer, str, "the name of a layer")
    names = layer_names(adata)
    if layer not in names and (layer != X_LAYER or adata.X is None):
        rule = "'X'" if adata.X is not None else "there must be values in adata.X"
        raise KeyError(
            f"layer must be a key of adata.layers or {rule}, got {layer!r}; available layers: "
            f"{shown(names) or 'none'}.{near_matches(layer, names)}"
        )
    return layer


def values_of(adata: AnnData, layer: str) -> Any:
    """The matrix of a layer, named as by :func:`resolve_layer`."""
    return adata.layers[layer] if layer != X_LAYER or X_LAYER in adata.layers else adata.X


def where(layer: str) -> str:
    """How to write the location of a layer in an error: ``adata.X`` or ``adata.layers[…]``."""
    return "adata.X" if layer == X_LAYER else f"adata.layers[{layer!r}]"


def check_columns(adata: AnnData, keys: dict[str, str | None]) -> None:
    """Raise for the first argument that does not name exactly one column of ``adata.obs``."""
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
                f"{argument} must be a column of adata.obs, got {key!r}; available columns: "
                f"{shown(columns, 20) or 'none'}.{near_matches(key, columns)}"
            )


def check_shape(adata: AnnData) -> None:
    """Raise a ValueError if an AnnData has no cells or no genes, or if gene names are not unique."""
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


class Genes:
    """An object with only ``var_names``, for :func:`check_genes`.

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
        An object with ``var_names``.
    expected
        Genes of the model.
    cure
        Advice at the end of the error; ``None`` for the advice about query cells.
    model
        Name of the model in that advice.
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
                f"{len(found)} of them are there in another case, such as "
                f"{next(iter(found.values()))!r}: rename adata.var_names first"
            )
        if cure is None and len(missing) == len(genes):
            table = getattr(adata, "var", pd.DataFrame())
            columns = [c for c in table.columns if pd.Index(as_text(table[c])).isin(genes).any()]
            other = f"adata.var[{columns[0]!r}]" if columns else "names of the same kind"
            cure = f"set adata.var_names to {other} first"
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


def resolve_cells(adata: AnnData, cells: Any, argument: str) -> np.ndarray:
    """Positions of one or several cells, given by obs names or positions.

    Parameters
    ----------
    adata
        AnnData with the cells.
    cells
        A name, an integer position, or a sequence of them.
    argument
        Name of the argument, for errors.

    Returns
    -------
    Positions, shape ``(n,)``.
    """
    if isinstance(cells, str | bytes | int | np.integer) and not isinstance(cells, bool):
        cells = [cells]
    try:
        cells = list(cells)
    except TypeError:
        raise TypeError(
            f"{argument} must be an obs name, an integer position or a sequence of them, got "
            f"{cells!r} ({type(cells).__name__}); pass, for example, adata.obs_names[0]."
        ) from None
    if not cells:
        raise ValueError(
            f"{argument} must name at least one cell, got an empty sequence; pass obs names or "
            "positions."
        )
    if all(isinstance(cell, str) for cell in cells):
        return _by_name(adata.obs_names, cells, argument)
    if all(isinstance(c, int | np.integer) and not isinstance(c, bool | np.bool_) for c in cells):
        return _inside(np.asarray(cells, dtype=np.int64), adata, argument)
    kinds = sorted({type(cell).__name__ for cell in cells})
    if not any(isinstance(cell, str) for cell in cells):
        raise TypeError(
            f"{argument} must hold obs names (str) or positions (int), got {', '.join(kinds)}; pass, "
            "for example, adata.obs_names[mask] or np.flatnonzero(mask)."
        )
    raise TypeError(
        f"{argument} must hold obs names (str) or positions (int), not both, got "
        f"{', '.join(kinds)}; use one of the two for all cells."
    )


def resolve_indices(adata: Any, indices: Any, argument: str = "indices") -> np.ndarray:
    """Positions of cells given by positions or a mask, shape ``(n,)``; all cells for ``None``.

    Parameters
    ----------
    adata
        An object with ``n_obs``.
    indices
        The cells.
    argument
        Name of the argument, for errors.
    """
    if indices is None:
        return np.arange(adata.n_obs)
    index = np.asarray(indices)
    if index.shape == (adata.n_obs,) and index.dtype == bool:
        index = np.flatnonzero(index)
    if index.size == 0:
        raise ValueError(
            f"{argument} must name at least one cell, got none; check the mask or the selection."
        )
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise TypeError(
            f"{argument} must be integer positions, shape (n,), or a mask of shape "
            f"({adata.n_obs},), got shape {index.shape} of dtype {index.dtype}; convert names with "
            "adata.obs_names.get_indexer, and make masks from adata.obs."
        )
    return _inside(index, adata, argument)


def _inside(positions: np.ndarray, adata: AnnData, argument: str) -> np.ndarray:
    outside = (positions < 0) | (positions >= adata.n_obs)
    if outside.any():
        raise IndexError(
            f"{argument} must lie in [0, {adata.n_obs - 1}], the positions of adata's cells, "
            f"got {positions[outside][0]}."
        )
    return positions


def _as_position(name: str) -> str:
    """How to pass a number as a position, if a name is one."""
    return f" Pass {int(name)} without quotes for a position." if name.isdecimal() else ""


def _by_name(names: pd.Index, cells: list[str], argument: str) -> np.ndarray:
    if (
        names.inferred_type != "string"
    ):  # numbers, say, which generated cells and files hold as text
        names = pd.Index(as_text(names))
    wanted = pd.Index(cells)
    unknown = wanted[~wanted.isin(names)]
    if len(unknown):
        raise KeyError(
            f"{argument} must be among adata.obs_names, but {unknown[0]!r} is not."
            f"{near_matches(unknown[0], names) or _as_position(unknown[0])}"
        )
    if names.is_unique:
        return names.get_indexer(wanted)
    positions = np.empty(len(wanted), dtype=np.int64)
    for i, cell in enumerate(wanted):
        found = np.flatnonzero(names == cell)
        if len(found) > 1:
            raise ValueError(
                f"{argument} must name one cell, but {cell!r} is the name of {len(found)}; pass an "
                "integer position, or call adata.obs_names_make_unique()."
            )
        positions[i] = found[0]
    return positions


@contextmanager
def unchanged_on_error(adata: Any, managers: dict[str, Any] | None = None) -> Iterator[None]:
    """Restore obs, obsm and uns if the block raises, and unregister what it registered.

    Parameters
    ----------
    adata
        AnnData that the block may write to. Views and other objects are ignored.
    managers
        Managers of the AnnData that a model knows, by scvi-tools' identifier.
    """
    if not isinstance(adata, AnnData) or adata.is_view:
        yield
        return
    managers = {} if managers is None else managers
    obs, obsm, uns = adata.obs.copy(deep=False), dict(adata.obsm), dict(adata.uns)
    known = set(managers)
    try:
        yield
    except BaseException:
        for column in adata.obs.columns.difference(obs.columns):
            del adata.obs[column]
        if not adata.obs.equals(obs):  # setting obs would turn a numeric index into text
            adata.obs = obs
        adata.obsm = obsm
        adata.uns = uns
        for key in managers.keys() - known:
            del managers[key]
        raise


def bind(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    """Bind arguments to a signature; the TypeError names the method, and the argument that was meant."""
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        known = [n for n in signature.parameters if n != "self"]
        if unknown := [n for n in kwargs if n not in known]:
            raise TypeError(
                f"{name}() has no argument {unknown[0]!r}; it takes {shown(known, 20)}."
                f"{near_matches(unknown[0], known)}"
            ) from None
        raise TypeError(f"{name}: {error}.") from None


def leaves_unchanged(method: Method) -> Method:
    """Decorate a method of the model so that it restores its ``adata`` if it raises."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        adata = bind(method.__name__, signature, (self, *args), kwargs).arguments.get("adata")
        with self._unchanged_on_error(adata):
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def check_arguments(argument: str, names: Iterable[str], *takers: type) -> None:
    """Raise a TypeError for the first name that is not an argument of any of the classes."""
    known = {name for taker in takers for name in inspect.signature(taker).parameters}
    for name in names:
        if name not in known:
            raise TypeError(
                f"{argument} must be arguments of {takers[-1].__module__.partition('._')[0]}."
                f"{takers[-1].__name__}, got {name!r}.{near_matches(name, known)}"
            )
