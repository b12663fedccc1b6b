"""What the benchmarks share: where the data is, how a table is written."""

from __future__ import annotations

import math
import os
import platform
import resource
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "evidence"
PACKAGES = ("scivae-tools", "scvi-tools", "torch")


def data_file(name: str) -> Path:
    """A file of the development data: under ``SCIVAE_DATA_DIR``, else beside the checkout."""
    folder = Path(os.environ.get("SCIVAE_DATA_DIR", ROOT.parent / "shared" / "data"))
    path = folder / name
    if not path.exists():
        sys.exit(f"{path} is not there; set SCIVAE_DATA_DIR to the folder that holds {name}.")
    return path


def peak() -> float:
    """Largest resident memory of this process so far, MB.

    Linux hands the peak that getrusage tells on from parent to child; this is of the process alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def rows_so_far(name: str) -> list[dict]:
    """Rows of a table that an earlier run has written."""
    path = DOCS / f"{name}.csv"
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def command_of(arguments: Sequence[str]) -> str:
    """The command that runs this script, as one types it in the root of the checkout."""
    return f"python {shlex.join([f'benchmarks/{Path(sys.argv[0]).name}', *arguments])}"


def machine(packages: Sequence[str] = PACKAGES) -> str:
    """Versions, processors and day: what a row or a table was measured with."""
    versions = ", ".join(f"{p} {version(p)}" for p in packages)
    return (
        f"{versions} · Python {platform.python_version()} · {os.cpu_count()} CPU cores · "
        f"{date.today()}"
    )


def provenance(command: str | None = None, packages: Sequence[str] = PACKAGES) -> str:
    """One line: command (this one), versions and machine, for the foot of a table."""
    return f"`{command or command_of(sys.argv[1:])}` · {machine(packages)}"


def write_table(name: str, title: str, text: str, rows: pd.DataFrame, by: str | list[str]) -> None:
    """Write every row as CSV, and mean ± sd over seeds as Markdown, under ``docs/evidence``.

    A mean of one seed has no ±.
    """
    by = [by] if isinstance(by, str) else by
    DOCS.mkdir(parents=True, exist_ok=True)
    rows.to_csv(DOCS / f"{name}.csv", index=False, float_format="%.6g", encoding="utf-8")
    groups = rows.groupby(by, sort=False)
    columns = [c for c in rows.select_dtypes("number") if c not in (*by, "seed")]
    mean, sd = groups[columns].mean(), groups[columns].std()
    cells = mean.copy().astype(object)
    for column in columns:
        cells[column] = [spread(m, s) for m, s in zip(mean[column], sd[column], strict=True)]
    seeds = groups["seed"].nunique()
    counted = (
        seeds.iloc[0]
        if seeds.nunique() == 1
        else ", ".join(
            f"{' · '.join(np.atleast_1d(key).astype(str))}: {n}" for key, n in seeds.items()
        )
    )
    if (seeds > 1).any():
        text += f"\n\nMean ± standard deviation over seeds ({counted})."
    _write(name, title, text, cells.reset_index())


def write_markdown(name: str, title: str, text: str, table: pd.DataFrame) -> None:
    """Write a table as it is, as CSV and as Markdown, under ``docs/evidence``."""
    table.to_csv(DOCS / f"{name}.csv", index=False, float_format="%.6g", encoding="utf-8")
    _write(name, title, text, table)


def _write(name: str, title: str, text: str, table: pd.DataFrame) -> None:
    (DOCS / f"{name}.md").write_text(
        f"# {title}\n\n{text}\n\n{markdown_table(table)}\n\n{provenance()}\n",
        encoding="utf-8",
    )


def number(value: float) -> str:
    """A number as a table shows it: three decimals below 1, two below 10, one below 1,000.

    From 1,000 on it is whole; below 0.001 it is a power of ten.
    """
    if pd.isna(value):
        return "–"
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.{2 if 1 <= abs(value) < 10 else 1 if abs(value) >= 10 else 3}f}"


def spread(mean: float, sd: float = np.nan) -> str:
    """A mean and its standard deviation, which sets the number of digits; without one, the number alone."""
    if pd.isna(mean) or pd.isna(sd) or sd <= 1e-9 * abs(mean):
        return number(mean)
    digits = max(0, 1 - math.floor(math.log10(sd)))
    if digits > 3:
        if abs(mean) < 1e-2:
            return f"{number(mean)} ± {number(sd)}"
        digits = 3 if sd >= 5e-4 else 4
    return f"{mean:,.{digits}f} ± {sd:,.{digits}f}"


def markdown_table(table: pd.DataFrame) -> str:
    """A table as it is, with its numbers as ``number`` shows them."""
    shown = table.map(lambda v: "" if pd.isna(v) else number(v) if isinstance(v, float) else v)
    header = [str(c) for c in table.columns]
    body = [header, ["---"] * len(header), *shown.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in body)
