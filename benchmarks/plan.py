"""Plan for a hundred million cells: bytes read, time by number of processes, memory, and where it breaks.

    python benchmarks/plan.py              # print the tables; seconds
    python benchmarks/plan.py --write      # put them into docs/large.md
    python benchmarks/plan.py --simulate   # count what is read of a few thousand cells, beside the formula

Nothing is measured here, except by `--simulate`: speeds and bytes come from the committed tables of
`larger_than_memory.py` and `processes.py`. The formula for bytes is that of `BlockLoader`: a block that holds one
chosen cell is read as a whole. A test compares it with the bytes that a run of a few thousand cells reads.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from _common import DOCS, ROOT, markdown_table

PAGE = ROOT / "docs" / "large.md"
BEGIN, END = "<!-- from here on: benchmarks/plan.py --write -->", "<!-- up to here -->"
# Cells that are calibrated on: scivae.train.calibration.MAX_CELLS and MAX_RESIDUALS, read once and twice.
CALIBRATION = (10_000, 2_000, 2_000)
INFORMATION, RUN = 2_000, 50  # cells in runs of neighbors: scivae.data.information.spread_over
# Bytes per cell that every process holds while it trains, counted by the test (tracemalloc): codes of labels and batches,
# positions of training and held-out cells, and where each row of the file begins.
BYTES_HELD = 41


class File(NamedTuple):
    """Cells in an uncompressed CSR matrix."""

    n_cells: int
    nonzero: float  # values a cell
    value_bytes: int = 4
    index_bytes: int = 8  # int64 from 2³¹ values on, as scipy has them
    pointer_bytes: int = 8
    block: int = 512

    @property
    def a_cell(self) -> float:
        """Bytes of the values of a cell and of their columns."""
        return self.nonzero * (self.value_bytes + self.index_bytes)

    @property
    def pointers(self) -> float:
        """Bytes of the array that says where each row begins."""
        return float(self.pointer_bytes * (self.n_cells + 1))

    def touched(self, chosen: float) -> float:
        """Bytes read for a number of cells at random: all blocks that hold one of them."""
        n_blocks = -(-self.n_cells // self.block)
        missed = (1 - 1 / n_blocks) ** chosen if chosen < self.n_cells else 0.0
        return self.n_cells * self.a_cell * (1 - missed)


def bytes_of_check(file: File) -> float:
    """Bytes read by ``BlockDataModule(check=True)``, which looks at all values once."""
    some = min(INFORMATION, file.n_cells)
    # anndata reads the pointers whole: to summarize, and for the principal components
    return (file.n_cells + some) * file.a_cell + file.pointers


def bytes_of_training(file: File, epochs: int, held_out: float) -> float:
    """Bytes read by each process of a training: epochs, held-out cells after each, and calibration.

    With several processes, each reads all blocks.
    """
    n_held_out = held_out * file.n_cells
    train = file.touched(file.n_cells - n_held_out) + file.pointers
    after_each = (file.touched(n_held_out) + file.pointers) if n_held_out else 0.0
    # First, the dispersions of all genes are estimated from runs of neighboring training cells.
    runs = INFORMATION // RUN * (RUN / (1 - held_out) + file.block)
    first = min(runs, file.n_cells) * file.a_cell + file.pointers
    calibration = 0.0
    if n_held_out:
        calibration = after_each + sum(
            file.touched(min(n, file.n_cells - n_held_out)) + file.pointers for n in CALIBRATION
        )
    return first + epochs * (train + after_each) + calibration


def bytes_of_annotation(file: File) -> float:
    """Bytes read by all processes of ``annotate(check=False)`` together."""
    return file.n_cells * file.a_cell + file.pointers


# --- what a run really reads -----------------------------------------------------------------------


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count the bytes of values, columns and pointers that h5py reads in the block."""
    import h5py

    found = {"data": 0, "indices": 0, "indptr": 0}
    plain, direct = h5py.Dataset.__getitem__, h5py.Dataset.read_direct

    def read(self, key, *args, **kwargs):
        values = plain(self, key, *args, **kwargs)
        name = self.name.rpartition("/")[2]
        if name in found and "obs" not in self.name:
            found[name] += np.asarray(values).nbytes
        return values

    h5py.Dataset.__getitem__ = read
    try:
        yield found
    finally:
        h5py.Dataset.__getitem__, h5py.Dataset.read_direct = plain, direct


