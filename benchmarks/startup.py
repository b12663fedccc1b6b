"""Time of imports, of the first output of commands, and of compiling; each in a process of its own.

    python benchmarks/startup.py        # about 6 minutes

Medians over nine rounds, in turn; the first round is left out. "all folders" is everything that scivae has: model, tl, pl,
metrics, geometry and datasets. "scivae --help" and "scivae demo, first line" include the start of Python; the second ends at the first line
of output. "compiling" is the first preparation of a minibatch and loss, with an empty cache of compiled code, without imports; "compiled before" the
same with a full one. Memory is the peak of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import pandas as pd
from _common import write_markdown

ROUNDS = 9
IMPORTS = {
    "nothing": "",
    "scvi": "import scvi",
    "scivae": "import scivae",
    "scivae.model": "import scivae.model",
    "scivae, all folders": "import scivae\nfor name in scivae.__all__: getattr(scivae, name)",
}
MEASURE = """
import resource, sys, time
start = time.perf_counter()
exec(sys.argv[1])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


COMPILE = """
import sys, time
import torch
from types import SimpleNamespace
from scivae.nb.counts import SparseCounts
from scivae.nb.loss import negative_binomial_loss
start = time.perf_counter()
x = torch.tensor([[0.0, 3.0, 1.0], [40.0, 0.0, 2.0]]).to_sparse_csr()
cells = SparseCounts.of(x).prepare(0.5, 0, 1)
layer = SimpleNamespace(weight=torch.ones(3, 2, requires_grad=True), bias=torch.zeros(3))
hidden = torch.ones(2, 2, requires_grad=True)
negative_binomial_loss(hidden, layer, torch.zeros(3), cells).sum().backward()
print(time.perf_counter() - start)
"""


def first_line() -> float:
    """Seconds from the start of ``scivae demo`` to its first line; the process is ended then."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "scivae", "demo", "--out", "demo"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
    return seconds


def help_() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "scivae", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def compiling() -> tuple[float, float]:
    """Seconds of the first use of the compiled loops, with an empty and with a full cache."""
    with tempfile.TemporaryDirectory() as cache:
        found = [
            subprocess.run(
                [sys.executable, "-c", COMPILE],
                env={**os.environ, "NUMBA_CACHE_DIR": cache},
                capture_output=True,
                encoding="utf-8",
                check=True,
            ).stdout
            for _ in range(2)
        ]
    return float(found[0]), float(found[1])


def main() -> None:
    rows = []
    for turn in range(ROUNDS + 1):
        for name, code in IMPORTS.items():
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, code],
                capture_output=True,
                encoding="utf-8",
                check=True,
            )
            seconds, memory = map(float, done.stdout.split())
            if turn:  # the first fills the caches of the system
                rows.append({"import": name, "seconds": seconds, "peak memory, MB": memory})
        if turn:
            empty, full = compiling()
            others = {
                "scivae --help": help_(),
                "scivae demo, first line": first_line(),
                "compiling": empty,
                "compiled before": full,
            }
            rows += [{"import": name, "seconds": seconds} for name, seconds in others.items()]
            print(others, flush=True)
    table = pd.DataFrame(rows).groupby("import", sort=False).median().reset_index()
    scvi = table.set_index("import").loc["scvi", "seconds"]
    table["more than scvi, seconds"] = (table["seconds"] - scvi).where(
        table["import"].isin(IMPORTS)
    )
    print(table)
    text = " ".join(__doc__.split("\n\n")[2].split())
    write_markdown("startup", "Imports, first output and compiling", text, table)


if __name__ == "__main__":
    main()
