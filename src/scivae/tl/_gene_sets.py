"""Gene sets: read them, and follow them along a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import near_matches, shown, warn
from .._names import as_text, layer_names
from .._validate import tables
from .._validate.arguments import check_integer

if TYPE_CHECKING:
    from anndata import AnnData

SCALE = "mean z-score of the genes"
_ROWS = 2048  # number of cells whose values are dense at a time


def set_trends(
    adata: AnnData,
    trends: AnnData,
    net: pd.DataFrame | Mapping[str, Sequence[str]] | str | Path,
    *,
    layer: str | None = None,
    gene_symbols: str | None = None,
    min_size: int = tables.MIN_SET_GENES,
    n_bootstraps: int = 100,
    seed: int = 0,
) -> AnnData:
    """Fit one curve per gene set along a path, with a band, to the measured cells.

    Parameters
    ----------
    adata
        The cells that the trends were fitted to, by name.
    trends
        From :func:`gene_trends`, with measured cells.
    net
        Gene sets: ``{set: genes}``, a GMT file, or a table in the format of decoupler, with the columns
        ``source`` (the set), ``target`` (the gene) and optionally ``weight``.
    layer
        Layer of the values, which are log-normalized if they are counts. ``None``: ``counts`` if
        there is one, otherwise X. ``"X"``: X.
    gene_symbols
        Column of ``trends.var`` with the names that genes have in ``net``. Default: ``var_names``.
    min_size
        Sets with fewer genes in the trends are left out.
    n_bootstraps
        Number of resamples for the bands.
    seed
        Seed of the resamples.

    Returns
    -------
    AnnData of shape ``(n_steps, n_sets)`` with the layers ``fit``, ``fit_low`` and ``fit_high``, which
    :func:`scivae.pl.gene_trends`, :func:`scivae.pl.trend_heatmap` and :func:`gene_order` take like trends of
    genes. ``var``: ``change`` and ``switch`` with intervals, ``resolved`` and ``n_genes``, the number of
    genes of the set in the trends.

    Raises
    ------
    KeyError
        If cells of the trends are not in ``adata``, or the layer or ``gene_symbols`` is not found.
    ValueError
        If the trends have no measured cells, or no set has enough genes.

    Warns
    -----
    UserWarning
        If sets are left out.

    Notes
    -----
    The expression of each gene is standardized over the cells, so that no gene dominates its set. The score
    of a cell is the mean over the genes of a set (with weights: the weighted mean). Scores are fitted
    like the values of a gene (:func:`scivae.stats.measured_curves`), with the positions, weights and
    donors of the cells in ``trends``. Bands come from resamples of donors, if there are three or more, otherwise
    of cells; a resample takes all genes of a cell together, so correlated genes do not make bands
    narrower. Positions are not fitted again.

    Small changes of genes in the same direction add up. The curve is a summary of a set, not a test; for a
    test see :func:`enrich`. Bands describe the curve along this axis. The axis comes from the same cells, so
    the interval of ``change`` excludes 0 for most sets even if the groups do not differ (in simulations, for
    52 to 89 %).

    Gene sets are not part of this package. GMT files are available from MSigDB (Hallmark) and Enrichr;
    ``decoupler.op.progeny()`` and ``decoupler.op.hallmark()`` download tables.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40, n_classes=2, layout="across")
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=10, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(adata, "stage", "early", "late", label="class_0")
    >>> trends = scivae.tl.gene_trends(model, pairs, n_steps=11)
    >>> sets = {kind: genes.index for kind, genes in adata.var.groupby("kind", observed=True)}
    >>> curves = scivae.tl.set_trends(adata, trends, sets)
    >>> curves.shape[0], set(curves.var_names) <= set(sets)
    (11, True)
    """
    from anndata import AnnData

    from ..stats import measured_curves
    from ._measured import NONE, bins_of, count_between, layers_of, table_of

    tables.check_adata("adata", adata)
    said = tables.check_trends("trends", trends)
    min_size = check_integer("min_size", min_size, minimum=1)
    n_bootstraps = check_integer("n_bootstraps", n_bootstraps, minimum=0)
    seed = check_integer("seed", seed, minimum=0)
    cells = said.get("cells")
    if cells is None or not len(cells):
        raise ValueError(
            "trends must be fitted to measured cells, got evidence="
            f"{said.get('evidence')!r}; call scivae.tl.gene_trends(model, pairs)."
        )
    known, sizes = known_sets(net, trends, min_size, gene_symbols)
    known = known[known["source"].isin(sizes.index)]
    cells = cells[cells["weight"].to_numpy(dtype=float) > 0]
    rows = _rows_of(adata, cells.index)
    names = list(sizes.index)
    scores = _scores(adata, rows, layer, known, names)
    t, weight = (cells[name].to_numpy(dtype=float) for name in ("t", "weight"))
    donor = cells["donor"].to_numpy(dtype=np.int64)
    donors = donor if (donor != NONE).any() else None
    curves = measured_curves(
        scores, t, library=None, weights=weight, donor=donors,
        free_ends=bool(said.get("free_ends", False)), n_steps=trends.n_obs, n_bootstraps=n_bootstraps, seed=seed,
    )  # fmt: skip
    varm, bins = bins_of(scores, t, weight, None, donors)
    var = table_of(curves, n_between=count_between(weight, t)).assign(n_genes=sizes.to_numpy())
    layers = layers_of(curves)
    kept = ("kind", "evidence", "source", "target", "groupby", "label", "donors", "donor_key",
            "free_ends", "n_between", "cells", "versions")  # fmt: skip
    about = {key: said[key] for key in kept if key in said}
    return AnnData(
        X=layers[_keys.FIT_LAYER].copy(),
        obs=trends.obs[[_keys.T]].copy(),
        var=var.set_axis(pd.Index(names, dtype=object)),
        layers=layers,
        varm={**varm, _keys.SWITCHES: curves.switches},
        uns={
            _keys.UNS: {**about, "scale": SCALE, "of": tables.OF_SETS, "bins": bins, "seed": seed}
        },
    )


def read_gene_sets(path: str | Path, argument: str = "net") -> dict[str, list[str]]:
    """Gene sets of a GMT file: one set per line, with its name, a description and its genes.

    Parameters
    ----------
    path
        The file.
    argument
        Name of the argument, for errors.

    Raises
    ------
    ValueError
        If the file does not exist, is not a GMT file, or is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{argument} must be a file, got {path}, which does not exist; check the path."
        )
    found: dict[str, list[str]] = {}
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        parts = [part.strip() for part in line.split("\t")]
        if not line.strip():
            continue
        if len(parts) < 3:
            raise ValueError(
                f"{argument} must be a GMT file (name, description and genes, separated by tabs), "
                f"got {len(parts)} parts in line {number} of {path}; correct that line."
            )
        found[parts[0]] = [gene for gene in parts[2:] if gene]
    if not found:
        raise ValueError(
            f"{argument} must hold at least one set of genes, got an empty file {path}; pass a GMT "
            "file."
        )
    return found


