"""The base of the model: every hook by which scvi-tools passes cells to a model, with checks."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model import SCVI

from .. import _keys
from .._errors import near_matches, shown, warn
from .._names import as_objects
from .._quiet import quiet_transfer
from .._scvi import get_minify_type
from ..data import checks, profile
from ..data.checks import resolve_indices
from ..data.loader import BLOCK_VALUES, CellsLoader
from ..data.manager import CellsManager
from ..data.registry import register
from ..data.requirements import Minibatch, Requirements
from ..data.setup import Setup
from ..geometry import LinearClasses
from ..module import COUNT_LIKELIHOODS, CIVAEModule
from ..train.checkpoint import SafeTrainRunner
from ..train.engines import CellsSplitter
from ..train.plan import CIVAETrainingPlan
from .codec import Codec

# Number of cells that are checked before training on an unchecked datamodule.
CELLS_LOOKED_AT = 512


def _hashes(names: pd.Index) -> np.ndarray:
    """A hash of each name, the same in every process and version, shape ``(n,)``."""
    return pd.util.hash_array(as_objects(names.astype(str)), categorize=False)


class CellsModel(SCVI):
    """A model of scvi-tools that checks cells whenever they are used, and accepts reordered cells.

    ``CIVAE`` adds the methods.
    """

    _module_cls = CIVAEModule
    _training_plan_cls = CIVAETrainingPlan
    _train_runner_cls = SafeTrainRunner
    _data_splitter_cls = CellsSplitter
    _data_loader_cls = CellsLoader

    module: CIVAEModule
    adata: AnnData | None
    adata_manager: AnnDataManager
    registry_: dict[str, Any]
    init_params_: dict[str, Any]
    is_trained_: bool
    history_: Any
    _seed: int

    default_library_: float
    temperature_: float
    calibration_: dict[str, np.ndarray] | None
    """Scores and labels of held-out cells, and statistics of classes and residuals of training cells."""

    mapped_: bool
    """Whether ``load_query_data`` made the model from a reference."""

    cell_hashes_: np.ndarray | None = None
    """A hash of each cell's name, in the order of the cells at training."""

    data_summary_: dict[str, Any] | None = None
    """Summary of the values of the AnnData that the model was created with."""

    engine: str | None = None
    """How the last training took its steps, and why, in one sentence."""

    _split_names: pd.Index | None = None
    _setup: tuple[dict[str, Any], Setup] | None = None

    # --- setup -----------------------------------------------------------------------------------

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: AnnData, required: bool = False):
        """The manager of an AnnData; if there is none, the error says what to call."""
        cure = f"call {cls.__name__}.setup_anndata on it first"
        try:
            manager = super()._get_most_recent_anndata_manager(adata)
        except ValueError:  # raised if scvi-tools compares an AnnData with ``==``
            raise ValueError(
                "adata must be the AnnData that was set up, but it is a copy or a part of that one; "
                f"{cure}."
            ) from None
        if manager is None and required:
            raise ValueError(f"adata must be set up for {cls.__name__}, but it is not; {cure}.")
        return manager

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str = _keys.LABELS_KEY,
        unlabeled_category: Any = None,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        ordered: bool = False,
        **kwargs,
    ) -> None:
        """Register the values, labels and covariates of an AnnData.

        Only columns and entries that begin with ``_scvi`` are written. If the call fails, the AnnData is
        unchanged.

        Parameters
        ----------
        adata
            AnnData of cells × genes.
        labels_key
            Column of ``obs`` with the classes.
        unlabeled_category
            Value of cells without a label. Such cells, and those whose label is missing, train
            everything but the discriminator. ``None``: every cell has a label.
        layer
            Layer to model. ``None``: the layer ``counts`` if there is one, else X. ``"X"``: X.
        batch_key
            Column of ``obs`` with the batches.
        size_factor_key
            Column of ``obs`` with size factors, in place of the observed library size.
        categorical_covariate_keys
            Columns of ``obs`` with further categorical covariates.
        continuous_covariate_keys
            Columns of ``obs`` with continuous covariates, in any units. The network receives them
            standardized by their mean and standard deviation in these cells.
        ordered
            Whether the classes have an order that the model must keep, such as stages or grades. The
            boundaries between neighboring classes are then parallel
            (:class:`scivae.module.OrderedLinear`), so that a straight line in latent space passes
            through the classes in their order. The column must be an ordered categorical, or
            numbers.
        **kwargs
            Used by scvi-tools when a setup is transferred.

        Raises
        ------
        KeyError
            If a column or the layer does not exist; the error lists the existing ones.
        ValueError
            If labels are missing while ``unlabeled_category`` is not given, if a covariate is missing
            for some cells, or if values are NaN or infinite.

        Warns
        -----
        UserWarning
            If labels look like a measurement, if a class has fewer than ten cells or a batch fewer than
            three, or if a continuous covariate is the same in all cells.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.pbmc()
        >>> scivae.model.CIVAE.setup_anndata(adata)
        """
        said = cls._get_setup_method_args(**locals())
        if kwargs and "source_registry" not in kwargs:
            names = [name for name in said["setup_args"] if name != "kwargs"]
            unknown = next(iter(kwargs))
            raise TypeError(
                f"setup_anndata's arguments must be adata and any of {shown(names, 20)}, got "
                f"{unknown!r}; leave it out.{near_matches(unknown, names)}"
            )
        minify_type = None if not isinstance(adata, AnnData) else get_minify_type(adata)
        manager = register(
            adata,
            said,
            **said["setup_args"],
            minified_fields=()
            if minify_type is None
            else cls._get_fields_for_adata_minification(minify_type),
            known=cls._setup_adata_manager_store,
            **kwargs,
        )
        cls.register_manager(manager)

    @classmethod
    def register_manager(cls, adata_manager: CellsManager) -> None:
        """Register a manager for the next model; it is removed when its AnnData is freed.

        Parameters
        ----------
        adata_manager
            The manager.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)  # calls it
        """
        super().register_manager(adata_manager)
        if adata_manager.adata is not None:
            store = cls._setup_adata_manager_store
            _forget_with(adata_manager.adata, store, adata_manager)

    @property
    def setup(self) -> Setup:
        """Names and categories of the setup, read once from each registry."""
        if self._setup is None or self._setup[0] is not self.registry_:
            self._setup = (self.registry_, Setup.from_registry(self.registry_))
        return self._setup[1]

    @property
    def classes(self) -> np.ndarray:
        """Names of the classes, in the order of the discriminator, shape ``(n_classes,)``."""
        return self.setup.classes

    @property
    def likelihood(self) -> str:
        """Likelihood of the decoder; what ``"auto"`` chose."""
        return self.module.likelihood

    @property
    def linear_classes(self) -> LinearClasses:
        """The discriminator as geometry, with weights ``(n_classes, n_latent)`` and biases."""
        return self.codec.linear_classes

    @property
    def codec(self) -> Codec:
        """Encoder and decoder for validated cells, used by functions that build on the model."""
        return Codec(
            self.module,
            self.setup,
            self._seed,
            self.temperature_,
            self.default_library_,
            self._minibatches,
        )

    @property
    def requirements(self) -> Requirements:
        """The genes, columns and values that the model requires of an AnnData."""
        found = self.data_summary_
        return Requirements(
            self.setup,
            self.likelihood,
            self.module.n_input,
            self.module.minified_data_type,
            None if found is None else profile.DataSummary.from_plain(found),
        )

    @contextmanager
    def reading(self, adata: AnnData | None = None) -> Iterator[AnnData]:
        """Validated cells, for a ``with`` block; if the block raises, the AnnData is restored.

        Parameters
        ----------
        adata
            The cells; ``None`` for the training data.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata, n_latent=4)
        >>> with model.reading() as cells:
        ...     cells.n_obs
        300
        """
        with self._unchanged_on_error(adata):
            yield self._validate_anndata(adata)

    # --- AnnData -----------------------------------------------------------------------------------

    def _validate_anndata(
        self, adata: AnnData | None = None, copy_if_view: bool = True, *, every_row: bool = True
    ) -> AnnData:
        """The AnnData (``None``: the model's own), after checking that the model can read it.

        An AnnData that was checked before is checked again: genes, registered slots, and values. If a loader
        reads the cells, some of the values suffice here (``every_row=False``), because
        :meth:`_make_data_loader` checks all values that are read.
        """
        if adata is None:
            adata = self.adata
        if adata is None:
            raise ValueError(
                "adata must be given, because this model was made or loaded without one; pass cells "
                "with its genes, such as BlockDataModule.to_memory gives."
            )
        checks.check_adata(adata)
        manager = self._manager_of(adata)
        if manager is not None and self._is_as_it_was(adata, manager, every_row):
            return adata
        return self._register(adata, copy_if_view)

    def _register(self, adata: AnnData, copy_if_view: bool) -> AnnData:
        """Check an AnnData that the model does not know, and write the codes of its columns."""
        self.requirements.check_cells(adata)
        with self._unchanged_on_error(adata), quiet_transfer():
            adata = super()._validate_anndata(adata, copy_if_view=copy_if_view)
        manager = self._manager_of(adata)
        if manager is not None:
            _forget_with(adata, self._managers, manager)
            layer = checks.resolve_layer(adata, self.setup.layer)
            manager.remember(checks.values_of(adata, layer), keep_rows=False)
        return adata

    def _is_as_it_was(self, adata: AnnData, manager: CellsManager, every_row: bool) -> bool:
        """Whether a registered AnnData is unchanged; raises if the model's own has changed.

        ``False`` means that it holds other cells now, which must be checked and registered again.
        """
        own = adata is self.adata
        if not manager.has_same_genes(adata):
            if not own:
                return self._forget(manager)
            checks.check_genes(
                adata,
                self.setup.genes,
                cure="the AnnData was changed after setup_anndata: undo that, or set up and train a new model",
            )
        layer = checks.resolve_layer(adata, self.setup.layer)
        for attribute, key in manager.slots:
            if key not in getattr(adata, attribute):
                if not own:
                    return self._forget(manager)
                raise ValueError(
                    f"adata.{attribute}[{key!r}], written by setup_anndata, is missing; call "
                    "setup_anndata again and create a new model, or pass a fresh copy as adata=."
                )
        if not manager.is_last():
            with self._unchanged_on_error(adata):
                manager.write_again()
        manager.restore_codes()
        values = checks.values_of(adata, layer)
        return manager.holds(values, every_row=every_row) or self._has_moved(adata, manager)

    def _has_moved(self, adata: AnnData, manager: CellsManager) -> bool:
        """Whether cells were only reordered or stored in another format.

        Raises
        ------
        ValueError
            If values of the model's own AnnData have changed.
        """
        layer = self.setup.layer
        values = checks.values_of(adata, layer)
        if not manager.keeps_rows:
            if adata is not self.adata:
                return self._forget(manager)
            self.requirements.check_cells(adata)
        else:
            changed = manager.changed_rows(values)
            if len(changed):
                raise ValueError(
                    f"{checks.where(layer)} must not change after the model is created, but "
                    f"{len(changed):,} of {adata.n_obs:,} cells have changed "
                    f"({shown(adata.obs_names[changed[:3]])}{', …' if len(changed) > 3 else ''}), "
                    "as scanpy's functions do in place; restore the values (keep counts in "
                    "adata.layers['counts']), or set up and train a new model."
                )
        manager.remember(values, keep_rows=False)
        return True

    def _forget(self, manager: CellsManager) -> bool:
        """Unregister an AnnData that is no longer what it was. Returns ``False``."""
        self._managers.pop(manager.adata_uuid, None)
        return False

    def _make_data_loader(
        self, adata: AnnData, indices: Any = None, *args: Any, **kwargs: Any
    ) -> Iterable[Minibatch]:
        """A loader of some cells, after checking that their values have not changed."""
        index = resolve_indices(adata, indices)
        manager = self._manager_of(adata)
        if manager is not None:
            values = checks.values_of(adata, self.setup.layer)
            if not manager.holds(values, index) and not self._has_moved(adata, manager):
                self._validate_anndata(adata)
        return super()._make_data_loader(adata, index, *args, **kwargs)

    def _update_adata_and_manager_post_minification(
        self, minified_adata: AnnData, minified_data_type: str
    ) -> None:
        """Tell the network that data are minified before scvi-tools passes such data to it."""
        before = self.module.minified_data_type
        self.module.minified_data_type = minified_data_type
        try:
            super()._update_adata_and_manager_post_minification(minified_adata, minified_data_type)
        except BaseException:
            self.module.minified_data_type = before
            raise

    def _warn_of_changed_columns(self, adata: AnnData) -> None:
        """Warn once if a column has changed since setup_anndata."""
        manager: CellsManager = self.get_anndata_manager(adata, required=True)
        for field in manager.unsaid_fields:
            state = manager.get_state_registry(field.registry_key)
            try:
                current = field.is_current(adata, state)
            except (TypeError, ValueError):  # values of mixed types, tuples, …
                current = False
            if not current:
                manager.said.add(field.registry_key)
                warn(
                    f"the columns of adata.obs that hold the {_WHAT[field.registry_key]} were "
                    "changed after setup_anndata; the model keeps using the values from setup. "
                    "Call setup_anndata again and create a new model to use the new ones."
                )

    def _minibatches(
        self, adata: AnnData, cells: np.ndarray, batch_size: int | None = None
    ) -> Iterable[dict[str, torch.Tensor]]:
        """A loader of some cells of a validated AnnData; positions must be in increasing order."""
        return self._make_data_loader(
            adata=adata,
            indices=cells,
            batch_size=batch_size or max(128, BLOCK_VALUES // self.module.n_input),
            load_sparse_tensor=self._counts_are_rows(adata),
        )

    def _counts_are_rows(self, adata: AnnData) -> bool:
        """Whether the loader passes sparse rows to the network, which then uses the fused likelihood."""
        manager: AnnDataManager = self.get_anndata_manager(adata, required=True)
        x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        return (
            self.module.supports_fused_nb
            and isinstance(x, sparse.csr_matrix)
            and x.has_canonical_format
        )

    # --- the model's own AnnData -------------------------------------------------------------------

    def _take(self, adata: AnnData, found: profile.DataProfile | None) -> None:
        """Remember the AnnData that the model is created with, to detect later changes of its values."""
        manager = self._manager_of(adata)
        if manager is None or found is None:
            return
        values = checks.values_of(adata, self.setup.layer)
        rounds = found.summary.kind == "near counts" and self.likelihood in COUNT_LIKELIHOODS
        if rounds and not manager.can_round(values):
            raise ValueError(
                f"{checks.where(self.setup.layer)} holds whole numbers apart from rounding errors, "
                "and is not in memory; store rounded values, or read it with adata.to_memory()."
            )
        manager.rounds = rounds
        manager.remember(values, keep_rows=True)

    def _enter_training(self, datamodule: Any = None) -> None:
        """Check all cells before training.

        Parameters
        ----------
        datamodule
            Source of the cells; ``None`` for the AnnData of the model.
        """
        if datamodule is not None:
            self.requirements.check_source(datamodule, "datamodule")
            if (
                getattr(datamodule, "is_checked", True) is False
            ):  # check the first cells only: that shows whether the values are counts
                some = np.arange(min(CELLS_LOOKED_AT, datamodule.n_obs))
                for _ in self.requirements.checked_minibatches(
                    datamodule.inference_dataloader(some)
                ):
                    break
            self.cell_hashes_ = None
            return
        if self.adata is None:
            raise ValueError(
                "this model was made from the registry of a datamodule, so it has no cells to train "
                "on; pass datamodule=."
            )
        adata = self._validate_anndata()
        if get_minify_type(adata) is not None:
            raise ValueError(
                "the CIVAE.train function does not support minified data, whose counts were "
                "removed; load the model with an AnnData that has them."
            )
        self._warn_of_changed_columns(adata)
        hashes = _hashes(adata.obs_names)
        if self.cell_hashes_ is not None and not np.array_equal(hashes, self.cell_hashes_):
            for name in ("train_indices_", "validation_indices_", "test_indices_"):
                setattr(self, name, self._positions(getattr(self, name)))
        self.cell_hashes_, self._split_names = hashes, adata.obs_names

    def _positions(self, stored: np.ndarray | None) -> np.ndarray | None:
        """Find the cells of the split in the AnnData, which may have been reordered since training."""
        if stored is None or self.adata is None or self.cell_hashes_ is None:
            return stored
        names = self.adata.obs_names
        if names.is_(self._split_names):
            return stored
        now = _hashes(names)
        if np.array_equal(now, self.cell_hashes_):
            self._split_names = names
            return stored
        index = pd.Index(now)
        if not index.is_unique:
            return np.asarray(stored)[:0]  # names are not unique, so positions cannot be found
        place = index.get_indexer(self.cell_hashes_[np.asarray(stored)])
        return np.sort(place[place >= 0])

    def _n_learned(self, adata: AnnData, index: np.ndarray) -> int:
        """How many of some cells the model was trained on: those of its own AnnData, or equal to them."""
        trained, own = self.train_indices, self.adata
        if trained is None or own is None or adata.isbacked or own.isbacked:
            return 0
        if adata is own:
            return int(np.isin(index, trained).sum())
        # Barcodes of two samples can be the same, so most numbers of counts must be, too.
        there = own.obs_names[trained].get_indexer_for(adata.obs_names[index])
        if len(there) != len(index) or not (there >= 0).any():
            return 0
        both = there >= 0
        given, known = (
            np.asarray(checks.values_of(x, self.setup.layer)[rows].sum(axis=1)).ravel()
            for x, rows in ((adata, index[both]), (own, np.asarray(trained)[there[both]]))
        )
        same = np.isclose(given, known)
        return int(same.sum()) if same.mean() > 0.5 else 0

    def _warn_without_classifier(self) -> None:
        """Warn if the classifier was not trained, so that what it says means nothing."""
        if self.module.discriminator_weight == 0:
            warn(
                "this model was made with discriminator_weight=0, so its classifier was not trained and its "
                "classes mean nothing; fit a classifier on get_latent_representation()."
            )

    @property
    def train_indices(self) -> np.ndarray | None:
        """Current positions of the training cells."""
        return self._positions(self.train_indices_)

    @train_indices.setter
    def train_indices(self, value: np.ndarray | None) -> None:
        self.train_indices_ = value

    @property
    def validation_indices(self) -> np.ndarray | None:
        """Current positions of the held-out cells."""
        return self._positions(self.validation_indices_)

    @validation_indices.setter
    def validation_indices(self, value: np.ndarray | None) -> None:
        self.validation_indices_ = value

    @property
    def test_indices(self) -> np.ndarray | None:
        """Current positions of the test cells."""
        return self._positions(self.test_indices_)

    @test_indices.setter
    def test_indices(self, value: np.ndarray | None) -> None:
        self.test_indices_ = value

    # --- managers of scvi-tools --------------------------------------------------------------------

    @property
    def _managers(self) -> dict[str, CellsManager]:
        """Managers of the AnnData that this model knows, by scvi-tools' identifier."""
        store: dict[str, dict] = type(self)._per_instance_manager_store
        return store.setdefault(self.id, {})

    def _manager_of(self, adata: AnnData) -> CellsManager | None:
        """The manager of this AnnData object, if the model knows it."""
        return next((m for m in self._managers.values() if m.adata is adata), None)

    def _unchanged_on_error(self, adata: Any) -> AbstractContextManager[None]:
        """Restore an AnnData (``None``: the model's own) if the block raises."""
        return checks.unchanged_on_error(self.adata if adata is None else adata, self._managers)


_WHAT = {
    REGISTRY_KEYS.LABELS_KEY: "labels",
    REGISTRY_KEYS.BATCH_KEY: "batches",
    REGISTRY_KEYS.CAT_COVS_KEY: "categorical covariates",
    REGISTRY_KEYS.CONT_COVS_KEY: "continuous covariates",
    REGISTRY_KEYS.SIZE_FACTOR_KEY: "size factors",
}


def _forget_with(adata: AnnData, store: dict[str, CellsManager], manager: CellsManager) -> None:
    """Remove a manager from a store once its AnnData is garbage collected."""
    uuid, number = manager.adata_uuid, manager.id

    def forget() -> None:
        if uuid in store and store[uuid].id == number:
            del store[uuid]

    weakref.finalize(adata, forget).atexit = False
