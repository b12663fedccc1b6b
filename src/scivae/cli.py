"""The command ``scivae``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  scivae demo
      train on blood cells that scanpy ships; trace a path between two kinds of dendritic cells
  scivae demo --dataset digits --epochs 60 --out digits
      images of handwritten digits, from one 8 to another; no network either
  scivae demo --dataset colon
      normal to tumor epithelium, on data that is fetched once
  scivae demo --data mine.h5ad --labels-key cell_type --groupby tissue \\
      --source normal --target tumor --label Epithelial --out results
      the same on cells of your own
  scivae demo --data mine.h5ad --label Goblet --n-synthetic 200
      without groups: from one end of a class to the other, and 200 cells of each class
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; ``None`` for those of the process.

    Returns
    -------
    Exit status: 0, or 2 where the input is at fault.
    """
    with _signs_replaced(sys.stdout), _signs_replaced(sys.stderr):
        return _run(_parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    """Run a command; tell what is at fault in one line."""
    from ._demo import Request, run

    names = Request._fields
    request = Request(**{k: _text(v) for k, v in vars(args).items() if k in names})
    try:
        run(request)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"scivae: error: {message}", file=sys.stderr)
        return 2
    return 0


def _text(value: Any) -> Any:
    """An argument whose bytes are UTF-8, whatever the locale took them for."""
    if not isinstance(value, str):
        return value
    try:
        return os.fsencode(value).decode("utf-8")
    except UnicodeError:
        return value


@contextmanager
def _signs_replaced(stream: Any) -> Iterator[None]:
    """Let a console that cannot show a sign show a question mark, instead of an error."""
    errors = getattr(stream, "errors", None)
    if errors is None or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        stream.reconfigure(errors=errors)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scivae",
        description="Class-faithful interpolation and augmentation of single cells with CI-VAE.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('scivae-tools')}"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="train, interpolate, augment, and write figures, tables and a short report",
        description="Train CI-VAE, trace paths between two groups of cells, generate cells of every class,\n"
        "and write what came out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = demo.add_mutually_exclusive_group()
    data.add_argument("--data", type=Path, metavar="FILE.h5ad", help="cells of your own")
    data.add_argument(
        "--dataset",
        choices=["pbmc", "digits", "mnist", "colon"],
        default="pbmc",
        help="a known data set (default: pbmc, which needs no network)",
    )
    demo.add_argument("--labels-key", help="column of obs with the classes (default: cell_type)")
    demo.add_argument("--layer", help="layer to model (default: counts where there is one, else X)")
    demo.add_argument("--batch-key", help="column of obs with the batches")
    demo.add_argument("--groupby", help="column of obs with the groups to trace paths between")
    demo.add_argument("--source", help="group in which paths begin")
    demo.add_argument("--target", help="group in which paths end")
    demo.add_argument("--label", help="class of the paths (default: the largest)")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("scivae_demo"),
        help="folder of the results (default: scivae_demo)",
    )
    demo.add_argument("--epochs", type=int, help="passes over the cells (default: by their number)")
    demo.add_argument(
        "--n-synthetic", type=int, default=50, help="cells to make of each class (default: 50)"
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
