"""The manager that links a model to an AnnData, and detects changes of the AnnData."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from copy import deepcopy
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from .._names import same_names
from .._scvi import ADATA_UUID, MANAGER_UUID
from .._storage import iter_blocks, summed
from .fingerprint import Fingerprint, row_numbers


class CellsManager(AnnDataManager):
    """scvi-tools' manager, which also detects changes of its AnnData, and does not keep it in memory.

    Classes of scvi-tools keep the manager of every AnnData that was set up. This manager has only a weak
    reference to its AnnData, so an AnnData is freed when neither a model nor the user needs it.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`scvi.data.AnnDataManager`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._held: Any = None
        self.rounds = False  # whether values are counts with rounding errors
        self.said: set[str] = set()  # warnings already given about this AnnData
        self._rounded: tuple[Any, Any] | None = None
        self._var_names: pd.Index | None = None
        self._obs_names: pd.Index | None = None
        self._fingerprint: Fingerprint | None = None
        self._rows: np.ndarray | None = None
        self._names_of_rows: pd.Index | None = None
        self._written: dict[tuple[str, str], Any] = {}
        super().__init__(*args, **kwargs)

    @property
    def adata(self) -> AnnData | None:
        """The AnnData; ``None`` once it was freed."""
        return self._held() if isinstance(self._held, weakref.ref) else self._held

    @adata.setter
    def adata(self, adata: AnnData | None) -> None:
        self._held = None if adata is None else weakref.ref(adata)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_held": self.adata,
        }  # in a worker process there is no other reference to it

    @cached_property
    def data_registry(self) -> Any:
        """Location of the registered data in the AnnData; cached."""
        return super().data_registry

    def _add_field(self, *args: Any, **kwargs: Any) -> None:
        """Register a field, and clear the cached locations."""
        self.__dict__.pop("data_registry", None)
        super()._add_field(*args, **kwargs)

    def get_from_registry(self, registry_key: str) -> Any:
        """The data registered under a key; counts with rounding errors are rounded."""
        data = super().get_from_registry(registry_key)
        if registry_key != REGISTRY_KEYS.X_KEY or not self.rounds:
            return data
        if self._rounded is None or self._rounded[0] is not data:
            self._rounded = (data, rounded(data))
        return self._rounded[1]

    @staticmethod
    def view_setup_method_args(registry: dict) -> None:
        """Print the arguments of the setup."""
        import rich.pretty  # noqa: F401  scvi-tools calls it without importing it

        AnnDataManager.view_setup_method_args(registry)

    @property
    def slots(self) -> Iterator[tuple[str, str]]:
        """Entries that the setup wrote: the attribute of the AnnData, and the key in it."""
        for field in self._registry["field_registries"].values():
            location = field["data_registry"] or {}
            if str(location.get("attr_key")).startswith("_scvi"):
                yield location["attr_name"], location["attr_key"]

    @property
    def unsaid_fields(self) -> list[Any]:
        """Fields of columns that can change, and about which no warning was given yet."""
        columns = [f for f in self.fields if hasattr(f, "is_current") and not f.is_empty]
        return [field for field in columns if field.registry_key not in self.said]

    def is_last(self) -> bool:
        """Whether this was the last setup of the AnnData, so that its entries are not overwritten."""
        uns = self.adata.uns  # type: ignore[union-attr]
        return uns.get(MANAGER_UUID) == self.id and uns.get(ADATA_UUID) == self.adata_uuid

    def write_again(self) -> None:
        """Write the entries again that another setup has overwritten."""
        adata: Any = self.adata
        adata.uns[ADATA_UUID] = self.adata_uuid
        self._source_registry = deepcopy(self._registry)
        adata.uns[MANAGER_UUID] = None
        try:
            self.validate()
        finally:
            self.adata = adata

    def restore_codes(self) -> None:
        """Put back the codes of the setup where a user changed them, so that columns and codes agree."""
        adata: Any = self.adata
        if self._obs_names is None or not adata.obs_names.is_(self._obs_names):
            return  # cells were moved, and their codes with them
        for (attribute, key), before in self._written.items():
            held = getattr(adata, attribute)
            if not np.array_equal(np.asarray(held[key]), np.asarray(before)):
                held[key] = deepcopy(before)

    def has_same_genes(self, adata: AnnData) -> bool:
        """Whether the genes are those of the setup, in the same order."""
        if not adata.var_names.is_(self._var_names):
            state = self._registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
            if not same_names(adata.var_names, state["column_names"]):
                return False
            self._var_names = adata.var_names
        return True

    @property
    def minified(self) -> bool:
        """Whether the AnnData is minified: posteriors instead of counts."""
        return REGISTRY_KEYS.MINIFY_TYPE_KEY in self._registry["field_registries"]

    @staticmethod
    def can_round(x: Any) -> bool:
        """Whether the matrix is in memory, so that its values can be rounded."""
        return Fingerprint.can_read(x)

    def remember(self, x: Any, *, keep_rows: bool) -> None:
        """Store fingerprints of a matrix, to detect changes later.

        Parameters
        ----------
        x
            The matrix.
        keep_rows
            Also store a fingerprint of each row, for an AnnData whose cells may be reordered.
        """
        self._rounded = None
        self._obs_names = self.adata.obs_names  # type: ignore[union-attr]
        self._written = {
            (attribute, key): deepcopy(getattr(self.adata, attribute)[key])
            for attribute, key in self.slots
        }
        self._fingerprint = Fingerprint(x) if Fingerprint.can_read(x) else None
        if keep_rows and self._fingerprint is not None:
            self._rows = all_row_numbers(x)
            self._names_of_rows = self._obs_names

    @property
    def keeps_rows(self) -> bool:
        """Whether there is a fingerprint of each row."""
        return self._rows is not None

    def holds(self, x: Any, rows: np.ndarray | None = None, *, every_row: bool = False) -> bool:
        """Whether cells and values are unchanged; see :meth:`.Fingerprint.holds`."""
        adata: Any = self.adata
        if self.minified:
            return True
        if not adata.obs_names.is_(self._obs_names):
            if self._obs_names is None or not same_names(adata.obs_names, self._obs_names):
                return False
            self._obs_names = adata.obs_names
        return self._fingerprint is None or self._fingerprint.holds(x, rows, every_row=every_row)

    def changed_rows(self, x: Any) -> np.ndarray:
        """Rows whose values differ from those that the cells with these names had before, shape ``(n,)``."""
        adata: Any = self.adata
        now, before, names = all_row_numbers(x), self._rows, self._names_of_rows
        if before is None or names is None:
            raise RuntimeError(
                "rows can be compared only after they were recorded, but none were; call "
                "remember(x, keep_rows=True) first."
            )
        if len(now) == len(before) and same_names(adata.obs_names, names):
            return np.flatnonzero(now != before)
        if names.is_unique and adata.obs_names.is_unique:
            place = pd.Index(names.to_numpy(object)).get_indexer(adata.obs_names.to_numpy(object))
            if (place >= 0).all():
                return np.flatnonzero(before[place] != now)
        if len(now) == len(before) and (now == before).all():
            return np.flatnonzero(now != before)  # cells were renamed, not reordered
        return np.flatnonzero(~np.isin(now, before))


def rounded(x: Any) -> Any:
    """A matrix in memory, dense or sparse, rounded to whole numbers."""
    if sparse.issparse(x):
        whole = summed(x).copy()
        whole.data = np.round(whole.data) + 0.0
        return whole
    return np.round(x) + 0.0


def all_row_numbers(x: Any) -> np.ndarray:
    """:func:`row_numbers` of all rows of a matrix of any kind."""
    numbers = [row_numbers(block) for _, block in iter_blocks(x)]
    return np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.uint32)
