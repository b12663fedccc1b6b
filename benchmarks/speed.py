"""Speed of training and of the latent space, beside scVI and SCANVI in the same process.

    python benchmarks/speed.py              # about 25 minutes on two cores
    python benchmarks/speed.py --accelerator gpu --only training latent_space
    python benchmarks/speed.py --quick      # seconds: are the results right? No times are judged

Synthetic counts, 11 % of them nonzero; one hidden layer of 128 units, 10 latent dimensions, negative
binomial, learning rate 0.001, the weight of the KL term rising over the first half of the epochs, for every
method. Methods take turns within a round, so that what else the machine does meets all of them; a speed is
the median over the rounds. A ratio is taken within each round, and stands as median (least to largest).

"ELBO" is that of cells that no method has seen, after all rounds, by each method's own `get_elbo` (larger is
better). "CI-VAE, β = 0" is scVI's own objective (α = 1), with dispersions that start at random, as in scVI. "Of the ceiling" is the share of the matrix
multiplications a second that this machine reaches on the shapes of the network: what the dense network of
scVI would need for so many cells, so that skipping zeros can pass 1. Memory is the peak of a
fresh process that reads the cells and trains for an epoch, imports included. "CI-VAE, MKL" multiplies matrices as
its peers do; the other rows of CI-VAE use oneDNN where the processor is AMD's Zen 5.

On a GPU, where most methods wait for Python, CI-VAE trains for ten times as many epochs a round, so that its
"ELBO" is of another training than that of its peers, and longer than it takes; "of the
ceiling" is the time that a minibatch needs at least, by operations or by bytes, as a share of what it took:
five products of the network's shapes at the speed of a large product in single precision; or what has to be
read and written (counts, logits, their slopes, weights and what Adam keeps) at the speed of a large copy.
"TF32" is after torch.set_float32_matmul_precision("high").
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import anndata
import numpy as np
import pandas as pd
import scvi
import torch
from _common import DOCS, markdown_table, peak, provenance

import scivae
from scivae.nb import products

N_HIDDEN, N_LATENT = 128, 10
MEAN_COUNTS = 0.0805  # a gene, so that 11 % are nonzero
PEERS = ("scVI", "SCANVI", "SCANVI, linear classifier")
OURS = ("CI-VAE", "CI-VAE, MKL", "CI-VAE, bfloat16", "CI-VAE, β = 0")
OURS_ON_GPU = ("CI-VAE", "CI-VAE, TF32", "CI-VAE, bfloat16", "CI-VAE, β = 0")


def cells(n_cells: int, n_genes: int, n_classes: int = 8, seed: int = 0):
    """Synthetic cells; beyond 20,000 they repeat."""
    adata = scivae.datasets.synthetic(
        min(n_cells, 20_000),
        n_genes,
        n_classes,
        layout="across",
        mean_counts=MEAN_COUNTS * n_genes,
        normalize=False,
        seed=seed,
    )
    if n_cells > adata.n_obs:
        adata = adata[np.arange(n_cells) % adata.n_obs].copy()
        adata.obs_names = [f"cell_{i}" for i in range(n_cells)]
    adata.layers["counts"] = adata.X
    return adata


def model_of(name: str, adata):
    """The untrained model of a row."""
    common = {"n_hidden": N_HIDDEN, "n_latent": N_LATENT, "n_layers": 1}
    if name == "scVI":
        scvi.model.SCVI.setup_anndata(adata, layer="counts")
        return scvi.model.SCVI(adata, gene_likelihood="nb", **common)
    if name.startswith("SCANVI"):
        scvi.model.SCANVI.setup_anndata(
            adata, layer="counts", labels_key="cell_type", unlabeled_category="none"
        )
        return scvi.model.SCANVI(
            adata, gene_likelihood="nb", linear_classifier="linear" in name, **common
        )
    scivae.model.CIVAE.setup_anndata(adata)
    more = {"discriminator_weight": 0.0, "kl_weight": 1.0} if "β = 0" in name else {}
    model = scivae.model.CIVAE(adata, **common, **more)
    # At β = 0 dispersions start at random, as in scVI; a first training would set them to moments.
    model.is_trained_ = bool(more)
    return model


def train(model, batch_size: int, epochs: int, total: int, accelerator: str, **kwargs) -> float:
    """Seconds of some epochs, out of ``total``."""
    plan = {"lr": 1e-3, "n_epochs_kl_warmup": max(1, total // 2)}
    if isinstance(model, scivae.model.CIVAE) and model.module.discriminator_weight == 0:
        plan["thinning"] = 0.0
    start = time.perf_counter()
    model.train(
        max_epochs=epochs,
        train_size=1.0,
        batch_size=batch_size,
        plan_kwargs=plan,
        accelerator=accelerator,
        enable_progress_bar=False,
        **kwargs,
    )
    wait(accelerator)
    return time.perf_counter() - start


def products_by(name: str):
    """Where products in single precision are left to MKL, if the row says so."""
    uses = products.uses_onednn() and "MKL" not in name
    return mock.patch.object(products, "uses_onednn", return_value=uses)


def wait(accelerator: str) -> None:
    """Wait for what was asked of a device."""
    if accelerator == "gpu":
        torch.cuda.synchronize()


def seconds_on_gpu(function, rounds: int = 10) -> float:
    """Least time of a function that asks a device for one thing."""
    best = np.inf
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def operations_a_cell(n_genes: int) -> int:
    """Floating point operations of two products of the encoder and three of the decoder."""
    return 5 * 2 * n_genes * N_HIDDEN


def least_on_gpu(n_genes: int, batch_size: int) -> float:
    """Seconds that a cell of a minibatch needs, by operations and by bytes, whichever is more."""
    x, n = torch.randn(2**28, device="cuda"), 8192
    square, out = x[: n**2].view(n, n), torch.empty_like(x)
    operations = 2 * n**3 / seconds_on_gpu(lambda: square @ square)
    bytes_ = 8 * x.numel() / seconds_on_gpu(lambda: out.copy_(x))
    values, weights = batch_size * n_genes, 2 * N_HIDDEN * n_genes
    # a byte of counts; logits and slopes written, logits read once and slopes twice; Adam reads four, writes three
    moved = values * (1 + 4 * (2 + 3)) + weights * 4 * 7
    return max(operations_a_cell(n_genes) / operations, moved / bytes_ / batch_size)


def least_on_cpu(n_genes: int, batch_size: int) -> float:
    """Seconds that a cell needs at the speed of products of the network's shapes."""
    x, w = torch.randn(batch_size, n_genes), torch.randn(n_genes, N_HIDDEN)
    best = np.inf
    for _ in range(50):
        start = time.perf_counter()
        x @ w
        best = min(best, time.perf_counter() - start)
    return operations_a_cell(n_genes) * best / (2 * x.numel() * N_HIDDEN)


