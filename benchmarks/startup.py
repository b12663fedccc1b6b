"""Time of imports, of the first output of commands, and of compiling; each in a process of its own.

    python benchmarks/startup.py        # about 6 minutes

Medians over nine rounds, in turn; the first round is left out. "all folders" is everything that scivae has: model, tl, pl,
metrics, geometry and datasets. "scivae --help" and "scivae demo, first line" include the start of Python; the second ends at the first line
of output. "first training" is an epoch of 256 cells and 40 genes with an empty cache of compiled code, as after installation, without imports; "the same, compiled before" with
a full one. Memory is the peak of the process.
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
import time
import scivae
cells = scivae.datasets.synthetic(256, 40, 3, seed=0)
scivae.model.CIVAE.setup_anndata(cells)
model = scivae.model.CIVAE(cells)
start = time.perf_counter()
model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
assert "compiled loops" in model.engine, model.engine
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
                "first training": empty,
                "the same, compiled before": full,
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
