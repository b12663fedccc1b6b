"""Phrases that errors share: near matches and short lists."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def near_matches(name: Any, known: Iterable[Any], n: int = 3) -> str:
    """`` Did you mean …?`` for a name that is close to a known one, else an empty string."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=n, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def shown(values: Iterable[Any], n: int = 8) -> str:
    """Comma-separated values, cut after ``n``."""
    values = list(values)
    text = ", ".join(repr(str(v)) for v in values[:n])
    return text + (f", … ({len(values)} in all)" if len(values) > n else "")
