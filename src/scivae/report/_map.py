"""Data of the interactive map, which the script of the report draws."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shortened, shown
from ..pl.embedding import embed_points
from ._quality import some

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

# Code of missing values: the largest number of two bytes.
MISSING = 2**16 - 1
# Largest number of values of a column with a legend.
MAX_LEVELS = 60
# Largest number of paths that are drawn.
MAX_PATHS = 60
# Names are shortened to this number of letters.
MAX_LETTERS = 60


def cells_map(
    joint: AnnData,
    cells: AnnData,
    basis: str,
    columns: list[str],
    t: pd.Series | None,
    seed: int,
) -> dict[str, Any]:
    """Coordinates, names, colors and paths, in the format of the script.

    Parameters
    ----------
    joint
        Real and generated cells on the embedding, real ones first.
    cells
        The real cells.
    basis
        Slot of the embedding.
    columns
        Columns of ``obs`` to color by.
    t
        Position of cells along the path by name; ``None`` without paths.
    seed
        Seed of the random order in which cells are drawn, so that no class covers another.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    points = np.asarray(joint.obsm[basis], dtype=float)[:, :2]
    n = cells.n_obs
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = np.round((points - low) / np.where(high > low, high - low, 1) * (MISSING - 1))
    order = np.random.default_rng(seed).permutation(n)
    names = cells.obs_names.astype(str).to_numpy()[order]
    found = [_category(cells, key, order) for key in columns]
    if t is not None:
        value = t.reindex(cells.obs_names.astype(str)).to_numpy(dtype=float)[order]
        code = np.where(np.isfinite(value), np.round(np.clip(value, 0, 1) * 1000), MISSING)
        found.append(
            {"name": "position along the path, t", "kind": "number", "codes": _bytes(code)}
        )
    return {
        "n": n,
        "x": _bytes(scaled[:n, 0][order]),
        "y": _bytes(scaled[:n, 1][order]),
        "aspect": float(np.clip((high - low)[1] / max((high - low)[0], 1e-12), 0.5, 1.2)),
        "names": [_short(name) for name in names],
        "columns": found,
        "scale": [to_hex(c) for c in colormaps["viridis"](np.linspace(0, 1, 33))],
        "paths": _paths(joint, scaled, n),
    }


def _bytes(values: np.ndarray) -> str:
    """Whole numbers as two bytes each, in base64."""
    return b64encode(np.asarray(values).astype("<u2").tobytes()).decode("ascii")


def _short(text: Any) -> str:
    return shortened(str(text), MAX_LETTERS)


def _category(cells: AnnData, key: str, order: np.ndarray) -> dict[str, Any]:
    """A column as codes, levels and colors."""
    from ..pl import category_colors

    column = cells.obs[key]
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object).map(str, na_action="ignore").astype("category")
    levels = list(column.cat.categories)
    colors = category_colors(levels, cells.uns, key)
    codes = column.cat.codes.to_numpy().astype(int)[order]
    return {
        "name": key,
        "kind": "category",
        "levels": [_short(level) for level in levels],
        "sizes": np.bincount(codes[codes >= 0], minlength=len(levels)).tolist(),
        "colors": [_hex(colors[level]) for level in levels],
        "codes": _bytes(np.where(codes < 0, MISSING, codes)),
    }


def _hex(color: Any) -> str:
    """A color in hexadecimal; gray if the AnnData has no valid color."""
    from matplotlib.colors import to_hex

    try:
        return to_hex(color)
    except ValueError:
        return "#9a9a9a"


def columns_of(cells: AnnData, keys: list[str | None]) -> list[str]:
    """Columns that exist and have few enough values for a legend."""
    found = []
    for key in dict.fromkeys(keys):
        if key is not None and key in cells.obs and cells.obs[key].nunique() <= MAX_LEVELS:
            found.append(key)
    return found


def _paths(joint: AnnData, scaled: np.ndarray, n: int) -> list[list[int]]:
    """Points of each path, x and y in turn."""
    if _keys.PATH not in joint.obs:
        return []
    obs = joint.obs.iloc[n:]
    walked = (obs[_keys.KIND].astype(str) == _keys.INTERPOLATED).to_numpy()
    names = obs[_keys.PATH].astype(str).to_numpy()
    t = obs[_keys.T].to_numpy(dtype=float)
    out = []
    for name in list(dict.fromkeys(names[walked]))[:MAX_PATHS]:
        rows = np.flatnonzero(walked & (names == name))
        rows = rows[np.argsort(t[rows], kind="stable")]
        out.append(scaled[n + rows].astype(int).ravel().tolist())
    return out


def on_map(model: CIVAE, adata: AnnData, max_cells: int, seed: int) -> tuple[AnnData, str]:
    """Some of the cells, without values, with their latent points and an embedding in ``obsm``."""
    from anndata import AnnData

    rows = some(np.arange(adata.n_obs), max_cells, seed)
    z = np.asarray(model.get_latent_representation(indices=rows))
    basis = "X_umap"
    if basis in adata.obsm and np.isfinite(np.asarray(adata.obsm[basis])[rows]).all():
        places = np.asarray(adata.obsm[basis])[rows][:, :2]
    else:
        places = _embedded(z, seed)
    obs = adata.obs.iloc[rows]
    colors = {k: v for k, v in adata.uns.items() if str(k).endswith("_colors")}
    small = AnnData(
        obs=obs[[c for c in obs if not str(c).startswith("_scvi")]].copy(),
        var=pd.DataFrame(index=adata.var_names),
        obsm={_keys.LATENT: z, basis: places},
        uns=colors,
    )
    return small, basis


def _embedded(z: np.ndarray, seed: int) -> np.ndarray:
    """A map of latent points, shape ``(n, 2)``."""
    if len(z) < 10 or z.shape[1] <= 2:
        return np.pad(z[:, :2], ((0, 0), (0, max(0, 2 - z.shape[1]))))
    return embed_points(z, "umap", 2, seed)


def joined(small: AnnData, basis: str, paths: AnnData | None) -> AnnData | None:
    """Cells and paths on the embedding, without expression values."""
    from anndata import AnnData

    from .. import tl

    if paths is None:
        return None
    bare = AnnData(
        obs=paths.obs,
        var=pd.DataFrame(index=paths.var_names),
        obsm={_keys.LATENT: np.asarray(paths.obsm[_keys.LATENT])},
        uns={_keys.UNS: paths.uns[_keys.UNS]},
    )
    missing = bare.var_names.difference(small.var_names)
    if len(missing):
        raise ValueError(
            f"paths must be of this model, but {len(missing)} of their genes are not among its own "
            f"({shown(missing, 3)}); pass what this model's interpolate returns."
        )
    return tl.embed(small, bare, basis=basis)
