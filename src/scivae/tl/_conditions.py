"""Predict cells of a condition that was not measured from cells of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import shown, warn
from .._validate import tables
from .._validate.arguments import check_choice, check_integer
from ..stats.pseudobulk import sum_by
from ..stats.transfer import change_counts, dispersion, transfer_change
from ._model import check_measured, check_model

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

METHODS = ("transfer", "arithmetic", "ot", "none")
_PER = 1e4  # log profiles are per 10,000 counts
_TOP = 100
_NEIGHBORS = 10
_MIN_CELLS = 5


class _Groups(NamedTuple):
    """Source and target cells of each level, as positions, and the level that is predicted."""

    names: list[str]
    source: list[np.ndarray]
    target: list[np.ndarray]
    own: np.ndarray


def predict_condition(
    model: CIVAE,
    groupby: str,
    source: Any,
    target: Any,
    *,
    level: Any,
    by: str | None = None,
    adata: AnnData | None = None,
    method: Literal["transfer", "arithmetic", "ot", "none"] = "transfer",
    seed: int = 0,
) -> AnnData:
    """Predict treated cells of a type, or of a donor, with only untreated cells measured.

    Parameters
    ----------
    model
        A trained model. All methods use its layer and genes; only ``"arithmetic"`` and ``"ot"`` use
        its latent space.
    groupby
        Column of ``obs`` with the conditions.
    source, target
        The measured condition, and the condition to predict.
    level
        Value of ``by`` whose ``target`` cells are predicted. Its own target cells, if there are any,
        are not used.
    by
        Column of ``obs`` with types or donors. ``None``: the labels of the model. To predict a donor,
        pass the cells of one type at a time as ``adata``.
    adata
        The cells; ``None`` for the training data.
    method
        - ``"transfer"``: the measured changes of the other levels are applied to the measured cells of this
          level. Levels with similar source cells get larger weights. If a gene decreases, its counts are
          thinned; if it increases, counts are added
        - ``"arithmetic"``: the mean difference in latent space is added to each cell and decoded, as in
          scGen
        - ``"ot"``: the same with the displacement of the ten nearest source cells of other levels,
          which are matched to target cells by optimal transport
        - ``"none"``: the measured source cells, unchanged, as a baseline
    seed
        Seed of the samples.

    Returns
    -------
    AnnData with one row for each source cell of the level:

    - values in the layer of the model: counts, or continuous values; a log-normalized X if counts are in a layer
    - ``obs``: as for the source cell, but with the target in ``groupby``; ``civae_kind`` is ``condition``,
      ``civae_source`` is the name of the source cell
    - ``obsm["X_civae"]``: z of the predicted cell (for the latent methods, the z that was decoded)
    - ``var``: ``change`` (predicted difference of log profiles, in log2 of counts per 10,000, plus one, or in
      the units of the data)
    - ``uns["civae"]["weights"]``: weights of the other levels
    - ``uns["civae"]["held_out"]``: for each other level, how well ``"transfer"`` and ``"none"`` predict its
      measured target cells from the rest: ``r2`` of all mean log values, ``r2_top`` of the 100 genes that
      change most, and ``r`` and ``slope`` of predicted against measured changes
    - ``uns["civae"]["held_out_r"]``: mean ``r`` of ``"transfer"``; NaN with only one other level

    Raises
    ------
    KeyError
        If a column does not exist.
    RuntimeError
        If the model is not trained.
    ValueError
        If the level has no source cells, or no other level has at least five cells of both conditions.

    Warns
    -----
    UserWarning
        If only one other level has both conditions, so that the error is unknown; or if ``"transfer"`` predicts
        levels that were left out no better than ``"none"``.

    Notes
    -----
    The held-out error of ``"transfer"`` is that of the other levels, each predicted without its target cells.
    It applies to this level if this level responds as the others do; neither the error nor ``weights`` can
    show that it does not. If each batch holds one condition only, the difference between batches is
    predicted and scored. The latent methods have no such error, because the model was trained on the
    target cells of the other levels; to measure it, train a model without them.

    References
    ----------
    Lotfollahi, Wolf and Theis, "scGen predicts single-cell perturbation responses", Nature Methods 16
    (2019), for the arithmetic; Bunne et al., "Learning single-cell perturbation responses using neural
    optimal transport", Nature Methods 20 (2023), for transport.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=400, n_genes=40, layout="across")
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> cells = scivae.tl.predict_condition(model, "stage", "early", "late", level="class_0")
    >>> cells.obs["stage"].unique().tolist(), len(cells.uns["civae"]["held_out"])
    (['late'], 4)
    """
    check_choice("method", method, METHODS)
    seed = check_integer("seed", seed, minimum=0)
    check_model(model)
    with model.reading(adata) as adata:
        tables.check_names(adata)
        by = model.setup.labels_key if by is None else by
        groups = _groups(adata, groupby, source, target, by, level)
        values, counts = _values(model, adata)
        held_out = _held_out(values, groups, counts)
        _warn_of_error(held_out, groups, method, by)
        rng = np.random.default_rng(seed)
        found = _transfer(values, groups, counts)
        obs = adata.obs.iloc[groups.own].copy()
        conditions = adata.obs[groupby]
        obs[groupby] = (
            pd.Categorical([target] * len(obs), dtype=conditions.dtype)
            if isinstance(conditions.dtype, pd.CategoricalDtype)
            else target
        )
        made = _made(model, adata, values, groups, found, obs, method, counts, rng)
        change = _profile(made, counts) - _profile(values[groups.own], counts)
        return _assembled(
            model, adata, obs, made, change, found, groups, held_out, method, counts, seed
        )


def _groups(adata: AnnData, groupby: str, source: Any, target: Any, by: str, level: Any) -> _Groups:
    """Cells of each level in both conditions; raise if no other level has both."""
    conditions = tables.column(adata, "groupby", groupby)
    first = tables.group(conditions, "source", source, groupby)
    second = tables.group(conditions, "target", target, groupby)
    if source == target:
        raise ValueError(
            f"source and target must be two conditions, got {source!r} twice; available: "
            f"{shown(conditions.dropna().unique(), 12)}."
        )
    levels = tables.column(adata, "by", by)
    if by == groupby:
        raise ValueError(
            f"by must be another column than groupby, got {by!r} twice; name the types or the "
            "donors."
        )
    own = tables.group(levels, "level", level, by) & first
    if not own.any():
        raise ValueError(
            f"level={level!r} must have cells of source={source!r}, from which the others are "
            "predicted, but has none; choose another level."
        )
    names, sources, targets = [], [], []
    for name in levels.dropna().unique():
        if name == level:
            continue
        cells = (levels == name).to_numpy(dtype=bool, na_value=False)
        a, b = np.flatnonzero(cells & first), np.flatnonzero(cells & second)
        if min(len(a), len(b)) >= _MIN_CELLS:
            names.append(str(name))
            sources.append(a)
            targets.append(b)
    if not names:
        raise ValueError(
            f"at least one other value of adata.obs[{by!r}] must have {_MIN_CELLS} cells of "
            f"{source!r} and of {target!r}, but none has; the values are: "
            f"{shown(levels.dropna().unique())}."
        )
    return _Groups(names, sources, targets, np.flatnonzero(own))


def _values(model: CIVAE, adata: AnnData) -> tuple[Any, bool]:
    """Measured values of all cells, sparse or dense, and whether they are counts."""
    from scipy import sparse

    from .._storage import rows_of
    from ..data.checks import resolve_layer, values_of
    from ..module import COUNT_LIKELIHOODS

    check_measured(adata, "predict_condition", "adata= with the cells and their values")
    values = rows_of(values_of(adata, resolve_layer(adata, model.setup.layer)), slice(None))
    counts = model.likelihood in COUNT_LIKELIHOODS
    return sparse.csr_matrix(values) if sparse.issparse(values) else np.asarray(values), counts


def _profile(values: Any, counts: bool) -> np.ndarray:
    """log2 of mean counts per 10,000, plus one; or the mean of other values. Shape ``(n_genes,)``."""
    total = np.asarray(values.sum(axis=0), dtype=float).ravel()
    if not counts:
        return total / values.shape[0]
    return np.log2(1 + _PER * total / max(total.sum(), 1))


def _profiles(values: Any, cells: list[np.ndarray], counts: bool) -> np.ndarray:
    return np.stack([_profile(values[rows], counts) for rows in cells])


def _transfer(values: Any, groups: _Groups, counts: bool) -> Any:
    """Predicted change of the level."""
    return transfer_change(
        _profiles(values, groups.source, counts),
        _profiles(values, groups.target, counts),
        _profile(values[groups.own], counts),
    )


def _held_out(values: Any, groups: _Groups, counts: bool) -> pd.DataFrame:
    """Agreement of prediction and measurement for each other level, predicted without its target cells."""
    source, target = (_profiles(values, cells, counts) for cells in (groups.source, groups.target))
    rows = []
    for i, name in enumerate(groups.names):
        others = np.arange(len(groups.names)) != i
        if not others.any():
            continue
        found = transfer_change(source[others], target[others], source[i])
        for method, change in (("transfer", found.change), ("none", np.zeros(source.shape[1]))):
            rows.append(
                {"level": name, "method": method, **agreement(source[i], target[i], change)}
            )
    columns = ["level", "method", "r2", "r2_top", "r", "slope"]
    return pd.DataFrame(rows, columns=columns).rename(index=str)


def _warn_of_error(held_out: pd.DataFrame, groups: _Groups, method: str, by: str) -> None:
    """Warn if the error of the prediction is unknown, or not below that of predicting no change."""
    if method == "none":
        return
    if not len(held_out):
        warn(
            f"only {groups.names[0]!r} has cells of both conditions, so the prediction cannot be "
            f"checked on other values of adata.obs[{by!r}]; add cells of one that has both."
        )
        return
    r2 = held_out.groupby("method")["r2"].mean()
    if method == "transfer" and not r2["transfer"] > r2["none"]:
        warn(
            f"in a check on other values of adata.obs[{by!r}], the prediction was no better than no change "
            f"(R² {r2['transfer']:.2f} and {r2['none']:.2f}), so their responses differ; do not use it, "
            "or pass only values that respond alike in adata=."
        )


def agreement(source: np.ndarray, target: np.ndarray, change: np.ndarray) -> dict[str, float]:
    """Agreement of a predicted change with the measured one.

    Parameters
    ----------
    source, target
        Measured log profiles, shape ``(n_genes,)``.
    change
        Predicted change.
    """
    measured = target - source
    predicted = source + change
    top = np.argsort(-np.abs(measured))[:_TOP]

    def r2(of: np.ndarray) -> float:
        spread = ((target[of] - target[of].mean()) ** 2).sum()
        return float(1 - ((predicted[of] - target[of]) ** 2).sum() / spread) if spread else np.nan

    varies = change.std() > 0 and measured.std() > 0
    return {
        "r2": r2(np.arange(len(target))),
        "r2_top": r2(top),
        "r": float(np.corrcoef(change, measured)[0, 1]) if varies else np.nan,
        "slope": float(np.polyfit(measured, change, 1)[0]) if measured.std() > 0 else np.nan,
    }


def _made(
    model: CIVAE,
    adata: AnnData,
    values: Any,
    groups: _Groups,
    found: Any,
    obs: pd.DataFrame,
    method: str,
    counts: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Values of the predicted cells, shape ``(n_cells, n_genes)``."""
    from scipy import sparse

    own = values[groups.own]
    own = own.toarray() if sparse.issparse(own) else np.array(own)
    if method == "none":
        return own.astype(np.float32)
    if method != "transfer":
        return _decoded(model, adata, groups, obs, own, method, counts, rng)
    if not counts:
        return (own + found.change).astype(np.float32)
    profile = _profile(own, counts)
    rate = (2.0**profile - 1) / _PER
    wanted = np.maximum(2.0 ** (profile + found.change) - 1, 0) / _PER
    codes = np.repeat(np.arange(len(groups.target)), [len(cells) for cells in groups.target])
    treated = values[np.concatenate(groups.target)]
    sums = sum_by(treated, codes, len(groups.target))
    spread = dispersion(treated, codes, sums / np.maximum(sums.sum(axis=1, keepdims=True), 1))
    return change_counts(own, rate, wanted, spread, rng=rng).astype(np.float32)


