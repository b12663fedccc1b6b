"""Time and memory of gene trends, at the size of the paper's own analysis of one cell type.

    python benchmarks/trends.py

50 × 50 pairs, 100 steps, 2,083 genes: half a billion decoded values. `tl.gene_trends` sums them up while
they are decoded; "plain" decodes all of them with `interpolate` and takes mean, standard deviation and
quantiles with numpy, on a tenth of the pairs, times ten (its memory is that of the tenth). Memory is what
the peak of the process grows by; the difference is the largest of mean, sd and quantiles on that tenth.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings

import numpy as np
import pandas as pd
from _common import peak, write_table

import scivae

SIDE, N_STEPS, N_GENES = 50, 100, 2083
METHODS = ("tl.gene_trends", "plain, a tenth of the pairs")


def fitted():
    adata = scivae.datasets.synthetic(n_cells=600, n_genes=N_GENES, n_classes=2, layout="across")
    scivae.model.CIVAE.setup_anndata(adata)
    model = scivae.model.CIVAE(adata)
    model.train(max_epochs=2, enable_progress_bar=False)
    early, late = (adata.obs_names[adata.obs["stage"] == s][:SIDE] for s in ("early", "late"))
    pairs = [(a, b) for a in early for b in late]
    return model, pd.DataFrame(pairs, columns=["source", "target"])


def summed(model, pairs) -> dict[str, np.ndarray]:
    trends = scivae.tl.gene_trends(model, pairs, n_steps=N_STEPS, quantile_pairs=len(pairs))
    return {name: np.asarray(trends.layers[name]) for name in ("mean", "sd", "q05", "q95")}


def plain(model, pairs) -> dict[str, np.ndarray]:
    path = model.interpolate(
        pairs["source"].tolist(), pairs["target"].tolist(), n_steps=N_STEPS, key_added=None
    )
    values = path.layers["counts"].reshape(len(pairs), N_STEPS, -1)
    values = np.log1p(1e4 * values / values.sum(axis=2, keepdims=True))
    low, high = np.quantile(values, (0.05, 0.95), axis=0)
    mean, sd = values.mean(axis=0, dtype=float), values.std(axis=0, dtype=float)
    return {"mean": mean, "sd": sd, "q05": low, "q95": high}


def measured(method: str, repeat: int, results) -> None:
    warnings.simplefilter("ignore")
    model, pairs = fitted()
    tenth = pairs.iloc[::10]
    row = {"method": method, "seed": repeat}
    if method == METHODS[0]:
        summed(model, tenth)  # the first call loads what later ones find there
        used = peak()
        start = time.perf_counter()
        scivae.tl.gene_trends(model, pairs, n_steps=N_STEPS)
        row["time of 2,500 pairs, s"] = time.perf_counter() - start
        row["memory, MB"] = peak() - used
        found, expected = summed(model, tenth), plain(model, tenth)
        row["largest difference"] = max(np.abs(found[k] - expected[k]).max() for k in expected)
    else:
        used = peak()
        start = time.perf_counter()
        plain(model, tenth)
        row["time of 2,500 pairs, s"] = 10 * (time.perf_counter() - start)
        row["memory, MB"] = peak() - used
    results.put(row)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    rows = []
    for repeat in range(5):
        for method in METHODS:  # each in a process of its own: the peak of memory never falls
            process = context.Process(target=measured, args=(method, repeat, results))
            process.start()
            rows.append(results.get())
            process.join()
            print(rows[-1], flush=True)
    text = " ".join(__doc__.split("\n\n")[2].split())
    write_table("trends", "Time and memory of gene trends", text, pd.DataFrame(rows), "method")


if __name__ == "__main__":
    main()
