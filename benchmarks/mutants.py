"""Whether the tests notice small errors in the mathematics: a random sample of mutants of each room.

A mutant is the code with one operator, number, condition or statement changed. It is killed if a test of its
file fails: tests/geometry/test_curves.py for geometry/curves.py, or those of the room for a file of helpers.
Operators are those of cosmic-ray (``pip install cosmic-ray``), less exchanges that fail by themselves or change
nothing, such as a shift of floats or ``is`` for ``==``, and one that deletes a statement. A fork of one process that has
loaded the libraries runs each mutant. Hypothesis tries the same examples every time and does not simplify what fails.

    python benchmarks/mutants.py                  # the sample; goes on where it was cut short
    python benchmarks/mutants.py --survivors      # those that survived once more, by all tests of the room
"""

from __future__ import annotations

import argparse
import ast
import csv
import gc
import os
import random
import resource
import sys
import time
from collections import Counter
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path

import hypothesis
import parso
import pytest
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from scipy.stats import beta

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "scivae"
TABLE = ROOT / "docs" / "evidence" / "mutants.csv"
KEY = ("file", "line", "column", "operator", "occurrence")
COLUMNS = ("room", *KEY, "before", "after", "outcome", "seconds")
SAMPLE = {"geometry": 150, "metrics": 150, "module": 80}
LOSS = {"_civae.py": "loss", "_negative_binomial.py": None, "_likelihoods.py": None}
SECONDS, BYTES = 60, 12 * 2**30  # of a mutant: past them it is killed
ARITHMETIC, BITS = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}, {"BitOr", "BitAnd"}
ORDER = {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"}


class DeleteStatement(Operator):
    """Nothing in place of a call, of an assignment to a part of something, or of ``x += 1``."""

    def mutation_positions(self, node):
        if node.parent is None or node.parent.type != "simple_stmt":
            return
        call = node.type == "atom_expr" and node.get_last_leaf() == ")"
        if call or (
            node.type == "expr_stmt"
            and "=" in getattr(node.children[1], "value", "")
            and (node.children[0].type == "atom_expr" or node.children[1] != "=")
        ):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        return parso.python.tree.Name("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls):
        return ()


def operators() -> dict[str, type[Operator]]:
    """By name, those whose mutants can run and mean something else."""
    provider = OperatorProvider()
    found = {"DeleteStatement": DeleteStatement}
    for name in provider:
        kind, *change = name.split("_")
        if kind == "ReplaceBinaryOperator":
            keep = set(change) <= ARITHMETIC or set(change) <= BITS
        elif kind == "ReplaceComparisonOperator":
            keep = set(change) <= ORDER or set(change) == {"Is", "IsNot"}
        elif kind == "ReplaceUnaryOperator":
            keep = change[0] == "Delete"
        else:
            keep = kind not in ("VariableReplacer", "VariableInserter")
        if keep:
            found[name] = provider[name]
    return found


def left_out(tree: ast.Module, only: str | None) -> list[tuple]:
    """Spans whose change means nothing, as annotations, or that are not asked for."""
    nodes = list(ast.walk(tree))
    spans = [n.annotation for n in nodes if isinstance(n, ast.arg | ast.AnnAssign) and n.annotation]
    spans += [n.returns for n in nodes if isinstance(n, ast.FunctionDef) and n.returns]
    if only:
        spans += [n for n in tree.body if not isinstance(n, ast.ClassDef)]
        (kind,) = [n for n in tree.body if isinstance(n, ast.ClassDef)]
        spans += [n for n in kind.body if getattr(n, "name", "") != only]
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in spans]


def mutants(room: str) -> list[dict]:
    """All of a room."""
    files = [SOURCE / room / name for name in LOSS] if room == "module" else None
    found = []
    for file in files or sorted((SOURCE / room).glob("*.py")):
        text = file.read_text(encoding="utf-8")
        skip = left_out(ast.parse(text), LOSS.get(file.name) if room == "module" else None)
        nodes, todo = [], [parso.parse(text)]
        while todo:  # in the order of MutationVisitor
            nodes.append(todo.pop())
            todo += reversed(getattr(nodes[-1], "children", []))
        for name, operator in operators().items():
            spans = [span for node in nodes for span in operator().mutation_positions(node)]
            for occurrence, (start, end) in enumerate(spans):
                if not any(a <= start and end <= b for a, b in skip):
                    found.append(
                        {
                            "room": room,
                            "file": str(file.relative_to(SOURCE)),
                            "line": start[0],
                            "column": start[1],
                            "operator": name,
                            "occurrence": occurrence,
                        }
                    )
    return found


def tests(mutant: dict, room_too: bool) -> list[str]:
    """Files of tests, the mirroring one first."""
    room = Path("tests") / mutant["room"]
    mirror = room / f"test_{Path(mutant['file']).name}"
    files = [str(mirror)] if (ROOT / mirror).exists() else []
    return [*files, str(room)] if room_too or not files else files


def outcome(mutant: dict, code: str, room_too: bool) -> str:
    """Run the tests on a mutant, in a fork."""
    path = str(SOURCE / mutant["file"])
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status in (3, 5):
            raise RuntimeError(f"pytest ended with {status} on {mutant}")
        if status < 0:
            return "killed by its limits"
        return "killed" if status else "survived"  # 4: conftest.py could not be imported
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    get_code = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, name: (
        compile(code, path, "exec") if self.path == path else get_code(self, name)
    )
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # it takes longer than most tests
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:warnings",
        "-p",
        "_hypothesis_pytestplugin",
    ]
    os._exit(pytest.main([*options, *tests(mutant, room_too)]))


