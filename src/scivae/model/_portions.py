"""Parts of ``augment``: how processes share them, and how generated cells become an AnnData or a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from .. import _keys
from .._parts import Parts
from .._progress import progress
from .._storage import row_blocks
from ..data.generated import as_categories, assemble
from ..data.writers import check_new, read_cells, read_uns, write_blocks
from ..module import COUNT_LIKELIHOODS
from ._base import CellsModel
from ._drawing import Source

# Each part of a class has random numbers of its own, so that processes can make parts in any order.
CELLS_PER_PART = 16_384


class Augmented(NamedTuple):
    """One block of generated cells of a class.

    Attributes
    ----------
    values
        Shape ``(n, n_vars)``, CSR for sampled counts.
    latent
        Shape ``(n, n_latent)``.
    obs
        Their annotation.
    """

    values: Any
    latent: np.ndarray
    obs: pd.DataFrame


def stacked(blocks: Sequence[Any]) -> Any:
    """Rows of all blocks, CSR where they are sparse."""
    if sparse.issparse(blocks[0]):
        return sparse.vstack(blocks, format="csr")
    return np.concatenate(blocks)


class Portion(NamedTuple):
    """A part of the cells of a class.

    Attributes
    ----------
    source
        Real cells of the class.
    number
        Number of the part within the class.
    n
        Number of cells.
    start
        Number of cells before it, of all classes.
    """

    source: Source
    number: int
    n: int
    start: int


def portions_of(sources: Sequence[Source], counts: Mapping[int, int]) -> list[Portion]:
    """Parts of all classes; they do not depend on the number of processes."""
    found, start = [], 0
    for source in sources:
        for number, rows in enumerate(row_blocks(counts[source.code], CELLS_PER_PART)):
            found.append(Portion(source, number, rows.stop - rows.start, start + rows.start))
        start += counts[source.code]
    return found


def make_parts(
    model: CellsModel,
    adata: AnnData,
    parts: Parts,
    sources: Sequence[Source],
    portions: Sequence[Portion],
    target: Path,
    made: Callable[[Portion, dict[int, int]], Iterator[Augmented]],
    uns: Callable[[], dict[str, Any]],
    drawn: dict[int, int],
) -> None:
    """Make the parts of this process; the first process joins all to the store."""
    if parts.done:
        if not target.exists():
            raise ValueError(
                f"parts says that {target} was written, but it does not exist; delete the folder "
                f"{parts.folder} to make the cells again."
            )
        return
    if parts.rank == 0:
        check_new(target)

    def make(i: int) -> None:
        own = dict.fromkeys(drawn, 0)
        blocks = blocks_of(model, adata, made(portions[i], own), sources, portions[i].start)
        write_blocks(parts.path(i), blocks, lambda: {_keys.N_DRAWN: sum(own.values())})

    mine = list(parts.missing())
    with progress("making cells", sum(portions[i].n for i in mine), unit="cells"):
        for i in mine:
            make(i)

    def join() -> None:
        for i, portion in enumerate(portions):
            drawn[portion.source.code] += int(read_uns(parts.path(i))[_keys.N_DRAWN])
        blocks = (read_cells(parts.path(i)) for i in range(parts.n))
        write_blocks(target, blocks, lambda: {_keys.UNS: uns()})

    parts.finish(join)


def drawn_in(store: Path, sources: Sequence[Source]) -> dict[int, int]:
    """Number of cells drawn for each class, as a store says."""
    column = read_uns(store)[_keys.UNS]["classes"][_keys.N_DRAWN].to_numpy()
    return {source.code: int(n) for source, n in zip(sources, column, strict=True)}


def cells_of(
    model: CellsModel,
    adata: AnnData,
    made: Sequence[Augmented],
    uns: dict[str, Any],
    start: int = 0,
) -> AnnData:
    """Build the AnnData of generated cells, named ``augmented_<start>`` and following."""
    obs = pd.concat([part.obs for part in made])
    obs.index = pd.Index([f"augmented_{i}" for i in range(start, start + len(obs))])
    return assemble(
        stacked([part.values for part in made]),
        real=adata,
        setup=model.setup,
        obs=as_categories(obs),
        latent=np.concatenate([part.latent for part in made]),
        counts=model.likelihood in COUNT_LIKELIHOODS,
        uns=uns,
    )


def blocks_of(
    model: CellsModel,
    adata: AnnData,
    rounds: Iterable[Augmented],
    sources: Sequence[Source],
    start: int = 0,
) -> Iterator[AnnData]:
    """One AnnData for each round, whose columns can be appended to those of the previous rounds."""
    ends = pd.Index(np.concatenate([source.names for source in sources])).unique()
    for made in rounds:
        cells = cells_of(model, adata, [made], {}, start)
        start += cells.n_obs
        # Each cell has its own path name: as categories, all names would be kept in memory.
        cells.obs[_keys.PATH] = made.obs[_keys.PATH].to_numpy()
        for column in (_keys.SOURCE, _keys.TARGET):
            cells.obs[column] = pd.Categorical(made.obs[column], categories=ends)
        yield cells