def _decoded(
    model: CIVAE,
    adata: AnnData,
    groups: _Groups,
    obs: pd.DataFrame,
    own: np.ndarray,
    method: str,
    counts: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Cells decoded after a displacement in latent space, drawn from the likelihood."""
    cells = np.unique(np.concatenate([groups.own, *groups.source, *groups.target]))
    z = np.zeros((adata.n_obs, model.module.n_latent))
    z[cells] = model.get_latent_representation(adata, indices=cells)
    start = z[groups.own]
    if method == "arithmetic":  # levels have equal weight, whatever their number of cells
        shifts = [z[b].mean(axis=0) - z[a].mean(axis=0) for a, b in zip(groups.source, groups.target, strict=True)]  # fmt: skip
        moved = start + np.mean(shifts, axis=0)
    else:
        moved = start + _displacement(z, groups)
    setup = model.setup
    keys = [setup.batch_key, *setup.categorical, *setup.continuous]
    keys = [key for key in keys if key is not None]
    size = own.sum(axis=1) if counts else None
    if setup.size_factor_key is not None:
        size = obs[setup.size_factor_key].to_numpy(dtype=float)
    return model.decode(
        moved,
        obs[keys] if keys else None,
        library_size=size,
        sample=True,
        seed=int(rng.integers(2**31)),
    )


def _displacement(z: np.ndarray, groups: _Groups) -> np.ndarray:
    """Mean displacement of the nearest source cells of other levels, joined by optimal transport."""
    import ot
    from scipy.spatial.distance import cdist
    from sklearn.neighbors import NearestNeighbors

    places, moves = [], []
    for a, b in zip(groups.source, groups.target, strict=True):
        plan = ot.emd([], [], cdist(z[a], z[b], "sqeuclidean"), numItermax=10_000_000)
        places.append(z[a])
        moves.append(plan @ z[b] / plan.sum(axis=1, keepdims=True) - z[a])
    known, moved = np.concatenate(places), np.concatenate(moves)
    k = min(_NEIGHBORS, len(known))
    near = NearestNeighbors(n_neighbors=k).fit(known).kneighbors(z[groups.own])[1]
    return moved[near].mean(axis=1)


def _assembled(
    model: CIVAE,
    adata: AnnData,
    obs: pd.DataFrame,
    made: np.ndarray,
    change: np.ndarray,
    found: Any,
    groups: _Groups,
    held_out: pd.DataFrame,
    method: str,
    counts: bool,
    seed: int,
) -> AnnData:
    """The AnnData of the predicted cells."""
    from ..data.generated import assemble, provenance

    sources = obs.index.astype(str)
    obs = obs.drop(columns=[c for c in obs.columns if str(c).startswith("_scvi")])
    obs[_keys.KIND] = pd.Categorical([tables.CONDITION] * len(obs))
    obs[_keys.SOURCE] = sources.to_numpy()
    obs.index = pd.Index([f"predicted_{i}" for i in range(len(obs))])
    own = held_out[held_out["method"] == "transfer"]
    out = assemble(
        made,
        real=adata,
        setup=model.setup,
        obs=obs,
        latent=np.zeros((len(obs), model.module.n_latent)),
        counts=counts,
        uns=provenance(
            model.init_params_["non_kwargs"],
            kind=tables.CONDITION,
            method=method,
            values="sampled",
            seed=seed,
            power=found.power,
            weights=pd.DataFrame(
                {"weight": found.weights, "distance": found.distances}, index=groups.names
            ),
            held_out=held_out,
            held_out_r=float(own["r"].mean()) if len(own) else float("nan"),
        ),
    )
    out.var["change"] = change
    out.obsm[_keys.LATENT] = model.get_latent_representation(out)
    for key in [key for key in out.obs if str(key).startswith("_scvi")]:
        del out.obs[key]
    for key in [key for key in out.uns if str(key).startswith("_scvi")]:
        del out.uns[key]
    return out
