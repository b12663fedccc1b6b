"""Run a part of the tests with the oldest and the newest versions that may be installed.

    python benchmarks/versions.py --torch 2.13.0+cpu

Makes one virtual environment for each combination, with uv (``pip install uv``), in a temporary
folder, and removes it. PyTorch is the same in all of them, as it weighs more than all else together;
``--torch`` says which, and uv looks for it where ``UV_FIND_LINKS`` says, too. Exits with an error if
a test fails in a combination.
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
from _common import ROOT, rows_so_far, write_markdown

PACKAGES = ("scvi-tools", "lightning", "torch", "anndata", "scanpy", "numpy", "pandas", "scipy")
PACKAGES += ("scikit-learn", "matplotlib", "POT", "statsmodels", "umap-learn")
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
TESTS = (
    "tests/datasets/test_synthetic.py",
    "tests/model/test_augmentation.py",
    "tests/model/test_interpolation.py",
    "tests/model/test_saving.py",
    "tests/model/test_setup.py",
    "tests/model/test_training.py",
    "tests/module",
    "tests/tl/test_trends.py",
)
# Name of a combination, and what is added to "install the package".
COMBINATIONS: dict[str, dict[str, list[str]]] = {
    "oldest": {"install": ["--resolution", "lowest-direct"]},
    "newest": {"install": []},
    # Asks for Python 3.12 or newer, so pip does not take it on an older one unless it is told to.
    "newest, scvi-tools 1.5.1 forced": {"install": [], "unmet": ["scvi-tools==1.5.1"]},
    "constraints": {"install": ["-c", "constraints.txt"]},
}
TEXT = (
    """Tests that pass with each combination of versions. *oldest*: the lower bounds of
`pyproject.toml`, and for what these bring along the newest; *constraints*: `constraints.txt`; *newest*:
what pip takes without it; *forced*: a version installed although its metadata ask for a newer Python.

PyTorch is one version throughout, so its lower bound is not shown here. Nor is a Python without a row.
The tests are a part of the suite: """
    + ", ".join(f"`{test}`" for test in TESTS)
    + "."
)


def run(*command: str, **kwargs) -> subprocess.CompletedProcess:
    """Run a command, and stop with its output if it fails."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, **kwargs)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done


def measure(name: str, python: str, torch: str) -> tuple[dict[str, object], int]:
    """Install one combination and run the tests in it; also returns how pytest exited."""
    options = COMBINATIONS[name]
    folder = Path(tempfile.mkdtemp(prefix="vers."))
    try:
        interpreter = str(folder / "bin" / "python")
        run("uv", "venv", "--quiet", "--allow-existing", "--python", python, str(folder))
        overrides = folder / "overrides.txt"
        overrides.write_text(f"torch=={torch}\n", encoding="utf-8")
        pip = ("uv", "pip", "install", "--quiet", "--python", interpreter)
        run(*pip, "--overrides", str(overrides), *options["install"], "-e", ".[test]", "pip")
        for requirement in options.get("unmet", ()):
            pip_itself = (interpreter, "-m", "pip", "install", "--quiet", "--no-deps")
            run(*pip_itself, "--ignore-requires-python", requirement)
        listed = json.loads(
            run("uv", "pip", "list", "--python", interpreter, "--format", "json").stdout
        )
        versions = {package["name"].lower(): package["version"] for package in listed}
        start = time.perf_counter()
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"MPLBACKEND": "Agg"}
        done = subprocess.run(
            [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
            capture_output=True,
            encoding="utf-8",
            cwd=ROOT,
            env=environment,
        )
        seconds = time.perf_counter() - start
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n", flush=True)
        summary = (done.stdout.strip() or "1 error").splitlines()[-1]  # not even started
        counts = {
            word: next(iter(re.findall(rf"(\d+) {word}", summary)), "0")
            for word in ("passed", "failed", "error", "skipped")
        }
        python_version = run(interpreter, "--version").stdout.split()[1]
        row = {
            "combination": name,
            "python": python_version,
            **{package: versions[package.lower()] for package in PACKAGES},
            **counts,
            "seconds": round(seconds),
        }
        return row, done.returncode
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure the combinations asked for; others keep the rows of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=COMBINATIONS, help="one combination; default: all")
    parser.add_argument("--python", default="3.11", help="interpreter, as uv takes it")
    parser.add_argument(
        "--torch", default="2.13.0", help="version of PyTorch, for all combinations"
    )
    arguments = parser.parse_args()
    rows, failed = rows_so_far("versions"), False
    for name in [arguments.only] if arguments.only else COMBINATIONS:
        row, status = measure(name, arguments.python, arguments.torch)
        done = {(r["combination"], ".".join(str(r["python"]).split(".")[:2])): r for r in rows}
        done[name, ".".join(str(row["python"]).split(".")[:2])] = row
        rows = list(done.values())
        write_markdown("versions", "Versions", TEXT, pd.DataFrame(rows))
        failed |= bool(status)
    sys.exit(failed)


if __name__ == "__main__":
    main()
