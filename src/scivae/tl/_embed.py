"""Real and generated cells on one embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shown
from .._names import as_text, layer_names, native_text, same_names
from .._storage import in_memory
from .._validate import tables
from .._validate.arguments import check_integer

if TYPE_CHECKING:
    from anndata import AnnData

from ._project import generated_latent, nearest


def embed(
    adata: AnnData,
    generated: AnnData,
    *,
    basis: str = "umap",
    use_rep: str = _keys.LATENT,
    n_neighbors: int = 15,
    reducer: Any = None,
) -> AnnData:
    """Put generated cells into the embedding that real cells already have.

    Parameters
    ----------
    adata
        Real cells, with an embedding of their latent representation.
    generated
        Cells from :meth:`~scivae.model.CIVAE.interpolate` or :meth:`~scivae.model.CIVAE.augment`.
    basis
        The embedding: ``obsm["X_umap"]`` for ``"umap"``.
    use_rep
        Slot of ``obsm`` with the latent representation of the real cells.
    n_neighbors
        Number of real neighbors from which the position of a generated cell is calculated.
    reducer
        A ``umap.UMAP``, or another object with ``transform``, that was fitted to ``adata.obsm[use_rep]``.
        It then places the generated cells. ``scanpy.tl.umap`` does not return one.

    Returns
    -------
    AnnData of the real cells followed by the generated ones, with the genes of ``generated``. It has ``X``
    and the layers that both have, ``obs`` (``civae_kind`` is ``real`` for real cells), the latent
    representation ``obsm["X_civae"]`` and the embedding. Coordinates of real cells are unchanged, bit
    for bit. ``uns`` has the colors of ``adata`` and, under ``civae``, how the cells were made.

    Raises
    ------
    KeyError
        If the embedding or the representation does not exist.
    ValueError
        If the cells come from another model: other dimensions, other genes, or ends of paths that do not
        match the latent points of their cells.

    Notes
    -----
    Cells are placed by z, not by their expression, because decoded *means* do not resemble real cells in gene
    space. Without a ``reducer``, a cell is placed at the mean position of its nearest real cells in
    latent space, weighted by one over their distance. So every cell lies among real cells, and a path
    that leaves the data appears at their edge.

    Examples
    --------
    >>> import scanpy as sc
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> joint = scivae.tl.embed(adata, model.interpolate(0, 5, n_steps=11), basis="umap")
    >>> joint.shape
    (711, 765)
    """
    import anndata

    tables.check_adata("adata", adata)
    n_neighbors = check_integer("n_neighbors", n_neighbors, minimum=1)
    if reducer is not None and not hasattr(reducer, "transform"):
        raise TypeError(
            f"reducer must have a method transform, got {type(reducer).__name__}; pass, for example, "
            "a fitted umap.UMAP, or None."
        )
    slot = basis if basis in adata.obsm else f"X_{basis}"
    if slot not in adata.obsm:
        raise KeyError(
            f"basis must name an embedding in adata.obsm, but {slot!r} is not among "
            f"{shown(adata.obsm.keys()) or 'no slots'}; run scanpy.pp.neighbors(adata, "
            f"use_rep={use_rep!r}) and scanpy.tl.umap(adata) first."
        )
    real = tables.representation(adata, use_rep)
    coordinates = np.asarray(adata.obsm[slot])
    latent = generated_latent(adata, generated, real, "generated")
    if reducer is not None:
        placed = np.asarray(reducer.transform(latent))
        if placed.shape != (len(latent), coordinates.shape[1]):
            raise ValueError(
                f"reducer must place {len(latent)} cells in {coordinates.shape[1]} dimensions, as "
                f"adata.obsm[{slot!r}] has, got shape {placed.shape}; pass the reducer that made it."
            )
    else:
        k = min(n_neighbors, len(real))
        distance, index = nearest(real, latent, k)
        # A generated cell at the latent point of a real one gets its position.
        weight = 1 / np.maximum(distance, 1e-6 * max(float(distance.max()), 1e-30))
        weight /= weight.sum(axis=1, keepdims=True)
        placed = (weight[:, :, None] * coordinates[index]).sum(axis=1)

    genes = generated.var_names
    order = pd.Index(as_text(adata.var_names)).get_indexer(as_text(genes))
    kept = slice(None) if same_names(genes, adata.var_names) else order
    layers = {
        name: _stack(adata.layers[name][:, kept], generated.layers[name])
        for name in layer_names(adata)
        if name in generated.layers
    }
    x = None
    if adata.X is not None and generated.X is not None:
        x = _stack(adata.X[:, kept], generated.X)
    uns = {
        key: value
        for key, value in {**generated.uns, **adata.uns}.items()
        if str(key).endswith("_colors")
        or (key == "log1p" and key in generated.uns and key in adata.uns)
    }
    if _keys.UNS in generated.uns:
        uns[_keys.UNS] = {
            key: native_text(value) if isinstance(value, pd.DataFrame) else value
            for key, value in generated.uns[_keys.UNS].items()
        }
    return anndata.AnnData(
        X=x,
        obs=native_text(_join_obs(adata, generated)),
        var=native_text(adata.var.iloc[order]),
        layers=layers,
        obsm={
            _keys.LATENT: np.concatenate([real, latent.astype(real.dtype)]),
            slot: np.concatenate([coordinates, placed.astype(coordinates.dtype)]),
        },
        uns=uns,
    )


def _stack(real: Any, generated: Any) -> Any:
    """Rows of both, sparse if the real ones are."""
    from scipy import sparse

    real = in_memory(real)
    if sparse.issparse(real):
        return sparse.vstack([real, sparse.csr_matrix(generated)], format="csr")
    if sparse.issparse(generated):
        generated = generated.toarray()
    return np.concatenate([np.asarray(real), np.asarray(generated)])


def _join_obs(adata: AnnData, generated: AnnData) -> pd.DataFrame:
    """Annotation of both; categories of the real cells first, their order kept."""
    first = adata.obs[[c for c in adata.obs if not str(c).startswith("_scvi")]].copy()
    second = generated.obs.copy()
    first[_keys.KIND] = _keys.REAL
    if _keys.KIND not in second:
        second[_keys.KIND] = _keys.AUGMENTED
    taken = pd.Index(second.index).isin(first.index)
    if taken.any():
        second.index = pd.Index(
            [f"{n}-generated" if t else n for n, t in zip(second.index, taken, strict=True)]
        )
    columns = {
        key: _join_column(first.get(key), second.get(key), len(first), len(second))
        for key in [*first.columns, *(c for c in second.columns if c not in first)]
    }
    obs = pd.DataFrame(columns, index=first.index.append(second.index))
    obs[_keys.KIND] = pd.Categorical(obs[_keys.KIND])
    return obs


def _join_column(real: Any, generated: Any, n_real: int, n_generated: int) -> Any:
    """One column of both, with their common dtype; missing values where one lacks the column."""
    if real is not None and generated is not None and real.dtype == generated.dtype:
        return pd.concat([real, generated]).array
    found = [part for part in (real, generated) if part is not None]
    if len(found) == 1 and not pd.api.types.is_bool_dtype(found[0].dtype):
        rows = np.arange(n_real + n_generated) - (0 if generated is None else n_real)
        rows[(rows < 0) | (rows >= len(found[0]))] = -1
        # Keeps categories and extension types; integers become floats if some are missing.
        return found[0].reset_index(drop=True).reindex(rows).array
    parts = [
        pd.Series(np.full(n, np.nan, dtype=object)) if part is None else part.astype(object)
        for part, n in ((real, n_real), (generated, n_generated))
    ]
    values = pd.concat(parts)
    kinds = [part.dtype for part in found]
    categories = [k.categories for k in kinds if isinstance(k, pd.CategoricalDtype)]
    if categories:
        levels = list(dict.fromkeys(level for c in categories for level in c))
        levels += [v for v in pd.unique(values.dropna()) if v not in set(levels)]
        ordered = isinstance(kinds[0], pd.CategoricalDtype) and bool(kinds[0].ordered)
        return pd.Categorical(values, categories=levels, ordered=ordered)
    if all(pd.api.types.is_bool_dtype(k) for k in kinds):
        return pd.array(values, dtype="boolean" if values.hasnans else "bool")
    if all(pd.api.types.is_numeric_dtype(k) for k in kinds):
        return pd.to_numeric(values).to_numpy()
    return values.to_numpy()
