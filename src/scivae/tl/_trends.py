"""Mean, spread and bands of genes along the paths between two populations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import check_choice, check_integer, check_type, near_matches, shown
from .._names import as_text
from . import _validate
from ._samples import cells_of, collect
from ._walk import Walk

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE
    from ..model._decoding import Encoded

METHODS = ("linear", "spherical", "geodesic")
LOG_SCALE = "log1p of counts per 10,000"
RAW_SCALE = "units of the data"
MEAN, SD = _keys.MEAN_LAYER, _keys.SD_LAYER
# Values that are held for the quantiles of one step (64 MiB).
_VALUES_HELD = 2**24


def gene_trends(
    model: CIVAE,
    pairs: pd.DataFrame,
    *,
    n_steps: int = 100,
    method: Literal["linear", "spherical", "geodesic"] = "linear",
    adata: AnnData | None = None,
    genes: Sequence[str] | None = None,
    donor_key: str | None = None,
    between: Sequence[Any] | None = None,
    transform_batch: Any = None,
    quantile_pairs: int = 1024,
    seed: int = 0,
) -> AnnData:
    """Mean, spread and bands of every gene along the paths between paired cells.

    Parameters
    ----------
    model
        A trained model.
    pairs
        Pairs of cells, as :func:`pair_cells` returns them: the columns ``source`` and ``target``
        hold obs names; ``donor`` is used where it is there.
    n_steps
        Points of a path, its ends included.
    method
        Curve between two cells, as in :meth:`scivae.model.CIVAE.interpolate`.
    adata
        The cells; ``None`` for the training data.
    genes
        Genes to return, in this order; ``None`` for all. Counts are normalised over all genes.
    donor_key
        Column of ``obs`` with the donors, for the mean of each donor and the null of
        :func:`rank_genes`. ``None``: the column ``donor`` of ``pairs``, if there is one. A pair
        whose ends differ in donor counts for none of them. Where no donor has both groups, the test
        compares donors between the groups.
    between
        Groups that are known to lie between source and target, whose measured cells tell
        :func:`rank_genes` of transient genes. ``None``: those between the two where the groups are
        an ordered categorical, else none.
    transform_batch
        Decode every point as a cell of this batch; ``None``: of the batch of the ends (as
        ``interpolate`` does, mixing where these differ).
    quantile_pairs
        The bands are exact quantiles over at most this many paths, drawn at random where there are
        more (fewer where the values would take more than 64 MiB). What is taken for the 5 % quantile
        over all paths then is a quantile at 5 % ± 0.7 % (standard error, 1,024 paths).
    seed
        Seed of this choice, and of which measured cells are kept where a group has over 5,000.

    Returns
    -------
    AnnData of ``n_steps × n_genes``:

    - ``layers["mean"]`` (also X), ``layers["sd"]`` (over paths, denominator ``n_pairs``),
      ``layers["q05"]``, ``layers["q95"]``, and ``layers["mean_<donor>"]`` for each donor. For counts:
      ``log1p`` of the expected counts per 10,000, each point of each path normalised by itself. Else
      expected values in the units of the data
    - ``obs["civae_t"]``: the position
    - ``varm["civae_samples"]``: sums of the counts (means of other data) of each donor and group,
      shape ``(n_genes, n_samples)``; ``uns["civae"]["samples"]`` says which. What
      :func:`rank_genes` tests
    - ``varm["civae_null"]``: measured values, on the same scale, of single cells of the groups (at
      most 5,000 each), shape ``(n_genes, n_cells)``; tested where there are too few donors
    - ``uns["civae"]``: ``kind="trends"``, ``scale``, parameters, ``donors``, ``share_in_class``
      (share of the pairs of one label of which both ends are classified as it, whose paths stay in
      the class), model, versions

    Raises
    ------
    KeyError
        If a cell, a gene or a column is not there.
    RuntimeError
        If the model is not trained.
    ValueError
        If there are no pairs, the donors cannot be told from the groups, or an argument is out of its
        range.

    Warns
    -----
    UserWarning
        If no donors are given, and a column of ``obs`` looks like donors.

    Notes
    -----
    Statistics are summed up as cells are decoded, one position at a time: no path is ever held
    whole, and memory does not grow with their number. Sums are taken about the mean of a block, and
    in double precision between blocks (Chan, Golub and LeVeque, "Algorithms for computing the sample
    variance", The American Statistician 37, 1983).

    The layers describe what the model has learned. They are no observations: however many paths
    there are, they do not add evidence.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(adata, "cell_type", "CD14+ Monocyte", "Dendritic", n_pairs=20)
    >>> trends = scivae.tl.gene_trends(model, pairs, n_steps=11)
    >>> trends.shape, sorted(trends.layers)
    ((11, 765), ['mean', 'q05', 'q95', 'sd'])
    """
    from anndata import AnnData

    from ..model._generated import provenance, safe_key

    n_steps = check_integer("n_steps", n_steps, minimum=2)
    quantile_pairs = check_integer("quantile_pairs", quantile_pairs, minimum=2)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    check_choice("method", method, METHODS)
    _check_pairs(pairs)
    _validate.check_model(model)
    code = None if transform_batch is None else model.setup.batch_code(transform_batch)
    with model._unchanged_on_error(adata):
        adata = model._validate_anndata(adata)
        _validate.check_names(adata)
        columns = _columns(model, genes)
        first, second = (_cells(adata, pairs[end], end) for end in ("source", "target"))
        measured = cells_of(
            adata, pairs, donor_key=donor_key, between=between, first=first, second=second
        )
        kept = collect(model, adata, measured, columns, rng)
    paired = np.unique(measured.of_pair[measured.of_pair >= 0])

    cells, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    encoded = model._encode(adata, cells)
    if code is not None:
        encoded = encoded._replace(
            conditions=encoded.conditions._replace(batch=np.full(len(cells), code))
        )
    start, end = encoded.take(inverse[: len(first)]), encoded.take(inverse[len(first) :])
    t = np.linspace(0.0, 1.0, n_steps)
    held = min(len(pairs), quantile_pairs, max(2, _VALUES_HELD // len(columns)))
    order = np.arange(len(pairs)) if held == len(pairs) else rng.permutation(len(pairs))
    start, end = start.take(order), end.take(order)
    walk = Walk(model, start, end, adata, method, t)
    names = [safe_key(measured.donors[code]) for code in paired]
    of_pair = np.where(measured.of_pair < 0, -1, np.searchsorted(paired, measured.of_pair))
    layers = {
        name: np.empty((n_steps, len(columns)), dtype=np.float32)
        for name in (MEAN, SD, _keys.Q05_LAYER, _keys.Q95_LAYER, *(f"{MEAN}_{d}" for d in names))
    }
    for i, step in enumerate(walk.steps(columns, of_pair[order], len(names), held)):
        for name, row in zip(layers, (*step[:4], *step.donors), strict=True):
            layers[name][i] = row

    attrs = pairs.attrs
    said = {
        name: None if attrs.get(name) is None else str(attrs[name])
        for name in ("source", "target", "groupby", "label")
    }
    uns = provenance(
        model.init_params_["non_kwargs"],
        kind=_validate.TRENDS,
        scale=LOG_SCALE if walk.counts else RAW_SCALE,
        method=method,
        pairing=attrs.get("method"),
        n_steps=n_steps,
        n_pairs=len(pairs),
        quantile_pairs=held,
        donors=np.array(names, dtype=str),
        between=np.array([str(level) for level in measured.between], dtype=str),
        share_in_class=_share_in_class(model, start, end),
        transform_batch=None if transform_batch is None else str(transform_batch),
        seed=int(seed),
        **kept.uns,
        **said,
    )
    return AnnData(
        X=layers[MEAN].copy(),
        obs=pd.DataFrame({_keys.T: t}, index=[f"step_{i}" for i in range(n_steps)]),
        var=pd.DataFrame(index=pd.Index(as_text(model.setup.genes[columns]))),
        layers=layers,
        varm=kept.varm,
        uns={_keys.UNS: uns},
    )


def _check_pairs(pairs: Any) -> None:
    """Raise unless it is a table of pairs."""
    if not isinstance(pairs, pd.DataFrame):
        raise TypeError(
            f"pairs must be the DataFrame of scivae.tl.pair_cells, got {type(pairs).__name__}."
        )
    for end in ("source", "target"):
        if end not in pairs:
            raise KeyError(
                f"pairs must have the columns 'source' and 'target', but {end!r} is missing; those "
                f"there are: {shown(pairs.columns) or 'none'}."
            )
    if not len(pairs):
        raise ValueError("pairs must hold at least one pair, got none.")


def _columns(model: CIVAE, genes: Sequence[str] | None) -> np.ndarray:
    """Positions of the genes that are wanted."""
    known = pd.Index(as_text(model.setup.genes))
    if genes is None:
        return np.arange(len(known))
    if isinstance(genes, str):
        genes = [genes]
    check_type("genes", genes, Iterable, "a list of names")
    wanted = pd.Index([str(gene) for gene in genes])
    if not len(wanted):
        raise ValueError("genes must name at least one gene, got none; None stands for all.")
    if not wanted.is_unique:
        raise ValueError(
            f"genes must name each gene once, got {str(wanted[wanted.duplicated()][0])!r} twice."
        )
    found = known.get_indexer(wanted)
    if (found < 0).any():
        gene = wanted[found < 0][0]
        raise KeyError(
            f"genes must be among the {len(known)} genes of the model, but {gene!r} is not."
            f"{near_matches(gene, known)}"
        )
    return found


def _cells(adata: AnnData, names: pd.Series, end: str) -> np.ndarray:
    """Positions of cells by name."""
    found = pd.Index(as_text(adata.obs_names)).get_indexer(as_text(names))
    if (found < 0).any():
        name = str(names.iloc[int(np.argmax(found < 0))])
        raise KeyError(
            f"pairs[{end!r}] must hold names in adata.obs_names, but {name!r} is not one; pass adata= "
            f"with the cells that were paired.{near_matches(name, adata.obs_names)}"
        )
    return found


def _share_in_class(model: CIVAE, start: Encoded, end: Encoded) -> float | None:
    """Of the pairs of one label, the share with both ends classified as it; ``None`` without any."""
    classes = model.linear_classes
    same = (start.labels == end.labels) & (start.labels < len(model.classes))
    if not same.any():
        return None
    both = (classes.predict(start.mean) == start.labels) & (classes.predict(end.mean) == end.labels)
    return float(both[same].mean())
