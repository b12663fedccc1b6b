"""Checks of arguments, and the phrases of their errors: ``name must be …, got …; cure``."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

# Bytes of the name of a slot: in a zarr store it is that of a folder, to which a suffix comes.
MAX_KEY = 200
# Letters of a name in an error, at most.
MAX_LETTERS = 120
# Modules that a user does not call: a warning names the line above them.
_BELOW = ("scivae", "scvi", "lightning", "torch", "contextlib", "functools")


def near_matches(name: Any, known: Iterable[Any], n: int = 3) -> str:
    """`` Did you mean …?`` for a name that is close to a known one, else an empty string.

    Names that differ in upper and lower case only are closest.
    """
    text, names = str(name), {str(k): k for k in known}
    matches = [k for k in names if k.casefold() == text.casefold() and k != text][:n]
    if text in names and isinstance(names[text], str) != isinstance(name, str):  # 3 for "3"
        matches = [text]
    matches = matches or difflib.get_close_matches(text, list(names), n=n, cutoff=0.6)
    return f" Did you mean {' or '.join(quoted(names[m]) for m in matches)}?" if matches else ""


def quoted(value: Any) -> str:
    """A name as Python spells it: text in quotes, numbers without; cut where it is long."""
    if isinstance(value, (bool, np.bool_, int, float, np.integer, np.floating)):
        return str(value)
    text = str(value)
    return repr(text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "…")


def in_another_case(names: Iterable[Any], known: Iterable[Any]) -> dict[str, str]:
    """Of names that are not known, those that are once upper and lower case no longer count.

    Returns
    -------
    The known name of each.
    """
    by_case = {str(k).casefold(): str(k) for k in known}
    folded = {str(name): by_case.get(str(name).casefold()) for name in names}
    return {name: found for name, found in folded.items() if found is not None}


def warn(message: str) -> None:
    """Warn the user, at the line of theirs from which the package was called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BELOW:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def shown(values: Iterable[Any], n: int = 8) -> str:
    """Comma-separated values, cut after ``n``."""
    values = list(values)
    text = ", ".join(quoted(v) for v in values[:n])
    return text + (f", … ({len(values)} in all)" if len(values) > n else "")


def got(value: Any) -> str:
    """A value and its type; the type alone where the value takes more than a few words."""
    kind, text = type(value).__name__, repr(value)
    return f"{text} ({kind})" if len(text) <= 40 and "\n" not in text else kind


def check_type(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raise a TypeError unless the value is of a kind; ``what`` says which in words."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, got {got(value)}.")


def check_bool(name: str, value: Any) -> None:
    """Raise a TypeError unless the value is True or False: any other text or number is true too."""
    check_type(name, value, (bool, np.bool_), "True or False")


def check_integer(name: str, value: Any, *, minimum: int) -> int:
    """The value as an int; raise a TypeError or ValueError unless it is one of at least ``minimum``."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {got(value)}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")
    return int(value)


def check_number(
    name: str, value: Any, *, minimum: float = -np.inf, maximum: float = np.inf
) -> float:
    """The value as a float; raise unless it is a finite number within the bounds."""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{name} must be a number, got {got(value)}.")
    if not (np.isfinite(value) and minimum <= value <= maximum):
        raise ValueError(f"{name} must lie in [{minimum:g}, {maximum:g}], got {value}.")
    return float(value)


def as_numbers(name: str, value: Any) -> np.ndarray:
    """The value as an array of float64; raise a TypeError unless it holds real numbers throughout."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different length
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold numbers, in rows of equal length, got {got(value)}.")
    return array.astype(np.float64)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise a ValueError unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {shown(choices)}, got {value!r}.{near_matches(value, choices)}"
        )


def check_key(name: str, value: Any) -> None:
    """Raise a ValueError unless the value can begin the names of slots, as files can have them."""
    known = (
        isinstance(value, str) and value.isprintable() and value.strip(". ") and "/" not in value
    )
    if not known or len(value.encode()) > MAX_KEY:
        raise ValueError(
            f"{name} must be a name of at most {MAX_KEY} bytes, without slashes and control "
            f"characters, got {value if isinstance(value, str) and len(value) < 40 else got(value)!r}."
        )


def check_trained(model: Any) -> None:
    """Raise a RuntimeError unless the model is trained."""
    if not model.is_trained:
        raise RuntimeError("this model is not trained yet; call model.train() first.")


def check_positions(name: str, t: np.ndarray) -> None:
    """Raise a ValueError unless the positions of the steps of trends rise within [0, 1]."""
    wrong = ~((t >= 0) & (t <= 1))
    wrong[1:] |= ~(np.diff(t) > 0)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{name} must rise within [0, 1], got {t[first]:g} at step {first}; pass trends as "
            "scivae.tl.gene_trends returns them."
        )
