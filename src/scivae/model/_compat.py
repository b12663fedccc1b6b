"""The one place that reaches into the private parts of scvi-tools (1.4 and 1.5 have them alike)."""

from __future__ import annotations

from scvi.data._constants import _SETUP_METHOD_NAME as SETUP_METHOD_NAME
from scvi.data._utils import _get_adata_minify_type as get_minify_type
from scvi.model.base._constants import SAVE_KEYS
from scvi.module._constants import MODULE_KEYS

__all__ = ["MODULE_KEYS", "SAVE_KEYS", "SETUP_METHOD_NAME", "get_minify_type"]
