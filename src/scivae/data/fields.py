"""The registered columns of ``obs``: batches, covariates and size factors; codes and dtypes of columns."""

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

from .._errors import near_matches, shown, warn
from .checks import check_columns

# Allowed types of labels, batches and categories: those that files can store.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, np.floating),
}
# Number of cells of a batch or category below which a warning is given.
FEW_CELLS = 3


def check_kind(what: str, key: str, column: pd.Series) -> None:
    """Raise a TypeError unless values are all strings, all integers, all floats, or all booleans.

    Parameters
    ----------
    what
        Name of the values, for the error.
    key
        Name of the column.
    column
        The values, without missing ones.
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
    """The key of :data:`KINDS` that a value belongs to; else the name of its type."""
    return next((kind for kind, types in KINDS.items() if issubclass(found, types)), found.__name__)


def used_categories(column: pd.Series) -> np.ndarray:
    """Values that occur, in the order of the categories if the column is categorical, else sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories().cat.categories.to_numpy()
    return np.sort(column.unique())


def codes_of(column: pd.Series, categories: np.ndarray) -> np.ndarray:
    """Positions of values among categories; -1 for missing values and for values that are not categories."""
    index = pd.Index(categories)
    if isinstance(column.dtype, pd.CategoricalDtype):
        of_category = index.get_indexer(column.cat.categories)
        return np.append(of_category, -1)[column.cat.codes.to_numpy()]
    return index.get_indexer(pd.Index(column))


def known_and_new(
    column: pd.Series, key: str, categories: np.ndarray, extend: bool, what: str
) -> np.ndarray:
    """The categories of a setup, followed by new ones of query cells if ``extend`` allows them.

    Raises
    ------
    ValueError
        If there are new categories although ``extend`` is false.
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
    """Warn about categories with very few cells."""
    few = categories[np.bincount(codes, minlength=len(categories)) < FEW_CELLS]
    if len(few):
        warn(
            f"adata.obs[{key!r}] has {what} with fewer than {FEW_CELLS} cells ({shown(few, 5)}), "
            "too few to learn from; merge them with others, or remove these cells."
        )


class BatchField(CategoricalObsField):
    """Batches of cells; unused categories are dropped."""

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the column, if it is there, still says what was registered."""
        if self.is_default or self._original_attr_key not in adata.obs.columns:
            return True
        categories = np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY])
        codes = codes_of(adata.obs[self._original_attr_key], categories)
        return np.array_equal(codes, adata.obs[self.attr_key])

    def register_field(self, adata: AnnData) -> dict:
        """Read the batches from the column and write their codes."""
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
        """Write the codes of other cells, with the batches of the registry."""
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
    """Categorical covariates of cells; unused categories are dropped."""

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the columns, those that still exist, have the registered values."""
        registered = adata.obsm[self.attr_key]
        return all(
            np.array_equal(codes_of(adata.obs[key], np.asarray(categories)), registered[key])
            for key, categories in state_registry[self.MAPPINGS_KEY].items()
            if key in adata.obs.columns
        )

    def register_field(self, adata: AnnData) -> dict:
        """Read the categories from the columns and write their codes."""
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
        """Write the codes of other cells, with the categories of the registry."""
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

    The mean and standard deviation of the cells of the setup are stored in the registry, and also used for
    cells that come later. A covariate that is constant over cells becomes 0. Registries of version 0.1.0
    have neither mean nor standard deviation; their covariates are not standardized.
    """

    LOCATION, SCALE = "location", "scale"

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the columns, if they still exist, have the registered values."""
        if not set(self.attr_keys) <= set(adata.obs.columns):
            return True
        values = self._standardized(adata, state_registry)
        return np.array_equal(values, adata.obsm[self.attr_key].to_numpy())

    def register_field(self, adata: AnnData) -> dict:
        """Compute mean and standard deviation, and write the standardized covariates."""
        values = self._values(adata)
        location = values.mean(axis=0)
        scale = values.std(axis=0)
        # A standard deviation from rounding errors alone counts as zero.
        scale[scale <= 1e-12 * np.abs(location)] = 0.0
        for key in np.array(self.attr_keys, dtype=object)[scale == 0]:
            warn(
                f"continuous covariate {key!r} is the same in all cells, so it has no effect; "
                "leave it out of continuous_covariate_keys."
            )
        return self._write(adata, {self.LOCATION: location, self.SCALE: scale})

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Write the covariates of other cells, standardized with the values of the registry."""
        for key in self.attr_keys:
            check_columns(adata_target, {"continuous_covariate_keys": key})
        known = {k: state_registry[k] for k in (self.LOCATION, self.SCALE) if k in state_registry}
        return self._write(adata_target, known)

    def _values(self, adata: AnnData) -> np.ndarray:
        """The columns without standardization, float64, shape ``(n_obs, n_covariates)``."""
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
    """Size factors of cells, used instead of observed library sizes.

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
        """Do nothing; the column is checked when it is read."""

    def is_current(self, adata: AnnData, state_registry: dict) -> bool:
        """Whether the column, if it is there, still says what was registered."""
        if self._original not in adata.obs.columns:
            return True
        return np.array_equal(adata.obs[self._original].to_numpy(float), adata.obs[self.attr_key])

    def register_field(self, adata: AnnData) -> dict:
        """Write the size factors of the cells."""
        check_columns(adata, {"size_factor_key": self._original})
        adata.obs[self.attr_key] = adata.obs[self._original].to_numpy(float)
        return {self.ORIGINAL_KEY: self._original}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Write the size factors of other cells."""
        return self.register_field(adata_target)


