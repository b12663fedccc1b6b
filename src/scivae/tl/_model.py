"""The check of the model that functions on AnnData take."""

from __future__ import annotations

from typing import Any

from .._validate.arguments import check_trained, check_type


def check_model(model: Any) -> None:
    """Raise unless it is a trained model."""
    from ..model import CIVAE

    check_type("model", model, CIVAE, "a CIVAE")
    check_trained(model)
