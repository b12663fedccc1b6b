"""The registered columns of ``obs``: labels, batches and covariates, and the codes written for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    NumericalJointObsField,
    NumericalObsField,
)

from .._errors import near_matches, quoted, shown, warn
from .checks import check_columns

# What a label, batch or category can be, so that files can hold it.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, np.floating),
}
# From fewer cells of a batch or category, almost nothing can be learned.
FEW_CELLS = 3
# Classes with fewer cells are memorized.
FEW_OF_A_CLASS = 10
# More classes than this that are fractions are hardly classes.
MANY_FRACTIONS = 20


def check_kind(what: str, key: str, column: pd.Series) -> None:
    """Raise a TypeError unless values are all strings, all numbers of a kind, or all booleans.

    Parameters
    ----------
    what
        What to call the values in an error.
    key
        Name of the column.
    column
        The values, without those that are missing.
    """
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    if values.dtype.kind in "Ubiuf":
        return
    kinds = {_kind(t) for t in {type(value) for value in values}}
    if len(kinds) > 1 or not kinds <= KINDS.keys():
        raise TypeError(
            f"{what} must be strings, integers, floats or booleans, and of one type, but adata.obs"
            f"[{key!r}] holds {' and '.join(sorted(kinds))}; convert the column with .astype(str)."
        )


def _kind(found: type) -> str:
    """Name of the kind of a value; that of its type where there is none."""
    return next((kind for kind, types in KINDS.items() if issubclass(found, types)), found.__name__)


def used_categories(column: pd.Series) -> np.ndarray:
    """Values that occur, in the order of the categories where there are some, else sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories().cat.categories.to_numpy()
    return np.sort(column.unique())


def codes_of(column: pd.Series, categories: np.ndarray) -> np.ndarray:
    """Positions of values among categories; -1 for a value that is none of them or missing."""
    index = pd.Index(categories)
    if isinstance(column.dtype, pd.CategoricalDtype):
        of_category = index.get_indexer(column.cat.categories)
        return np.append(of_category, -1)[column.cat.codes.to_numpy()]
    return index.get_indexer(pd.Index(column))


def known_and_new(
    column: pd.Series, key: str, categories: np.ndarray, extend: bool, what: str
) -> np.ndarray:
    """The categories of a setup, with those of query cells behind them if they may be new.

    Raises
    ------
    ValueError
        If there are new ones that may not be.
    """
    found = used_categories(column)
    new = found[pd.Index(categories).get_indexer(pd.Index(found)) < 0]
    if not len(new):
        return categories
    if not extend:
        raise ValueError(
            f"{what} must be one that the model was trained on ({shown(categories)}), but adata.obs"
            f"[{key!r}] holds {shown(new, 5)}; map these cells onto the model with "
            f"CIVAE.load_query_data.{near_matches(new[0], categories)}"
        )
    together = np.empty(len(categories) + len(new), dtype=object)
    together[:] = [*categories.tolist(), *new.tolist()]
    return together if categories.dtype == object else together.astype(categories.dtype)


def warn_of_few(what: str, key: str, codes: np.ndarray, categories: np.ndarray) -> None:
    """Warn of categories with next to no cells."""
    few = categories[np.bincount(codes, minlength=len(categories)) < FEW_CELLS]
    if len(few):
        warn(
            f"adata.obs[{key!r}] has {what} with fewer than {FEW_CELLS} cells ({shown(few, 5)}), from which almost nothing can be learned; merge them with others, or remove these cells."
        )


# What becomes of a missing value that is turned into text.
TEXTS_OF_NONE = {"nan", "none", "<na>", "nat", "na", "n/a", "null", ""}


