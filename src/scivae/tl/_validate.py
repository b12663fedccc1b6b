"""Checks of AnnData and tables that the functions of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys
from .._errors import check_positions, check_trained, check_type, near_matches, shown
from .._names import as_text

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

TRENDS = "trends"  # what uns["civae"]["kind"] of trends says


def check_adata(adata: Any, name: str = "adata") -> None:
    """Raise a TypeError unless it is an AnnData."""
    from anndata import AnnData

    check_type(name, adata, AnnData, "an AnnData")


def check_model(model: Any) -> None:
    """Raise unless it is a trained model."""
    from ..model import CIVAE

    check_type("model", model, CIVAE, "a CIVAE")
    check_trained(model)


def check_names(adata: AnnData) -> None:
    """Raise a ValueError where a name stands for several cells."""
    import pandas as pd

    names = pd.Index(as_text(adata.obs_names))
    if not names.is_unique:
        cure = "call adata.obs_names_make_unique()"
        if adata.obs_names.is_unique:  # 1 and "1"
            cure = f"set adata.obs_names = adata.obs_names.astype(str), and {cure}"
        raise ValueError(
            f"adata.obs_names must be unique, but {names[names.duplicated()][0]!r} is the name of "
            f"several cells; {cure}."
        )


def column(adata: AnnData, argument: str, key: Any) -> pd.Series:
    """A column of ``adata.obs``, or a KeyError that lists those there are."""
    check_type(argument, key, str, "the name of a column of adata.obs")
    if key not in adata.obs.columns:
        columns = [c for c in adata.obs.columns if not str(c).startswith("_scvi")]
        raise KeyError(
            f"{argument} must be a column of adata.obs, got {key!r}; available columns: "
            f"{shown(columns, 20) or 'none'}.{near_matches(key, columns)}"
        )
    return adata.obs[key]


def group(values: pd.Series, argument: str, level: Any, key: str) -> np.ndarray:
    """Which cells are of a group, shape ``(n_obs,)``; a ValueError where there are none."""
    from pandas.api.types import is_scalar

    if not is_scalar(level):
        raise TypeError(f"{argument} must be one value of adata.obs[{key!r}], got {level!r}.")
    found = (values == level).to_numpy(dtype=bool, na_value=False)
    if not found.any():
        present = values.dropna().unique()
        raise ValueError(
            f"{argument} must be a value of adata.obs[{key!r}] that at least one cell has, got "
            f"{level!r}; available values: {shown(present, 20) or 'none'}."
            f"{near_matches(level, present)}"
        )
    return found


def representation(adata: AnnData, use_rep: str) -> np.ndarray:
    """A slot of ``obsm`` as finite numbers, shape ``(n_obs, n_dimensions)``."""
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
    """The values, or an error that names what is wrong with them, as the first cell with NaN."""
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        raise TypeError(
            f"{where} must be a dense array of numbers, cells × dimensions, got shape {values.shape} "
            f"of dtype {values.dtype}."
        )
    good = np.isfinite(values).all(axis=1)
    if not good.all():
        raise ValueError(
            f"{where} must be finite, but holds NaN or infinity for cell "
            f"{str(adata.obs_names[np.argmin(good)])!r}; calculate it for every cell."
        )
    return values


def check_trends(trends: Any, name: str = "trends") -> None:
    """Raise unless it is what ``gene_trends`` returns."""
    check_adata(trends, name)
    kind = trends.uns.get(_keys.UNS, {}).get("kind")
    if kind != TRENDS or _keys.T not in trends.obs:
        raise ValueError(
            f"{name} must be what scivae.tl.gene_trends returns, but {name}.uns['civae']['kind'] is "
            f"{kind!r}; call scivae.tl.gene_trends(model, pairs)."
        )
    check_positions(f"{name}.obs[{_keys.T!r}]", trends.obs[_keys.T].to_numpy(dtype=float))
