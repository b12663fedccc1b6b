"""One page that can be mailed: the data, the model and its results, with what they do not say."""

from __future__ import annotations

from ._write import compose as compose
from ._write import write

__all__ = ["write"]
