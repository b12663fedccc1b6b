"""Curves of measured cells, placed on the paths between two populations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._names import as_text
from .._validate.tables import MIN_CURVE_CELLS, is_numeric
from ._model import check_measured
from ._placing import Axis
from ._samples import NONE, SOURCE, TARGET, Cells

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE
    from ..model.paths import Paths
    from ..stats import Curves


# Number of bins of position whose measured means are shown in figures.
N_BINS = 10
ENDS = ("", "_low", "_high")
_ROWS = 4096  # cells per block
_INSIDE = 1e-6
_GENES = 512  # genes per block


class Measured(NamedTuple):
    """Results of the fit to measured cells.

    Attributes
    ----------
    curves
        Curves of every gene.
    cells
        Positions of the cells that were placed, shape ``(n_cells,)``.
    table
        Name, position, distance, weight, donor and group of each cell.
    varm, bins
        Means in bins of position and donor, and a description of the bins.
    axis
        The mean path.
    free_ends
        Whether source and target have separate levels.
    """

    curves: Curves
    cells: np.ndarray
    table: pd.DataFrame
    varm: dict[str, Any]
    bins: pd.DataFrame
    axis: Axis
    free_ends: bool

    @property
    def by_layer(self) -> dict[str, np.ndarray]:
        """Curves and bands."""
        return layers_of(self.curves)

    def var(self, unit: float) -> pd.DataFrame:
        """Change, in units of ``unit``, switch and intervals of every gene."""
        table = table_of(self.curves, n_between=self.n_between, unit=unit)
        return table.assign(dispersion=self.curves.dispersion)

    @property
    def n_between(self) -> int:
        """Cells near the path in its middle half."""
        return count_between(self.table["weight"].to_numpy(), self.table["t"].to_numpy())

    @property
    def uns(self) -> dict[str, Any]:
        """Entries of ``uns`` about the cells."""
        return {
            "cells": self.table,
            "bins": self.bins,
            "n_cells": len(self.table),
            "n_used": int((self.table["weight"] > 0).sum()),
            "n_between": self.n_between,
            "unit": self.curves.unit,
            "n_bootstraps": self.curves.switches.shape[1],
            "penalty": float(self.curves.penalty),
            "free_ends": self.free_ends,
            "axis": self.axis.table(),
            "distance_scale": float(self.axis.scale),
        }

    def write(self, adata: AnnData, key_added: str) -> None:
        """Write positions and distances of the cells into ``adata.obs``."""
        for key, name in ((_keys.t_key, "t"), (_keys.distance_key, "distance")):
            column = np.full(adata.n_obs, np.nan)
            column[self.cells] = self.table[name].to_numpy()
            adata.obs[key(key_added)] = column


def with_names(table: pd.DataFrame, genes: np.ndarray, var: pd.DataFrame) -> pd.DataFrame:
    """A table of genes with their names and with the text columns of ``adata.var``."""
    table = table.set_axis(pd.Index(as_text(genes)))
    for key in var:
        if key not in table and isinstance(key, str) and not is_numeric(var[key]):
            values = var[key].astype(object)
            table[key] = [
                str(v) if known else "" for v, known in zip(values, values.notna(), strict=True)
            ]
    return table


def layers_of(curves: Curves) -> dict[str, np.ndarray]:
    """Curves and bands, by layer."""
    return {
        _keys.FIT_LAYER: curves.fit.astype(np.float32),
        _keys.FIT_LOW_LAYER: curves.low.astype(np.float32),
        _keys.FIT_HIGH_LAYER: curves.high.astype(np.float32),
    }


def count_between(weight: np.ndarray, t: np.ndarray) -> int:
    """Cells near the path (with a weight) in its middle half."""
    return int(((weight > 0) & (t > 0.25) & (t < 0.75)).sum())


def table_of(curves: Curves, *, n_between: int, unit: float = 1.0) -> pd.DataFrame:
    """Change, in units of ``unit``, switch and intervals of every curve.

    Without enough cells in between, the positions of changes are unknown, so no gene is resolved.
    """
    return pd.DataFrame(
        {
            **{f"{_keys.CHANGE}{e}": unit * getattr(curves, f"change{e}") for e in ENDS},
            **{f"{_keys.SWITCH}{e}": getattr(curves, f"switch{e}") for e in ENDS},
            _keys.RESOLVED: curves.resolved & (n_between >= MIN_CURVE_CELLS),
        }
    )


def measure(
    model: CIVAE,
    adata: AnnData,
    paths: Paths,
    groups: Cells,
    ends: np.ndarray,
    columns: np.ndarray,
    *,
    attrs: Mapping[Any, Any],
    n_steps: int,
    n_bootstraps: int,
    max_cells: int,
    rng: np.random.Generator,
    parts: str | os.PathLike | None,
) -> Measured:
    """Place measured cells on paths, and fit every gene against their positions.

    Parameters
    ----------
    model, adata
        The model and the cells.
    paths
        The paths.
    groups
        Groups and donors of the cells.
    ends
        Positions of the cells at the ends of each path, shape ``(n_paths, 2)``.
    columns
        Positions of the requested genes.
    attrs
        Parameters of the pairs.
    n_steps, n_bootstraps, max_cells, rng, parts
        As for :func:`scivae.tl.gene_trends`.
    """
    from ..data.checks import LABEL_CODES
    from ..stats import measured_curves

    check_measured(adata, "evidence='measured'", "evidence='decoded', or adata= with the counts")
    at_end = np.zeros(adata.n_obs, dtype=bool)
    at_end[ends.ravel()] = True
    codes = adata.obs[LABEL_CODES].to_numpy()
    cells = _candidates(groups, at_end, attrs, codes, len(model.classes))
    if len(cells) > max_cells:
        cells = np.sort(rng.choice(cells, max_cells, replace=False))
    z = np.asarray(model.get_latent_representation(adata, indices=cells), dtype=np.float64)
    lines = paths.polylines().astype(np.float64)
    axis = Axis.through(lines)
    distance = axis.place(z)[1]
    weight = axis.weight(distance)
    near = np.flatnonzero(weight > 0)
    if len(near) < MIN_CURVE_CELLS:
        raise ValueError(
            f"a curve needs at least {MIN_CURVE_CELLS} measured cells near the paths, but there are "
            f"{len(near)} of {len(cells)}; pair larger groups, name groups in between=, or pass "
            "evidence='decoded'."
        )
    # The known group of a cell overrides its position, if there are enough other cells in between.
    group = groups.group[cells].astype(np.int64)
    fixed = np.where(group == SOURCE, 0.0, np.where(group == TARGET, 1.0, np.nan))
    if np.isnan(fixed[near]).sum() < MIN_CURVE_CELLS:
        fixed[:] = np.nan
    row = np.full(adata.n_obs, NONE)
    row[cells[near]] = np.arange(len(near))
    t = _OnAxis(z, lines, row[ends], fixed)(None)
    free_ends = bool(np.isfinite(fixed).any())
    counts = paths.counts
    values, library = _values(model, adata, cells[near], columns, counts=counts)
    donor = groups.donor[cells[near]] if groups.donors else None
    curves = measured_curves(
        values,
        _OnAxis(z[near], lines, row[ends], fixed[near]),
        library=library,
        weights=weight[near],
        donor=donor,
        group=_effects(model, adata, cells[near], donor),
        free_ends=free_ends,
        n_steps=n_steps,
        n_bootstraps=n_bootstraps,
        seed=int(rng.integers(2**31)),
        parts=parts,
    )
    varm, bins = bins_of(values, t[near], weight[near], library, donor)
    varm[_keys.SWITCHES] = curves.switches
    table = pd.DataFrame(
        {
            "t": t,
            "distance": distance,
            "weight": weight,
            "donor": groups.donor[cells] if groups.donors else np.full(len(cells), NONE),
            "group": group,
        },
        index=pd.Index(adata.obs_names[cells].astype(str), dtype=object),
    )
    return Measured(curves, cells, table, varm, bins, axis, free_ends)


class _OnAxis(NamedTuple):
    """Positions on the mean path; in a resample, a path has the weight of its ends."""

    z: np.ndarray
    paths: np.ndarray
    ends: np.ndarray
    fixed: np.ndarray

    def __call__(self, weights: np.ndarray | None) -> np.ndarray:
        of_path = None
        if weights is not None:  # ends that are not in the fit have weight one
            of_path = np.append(weights, 1.0)[self.ends].sum(axis=1)
        t = Axis.through(self.paths, of_path).place(self.z)[0]
        if np.isnan(self.fixed).all():
            return t
        # Exactly 0 and 1 are reserved for cells of source and target.
        return np.where(np.isnan(self.fixed), np.clip(t, _INSIDE, 1 - _INSIDE), self.fixed)


def _candidates(
    groups: Cells, at_end: np.ndarray, attrs: Mapping[Any, Any], codes: np.ndarray, n_classes: int
) -> np.ndarray:
    """Positions of the cells to place on the path; ``codes`` are the codes of their labels."""
    wanted = (groups.group != NONE) | at_end
    if attrs.get("label") is not None:
        wanted |= groups.label
    elif not groups.named:
        classes = np.unique(codes[at_end])
        wanted |= np.isin(codes, classes[classes < n_classes])
    known = groups.donor != NONE if groups.donors else np.ones(len(at_end), dtype=bool)
    return np.flatnonzero(wanted & known)


def _values(
    model: CIVAE, adata: AnnData, cells: np.ndarray, columns: np.ndarray, *, counts: bool
) -> tuple[Any, np.ndarray | None]:
    """Values of some genes ``(n_genes, n_cells)``, CSR or dense, and the library sizes over all genes."""
    from scipy import sparse

    from .._storage import rows_of
    from ..data.checks import resolve_layer, values_of

    source = values_of(adata, resolve_layer(adata, model.setup.layer))
    blocks, library = [], []
    for first in range(0, len(cells), _ROWS):
        block = rows_of(source, cells[first : first + _ROWS])
        if counts or sparse.issparse(block):
            block = sparse.csr_matrix(block, dtype=np.float32)
        else:
            block = np.asarray(block, dtype=np.float32)
        if counts:
            library.append(np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())
        blocks.append(block[:, columns])
    if sparse.issparse(blocks[0]):
        values = sparse.vstack(blocks, format="csc").T.tocsr()
    else:
        values = np.ascontiguousarray(np.concatenate(blocks).T)
    return values, np.maximum(np.concatenate(library), 1.0) if counts else None


def _effects(
    model: CIVAE, adata: AnnData, cells: np.ndarray, donor: np.ndarray | None
) -> np.ndarray | None:
    """Codes of donor × batch; ``None`` if there is one donor and one batch."""
    code = np.zeros(len(cells), dtype=np.int64) if donor is None else donor.astype(np.int64)
    key = model.setup.batch_key
    if key is not None and key in adata.obs:
        batch = pd.factorize(adata.obs[key].iloc[cells].astype(object))[0]
        code = np.where(code < 0, -1, code * (batch.max() + 2) + batch + 1)
    return code if len(np.unique(code[code >= 0])) > 1 else None


def bins_of(
    values: Any,
    t: np.ndarray,
    weight: np.ndarray,
    library: np.ndarray | None,
    donor: np.ndarray | None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Weighted means of cells in bins of position and donor, with their standard errors."""
    from scipy import sparse

    code = np.minimum((t * N_BINS).astype(int), N_BINS - 1)
    of_donor = np.full(len(t), NONE) if donor is None else donor
    keys, entry = np.unique(np.stack([code, of_donor]), axis=1, return_inverse=True)
    entry = np.asarray(entry).ravel()
    n_bins = keys.shape[1]
    size = np.ones(len(t)) if library is None else library / 1e4
    member = sparse.csr_matrix((weight, (np.arange(len(t)), entry)), shape=(len(t), n_bins))
    total = np.bincount(entry, weight * size, n_bins)  # the denominator of a ratio of sums
    n_genes = values.shape[0]
    mean, se = np.empty((2, n_genes, n_bins), dtype=np.float32)
    squares = sparse.csr_matrix((weight**2, (np.arange(len(t)), entry)), shape=(len(t), n_bins))
    size_squares = np.bincount(entry, (weight * size) ** 2, n_bins)
    crossed = sparse.csr_matrix(
        (weight**2 * size, (np.arange(len(t)), entry)), shape=(len(t), n_bins)
    )
    for first in range(0, n_genes, _GENES):
        rows = slice(first, min(first + _GENES, n_genes))
        block = values[rows]
        block = np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=float)
        ratio = (block @ member) / total
        # variance of a ratio of sums, from the residuals y − ratio · size
        spread = (block**2) @ squares - 2 * ratio * (block @ crossed) + ratio**2 * size_squares
        mean[rows] = ratio
        se[rows] = np.sqrt(np.maximum(spread, 0)) / total
    table = pd.DataFrame(
        {
            "t": np.bincount(entry, weight * t, n_bins) / np.bincount(entry, weight, n_bins),
            "bin": keys[0],
            "donor": keys[1],
            "n_cells": np.bincount(entry, minlength=n_bins),
        },
        index=pd.RangeIndex(n_bins).astype(str),
    )
    return {_keys.BINS: mean, _keys.BINS_SE: se}, table
