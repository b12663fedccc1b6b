"""Read the cells of a command from a file, and check options before any long calculation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._errors import near_matches, shown, warn
from .._names import donor_name_rank, is_class_name, layer_names
from .._validate.tables import (
    MIN_CURVE_CELLS,
    MIN_SET_GENES,
    by_symbol,
    check_known_genes,
    gene_symbols_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# Number of donors, each with cells of a single class, from which on the column is probably one of classes.
MIN_NESTED = 3


def read_cells(path: Path, argument: str, *, backed: bool = False) -> AnnData:
    """Cells of an h5ad file or a zarr store; a ValueError names the invalid argument."""
    import anndata

    if not path.exists():
        raise ValueError(
            f"{argument} must be a file, got {path}, which does not exist; check the path."
        )
    try:
        if path.is_dir():
            return anndata.read_zarr(path)
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except (OSError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        if "file signature not found" in reason:
            reason = "it is not in HDF5 format; write it with adata.write_h5ad"
        kind = "a zarr store" if path.is_dir() else "an h5ad file"
        raise ValueError(f"{argument} must be {kind}, got {path}: {reason}.") from error


def check_folder(out: Path) -> None:
    """Raise early if results could not be written to a folder."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        what = "a file" if there == out else f"in {there}, which is a file"
        raise ValueError(f"--out must be a folder, but {out} is {what}; choose another.")
    if not os.access(there, os.W_OK):
        raise ValueError(
            f"--out must be a folder that can be written to, but {there} is not; choose another."
        )


def warn_of_results(out: Path) -> None:
    """Warn that the model of an earlier run will be replaced."""
    if (out / "model" / "model.pt").exists():
        warn(
            f"--out {out} has a model of an earlier run, which is replaced; pass another --out to keep it."
        )


def check_file(out: Path, suffixes: Sequence[str]) -> None:
    """Raise early if a file could not be written."""
    if out.suffix.lower() not in suffixes:
        raise ValueError(
            f"--out must end in {' or '.join(suffixes)}, got {str(out.name)!r}; rename it."
        )
    if out.is_dir() and out.suffix.lower() != ".zarr":
        raise ValueError(f"--out must be a file, but {out} is a folder; choose another.")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "cannot be written to" if there.is_dir() else "is a file"
        raise ValueError(
            f"--out must be in a folder that can be written to, but {there} {what}; choose another."
        )


