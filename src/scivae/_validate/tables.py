"""Checks of AnnData objects: columns, groups, representations, paths and trends."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys
from .._errors import got, near_matches, shown
from .._names import as_text
from .arguments import check_type
from .arrays import check_positions

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MIN_CURVE_CELLS = 20  # fewest measured cells for a curve along a path
MIN_SET_GENES = 5  # default of the fewest genes of a gene set

TRENDS = "trends"  # value of uns["civae"]["kind"] in trends
CONDITION = "condition"  # value of uns["civae"]["kind"] in predicted cells
OF_SETS = "gene sets"  # value of uns["civae"]["of"] in trends of sets
MAKERS = {
    "trends": "scivae.tl.gene_trends(model, pairs)",
    "synthetic": "model.augment(label, n)",
    "generated": "model.interpolate(cell_a, cell_b)",
    "condition": "scivae.tl.predict_condition(model, groupby, source, target, level=level)",
    "joint": "scivae.tl.embed(adata, path)",
}


def check_adata(name: str, adata: Any) -> None:
    """Raise a TypeError unless the value is an AnnData."""
    from anndata import AnnData

    check_type(name, adata, AnnData, "an AnnData")


def check_names(adata: AnnData) -> None:
    """Raise a ValueError if several cells have the same name."""
    import pandas as pd

    names = pd.Index(as_text(adata.obs_names))
    if not names.is_unique:
        cure = "call adata.obs_names_make_unique()"
        if adata.obs_names.is_unique:  # 1 and "1"
            cure = f"set adata.obs_names = adata.obs_names.astype(str), and {cure}"
        raise ValueError(
            f"adata.obs_names must be unique, got {names[names.duplicated()][0]!r} for several "
            f"cells; {cure}."
        )


def column(adata: AnnData, argument: str, key: Any) -> pd.Series:
    """Return a column of ``adata.obs``, or raise a KeyError that lists the available columns."""
    if isinstance(key, list | tuple) and key and all(isinstance(k, str) for k in key):
        joined = " + ' ' + ".join(f"adata.obs[{k!r}].astype(str)" for k in key)
        cure = (
            f"pass {key[0]!r}"
            if len(key) == 1
            else f"join them first: adata.obs['both'] = {joined}"
        )
        raise TypeError(
            f"{argument} must be the name of one column of adata.obs, got {got(key)}; {cure}."
        )
    check_type(argument, key, str, "the name of a column of adata.obs")
    if key not in adata.obs.columns:
        columns = [c for c in adata.obs.columns if not str(c).startswith("_scvi")]
        raise KeyError(
            f"{argument} must be a column of adata.obs, got {key!r}; available columns: "
            f"{shown(columns, 20) or 'none'}.{near_matches(key, columns)}"
        )
    return adata.obs[key]


def group(values: pd.Series, argument: str, level: Any, key: str) -> np.ndarray:
    """Which cells belong to a group, shape ``(n_obs,)``; a ValueError if none do."""
    from pandas.api.types import is_scalar

    if not is_scalar(level):
        raise TypeError(
            f"{argument} must be a single value of adata.obs[{key!r}], got {level!r}; pass one "
            "value."
        )
    found = (values == level).to_numpy(dtype=bool, na_value=False)
    if not found.any():
        present = values.dropna().unique()
        raise ValueError(
            f"{argument} must be a value that occurs in adata.obs[{key!r}], got {level!r}; "
            f"available values: {shown(present, 20) or 'none'}."
            f"{near_matches(level, present)}"
        )
    return found


def representation(adata: AnnData, use_rep: str) -> np.ndarray:
    """Return a slot of ``obsm`` as finite numbers, shape ``(n_obs, n_dimensions)``."""
    check_type("use_rep", use_rep, str, "a key of adata.obsm")
    if use_rep not in adata.obsm:
        cure = (
            f"; set adata.obsm[{use_rep!r}] = model.get_latent_representation() first"
            if use_rep == _keys.LATENT
            else ""
        )
        raise KeyError(
            f"use_rep must be a key of adata.obsm, got {use_rep!r}; available: "
            f"{shown(adata.obsm.keys()) or 'none'}{cure}.{near_matches(use_rep, adata.obsm.keys())}"
        )
    return finite(np.asarray(adata.obsm[use_rep]), adata, f"adata.obsm[{use_rep!r}]")


def finite(values: np.ndarray, adata: AnnData, where: str) -> np.ndarray:
    """Return the values, or raise an error that names the first cell with NaN."""
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        raise TypeError(
            f"{where} must be a dense array of numbers, cells × dimensions, got shape "
            f"{values.shape} and dtype {values.dtype}; convert it."
        )
    good = np.isfinite(values).all(axis=1)
    if not good.all():
        raise ValueError(
            f"{where} must be finite, got NaN or infinity for cell "
            f"{str(adata.obs_names[np.argmin(good)])!r}; calculate it for every cell."
        )
    return values


def check_kind(name: str, adata: Any, kind: str, maker: str) -> dict[str, Any]:
    """Return the metadata of a result in ``uns``; raise unless the function ``maker`` made it."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TypeError(
            f"{name} must be an AnnData, got {got(adata)}; pass what {MAKERS[maker]} returns."
        )
    said = adata.uns.get(_keys.UNS)
    found = said.get("kind") if isinstance(said, dict) else None
    if found != kind or not adata.n_obs:
        of_kind = "another AnnData" if found is None else f"an AnnData of kind {found!r}"
        raise ValueError(
            f"{name} must be made by {MAKERS[maker]}, got {of_kind} of {adata.n_obs} × "
            f"{adata.n_vars}; pass what that function returned."
        )
    return dict(said)


