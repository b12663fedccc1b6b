"""The column of labels: its codes, and warnings about labels that look wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import (
    CategoricalObsField,
)

from .._errors import quoted, shown, warn
from .checks import check_columns
from .fields import (
    check_kind,
    codes_of,
    used_categories,
)

# Number of cells of a class below which a warning is given: the model memorizes such classes.
FEW_OF_A_CLASS = 10


# More distinct fractional numbers than this are taken for a measurement, not for classes.
MANY_FRACTIONS = 20
# Names that usually stand for "no label".
NO_LABEL = frozenset(["unknown", "unlabeled", "unlabelled", "unassigned", "na", "nan", "none", ""])


# Text that missing values become if they are converted to strings.
TEXTS_OF_NONE = {"nan", "none", "<na>", "nat", "na", "n/a", "null", ""}


def warn_of_labels(key: str, classes: np.ndarray, sizes: np.ndarray) -> None:
    """Warn if labels do not look like classes; only the first finding is reported.

    Parameters
    ----------
    key
        Name of the column.
    classes
        The classes.
    sizes
        Cells of each of them, shape ``(n_classes,)``.
    """
    for name, n_cells in zip(classes, sizes, strict=True):
        if isinstance(name, str) and name.strip().lower() in TEXTS_OF_NONE:
            warn(
                f"adata.obs[{key!r}] has the text {quoted(name)} as a class ({int(n_cells)} "
                "cells), which is how a missing label is written as text; set these labels to "
                "missing (NaN) and pass unlabeled_category='Unknown', or rename the class."
            )
            return
    numbers = classes.astype(float) if _is_numeric(classes) else np.zeros(0)
    fractions = (numbers != np.round(numbers)).any()
    mean_size = sizes.mean()
    if len(numbers) > MANY_FRACTIONS and (fractions or mean_size < FEW_OF_A_CLASS):
        warn(
            f"adata.obs[{key!r}] looks like a measurement, not like classes: {len(classes):,} "
            f"different numbers in {int(sizes.sum()):,} cells. Choose a column of cell types as "
            "labels_key, or make classes of it with pandas.cut."
        )
    elif len(classes) > 2 and mean_size < 2:
        warn(
            f"adata.obs[{key!r}] has about as many classes ({len(classes):,}) as labeled cells "
            f"({int(sizes.sum()):,}), so classes cannot be learned; choose another labels_key."
        )
    elif (sizes < FEW_OF_A_CLASS).any():
        few = np.flatnonzero(sizes < FEW_OF_A_CLASS)
        few = few[np.argsort(sizes[few], kind="stable")]
        listed = ", ".join(f"{quoted(classes[i])}: {sizes[i]}" for i in few[:5])
        more = f", … ({len(few)} in all)" if len(few) > 5 else ""
        warn(
            f"adata.obs[{key!r}] has classes with fewer than {FEW_OF_A_CLASS} cells "
            f"({listed}{more}); the model learns little about these: merge them with related "
            "classes, or label more cells."
        )


def _is_numeric(values: np.ndarray) -> bool:
    """Whether values are numbers, stored as such or as objects."""
    if values.dtype == object:
        kinds = (int, float, np.integer, np.floating)
        return all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)
    return values.dtype.kind in "iuf"


class LabelsField(CategoricalObsField):
    """Labels of cells, some of which may be missing.

    It differs from scvi-tools' fields in four ways. Unused categories are not classes. With an
    ``unlabeled_category``, missing values count as unlabeled. The unlabeled category exists only if it was
    given, and is the last one. Query cells need no labels. Unlabeled cells get the code ``n_classes``,
    which the loss masks.

    Parameters
    ----------
    registry_key
        Key of the field in the registry.
    obs_key
        Column of ``adata.obs``.
    unlabeled_category
        Value of unlabeled cells, or ``None`` if every cell has a label.
    needs_order
        Whether the column must define an order of the classes.
    """

    UNLABELED_CATEGORY = "unlabeled_category"
    N_CLASSES = "n_classes"
    ORDERED = "ordered_classes"

    def __init__(
        self,
        registry_key: str,
        obs_key: str,
        unlabeled_category: Any = None,
        needs_order: bool = False,
    ) -> None:
        super().__init__(registry_key, obs_key)
        self._unlabeled_category = unlabeled_category
        self._needs_order = needs_order

    def validate_field(self, adata: AnnData) -> None:
        """Do nothing; the column is checked when it is read, and query data may lack it."""

    def _labels(self, adata: AnnData) -> tuple[pd.Series, np.ndarray]:
        """The column of labels, and a mask of the labeled cells."""
        check_columns(adata, {"labels_key": self._original_attr_key})
        column = adata.obs[self._original_attr_key]
        check_kind("labels", self._original_attr_key, column[column.notna().to_numpy()])
        return column, self._labeled(column)

    def _labeled(self, column: pd.Series) -> np.ndarray:
        """Which cells are labeled, shape ``(n_obs,)``."""
        labeled = column.notna().to_numpy()
        if self._unlabeled_category is not None:
            named = (column != self._unlabeled_category).to_numpy(dtype=bool, na_value=False)
            labeled = labeled & named
        return labeled

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the column, if it still exists, has the registered values."""
        if self._original_attr_key not in adata.obs.columns:
            return True
        classes = state_registry[self.CATEGORICAL_MAPPING_KEY][: state_registry[self.N_CLASSES]]
        column = adata.obs[self._original_attr_key]
        codes = np.where(self._labeled(column), codes_of(column, classes), len(classes))
        return np.array_equal(codes, adata.obs[self.attr_key])

    def register_field(self, adata: AnnData) -> dict:
        """Read the classes from the column and write their codes."""
        key = self._original_attr_key
        column, labeled = self._labels(adata)
        if self._unlabeled_category is None and not labeled.all():
            raise ValueError(
                "every cell needs a label unless unlabeled_category is given, but "
                f"adata.obs[{key!r}] is missing in {(~labeled).sum()} of {len(labeled)} cells; "
                "pass unlabeled_category='Unknown' to train on them without labels, or remove "
                "them."
            )
        classes = used_categories(column[labeled])
        if len(classes) == 0:
            raise ValueError(
                f"at least one cell must have a label, got none in adata.obs[{key!r}]; "
                "check labels_key and unlabeled_category."
            )
        unlabeled = [name for name in classes if str(name).strip().casefold() in NO_LABEL]
        like = [name for name in classes if _spelled_alike(name, self._unlabeled_category)]
        if unlabeled and not like:
            given = self._unlabeled_category
            relation = "but not" if labeled.all() else "beside"
            but = "" if given is None else f" {relation} unlabeled_category={given!r}"
            warn(
                f"adata.obs[{key!r}] holds {quoted(unlabeled[0])}{but}, which is therefore a class; pass "
                f"unlabeled_category={unlabeled[0]!r} if those cells have no label."
            )
        if like:
            warn(
                f"unlabeled_category={self._unlabeled_category!r} is not spelled like "
                f"{quoted(like[0])} in adata.obs[{key!r}], which is therefore a class; pass "
                f"unlabeled_category={like[0]!r} if those cells have no label."
            )
        ordered = isinstance(column.dtype, pd.CategoricalDtype) and bool(column.dtype.ordered)
        if self._needs_order and not ordered and not _is_numeric(classes):
            raise ValueError(
                f"ordered=True needs ordered classes, got no order in adata.obs[{key!r}]; set it "
                f"with adata.obs[{key!r}] = pd.Categorical(adata.obs[{key!r}], categories=[…], "
                "ordered=True)."
            )
        found = self._write(adata, column, labeled, classes, ordered)
        codes = adata.obs[self.attr_key].to_numpy()[labeled]
        warn_of_labels(key, classes, np.bincount(codes, minlength=len(classes)))
        return found

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Write the codes of other cells, with the classes of the registry."""
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
                f"holds {shown(sorted(unseen, key=str), 5)}; set them to NaN, or drop the column: "
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
        codes[labeled] = codes_of(column[labeled], classes)
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
        """Number of labels, including the unlabeled category."""
        return {self.count_stat_key: len(state_registry[self.CATEGORICAL_MAPPING_KEY])}


def _spelled_alike(name: Any, other: Any) -> bool:
    """Whether two names differ at most in upper and lower case, and in spaces around them."""
    if not (isinstance(name, str) and isinstance(other, str)):
        return False
    return name.strip().casefold() == other.strip().casefold()