def simulate(
    folder: Path, n_cells: int = 4_000, n_genes: int = 60, epochs: int = 2
) -> pd.DataFrame:
    """Bytes that a run on few cells in small blocks reads, beside the formula."""
    import scivae
    from scivae.model import CIVAE, BlockDataModule

    adata = scivae.datasets.synthetic(
        n_cells, n_genes, 4, layout="across", mean_counts=20.0, normalize=False
    )
    adata.write_h5ad(folder / "cells.h5ad")
    counts = adata.X
    names = ("value_bytes", "index_bytes", "pointer_bytes")
    arrays = (counts.data, counts.indices, counts.indptr)
    sizes = dict(zip(names, (array.itemsize for array in arrays), strict=True))
    file = File(n_cells, counts.nnz / n_cells, block=16, **sizes)
    rows = []

    def row(what: str, found: dict[str, int], expected: float) -> None:
        read = sum(found.values())
        rows.append({"what": what, "read": read, "expected": expected, "ratio": read / expected})

    with counted() as found:
        data = BlockDataModule(folder / "cells.h5ad", block_size=16, pool_size=512)
    row("check", found, bytes_of_check(file))
    model = CIVAE(registry=data.registry, n_latent=4, n_hidden=8)
    with counted() as found:
        model.train(
            datamodule=data, max_epochs=epochs, accelerator="cpu", enable_progress_bar=False
        )
    row("training", found, bytes_of_training(file, epochs, data.n_val / data.n_obs))
    again = BlockDataModule(
        folder / "cells.h5ad", registry=model.registry_, block_size=16, check=False
    )
    with counted() as found:
        model.annotate(again)
    row("annotate", found, bytes_of_annotation(file))
    return pd.DataFrame(rows)


# --- the plan --------------------------------------------------------------------------------------


def measured() -> dict[str, float]:
    """Speeds, cells a second, from the committed tables."""
    table = pd.read_csv(DOCS / "larger_than_memory.csv").set_index("what")

    def one(what: str, column: str) -> float:
        return float(np.atleast_1d(table.loc[what, column])[0])

    out = {
        "training": one("training, h5ad in blocks", "cells a second"),
        "loader": one("training, h5ad in blocks", "loader alone, cells a CPU second"),
        "check": 1e6 / one("training, h5ad in blocks", "to look at all cells first, CPU s"),
        "annotate": one("annotate, h5ad", "cells a second"),
        "augment": one("augment to zarr", "cells a second"),
    }
    path = DOCS / "processes.csv"
    if path.exists():  # per process, of two
        rows = pd.read_csv(path)
        rows = rows[rows["what"] == "training"]
        speed = rows.pivot(index="round", columns="processes × threads", values="cells a second")
        out["gain of two processes"] = float((speed["2 × 1"] / speed["1 × 1"]).median())
    return out


def hours(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.0f} min" if seconds >= 60 else f"{seconds:,.0f} s"


