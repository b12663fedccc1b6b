"""Training on, and use of, cells on the disk: speed and memory beside cells in memory.

    python benchmarks/larger_than_memory.py                    # 1,000,000 × 2,000, about an hour
    python benchmarks/larger_than_memory.py --quick            # seconds: are the results the same?
    python benchmarks/larger_than_memory.py --folder /data     # keep the cells there, and use them again

Every row is a process of its own. Training is timed over `--trained` cells of the first epoch, after
the first two blocks of minibatches, at batch size 128 and 512; "in memory" is `CIVAE(adata).train()` on the same cells, "row by row" the
same on an AnnData that is backed by the file. Memory is the peak of the process, all of Python, PyTorch and
scvi-tools included, which "imports alone" has too; of it, "grown" is what came after these. Cells that are
written or encoded are timed as a whole. No cell is held out, so that no look at them is timed. A CPU second
is one of any core: what reads ahead counts too, though it works beside the training. On a machine with
other jobs, that is the measure to go by.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from _common import peak, write_markdown
from anndata.io import read_elem, sparse_dataset, write_elem

import scivae

N_CLASSES, N_BATCHES = 8, 2
MEAN_COUNTS = 0.0805  # a gene, so that 11 % are nonzero
WARM_UP = 2  # steps of the framework, each of several minibatches


def made_like() -> dict:
    """Arguments of the cells, but for their number and that of the genes."""
    return {"layout": "across", "n_batches": N_BATCHES, "batch_effect": 0.1, "normalize": False}


def make(folder: Path, n_cells: int, n_genes: int) -> None:
    """Write the cells as h5ad and as zarr, block by block."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"made_{n_cells}_{n_genes}"
    if done.exists():
        return
    blocks = scivae.datasets.synthetic_blocks(
        n_cells,
        n_genes,
        N_CLASSES,
        mean_counts=MEAN_COUNTS * n_genes,
        **made_like(),
    )
    with h5py.File(folder / "cells.h5ad", "w") as file:
        roots = [file, zarr.open_group(str(folder / "cells.zarr"), mode="w")]
        obs = []
        for block in blocks:
            obs.append(block.obs)
            for root in roots:
                if len(obs) == 1:
                    first = block.copy()
                    del first.uns, first.obsm
                    first.X.indptr = first.X.indptr.astype(np.int64)
                    write_elem(root, "/", first)
                else:
                    sparse_dataset(root["X"]).append(block.X)
            print(f"\rmade {len(obs) * 4096:,} cells", end="", flush=True)
        for root in roots:
            write_elem(root, "obs", pd.concat(obs))
    print()
    done.touch()


def clocks() -> np.ndarray:
    """Time, and time that this process has been given by the processor, s."""
    return np.array([time.perf_counter(), time.process_time()])


def speed(n: int, start: np.ndarray, end: np.ndarray | None = None) -> dict:
    """Columns of the table for n cells that took from a start to an end (now)."""
    took = (clocks() if end is None else end) - start
    return {"cells a second": n / took[0], "cells a CPU second": n / took[1]}


def timed_training(model, args, **kwargs) -> dict:
    """Speed of training, after the first steps of the framework."""
    from lightning.pytorch import Callback

    class Clock(Callback):
        n, start, end = 0, clocks(), clocks()

        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            if batch_idx < WARM_UP:
                self.start = clocks()
                return
            self.n, self.end = self.n + len(batch["labels"]), clocks()
            trainer.should_stop = self.n >= args.trained

    clock = Clock()
    model.train(
        max_epochs=1,
        callbacks=[clock],
        check_val_every_n_epoch=None,
        accelerator=args.accelerator,
        enable_progress_bar=False,
        **kwargs,
    )
    return speed(clock.n, clock.start, clock.end)


def from_registry(path: Path, args) -> tuple:
    data = scivae.model.BlockDataModule(
        path, batch_key="batch", batch_size=args.batch_size, train_size=1.0
    )
    return data, scivae.model.CIVAE(registry=data.registry, n_latent=10)


def imports_alone(args) -> dict:
    import scivae.model  # noqa: F401

    return {}


def in_memory(args) -> dict:
    adata = anndata.read_h5ad(args.folder / "cells.h5ad")
    return _trained_on(adata, args)


def row_by_row(args) -> dict:
    adata = anndata.read_h5ad(args.folder / "cells.h5ad", backed="r")
    args.trained //= 20
    return _trained_on(adata, args)


def _trained_on(adata, args) -> dict:
    scivae.model.CIVAE.setup_anndata(adata, batch_key="batch")
    model = scivae.model.CIVAE(adata, n_latent=10)
    return timed_training(model, args, train_size=1.0, batch_size=args.batch_size)


def blocks(args, name: str) -> dict:
    start = time.process_time()
    data, model = from_registry(args.folder / name, args)
    checked = time.process_time() - start
    row = timed_training(model, args, datamodule=data)
    start, n = clocks(), 0
    for tensors in data.train_dataloader():
        n += len(tensors["X"])
        if n >= 4 * args.trained:
            break
    row["loader alone, cells a CPU second"] = speed(n, start)["cells a CPU second"]
    row["to look at all cells first, CPU s"] = checked
    return row


def blocks_h5ad(args) -> dict:
    return blocks(args, "cells.h5ad")


def blocks_zarr(args) -> dict:
    return blocks(args, "cells.zarr")


