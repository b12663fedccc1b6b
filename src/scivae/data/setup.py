"""The setup of a model, read from the registry of scvi-tools."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS

from .._errors import near_matches, shown
from .._validate.arguments import check_type
from ..module import Covariates
from .checks import MAX_VALUE, X_LAYER, check_columns
from .fields import (
    ContinuousCovariatesField,
    SizeFactorField,
    codes_of,
    column_like,
    numbers_like,
    standardize,
)
from .labels import LabelsField

# Significant digits of a standardized covariate in single precision.
DIGITS = 6


class Setup(NamedTuple):
    """Names and categories of the registered fields.

    Attributes
    ----------
    layer
        Layer of the values, or ``"X"``.
    genes
        Names of the variables.
    labels_key
        Column of the labels.
    classes
        Names of the classes, in the order of the discriminator.
    unlabeled_category
        Value of unlabeled cells, or ``None``.
    ordered
        Whether the classes are the categories of an ordered column.
    parallel
        Whether the boundaries between classes are parallel; ``ordered=True`` of ``setup_anndata``.
    batch_key
        Column of the batches, or ``None`` if there is one batch only.
    batches
        Names of the batches.
    categorical
        Categories of each categorical covariate.
    continuous
        Columns of the continuous covariates.
    size_factor_key
        Column of the size factors, or ``None``.
    location, scale
        Mean and standard deviation of the continuous covariates in the cells of the setup, each of shape
        ``(n_covariates,)``; ``None`` if they are not standardized (models of version 0.1.0).
    """

    layer: str
    genes: np.ndarray
    labels_key: str
    classes: np.ndarray
    unlabeled_category: Any
    ordered: bool
    parallel: bool
    batch_key: str | None
    batches: np.ndarray
    categorical: dict[str, np.ndarray]
    continuous: tuple[str, ...]
    size_factor_key: str | None
    location: np.ndarray | None = None
    scale: np.ndarray | None = None

    @classmethod
    def from_registry(cls, registry: dict[str, Any]) -> Setup:
        """The setup in a registry of an AnnData or of a datamodule."""
        fields = registry["field_registries"]

        def state(key: str) -> dict[str, Any]:
            return fields.get(key, {}).get("state_registry", {})

        values, batch, labels = (
            state(k)
            for k in (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)
        )
        mapping = np.asarray(labels["categorical_mapping"])
        unlabeled = labels.get(LabelsField.UNLABELED_CATEGORY)
        if LabelsField.N_CLASSES in labels:
            n_classes = labels[LabelsField.N_CLASSES]
        else:
            n_classes = len(mapping) - (unlabeled is not None)
        batch_key = batch.get("original_key")
        layer = fields[REGISTRY_KEYS.X_KEY].get("data_registry", {}).get("attr_key")
        covariates = state(REGISTRY_KEYS.CONT_COVS_KEY)
        location = covariates.get(ContinuousCovariatesField.LOCATION)
        scale = covariates.get(ContinuousCovariatesField.SCALE)
        size_factor = state(REGISTRY_KEYS.SIZE_FACTOR_KEY).get(SizeFactorField.ORIGINAL_KEY)
        if size_factor is None:  # version 0.1.0
            found = fields.get(REGISTRY_KEYS.SIZE_FACTOR_KEY, {}).get("data_registry", {})
            size_factor = found.get("attr_key")
        return cls(
            layer=layer or X_LAYER,
            genes=np.asarray(values["column_names"]),
            labels_key=labels["original_key"],
            classes=mapping[:n_classes],
            unlabeled_category=unlabeled,
            ordered=bool(labels.get(LabelsField.ORDERED, False)),
            parallel=bool(registry.get("setup_args", {}).get("ordered", False)),
            batch_key=None if batch_key is None or batch_key.startswith("_scvi") else batch_key,
            batches=np.asarray(batch["categorical_mapping"]),
            categorical={
                k: np.asarray(v)
                for k, v in state(REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {}).items()
            },
            continuous=tuple(covariates.get("columns", ())),
            size_factor_key=size_factor,
            location=None if location is None else np.asarray(location, dtype=np.float64),
            scale=None if scale is None else np.asarray(scale, dtype=np.float64),
        )

    @property
    def categories(self) -> list[tuple[str, list]]:
        """Categories of each categorical covariate."""
        return [(key, np.asarray(values).tolist()) for key, values in self.categorical.items()]

    @property
    def scaling(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each continuous covariate; none in version 0.1.0."""
        if self.location is None or self.scale is None:
            return []
        return list(zip(self.location.tolist(), self.scale.tolist(), strict=True))

    def label_code(self, label: Any, argument: str = "label") -> int:
        """Code of a class; a KeyError lists the classes."""
        return _code(label, self.classes, argument, "class")

    def batch_code(self, batch: Any, argument: str = "transform_batch") -> int:
        """Code of a batch; a KeyError lists the batches."""
        return _code(batch, self.batches, argument, "batch")

    def obs(self, covariates: Covariates, index: pd.Index, real: pd.DataFrame) -> pd.DataFrame:
        """Columns of ``obs`` with the covariates of the setup, in their original units.

        Parameters
        ----------
        covariates
            Covariates of n cells.
        index
            Their names.
        real
            ``obs`` of the real cells; the new columns get the dtypes of its columns.
        """
        columns: dict[str, Any] = {}
        named: list[tuple[str, np.ndarray, np.ndarray]] = []
        if self.batch_key is not None:
            named.append((self.batch_key, covariates.batch, self.batches))
        for i, (key, categories) in enumerate(self.categorical.items()):
            named.append((key, covariates.categorical[:, i], categories))
        for key, codes, categories in named:
            values = pd.Categorical.from_codes(codes, pd.Index(categories).infer_objects())
            columns[key] = column_like(values, real.get(key))
        own_units = self._own_units(covariates.continuous)
        for i, key in enumerate(self.continuous):
            columns[key] = numbers_like(own_units[:, i], real.get(key))
        if self.size_factor_key is not None:
            size = np.exp(covariates.log_library)
            columns[self.size_factor_key] = numbers_like(size, real.get(self.size_factor_key))
        return pd.DataFrame(columns, index=index)

    def class_column(self, codes: np.ndarray, real: pd.DataFrame) -> Any:
        """Classes by their codes, with the dtype of the labels of the real cells.

        Parameters
        ----------
        codes
            Shape ``(n,)``.
        real
            ``obs`` of the real cells.
        """
        kind = pd.CategoricalDtype(pd.Index(self.classes).infer_objects(), self.ordered)
        values = pd.Categorical.from_codes(codes, dtype=kind)
        return column_like(values, real.get(self.labels_key))

    def _own_units(self, standardized: np.ndarray) -> np.ndarray:
        """Continuous covariates ``(n, n_covariates)`` in the units of ``obs``, from standardized ones."""
        if self.location is None or self.scale is None:
            return standardized.astype(np.float32)
        values = self.location + self.scale * standardized.astype(np.float64)
        for i, scale in enumerate(self.scale):
            if scale > 0:  # further digits would be rounding errors of single precision
                values[:, i] = np.round(values[:, i], DIGITS - int(np.floor(np.log10(scale))))
        return values

    def covariates_of(
        self, table: pd.DataFrame | None, n: int, log_library: np.ndarray
    ) -> Covariates:
        """Covariates of n points from a table of covariates.

        Parameters
        ----------
        table
            One row per point, with columns of the setup. If a column is missing, all points have its first
            category, or the mean of the cells of the setup if it is continuous. ``None``: no columns.
        n
            Number of points.
        log_library
            Log library sizes, shape ``(n,)``.
        """
        table = pd.DataFrame(index=range(n)) if table is None else table
        if not isinstance(table, pd.DataFrame):
            raise TypeError(
                f"covariates must be a DataFrame, got {type(table).__name__}; pass, for example, "
                "adata.obs[[column]]."
            )
        if len(table) != n:
            raise ValueError(
                f"covariates must have one row for each of the {n} points, got {len(table)}; repeat "
                "or select rows."
            )
        known = {*self.categorical, *self.continuous, self.batch_key} - {None}
        unknown = [c for c in table.columns if c not in known]
        if unknown:
            raise KeyError(
                f"covariates must be columns of the setup ({shown(known) or 'there are none'}), "
                f"got {shown(unknown, 3)}; drop these columns."
            )

        if not table.columns.is_unique:
            raise ValueError(
                "covariates must hold each column once, got "
                f"{table.columns[table.columns.duplicated()][0]!r} twice; drop one of them."
            )

        def numbers(i: int, key: str) -> np.ndarray:
            if key not in table:
                return np.zeros(n)  # the mean of a standardized covariate
            values = pd.to_numeric(table[key], errors="coerce").to_numpy(float, na_value=np.nan)
            bad = ~(np.abs(values) <= MAX_VALUE)
            if bad.any():
                raise ValueError(
                    f"covariate {key!r} must be finite numbers, got "
                    f"{table[key].tolist()[bad.argmax()]!r}; fill it in, or leave the column out for "
                    "the mean of the training cells."
                )
            if self.location is None or self.scale is None:
                return values
            return standardize(values[:, None], self.location[[i]], self.scale[[i]])[:, 0]

        def codes(key: str | None, categories: np.ndarray) -> np.ndarray:
            if key is None or key not in table.columns:
                return np.zeros(n, dtype=np.int64)
            found = codes_of(table[key], categories)
            if (found < 0).any():
                bad = table[key].to_numpy()[found < 0][0]
                raise ValueError(
                    f"covariate {key!r} must be one of {shown(categories)}, got {bad!r}."
                )
            return found.astype(np.int64)

        def columns(found: list[np.ndarray], dtype: type) -> np.ndarray:
            return np.array(found, dtype=dtype).reshape(len(found), n).T

        return Covariates(
            log_library=log_library,
            batch=codes(self.batch_key, self.batches),
            categorical=columns([codes(k, v) for k, v in self.categorical.items()], np.int64),
            continuous=columns([numbers(i, k) for i, k in enumerate(self.continuous)], np.float64),
        )


