"""The registered labels: which classes there are, and which cells have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import CategoricalObsField

from .._errors import shown
from ._checks import check_columns

# What a label can be, so that files can hold it.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, np.floating),
}


class LabelsField(CategoricalObsField):
    """Labels of cells, some of which may be missing.

    Differs from scvi-tools' fields in four ways: unused categories make no class; with an
    ``unlabeled_category``, missing values count as unlabeled; the unlabeled category exists only
    when it was asked for, as the last one; and query cells need no labels at all. Unlabeled cells
    get the code ``n_classes``, which the loss masks.

    Parameters
    ----------
    registry_key
        Key of the field in the registry.
    obs_key
        Column of ``adata.obs``.
    unlabeled_category
        Value of unlabeled cells, or ``None`` if every cell has a label.
    """

    UNLABELED_CATEGORY = "unlabeled_category"
    N_CLASSES = "n_classes"
    ORDERED = "ordered_classes"

    def __init__(self, registry_key: str, obs_key: str, unlabeled_category: Any = None) -> None:
        super().__init__(registry_key, obs_key)
        self._unlabeled_category = unlabeled_category

    def validate_field(self, adata: AnnData) -> None:
        """Nothing to do: the column is checked where it is read, and query data may lack it."""

    def _labels(self, adata: AnnData) -> tuple[pd.Series, np.ndarray]:
        """Column of labels, and which of its cells are labeled."""
        check_columns(adata, {"labels_key": self._original_attr_key})
        column = adata.obs[self._original_attr_key]
        labeled = column.notna().to_numpy()
        self._check_kind(column[labeled])
        if self._unlabeled_category is not None:
            labeled = labeled & (column != self._unlabeled_category).to_numpy(
                dtype=bool, na_value=False
            )
        return column, labeled

    def _check_kind(self, labels: pd.Series) -> None:
        """Raise a TypeError unless labels are all strings, all numbers of a kind, or all booleans."""
        values = labels.cat.categories if isinstance(labels.dtype, pd.CategoricalDtype) else labels
        if values.dtype.kind in "Ubiuf":
            return
        kinds = {_kind(t) for t in {type(value) for value in values}}
        if len(kinds) > 1 or not kinds <= KINDS.keys():
            raise TypeError(
                "labels must be strings, integers, floats or booleans, and of one type, but adata.obs"
                f"[{self._original_attr_key!r}] holds {' and '.join(sorted(kinds))}; convert the column "
                "with .astype(str)."
            )

    def _classes(self, column: pd.Series) -> np.ndarray:
        """Classes in the order of the categories where there are some, else sorted."""
        if isinstance(column.dtype, pd.CategoricalDtype):
            return column.cat.remove_unused_categories().cat.categories.to_numpy()
        return np.sort(column.unique())

    def register_field(self, adata: AnnData) -> dict:
        """Read the classes off the column and write the codes."""
        key = self._original_attr_key
        column, labeled = self._labels(adata)
        if self._unlabeled_category is None and not labeled.all():
            raise ValueError(
                f"every cell needs a label unless unlabeled_category is given, but "
                f"adata.obs[{key!r}] is missing in {(~labeled).sum()} of {len(labeled)} cells; pass "
                "unlabeled_category='Unknown' to train on them without labels, or remove them."
            )
        classes = self._classes(column[labeled])
        if len(classes) == 0:
            raise ValueError(
                f"at least one cell needs a label, but adata.obs[{key!r}] has none; "
                "check labels_key and unlabeled_category."
            )
        ordered = isinstance(column.dtype, pd.CategoricalDtype) and bool(column.dtype.ordered)
        return self._write(adata, column, labeled, classes, ordered)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Write the codes of other cells by the classes of the registry."""
        classes = state_registry[self.CATEGORICAL_MAPPING_KEY][: state_registry[self.N_CLASSES]]
        ordered = bool(state_registry.get(self.ORDERED, False))
        key = self._original_attr_key
        if key not in adata_target.obs.columns:
            column = pd.Series(np.nan, index=adata_target.obs_names, dtype=object)
            return self._write(adata_target, column, np.zeros(len(column), bool), classes, ordered)
        column, labeled = self._labels(adata_target)
        unseen = set(column[labeled].unique()) - set(classes)
        if unseen:
            raise ValueError(
                f"labels must be classes that the model was trained on, but adata.obs[{key!r}] "
                f"holds {shown(sorted(map(str, unseen)), 5)}; set them to NaN, or drop the column: "
                "cells without a label can be encoded and predicted."
            )
        return self._write(adata_target, column, labeled, classes, ordered)

    def _write(
        self,
        adata: AnnData,
        column: pd.Series,
        labeled: np.ndarray,
        classes: np.ndarray,
        ordered: bool,
    ) -> dict:
        codes = np.full(adata.n_obs, len(classes), dtype=np.int64)
        codes[labeled] = pd.Index(classes).get_indexer(column[labeled])
        adata.obs[self.attr_key] = codes
        mapping = np.asarray(classes, dtype=object)
        if self._unlabeled_category is not None:
            mapping = np.append(mapping, np.array([self._unlabeled_category], dtype=object))
        return {
            self.CATEGORICAL_MAPPING_KEY: mapping,
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
            self.UNLABELED_CATEGORY: self._unlabeled_category,
            self.N_CLASSES: len(classes),
            self.ORDERED: ordered,
        }

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of labels, the unlabeled category among them."""
        return {self.count_stat_key: len(state_registry[self.CATEGORICAL_MAPPING_KEY])}


def _kind(found: type) -> str:
    """Name of the kind of a label; that of its type where there is none."""
    return next((kind for kind, types in KINDS.items() if issubclass(found, types)), found.__name__)