def as_network(net: Any) -> pd.DataFrame:
    """Sets as a table with the columns ``source``, ``target`` and, if there are weights, ``weight``."""
    if isinstance(net, str | Path):
        net = read_gene_sets(net)
    if isinstance(net, Mapping):
        rows = [(str(name), str(gene)) for name, genes in net.items() for gene in genes]
        net = pd.DataFrame(rows, columns=["source", "target"])
    if not isinstance(net, pd.DataFrame):
        raise TypeError(
            "net must be a dict of genes, a GMT file or decoupler's DataFrame, got "
            f"{type(net).__name__}; pass, for example, {{'set': ['gene_1', 'gene_2']}}."
        )
    missing = [c for c in ("source", "target") if c not in net]
    if missing or not len(net):
        raise ValueError(
            f"net must have rows and the columns 'source' and 'target', got {len(net)} rows"
            + (f" without {missing[0]!r}" if missing else "")
            + "; rename the columns, or pass a dict of {set: genes}."
        )
    return net.drop_duplicates(["source", "target"])


def known_sets(
    net: Any, trends: AnnData, min_size: int, gene_symbols: str | None = None
) -> tuple[pd.DataFrame, pd.Series]:
    """A table of the genes of each set that are in the trends, and the sizes of large enough sets.

    Raises a ValueError if no set is large enough, and warns about those that are too small.
    """
    net = as_network(net)
    named = tables.gene_symbols_of(trends.var, gene_symbols)
    known = net[net["target"].isin(trends.var_names)]
    if gene_symbols is not None:
        others = net[~net["target"].isin(trends.var_names)].rename(columns={"target": "symbol"})
        names = pd.DataFrame({"target": list(named), "symbol": list(named.values())})
        others = others.merge(names, on="symbol").drop(columns="symbol")
        known = pd.concat([known, others]).drop_duplicates(["source", "target"])
    sizes = known.groupby("source", sort=False)["target"].nunique()
    small = [name for name in net["source"].unique() if sizes.get(name, 0) < min_size]
    if not (sizes >= min_size).any():
        raise ValueError(
            f"net must have a set with at least min_size={min_size} genes of the trends, but the "
            f"largest of {net['source'].nunique()} has {sizes.max() if len(sizes) else 0} (a gene "
            f"of net: {str(net['target'].iloc[0])!r}, of the trends: {trends.var_names[0]!r}); use "
            "the same kind of names, or a smaller min_size."
        )
    if small:
        warn(
            f"{len(small)} of {net['source'].nunique()} sets are left out ({shown(small, 3)}): fewer "
            f"than min_size={min_size} of their genes are in the trends; use a smaller min_size, or "
            "trends of more genes."
        )
    return known, sizes[sizes >= min_size]


