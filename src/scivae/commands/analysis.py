"""The steps of ``scivae run`` after training: a map, a path, pairs, genes and synthetic cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from .. import _keys
from .._errors import warn
from .request import Request

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..model import CIVAE

# Maximum number of pairs for gene trends, and number of steps of a path.
MAX_PAIRS, N_STEPS = 500, 50
# Number of paths on the map, and their steps.
BUNDLE, BUNDLE_STEPS = 30, 20


def add_umap(adata: AnnData, model: CIVAE, seed: int) -> None:
    """Write the latent representation and its UMAP into ``adata.obsm``."""
    from ..pl.embedding import embed_points

    z = adata.obsm[_keys.LATENT] = model.get_latent_representation()
    adata.obsm["X_umap"] = embed_points(z, "umap", 2, seed)


def ends_of_path(
    adata: AnnData, model: CIVAE, request: Request, label: str | None
) -> tuple[int, int]:
    """Positions of the two ends of the path: the most central cells of the groups, or two distant cells.

    Cells that are classified as their class are preferred, because a path between them stays in the class.
    """
    inside = np.ones(adata.n_obs, dtype=bool)
    z = adata.obsm[_keys.LATENT]
    if label is not None:
        inside = (adata.obs[request.key] == label).to_numpy()
        classes = model.classes.astype(str)[model.linear_classes.predict(z)]
        recognized = inside & (classes == label)
        groups = [inside]
        if request.groupby is not None:
            of_cell = adata.obs[request.groupby]
            groups = [(of_cell == g).to_numpy() for g in (request.source, request.target)]
        if all((recognized & group).sum() > 1 for group in groups):
            inside = recognized
    if request.groupby is None:
        own = np.flatnonzero(inside)
        centered = z[own] - z[own].mean(axis=0)
        along = centered @ np.linalg.svd(centered, full_matrices=False)[2][0]
        order = own[np.argsort(along)]
        first, last = order[len(order) // 20], order[-1 - len(order) // 20]
        return int(first), int(last)
    found = []
    for group in (request.source, request.target):
        own = np.flatnonzero(inside & (adata.obs[request.groupby] == group).to_numpy())
        distance = np.linalg.norm(z[own] - np.median(z[own], axis=0), axis=1)
        found.append(int(own[distance.argmin()]))
    return found[0], found[1]


def pairs_and_paths(
    model: CIVAE, request: Request, label: str | None, pairable: bool
) -> tuple[pd.DataFrame, AnnData]:
    """Pairs of cells, within donors if donors have both groups, and paths between some of them."""
    from .. import tl

    pairs = tl.pair_cells(
        model.adata,
        str(request.groupby),
        request.source,
        request.target,
        label=label,
        labels_key=request.key,
        n_pairs=MAX_PAIRS,
        donor_key=request.donor_key if pairable else None,
        seed=request.seed,
    )
    some = np.random.default_rng(request.seed).permutation(len(pairs))[:BUNDLE]
    ends = (pairs[end].iloc[some].tolist() for end in ("source", "target"))
    bundle = model.interpolate(*ends, n_steps=BUNDLE_STEPS, key_added=None, seed=request.seed)
    return pairs, bundle


def check_path(model: CIVAE, request: Request, pairs: pd.DataFrame) -> pd.DataFrame:
    """The controls of the path; warnings about the cells of the groups were given with the trends."""
    from .. import tl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return tl.check_paths(
            model, pairs, donor_key=request.donor_key, between=request.between, seed=request.seed
        )


def follow_genes(
    model: CIVAE, request: Request, pairs: pd.DataFrame
) -> tuple[AnnData, pd.DataFrame]:
    """Trends of all genes over the pairs, and the table of genes that change."""
    from .. import tl

    trends = tl.gene_trends(
        model, pairs, n_steps=N_STEPS, donor_key=request.donor_key, between=request.between, seed=request.seed
    )  # fmt: skip
    return trends, tl.rank_genes(trends, seed=request.seed)


def augment_classes(model: CIVAE, adata: AnnData, request: Request) -> tuple[AnnData, list[str]]:
    """Synthetic cells of every class with at least two cells, and a warning for each class that fails."""
    import anndata
    import pandas as pd

    sizes = adata.obs[request.key].value_counts()
    # Binary samples of gray pixels are not images, so expected values are used instead.
    sample = not model.module.family.in_unit_interval
    parts, left_out = [], []
    for label in model.classes[[sizes[c] > 1 for c in model.classes]]:
        try:
            parts.append(
                model.augment(label, request.n_synthetic, sample=sample, seed=request.seed)
            )
        except RuntimeError as error:
            left_out.append(f"No synthetic cells of {str(label)!r}: {error}")
            warn(left_out[-1])
    if not parts:
        raise RuntimeError(
            f"at least one class must be augmented, but none of {len(model.classes)} was; train "
            "longer, with --epochs."
        )
    keys = [str(i) for i in range(len(parts))]
    synthetic = anndata.concat(parts, index_unique="-", keys=keys, merge="same")
    classes = pd.concat([part.uns[_keys.UNS]["classes"] for part in parts])
    uns = {**parts[0].uns[_keys.UNS], "classes": classes}
    synthetic.uns.update({**parts[0].uns, _keys.UNS: uns})
    return synthetic, left_out
