"""Synthetic counts with known truth: a curved path, classes, and the trend of every gene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from ._normalize import log_normalize

if TYPE_CHECKING:
    from anndata import AnnData

# Cells per random stream. Changing this changes the data of every seed.
_CELLS_PER_DRAW = 4096
# Positions at which the true curves are stored.
_N_GRID = 101
# Width of a switch and of a transient peak, as a fraction of the path.
_SWITCH_WIDTH, _PEAK_WIDTH = 0.06, 0.10
_STAGES = ("early", "middle", "late")
_DIRECTIONS = ("up", "down", "transient")


@dataclass(frozen=True)
class _Truth:
    """Parameters of the generator, drawn once from the seed."""

    var: pd.DataFrame  # (n_genes, …): kind, switch, log_fold_change, marker_of
    base: np.ndarray  # (n_genes,) log mean count at size factor 1, without any change
    marker: np.ndarray  # (n_classes, n_genes) log fold change of a class
    donor: np.ndarray  # (n_donors, n_genes) log fold change of a donor
    batch: np.ndarray  # (n_batches, n_genes) log fold change of a batch
    classes: tuple[str, ...]
    layout: str

    def log_mean(self, position: np.ndarray, label: np.ndarray) -> np.ndarray:
        """``(n, n_genes)`` log mean counts at size factor 1, without donors and batches."""
        switch = self.var["switch"].to_numpy()  # (n_genes,)
        shift = position[:, None] - switch  # (n, n_genes)
        kind = self.var["kind"].to_numpy()
        level = np.zeros_like(shift)
        of = np.flatnonzero((kind == "up") | (kind == "down"))
        level[:, of] = 1 / (1 + np.exp(-shift[:, of] / _SWITCH_WIDTH))
        of = np.flatnonzero(kind == "transient")
        level[:, of] = np.exp(-0.5 * (shift[:, of] / _PEAK_WIDTH) ** 2)
        level *= self.var["log_fold_change"].to_numpy()
        level += self.base
        level += self.marker[label]
        return level


def synthetic(
    n_cells: int = 1000,
    n_genes: int = 200,
    n_classes: int = 3,
    *,
    layout: Literal["along", "across"] = "along",
    effect: float = 2.0,
    class_effect: float = 2.0,
    n_donors: int = 1,
    donor_effect: float = 0.1,
    n_batches: int = 1,
    batch_effect: float = 0.2,
    mean_counts: float | None = None,
    size_spread: float = 0.3,
    dispersion: float = 5.0,
    fraction_flat: float = 0.25,
    normalize: bool = True,
    seed: int = 0,
) -> AnnData:
    r"""Synthetic counts along a known curved path through known classes.

    For a cell at position :math:`t \in [0, 1]` of the path, the count of gene :math:`g` is
    :math:`x_g \sim \mathrm{NB}(s \cdot e^{m_g(t, c) + d_g + b_g}, \theta)`, with its size factor
    :math:`s`, class :math:`c`, donor :math:`d` and batch :math:`b`. Genes switch at different
    positions, so the path through gene space is curved; ``obsm["X_true"]`` shows it as a half
    circle.

    Parameters
    ----------
    n_cells, n_genes, n_classes
        Sizes, each at least 1.
    layout
        ``along``: classes are consecutive segments of one path, of equal length. ``across``: each
        class covers the whole path and has its own marker genes, so class and position are
        independent (such as cells of one type from normal to tumor).
    effect
        Natural log fold change of genes that follow the path. With 0, no gene follows the path or
        marks a class, so counts are independent of position and class (for null tests).
    class_effect
        Natural log fold change of a marker gene in its class (``across`` only).
    n_donors, n_batches
        Cells are assigned to them at random with equal probability. With 1, there is no such
        effect.
    donor_effect, batch_effect
        Standard deviation over genes of the log fold change of a donor or batch.
    mean_counts
        Expected total counts of a cell with size factor 1, before any change. None: 5 per gene.
    size_spread
        Standard deviation of the log size factor. Size factors have mean 1.
    dispersion
        Inverse dispersion :math:`\theta`: the variance of a count is :math:`\mu + \mu^2 / \theta`.
    fraction_flat
        Proportion of genes without any change; the others are split evenly among the kinds.
    normalize
        Whether to store counts in ``layers["counts"]`` and log-normalized values in ``X``. False:
        ``X`` holds the counts and there is no layer, which halves the memory.
    seed
        The same seed gives the same cells, independent of numpy's global state. With more cells and
        the same seed, the truth and all complete blocks of 4,096 cells stay the same.

    Returns
    -------
    AnnData of ``n_cells × n_genes``:

    - ``layers["counts"]``: CSR, float32 with whole numbers; ``X``: natural logarithm of one plus
      counts per 10,000
    - ``obs``: ``position`` in [0, 1], ``cell_type`` (``class_0``, …), ``stage`` (ordered thirds of
      the path: early < middle < late), ``size_factor``, ``donor``, ``batch``
    - ``obsm["X_true"]``: ``(n_cells, 2)``, the position on a half circle of radius 1
    - ``var``: ``kind`` (up, down, transient, marker, flat), ``switch`` (position of the switch or
      the peak; NaN without one), ``log_fold_change`` (signed, at full effect),
      ``marker_of`` (a class, or empty)
    - ``uns["synthetic"]``: ``position`` ``(101,)``, ``curves`` ``(n_classes, 101, n_genes)``: mean
      counts at size factor 1 along the path, without donors and batches (``along``: the same
      for all classes, so ``(1, 101, n_genes)``); ``classes``, and the parameters

    Raises
    ------
    ValueError
        A parameter is out of range.

    See Also
    --------
    synthetic_blocks : the same cells in blocks, for data larger than memory.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=120, n_genes=40, seed=1)
    >>> adata.shape, adata.uns["synthetic"]["curves"].shape
    ((120, 40), (1, 101, 40))
    >>> sorted(adata.var["kind"].unique())
    ['down', 'flat', 'transient', 'up']
    """
    import anndata as ad

    blocks = list(
        synthetic_blocks(
            n_cells,
            n_genes,
            n_classes,
            layout=layout,
            effect=effect,
            class_effect=class_effect,
            n_donors=n_donors,
            donor_effect=donor_effect,
            n_batches=n_batches,
            batch_effect=batch_effect,
            mean_counts=mean_counts,
            size_spread=size_spread,
            dispersion=dispersion,
            fraction_flat=fraction_flat,
            normalize=False,
            seed=seed,
        )
    )
    # Joined manually, because ad.concat makes several copies.
    first = blocks[0]
    obs = pd.concat([block.obs for block in blocks])
    position = np.concatenate([block.obsm["X_true"] for block in blocks])
    if len(blocks) == 1:
        counts = first.X
    else:
        counts = sparse.vstack([block.X for block in blocks], format="csr")
    var, uns = first.var, dict(first.uns)
    del blocks, first
    adata = ad.AnnData(counts, obs=obs, var=var, uns=uns, obsm={"X_true": position})
    if normalize:
        adata.layers["counts"] = counts
        adata.X = log_normalize(counts)
    return adata


def synthetic_blocks(
    n_cells: int = 1000,
    n_genes: int = 200,
    n_classes: int = 3,
    *,
    block_size: int = _CELLS_PER_DRAW,
    layout: Literal["along", "across"] = "along",
    effect: float = 2.0,
    class_effect: float = 2.0,
    n_donors: int = 1,
    donor_effect: float = 0.1,
    n_batches: int = 1,
    batch_effect: float = 0.2,
    mean_counts: float | None = None,
    size_spread: float = 0.3,
    dispersion: float = 5.0,
    fraction_flat: float = 0.25,
    normalize: bool = True,
    seed: int = 0,
) -> Iterator[AnnData]:
    """Generate the cells of :func:`synthetic` in blocks, for data larger than memory.

    Parameters
    ----------
    n_cells, n_genes, n_classes
        Sizes, each at least 1.
    block_size
        Cells per block, a multiple of 4,096. It does not change the cells.
    layout, effect, class_effect, n_donors, donor_effect, n_batches, batch_effect, mean_counts
        As in :func:`synthetic`.
    size_spread, dispersion, fraction_flat, normalize, seed
        As in :func:`synthetic`.

    Yields
    ------
    AnnData of up to ``block_size`` rows, with the slots of :func:`synthetic`. Categories, ``var``
    and ``uns`` are the same in all blocks.

    Raises
    ------
    ValueError
        A parameter is out of range.

    Examples
    --------
    >>> import scivae
    >>> blocks = scivae.datasets.synthetic_blocks(5000, 20, seed=1)
    >>> [block.n_obs for block in blocks]
    [4096, 904]
    """
    for name, value in (
        ("n_cells", n_cells),
        ("n_genes", n_genes),
        ("n_classes", n_classes),
        ("n_donors", n_donors),
        ("n_batches", n_batches),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}; pass a larger number.")
    for name, number in (
        ("donor_effect", donor_effect),
        ("batch_effect", batch_effect),
        ("size_spread", size_spread),
    ):
        if not (np.isfinite(number) and number >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {number}.")
    if not (np.isfinite(effect) and np.isfinite(class_effect)):
        raise ValueError(f"effects must be finite, got {effect} and {class_effect}.")
    total = 5.0 * n_genes if mean_counts is None else mean_counts
    for name, number in (("dispersion", dispersion), ("mean_counts", total)):
        if not (np.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be finite and positive, got {number}.")
    if not 0 <= fraction_flat <= 1:
        raise ValueError(f"fraction_flat must lie in [0, 1], got {fraction_flat}.")
    if layout not in ("along", "across"):
        raise ValueError(f"layout must be 'along' or 'across', got {layout!r}; pass one of these.")
    if block_size < 1 or block_size % _CELLS_PER_DRAW:
        raise ValueError(
            f"block_size must be a multiple of {_CELLS_PER_DRAW}, the number of cells from one "
            f"random stream, got {block_size}; pass, for example, {4 * _CELLS_PER_DRAW}."
        )
    truth_seed, cells_seed = np.random.SeedSequence(seed).spawn(2)
    truth = _draw_truth(
        np.random.default_rng(truth_seed),
        n_genes,
        n_classes,
        layout=layout,
        effect=effect,
        class_effect=class_effect,
        n_donors=n_donors,
        donor_effect=donor_effect,
        n_batches=n_batches,
        batch_effect=batch_effect,
        mean_counts=total,
        fraction_flat=fraction_flat,
    )
    parameters: dict[str, object] = {
        "layout": layout,
        "effect": effect,
        "class_effect": class_effect,
        "donor_effect": donor_effect,
        "batch_effect": batch_effect,
        "mean_counts": float(total),
        "size_spread": size_spread,
        "dispersion": dispersion,
        "seed": seed,
    }
    return _blocks(
        truth, cells_seed, n_cells, block_size, size_spread, dispersion, normalize, parameters
    )


def _draw_truth(
    rng: np.random.Generator,
    n_genes: int,
    n_classes: int,
    *,
    layout: str,
    effect: float,
    class_effect: float,
    n_donors: int,
    donor_effect: float,
    n_batches: int,
    batch_effect: float,
    mean_counts: float,
    fraction_flat: float,
) -> _Truth:
    classes = tuple(f"class_{k}" for k in range(n_classes))
    kinds = [*_DIRECTIONS, "marker"] if layout == "across" and n_classes > 1 else [*_DIRECTIONS]
    n_flat = round(fraction_flat * n_genes) if effect != 0 else n_genes
    order = rng.permutation(n_genes)
    kind = np.full(n_genes, "flat", dtype=object)
    for place, name in enumerate(kinds):
        kind[order[n_flat + place :: len(kinds)]] = name

    # Switches are away from the ends, so that both sides are visible.
    drawn = rng.uniform(0.15, 0.85, n_genes)
    follows = np.isin(kind, _DIRECTIONS)
    switch = np.where(follows, drawn, np.nan)
    change = np.where(follows, effect, 0.0)
    marker = np.zeros((n_classes, n_genes))
    marker_of = np.full(n_genes, "", dtype=object)
    for place, gene in enumerate(np.flatnonzero(kind == "marker")):
        marker[place % n_classes, gene] = change[gene] = class_effect
        marker_of[gene] = classes[place % n_classes]

    share = rng.gamma(1.5, size=n_genes) + 0.05
    base = np.log(mean_counts * share / share.sum())
    # With a single donor or batch there is no effect.
    donor = rng.normal(0, donor_effect if n_donors > 1 else 0, (n_donors, n_genes))
    batch = rng.normal(0, batch_effect if n_batches > 1 else 0, (n_batches, n_genes))
    signed = np.where(kind == "down", -change, change)
    var = pd.DataFrame(
        {
            "kind": pd.Categorical(kind),
            "switch": switch,
            "log_fold_change": signed,
            "marker_of": marker_of,
        },
        index=pd.Index([f"gene_{g}" for g in range(n_genes)], dtype=str),
    )
    return _Truth(var, base, marker, donor, batch, classes, layout)


def _blocks(
    truth: _Truth,
    cells_seed: np.random.SeedSequence,
    n_cells: int,
    block_size: int,
    size_spread: float,
    dispersion: float,
    normalize: bool,
    parameters: dict[str, object],
) -> Iterator[AnnData]:
    import anndata as ad

    uns = {"synthetic": {**_curves(truth), "classes": np.array(truth.classes), **parameters}}
    streams = cells_seed.spawn(-(-n_cells // _CELLS_PER_DRAW))
    draws_per_block = block_size // _CELLS_PER_DRAW
    for block in range(0, len(streams), draws_per_block):
        drawn = []
        for draw in range(block, min(block + draws_per_block, len(streams))):
            start = draw * _CELLS_PER_DRAW
            n = min(_CELLS_PER_DRAW, n_cells - start)
            rng = np.random.default_rng(streams[draw])
            drawn.append(_draw_cells(rng, truth, n, start, size_spread, dispersion))
        counts = sparse.vstack([counts for counts, _ in drawn], format="csr")
        obs = pd.concat([obs for _, obs in drawn])
        angle = np.pi * obs["position"].to_numpy()
        adata = ad.AnnData(
            log_normalize(counts) if normalize else counts,
            obs=obs,
            var=truth.var.copy(),
            uns={"synthetic": dict(uns["synthetic"])},
            obsm={"X_true": np.column_stack([-np.cos(angle), np.sin(angle)])},
        )
        if normalize:
            adata.layers["counts"] = counts
        yield adata


def _curves(truth: _Truth) -> dict[str, np.ndarray]:
    grid = np.linspace(0, 1, _N_GRID)
    n_curves = len(truth.classes) if truth.layout == "across" else 1
    curves = [np.exp(truth.log_mean(grid, np.full(_N_GRID, k))) for k in range(n_curves)]
    return {"position": grid, "curves": np.stack(curves)}


def _draw_cells(
    rng: np.random.Generator,
    truth: _Truth,
    n: int,
    start: int,
    size_spread: float,
    dispersion: float,
) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Draw counts ``(n, n_genes)`` and obs of one block."""
    n_classes, n_genes = truth.marker.shape
    # Always draw a full block and cut it, so that fewer cells are a prefix of more cells.
    position = rng.random(_CELLS_PER_DRAW)[:n]
    across = rng.integers(n_classes, size=_CELLS_PER_DRAW)[:n]
    donor = rng.integers(len(truth.donor), size=_CELLS_PER_DRAW)[:n]
    batch = rng.integers(len(truth.batch), size=_CELLS_PER_DRAW)[:n]
    size = rng.normal(-0.5 * size_spread**2, size_spread, _CELLS_PER_DRAW)[:n]  # mean of exp: 1
    label = across if truth.layout == "across" else np.floor(position * n_classes).astype(int)

    mean = truth.log_mean(position, label)  # (n, n_genes)
    if len(truth.donor) > 1:
        mean += truth.donor[donor]
    if len(truth.batch) > 1:
        mean += truth.batch[batch]
    mean += size[:, None]
    np.exp(mean, out=mean)
    # Negative binomial as a gamma-Poisson mixture: much faster than Generator.negative_binomial.
    rate = rng.standard_gamma(dispersion, (n, n_genes))
    rate *= mean
    rate /= dispersion
    dense = rng.poisson(rate)
    found = np.flatnonzero(dense)
    counts = sparse.csr_matrix(
        (
            dense.ravel()[found].astype(np.float32),
            (found % n_genes).astype(np.int32),
            np.searchsorted(found, np.arange(n + 1) * n_genes).astype(np.int32),
        ),
        shape=(n, n_genes),
    )

    stage = np.minimum(np.floor(position * len(_STAGES)).astype(int), len(_STAGES) - 1)
    obs = pd.DataFrame(
        {
            "position": position,
            "cell_type": _categorical(label, truth.classes),
            "stage": _categorical(stage, _STAGES, ordered=True),
            "size_factor": np.exp(size),
            "donor": _names("donor", donor, len(truth.donor)),
            "batch": _names("batch", batch, len(truth.batch)),
        },
        index=pd.Index([f"cell_{i}" for i in range(start, start + n)], dtype=str),
    )
    return counts, obs


def _names(word: str, codes: np.ndarray, n: int) -> pd.api.extensions.ExtensionArray:
    return _categorical(codes, [f"{word}_{k}" for k in range(n)])


def _categorical(
    codes: np.ndarray, names: Sequence[str], *, ordered: bool = False
) -> pd.api.extensions.ExtensionArray:
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(list(names), ordered))
