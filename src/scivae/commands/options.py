"""The options of the commands of ``scivae``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from .._errors import near_matches

EXAMPLES = """\
examples:
  scivae demo
      train on blood cells that scanpy ships; trace paths between two kinds of dendritic cells
  scivae demo --dataset digits --epochs 60 --out digits
      images of handwritten digits, from one 8 to another; no network either
  scivae demo --dataset colon
      normal to tumor epithelium, on data that is fetched once
  scivae run mine.h5ad --labels-key cell_type --donor-key patient \\
      --groupby tissue --source normal --target tumor --label Epithelial --out results
      all steps on your own cells, with a report to mail: results/report.html
  scivae run mine.h5ad --label Goblet --n-synthetic 200
      without groups: from one end of a class to the other, and 200 cells of each class
  scivae predict results new.h5ad --out classes.csv
      label other cells with the model of these results
  scivae augment results --label Goblet --n 500 --out goblet.h5ad
      generate more cells of a class

exit status: 0 done; 2 invalid input, nothing was done; 1 error during the run; 130 interrupted
"""
RAW = argparse.RawDescriptionHelpFormatter
# Options that a configuration file cannot set, and positional arguments.
NOT_IN_FILE = {"config", "command", "do"}
BY_POSITION = ("data", "model")
# Options that take several values, by command.
SEVERAL = {
    "run": ("between", "genes"),
    "demo": ("between", "genes"),
    "report": ("genes",),
    "augment": ("label",),
}


class UsageError(ValueError):
    """Invalid arguments on the command line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with suggestions for misspelled options."""

    def options(self) -> dict[str, Any]:
        """Options by name, with their defaults."""
        return {
            k: v for k, v in vars(super().parse_known_args([])[0]).items() if k not in NOT_IN_FILE
        }

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError; for an unknown option, the error suggests similar ones."""
        unknown = message.removeprefix("unrecognized arguments: ")
        cure = ""
        if unknown != message:
            name = unknown.split("=")[0].split()[0]
            message = f"there is no option {name!r}"
            cure = near_matches(name, [f"--{key.replace('_', '-')}" for key in self.options()])
        raise UsageError(f"{message.rstrip('.')}.{cure} '{self.prog} --help' lists the options.")

    def parse_known_args(self, args=None, namespace=None):
        """Raise for unknown arguments here, because only the parser of a command knows its options."""
        found, rest = super().parse_known_args(args, namespace)
        if rest and self.prog.count(" "):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _not_negative(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least {least}, got {text!r}"
        )
    return number