def _rows_of(adata: AnnData, names: pd.Index) -> np.ndarray:
    """Positions of the cells of the trends."""
    tables.check_names(adata)
    rows = pd.Index(as_text(adata.obs_names)).get_indexer(pd.Index(as_text(names)))
    if (rows < 0).any():
        raise KeyError(
            f"adata must have the {len(names)} cells that the trends were fitted to, but "
            f"{int((rows < 0).sum())} are missing ({str(names[int(np.argmax(rows < 0))])!r}); pass "
            "the AnnData of these cells."
        )
    return rows


def _scores(
    adata: AnnData, rows: np.ndarray, layer: str | None, known: pd.DataFrame, names: list[str]
) -> np.ndarray:
    """Mean standardized expression of the genes of each set in each cell, shape ``(n_sets, n_cells)``."""
    from scipy import sparse

    from .._storage import rows_of
    from ..data.checks import resolve_layer, values_of
    from ..data.generated import log_normalize
    from ..data.likelihoods import are_counts

    available = layer_names(adata)
    if layer is None and _keys.COUNTS_LAYER in available:
        layer = _keys.COUNTS_LAYER
    elif layer is not None and layer != "X" and layer not in available:
        raise KeyError(
            f"layer must be a layer of adata, got {layer!r}; available: "
            f"{shown(available) or 'none'}.{near_matches(layer, available)}"
        )
    genes = pd.Index(as_text(adata.var_names))
    known = known[known["target"].isin(genes)]
    used = pd.unique(known["target"])
    columns = genes.get_indexer(used)
    weight = known["weight"].to_numpy(dtype=float) if "weight" in known else np.ones(len(known))
    of_set = pd.Index(names).get_indexer(pd.Index(known["source"]))
    of_gene = pd.Index(used).get_indexer(pd.Index(known["target"]))
    members = sparse.csr_matrix((weight, (of_gene, of_set)), shape=(len(used), len(names)))
    members = members.multiply(1 / np.maximum(abs(members).sum(axis=0), 1e-12)).tocsr()
    source = values_of(adata, resolve_layer(adata, layer))

    def blocks() -> Any:
        for first in range(0, len(rows), _ROWS):
            block = rows_of(source, rows[first : first + _ROWS])
            if counts:
                block = log_normalize(
                    block if sparse.issparse(block) else np.asarray(block, dtype=np.float32)
                )
            block = block[:, columns]
            yield np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=float)

    counts = are_counts(rows_of(source, rows[:_ROWS]))
    sums, squares = np.zeros((2, len(used)))
    for block in blocks():
        sums += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = sums / len(rows)
    sd = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))
    constant = sd <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, sd))
    return np.concatenate([((block - mean) * scale) @ members for block in blocks()]).T
