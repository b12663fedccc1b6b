"""The rules of the page on the command line, by the workflow managers that are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import make_adata

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commandline.md"


def block(beginning: str) -> str:
    """The code of the page that begins so."""
    found = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return next(code for code in found if code.startswith(beginning))


def run_in(folder: Path, words: list[str]) -> None:
    """Run a command where ``scivae`` is this one, on tiny cells with the columns of the page."""
    adata = make_adata()
    number = np.arange(adata.n_obs)
    adata.obs["tissue"] = np.array(["normal", "tumor"])[number // 3 % 2]
    adata.obs["patient"] = np.array(["p1", "p2", "p3"])[number // 6 % 3]
    (folder / "cells").mkdir()
    adata.write_h5ad(folder / "cells" / "first.h5ad")
    (folder / "bin").mkdir()
    command = folder / "bin" / "scivae"
    command.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m scivae.cli "$@" --epochs 5 --n-synthetic 5\n',
        encoding="utf-8",
    )
    command.chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_snakemake(tmp_path):
    if shutil.which("snakemake") is None:
        pytest.skip("there is no snakemake")
    (tmp_path / "Snakefile").write_text(block("rule scivae"), encoding="utf-8")
    run_in(tmp_path, ["snakemake", "--cores", "1", "results/first/report.html"])
    assert (tmp_path / "results" / "first" / "genes.csv").exists()


def test_nextflow(tmp_path):
    if shutil.which("nextflow") is None:
        pytest.skip("there is no nextflow")
    (tmp_path / "main.nf").write_text(block("process SCIVAE"), encoding="utf-8")
    run_in(tmp_path, ["nextflow", "run", "main.nf"])
    assert (tmp_path / "results" / "first" / "out" / "genes.csv").exists()
