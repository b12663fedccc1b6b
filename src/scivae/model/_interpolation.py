"""The method ``interpolate``: paths between cells, as an AnnData."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from .. import _keys, geometry
from .._errors import warn
from .._progress import advance, progress, track
from .._validate.arguments import check_choice, check_integer, check_number, check_trained
from ..data import checks
from ..data.checks import resolve_cells
from ..data.generated import (
    as_categories,
    assemble,
    check_uns,
    crossings_table,
    distinct,
    provenance,
    safe_key,
    storable,
)
from ..geometry.methods import PATH_METHODS
from ..module import (
    CIVAEModule,
    Covariates,
    Mixture,
    decoded_blocks,
    interpolate_covariates,
    likelihood,
)
from ._base import CellsModel
from .paths import Paths, encode_ends

# Most values in memory while quantiles over samples are computed.
VALUES_PER_BLOCK = 2**25


@checks.leaves_unchanged
def interpolate(
    self: CellsModel,
    cell_a: str | int | Sequence[str] | Sequence[int],
    cell_b: str | int | Sequence[str] | Sequence[int],
    *,
    n_steps: int = 50,
    method: Literal["linear", "spherical", "geodesic"] = "linear",
    adata: AnnData | None = None,
    key_added: str | None = _keys.KEY_ADDED,
    transform_batch: Any = None,
    library_size: float | None = None,
    n_samples: int | None = None,
    seed: int = 0,
) -> AnnData:
    """Trace a path from one cell to another through latent space.

    Parameters
    ----------
    cell_a, cell_b
        Start and end of each path: obs names, integer positions, or sequences of equal length.
    n_steps
        Points per path, both ends included.
    method
        ``"linear"``: the straight line. If both ends are classified as one class, it never leaves it.
        ``"spherical"``: a great circle between the directions of z. ``"geodesic"``: a shortest path
        through regions with many cells, inside the class if both ends have the same class.
    adata
        Cells to connect; ``None`` for the training data.
    key_added
        Name under which the path is written back into the AnnData; ``None`` writes nothing.
    transform_batch
        Decode all points as cells of this batch. ``None``: the batch of the ends. If the ends
        differ in batch or in a categorical covariate, a point is a mixture of the values decoded
        for each end, in proportions ``1 - t`` and ``t``, and its ``obs`` has the values of the
        nearer end. Continuous covariates are interpolated linearly.
    library_size
        Total counts of every point. ``None``: interpolated between the ends on the log scale.
    n_samples
        Number of samples from the posteriors of the ends and from the likelihood; their 5 % and 95
        % quantiles are the layers ``q05`` and ``q95``. ``None``: no quantiles.
    seed
        Seed of these draws.

    Returns
    -------
    AnnData with ``n_pairs · n_steps`` rows of expected values, path by path. ``obs`` has the
    position ``civae_t``, the path ``civae_path``, its ends ``civae_source`` and ``civae_target``,
    the predicted class ``civae_predicted``, and ``civae_margin``: the logit of the class of the
    path minus the largest other logit. The class of a path is the class of its source. Genes keep
    their annotation (``var``, ``varm``), and columns of the setup keep their dtypes and colors, so
    the result can be concatenated with ``adata``.

    Written to ``adata``: ``obs[key_added + "_t"]``, the position along the nearest path of each
    real cell of the classes at the ends; and ``uns[key_added]["paths"]``, with the tables ``pairs``
    (ends and labels, one row per path), ``points`` (path, t, margin and z, one row per point) and
    ``crossings`` (where a path changes class), and the ``parameters``, for each call.

    Raises
    ------
    KeyError, IndexError
        If a cell does not exist.
    ValueError
        If ``cell_a`` and ``cell_b`` differ in length, or an argument is out of its range.

    Warns
    -----
    UserWarning
        If both ends of a path have the same label but one is classified differently: the line then
        begins or ends outside the class.

    Notes
    -----
    Margins and class crossings of straight paths are exact, because the difference of two logits is
    linear in t on a line.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> path = model.interpolate(0, 5, n_steps=11)
    >>> path.shape
    (11, 765)
    """
    check_trained(self)
    n_steps = check_integer("n_steps", n_steps, minimum=2)
    check_choice("method", method, PATH_METHODS)
    seed = check_integer("seed", seed, minimum=0)
    if n_samples is not None:
        n_samples = check_integer("n_samples", n_samples, minimum=2)
    if library_size is not None:
        check_number("library_size", library_size)
    adata = self._validate_anndata(adata, every_row=False)
    self._warn_of_changed_columns(adata)
    check_uns(adata, key_added)
    _check_position(adata, key_added)
    for argument, cells in (("cell_a", cell_a), ("cell_b", cell_b)):
        if isinstance(cells, str) and cells in self.classes and cells not in adata.obs_names:
            raise KeyError(
                f"{argument} must be a cell, but {cells!r} is a class; pass one of its cells, or pair those "
                "of two groups with scivae.tl.pair_cells."
            )
    a, b = resolve_cells(adata, cell_a, "cell_a"), resolve_cells(adata, cell_b, "cell_b")
    if len(a) != len(b):
        raise ValueError(
            f"cell_a and cell_b must name the same number of cells, got {len(a)} and {len(b)}; "
            "repeat a cell to use it several times."
        )
    if len(same := np.flatnonzero(a == b)):
        warn(
            f"{len(same)} of {len(a)} paths begin and end at the same cell, such as "
            f"{str(adata.obs_names[a[same[0]]])!r}, so all of their steps are alike; choose two cells."
        )

    batch = None if transform_batch is None else self.setup.batch_code(transform_batch)
    codec = self.codec
    start, end = encode_ends(codec, adata, a, b, batch=batch, library_size=library_size)
    paths = Paths(codec, start, end, np.linspace(0.0, 1.0, n_steps), method, adata)
    sources, targets = adata.obs_names[a].astype(str), adata.obs_names[b].astype(str)
    _warn_if_misclassified(self, paths, sources, targets)
    names = pd.Index(distinct([f"{x} → {y}" for x, y in zip(sources, targets, strict=True)]))
    obs = _path_obs(self, adata, paths, sources, targets, names)
    values, layers = _path_values(self, paths, n_samples, seed)
    details = {
        "kind": _keys.INTERPOLATED,
        "values": "expected",
        "method": method,
        "n_steps": n_steps,
        "n_samples": n_samples,
        "seed": seed,
        "library_size": library_size,
        "transform_batch": None if transform_batch is None else str(transform_batch),
    }
    uns = provenance(self.init_params_["non_kwargs"], **details)
    generated = assemble(
        values,
        real=adata,
        setup=self.setup,
        obs=obs,
        latent=paths.points.reshape(len(obs), -1),
        counts=paths.counts,
        uns=uns,
        layers=layers,
    )
    if key_added is not None:
        _write_back(self, adata, key_added, paths, sources, targets, details)
    return generated


def _warn_if_misclassified(
    model: CellsModel, paths: Paths, sources: pd.Index, targets: pd.Index
) -> None:
    """Warn about same-class paths that begin or end outside their class."""
    classes = model.linear_classes
    found = {}
    for encoded, names in ((paths.start, sources), (paths.end, targets)):
        predicted = classes.predict(encoded.mean)
        wrong = paths.within & (predicted != paths.start_class)
        for i in np.flatnonzero(wrong).tolist():
            found[names[i]] = (
                f"{names[i]!r} is labeled {str(model.classes[paths.start_class[i]])!r} but "
                f"classified as {str(model.classes[predicted[i]])!r}"
            )
    if found:
        more = f" (and {len(found) - 3} more cells)" if len(found) > 3 else ""
        warnings.warn(
            f"a path stays in its class only if both ends are classified as it, but "
            f"{'; '.join(list(found.values())[:3])}{more}. Choose other ends, or see "
            "obs['civae_predicted'] for the class of each step.",
            UserWarning,
            stacklevel=4,
        )


def _path_obs(
    model: CellsModel,
    adata: AnnData,
    paths: Paths,
    sources: pd.Index,
    targets: pd.Index,
    names: pd.Index,
) -> pd.DataFrame:
    """Annotation of every row."""
    classes = model.linear_classes
    pair, t = paths.rows
    n_pairs, n_steps = paths.points.shape[:2]
    index = pd.Index([f"path_{i}_step_{j}" for i in range(n_pairs) for j in range(n_steps)])
    predicted = classes.predict(paths.points)
    # Between two cells of a class, all steps have its label if the method keeps paths in their class.
    kept = paths.within if paths.method.stays_in_class else np.zeros_like(paths.within)
    label = np.where(kept[:, None], paths.start_class[:, None], predicted)
    label[:, 0], label[:, -1] = paths.start_class, paths.end_class
    obs = model.setup.obs(_nearer(paths), index, adata.obs)
    obs[model.setup.labels_key] = model.setup.class_column(label.ravel(), adata.obs)
    obs[_keys.KIND] = _keys.INTERPOLATED
    obs[_keys.PATH] = names[pair]
    obs[_keys.T] = t
    obs[_keys.SOURCE] = sources[pair]
    obs[_keys.TARGET] = targets[pair]
    obs[_keys.PREDICTED] = model.setup.class_column(predicted.ravel(), adata.obs)
    obs[_keys.MARGIN] = paths.margins(classes).ravel()
    return as_categories(obs)


def _nearer(paths: Paths) -> Covariates:
    """Library sizes and covariates of every point, with the categories of the nearer end."""
    pair, t = paths.rows
    start, end = paths.start.covariates.take(pair), paths.end.covariates.take(pair)
    return interpolate_covariates(start, end, t)


def _path_values(
    model: CellsModel, paths: Paths, n_samples: int | None, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Expected values of every row and, with ``n_samples``, their quantiles."""
    pair, t = paths.rows
    z = paths.points.reshape(len(t), -1)
    covariates = paths.covariates(pair, t)
    values = np.empty((len(z), model.module.n_input), dtype=np.float32)
    layers: dict[str, np.ndarray] = {}
    with model.codec.evaluating() as module:
        with progress("decoding paths", len(z), unit="cells"):
            for rows, mean in decoded_blocks(module, z, covariates):
                values[rows] = mean
                advance(len(mean))
        if n_samples is not None:
            low, high = _bands(module, paths, covariates, n_samples, seed)
            layers = {_keys.Q05_LAYER: low, _keys.Q95_LAYER: high}
    return values, layers


