"""Gene expression along the paths between two populations, from measured cells or decoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import near_matches, shown
from .._names import as_text
from .._validate import tables
from .._validate.arguments import check_choice, check_integer, check_key, check_type
from ..geometry.methods import PATH_METHODS
from ._donors import warn_of_batches
from ._measured import ENDS, measure, with_names
from ._model import check_model
from ._placing import MAX_PATHS
from ._samples import SOURCE, TARGET, cells_of, collect
from ._walk import decoded_layers

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE
    from ..module import Posterior

EVIDENCE = ("measured", "decoded")
LOG_SCALE = "log1p of mean counts per 10,000"
RAW_SCALE = "units of the data"
MEAN = _keys.MEAN_LAYER
# Number of paths that are decoded for comparison with measured cells.
_DECODED_PATHS = 256
# Maximum number of values in memory for the quantiles of one step (64 MiB).
_VALUES_HELD = 2**24


def gene_trends(
    model: CIVAE,
    pairs: pd.DataFrame,
    *,
    evidence: Literal["measured", "decoded"] = "measured",
    n_steps: int = 100,
    method: Literal["linear", "spherical", "geodesic"] = "linear",
    adata: AnnData | None = None,
    genes: Sequence[str] | None = None,
    donor_key: str | None = None,
    between: Sequence[Any] | None = None,
    transform_batch: Any = None,
    quantile_pairs: int = 1024,
    n_bootstraps: int = 100,
    max_cells: int = 20_000,
    key_added: str | None = _keys.KEY_ADDED,
    parts: str | os.PathLike | None = None,
    seed: int = 0,
) -> AnnData:
    """Expression of every gene along the paths between paired cells.

    Parameters
    ----------
    model
        A trained model.
    pairs
        Pairs of cells from :func:`pair_cells`: columns ``source`` and ``target`` with obs names,
        and optionally ``donor``.
    evidence
        ``"measured"``: curves are fitted to measured cells at their positions on the paths.
        ``"decoded"``: curves are decoded along the paths; they are predictions.
    n_steps
        Number of points of each curve, including both ends.
    method
        Path between two cells, as in :meth:`scivae.model.CIVAE.interpolate`.
    adata
        The cells; ``None`` for the training data.
    genes
        Genes to return, in this order; ``None`` for all. Counts are normalized over all genes.
    donor_key
        Column of ``obs`` with the donors. Donors have random effects in the fit, are resampled for
        intervals (if there are at least three), and are the units of :func:`rank_genes`. ``None``:
        the column ``donor`` of ``pairs``, if it exists. If no donor has both groups, the test
        compares donors between the groups.
    between
        Groups between source and target. Their cells are placed on the paths, and
        :func:`rank_genes` uses them to test for transient genes. ``None``: the categories between
        the two if the groups are an ordered categorical, otherwise none.
    transform_batch
        Decode all points as cells of this batch. ``None``: the batch of the ends (if they differ, a
        mixture, as in ``interpolate``).
    quantile_pairs
        Maximum number of paths, drawn at random, for the quantiles of the decoded bands (fewer if
        the values would need more than 64 MiB).
    n_bootstraps
        Number of resamples for bands and intervals; 0 omits them.
    max_cells
        Maximum number of measured cells in the fit; if there are more, a random subset.
    key_added
        Positions of the measured cells are written to ``adata.obs[key_added + "_t"]``, distances to
        ``adata.obs[key_added + "_distance"]`` (NaN for other cells). Nothing is written for
        ``None`` or ``evidence="decoded"``.
    parts
        Folder for finished resamples and decoded positions. Processes that torchrun or Lightning started
        share these, if all make this call and can read the folder; each returns the trends that one
        process returns. A call that was interrupted goes on from what is there. ``None``: this
        process does everything.
    seed
        Seed of all random choices.

    Returns
    -------
    AnnData of shape ``(n_steps, n_genes)``. All curves have one scale: for counts, ``log1p`` of the mean
    counts per 10,000; otherwise the units of the data.

    - ``obs["civae_t"]``: the position
    - ``layers["fit"]`` (also X), ``layers["fit_low"]``, ``layers["fit_high"]``: curves of the measured
      cells, with 90 % bands
    - ``layers["decoded"]``: the mean over decoded paths (256 at most), a prediction
    - ``var``: ``change`` from start to end (counts: log2) and ``switch``, the position at which
      half of it is reached on the scale of the curves, with 90 % intervals (``_low``, ``_high``);
      ``resolved``: the interval of the change excludes zero, and that of the switch is at most 0.3
      wide; and the columns of text of ``adata.var``, for ``gene_symbols`` in figures
    - ``varm["civae_switch"]``: the switch in each resample, for :func:`gene_order`
    - ``varm["civae_bins"]``, ``varm["civae_bins_se"]``: measured means (per 10,000) in bins of position
      and donor, and their standard errors; ``uns["civae"]["bins"]`` describes the columns
    - ``varm["civae_samples"]``: sums of the counts (means of other data) of each donor and group,
      shape ``(n_genes, n_samples)``; ``uns["civae"]["samples"]`` describes the columns.
      :func:`rank_genes` tests these
    - ``varm["civae_null"]``: measured values of single cells of the groups (at most 5,000 each), shape
      ``(n_genes, n_cells)``; tested if there are too few donors
    - ``uns["civae"]``: ``kind="trends"``, ``evidence``, ``scale``; ``cells`` (position, distance,
      weight, donor and group of each measured cell); the number of cells (``n_cells``), of cells near
      enough to be used (``n_used``), and of these in the middle half of the path (``n_between``);
      ``unit`` (resampled: donors or cells), parameters, ``donors``, ``share_in_class`` (proportion of
      the pairs of one label with both ends classified as it), model, versions

    With ``evidence="decoded"``, the layers are ``decoded`` (also X) and, over paths, ``mean``, ``sd``,
    ``q05`` and ``q95`` of ``log1p`` of the expected counts per 10,000 of each path. ``switch`` and
    ``change`` then have no intervals.

    Raises
    ------
    KeyError
        If a cell, a gene or a column does not exist.
    RuntimeError
        If the model is not trained, or another process that shares the parts fails.
    ValueError
        If there are no pairs, fewer than 20 measured cells are near the paths, donors and groups
        coincide, an argument is out of range, or ``parts`` holds parts of another call.

    Warns
    -----
    UserWarning
        If no donors are given, and a column of ``obs`` looks like donors.

    Notes
    -----
    *Cells.* The cells of source, target and the groups in between, and, if ``pairs`` has a label,
    all cells of this label. For custom pairs without group names: all cells with the labels of
    their ends.

    *Positions.* The position of a cell is the nearest point on the mean path, with distances scaled
    by the covariance within the ends (for straight paths, this is Fisher's linear discriminant).
    Source cells are placed at 0 and target cells at 1, unless there are fewer than 20 other cells.
    Cells that are farther from the mean path than 95 % of the ends of paths and than half of its
    length get smaller weights, and zero weight from twice that distance on.

    *Fit.* See :func:`scivae.stats.measured_curves`. Donors are resampled if there are at least
    three, otherwise cells; paths are resampled with them.

    *Decoded values* are not observations: more paths do not add evidence. Their moments are
    accumulated during decoding, one position at a time (Chan, Golub and LeVeque, "Algorithms for
    computing the sample variance", The American Statistician 37, 1983).

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(adata, "cell_type", "CD14+ Monocyte", "Dendritic")
    >>> trends = scivae.tl.gene_trends(model, pairs, n_steps=11)
    >>> trends.shape, all(name in trends.layers for name in ("fit", "fit_low", "decoded"))
    ((11, 765), True)
    """
    from anndata import AnnData

    from ..data.generated import provenance
    from ..model.paths import Paths, encode_ends

    check_choice("evidence", evidence, EVIDENCE)
    n_steps = check_integer("n_steps", n_steps, minimum=2)
    quantile_pairs = check_integer("quantile_pairs", quantile_pairs, minimum=2)
    n_bootstraps = check_integer("n_bootstraps", n_bootstraps, minimum=0)
    max_cells = check_integer("max_cells", max_cells, minimum=tables.MIN_CURVE_CELLS)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    check_choice("method", method, PATH_METHODS)
    if key_added is not None:
        check_key("key_added", key_added)
    check_pairs(pairs)
    check_model(model)
    code = None if transform_batch is None else model.setup.batch_code(transform_batch)
    with model.reading(adata) as adata:
        tables.check_names(adata)
        columns = _columns(model, genes)
        first, second = (positions_of(adata, pairs[end], end) for end in ("source", "target"))
        groups = cells_of(
            adata, pairs, donor_key=donor_key, between=between, first=first, second=second
        )
        if (key := model.setup.batch_key) is not None and key in adata.obs:
            ends = (groups.group == SOURCE, groups.group == TARGET)
            warn_of_batches(adata.obs[key], key, *ends, groups.donor)
        kept = collect(model, adata, groups, columns, rng)

        start, end = encode_ends(model.codec, adata, first, second, batch=code)
        t = np.linspace(0.0, 1.0, n_steps)
        held = min(len(pairs), quantile_pairs, max(2, _VALUES_HELD // len(columns)))
        if evidence == "measured":
            held = min(held, 2)
            n_paths = min(len(pairs), MAX_PATHS)
        else:
            n_paths = len(pairs)
        order = np.arange(len(pairs)) if held == len(pairs) else rng.permutation(len(pairs))
        order = order[:n_paths]
        paths = Paths(model.codec, start.take(order), end.take(order), t, method, adata)
        result = None
        if evidence == "measured":
            result = measure(
                model, adata, paths, groups, np.stack([first, second], axis=1)[order], columns,
                attrs=pairs.attrs, n_steps=n_steps, n_bootstraps=n_bootstraps, max_cells=max_cells,
                rng=rng, parts=parts,
            )  # fmt: skip
            paths = paths.take(_DECODED_PATHS)
        decoded = decoded_layers(paths, columns, held, parts)
        counts = paths.counts
        unit = 1 / np.log(2) if counts else 1.0
        if result is None:
            curve = decoded.pop(_keys.DECODED_LAYER)
            layers = {_keys.DECODED_LAYER: curve, **decoded}
            var, varm, details = _described(curve, t, unit), {}, {}
        else:
            layers = {**result.by_layer, _keys.DECODED_LAYER: decoded[_keys.DECODED_LAYER]}
            var, varm, details = result.var(unit), result.varm, result.uns
            if key_added is not None:
                _check_position(adata, key_added)
                result.write(adata, key_added)

    attrs = pairs.attrs
    said = {
        name: None if attrs.get(name) is None else str(attrs[name])
        for name in ("source", "target", "groupby", "label")
    }
    uns = provenance(
        model.init_params_["non_kwargs"],
        kind=tables.TRENDS,
        evidence=evidence,
        scale=LOG_SCALE if counts else RAW_SCALE,
        method=method,
        pairing=attrs.get("method"),
        n_steps=n_steps,
        n_pairs=len(pairs),
        quantile_pairs=held,
        donors=np.array(groups.donors, dtype=str),
        donor_key=_donor_key(donor_key, pairs),
        between=np.array([str(level) for level in groups.between], dtype=str),
        share_in_class=_share_in_class(model, start, end),
        transform_batch=None if transform_batch is None else str(transform_batch),
        seed=int(seed),
        **details,
        **kept.uns,
        **said,
    )
    var = with_names(var, model.setup.genes[columns], adata.var.iloc[columns])
    return AnnData(
        X=next(iter(layers.values())).copy(),
        obs=pd.DataFrame({_keys.T: t}, index=[f"step_{i}" for i in range(n_steps)]),
        var=var,
        layers=layers,
        varm={**kept.varm, **varm},
        uns={_keys.UNS: uns},
    )


def curve_layers(trends: AnnData) -> tuple[str, str | None, str | None]:
    """Names of the layers of the curve and of its band; ``None`` if there is no band."""
    for curve, low, high in (
        (_keys.FIT_LAYER, _keys.FIT_LOW_LAYER, _keys.FIT_HIGH_LAYER),
        (_keys.DECODED_LAYER, _keys.Q05_LAYER, _keys.Q95_LAYER),
        (MEAN, _keys.Q05_LAYER, _keys.Q95_LAYER),  # trends of version 0.1.0
    ):
        if curve in trends.layers:
            there = low in trends.layers and not np.isnan(np.asarray(trends.layers[low])).all()
            return (curve, low, high) if there else (curve, None, None)
    raise ValueError(
        "trends must have a layer 'fit' or 'decoded', but has none of them; call "
        "scivae.tl.gene_trends(model, pairs)."
    )


def _described(curve: np.ndarray, t: np.ndarray, unit: float) -> pd.DataFrame:
    """Change and switch of decoded curves, without intervals."""
    from ..stats import switch_position

    values = curve.astype(float)
    nan = np.full(curve.shape[1], np.nan)
    table = {
        _keys.CHANGE: unit * (values[-1] - values[0]),
        _keys.SWITCH: switch_position(values, t),
    }
    return pd.DataFrame(
        {
            **{f"{n}{end}": v if not end else nan for n, v in table.items() for end in ENDS},
            _keys.RESOLVED: np.zeros(curve.shape[1], dtype=bool),
        }
    )


def _donor_key(donor_key: str | None, pairs: pd.DataFrame) -> str | None:
    """Column of ``obs`` with the donors, if it is known."""
    key = donor_key if donor_key is not None else pairs.attrs.get("donor_key")
    return None if key is None else str(key)


def _check_position(adata: AnnData, key_added: str) -> None:
    """Raise if the columns of positions already exist and were not written by scivae."""
    columns = [_keys.t_key(key_added), _keys.distance_key(key_added)]
    taken = [c for c in columns if c in adata.obs]
    if len(taken) == 1 and key_added not in adata.uns:
        raise ValueError(
            f"adata.obs[{taken[0]!r}] already exists and was not written by scivae; pass another "
            "key_added."
        )


def check_pairs(pairs: Any) -> None:
    """Check that the value is a table of pairs; raise an error if it is not."""
    if not isinstance(pairs, pd.DataFrame):
        raise TypeError(
            f"pairs must be the DataFrame of scivae.tl.pair_cells, got {type(pairs).__name__}; pass "
            "what that function returned."
        )
    for end in ("source", "target"):
        if end not in pairs:
            raise KeyError(
                f"pairs must have the columns 'source' and 'target', but {end!r} is missing; "
                f"available: {shown(pairs.columns) or 'none'}."
            )
    if not len(pairs):
        raise ValueError(
            "pairs must hold at least one pair, got none; check the filter that was applied to it."
        )


def _columns(model: CIVAE, genes: Sequence[str] | None) -> np.ndarray:
    """Positions of the requested genes."""
    known = pd.Index(as_text(model.setup.genes))
    if genes is None:
        return np.arange(len(known))
    if isinstance(genes, str):
        genes = [genes]
    check_type("genes", genes, Iterable, "a list of names")
    wanted = pd.Index([str(gene) for gene in genes])
    if not len(wanted):
        raise ValueError("genes must name at least one gene, got none; pass None for all genes.")
    if not wanted.is_unique:
        raise ValueError(
            f"genes must name each gene once, got {str(wanted[wanted.duplicated()][0])!r} twice; "
            "drop one of them."
        )
    tables.check_known_genes("genes", wanted, known, "the model")
    return known.get_indexer(wanted)


def positions_of(adata: AnnData, names: pd.Series, end: str) -> np.ndarray:
    """Positions of cells by name."""
    found = pd.Index(as_text(adata.obs_names)).get_indexer(as_text(names))
    if (found < 0).any():
        name = str(names.iloc[int(np.argmax(found < 0))])
        raise KeyError(
            f"pairs[{end!r}] must hold names in adata.obs_names, but {name!r} is not one; pass "
            f"adata= with the cells that were paired.{near_matches(name, adata.obs_names)}"
        )
    return found


def _share_in_class(model: CIVAE, start: Posterior, end: Posterior) -> float | None:
    """Proportion of the pairs of one label with both ends classified as it; ``None`` if there are none."""
    classes = model.linear_classes
    same = (start.labels == end.labels) & (start.labels < len(model.classes))
    if not same.any():
        return None
    both = (classes.predict(start.mean) == start.labels) & (classes.predict(end.mean) == end.labels)
    return float(both[same].mean())
