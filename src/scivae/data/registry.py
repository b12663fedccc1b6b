"""Register the values, labels and covariates of an AnnData: check them and write their codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import LayerField

from .._errors import warn
from .._scvi import ADATA_UUID, SETUP_ARGS, get_minify_type
from .._validate.arguments import check_bool, check_type
from . import checks, profile
from .fields import (
    BatchField,
    CategoricalCovariatesField,
    ContinuousCovariatesField,
    SizeFactorField,
)
from .labels import LabelsField
from .manager import CellsManager
from .setup import check_setup_arguments


def register(
    adata: AnnData,
    setup_method_args: dict[str, Any],
    *,
    labels_key: str,
    unlabeled_category: Any,
    layer: str | None,
    batch_key: str | None,
    size_factor_key: str | None,
    categorical_covariate_keys: list[str] | None,
    continuous_covariate_keys: list[str] | None,
    ordered: bool,
    minified_fields: Sequence[Any] = (),
    known: dict[Any, CellsManager] | None = None,
    **kwargs: Any,
) -> CellsManager:
    """Register the fields of an AnnData; it is unchanged if the call fails.

    Parameters
    ----------
    adata
        The cells.
    setup_method_args
        Arguments of the call, stored in the registry; scvi-tools reads them when a setup is transferred.
    labels_key, unlabeled_category, layer, batch_key, size_factor_key
        As ``CIVAE.setup_anndata`` takes them.
    categorical_covariate_keys, continuous_covariate_keys, ordered
        As ``CIVAE.setup_anndata`` takes them.
    minified_fields
        Further fields of a minified AnnData.
    known
        Managers by the identifier of their AnnData. A copy of one of these gets a new identifier.
    **kwargs
        Passed to :meth:`scvi.data.AnnDataManager.register_fields`.

    Returns
    -------
    The manager, which holds the registry.
    """
    checks.check_adata(adata)
    if adata.is_view:
        raise ValueError(
            "adata is a view, but setup_anndata writes to adata.obs; pass adata.copy()."
        )
    check_type("labels_key", labels_key, str, "the name of a column of adata.obs")
    if not pd.api.types.is_scalar(unlabeled_category):
        raise TypeError(
            f"unlabeled_category must be one value, got {unlabeled_category!r}; write one text "
            "for all cells without a label."
        )
    check_bool("ordered", ordered)
    checks.check_shape(adata)
    check_setup_arguments(
        adata,
        batch_key=batch_key,
        size_factor_key=size_factor_key,
        categorical_covariate_keys=categorical_covariate_keys,
        continuous_covariate_keys=continuous_covariate_keys,
    )
    for name, keys in (
        ("batch_key", [batch_key]),
        ("categorical_covariate_keys", categorical_covariate_keys or ()),
    ):
        if labels_key in keys:
            warn(
                f"{name} and labels_key both name {labels_key!r}, so the decoder is told the class "
                f"and z need not hold it; leave it out of {name}."
            )
    layer = checks.resolve_layer(adata, layer)
    setup_method_args[SETUP_ARGS]["layer"] = layer
    if get_minify_type(adata) is None:
        profile.check_finite(adata, layer)
    fields = [
        # Counts are checked in ``likelihoods``, with errors instead of a warning.
        LayerField(
            REGISTRY_KEYS.X_KEY,
            layer if layer in adata.layers else None,
            is_count_data=False,
        ),
        BatchField(REGISTRY_KEYS.BATCH_KEY, batch_key),
        LabelsField(REGISTRY_KEYS.LABELS_KEY, labels_key, unlabeled_category, ordered),
        SizeFactorField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key),
        CategoricalCovariatesField(REGISTRY_KEYS.CAT_COVS_KEY, categorical_covariate_keys),
        ContinuousCovariatesField(REGISTRY_KEYS.CONT_COVS_KEY, continuous_covariate_keys),
        *minified_fields,
    ]
    manager = CellsManager(fields=fields, setup_method_args=setup_method_args)
    with checks.unchanged_on_error(adata):
        _new_identity(adata, known or {})
        manager.register_fields(adata, **kwargs)
    return manager


def _new_identity(adata: AnnData, known: dict[Any, CellsManager]) -> None:
    """Give a copy of an AnnData that was set up a new identifier."""
    of_uuid = known.get(adata.uns.get(ADATA_UUID))
    if of_uuid is not None and of_uuid.adata is not adata:
        del adata.uns[ADATA_UUID]
