"""Verbs on AnnData: pairs of populations, trends of genes along paths, real beside generated cells."""

from __future__ import annotations

from ._pairs import pair_cells
from ._places import embed, project

__all__ = ["embed", "pair_cells", "project"]
