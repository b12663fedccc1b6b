"""The controls of a path, from the table of :func:`scivae.tl.check_paths`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .. import _keys
from .._errors import shown
from .._validate.arguments import check_type

QUESTIONS = {
    _keys.PERMUTED_ENDS: "Do the groups differ?",
    _keys.HELD_OUT_MIDDLE: "Does a group lie between?",
    _keys.LEFT_OUT_DONORS: "Does it hold for other donors?",
}


def check_controls(checks: Any) -> None:
    """Raise unless this is the table of :func:`scivae.tl.check_paths`, or a file of it."""
    check_type("checks", checks, pd.DataFrame, "a DataFrame")
    if "verdict" not in checks or not set(checks.index) <= set(QUESTIONS):
        raise ValueError(
            "checks must be made by scivae.tl.check_paths(model, pairs), got a table with the columns "
            f"{shown(checks.columns) or 'none'}; pass what that function returned."
        )


def verdicts(checks: pd.DataFrame) -> list[tuple[str, str]]:
    """The question of each control, and its verdict."""
    return [
        (QUESTIONS[str(name)], str(verdict))
        for name, verdict in zip(checks.index, checks["verdict"], strict=True)
    ]


def failed(checks: list[tuple[str, str]]) -> list[str]:
    """A warning for each control that failed."""
    return [
        f"A control of the path failed: {verdict.removeprefix('Failed: ')}"
        for _, verdict in checks
        if verdict.startswith("Failed")
    ]
