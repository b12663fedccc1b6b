"""Execute the tutorials.

    python tutorials/run.py                        # all of them at full size; outputs are kept in place
    python tutorials/run.py 1_quickstart 3_colon   # these only
    python tutorials/run.py --small                # at reduced size, as in CI; nothing is kept

The notebooks are the one source: edit them, then run this. At reduced size the variables of the cell tagged
``parameters`` get the values of ``SMALL`` below; nothing else differs. What is kept is what a reader who runs
the notebook sees, but for paths of this machine. A word on the error stream is an error here, since whoever
follows the tutorial would wonder about it. The time that a notebook states in its first cell is the one
that this measured.

Data that a tutorial cannot download are looked for in the folder ``SCIVAE_DATA_DIR``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb")))

# "small" or "full": at which size the tutorials are executed. Tests take small where it is not set.
SIZE = "SCIVAE_TUTORIAL_SIZE"
# What the variables of the parameters cell are at reduced size.
SMALL: dict[str, dict[str, Any]] = {
    "1_quickstart": {"epochs": 15},
    "2_mnist": {
        "download": False,
        "split": "test",
        "n_images": 1500,
        "epochs": 40,
        "min_confidence": 0.5,
        "n_walks": 20,
        "n_drawn": 200,
    },
    "3_colon": {
        "download": False,
        "epochs": 10,
        "n_pairs": 250,
        "n_genes": 300,
    },
    "4_rare_cells": {"epochs": 40, "repeats": 2},
    "5_few_labels": {"epochs": 60},
    "6_large_data": {
        "n_cells": 6000,
        "n_genes": 100,
        "n_new": 500,
        "pool_size": 2048,
        "two_processes": False,
    },
    "7_interferon": {"epochs": 10, "n_bootstraps": 10, "types": ["B cells"]},
    "8_your_own_data": {"n_top_genes": 300, "epochs": 10, "n_bootstraps": 10},
}
PARAMETERS = "parameters"
SECONDS_A_CELL = 1800

# The sentence of the first cell that says how long a notebook takes.
TIME = re.compile(r"\*\*Time:\*\* .*")
# Advice on rare classes, which is seen by who runs the notebook, and not stored.
ADVICE = re.compile(
    r"\S+:\d+: UserWarning: [^\n]* has classes with fewer than 10 cells [^\n]*\n.*\n"
)
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def size(default: str = "full") -> str:
    """``"small"`` or ``"full"``, as the environment has it."""
    found = os.environ.get(SIZE, default)
    if found not in ("small", "full"):
        raise ValueError(f"{SIZE} must be 'small' or 'full', got {found!r}.")
    return found


def read(name: str) -> nbformat.NotebookNode:
    """The notebook of a name, as it is committed."""
    if name not in NAMES:
        raise KeyError(f"a tutorial is one of {', '.join(NAMES)}, got {name!r}.")
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def parameters_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cell whose variables set the size."""
    (cell,) = (c for c in notebook.cells if PARAMETERS in c.metadata.get("tags", ()))
    return cell


def execute(name: str, folder: Path, *, small: bool, kernel: Any = None) -> nbformat.NotebookNode:
    """Execute a notebook and tidy its outputs.

    Parameters
    ----------
    name
        Name of the notebook, without its ending.
    folder
        Where it runs, and leaves its files.
    small
        At reduced size.
    kernel
        A manager of kernels to share between notebooks, which saves importing everything anew;
        ``None``: a kernel of its own.

    Returns
    -------
    The executed notebook. An error in a cell is raised, with the cell.
    """
    notebook = read(name)
    if small:
        cell = parameters_cell(notebook)
        cell.source += "".join(f"\n{k} = {v!r}" for k, v in SMALL.get(name, {}).items())
    if kernel is not None:
        # A kernel that runs already stays in the folder of the notebook before.
        begin = f"import os\nos.chdir({str(folder)!r})\n%reset -f"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(begin))
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    # CI draws without a screen (Agg), but a figure that is not inline is not in the notebook.
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    start = time.perf_counter()
    client.execute(env=env)
    seconds = time.perf_counter() - start
    if kernel is not None:
        del notebook.cells[0]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs, folder)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "scivae": {"seconds": round(seconds)},
        }
    )
    first = notebook.cells[0]
    first.source = TIME.sub(
        f"**Time:** {spoken(seconds)} on {os.cpu_count()} CPU cores.", first.source
    )
    return notebook


def spoken(seconds: float) -> str:
    """A length of time, as one would say it."""
    if seconds < 50:
        return f"about {max(10, 10 * round(seconds / 10))} seconds"
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} minute{'s' * (minutes > 1)}"


def tidy(outputs: list[Any], folder: Path) -> list[Any]:
    """The outputs of a cell without what is of this machine; an error for any that warns of more than rare classes."""
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            if not ADVICE.fullmatch(output.text):
                raise ValueError(
                    f"a cell of a tutorial must not warn, but one does:\n{output.text}"
                )
            continue
        if "execution_count" in output:
            output["execution_count"] = None
        output.get("metadata", {}).clear()
        texts = [("text", output)] if output.output_type == "stream" else []
        texts += [
            (kind, output.data) for kind in output.get("data", {}) if kind.startswith("text/")
        ]
        for key, where in texts:
            where[key] = where[key].replace(f"{folder}{os.sep}", "").replace(str(folder), ".")
            if ADDRESS.search(where[key]):
                raise ValueError(f"an output must be the same each time, but one is:\n{where[key]}")
        kept.append(output)
    return kept


def main() -> None:
    """Execute, and keep what came out at full size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--small", action="store_true", help="at reduced size; nothing is kept")
    args = parser.parse_args()
    small = args.small or size() == "small"
    for name in args.names or NAMES:
        name = Path(name).stem
        print(f"{name} …", end=" ", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            # Beside the notebooks, as by hand, so that data sets are downloaded once.
            folder = Path(scratch).resolve() if small else FOLDER
            notebook = execute(name, folder, small=small)
        print(f"{notebook.metadata.scivae.seconds} s", flush=True)
        if not small:
            target = FOLDER / f"{name}.ipynb"
            part = target.with_suffix(".part")
            part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
            part.replace(target)


if __name__ == "__main__":
    sys.exit(main())
