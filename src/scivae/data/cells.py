"""Which cells are meant by names and positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from .._errors import near_matches
from .._names import as_text


def resolve_cells(adata: AnnData, cells: Any, argument: str) -> np.ndarray:
    """Positions of cells given by obs names or positions, one or several.

    Parameters
    ----------
    adata
        Where the cells are.
    cells
        A name, an integer position, or a sequence of them.
    argument
        What to call ``cells`` in an error.

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
    raise TypeError(
        f"{argument} must hold obs names (str) or positions (int), not both, got "
        f"{', '.join(kinds)}; use one of the two for all cells."
    )


def resolve_indices(adata: Any, indices: Any, argument: str = "indices") -> np.ndarray:
    """Positions of cells given by positions or a mask, shape ``(n,)``; all cells for ``None``.

    Parameters
    ----------
    adata
        What has ``n_obs`` cells.
    indices
        The cells.
    argument
        What to call ``indices`` in an error.
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
            f"{near_matches(unknown[0], names)}"
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
