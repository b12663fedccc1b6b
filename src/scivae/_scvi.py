"""The one place that uses private parts of scvi-tools (seen in 1.4 and 1.5) and Lightning (seen in 2.6)."""

from __future__ import annotations

from typing import Any

from scvi.data._constants import _MANAGER_UUID_KEY as MANAGER_UUID
from scvi.data._constants import _MODEL_NAME_KEY as MODEL_NAME
from scvi.data._constants import _SCVI_UUID_KEY as ADATA_UUID
from scvi.data._constants import _SETUP_METHOD_NAME as SETUP_METHOD_NAME
from scvi.data._constants import ADATA_MINIFY_TYPE
from scvi.data._utils import _get_adata_minify_type as get_minify_type
from scvi.model.base._constants import SAVE_KEYS
from scvi.module._constants import MODULE_KEYS

__all__ = [
    "ADATA_MINIFY_TYPE",
    "ADATA_UUID",
    "MANAGER_UUID",
    "MODEL_NAME",
    "MODULE_KEYS",
    "SAVE_KEYS",
    "SETUP_METHOD_NAME",
    "begin_epoch_again",
    "get_minify_type",
    "loaders_of_training",
]


def loaders_of_training(trainer: Any) -> list[Any]:
    """The loaders that a trainer of Lightning trains on."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


def begin_epoch_again(trainer: Any) -> None:
    """Ask the loaders anew for the minibatches of the first epoch.

    Lightning asks before any hook of the epoch, and loaders with processes of their own then ask
    their samplers at once: before these could be seeded.
    """
    fetcher = trainer.fit_loop._data_fetcher
    if fetcher.length is not None:  # a loader without a length may be good for one pass only
        iter(fetcher)