def _check_position(adata: AnnData, key_added: str | None) -> None:
    """Raise if the column of positions already exists and was not written by scivae."""
    if key_added is None:
        return
    column, by_project = _keys.t_key(key_added), _keys.distance_key(key_added)
    if column in adata.obs and key_added not in adata.uns and by_project not in adata.obs:
        raise ValueError(
            f"adata.obs[{column!r}] already exists and was not written by scivae; pass another "
            "key_added."
        )


def _write_back(
    model: CellsModel,
    adata: AnnData,
    key_added: str,
    paths: Paths,
    sources: pd.Index,
    targets: pd.Index,
    details: dict[str, Any],
) -> None:
    """Write the paths to ``uns`` and the positions of real cells to ``obs``."""
    classes = model.linear_classes
    codes = np.asarray(adata.obs[checks.LABEL_CODES])
    position = np.full(adata.n_obs, np.nan)
    ends = paths.points[:, [0, -1]] if details["method"] == "linear" else paths.points
    for code in np.unique(np.concatenate([paths.start_class, paths.end_class])):
        cells = np.flatnonzero(codes == code)
        own = (paths.start_class == code) | (paths.end_class == code)
        if cells.size:
            z = model.codec.encode(adata, cells).mean
            position[cells] = geometry.project_to_polyline(z, ends[own]).t
    # Tables rather than a dict of arrays, which would print every number.
    pair, t = paths.rows
    points = pd.DataFrame({"path": pair, "t": t, "margin": paths.margins(classes).ravel()})
    latent = paths.points.reshape(len(points), -1).astype(np.float32)
    entry = {
        "pairs": pd.DataFrame(
            {
                "source": np.asarray(sources, dtype=object),
                "target": np.asarray(targets, dtype=object),
                "label": model.classes[paths.start_class].astype(str).astype(object),
                "target_label": model.classes[paths.end_class].astype(str).astype(object),
            }
        ),
        "points": points.join(pd.DataFrame(latent).add_prefix("latent_")),
        "crossings": crossings_table(paths.crossings(classes), model.classes),
        "parameters": {k: storable(v) for k, v in details.items() if v is not None},
    }
    name = f"{sources[0]} → {targets[0]}"
    if len(sources) > 1:
        name += f" and {len(sources) - 1} more"
    written = adata.uns.setdefault(key_added, {}).setdefault(_keys.PATHS, {})

    ends_of_paths = [[str(name) for name in names] for names in (sources, targets)]

    def taken(key: str) -> bool:
        """Whether this key already belongs to paths between other cells."""
        pairs = written.get(key, {}).get("pairs")
        return pairs is not None and ends_of_paths != [
            pairs[end].astype(str).tolist() for end in ("source", "target")
        ]

    written[safe_key(name, taken)] = entry
    adata.obs[_keys.t_key(key_added)] = position