def warn_of_labels(key: str, classes: np.ndarray, sizes: np.ndarray) -> None:
    """Warn of the first thing that makes labels unlike classes.

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
                f"adata.obs[{key!r}] has the text {quoted(name)} as a class ({int(n_cells)} cells), which "
                "is how a missing label is written as text; set these labels to missing (NaN) and pass "
                "unlabeled_category='Unknown', or rename the class."
            )
            return
    numbers = classes.astype(float) if _is_numeric(classes) else np.zeros(0)
    fractions = (numbers != np.round(numbers)).any()
    mean_size = sizes.mean()
    if len(numbers) > MANY_FRACTIONS and (fractions or mean_size < FEW_OF_A_CLASS):
        warn(
            f"adata.obs[{key!r}] looks like a measurement, not like classes: {len(classes):,} different "
            f"numbers in {int(sizes.sum()):,} cells. Choose a column of cell types as labels_key, or "
            "make classes of it with pandas.cut."
        )
    elif len(classes) > 2 and mean_size < 2:
        warn(
            f"adata.obs[{key!r}] has about as many classes ({len(classes):,}) as labeled cells "
            f"({int(sizes.sum()):,}), so none can be learned; choose another labels_key."
        )
    elif (sizes < FEW_OF_A_CLASS).any():
        few = np.flatnonzero(sizes < FEW_OF_A_CLASS)
        few = few[np.argsort(sizes[few], kind="stable")]
        listed = ", ".join(f"{quoted(classes[i])}: {sizes[i]}" for i in few[:5])
        more = f", … ({len(few)} in all)" if len(few) > 5 else ""
        warn(
            f"adata.obs[{key!r}] has classes with fewer than {FEW_OF_A_CLASS} cells ({listed}{more}); "
            "the model learns little about these: merge them with related classes, or label more cells."
        )


def _is_numeric(values: np.ndarray) -> bool:
    """Whether values are numbers, stored as such or as objects."""
    if values.dtype == object:
        kinds = (int, float, np.integer, np.floating)
        return all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)
    return values.dtype.kind in "iuf"


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
    needs_order
        Whether the column must say in which order the classes are.
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
        """Nothing to do: the column is checked where it is read, and query data may lack it."""

    def _labels(self, adata: AnnData) -> tuple[pd.Series, np.ndarray]:
        """Column of labels, and which of its cells are labeled."""
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
        """Whether the column, if it is there, still says what was registered."""
        if self._original_attr_key not in adata.obs.columns:
            return True
        classes = state_registry[self.CATEGORICAL_MAPPING_KEY][: state_registry[self.N_CLASSES]]
        column = adata.obs[self._original_attr_key]
        codes = np.where(self._labeled(column), codes_of(column, classes), len(classes))
        return np.array_equal(codes, adata.obs[self.attr_key])

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
        classes = used_categories(column[labeled])
        if len(classes) == 0:
            raise ValueError(
                f"at least one cell needs a label, but adata.obs[{key!r}] has none; "
                "check labels_key and unlabeled_category."
            )
        ordered = isinstance(column.dtype, pd.CategoricalDtype) and bool(column.dtype.ordered)
        if self._needs_order and not ordered and not _is_numeric(classes):
            raise ValueError(
                f"ordered=True needs the order of the classes, but adata.obs[{key!r}] has none; set it "
                f"with adata.obs[{key!r}] = pd.Categorical(adata.obs[{key!r}], categories=[…], "
                "ordered=True)."
            )
        found = self._write(adata, column, labeled, classes, ordered)
        codes = adata.obs[self.attr_key].to_numpy()[labeled]
        warn_of_labels(key, classes, np.bincount(codes, minlength=len(classes)))
        return found

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
        """Number of labels, the unlabeled category among them."""
        return {self.count_stat_key: len(state_registry[self.CATEGORICAL_MAPPING_KEY])}


class BatchField(CategoricalObsField):
    """Batches of cells; categories without a cell make none."""

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the column, if it is there, still says what was registered."""
        if self.is_default or self._original_attr_key not in adata.obs.columns:
            return True
        categories = np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY])
        codes = codes_of(adata.obs[self._original_attr_key], categories)
        return np.array_equal(codes, adata.obs[self.attr_key])

    def register_field(self, adata: AnnData) -> dict:
        """Read the batches off the column and write the codes."""
        if self.is_default:
            return super().register_field(adata)
        column = adata.obs[self._original_attr_key]
        check_kind("batches", self._original_attr_key, column)
        found = self._write(adata, column, used_categories(column))
        categories = found[self.CATEGORICAL_MAPPING_KEY]
        codes = adata.obs[self.attr_key].to_numpy()
        warn_of_few("batches", self._original_attr_key, codes, categories)
        return found

    def transfer_field(
        self,
        state_registry: dict,
        adata_target: AnnData,
        extend_categories: bool = False,
        **kwargs: Any,
    ) -> dict:
        """Write the codes of other cells by the batches of the registry."""
        if self.is_default:
            return super().transfer_field(state_registry, adata_target, extend_categories, **kwargs)
        key = self._original_attr_key
        check_columns(adata_target, {"batch_key": key})
        column = adata_target.obs[key]
        check_kind("batches", key, column)
        known = np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY])
        categories = known_and_new(column, key, known, extend_categories, "a batch")
        return self._write(adata_target, column, categories)

    def _write(self, adata: AnnData, column: pd.Series, categories: np.ndarray) -> dict:
        adata.obs[self.attr_key] = _smallest(codes_of(column, categories), categories)
        return {
            self.CATEGORICAL_MAPPING_KEY: categories,
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of batches."""
        return {self.count_stat_key: len(state_registry[self.CATEGORICAL_MAPPING_KEY])}


class CategoricalCovariatesField(CategoricalJointObsField):
    """Categorical covariates of cells; categories without a cell make none."""

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the columns that are there still say what was registered."""
        registered = adata.obsm[self.attr_key]
        return all(
            np.array_equal(codes_of(adata.obs[key], np.asarray(categories)), registered[key])
            for key, categories in state_registry[self.MAPPINGS_KEY].items()
            if key in adata.obs.columns
        )

    def register_field(self, adata: AnnData) -> dict:
        """Read the categories off the columns and write the codes."""
        mappings = {}
        for key in self.attr_keys:
            column = adata.obs[key]
            check_kind("categories", key, column)
            mappings[key] = used_categories(column)
            codes = codes_of(column, mappings[key])
            warn_of_few("categories", key, codes, mappings[key])
        return self._write(adata, mappings)

    def transfer_field(
        self,
        state_registry: dict,
        adata_target: AnnData,
        extend_categories: bool = False,
        **kwargs: Any,
    ) -> dict:
        """Write the codes of other cells by the categories of the registry."""
        mappings = {}
        for key in self.attr_keys:
            check_columns(adata_target, {"categorical_covariate_keys": key})
            column = adata_target.obs[key]
            check_kind("categories", key, column)
            known = np.asarray(state_registry[self.MAPPINGS_KEY][key])
            mappings[key] = known_and_new(column, key, known, extend_categories, "a category")
        return self._write(adata_target, mappings)

    def _write(self, adata: AnnData, mappings: dict[str, np.ndarray]) -> dict:
        codes = {
            key: _smallest(codes_of(adata.obs[key], categories), categories)
            for key, categories in mappings.items()
        }
        adata.obsm[self.attr_key] = pd.DataFrame(codes, index=adata.obs_names)
        return {
            self.MAPPINGS_KEY: mappings,
            self.FIELD_KEYS_KEY: list(mappings),
            self.N_CATS_PER_KEY: [len(categories) for categories in mappings.values()],
        }


class ContinuousCovariatesField(NumericalJointObsField):
    """Continuous covariates of cells, which reach the network with mean 0 and standard deviation 1.

    Those of the cells of the setup stay in the registry, and hold for all cells that come later. A
    covariate that is the same in all cells is 0 for the network. Registries of version 0.1.0 have
    neither: there, covariates reach the network as they are.
    """

    LOCATION, SCALE = "location", "scale"

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the columns, if they are there, still say what was registered."""
        if not set(self.attr_keys) <= set(adata.obs.columns):
            return True
        values = self._standardized(adata, state_registry)
        return np.array_equal(values, adata.obsm[self.attr_key].to_numpy())

    def register_field(self, adata: AnnData) -> dict:
        """Work out mean and standard deviation, and write the standardized covariates."""
        values = self._values(adata)
        location = values.mean(axis=0)
        scale = values.std(axis=0)
        # Rounding errors of a constant are no spread.
        scale[scale <= 1e-12 * np.abs(location)] = 0.0
        for key in np.array(self.attr_keys, dtype=object)[scale == 0]:
            warn(
                f"continuous covariate {key!r} is the same in all cells, so it has no effect; leave "
                "it out of continuous_covariate_keys."
            )
        return self._write(adata, {self.LOCATION: location, self.SCALE: scale})

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Write covariates of other cells, standardized by the registry."""
        for key in self.attr_keys:
            check_columns(adata_target, {"continuous_covariate_keys": key})
        known = {k: state_registry[k] for k in (self.LOCATION, self.SCALE) if k in state_registry}
        return self._write(adata_target, known)

    def _values(self, adata: AnnData) -> np.ndarray:
        """The columns as they are, float64, shape ``(n_obs, n_covariates)``."""
        columns = [adata.obs[k].to_numpy(dtype=np.float64, na_value=np.nan) for k in self.attr_keys]
        return np.stack(columns, axis=1)

    def _standardized(self, adata: AnnData, known: dict[str, np.ndarray]) -> np.ndarray:
        values = self._values(adata)
        if self.SCALE not in known:
            return values
        return standardize(values, known[self.LOCATION], known[self.SCALE])

    def _write(self, adata: AnnData, known: dict[str, np.ndarray]) -> dict:
        keys = list(self.attr_keys)
        values = self._standardized(adata, known)
        adata.obsm[self.attr_key] = pd.DataFrame(values, index=adata.obs_names, columns=keys)
        return {self.COLUMNS_KEY: np.array(keys, dtype=object), **known}


class SizeFactorField(NumericalObsField):
    """Size factors of cells, in place of the library sizes that are observed.

    Parameters
    ----------
    registry_key
        Key of the field in the registry.
    obs_key
        Column of ``adata.obs``, or ``None``.
    """

    ORIGINAL_KEY = "original_key"

    def __init__(self, registry_key: str, obs_key: str | None) -> None:
        written = None if obs_key is None else f"_scvi_{registry_key}"
        super().__init__(registry_key, written, required=False)
        self._original = obs_key

    def validate_field(self, adata: AnnData) -> None:
        """Nothing to do: the column is checked where it is read."""

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the column, if it is there, still says what was registered."""
        if self._original not in adata.obs.columns:
            return True
        return np.array_equal(adata.obs[self._original].to_numpy(float), adata.obs[self.attr_key])

    def register_field(self, adata: AnnData) -> dict:
        """Write what the column holds."""
        check_columns(adata, {"size_factor_key": self._original})
        adata.obs[self.attr_key] = adata.obs[self._original].to_numpy(float)
        return {self.ORIGINAL_KEY: self._original}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Write what the column of other cells holds."""
        return self.register_field(adata_target)


def standardize(values: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Covariates ``(n, n_covariates)`` less their location, over their scale; 0 where that is 0."""
    return np.where(scale > 0, (values - location) / np.where(scale > 0, scale, 1.0), 0.0)


def _smallest(codes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Codes in as few bytes as the number of categories asks for."""
    return codes.astype(np.min_scalar_type(-max(len(categories), 1)))