def check_trends(name: str, trends: Any) -> dict[str, Any]:
    """Return the metadata of trends in ``uns``; raise if ``gene_trends`` did not make them."""
    said = check_kind(name, trends, TRENDS, "trends")
    curves = (_keys.FIT_LAYER, _keys.DECODED_LAYER, _keys.MEAN_LAYER)
    if not any(c in trends.layers for c in curves) or _keys.T not in trends.obs:
        raise ValueError(
            f"{name} must be made by {MAKERS['trends']}, got trends without curves or without "
            f"obs[{_keys.T!r}]; pass what that function returned."
        )
    check_positions(f"{name}.obs[{_keys.T!r}]", trends.obs[_keys.T].to_numpy(dtype=float))
    return said


def check_obs(adata: AnnData, columns: Iterable[str], argument: str, maker: str) -> None:
    """Raise a ValueError unless ``obs`` has the columns that the function ``maker`` writes."""
    missing = [c for c in columns if c not in adata.obs.columns]
    if missing:
        raise ValueError(
            f"{argument} must be made by {MAKERS[maker]}, got an AnnData without the obs column "
            f"{missing[0]!r}; available columns: {shown(adata.obs.columns) or 'none'}."
        )


def gene_symbols_of(table: pd.DataFrame, key: Any, of: str = "trends.var") -> dict[str, str]:
    """Name to show for each gene of a table: its symbol, or its own name if the symbol is missing.

    ``key`` is the column of symbols; ``None`` for no symbols. Raises a KeyError if it does not exist.
    """
    names = as_text(table.index)
    if key is None:
        return dict(zip(names, names, strict=True))
    check_type("gene_symbols", key, str, f"the name of a column of {of}, or None")
    if key not in table:
        columns = [c for c in table if not is_numeric(table[c])]
        raise KeyError(
            f"gene_symbols must be a column of {of}, got {key!r}; available columns of text: "
            f"{shown(columns, 20) or 'none'}.{near_matches(key, table.columns)}"
        )
    given = table[key].astype(object)
    symbols = [
        str(symbol) if known and str(symbol).strip() else name
        for symbol, known, name in zip(given, given.notna(), names, strict=True)
    ]
    return dict(zip(names, symbols, strict=True))


