"""What a figure asks of what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys
from .._errors import check_positions, near_matches, shown

if TYPE_CHECKING:
    from anndata import AnnData

MAKERS = {
    "trends": "scivae.tl.gene_trends(model, pairs)",
    "generated": "model.interpolate(cell_a, cell_b)",
    "joint": "scivae.tl.embed(adata, path)",
}


def check_anndata(data: Any, argument: str) -> AnnData:
    """Raise a TypeError unless an argument is an AnnData."""
    from anndata import AnnData

    if not isinstance(data, AnnData):
        raise TypeError(f"{argument} must be an AnnData, got {type(data).__name__}.")
    return data


def check_obs(adata: AnnData, columns: Iterable[str], argument: str, maker: str) -> None:
    """Raise a ValueError unless ``obs`` has the columns that ``maker`` writes."""
    missing = [c for c in columns if c not in adata.obs.columns]
    if missing:
        raise ValueError(
            f"{argument} must be made by {MAKERS[maker]}, but {argument}.obs has no column "
            f"{missing[0]!r}; available columns: {shown(adata.obs.columns) or 'none'}."
        )


def check_trends(trends: Any) -> dict[str, Any]:
    """What ``uns`` tells of trends; raise unless they are trends."""
    check_anndata(trends, "trends")
    said = trends.uns.get(_keys.UNS)
    kind = said.get("kind") if isinstance(said, dict) else None
    curves = {_keys.FIT_LAYER, _keys.DECODED_LAYER, _keys.MEAN_LAYER}
    has_curve = any(name in trends.layers for name in curves)
    if kind != "trends" or not has_curve or _keys.T not in trends.obs:
        found = "" if kind is None else f" of kind {kind!r}"
        raise ValueError(
            f"trends must be made by {MAKERS['trends']}, got another AnnData{found} of "
            f"{trends.n_obs} × {trends.n_vars}."
        )
    check_positions(f"trends.obs[{_keys.T!r}]", trends.obs[_keys.T].to_numpy(dtype=float))
    return dict(said)


def check_genes(adata: AnnData, genes: str | Sequence[str], argument: str = "genes") -> list[str]:
    """Names of genes as a list; a KeyError names the first that is not there."""
    names = [genes] if isinstance(genes, str) else [str(g) for g in genes]
    if not names:
        raise ValueError(f"{argument} must name at least one gene, got none.")
    known = set(adata.var_names)
    for name in names:
        if name not in known:
            raise KeyError(
                f"{argument} must be among the {adata.n_vars} var_names, got {name!r}."
                f"{near_matches(name, adata.var_names)}"
            )
    return names


def check_basis(adata: AnnData, basis: str, dimensions: Sequence[int], cure: str) -> np.ndarray:
    """Coordinates of an embedding, shape ``(n_obs, len(dimensions))``."""
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
            f"dimensions must lie in [0, {points.shape[1] - 1}] for basis {basis!r}, got {wrong[0]}."
        )
    return points[:, list(dimensions)].astype(float)


def check_paths(names: Sequence[str], asked: str | int | Sequence[str | int] | None) -> list[str]:
    """Names of the paths asked for, by name or position; ``None`` stands for all."""
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
        raise ValueError("paths must name at least one path, got none.")
    return chosen


def check_count(name: str, value: Any, *, minimum: int = 1) -> int:
    """The value as an int; raise unless it is an integer of at least ``minimum``."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__}).")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")
    return int(value)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise a ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {shown(choices)}, got {value!r}.{near_matches(value, choices)}"
        )
