"""Place real cells along generated paths, and embed real and generated cells together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shown
from .._names import as_text
from .._progress import track
from .._validate import tables
from .._validate.arguments import check_integer, check_key
from ._model import check_model

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

# A generated end and its cell agree up to float32 rounding errors; this is the relative tolerance.
_TOLERANCE = 1e-3
# Number of cells per step of the progress bar.
_ROWS = 4096


def project(
    adata: AnnData,
    path: AnnData,
    *,
    model: CIVAE | None = None,
    use_rep: str = _keys.LATENT,
    n_neighbors: int = 15,
    key_added: str | None = _keys.KEY_ADDED,
) -> pd.DataFrame:
    """Find the positions of real cells along a path.

    Parameters
    ----------
    adata
        Real cells.
    path
        One or several paths, as :meth:`scivae.model.CIVAE.interpolate` returns them; or trends of
        measured cells (:func:`gene_trends`), whose mean path is the axis.
    model
        Encode the cells with this model, instead of reading ``use_rep``.
    use_rep
        Slot of ``obsm`` with the latent representation of the cells, by the model of the path.
    n_neighbors
        Number of neighbors of a cell for ``share``.
    key_added
        Prefix of the columns that are written; ``None`` writes nothing.

    Returns
    -------
    DataFrame with one row per cell, also written to ``adata.obs``:

    - ``<key_added>_t``: position of the nearest point on any of the paths, in [0, 1]
    - ``<key_added>_distance``: distance to that point in latent space. The position of a cell far from
      the path means little
    - ``<key_added>_share``: fraction of points of the path among the ``n_neighbors`` nearest real and
      generated points, without the cell itself. If real cells are as dense as the path, it is about
      one half; near 0, the path does not pass here. Not for trends

    Raises
    ------
    KeyError
        If the representation does not exist.
    ValueError
        If the path is not from ``interpolate``, or from another model: other dimensions, other genes,
        or ends that do not match the latent points of their cells.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> path = model.interpolate(0, 5, n_steps=11)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> places = scivae.tl.project(adata, path)
    >>> list(places.columns)
    ['civae_t', 'civae_distance', 'civae_share']
    """
    from .. import geometry

    tables.check_adata("adata", adata)
    n_neighbors = check_integer("n_neighbors", n_neighbors, minimum=1)
    if key_added is not None:
        check_key("key_added", key_added)
    if model is not None:
        check_model(model)
        real = np.asarray(model.get_latent_representation(adata))
    else:
        real = tables.representation(adata, use_rep)
    is_trends = getattr(path, "uns", {}).get(_keys.UNS, {}).get("kind") == tables.TRENDS
    if is_trends:
        return _on_axis(adata, path, real, key_added)
    generated = generated_latent(adata, path, real, "path")
    missing = [key for key in (_keys.PATH, _keys.T) if key not in path.obs]
    if missing:
        raise ValueError(
            f"path needs {shown(missing)} in its obs, which model.interpolate writes; "
            "synthetic cells of model.augment are not on a common path."
        )
    t, distance = np.empty(adata.n_obs), np.full(adata.n_obs, np.inf)
    for points, steps in _walks(path, generated):
        found = geometry.project_to_polyline(real, points)
        # The projection gives positions in steps; the user may have removed steps of a path.
        n_steps = points.shape[1]
        place = found.t * (n_steps - 1)
        before = np.minimum(place.astype(int), n_steps - 2)
        low, high = steps[found.path, before], steps[found.path, before + 1]
        nearer = found.distance < distance
        t[nearer] = (low + (place - before) * (high - low))[nearer]
        distance[nearer] = found.distance[nearer]

    both = np.concatenate([real, generated])
    k = min(n_neighbors, len(both) - 1)
    index = nearest(both, real, k + 1)[1]
    itself = index == np.arange(len(real))[:, None]
    itself[~itself.any(axis=1), -1] = True  # duplicates of the cell: leave out any one
    share = (index[~itself].reshape(len(real), k) >= len(real)).mean(axis=1)

    key = _keys.KEY_ADDED if key_added is None else key_added
    places = pd.DataFrame(
        {_keys.t_key(key): t, _keys.distance_key(key): distance, _keys.share_key(key): share},
        index=adata.obs_names,
    )
    if key_added is not None:
        for name in places:
            adata.obs[name] = places[name].to_numpy()
    return places


def _on_axis(
    adata: AnnData, trends: AnnData, real: np.ndarray, key_added: str | None
) -> pd.DataFrame:
    """Position and distance of cells on the mean path that trends were fitted on."""
    from ._placing import Axis

    said = trends.uns[_keys.UNS]
    if "axis" not in said:
        raise ValueError(
            "trends must be of measured cells to place others, but evidence is "
            f"{said.get('evidence')!r}; call scivae.tl.gene_trends(model, pairs)."
        )
    axis = Axis.from_table(said["axis"], said["distance_scale"])
    if axis.points.shape[1] != real.shape[1]:
        raise ValueError(
            f"trends and adata must be from the same model, but trends have "
            f"{axis.points.shape[1]} latent dimensions, adata has {real.shape[1]}; pass cells and "
            "trends of the same model."
        )
    t, distance = axis.place(real)
    key = _keys.KEY_ADDED if key_added is None else key_added
    places = pd.DataFrame(
        {_keys.t_key(key): t, _keys.distance_key(key): distance}, index=adata.obs_names
    )
    if key_added is not None:
        for name in places:
            adata.obs[name] = places[name].to_numpy()
    return places


def nearest(points: np.ndarray, of: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and positions of the ``k`` nearest points for each of ``of``, shape ``(len(of), k)``."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=k).fit(points)
    blocks = [of[first : first + _ROWS] for first in range(0, len(of), _ROWS)]
    found = [index.kneighbors(b) for b in track(blocks, "finding neighbors", unit="blocks")]
    return np.concatenate([d for d, _ in found]), np.concatenate([i for _, i in found])


def generated_latent(adata: AnnData, generated: AnnData, real: np.ndarray, name: str) -> np.ndarray:
    """Latent points of generated cells, after a check that they come from the model of the real cells."""
    tables.check_adata(name, generated)
    if _keys.LATENT not in generated.obsm:
        raise ValueError(
            f"{name} must be generated cells, but {name}.obsm has no {_keys.LATENT!r}; pass "
            "what model.interpolate or model.augment returns."
        )
    if generated.n_obs == 0:
        raise ValueError(
            f"{name} must hold at least one cell, got none; check the filter that made it."
        )
    latent = tables.finite(
        np.asarray(generated.obsm[_keys.LATENT]), generated, f"{name}.obsm[{_keys.LATENT!r}]"
    )
    elsewhere = f"{name} is of another model than the representation of adata: "
    cure = "pass cells of the model whose get_latent_representation() adata holds."
    if latent.shape[1] != real.shape[1]:
        raise ValueError(
            f"{elsewhere}it has {latent.shape[1]} latent dimensions, adata has {real.shape[1]}; "
            f"{cure}"
        )
    genes = pd.Index(as_text(generated.var_names))
    foreign = genes[~genes.isin(as_text(adata.var_names))]
    if len(foreign):
        raise ValueError(
            f"{elsewhere}{len(foreign)} of its {generated.n_vars} genes are not in adata "
            f"({shown(foreign, 3)}); {cure}"
        )
    names = pd.Index(as_text(adata.obs_names))
    if {_keys.T, _keys.SOURCE, _keys.TARGET} <= set(generated.obs) and names.is_unique:
        for key, t in ((_keys.SOURCE, 0.0), (_keys.TARGET, 1.0)):
            rows = np.flatnonzero(generated.obs[_keys.T].to_numpy() == t)
            cells = names.get_indexer(generated.obs[key].astype(str).to_numpy()[rows])
            rows, cells = rows[cells >= 0], cells[cells >= 0]
            gap = np.abs(latent[rows] - real[cells]).max(axis=1, initial=0)
            if rows.size and gap.max() > _TOLERANCE * max(1.0, float(np.abs(real).max())):
                raise ValueError(
                    f"{elsewhere}the end at cell {str(adata.obs_names[cells[gap.argmax()]])!r} is "
                    f"{gap.max():.3g} away from that cell; {cure}"
                )
    return latent


def _walks(path: AnnData, latent: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of paths of equal length: points ``(n, n_steps, n_latent)`` and t ``(n, n_steps)``."""
    names = path.obs[_keys.PATH].astype(str).to_numpy()
    t = path.obs[_keys.T].to_numpy(dtype=float)
    if not np.isfinite(t).all():
        raise ValueError(
            f"path.obs[{_keys.T!r}] must be finite, but {int((~np.isfinite(t)).sum())} of "
            f"{len(t)} rows are NaN; keep only the rows of the path."
        )
    # The same two cells can be connected twice, so a new path also begins where t decreases.
    begins = np.flatnonzero(np.r_[True, (names[1:] != names[:-1]) | (t[1:] <= t[:-1])])
    ends = np.r_[begins[1:], len(t)]
    lengths = ends - begins
    out = []
    for n_steps in np.unique(lengths):
        if n_steps == 1:  # a single point is a path of length zero
            rows = np.repeat(begins[lengths == 1][:, None], 2, axis=1)
        else:
            rows = begins[lengths == n_steps][:, None] + np.arange(n_steps)
        out.append((latent[rows], t[rows]))
    return out
