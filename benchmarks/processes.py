"""Speed of several processes on one machine: training, annotate, augment and gene trends.

    python benchmarks/processes.py            # about 15 minutes on two idle cores
    python benchmarks/processes.py --quick    # a minute: do several processes give the results of one?

Cells are in an h5ad file, 11 % of their values nonzero. "2 × 1" is two processes with one thread each, and so on. In
training, they take the same steps: the minibatch of all processes together has 256 cells, so that one of two processes has 128.
Gradients are averaged by gloo. "Step by step" is training without compiled loops. The first tenth of the steps is not timed. The other rows share their parts through a folder (`parts=`), and are timed as a whole, in the
first process, from the moment at which all have imported everything until the result is written or returned. Ratios are
taken within a round, to one process with one thread; medians (ranges) over rounds, in which the rows take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _common import DOCS, markdown_table, peak, provenance

SHAPES = {"1 × 1": (1, 1), "1 × 2": (1, 2), "2 × 1": (2, 1)}
TOGETHER = 256  # cells of a minibatch of all processes
MEAN_COUNTS = 0.0805  # a gene, so that 11 % are nonzero


def made(n_cells: int, n_genes: int):
    import scivae

    adata = scivae.datasets.synthetic(
        n_cells,
        n_genes,
        8,
        layout="across",
        mean_counts=max(40.0, MEAN_COUNTS * n_genes),
        normalize=False,
    )
    adata.obs["donor"] = [f"donor_{i % 6}" for i in range(adata.n_obs)]
    return adata


def training(args, *, step_by_step: bool = False) -> dict:
    """Cells a second of all processes together."""
    from lightning.pytorch import Callback

    from scivae.model import CIVAE, BlockDataModule

    n = args.processes
    data = BlockDataModule(args.folder / "cells.h5ad", batch_size=TOGETHER // n, train_size=1.0)
    model = CIVAE(registry=data.registry, n_latent=10)

    class Clock(Callback):
        cells, start, end = 0, 0.0, 1.0

        def on_train_start(self, trainer, plan):
            self.start = time.perf_counter()

        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            self.end = time.perf_counter()
            n_warm_up = trainer.num_training_batches // 10
            if batch_idx <= n_warm_up and n_warm_up:
                self.start = self.end
            else:
                self.cells += len(batch["labels"])

    clock = Clock()
    more = {"strategy": "ddp_find_unused_parameters_true"} if n > 1 else {}
    plan = {"minibatch_size": None} if step_by_step else {}
    model.train(
        datamodule=data, max_epochs=1, accelerator="cpu", devices=n, callbacks=[clock],
        check_val_every_n_epoch=None, enable_progress_bar=False, plan_kwargs=plan, **more,
    )  # fmt: skip
    return {"cells a second": n * clock.cells / (clock.end - clock.start), "engine": model.engine}


def stepwise(args) -> dict:
    return training(args, step_by_step=True)


def _shared(args, work) -> dict:
    """Seconds of work that processes share by their parts, once all are ready."""
    import anndata

    from scivae.model import CIVAE

    adata = anndata.read_h5ad(args.folder / "few.h5ad")
    model = CIVAE.load(args.folder / "model", adata)
    parts = args.scratch / "parts" if args.processes > 1 else None
    (args.scratch / f"ready_{args.rank}").touch()
    while len(list(args.scratch.glob("ready_*"))) < args.processes:
        time.sleep(0.01)
    start = time.perf_counter()
    n = work(model, adata, parts)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **({} if n is None else {"cells a second": n / seconds})}


def annotate(args) -> dict:
    from scivae.model import BlockDataModule

    def work(model, adata, parts):
        data = BlockDataModule(args.folder / "cells.h5ad", registry=model.registry_, check=False)
        model.annotate(data, parts=parts)
        return data.n_obs

    return _shared(args, work)


def augment(args) -> dict:
    def work(model, adata, parts):
        wanted = dict.fromkeys(model.classes[:4], args.augmented // 4)
        model.augment(wanted, adata=adata, store=args.scratch / "made.zarr", parts=parts)
        return args.augmented

    return _shared(args, work)


def _trends(args, evidence: str) -> dict:
    import scivae

    def work(model, adata, parts):
        early, late = (adata.obs_names[adata.obs["stage"] == s] for s in ("early", "late"))
        side = args.side
        pairs = pd.DataFrame(
            [(a, b) for a in early[:side] for b in late[:side]], columns=["source", "target"]
        )
        scivae.tl.gene_trends(model, pairs, evidence=evidence, parts=parts, key_added=None)

    return _shared(args, work)


def trends(args) -> dict:
    return _trends(args, "measured")


def decoded(args) -> dict:
    return _trends(args, "decoded")


TASKS = {
    "training": training,
    "training, step by step": stepwise,
    "annotate, h5ad": annotate,
    "augment to zarr": augment,
    "gene trends, measured": trends,
    "gene trends, decoded": decoded,
}


def run(name: str, shape: str, args) -> dict:
    """The row of a task: of its first process, while the others run beside it."""
    processes, threads = SHAPES[shape]
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment = clean | dict.fromkeys(names, str(threads))
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        words = [sys.executable, __file__, "--task", name, "--folder", args.folder]
        words += ["--scratch", scratch, "--processes", processes, "--threads", threads]
        words += ["--augmented", args.augmented, "--side", args.side]
        started = []
        # Lightning starts its other processes itself
        for rank in range(1 if name.startswith("training") else processes):
            of_rank = {} if processes == 1 else {"RANK": str(rank), "WORLD_SIZE": str(processes)}
            started.append(
                subprocess.Popen(
                    [str(w) for w in (*words, "--rank", rank)],
                    env=environment | ({} if name.startswith("training") else of_rank),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                )
            )
        ended = [process.communicate() for process in started]
    for process, (_, error) in zip(started, ended, strict=True):
        if process.returncode:
            sys.exit(f"{name}, {shape}: {error[-2000:]}")
    found = [line for line in ended[0][0].splitlines() if line.startswith("{")]
    return {"what": name, "processes × threads": shape, **json.loads(found[0])}


def prepare(args) -> None:
    """Write the cells, and a model of a few of them."""
    import scivae

    args.folder.mkdir(parents=True, exist_ok=True)
    done = args.folder / f"ready_{args.cells}_{args.genes}"
    if done.exists():
        return
    made(args.cells, args.genes).write_h5ad(args.folder / "cells.h5ad")
    few = made(min(args.cells, 4_000), args.genes)
    few.write_h5ad(args.folder / "few.h5ad")
    scivae.model.CIVAE.setup_anndata(few)
    model = scivae.model.CIVAE(few, n_latent=10)
    model.train(max_epochs=3 if args.cells > 1000 else 20, enable_progress_bar=False)
    model.save(args.folder / "model", overwrite=True)
    done.touch()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over rounds, and ratios to one process with one thread within a round."""
    out = []
    for (what, shape), part in rows.groupby(["what", "processes × threads"], sort=False):
        base = rows[(rows["what"] == what) & (rows["processes × threads"] == "1 × 1")]
        row = {"what": what, "processes × threads": shape}
        for column in ("cells a second", "seconds", "peak memory, MB"):
            row[column] = part[column].median() if column in part else np.nan
        measure = (
            "seconds" if "seconds" in part and part["seconds"].notna().any() else "cells a second"
        )
        one, here = (x.set_index("round")[measure] for x in (base, part))
        ratio = one / here if measure == "seconds" else here / one
        row["× 1 × 1"] = f"{ratio.median():.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
        out.append(row)
    return pd.DataFrame(out)


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="little data; no table is written")
    parser.add_argument("--folder", type=Path, help="where the cells are made, and kept")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--augmented", type=int, default=40_000)
    parser.add_argument("--side", type=int, default=30, help="cells of each end of the trends")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=DOCS)
    for name in ("--task", "--scratch"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--rank", "--processes", "--threads"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if args.task:
        import torch

        torch.set_num_threads(args.threads)
        args.scratch = Path(args.scratch)
        row = TASKS[args.task](args)
        if int(os.environ.get("LOCAL_RANK", args.rank)) == 0:
            print(json.dumps({**row, "peak memory, MB": peak()}), flush=True)
        return pd.DataFrame([row])
    if args.quick:
        args.cells, args.genes, args.augmented, args.side, args.rounds = 600, 60, 80, 5, 1
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = (args.folder or Path(temporary)).absolute()
        prepare(args)
        rows = []
        for number in range(args.rounds):
            for name in args.only:
                for shape in np.roll(args.shapes, number).tolist():
                    rows.append({"round": number, **run(name, shape, args)})
                    print(rows[-1], flush=True)
    table = summary(pd.DataFrame(rows))
    if not args.quick:
        pd.DataFrame(rows).to_csv(
            args.out / "processes.csv", index=False, float_format="%.6g", encoding="utf-8"
        )
        text = " ".join(__doc__.split("\n\n")[2].split())
        text = f"{args.cells:,} cells × {args.genes:,} genes. {text}"
        (args.out / "processes.md").write_text(
            f"# Several processes on one machine\n\n{text}\n\n{markdown_table(table)}\n\n{provenance()}\n",
            encoding="utf-8",
        )
    return table


if __name__ == "__main__":
    main()
