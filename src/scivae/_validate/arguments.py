"""Checks of plain arguments: types, numbers, choices, slot names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from .._errors import got, near_matches, shown

# Longest slot name in bytes: in a zarr store, the name plus a suffix is the name of a folder.
MAX_KEY = 200


def check_type(name: str, value: Any, kind: type | tuple[type, ...], what: str) -> None:
    """Raise a TypeError unless the value is an instance of ``kind``, described by ``what``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, got {got(value)}.")


def check_bool(name: str, value: Any) -> None:
    """Raise a TypeError unless the value is True or False (other types would count as True)."""
    check_type(name, value, (bool, np.bool_), "True or False")


def check_integer(name: str, value: Any, *, minimum: int, maximum: int | None = None) -> int:
    """Return the value as an int; raise unless it is an integer within the bounds."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {got(value)}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}.")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """Return the value as a float; raise unless it is a finite number above 0."""
    _check_real(name, value)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value}.")
    return float(value)


def check_number(
    name: str, value: Any, *, minimum: float = -np.inf, maximum: float = np.inf
) -> float:
    """Return the value as a float; raise unless it is a finite number within the bounds."""
    _check_real(name, value)
    if not (np.isfinite(value) and minimum <= value <= maximum):
        raise ValueError(f"{name} must lie in [{minimum:g}, {maximum:g}], got {value}.")
    return float(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise a ValueError unless the value is one of the choices (all strings or all numbers)."""
    if not isinstance(value, str | int) or value not in choices:
        raise ValueError(
            f"{name} must be one of {shown(choices)}, got {value!r}.{near_matches(value, choices)}"
        )


def check_key(name: str, value: Any) -> None:
    """Raise a ValueError unless the value can be used as a prefix of slot names, also in files."""
    known = (
        isinstance(value, str) and value.isprintable() and value.strip(". ") and "/" not in value
    )
    if not known or len(value.encode()) > MAX_KEY:
        raise ValueError(
            f"{name} must be a name of at most {MAX_KEY} bytes, without slashes and control "
            "characters, got "
            f"{value if isinstance(value, str) and len(value) < 40 else got(value)!r}; pass a short "
            "name of letters, digits and underscores."
        )


def check_trained(model: Any) -> None:
    """Raise a RuntimeError if the model is not trained."""
    if not model.is_trained:
        raise RuntimeError("this model is not trained yet; call model.train() first.")


def _check_real(name: str, value: Any) -> None:
    """Raise a TypeError unless the value is a number; True and False do not count as numbers."""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{name} must be a number, got {got(value)}.")
