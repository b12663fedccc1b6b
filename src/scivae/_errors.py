"""Helpers for error and warning texts (``name must be …, got …; cure``)."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

# Longest name shown in an error, in characters.
MAX_LETTERS = 120
# Warnings point to the first line outside these packages, which is the user's.
_BELOW = ("scivae", "scvi", "lightning", "torch", "contextlib", "functools")


def near_matches(name: Any, known: Iterable[Any], n: int = 3) -> str:
    """Return `` Did you mean …?`` if a name is close to a known one, otherwise an empty string.

    Names that differ only in upper and lower case come first.
    """
    text, names = str(name), {str(k): k for k in known}
    matches = [k for k in names if k.casefold() == text.casefold() and k != text][:n]
    if text in names and isinstance(names[text], str) != isinstance(name, str):  # 3 for "3"
        matches = [text]
    matches = matches or difflib.get_close_matches(text, list(names), n=n, cutoff=0.6)
    return f" Did you mean {' or '.join(quoted(names[m]) for m in matches)}?" if matches else ""


def quoted(value: Any) -> str:
    """A name as Python prints it: strings in quotes, numbers without. Long names are shortened."""
    if isinstance(value, (bool, np.bool_, int, float, np.integer, np.floating)):
        return str(value)
    return repr(shortened(str(value), MAX_LETTERS))


def shortened(text: str, most: int) -> str:
    """A text of at most ``most`` letters; an ellipsis stands for what was cut off."""
    return text if len(text) <= most else text[: most - 1] + "…"


def in_another_case(names: Iterable[Any], known: Iterable[Any]) -> dict[str, str]:
    """Find unknown names that match a known name if upper and lower case are ignored.

    Returns
    -------
    The matching known name of each.
    """
    by_case = {str(k).casefold(): str(k) for k in known}
    folded = {str(name): by_case.get(str(name).casefold()) for name in names}
    return {name: found for name, found in folded.items() if found is not None}


def warn(message: str) -> None:
    """Warn the user. The warning points to the user's line that called the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BELOW:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def shown(values: Iterable[Any], n: int = 8) -> str:
    """Comma-separated values, shortened after ``n``."""
    values = list(values)
    text = ", ".join(quoted(v) for v in values[:n])
    return text + (f", … ({len(values)} in all)" if len(values) > n else "")


def got(value: Any) -> str:
    """A value and its type; only the type if the value is long."""
    kind = type(value).__name__
    if type(value).__module__.partition(".")[0] in ("scivae", "scvi"):
        return kind  # their texts are long, and a model of scvi-tools prints its own
    text = repr(value)
    return f"{text} ({kind})" if len(text) <= 40 and "\n" not in text else kind