def plan(
    n_cells: int, n_genes: int, share: float, epochs: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bytes by what is done, and time by number of machines with two cores."""
    file, speed = File(n_cells, share * n_genes), measured()
    size = file.n_cells * file.a_cell + file.pointers
    check, training = bytes_of_check(file), bytes_of_training(file, epochs, 0.1)
    read = pd.DataFrame(
        [
            {"what": what, "TB read": n / 1e12, "× file": n / size, "by": by}
            for what, n, by in (
                ("the file itself", size, ""),
                ("check", check, "each process; left out by check=False"),
                (f"training, {epochs} epochs and calibration", training, "each process"),
                ("annotate", bytes_of_annotation(file), "all processes together"),
            )
        ]
    )
    passes = training / size
    rows = []
    for n in (1, 2, 4, 8, 16, 64):
        computing = epochs * 0.9 * n_cells / (n * speed["training"])
        reading = passes * n_cells / speed["loader"]
        rows.append(
            {
                "machines": n,
                "training computes": hours(computing),
                "training reads": hours(reading),
                "training takes": hours(max(computing, reading)),
                "reads in all, TB": n * training / 1e12,
                "annotate": hours(n_cells / (n * speed["annotate"])),
                "augment, a tenth": hours(0.1 * n_cells / (n * speed["augment"])),
            }
        )
    return read, pd.DataFrame(rows)


def section(args) -> str:
    """The section of the page."""
    read, time = plan(args.cells, args.genes, args.nonzero, args.epochs)
    speed = measured()
    file = File(args.cells, args.nonzero * args.genes)
    # Machines with which computing takes as long as reading: the time of an epoch, once and for the held-out cells.
    most = speed["loader"] / speed["training"] * 0.9 * args.epochs * file.n_cells * file.a_cell
    most /= bytes_of_training(file, args.epochs, 0.1)
    gain = speed.get("gain of two processes")
    known = (
        ""
        if gain is None
        else f"On one machine of two cores, two processes train {gain:.2f} times as fast as one, which keeps both cores "
        "busy. "
    )
    known += "A gain of more machines was not measured, so training times are lower bounds."
    return f"""{BEGIN}

## A plan for {args.cells:,} cells

{args.genes:,} genes, {args.nonzero:.0%} of the values nonzero, {args.epochs} epochs, 10 % of the cells held out, h5ad without compression on a disk
that every machine reads at full speed. Speeds are those [measured](evidence/larger_than_memory.md) on a million cells and two cores
(training {speed["training"]:,.0f} cells per second, reading {speed["loader"]:,.0f}); the rest is arithmetic. The formula for bytes was compared
with what a run of a few thousand cells reads (`tests/test_plan.py`).

{markdown_table(read)}

{markdown_table(time)}

{known}

Where it breaks:

- **Every process of a training reads the whole file**, and once more after every epoch for the held-out cells, which lie in all blocks.
  Reading takes as long as computing from {most:.0f} machines on; more machines then gain nothing. A GPU reaches this limit alone. Pass
  `check_val_every_n_epoch=None` or larger to read half.
- **Memory** grows by {BYTES_HELD} bytes per cell in every process, {BYTES_HELD * args.cells / 1e9:.1f} GB here: labels, batches, the split and row positions. Names of cells
  are read once and need some 100 bytes each for that time.
- **Calibration** keeps all held-out cells in memory (some 400 bytes each, {400 * 0.1 * args.cells / 1e9:.0f} GB here) and their scores in the model. Hold out fewer:
  `BlockDataModule(..., train_size=0.999)`.
- **`annotate` and `augment`** share their work without a limit of this kind. The first process writes the result: {file.n_cells * 4 * 23 / 1e9:.0f} GB for `annotate` with
  20 latent dimensions.
- `interpolate`, `gene_trends` and figures take cells in memory: choose them with `data.to_memory`.

{END}
"""


def main(argv: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--nonzero", type=float, default=0.11, help="share of the values")
    parser.add_argument("--epochs", type=int, help="default: those of model.train()")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    parser.add_argument("--simulate", action="store_true")
    args = parser.parse_args(argv)
    if args.epochs is None:
        from scivae.train.plan import default_epochs

        args.epochs = default_epochs(args.cells)
    if args.simulate:
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory() as folder:
            table = simulate(Path(folder))
        print(table.to_string())
        return table.to_string()
    text = section(args)
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        before = page.partition(BEGIN)[0].rstrip()
        after = page.partition(END)[2].strip()
        PAGE.write_text(f"{before}\n\n{text}{after}".rstrip() + "\n", encoding="utf-8")
    print(text)
    return text


if __name__ == "__main__":
    main()