def standardize(values: np.ndarray, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Covariates ``(n, n_covariates)`` minus their location, divided by their scale; 0 if the scale is 0."""
    return np.where(scale > 0, (values - location) / np.where(scale > 0, scale, 1.0), 0.0)


def _smallest(codes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Codes in the smallest integer type that holds them."""
    return codes.astype(np.min_scalar_type(-max(len(categories), 1)))


def column_like(values: pd.Categorical, column: pd.Series | None) -> Any:
    """Names as a column with the dtype of the column of the real cells.

    Both can then be concatenated without a change of dtype: with the same categories in the same order,
    ordered or not, or as integers, floats or booleans. Text stays categorical.

    Parameters
    ----------
    values
        Names, without missing values.
    column
        Column of the real cells; ``None`` if they have none.
    """
    if column is None:
        return values
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        known = pd.Index(values.categories[np.unique(values.codes)]).isin(kind.categories).all()
        return pd.Categorical(values, dtype=kind) if known else values
    numpy = getattr(kind, "numpy_dtype", kind)  # for nullable columns
    names = values.categories.to_numpy()
    if not isinstance(numpy, np.dtype) or numpy.kind not in "biuf" or not len(names):
        return values
    try:
        numbers = names.astype(numpy)
    except (ValueError, TypeError, OverflowError):  # text, for example
        return values
    if not (numbers == names).all():
        return values
    # Files can store nullable integers and booleans, but not all other extension types.
    nullable = isinstance(kind, pd.BooleanDtype) or (
        pd.api.types.is_extension_array_dtype(kind) and str(kind)[:1] in "IU"
    )
    return pd.array(numbers[values.codes], dtype=kind) if nullable else numbers[values.codes]


def numbers_like(values: np.ndarray, column: pd.Series | None) -> np.ndarray:
    """Numbers in the dtype of a column of the real cells if it can hold them, else float64."""
    kind = getattr(getattr(column, "dtype", None), "numpy_dtype", getattr(column, "dtype", None))
    if isinstance(kind, np.dtype) and kind.kind in "iuf":
        with np.errstate(all="ignore"):
            converted = values.astype(kind)
        if kind.kind == "f" or (converted == values).all():
            return converted
    return values.astype(np.float64)