def _level(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return number


def _devices(text: str) -> str:
    if text != "auto":
        _at_least(text, 1)
    return text


def make_parsers(
    do_run: Callable[..., None], do_step: Callable[..., None]
) -> tuple[argparse.ArgumentParser, dict[str, Parser]]:
    """The parser of ``scivae``, and the parser of each command.

    Parameters
    ----------
    do_run
        Function that ``run`` and ``demo`` call with their arguments and the log.
    do_step
        Function that the other commands call.
    """
    parser = Parser(
        prog="scivae",
        description="Class-faithful interpolation and augmentation of single cells with CI-VAE.",
        epilog=EXAMPLES,
        formatter_class=RAW,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('scivae-tools')}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    found: dict[str, Parser] = {}

    def command(name: str, does: Callable[..., None], help: str, epilog: str = "") -> Parser:
        new = commands.add_parser(
            name, help=help, description=help[:1].upper() + help[1:] + ".", epilog=epilog,
            formatter_class=RAW, allow_abbrev=False,
        )  # fmt: skip
        new.set_defaults(do=does)
        found[name] = new
        return new

    demo = command(
        "demo",
        do_run,
        "a first taste: all steps of run on data that needs no preparation",
        EXAMPLES,
    )
    data = demo.add_mutually_exclusive_group()
    data.add_argument(
        "--data", type=Path, metavar="FILE", help="your own cells; better: scivae run"
    )
    data.add_argument(
        "--dataset",
        choices=["pbmc", "digits", "mnist", "colon"],
        default="pbmc",
        help="a known data set (default: pbmc, which needs no network)",
    )
    run = command(
        "run",
        do_run,
        "train, trace paths, find genes, generate cells, and write report.html",
        EXAMPLES,
    )
    train = command("train", do_step, "train a model and save it")
    for one in (run, train):
        one.add_argument(
            "data", type=Path, nargs="?", metavar="FILE", help="h5ad file or zarr store"
        )
    for one, out in ((demo, "scivae_demo"), (run, "scivae_results"), (train, "scivae_model")):
        _add_cells(one)
        if one is not train:
            _add_question(one)
        _add_training(one)
        _add_output(one, f"folder of the results (default: {out})", Path(out))

    predict = command(
        "predict", do_step, "label cells, and write classes, novelty and prediction sets"
    )
    augment = command("augment", do_step, "generate cells of some classes")
    annotate = command("annotate", do_step, "write latent space and classes into a file of cells")
    for one in (predict, augment, annotate):
        one.add_argument(
            "model",
            type=Path,
            nargs="?",
            metavar="MODEL",
            help="folder of scivae train or scivae run",
        )
        one.add_argument(
            "data",
            type=Path,
            nargs="?",
            metavar="FILE",
            help="cells (default: those of scivae run)",
        )
    predict.add_argument(
        "--level", type=_level, default=0.9, help="coverage of the prediction sets (default: 0.9)"
    )
    predict.add_argument(
        "--probabilities", action="store_true", help="write the probability of every class, too"
    )
    _add_output(predict, "table, .csv or .tsv (default: predictions.csv)", None)
    augment.add_argument("--label", nargs="+", help="classes to make cells of (default: all)")
    augment.add_argument(
        "--n", type=_positive, default=100, help="cells of each class (default: 100)"
    )
    augment.add_argument(
        "--method", choices=["linear", "normal"], default="linear",
        help="between two cells, or from the distribution of the class (default: linear)",
    )  # fmt: skip
    augment.add_argument("--expected", action="store_true", help="expected values, not samples")
    _add_seed(augment)
    _add_output(augment, "file, .h5ad or .zarr (default: synthetic.h5ad)", None)
    annotate.add_argument(
        "--key-added", default="civae", help="word in the names of what is written (default: civae)"
    )
    _add_output(annotate, "write into a copy (default: into FILE itself)", None)

    report = command("report", do_step, "write the report of a folder of results again")
    report.add_argument(
        "model", type=Path, nargs="?", metavar="RESULTS", help="folder that scivae run wrote"
    )
    _add_report(report)
    _add_seed(report)
    _add_output(report, "another folder for the report (default: RESULTS)", None)
    return parser, found


def _add_cells(parser: Parser) -> None:
    group = parser.add_argument_group("cells")
    group.add_argument("--labels-key", help="column of obs with the classes (default: cell_type)")
    group.add_argument(
        "--unlabeled-category",
        help="value of cells without a label (default: such cells are left out)",
    )
    group.add_argument(
        "--layer", help="layer to model (default: counts where there is one, else X)"
    )
    group.add_argument("--batch-key", help="column of obs with the batches")
    group.add_argument(
        "--n-top-genes", type=_positive,
        help="model the most variable genes of the training cells (default: all genes)",
    )  # fmt: skip


def _add_question(parser: Parser) -> None:
    group = parser.add_argument_group("question")
    group.add_argument("--groupby", help="column of obs with the groups to trace paths between")
    group.add_argument("--source", help="group in which paths begin")
    group.add_argument("--target", help="group in which paths end")
    group.add_argument("--between", nargs="+", help="groups that lie between them")
    group.add_argument(
        "--label", help="class of the paths (default: the one with the most cells of both groups)"
    )
    group.add_argument(
        "--donor-key", help="column of obs with the donors, the units of the p-values"
    )
    group.add_argument(
        "--n-synthetic",
        type=_not_negative,
        default=50,
        help="cells to make of each class (default: 50)",
    )
    _add_report(parser)


def _add_report(parser: Parser) -> None:
    group = parser.add_argument_group("report")
    group.add_argument(
        "--genes", nargs="+", help="genes whose curves are shown (default: the surest)"
    )
    group.add_argument("--gene-sets", type=Path, metavar="FILE.gmt", help="sets of genes to test")
    group.add_argument(
        "--gene-symbols",
        help="column of var with the names of genes in the report, and in the two options above",
    )
    group.add_argument("--title", help="heading of the report")


def _add_training(parser: Parser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs", type=_positive, help="passes over the cells (default: by their number)"
    )
    group.add_argument(
        "--accelerator",
        choices=["auto", "cpu", "gpu", "cuda", "mps"],
        help="where to train (default: auto)",
    )
    group.add_argument("--devices", type=_devices, help="how many of them, or auto")
    _add_seed(group)


def _add_seed(parser: Any) -> None:
    parser.add_argument(
        "--seed", type=_not_negative, default=0, help="seed of everything (default: 0)"
    )


def _add_output(parser: Parser, help: str, default: Path | None) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, default=default, help=help)
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="options from a file of TOML or YAML; the command line wins",
    )
    group.add_argument("--quiet", action="store_true", help="show warnings and errors only")
