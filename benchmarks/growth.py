"""Time and memory by number of cells (on disk), genes, classes, paths and donors.

    python benchmarks/growth.py                 # about 45 minutes on two idle cores, 12 GB of disk
    python benchmarks/growth.py --most 1e5      # without the largest sizes: about 15 minutes
    python benchmarks/growth.py --quick         # a minute, no table: does every row run?

Each row is a process of its own; memory is its peak, of which importing the packages takes some 620 MB. *cells*: the first
epoch from an h5ad file, 500 genes (beyond 20,000, cells repeat), and `annotate` with `check=False`. *genes*: an epoch on
10,000 cells in memory. *classes*: the same with 2,000 genes, and calibration on a tenth of the cells. *paths*: `gene_trends` along so many
pairs, 200 genes, 20 positions, decoded. *donors*: `gene_trends` of 500 genes from 20,000 measured cells with 20 resamples, and `rank_genes`. 11 %
of the values are nonzero, batches of 128. An interrupted run goes on where it stopped; `--restart` measures all rows again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _common import DOCS, markdown_table, peak, provenance

AXES: dict[str, tuple[int, ...]] = {
    "cells": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    "genes": (500, 2_000, 5_000, 20_000, 36_000),
    "classes": (2, 20, 100, 500, 2_000),
    "paths": (1_000, 10_000, 100_000, 1_000_000),
    "donors": (3, 10, 100, 1_000),
}
MEAN_COUNTS = 0.0805  # a gene, so that 11 % are nonzero
BLOCK = 20_000  # cells that are made; larger files repeat them
FIGURE = DOCS.parent / "_static" / "growth.png"


def made(n_cells: int, n_genes: int, n_classes: int = 8):
    import scivae

    return scivae.datasets.synthetic(
        n_cells,
        n_genes,
        n_classes,
        layout="across",
        mean_counts=max(40.0, MEAN_COUNTS * n_genes),
        normalize=False,
    )


def trained(adata, epochs: int = 1, **kwargs):
    import scivae

    scivae.model.CIVAE.setup_anndata(adata)
    model = scivae.model.CIVAE(adata, n_latent=10, n_hidden=128)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, **kwargs)
    return model


def write_cells(path: Path, n_cells: int, n_genes: int) -> None:
    """Write an h5ad file block by block."""
    import h5py
    from anndata.io import sparse_dataset, write_elem

    block = made(min(n_cells, BLOCK), n_genes)
    del block.uns, block.obsm
    block.X.indptr = block.X.indptr.astype(np.int64)
    with h5py.File(path, "w") as file:
        write_elem(file, "/", block)
        for first in range(BLOCK, n_cells, BLOCK):
            sparse_dataset(file["X"]).append(block.X[: n_cells - first])
        obs = block.obs.iloc[np.arange(n_cells) % len(block.obs)]
        write_elem(file, "obs", obs.set_axis([f"cell_{i}" for i in range(n_cells)]))


def write(path: Path, axis: str, size: int, args) -> None:
    """Write the cells of a size. They are made here, so that the peak memory of its process does not count it."""
    shapes = {
        "genes": (args.n_cells, size),
        "classes": (args.n_cells, args.n_genes, size),
        "paths": (2_000, min(200, args.n_genes)),
        "donors": (2 * args.n_cells, min(500, args.n_genes)),
    }
    if axis == "cells":
        write_cells(path, size, min(500, args.n_genes))
        return
    adata = made(*shapes[axis])
    del adata.uns
    adata.write_h5ad(path)


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def of_cells(size: int, args) -> dict:
    from scivae.model import CIVAE, BlockDataModule

    data = BlockDataModule(args.cells, train_size=1.0)
    model = CIVAE(registry=data.registry, n_latent=10)
    options = {"accelerator": "cpu", "enable_progress_bar": False}
    epoch, _ = timed(lambda: model.train(datamodule=data, max_epochs=1, **options))
    again = BlockDataModule(args.cells, registry=model.registry_, check=False)
    annotate, _ = timed(lambda: model.annotate(again))
    return {"an epoch": epoch, "annotate": annotate}


def of_genes(size: int, args) -> dict:
    adata = anndata.read_h5ad(args.cells)
    return {"an epoch": timed(lambda: trained(adata, train_size=1.0))[0]}


def of_classes(size: int, args) -> dict:
    adata = anndata.read_h5ad(args.cells)
    return {"an epoch and calibration": timed(lambda: trained(adata))[0]}


def of_paths(size: int, args) -> dict:
    import scivae

    adata = anndata.read_h5ad(args.cells)
    model = trained(adata)
    rng = np.random.default_rng(0)
    early, late = (adata.obs_names[adata.obs["stage"] == s].to_numpy() for s in ("early", "late"))
    pairs = pd.DataFrame({"source": rng.choice(early, size), "target": rng.choice(late, size)})
    options = {"evidence": "decoded", "n_steps": 20, "key_added": None}
    return {"decoded trends": timed(lambda: scivae.tl.gene_trends(model, pairs, **options))[0]}


def of_donors(size: int, args) -> dict:
    import scivae

    adata = anndata.read_h5ad(args.cells)
    adata.obs["donor"] = [f"donor_{i % size}" for i in range(adata.n_obs)]
    model = trained(adata)
    adata.obsm["X_z"] = model.get_latent_representation()
    pair = {"use_rep": "X_z", "method": "nearest", "donor_key": "donor"}
    pairs = scivae.tl.pair_cells(adata, "stage", "early", "late", **pair)
    options = {"n_bootstraps": 20, "n_steps": 20, "key_added": None}
    trends, found = timed(lambda: scivae.tl.gene_trends(model, pairs, **options))
    return {
        "measured trends": trends,
        "rank_genes": timed(lambda: scivae.tl.rank_genes(found))[0],
    }


TASKS = {
    "cells": of_cells,
    "genes": of_genes,
    "classes": of_classes,
    "paths": of_paths,
    "donors": of_donors,
}


def measure(axis: str, size: int, args) -> list[dict]:
    """Rows of one size, measured in a process of its own."""
    path = args.folder / "cells.h5ad"
    write(path, axis, size, args)
    words = [sys.executable, __file__, "--task", axis, "--size", size, "--cells", path]
    words += ["--n-cells", args.n_cells, "--n-genes", args.n_genes]
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, encoding="utf-8", check=False
    )
    path.unlink()
    if done.returncode:
        sys.exit(f"{axis} {size}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    memory = found.pop("memory")
    return [
        {"axis": axis, "size": size, "what": what, "seconds": seconds, "peak memory, MB": memory}
        for what, seconds in found.items()
    ]


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Exponent of the growth between the two largest sizes: 1 is linear."""
    rows = []
    for (axis, what), part in table.groupby(["axis", "what"], sort=False):
        part = part.sort_values("size").tail(2)
        if len(part) == 2:
            a, b = np.log(part["size"])
            rates = [
                np.diff(np.log(part[c])).item() / (b - a) for c in ("seconds", "peak memory, MB")
            ]
            rows.append({"axis": axis, "what": what, "of time": rates[0], "of memory": rates[1]})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """A row for each axis: time on the left, memory on the right."""
    from _figures import COLORS, panels

    axes_names = list(dict.fromkeys(table["axis"]))
    styles = (("ours", "-"), ("reference", "--"))
    table = table.assign(**{"peak memory, GB": table["peak memory, MB"] / 1e3})
    with panels(path, len(axes_names), 2, 1.45 * len(axes_names) + 0.4, sharey="col") as (_, axes):
        for row, axis in enumerate(axes_names):
            part = table[table["axis"] == axis]
            time, memory = axes[2 * row : 2 * row + 2]
            for (what, own), (color, line) in zip(
                part.groupby("what", sort=False), styles, strict=False
            ):
                own = own.sort_values("size")
                style = {"marker": "o", "ms": 3.5, "ls": line, "color": COLORS[color]}
                time.plot(own["size"], own["seconds"], label=what, **style)
                if line == "-":  # the peak is that of the process
                    memory.plot(own["size"], own["peak memory, GB"], **style)
            time.set(yscale="log", ylabel="seconds")
            memory.set(ylim=(0, None), ylabel="GB")
            for ax in (time, memory):
                ax.set(xscale="log", xlabel=f"number of {axis}")
                ax.grid(alpha=0.3, which="major")
            if row == 0:
                memory.set_title("peak memory", fontsize="medium")
                time.set_title("time", fontsize="medium")
            time.legend(frameon=False, fontsize=8, loc="best")
        axes[0].set_ylim(top=2e4)


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; no table is written")
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--most", type=float, default=np.inf, help="largest size")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--folder", type=Path, help="for the file of cells; a temporary one")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--n-cells", type=int, default=10_000)
    parser.add_argument("--n-genes", type=int, default=2_000)
    parser.add_argument("--task", choices=AXES, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cells", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if args.task:
        import_module("scivae.model")  # takes seconds, and is not timed
        row = TASKS[args.task](args.size, args)
        print(json.dumps({**row, "memory": peak()}))
        return pd.DataFrame()
    sizes = AXES
    if args.quick:
        sizes = {"cells": (300, 600), "genes": (50, 100), "classes": (2, 20), "paths": (20, 200)}
        sizes |= {"donors": (3, 20)}
        args.n_cells, args.n_genes = 400, 60
        args.out, args.figure = None, args.figure if args.figure != FIGURE else None
    csv = None if args.out is None else args.out / "growth.csv"
    rows: list[dict] = []
    if csv is not None and csv.exists() and not args.restart:
        rows = pd.read_csv(csv).to_dict("records")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        args.folder = Path(folder)
        for axis in args.only:
            for size in sizes[axis]:
                known = any(row["axis"] == axis and row["size"] == size for row in rows)
                if known or size > args.most:
                    continue
                rows += measure(axis, size, args)
                print(rows[-1], flush=True)
                if csv is not None:
                    pd.DataFrame(rows).to_csv(
                        csv, index=False, float_format="%.6g", encoding="utf-8"
                    )
    order = list(AXES)
    table = pd.DataFrame(rows).sort_values(
        ["axis", "size"], key=lambda c: c.map(order.index) if c.name == "axis" else c, kind="stable"
    )
    if csv is not None:
        text = " ".join(__doc__.split("\n\n")[2].replace("*", "").split())
        (args.out / "growth.md").write_text(
            f"# Growth\n\n{text}\n\n{markdown_table(table)}\n\nExponent of the growth between the two largest sizes "
            f"(1 is linear):\n\n{markdown_table(slopes(table))}\n\n{provenance()}\n",
            encoding="utf-8",
        )
    if args.figure is not None:
        draw(table, args.figure)
    return table


if __name__ == "__main__":
    main()
