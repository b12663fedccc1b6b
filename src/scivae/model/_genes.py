"""Select genes by name from a result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .._errors import near_matches


class GeneColumns:
    """The requested genes, and their columns in a result.

    Parameters
    ----------
    order
        Their positions in the result; ``None`` for all of them.
    names
        Their names.
    """

    def __init__(self, order: np.ndarray | None, names: list[str]):
        self.order, self.names = order, names

    def of(self, result: Any) -> Any:
        """The columns of these genes."""
        if self.order is None or result is None:
            return result
        if isinstance(result, pd.DataFrame):
            return result.iloc[:, self.order]
        if isinstance(result, np.ndarray):
            return result[..., self.order]
        return result[:, self.order]  # sparse: cells × genes × samples


def gene_positions(genes: np.ndarray, wanted: Any, argument: str) -> np.ndarray:
    """Positions of genes by name, in the order asked for, shape ``(n,)``.

    Parameters
    ----------
    genes
        Names of all genes.
    wanted
        A name, or several.
    argument
        Name of the argument, for the error.
    """
    known = pd.Index([str(gene) for gene in genes])
    if isinstance(wanted, str):
        wanted = [wanted]
    if not isinstance(wanted, Iterable):
        raise TypeError(f"{argument} must be a list of names, got {wanted!r}; pass names of genes.")
    names = [str(name) for name in wanted]
    if not names:
        raise ValueError(
            f"{argument} must name at least one gene, got none; pass None for all genes."
        )
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(
            f"{argument} must name each gene once, got {twice!r} twice; drop one of them."
        )
    found = known.get_indexer(pd.Index(names))
    if (found < 0).any():
        unknown = names[int(np.argmax(found < 0))]
        raise KeyError(
            f"{argument} must be among the {len(known)} genes of the model, but {unknown!r} is not."
            f"{near_matches(unknown, known)}"
        )
    return found