def load_libraries() -> None:
    """Import what the package imports, and then forget the package."""
    for name in (
        "hypothesis.extra.numpy",
        "ot",
        "scipy.integrate",
        "scipy.optimize",
        "scipy.stats",
    ):
        import_module(name)
    for name in ("calibration", "decomposition", "ensemble", "model_selection", "neighbors"):
        import_module(f"sklearn.{name}")
    import_module("torch").set_num_threads(1)
    import_module("scivae.model")
    for name in [name for name in sys.modules if name.partition(".")[0] == "scivae"]:
        del sys.modules[name]
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    hypothesis.settings.load_profile("mutants")
    gc.collect()
    gc.freeze()  # or the collector of each fork would copy all of it


def report(rows: list[dict]) -> None:
    """Share killed in each room, with its 95 % confidence interval (Clopper and Pearson)."""
    print("| room | mutants | sample | killed | share | 95 % interval |\n|---|---|---|---|---|---|")
    for room in SAMPLE:
        mine = [row["outcome"] != "survived" for row in rows if row["room"] == room]
        n, k = len(mine), sum(mine)
        low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
        high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
        print(
            f"| {room} | {len(mutants(room))} | {n} | {k} | {k / max(n, 1):.3f} | {low:.3f} to {high:.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--survivors", action="store_true", help="run those that survived again")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    parser.add_argument("--check", action="store_true", help="run the tests on unchanged code")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    began = time.monotonic()
    os.chdir(ROOT)
    rows = []
    if TABLE.exists():
        with TABLE.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    by_key = {tuple(str(row[k]) for k in KEY): row for row in rows}
    sample = []
    for room, n in SAMPLE.items():
        everything = mutants(room)
        chosen = random.Random(0).sample(everything, min(n, len(everything)))
        sample += [(i / len(chosen), mutant) for i, mutant in enumerate(chosen)]
    sample = [mutant for _, mutant in sorted(sample, key=lambda pair: pair[0])]  # rooms in turn
    load_libraries()
    if args.check:
        for mutant in {m["file"]: m for m in sample}.values():
            found = outcome(
                mutant, (SOURCE / mutant["file"]).read_text(encoding="utf-8"), args.survivors
            )
            print(mutant["file"], {"survived": "passes"}.get(found, "FAILS unchanged"), flush=True)
        return
    for mutant in sample:
        key = tuple(str(mutant[k]) for k in KEY)
        done = by_key.get(key)
        again = args.survivors and done and done["outcome"] == "survived"
        if args.report or (done and not again) or time.monotonic() - began > 60 * args.minutes:
            continue
        operator = operators()[mutant["operator"]]()
        text = (SOURCE / mutant["file"]).read_text(encoding="utf-8")
        code = MutationVisitor.mutate_code(text, operator, mutant["occurrence"])
        before, after = text.splitlines(), code.splitlines()
        where = mutant["line"] - 1
        started = time.monotonic()
        row = {
            **mutant,
            "before": before[where].strip(),
            "after": after[where].strip(),
            "outcome": outcome(mutant, code, args.survivors),
            "seconds": round(time.monotonic() - started, 1),
        }
        by_key[key] = row
        print(*(row[k] for k in ("file", "line", "outcome", "seconds", "after")), flush=True)
        TABLE.parent.mkdir(exist_ok=True)
        with TABLE.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(by_key.values())
    report(list(by_key.values()))
    print(Counter(row["outcome"] for row in by_key.values()))


if __name__ == "__main__":
    main()