def _bands(
    module: CIVAEModule,
    paths: Paths,
    mixture: Mixture,
    n_samples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles at every row, over samples from the posteriors of both ends and from the likelihood.

    The path between two samples is the path between the means, shifted by the differences at both ends,
    interpolated linearly: exact for straight paths, approximate for the others.
    """
    rng = np.random.default_rng(seed)
    pair, t = paths.rows
    z = paths.points.reshape(len(t), -1)
    shape = (n_samples, *paths.start.mean.shape)
    moved = [end.scale * rng.standard_normal(shape) for end in (paths.start, paths.end)]
    low = np.empty((len(z), module.n_input), dtype=np.float32)
    high = np.empty_like(low)
    step = max(1, VALUES_PER_BLOCK // (n_samples * module.n_input))
    for first in track(range(0, len(z), step), "sampling bands", unit="blocks"):
        rows = slice(first, min(first + step, len(z)))
        w = t[rows, None]
        shift = (1 - w) * moved[0][:, pair[rows]] + w * moved[1][:, pair[rows]]
        drawn = (z[rows] + shift).reshape(-1, z.shape[1])  # (n_samples · n_rows, n_latent)
        index = np.tile(np.arange(rows.start, rows.stop), n_samples)
        # To sample from a mixture, choose one of its two components.
        to_end = rng.random(len(index)) < t[index]
        first_part, second_part, _ = mixture.take(index)
        covariates = interpolate_covariates(first_part, second_part, to_end.astype(float))
        covariates = covariates._replace(
            log_library=first_part.log_library, continuous=first_part.continuous
        )
        samples = module.family.draw(likelihood(module, drawn, covariates), rng)
        samples = samples.reshape(n_samples, -1, module.n_input)
        low[rows], high[rows] = np.quantile(samples, (0.05, 0.95), axis=0)
    return low, high
