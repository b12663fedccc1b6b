"""Checks of the arguments of functions that use a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._validate.arguments import check_trained, check_type

if TYPE_CHECKING:
    from anndata import AnnData


def check_model(model: Any) -> None:
    """Raise unless it is a trained model."""
    from ..model import CIVAE

    check_type("model", model, CIVAE, "a CIVAE")
    check_trained(model)


def check_measured(adata: AnnData, what: str, cure: str) -> None:
    """Raise if an AnnData is minified: it has no measured values."""
    from .._scvi import get_minify_type

    if get_minify_type(adata) is not None:
        raise ValueError(
            f"{what} needs measured values, but a minified AnnData keeps none; pass {cure}."
        )
