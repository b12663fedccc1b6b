"""Run a part of the tests with the oldest, the tested and the newest versions, and beside related packages.

    python benchmarks/versions.py

Makes one virtual environment per row, with uv (``pip install uv``), in a temporary folder, and removes
it. Python comes from PATH or pyenv, as uv finds it. PyTorch is the heaviest package, so there is one
version of it per Python; ``--torch`` names another. Exits with an error if a test fails in a row.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from _common import DOCS, ROOT, command_of, markdown_table, provenance

PACKAGES = ("scvi-tools", "lightning", "torch", "anndata", "scanpy", "numpy", "pandas", "scipy")
PACKAGES += ("scikit-learn", "matplotlib", "POT", "statsmodels", "umap-learn")
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
TORCH = {"3.11": "2.13.0", "3.12": "2.14.1", "3.13": "2.14.1"}
TESTS = (
    "tests/datasets/test_synthetic.py",
    "tests/model/test_augmentation.py",
    "tests/model/test_interpolation.py",
    "tests/model/test_saving.py",
    "tests/data/test_setup.py",
    "tests/train/test_plan.py",
    "tests/module",
    "tests/test_other_versions.py",
    "tests/tl/test_trends.py",
)
# Versions without a wheel for a Python are no candidates for the oldest: they would be compiled.
COMPILED = ("h5py", "llvmlite", "matplotlib", "numba", "numpy", "pandas", "POT", "scikit-learn")
COMPILED += ("PyYAML", "scipy", "statsmodels")
# Name of a combination, and what is added to "install the package".
COMBINATIONS: dict[str, list[str]] = {
    "oldest": ["--resolution", "lowest-direct"]
    + [f"--only-binary={package}" for package in COMPILED],
    "constraints": ["-c", "constraints.txt"],
    "newest": [],
}
# Packages that are tested beside the newest versions, what is installed, and the tests.
BESIDE: dict[str, tuple[str, list[str]]] = {
    "annbatch": ("annbatch>=0.3", ["tests/data/test_datamodule.py", "-k", "annbatch"]),
    "cellrank": ("cellrank>=2", ["tests/test_ecosystem.py", "-k", "cellrank"]),
    "moscot": ("moscot", ["tests/test_ecosystem.py", "-k", "moscot"]),
    "scib-metrics": ("scib-metrics", ["tests/test_ecosystem.py", "-k", "scib_metrics"]),
}
TEXT = (
    """Tests that pass with each combination of versions. *oldest*: the lower bounds of `pyproject.toml`, or the
oldest versions above them that have a wheel for this Python and suit one another; *constraints*:
`constraints.txt`; *newest*: what pip installs without it. There is one PyTorch per Python, so its lower
bound is not tested here. The tests are a part of the suite: """
    + ", ".join(f"`{test}`" for test in TESTS)
    + ". `.ci/run` runs the whole suite on Python 3.11 with *constraints* and nearly all of it on 3.12 with *newest*."
)
TEXT_BESIDE = """Tests with packages that read the latent space or feed the model, installed beside the newest versions.
annbatch: `BlockDataModule(reader="annbatch")` gives the minibatches and losses of `reader="anndata"`."""


def run(*command: str, **kwargs) -> subprocess.CompletedProcess:
    """Run a command, and stop with its output if it fails."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, **kwargs)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done


def measure(
    python: str, torch: str, install: list[str], tests: list[str]
) -> tuple[dict[str, str], dict[str, object]]:
    """Versions in a new environment, and what pytest says of the tests there."""
    folder = Path(tempfile.mkdtemp(prefix="vers."))
    try:
        interpreter = str(folder / "bin" / "python")
        run("uv", "venv", "--quiet", "--allow-existing", "--python", python, str(folder))
        overrides = folder / "overrides.txt"
        overrides.write_text(f"torch=={torch}\n", encoding="utf-8")
        pip = ("uv", "pip", "install", "--quiet", "--python", interpreter)
        run(*pip, "--overrides", str(overrides), "-e", ".[test]", *install)
        listed = json.loads(
            run("uv", "pip", "list", "--python", interpreter, "--format", "json").stdout
        )
        versions = {package["name"].lower(): package["version"] for package in listed}
        versions["python"] = run(interpreter, "--version").stdout.split()[1]
        start = time.perf_counter()
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"MPLBACKEND": "Agg"}
        done = subprocess.run(
            [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
            capture_output=True,
            encoding="utf-8",
            cwd=ROOT,
            env=environment,
        )
        seconds = time.perf_counter() - start
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n", flush=True)
        summary = (done.stdout.strip() or "1 error").splitlines()[-1]  # not even started
        counts = {
            word: int(next(iter(re.findall(rf"(\d+) {word}", summary)), 0))
            for word in ("passed", "failed", "error", "skipped")
        }
        return versions, {**counts, "seconds": round(seconds)}
    finally:
        shutil.rmtree(folder)


def rows_of(name: str) -> list[dict]:
    """Rows of a table that earlier runs have written, as text."""
    path = DOCS / f"{name}.csv"
    if not path.exists():
        return []
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def write(rows: list[dict], beside: list[dict]) -> None:
    """Both tables, in one file."""
    tables = [pd.DataFrame(found).astype(str) for found in (rows, beside)]
    for name, table in zip(("versions", "versions_beside"), tables, strict=True):
        if len(table):
            table.to_csv(DOCS / f"{name}.csv", index=False, encoding="utf-8")
    parts = ["# Versions", TEXT, markdown_table(tables[0]), "## Related packages", TEXT_BESIDE]
    parts += [markdown_table(tables[1]), provenance(command_of([]), packages=("scivae-tools",))]
    (DOCS / "versions.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def replaced(rows: list[dict], row: dict, order: list[str]) -> list[dict]:
    """Rows with one in place of that of its name and Python, if there is one."""

    def key(row: dict) -> tuple[list[int], int]:
        python = [int(part) for part in str(row["python"]).split(".")[:2]]
        return python, order.index(str(row["tested"]))

    kept = [other for other in rows if key(other) != key(row)]
    return sorted([*kept, row], key=key)


def main() -> None:
    """Measure the rows asked for; others keep what earlier runs found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*COMBINATIONS, *BESIDE]
    parser.add_argument("--only", choices=names, help="one row; default: all")
    parser.add_argument("--python", choices=TORCH, help="one Python; default: all")
    parser.add_argument("--torch", help="version of PyTorch; default: one for each Python")
    arguments = parser.parse_args()
    failed = False
    for python in [arguments.python] if arguments.python else TORCH:
        for name in [arguments.only] if arguments.only else names:
            if name in BESIDE and python != "3.12":
                continue
            extra, tests = BESIDE.get(name, (None, list(TESTS)))
            install = COMBINATIONS.get(name, [extra] if extra else [])
            # Some of the tests beside other packages are marked slow.
            selected = [*tests, "-m", "slow or not slow"] if extra else tests
            versions, counts = measure(python, arguments.torch or TORCH[python], install, selected)
            shown = [name, "scvi-tools", "anndata", "pandas", "numpy"] if extra else PACKAGES
            own = {"version" if p == name else p: versions[p.lower()] for p in shown}
            row = {"tested": name, "python": versions["python"], **own, **counts}
            failed |= bool(counts["failed"] or counts["error"] or not counts["passed"])
            rows, beside = rows_of("versions"), rows_of("versions_beside")
            if extra:
                beside = replaced(beside, row, list(BESIDE))
            else:
                rows = replaced(rows, row, list(COMBINATIONS))
            write(rows, beside)
    sys.exit(failed)


if __name__ == "__main__":
    main()