def _trained_model(args):
    """A model of few cells, and these."""
    n_genes = len(_names(args.folder))
    adata = scivae.datasets.synthetic(
        20_000 if n_genes > 500 else 2_000,
        n_genes,
        N_CLASSES,
        mean_counts=MEAN_COUNTS * n_genes,
        **made_like(),
    )
    scivae.model.CIVAE.setup_anndata(adata, batch_key="batch")
    model = scivae.model.CIVAE(adata, n_latent=10)
    model.train(max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    return model


def _names(folder: Path) -> np.ndarray:
    with h5py.File(folder / "cells.h5ad") as file:
        return read_elem(file["var/_index"])


def annotate(args, name: str) -> dict:
    model = _trained_model(args)
    data = scivae.model.BlockDataModule(args.folder / name, registry=model.registry, check=False)
    start = clocks()
    model.annotate(data)
    return speed(data.n_obs, start)


def annotate_h5ad(args) -> dict:
    return annotate(args, "cells.h5ad")


def annotate_zarr(args) -> dict:
    return annotate(args, "cells.zarr")


def augment(args, n: int) -> dict:
    model = _trained_model(args)
    grown = peak()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        start = clocks()
        path = model.augment("class_0", n, store=Path(folder) / "made.zarr", min_confidence=0.0)
        end = clocks()
        made = zarr.open_group(str(path), mode="r")["obsm/X_civae"].shape[0]
    return {**speed(made, start, end), "cells made": made, "grown, MB": peak() - grown}


def augment_tenth(args) -> dict:
    return augment(args, args.augmented // 10)


def augment_all(args) -> dict:
    return augment(args, args.augmented)


TASKS = {
    "imports alone": imports_alone,
    "training, in memory": in_memory,
    "training, h5ad in blocks": blocks_h5ad,
    "training, zarr in blocks": blocks_zarr,
    "training, h5ad row by row": row_by_row,
    "annotate, h5ad": annotate_h5ad,
    "annotate, zarr": annotate_zarr,
    "augment to zarr, a tenth": augment_tenth,
    "augment to zarr": augment_all,
}
BY_SIZE = [name for name in TASKS if name.startswith("training")]


def in_process(name: str, args, batch_size: int) -> dict:
    """A row, from a process of its own: the peak of memory never falls."""
    words = [__file__, "--task", name, "--folder", args.folder, "--batch-size", batch_size]
    words += ["--trained", args.trained, "--augmented", args.augmented]
    words += ["--accelerator", args.accelerator]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def quick(folder: Path) -> None:
    """Raise unless cells give the same results wherever they lie."""
    make(folder, 4096 + 500, 500)
    results = []
    for name in ("cells.h5ad", "cells.zarr", "memory"):
        source = folder / name if name != "memory" else anndata.read_h5ad(folder / "cells.h5ad")
        data = scivae.model.BlockDataModule(source, batch_size=512, pool_size=2048)
        model = scivae.model.CIVAE(registry=data.registry, n_latent=10)
        model.train(datamodule=data, max_epochs=2, accelerator="cpu", enable_progress_bar=False)
        model.annotate(data)
        if name != "memory":
            read = anndata.read_h5ad if name.endswith("h5ad") else anndata.read_zarr
            source = read(source)
        losses = model.history["train_loss"].to_numpy(float).ravel().tolist()
        results.append((losses, source.obsm["X_civae"], source.obs["civae_predicted"].tolist()))
        print(name, losses)
    for losses, latent, predicted in results[1:]:
        np.testing.assert_array_equal(losses, results[0][0])
        np.testing.assert_array_equal(latent, results[0][1])
        np.testing.assert_array_equal(predicted, results[0][2])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="results on little data, no times")
    parser.add_argument("--folder", type=Path, help="where the cells are made, and kept")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--trained", type=int, default=200_000, help="cells that are timed")
    parser.add_argument("--augmented", type=int, default=1_000_000)
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"], help="of training")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, default=128, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if args.task:
        import scivae.model  # noqa: F401

        imports = peak()
        row = TASKS[args.task](args)
        row = {**row, "peak memory, MB": peak()}
        row.setdefault("grown, MB", peak() - imports)
        print(json.dumps(row))
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        if args.quick:
            quick(args.folder)
            return
        make(args.folder, args.cells, args.genes)
        rows = []
        for repeat in range(args.repeats):
            for name in args.only:
                for size in args.batch_sizes if name in BY_SIZE else [0]:
                    row = {"what": name, "batch size": size or "", "repeat": repeat}
                    row |= in_process(name, args, size or 128)
                    rows.append(row)
                    print(row, flush=True)
    table = pd.DataFrame(rows)
    table = table.groupby(["what", "batch size"], sort=False).median().reset_index()
    table = table.drop(columns="repeat")
    memory = table[table["what"] == "training, in memory"].set_index("batch size")
    if len(memory):
        for unit in ("second", "CPU second"):
            best = table["batch size"].map(memory[f"cells a {unit}"])
            share = table[f"cells a {unit}"] / best
            table[f"of that in memory, by {unit}"] = share.where(table["what"].isin(BY_SIZE))
    text = " ".join(__doc__.split("\n\n")[2].split())
    text = f"{args.cells:,} cells × {args.genes:,} genes. {text}"
    name, title = "larger_than_memory", "Cells on the disk"
    if args.accelerator == "gpu":
        name, title = f"{name}_gpu", f"{title}, training on a GPU"
    write_markdown(name, title, text, table)


if __name__ == "__main__":
    main()
