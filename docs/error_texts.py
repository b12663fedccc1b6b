"""The page of all errors and warnings: texts are read from the source, so that the page is always current."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src" / "scivae"
FOLDERS = {
    "data": "Data and setup",
    "model": "The model",
    "train": "Training",
    "module": "The network",
    "nb": "The fused negative binomial",
    "tl": "Functions on AnnData",
    "pl": "Figures",
    "report": "The report",
    "metrics": "Metrics",
    "stats": "Statistics",
    "geometry": "Geometry",
    "datasets": "Data sets",
    "commands": "The commands",
    "_validate": "Shared checks of arguments",
    "": "Names, storage, and the command line",
}
HEADER = """# Errors and warnings

All texts, with `…` in place of a value. An error states the rule, the value, where it was found, and what to do. Nothing
that you passed is changed when a call fails. To find a text, search this page (Ctrl+F) for words from its middle.
"""


class Text(NamedTuple):
    """A message of the package."""

    file: Path
    line: int
    kind: str
    text: str


def texts(source: Path = SOURCE) -> Iterator[Text]:
    """Messages of all files, in their order."""
    for file in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call, kind = None, ""
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                call, kind = node.exc, ast.unparse(node.exc.func).rpartition(".")[2]
                kind = (
                    kind if kind.isidentifier() else "OSError"
                )  # type(error), of one that was caught
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("warn", "warnings.warn"):
                call, kind = node, "Warning"
            if call is not None and call.args and (text := template(call.args)):
                yield Text(file.relative_to(source), node.lineno, kind, text)


def template(arguments: list[ast.expr]) -> str:
    """The longest text among the arguments, with values replaced; empty if it has fewer than two words."""
    found = ["".join(_parts(argument)) for argument in arguments]
    return max((t for t in found if len(re.findall(r"[^\W\d]{2,}", t)) > 1), key=len, default="")


def _parts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from [value.value] if isinstance(value, ast.Constant) else ["…"]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _parts(node.left)
        yield from _parts(node.right)
    else:
        yield "…"


def page() -> str:
    """The page, in Markdown."""
    out = [HEADER]
    everything = list(texts())
    for folder, title in FOLDERS.items():
        own = [
            t for t in everything if (t.file.parts[0] if len(t.file.parts) > 1 else "") == folder
        ]
        if own:
            out += [f"\n## {title}\n", "| kind | text |", "|---|---|"]
            out += sorted({f"| {t.kind} | {_escaped(t.text)} |" for t in own})
    return "\n".join(out) + "\n"


def _escaped(text: str) -> str:
    text = re.sub(r"…(\.?…)+", "…", text)  # one value after another
    for sign in "\\|<>*_`[]$":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("{", "&#123;").replace("}", "&#125;")


if __name__ == "__main__":
    print(page())
