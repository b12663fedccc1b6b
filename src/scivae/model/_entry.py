"""The one check that cells pass on their way into a model: an AnnData, a dataloader or a datamodule."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from .. import _keys
from .._errors import check_choice, check_type, near_matches, shown, warn
from .._names import as_objects
from .._quiet import quiet_transfer
from .._scvi import ADATA_MINIFY_TYPE, get_minify_type
from ..data import checks, likelihoods, profile
from ..data.cells import resolve_indices
from ..data.manager import CellsManager
from ..data.setup import Setup, check_setup_arguments
from ..module import COUNT_LIKELIHOODS
from ._generation import GenerationMixin

Minibatch = dict[str, torch.Tensor]
# Cells that are encoded to see whether a posterior is that of the model.
CELLS_ENCODED = 64
# Values of a minibatch of somebody else's loader that are looked at, at most.
VALUES_LOOKED_AT = 2**20
# Cells of a datamodule that was not checked that are looked at before training.
CELLS_LOOKED_AT = 512
# Minibatches of it whose values are looked at.
MINIBATCHES_LOOKED_AT = 4


def _hashes(names: pd.Index) -> np.ndarray:
    """A number of each name, the same in any process and version, shape ``(n,)``."""
    return pd.util.hash_array(as_objects(names.astype(str)), categorize=False)


class EntryMixin(GenerationMixin):
    """How ``CIVAE`` takes cells."""

    cell_hashes_: np.ndarray | None = None
    """A number of each cell's name, in the order in which training saw them."""

    data_summary_: dict[str, Any] | None = None
    """What is known of the values of the cells that the model was made on."""

    _split_names: pd.Index | None = None

    # --- AnnData -----------------------------------------------------------------------------------

    def _validate_anndata(
        self, adata: AnnData | None = None, copy_if_view: bool = True, *, every_row: bool = True
    ) -> AnnData:
        """The AnnData (``None``: the model's own), once it is sure that the model can read it.

        An AnnData that was seen before is looked at again: genes, registered slots, and values. Where
        loaders read the cells, some of the values are enough (``every_row=False``): those of the cells
        that are read are looked at in :meth:`_make_data_loader`.
        """
        if adata is None:
            adata = self.adata
        if adata is None:
            raise ValueError(
                "this model was made or loaded without an AnnData; pass adata= with cells that have "
                "its genes, such as BlockDataModule.to_memory gives."
            )
        checks.check_adata(adata)
        manager = self._manager_of(adata)
        if manager is not None and self._is_as_it_was(adata, manager, every_row):
            return adata
        return self._register(adata, copy_if_view)

    def _check_cells(self, adata: AnnData) -> None:
        """Raise the first error that cells give rise to, and warn of what may be one."""
        setup = self.setup
        checks.check_shape(adata)
        checks.check_genes(adata, setup.genes)
        check_setup_arguments(
            adata,
            batch_key=setup.batch_key,
            size_factor_key=setup.size_factor_key,
            categorical_covariate_keys=list(setup.categorical),
            continuous_covariate_keys=list(setup.continuous),
        )
        self._check_minified(adata)
        self._check_values(adata)

    def _check_values(self, adata: AnnData) -> None:
        """Raise a ValueError for values that the model cannot read, and warn of those that are odd."""
        layer = checks.resolve_layer(adata, self.setup.layer)
        if get_minify_type(adata) is not None:
            return
        summary = profile.summarize(checks.values_of(adata, layer))
        profile.check_finite(adata, layer, summary)
        likelihoods.check_values(adata, layer, summary, self.likelihood, training=False)
        if not _is_generated(adata):
            likelihoods.check_like_training(layer, summary, self.likelihood, self._trained_on)

    def _register(self, adata: AnnData, copy_if_view: bool) -> AnnData:
        """Check cells that the model has not seen, and write the codes of their columns."""
        self._check_cells(adata)
        with self._unchanged_on_error(adata), quiet_transfer():
            adata = super()._validate_anndata(adata, copy_if_view=copy_if_view)
        manager = self._manager_of(adata)
        if manager is not None:
            _forget_with(adata, self._managers, manager)
            layer = checks.resolve_layer(adata, self.setup.layer)
            manager.remember(checks.values_of(adata, layer), keep_rows=False)
        return adata

    def _is_as_it_was(self, adata: AnnData, manager: CellsManager, every_row: bool) -> bool:
        """Whether an AnnData that was registered still holds; raise where the model's own does not.

        ``False``: these are other cells now, and are to be checked and registered as such.
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
                    f"adata.{attribute}[{key!r}], which setup_anndata wrote, is gone; call "
                    "setup_anndata again and make the model anew, or pass a fresh copy as adata=."
                )
        if not manager.is_last():
            with self._unchanged_on_error(adata):
                manager.write_again()
        values = checks.values_of(adata, layer)
        return manager.holds(values, every_row=every_row) or self._has_moved(adata, manager)

    def _has_moved(self, adata: AnnData, manager: CellsManager) -> bool:
        """Whether cells have only changed places, or are stored in another way, if memory differs.

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
            self._check_cells(adata)
        else:
            changed = manager.changed_rows(values)
            if len(changed):
                raise ValueError(
                    f"{checks.where(layer)} must hold what it held when the model was made, but "
                    f"{len(changed):,} of {adata.n_obs:,} cells have changed "
                    f"({shown(adata.obs_names[changed[:3]])}{', …' if len(changed) > 3 else ''}), as "
                    "scanpy's functions do in place; put the values back (keep counts in adata.layers['counts']), or set up and train a new "
                    "model."
                )
        manager.remember(values, keep_rows=False)
        return True

    def _forget(self, manager: CellsManager) -> bool:
        """Unregister an AnnData that is no longer what it was. Returns ``False``."""
        self._managers.pop(manager.adata_uuid, None)
        return False

    def _check_minified(self, adata: AnnData) -> None:
        """Raise a ValueError where either the model or the AnnData is minified, but not both."""
        of_adata, of_model = get_minify_type(adata), self.module.minified_data_type
        if of_adata == of_model:
            return
        if of_adata is not None:
            raise ValueError(
                "adata is minified (its counts were removed), but the AnnData of the model is not; pass "
                "the cells with their counts, or load the model with this AnnData: CIVAE.load(folder, adata)."
            )
        raise ValueError(
            "the AnnData of the model is minified (its counts were removed), but adata is not; load the "
            "model with an AnnData that has its counts, or pass minified cells."
        )

    def _make_data_loader(
        self, adata: AnnData, indices: Any = None, *args: Any, **kwargs: Any
    ) -> Iterable[Minibatch]:
        """Minibatches of some cells, whose values are as they were when they were checked."""
        index = resolve_indices(adata, indices)
        manager = self._manager_of(adata)
        if manager is not None and not manager.minified:
            values = checks.values_of(adata, self.setup.layer)
            if not manager.holds(values, index) and not self._has_moved(adata, manager):
                self._validate_anndata(adata)
        return super()._make_data_loader(adata, index, *args, **kwargs)  # type: ignore[misc]

    def minify_adata(
        self,
        minified_data_type: str = ADATA_MINIFY_TYPE.LATENT_POSTERIOR,
        use_latent_qzm_key: str = "X_latent_qzm",
        use_latent_qzv_key: str = "X_latent_qzv",
    ) -> None:
        """Give the model a copy of its AnnData with posteriors in place of counts.

        As :meth:`scvi.model.SCVI.minify_adata`, once it is sure that the posteriors are of this model.

        Parameters
        ----------
        minified_data_type
            ``"latent_posterior_parameters"``, or ``"latent_posterior_parameters_with_counts"``.
        use_latent_qzm_key, use_latent_qzv_key
            Slots of ``obsm`` with the means and the variances of the posterior, as
            ``get_latent_representation(return_dist=True)`` gives them.

        Raises
        ------
        KeyError
            If a slot is not there.
        ValueError
            If it holds something else.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata, n_latent=4)
        >>> model.train(max_epochs=2, enable_progress_bar=False)
        >>> mean, variance = model.get_latent_representation(return_dist=True)
        >>> adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = mean, variance
        >>> model.minify_adata()
        >>> model.minified_data_type
        'latent_posterior_parameters'
        """
        check_choice("minified_data_type", minified_data_type, tuple(ADATA_MINIFY_TYPE))
        adata = self._validate_anndata()
        if get_minify_type(adata) is not None:
            raise ValueError("the AnnData of the model is minified already.")
        some = np.unique(np.linspace(0, adata.n_obs - 1, CELLS_ENCODED).astype(int))
        posterior = self.get_latent_representation(indices=some, return_dist=True)  # type: ignore[attr-defined]
        for argument, key, expected in (
            ("use_latent_qzm_key", use_latent_qzm_key, posterior[0]),
            ("use_latent_qzv_key", use_latent_qzv_key, posterior[1]),
        ):
            if key not in adata.obsm:
                raise KeyError(
                    f"{argument} must be a key of adata.obsm, got {key!r}; those there are: "
                    f"{shown(adata.obsm.keys()) or 'none'}.{near_matches(key, adata.obsm.keys())}"
                )
            found = np.asarray(adata.obsm[key])
            if found.shape != (adata.n_obs, expected.shape[1]) or not np.allclose(
                found[some], expected, rtol=1e-3, atol=1e-4
            ):
                raise ValueError(
                    f"adata.obsm[{key!r}] must hold the posterior of this model; set it, and that of the "
                    "other slot, to what model.get_latent_representation(return_dist=True) returns."
                )
        super().minify_adata(minified_data_type, use_latent_qzm_key, use_latent_qzv_key)  # type: ignore[misc]

    def _update_adata_and_manager_post_minification(
        self, minified_adata: AnnData, minified_data_type: str
    ) -> None:
        """Let the network expect what scvi-tools is about to hand over."""
        before = self.module.minified_data_type
        self.module.minified_data_type = minified_data_type
        try:
            super()._update_adata_and_manager_post_minification(  # type: ignore[misc]
                minified_adata, minified_data_type
            )
        except BaseException:
            self.module.minified_data_type = before
            raise

    def _warn_of_changed_columns(self, adata: AnnData) -> None:
        """Warn, once, where a column does not say what was registered, in methods that go by it."""
        manager = self._manager_of(adata)
        if manager is None:
            return
        for field in manager.fields:
            state = manager.get_state_registry(field.registry_key)
            if field.is_empty or not hasattr(field, "is_current"):
                continue
            if field.registry_key in manager.said:
                continue
            try:
                current = field.is_current(adata, state)
            except (TypeError, ValueError):  # values that no column of a setup may hold
                current = False
            if not current:
                manager.said.add(field.registry_key)
                warn(
                    f"the columns of adata.obs that hold the {_WHAT[field.registry_key]} were changed "
                    "after setup_anndata; the model goes on with what was set up. Call setup_anndata "
                    "again and make the model anew to use the new ones."
                )

    def transfer_fields(self, adata: AnnData, **kwargs: Any) -> AnnDataManager:
        """Write the codes of the columns of other cells, by the categories of the model.

        Parameters
        ----------
        adata
            Cells with the genes of the model.
        **kwargs
            ``extend_categories=True`` allows new batches and categories.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata, n_latent=4)
        >>> other = scivae.datasets.synthetic(n_cells=100, n_genes=40, seed=1)
        >>> model.transfer_fields(other).adata is other
        True
        """
        checks.check_adata(adata)
        checks.check_shape(adata)
        checks.check_genes(adata, self.setup.genes)
        checks.resolve_layer(adata, self.setup.layer)
        with self._unchanged_on_error(adata):
            return super().transfer_fields(adata, **kwargs)  # type: ignore[misc]

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray:
        """Genes of the model, in its order, shape ``(n_vars,)``, whatever has become of the AnnData.

        Parameters
        ----------
        legacy_mudata_format
            Of no effect.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> scivae.model.CIVAE(adata, n_latent=4).get_var_names()[:2].tolist()
        ['gene_0', 'gene_1']
        """
        return as_objects(str(gene) for gene in self.setup.genes)

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """Print what the model was set up on.

        Parameters
        ----------
        hide_state_registries
            Leave out classes, batches and categories.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> scivae.model.CIVAE(adata, n_latent=4).view_registry()  # doctest: +ELLIPSIS
        Anndata setup with scvi-tools version ...
        """
        if self.adata is None:
            raise ValueError(
                "this model has no AnnData, whose registry could be shown; see model.setup."
            )
        self.adata_manager.view_registry(hide_state_registries)

    def view_setup_method_args(self) -> None:
        """Print the arguments of the setup.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> scivae.model.CIVAE(adata, n_latent=4).view_setup_method_args()  # doctest: +ELLIPSIS
        Setup via `CIVAE.setup_anndata` with arguments:
        ...
        """
        CellsManager.view_setup_method_args(self.registry_)

    def update_setup_method_args(self, setup_method_args: dict[str, Any]) -> None:
        """Change what the registry says of the arguments of the setup.

        Parameters
        ----------
        setup_method_args
            Arguments of :meth:`CIVAE.setup_anndata`.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata, n_latent=4)
        >>> model.update_setup_method_args({"labels_key": "cell_type"})
        """
        check_type("setup_method_args", setup_method_args, dict, "a dict of arguments")
        arguments = self.registry_["setup_args"]
        for name in setup_method_args:
            if name not in arguments:
                raise TypeError(
                    f"setup_method_args must be arguments of CIVAE.setup_anndata, but {name!r} is none."
                    f"{near_matches(name, arguments)}"
                )
        arguments.update(setup_method_args)

    # --- the model's own AnnData -------------------------------------------------------------------

    def _take(self, adata: AnnData, found: profile.Found | None) -> None:
        """Take note of the AnnData that the model is made on."""
        manager = self._manager_of(adata)
        if manager is None or found is None:
            return
        values = checks.values_of(adata, self.setup.layer)
        rounds = found.summary.kind == "near counts" and self.likelihood in COUNT_LIKELIHOODS
        if rounds and not manager.can_round(values):
            raise ValueError(
                f"{checks.where(self.setup.layer)} holds whole numbers but for rounding errors, and is "
                "not in memory; write it anew with rounded values, or read it with adata.to_memory()."
            )
        manager.rounds = rounds
        manager.remember(values, keep_rows=True)

    def _enter_training(self, datamodule: Any = None) -> None:
        """Check the cells that are to be trained on, all of them.

        Parameters
        ----------
        datamodule
            Where they come from; ``None`` for the AnnData of the model.
        """
        if datamodule is not None:
            self._check_source(datamodule, "datamodule")
            if (
                getattr(datamodule, "is_checked", True) is False
            ):  # not all, but whether they are counts
                some = np.arange(min(CELLS_LOOKED_AT, datamodule.n_obs))
                for _ in self._checked_minibatches(datamodule.inference_dataloader(some)):
                    break
            self.cell_hashes_ = None
            return
        if self.adata is None:
            raise ValueError(
                "this model was made from the registry of a datamodule; pass datamodule= to train."
            )
        adata = self._validate_anndata()
        if get_minify_type(adata) is not None:
            raise ValueError(
                "the CIVAE.train function does not support minified data, whose counts were removed; "
                "load the model with an AnnData that has them."
            )
        self._warn_of_changed_columns(adata)
        hashes = _hashes(adata.obs_names)
        if self.cell_hashes_ is not None and not np.array_equal(hashes, self.cell_hashes_):
            for name in ("train_indices_", "validation_indices_", "test_indices_"):
                setattr(self, name, self._positions(getattr(self, name)))
        self.cell_hashes_, self._split_names = hashes, adata.obs_names

    def _positions(self, stored: np.ndarray | None) -> np.ndarray | None:
        """Where cells of the split lie now, should the cells of the AnnData have changed places."""
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
            return np.asarray(stored)[:0]  # nobody can tell which these were
        place = index.get_indexer(self.cell_hashes_[np.asarray(stored)])
        return np.sort(place[place >= 0])

    @property
    def train_indices(self) -> np.ndarray | None:
        """Positions of the cells that were trained on, where they lie now."""
        return self._positions(self.train_indices_)

    @train_indices.setter
    def train_indices(self, value: np.ndarray | None) -> None:
        self.train_indices_ = value

    @property
    def validation_indices(self) -> np.ndarray | None:
        """Positions of the cells that training held out, where they lie now."""
        return self._positions(self.validation_indices_)

    @validation_indices.setter
    def validation_indices(self, value: np.ndarray | None) -> None:
        self.validation_indices_ = value

    @property
    def test_indices(self) -> np.ndarray | None:
        """Positions of the cells that training left aside, where they lie now."""
        return self._positions(self.test_indices_)

    @test_indices.setter
    def test_indices(self, value: np.ndarray | None) -> None:
        self.test_indices_ = value

    @property
    def _trained_on(self) -> profile.DataSummary | None:
        """What is known of the values of training."""
        found = self.data_summary_
        return None if found is None else profile.DataSummary.from_plain(found)

    # --- dataloaders and datamodules -----------------------------------------------------------------

    def _checked_loader(self, dataloader: Any) -> Iterable[Minibatch]:
        """Minibatches of a loader, once it is sure that the model can read them."""
        source: Any = getattr(dataloader, "data", None)
        if hasattr(source, "setup_"):
            self._check_source(source, "dataloader")
            if source.is_checked:
                return dataloader
        if not isinstance(dataloader, Iterable):
            raise TypeError(
                "dataloader must yield minibatches, as BlockDataModule.inference_dataloader does, got "
                f"{type(dataloader).__name__}."
            )
        return self._checked_minibatches(dataloader)

    def _checked_minibatches(self, minibatches: Iterable[Minibatch]) -> _CheckedLoader:
        """Minibatches that nobody has looked at, which are looked at as they come."""
        return _CheckedLoader(self, minibatches)

    def _check_source(self, source: Any, argument: str) -> None:
        """Raise a ValueError unless a datamodule reads cells as the model does.

        Parameters
        ----------
        source
            The datamodule.
        argument
            What it is called in an error.
        """
        registry = getattr(source, "registry", None)
        if not isinstance(registry, dict) or "field_registries" not in registry:
            return  # of somebody else: its minibatches are checked
        theirs, ours = Setup.from_registry(registry), self.setup
        checks.check_genes(
            checks.Genes(theirs.genes),
            ours.genes,
            cure=f"make the {argument} of cells with these genes, by BlockDataModule(…, registry=model.registry)",
        )
        for what, a, b in (
            ("classes", theirs.classes, ours.classes),
            ("batches", theirs.batches, ours.batches),
            ("categorical covariates", theirs.categories, ours.categories),
            ("continuous covariates", theirs.continuous, ours.continuous),
            ("scale of the covariates", theirs.scaling, ours.scaling),
        ):
            if list(a) != list(b):
                raise ValueError(
                    f"the {argument} must have the {what} of the model ({shown(b)}), got {shown(a)}; make "
                    "it with BlockDataModule(…, registry=model.registry)."
                )
        if profile.FOUND in registry:
            found = profile.Found.from_plain(registry[profile.FOUND])
            layer, likelihood = theirs.layer, self.likelihood
            likelihoods.check_values(found, layer, found.summary, likelihood, training=False)
            likelihoods.check_like_training(layer, found.summary, likelihood, self._trained_on)

    # --- what scvi-tools keeps ---------------------------------------------------------------------

    @property
    def _managers(self) -> dict[str, CellsManager]:
        """Managers of the AnnData that this model knows, by what scvi-tools calls them."""
        store: dict[str, dict] = type(self)._per_instance_manager_store  # type: ignore[attr-defined]
        return store.setdefault(self.id, {})  # type: ignore[attr-defined]

    def _manager_of(self, adata: AnnData) -> CellsManager | None:
        """The manager of this very AnnData, if the model knows it."""
        return next((m for m in self._managers.values() if m.adata is adata), None)

    def _unchanged_on_error(self, adata: Any) -> AbstractContextManager[None]:
        """Put an AnnData (``None``: the model's own) back as it was if the block raises."""
        adata = self.adata if adata is None else adata
        if not isinstance(adata, AnnData) or adata.is_view:
            return nullcontext()
        return checks.unchanged_on_error(adata, self._managers)

    @classmethod
    def register_manager(cls, adata_manager: CellsManager) -> None:
        """Note a manager for the model that is to be made; it is forgotten with its AnnData.

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
        super().register_manager(adata_manager)  # type: ignore[misc]
        if adata_manager.adata is not None:
            store = cls._setup_adata_manager_store  # type: ignore[attr-defined]
            _forget_with(adata_manager.adata, store, adata_manager)


class _CheckedLoader:
    """Minibatches of somebody else, which are looked at before they are handed on."""

    def __init__(self, model: Any, loader: Iterable[Minibatch]):
        self.model, self.loader = model, loader

    def __iter__(self) -> Iterator[Minibatch]:
        for number, tensors in enumerate(self.loader):
            self._check(tensors, number)
            yield tensors

    def _check(self, tensors: Any, number: int) -> None:
        model, here = self.model, f"minibatch {number} of the dataloader"
        x = tensors.get(REGISTRY_KEYS.X_KEY) if isinstance(tensors, dict) else None
        if x is None or getattr(x, "ndim", 0) != 2:
            raise TypeError(
                "a dataloader must yield dicts of tensors with the values under 'X', as "
                f"BlockDataModule.inference_dataloader does, but {here} is {type(tensors).__name__}."
            )
        if x.shape[1] != model.module.n_input:
            raise ValueError(
                f"a dataloader must yield the {model.module.n_input} genes of the model, but {here} "
                f"has {x.shape[1]}."
            )
        n_batches = len(model.setup.batches)
        batch = tensors.get(REGISTRY_KEYS.BATCH_KEY)
        if batch is not None and batch.numel() and int(batch.max()) >= n_batches:
            raise ValueError(
                f"a dataloader must yield codes of the {n_batches} batches of the model, but {here} "
                f"holds {int(batch.max())}."
            )
        if number >= MINIBATCHES_LOOKED_AT or model.module.minified_data_type is not None:
            return
        some = x[: max(1, VALUES_LOOKED_AT // x.shape[1])].to_dense().numpy(force=True)
        summary = profile.summarize(some)
        if summary.first_bad is None:  # the network tells of those
            rows = pd.RangeIndex(len(some)).astype(str)
            found = profile.Found(summary, np.zeros(0), 1.0, [], rows, len(some))
            layer, likelihood = model.setup.layer, model.likelihood
            likelihoods.check_values(found, layer, summary, likelihood, training=False, here=here)


_WHAT = {
    REGISTRY_KEYS.LABELS_KEY: "labels",
    REGISTRY_KEYS.BATCH_KEY: "batches",
    REGISTRY_KEYS.CAT_COVS_KEY: "categorical covariates",
    REGISTRY_KEYS.CONT_COVS_KEY: "continuous covariates",
    REGISTRY_KEYS.SIZE_FACTOR_KEY: "size factors",
}


def _is_generated(adata: AnnData) -> bool:
    """Whether cells were made by a model, whose expected counts are not whole numbers."""
    return _keys.KIND in adata.obs or _keys.UNS in adata.uns


def _forget_with(adata: AnnData, store: dict[str, CellsManager], manager: CellsManager) -> None:
    """Take a manager out of a store once nobody holds its AnnData any more."""
    uuid, number = manager.adata_uuid, manager.id

    def forget() -> None:
        if uuid in store and store[uuid].id == number:
            del store[uuid]

    weakref.finalize(adata, forget).atexit = False