def as_words(column: pd.Series) -> pd.Series:
    """A column as text, as it is written on a command line: whole numbers without a decimal point."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = as_words(pd.Series(column.cat.categories))
        if levels.is_unique:
            return column.cat.rename_categories(levels.tolist())
    if pd.api.types.is_float_dtype(column.dtype):
        known = column.dropna()
        if (known == known.round()).all() and (known.abs() < 2**53).all():
            column = column.astype("Int64")
    return (
        column.astype(object).where(column.notna()).map(str, na_action="ignore").astype("category")
    )


def check_column(adata: AnnData, option: str, name: str | None, *, of_genes: bool = False) -> None:
    """Raise unless the AnnData has the column, in ``obs`` or, with ``of_genes``, in ``var``."""
    where, columns = ("var", adata.var.columns) if of_genes else ("obs", adata.obs.columns)
    if name is not None and name not in columns:
        raise KeyError(
            f"{option} must be a column of {where}, got {name!r}; available columns: "
            f"{shown(columns, 20) or 'none'}.{near_matches(name, columns)}"
        )


def check_genes(adata: AnnData, genes: Sequence[str] | None, gene_symbols: str | None) -> list[str]:
    """Names of the genes to show, which can be given by symbol; raise if one does not exist."""
    check_column(adata, "--gene-symbols", gene_symbols, of_genes=True)
    symbols = gene_symbols_of(adata.var, gene_symbols, "var")
    names = by_symbol("--genes", genes or (), symbols)
    check_known_genes("--genes", names, [*symbols], "the data")
    return names


def check_layer(adata: AnnData, name: str | None) -> None:
    """Raise unless the AnnData has the layer; the name ``X`` means ``adata.X``."""
    names = [*layer_names(adata), *(["X"] if adata.X is not None else [])]
    if name is not None and name not in names:
        raise KeyError(
            f"--layer must be a layer of the data, or X, got {name!r}; available: "
            f"{shown(names, 20) or 'none'}.{near_matches(name, names)}"
        )


def check_value(adata: AnnData, option: str, value: str | None, column: str | None) -> None:
    """Raise unless a column has the value, compared as text."""
    if value is None or column is None:
        return
    values = list(as_words(adata.obs[column]).dropna().unique())
    if value not in values:
        raise KeyError(
            f"{option} must be a value of obs[{column!r}], got {value!r}; available: "
            f"{shown(sorted(values), 20)}.{near_matches(value, values)}"
        )


def common_label(labels: pd.Series, source: np.ndarray, target: np.ndarray) -> str | None:
    """The label with the most cells of both groups; ``None`` if none has ten of each."""
    counts = [labels[side].value_counts() for side in (source, target)]
    both = (
        counts[0]
        .reindex(labels.cat.categories, fill_value=0)
        .clip(upper=counts[1].reindex(labels.cat.categories, fill_value=0))
    )
    return str(both.idxmax()) if both.max() >= MIN_CURVE_CELLS // 2 else None


def check_groups(
    adata: AnnData,
    groups: Sequence[tuple[str, np.ndarray]],
    label: str | None,
    labels_key: str,
    groupby: str,
) -> None:
    """Raise unless each group has cells, and there are enough in all for curves."""
    for option, cells in groups:
        if not cells.any():
            group = adata.obs[groupby] == option.split(" ", 1)[1].strip("'")
            there = adata.obs.loc[group, labels_key].value_counts()
            there = there[there > 0]
            raise ValueError(
                f"--label must be present in both groups, but no cell of {option} is {label!r}; that "
                f"group has: {shown(there.index, 12) or 'no label'}. Choose another --label or group."
            )
    n = int(np.logical_or.reduce([cells for _, cells in groups]).sum())
    if n < MIN_CURVE_CELLS:
        raise ValueError(
            f"curves along a path need at least {MIN_CURVE_CELLS} cells of the groups, but there are {n}; choose "
            "larger groups or another --label."
        )


def check_donors(adata: AnnData, key: str, source: np.ndarray, target: np.ndarray) -> bool:
    """Whether a donor has cells of both groups; raise if donors and groups coincide."""
    donor = adata.obs[key].astype(object)
    sides = [set(donor[side].dropna().astype(str)) for side in (source, target)]
    for option, side in zip(("--source", "--target"), sides, strict=True):
        if not side:
            raise ValueError(
                f"--donor-key must name donors, but obs[{key!r}] is missing for every cell of "
                f"{option}; fill it in, or leave --donor-key out."
            )
    if len(sides[0]) == len(sides[1]) == 1 and sides[0] != sides[1]:
        raise ValueError(
            f"--donor-key must name donors, but obs[{key!r}] has one value in each group, and "
            "cannot be distinguished from the groups; leave --donor-key out for p-values within one "
            "sample."
        )
    return bool(sides[0] & sides[1])


def warn_of_roles(obs: pd.DataFrame, labels_key: str, donor_key: str | None) -> None:
    """Warn once if a column of donors is given as that of the classes, or the other way round."""
    if donor_name_rank(labels_key) is not None:
        cure = (
            "name the column of the cell types"
            if donor_key is None
            else f"swap it with --donor-key {donor_key!r} if these are the cell types"
        )
        warn(f"--labels-key {labels_key!r} looks like donors or samples, not like classes; {cure}.")
        return
    if donor_key is None:
        return
    pairs = obs[[donor_key, labels_key]].dropna().astype(str).drop_duplicates()
    n_donors, n_classes = pairs.nunique()
    nested = len(pairs) == n_donors >= MIN_NESTED and n_classes > 1
    if nested or is_class_name(donor_key):
        what = (
            f"has cells of one class in each of {n_donors} donors"
            if nested
            else "looks like classes"
        )
        warn(f"--donor-key {donor_key!r} {what}; name the column of the patients or animals.")


def training_genes(
    adata: AnnData, layer: str | None, train: np.ndarray, n_top: int, keep: Iterable[str]
) -> np.ndarray:
    """The most variable genes of the training cells, and those to keep, as a mask over all genes.

    Parameters
    ----------
    adata
        All cells.
    layer
        Layer with the values.
    train
        Positions of the training cells; held-out cells are not used.
    n_top
        Number of genes.
    keep
        Names of genes that are kept whatever their variance.
    """
    import scanpy as sc
    from anndata import AnnData as New

    from .._storage import in_memory, rows_of
    from ..data.checks import resolve_layer, values_of
    from ..data.generated import log_normalize
    from ..data.likelihoods import choose_likelihood
    from ..data.profile import summarize

    values = in_memory(rows_of(values_of(adata, resolve_layer(adata, layer)), np.sort(train)))
    kept = np.isin(adata.var_names.astype(str), list(keep))
    if choose_likelihood(summarize(values)) == "nb":
        cells = New(X=log_normalize(values.astype(np.float32)))
        found = sc.pp.highly_variable_genes(cells, n_top_genes=n_top, inplace=False)
        return found["highly_variable"].to_numpy() | kept
    from scipy import sparse
    from sklearn.utils.sparsefuncs import mean_variance_axis

    variance = (
        mean_variance_axis(values, axis=0)[1] if sparse.issparse(values) else values.var(axis=0)
    )
    chosen = np.zeros(adata.n_vars, dtype=bool)
    chosen[np.argsort(-np.asarray(variance), kind="stable")[:n_top]] = True
    return chosen | kept


def read_gene_sets(path: Path | None) -> dict[str, list[str]] | None:
    """Gene sets of a GMT file."""
    from .. import tl

    return None if path is None else tl.read_gene_sets(path, "--gene-sets")


def check_gene_sets(sets: dict[str, list[str]] | None, symbols: Mapping[str, str]) -> None:
    """Raise early if the sets could not be tested: if decoupler is missing, or sets have too few genes."""
    from importlib.util import find_spec

    if sets is None:
        return
    if find_spec("decoupler") is None:
        raise ValueError(
            "--gene-sets needs decoupler, which is not installed; pip install decoupler, or leave "
            "--gene-sets out."
        )
    known = {*symbols, *symbols.values()}
    largest = max(len(known.intersection(genes)) for genes in sets.values())
    if largest < MIN_SET_GENES:
        gene, name = next(iter(sets.values()))[0], next(iter(symbols.values()))
        raise ValueError(
            f"--gene-sets must have a set with at least {MIN_SET_GENES} genes of the data, but the largest "
            f"has {largest} (a gene of the file: {gene!r}, of the data: {name!r}); use the same kind of "
            "names, or --gene-symbols."
        )
