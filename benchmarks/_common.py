"""What the benchmarks share: where the data is, how a table is written."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "evidence"


def data_file(name: str) -> Path:
    """A file of the development data: under ``SCIVAE_DATA_DIR``, else beside the checkout."""
    folder = Path(os.environ.get("SCIVAE_DATA_DIR", ROOT.parent / "shared" / "data"))
    path = folder / name
    if not path.exists():
        sys.exit(f"{path} is not there; set SCIVAE_DATA_DIR to the folder that holds {name}.")
    return path


def rows_so_far(name: str) -> list[dict]:
    """Rows of a table that an earlier run has written."""
    path = DOCS / f"{name}.csv"
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def provenance() -> str:
    """One line: command, versions and machine, for the foot of a table."""
    versions = ", ".join(f"{p} {version(p)}" for p in ("scivae-tools", "scvi-tools", "torch"))
    command = shlex.join([Path(sys.argv[0]).resolve().relative_to(ROOT).as_posix(), *sys.argv[1:]])
    return (
        f"`python {command}` · {versions} · Python {platform.python_version()} · "
        f"{os.cpu_count()} CPU cores · {date.today()}"
    )


def write_table(name: str, title: str, text: str, rows: pd.DataFrame, by: str) -> None:
    """Write every row as CSV, and mean ± sd over seeds as Markdown, under ``docs/evidence``."""
    DOCS.mkdir(parents=True, exist_ok=True)
    rows.to_csv(DOCS / f"{name}.csv", index=False, float_format="%.6g")
    numbers = rows.drop(columns=["seed"]).groupby(by, sort=False)
    mean, sd = numbers.mean(numeric_only=True), numbers.std(numeric_only=True).fillna(0)
    lines = ["| " + " | ".join([by, *mean.columns]) + " |", "|" + "---|" * (len(mean.columns) + 1)]
    for method in mean.index:
        cells = [f"{mean.loc[method, c]:.4g} ± {sd.loc[method, c]:.2g}" for c in mean.columns]
        lines.append("| " + " | ".join([str(method), *cells]) + " |")
    seeds = rows.groupby(by, sort=False)["seed"].nunique()
    counted = ", ".join(f"{method}: {n}" for method, n in seeds.items())
    foot = f"Mean ± standard deviation over seeds ({counted}). {provenance()}"
    (DOCS / f"{name}.md").write_text(
        f"# {title}\n\n{text}\n\n" + "\n".join(lines) + f"\n\n{foot}\n"
    )


def write_listing(name: str, title: str, text: str, rows: pd.DataFrame) -> None:
    """Write rows that are no repetitions of one another, as CSV and Markdown."""
    DOCS.mkdir(parents=True, exist_ok=True)
    rows.to_csv(DOCS / f"{name}.csv", index=False)
    lines = ["| " + " | ".join(rows.columns) + " |", "|" + "---|" * len(rows.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows.itertuples(index=False)]
    table = "\n".join(lines)
    (DOCS / f"{name}.md").write_text(f"# {title}\n\n{text}\n\n{table}\n\n{provenance()}\n")
