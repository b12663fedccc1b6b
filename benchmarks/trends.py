"""Time and memory of gene trends.

    python benchmarks/trends.py

"measured": curves of 20,000 genes through 5,000 cells (8 % of the values are not zero), and their bands and intervals from
100 resamples, by `scivae.stats`; "negative binomial fit" is the one regression of all genes. "decoded": `tl.gene_trends` sums
up half a billion decoded values (50 × 50 pairs, 100 steps, 2,083 genes) while they are decoded; "plain" decodes all of
them with `interpolate` and takes mean, standard deviation and quantiles with numpy, on a tenth of the pairs, times ten
(its memory is that of the tenth). Memory is what the peak of the process grows by; the difference is the largest of mean,
sd and quantiles on that tenth. Each row is a process of its own, with two threads. Time is that of the clock, and is
only as good as the machine was idle; processor time is that of all threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings

import numpy as np
import pandas as pd
from _common import peak, write_table
from scipy import sparse

import scivae

SIDE, N_STEPS, N_GENES = 50, 100, 2083
MANY_GENES, MANY_CELLS = 20_000, 5_000
FIT, CURVES = "negative binomial fit", "measured, with intervals"
METHODS = (FIT, CURVES, "decoded", "plain, a tenth of the pairs")


def fitted():
    adata = scivae.datasets.synthetic(n_cells=600, n_genes=N_GENES, n_classes=2, layout="across")
    scivae.model.CIVAE.setup_anndata(adata)
    model = scivae.model.CIVAE(adata)
    model.train(max_epochs=2, enable_progress_bar=False)
    early, late = (adata.obs_names[adata.obs["stage"] == s][:SIDE] for s in ("early", "late"))
    pairs = [(a, b) for a in early for b in late]
    return model, pd.DataFrame(pairs, columns=["source", "target"])


def many_counts():
    """Sparse counts of many genes that follow a wave, positions and library sizes."""
    rng = np.random.default_rng(0)
    t, library = np.sort(rng.random(MANY_CELLS)), rng.lognormal(8.2, 0.4, MANY_CELLS)
    share = rng.lognormal(0, 2.2, MANY_GENES)
    share /= share.sum()
    blocks = []
    for first in range(0, MANY_GENES, 500):
        own = share[first : first + 500, None]
        wave = rng.normal(0, 0.7, own.shape) * np.sin(3 * t)
        mean = own * library * np.exp(wave) * rng.gamma(3, 1 / 3, (len(own), MANY_CELLS))
        blocks.append(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    return sparse.vstack(blocks, format="csr"), t, library


def summed(model, pairs) -> dict[str, np.ndarray]:
    trends = scivae.tl.gene_trends(
        model, pairs, evidence="decoded", n_steps=N_STEPS, quantile_pairs=len(pairs)
    )
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


def clock() -> tuple[float, float]:
    """Time of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> dict[str, float]:
    """Columns of a row."""
    wall, processor = clock()
    return {"time, s": wall - start[0], "processor time, s": processor - start[1]}


def measured(method: str, repeat: int, results) -> None:
    warnings.simplefilter("ignore")
    row = {"method": method, "seed": repeat}
    if method in (FIT, CURVES):
        counts, t, library = many_counts()
        row["values that are not zero"] = counts.nnz / np.prod(counts.shape)
        basis, penalty = scivae.stats.spline_basis(t, 10), scivae.stats.roughness_penalty(10)
        used = peak()
        start = clock()
        if method == FIT:
            scivae.stats.fit_negative_binomial(
                counts, basis, library=library, dispersion=0.3, penalty=penalty
            )
        else:
            scivae.stats.measured_curves(counts, t, library=library)
        row |= since(start)
        row["memory, MB"] = peak() - used
        return results.put(row)
    model, pairs = fitted()
    tenth = pairs.iloc[::10]
    if method == "decoded":
        summed(model, tenth)  # the first call loads what later ones find there
        used = peak()
        start = clock()
        scivae.tl.gene_trends(model, pairs, evidence="decoded", n_steps=N_STEPS)
        row |= since(start)
        row["memory, MB"] = peak() - used
        found, expected = summed(model, tenth), plain(model, tenth)
        row["largest difference"] = max(np.abs(found[k] - expected[k]).max() for k in expected)
    else:
        used = peak()
        start = clock()
        plain(model, tenth)
        row |= {name: 10 * value for name, value in since(start).items()}
        row["memory, MB"] = peak() - used
    return results.put(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "2"  # of the processes that are started
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    rows = []
    for repeat in range(args.repeats):
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