def _code(value: Any, names: np.ndarray, argument: str, what: str) -> int:
    """Position of a value in the names; a KeyError lists them."""
    found = np.flatnonzero(names == value)
    if found.size == 0:
        raise KeyError(
            f"{argument} must be a {what} that the model was trained on, got {value!r}; available: "
            f"{shown(names, 20)}.{near_matches(value, names)}"
        )
    return int(found[0])


def check_setup_arguments(
    adata: Any,
    *,
    batch_key: str | None,
    size_factor_key: str | None,
    categorical_covariate_keys: list[str] | None,
    continuous_covariate_keys: list[str] | None,
) -> None:
    """Raise an error if a column for the setup is missing or unsuitable."""
    categorical: list[tuple[str, str]] = []
    numeric: list[tuple[str, str]] = []
    if batch_key is not None:
        categorical.append(("batch_key", batch_key))
    if size_factor_key is not None:
        numeric.append(("size_factor_key", size_factor_key))
    for name, keys, columns in (
        ("categorical_covariate_keys", categorical_covariate_keys, categorical),
        ("continuous_covariate_keys", continuous_covariate_keys, numeric),
    ):
        if isinstance(keys, str):
            raise TypeError(f"{name} must be a list of columns, got {keys!r}; write [{keys!r}].")
        keys = [] if keys is None else keys
        check_type(name, keys, (list, tuple), "a list of columns")
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise ValueError(
                    f"{name} must name each column once, got {key!r} twice; drop one of them."
                )
        columns += [(name, key) for key in keys]
    for name, key in categorical + numeric:
        check_columns(adata, {name: key})
    for name, key in categorical:
        missing = int(adata.obs[key].isna().sum())
        if missing:
            raise ValueError(
                f"{name} needs a value for every cell, but adata.obs[{key!r}] is missing in "
                f"{missing} of {adata.n_obs} cells; fill them in or remove these cells."
            )
    for name, key in numeric:
        column = adata.obs[key]
        values = np.full(len(column), np.nan)
        if pd.api.types.is_numeric_dtype(column):
            values = column.to_numpy(dtype=float, na_value=np.nan)
        bad = ~np.isfinite(values)
        if name == "size_factor_key":
            bad |= values <= 0
        elif not bad.any() and np.abs(values).max() > MAX_VALUE:
            raise ValueError(
                f"{name} needs numbers within ±{MAX_VALUE:g}, but adata.obs[{key!r}] is "
                f"{values[np.abs(values).argmax()]:g} for cell "
                f"{str(adata.obs_names[np.abs(values).argmax()])!r}; scale it."
            )
        if bad.any():
            rule = "positive numbers" if name == "size_factor_key" else "finite numbers"
            raise ValueError(
                f"{name} needs {rule}, but adata.obs[{key!r}] (dtype {column.dtype}) is "
                f"{column.tolist()[bad.argmax()]!r} for cell "
                f"{str(adata.obs_names[bad.argmax()])!r} ({bad.sum()} such cells); correct the "
                "column, or remove these cells."
            )
