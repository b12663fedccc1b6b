"""Messages of the Python functions, with the options of the command line in place of arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection

# Options whose argument in Python has another name.
RENAMED = {"max_epochs": "epochs"}
# Advice for which the command line has no option, and its replacement.
PHRASES: list[tuple[str, str]] = [
    (r"; scivae run has --layer", ""),
    (r"lower min_confidence, or ", ""),
    (r" or raise discriminator_weight", ""),
    (r", or train a plain VAE with discriminator_weight=0", ""),
    (r", or choose likelihood='normal'(?! or)", ""),
    (r", or choose likelihood='normal' or 'laplace'", ""),
    (r" or early_stopping=True", ""),
    (r", or pass evidence='decoded'", ""),
    (r"raise train_size, or ", ""),
    (r" \(scivae\.pl\.history shows the loss\)", ""),
    (r"use a smaller min_size, or trends of more genes", "use larger sets, or more genes"),
    (r"fewer than min_size=(\d+|…)", r"fewer than \1"),
    (r"layer= with the name of the raw counts", "--layer with the name of the raw counts"),
    (r"Set (adata\.layers\['counts'\] = .*?) first", r"Write FILE again with \1"),
    (r"CIVAE\.prepare_query_anndata\(adata, \w+\) fills them with zeros",
     "in Python, CIVAE.prepare_query_anndata(adata, model) fills them with zeros"),
    (r" to (setup_anndata|pair_cells|gene_trends)\b", ""),
    (r"^adata must", "FILE must"),
    (r"^this model was\b", "MODEL was"),
    (r"(?<![\w(])adata\.(obs|var|obsm|layers|raw|X)\b(?!\.\w+\(|\[[^\]]*\] =[^=])", r"\1"),
]  # fmt: skip
# Replacement for commands that train.
LONGER = (r"\b([Tt])rain longer(?!,)", r"\1rain longer, with --epochs")
_WORD = r"(?<![\w.\-/\[(<])"


def of_command(text: str, options: Collection[str]) -> str:
    """A message in the words of a command.

    Parameters
    ----------
    text
        Message of a function of the package, with the names of its arguments.
    options
        Names of the options of the command, as in Python.

    Examples
    --------
    >>> from scivae.commands.wording import of_command
    >>> of_command("Pass layer='umi' to setup_anndata, which holds counts.", {"layer"})
    'Pass --layer umi, which holds counts.'
    """
    for pattern, new in PHRASES:
        text = re.sub(pattern, new, text)
    if "epochs" in options:
        text = re.sub(*LONGER, text)
    spelled = {name: f"--{name.replace('_', '-')}" for name in options}
    spelled |= {name: f"--{new}" for name, new in RENAMED.items() if new in options}
    names = "|".join(sorted(map(re.escape, spelled), key=len, reverse=True))
    if not names:
        return text
    text = re.sub("^source and target must", "--source and --target must", text)
    text = re.sub(rf"pass ({names})=None", lambda m: f"leave {spelled[m[1]]} out", text)
    text = re.sub(rf"\b({names}) is None", lambda m: f"{spelled[m[1]]} is not given", text)
    pattern = (
        rf"{_WORD}(?P<given>{names})=(?P<value>'[^']*'|\"[^\"]*\"|[\w.…+-]*\w|…|)"
        rf"|(?<!\w)'[^']*'"  # a name of the user's stays as it is
        rf"|^(?P<first>{names})(?= must| and | needs)"
        rf"|{_WORD}(?P<name>{names})(?![\w=(\[]|\.\w)"
    )
    return re.sub(pattern, _replaced(spelled), text)


def _replaced(spelled: dict[str, str]) -> Callable[[re.Match[str]], str]:
    def new(found: re.Match[str]) -> str:
        if found["given"]:
            value = found["value"]
            if value[:1] in ("'", '"'):
                value = shlex.quote(value[1:-1])
            return f"{spelled[found['given']]} {value}".rstrip()
        if found["first"]:
            return spelled[found["first"]]
        name = found["name"]
        return spelled[name] if name and "_" in name else found[0]

    return new
