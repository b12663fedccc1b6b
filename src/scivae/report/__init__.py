"""A report in one HTML file: the data, the model, its results, and their limits."""

from __future__ import annotations

from ._write import compose as compose
from ._write import write

__all__ = ["write"]