def is_numeric(values: pd.Series) -> bool:
    """Whether a column holds numbers or booleans."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(values) or is_bool_dtype(values))


def by_symbol(argument: str, genes: Iterable[Any], symbols: Mapping[str, str]) -> list[str]:
    """Own names of genes that may be given by symbol; a ValueError if a symbol is ambiguous."""
    of_symbol: dict[str, list[str]] = {}
    for name, symbol in symbols.items():
        of_symbol.setdefault(symbol, []).append(name)
    found = []
    for gene in map(str, genes):
        names = [gene] if gene in symbols else of_symbol.get(gene, [gene])
        if len(names) > 1:
            raise ValueError(
                f"{argument} must name each gene clearly, but {gene!r} is the symbol of "
                f"{len(names)} genes ({shown(names, 3)}); pass one of these names."
            )
        found.append(names[0])
    return found


def check_genes(
    adata: AnnData,
    genes: str | Sequence[str],
    argument: str = "genes",
    symbols: Mapping[str, str] | None = None,
) -> list[str]:
    """Return gene names as a list; a KeyError names the first unknown gene."""
    names = [genes] if isinstance(genes, str) else [str(g) for g in genes]
    if symbols is not None:
        names = by_symbol(argument, names, symbols)
    if not names:
        raise ValueError(f"{argument} must name at least one gene, got none; pass var_names.")
    known = set(adata.var_names)
    for name in names:
        if name not in known:
            raise KeyError(
                f"{argument} must be among the {adata.n_vars} var_names, got {name!r}."
                f"{near_matches(name, adata.var_names) or _in_a_column(adata, name)}"
            )
    return names


def _in_a_column(adata: AnnData, name: str) -> str:
    """A hint if another column of ``var`` contains the name; else an empty string."""
    for key in adata.var.columns:
        found = np.flatnonzero(as_text(adata.var[key]) == name)
        if len(found) == 1:
            return f" adata.var[{key!r}] has it for {str(adata.var_names[found[0]])!r}."
    return ""


def check_known_genes(argument: str, genes: Iterable[str], known: Collection[str], of: str) -> None:
    """Raise a KeyError for the first gene that is not among the known genes, those ``of`` an object."""
    names = set(known)
    for gene in genes:
        if gene not in names:
            raise KeyError(
                f"{argument} must be among the {len(known)} genes of {of}, but {gene!r} is not."
                f"{near_matches(gene, known)}"
            )


def check_basis(adata: AnnData, basis: str, dimensions: Sequence[int], cure: str) -> np.ndarray:
    """Return coordinates of an embedding, shape ``(n_obs, len(dimensions))``."""
    key = basis if basis in adata.obsm else f"X_{basis}"
    if key not in adata.obsm:
        raise KeyError(
            f"basis must name an embedding in obsm, got {basis!r}; available: "
            f"{shown(adata.obsm) or 'none'}.{near_matches(f'X_{basis}', adata.obsm)} {cure}"
        )
    points = np.asarray(adata.obsm[key])
    wrong = [d for d in dimensions if not 0 <= d < points.shape[1]]
    if wrong:
        raise ValueError(
            f"dimensions must lie in [0, {points.shape[1] - 1}] for basis {basis!r}, got "
            f"{wrong[0]}."
        )
    return points[:, list(dimensions)].astype(float)


def check_paths(names: Sequence[str], asked: str | int | Sequence[str | int] | None) -> list[str]:
    """Return the names of the selected paths, given by name or position; ``None`` selects all."""
    if asked is None:
        return list(names)
    single = isinstance(asked, str | int | np.integer)
    chosen = []
    for one in [asked] if single else list(asked):  # type: ignore[arg-type]
        if isinstance(one, int | np.integer):
            if not -len(names) <= one < len(names):
                raise IndexError(
                    f"paths must lie in [0, {len(names) - 1}] as positions, got {one}."
                )
            chosen.append(names[int(one)])
        elif one in names:
            chosen.append(str(one))
        else:
            raise KeyError(
                f"paths must be names or positions of paths, got {one!r}; available: "
                f"{shown(names, 4)}.{near_matches(one, names)}"
            )
    if not chosen:
        raise ValueError("paths must name at least one path, got none; pass None for all paths.")
    return chosen