def training(args) -> pd.DataFrame:
    """Cells a second of training, by method and batch size."""
    rows = []
    on_gpu = args.accelerator == "gpu"
    for batch_size in args.batch_sizes:
        ours = OURS_ON_GPU if on_gpu else OURS
        if not products.uses_onednn():
            ours = tuple(name for name in ours if "MKL" not in name)
        names = PEERS + ours
        models = {name: model_of(name, cells(args.n_cells, args.n_genes)) for name in names}
        held_out = cells(max(500, args.n_cells // 10), args.n_genes, seed=1)
        epochs = {
            name: args.epochs * (10 if on_gpu and name in OURS_ON_GPU else 1) for name in names
        }

        def seconds(name: str, n: int, models=models, epochs=epochs, size=batch_size):
            more = {"precision": "bf16-mixed"} if "bfloat16" in name else {}
            torch.set_float32_matmul_precision("high" if "TF32" in name else "highest")
            total = args.rounds * epochs[name] + 1
            with products_by(name):
                took = train(models[name], size, n, total, args.accelerator, **more) / n
            torch.set_float32_matmul_precision("highest")
            return took

        for name in names:
            seconds(name, 1)
        took: dict[str, list[float]] = {name: [] for name in names}  # an epoch
        least = []  # seconds a cell
        for i in range(args.rounds):
            for name in np.roll(names, i):  # none is always first
                took[name].append(seconds(name, epochs[name]))
            least.append((least_on_gpu if on_gpu else least_on_cpu)(args.n_genes, batch_size))
        for name in names:
            speed = args.n_cells / np.array(took[name])
            row = {"batch": batch_size, "method": name, "cells a second": float(np.median(speed))}
            for peer in PEERS:
                ratio = np.array(took[peer]) / np.array(took[name])
                row[f"× {peer}"] = (
                    f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
                )
            row["of the ceiling"] = float(np.median(speed * np.array(least)))
            row["ELBO"] = float(models[name].get_elbo(held_out.copy()))
            if not on_gpu and not (args.quick and rows):  # once is enough to see that it works
                row["peak memory, MB"] = memory(name, batch_size, args)
            rows.append(row)
            print(row, flush=True)
    return pd.DataFrame(rows)


def memory(name: str, batch_size: int, args) -> float:
    """Peak of a fresh process that reads the cells and trains for an epoch, MB."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        # Made here: making them would be the peak of the other process.
        cells(args.n_cells, args.n_genes).write_h5ad(path := Path(folder) / "cells.h5ad")
        process = context.Process(target=_peak, args=(name, path, batch_size, results))
        process.start()
        found = results.get()
        process.join()
    return found


def _peak(name: str, path: Path, batch_size: int, results) -> None:
    quiet()
    model = model_of(name, anndata.read_h5ad(path))
    train(model, batch_size, 1, 2, "cpu")
    results.put(peak())


def latent_space(args) -> pd.DataFrame:
    """Cells a second of ``get_latent_representation``, and whether both ways agree."""
    adata = cells(args.n_cells, args.n_genes)
    models = {name: model_of(name, adata.copy()) for name in ("scVI", "CI-VAE")}
    for model in models.values():
        train(model, 512, 1, 2, args.accelerator)
    took: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.rounds + 2):
        for name, model in models.items():
            start = time.perf_counter()
            found = model.get_latent_representation()
            took[name].append(time.perf_counter() - start)
    # the same numbers by scvi-tools' own way
    theirs = scvi.model.SCVI.get_latent_representation(models["CI-VAE"], batch_size=128)
    rows = []
    for name in models:
        ratio = np.array(took["scVI"])[1:] / np.array(took[name])[1:]
        rows.append(
            {
                "method": name,
                "cells a second": args.n_cells / float(np.median(took[name][1:])),
                "× scVI": f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
                "largest difference": float(np.abs(found - theirs).max())
                if name == "CI-VAE"
                else np.nan,
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def growth(args) -> pd.DataFrame:
    """Seconds an epoch by number of cells, genes and classes."""
    rows = []
    for axis, sizes in args.axes.items():
        for size in sizes:
            shape = {"cells": args.n_cells, "genes": args.n_genes, "classes": 8, axis: size}
            if axis == "cells":
                shape["genes"] = min(500, args.n_genes)  # a million of them fit into memory
            for name in ("scVI", "CI-VAE"):
                if name == "scVI" and shape["cells"] > args.peer_cells:
                    continue
                model = model_of(name, cells(shape["cells"], shape["genes"], shape["classes"]))
                first = train(model, 128, 1, 2, "cpu")
                seconds = first if first > 20 else train(model, 128, 1, 2, "cpu")
                rows.append(
                    {"axis": axis, "size": size, "method": name, "epoch, s": seconds}
                    | {"cells a second": shape["cells"] / seconds}
                )
                print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def plot(table: pd.DataFrame, path: Path) -> None:
    """How the time of an epoch grows."""
    from matplotlib import pyplot as plt

    axes_names = list(dict.fromkeys(table["axis"]))
    figure, axes = plt.subplots(
        1, len(axes_names), figsize=(8.5, 2.8), sharey=True, layout="constrained"
    )
    colors = {"scVI": "#999999", "CI-VAE": "#0072B2"}
    for axis, ax in zip(axes_names, np.atleast_1d(axes), strict=True):
        for name, part in table[table["axis"] == axis].groupby("method", sort=False):
            ax.plot(part["size"], part["epoch, s"], "o-", color=colors[name], label=name, ms=4)
        ax.set(xscale="log", yscale="log", xlabel=f"number of {axis}")
        ax.grid(alpha=0.3, which="major")
        ax.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("time of an epoch (s)")
    np.atleast_1d(axes)[-1].legend(frameon=False)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def machine(accelerator: str) -> str:
    """What the numbers are of."""
    return (
        torch.cuda.get_device_name()
        if accelerator == "gpu"
        else f"{torch.get_num_threads()} threads"
    )


def quiet() -> None:
    """No warnings and logs of the libraries."""
    warnings.simplefilter("ignore")
    scvi.settings.verbosity = logging.ERROR
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds, on little data; no evidence")
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--n-cells", type=int, default=10_000)
    parser.add_argument("--n-genes", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="a round")
    parser.add_argument("--only", nargs="+", default=["training", "latent_space", "growth"])
    parser.add_argument("--out", default=None, help="folder of the tables; docs/evidence")
    args = parser.parse_args(argv)
    args.batch_sizes = (128, 1024) if args.accelerator == "gpu" else (128, 512)
    args.peer_cells = 100_000
    args.axes = {
        "cells": [1_000, 10_000, 100_000, 1_000_000],
        "genes": [500, 2_000, 5_000, 20_000],
        "classes": [2, 20, 100, 500],
    }
    if args.quick:
        args.n_cells, args.n_genes, args.rounds, args.epochs = 600, 200, 1, 2
        args.batch_sizes = (128,)
        args.axes = {"cells": [300, 600], "genes": [100, 200], "classes": [2, 10]}
        args.out = args.out or tempfile.mkdtemp(prefix="speed_")
    quiet()
    folder = Path(args.out or DOCS)
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for part in args.only:
        made[part] = globals()[part](args)
        name = f"speed_{part}" + ("_gpu" if args.accelerator == "gpu" else "")
        made[part].to_csv(
            folder / f"{name}.csv", index=False, float_format="%.6g", encoding="utf-8"
        )
        text = "\n\n".join(" ".join(p.split()) for p in __doc__.split("\n\n")[2:])
        (folder / f"{name}.md").write_text(
            f"# Speed: {part.replace('_', ' ')}\n\n{text}\n\n{markdown_table(made[part])}\n\n"
            f"{provenance()} · {machine(args.accelerator)}\n",
            encoding="utf-8",
        )
        if part == "growth":
            figures = folder if args.out else DOCS.parent / "_static"
            plot(made[part], figures / "speed_growth.png")
    return made


if __name__ == "__main__":
    main()
