"""What every method that makes cells shares, and the decoder itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi.data import AnnDataManager

from .. import _keys
from .._errors import as_numbers, check_bool, check_integer, check_key
from ..data import checks
from ..data.columns import column_like
from ..data.generated import assemble
from ..data.setup import Setup
from ..geometry import LinearClasses
from ..module import COUNT_LIKELIHOODS, CIVAEModule
from ..module._coding import decoded_blocks, sample_blocks
from ..module._covariates import Encoded

MIN_LIBRARY = float(np.finfo(np.float32).tiny)


class GenerationMixin:
    """Decoding, and what interpolation and augmentation share; mixed into ``CIVAE``."""

    if TYPE_CHECKING:  # what the model class brings
        _seed: int
        adata: AnnData | None
        adata_manager: AnnDataManager
        module: CIVAEModule
        default_library_: float
        registry_: dict[str, Any]
        init_params_: dict[str, Any]
        train_indices: np.ndarray | None
        validation_indices: np.ndarray | None
        test_indices: np.ndarray | None
        cell_hashes_: np.ndarray | None
        history_: Any

        @property
        def setup(self) -> Setup: ...
        @property
        def classes(self) -> np.ndarray: ...
        @property
        def linear_classes(self) -> LinearClasses: ...
        @property
        def likelihood(self) -> str: ...
        def _require_trained(self) -> None: ...
        def _validate_anndata(
            self,
            adata: AnnData | None = None,
            copy_if_view: bool = True,
            *,
            every_row: bool = True,
        ) -> AnnData: ...
        def _check_source(self, source: Any, argument: str) -> None: ...
        def _checked_loader(self, dataloader: Any) -> Iterable: ...
        def _checked_minibatches(self, minibatches: Iterable) -> Iterable: ...
        def _enter_training(self, datamodule: Any = None) -> None: ...
        def _warn_of_changed_columns(self, adata: AnnData) -> None: ...
        def _evaluating(self) -> AbstractContextManager[CIVAEModule]: ...
        def _encode(
            self, adata: AnnData, indices: np.ndarray, batch_size: int | None = None
        ) -> Encoded: ...
        def _minibatches(
            self, adata: AnnData, cells: np.ndarray, batch_size: int | None = None
        ) -> Iterable[dict[str, torch.Tensor]]: ...
        def _encode_all(self, loader: Iterable[dict[str, torch.Tensor]]) -> list[Encoded]: ...
        def _probabilities(self, logits: np.ndarray) -> np.ndarray: ...

    def decode(
        self,
        z: np.ndarray,
        covariates: pd.DataFrame | None = None,
        *,
        library_size: float | np.ndarray | None = None,
        sample: bool = False,
        seed: int = 0,
    ) -> np.ndarray:
        """Cells at latent points.

        Parameters
        ----------
        z
            Latent points, shape ``(n, n_latent)``.
        covariates
            One row a point, with columns of the setup (batch, categorical and continuous
            covariates, in their own units). Those left out take their first category; continuous
            ones the mean of the cells of the setup.
        library_size
            Counts of each cell, one number or shape ``(n,)`` (the size factor, where the model was
            set up with one); ``None`` for the median of the training cells. Of no effect on
            continuous data.
        sample
            Draw from the likelihood instead of taking its mean. Only samples may be set beside real
            cells in gene space: the log of a mean is not the mean of logs.
        seed
            Seed of the samples.

        Returns
        -------
        Expected values or samples in the units of the layer that was modelled, float32, shape
        ``(n, n_vars)``.

        Raises
        ------
        ValueError
            If shapes do not match, or points are not finite.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.pbmc()
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata)
        >>> model.train(max_epochs=2, enable_progress_bar=False)
        >>> z = model.get_latent_representation(indices=[0, 1])
        >>> model.decode(z, library_size=1000.0).sum(axis=1).round()
        array([1000., 1000.], dtype=float32)
        """
        self._require_trained()
        check_bool("sample", sample)
        seed = check_integer("seed", seed, minimum=0)
        z = as_numbers("z", z)
        n_latent = self.module.n_latent
        if z.ndim != 2 or z.shape[1] != n_latent:
            raise ValueError(f"z must be of shape (n, {n_latent}), got {z.shape}.")
        bad = ~(np.abs(z) <= checks.MAX_VALUE)  # NaN is bad
        if bad.any():
            raise ValueError(
                f"z must be finite and within ±{checks.MAX_VALUE:g}, got {z[bad][0]:g}."
            )
        z = z.astype(np.float32)
        log_library = self._log_library(library_size, len(z), default=self.default_library_)
        conditions = self.setup.conditions(covariates, len(z), log_library)
        out = np.empty((len(z), self.module.n_input), dtype=np.float32)
        with self._evaluating() as module:
            blocks = (
                sample_blocks(module, z, conditions, rng=np.random.default_rng(seed))
                if sample
                else decoded_blocks(module, z, conditions)
            )
            for rows, values in blocks:
                out[rows] = values
        return out

    def _log_library(
        self, library_size: float | np.ndarray | None, n: int, *, default: float
    ) -> np.ndarray:
        """Log library sizes of n points, from what a user gave or a default."""
        size = as_numbers("library_size", default if library_size is None else library_size)
        if size.ndim > 1 or (size.ndim == 1 and len(size) != n):
            raise ValueError(
                f"library_size must be one number or of shape ({n},), got shape {size.shape}."
            )
        bad = ~((size >= MIN_LIBRARY) & (size <= checks.MAX_VALUE))  # NaN is bad
        if bad.any():
            raise ValueError(
                f"library_size must be positive and at most {checks.MAX_VALUE:g}, got {size[bad][0]:g}."
            )
        return np.broadcast_to(np.log(size), (n,))

    def _check_uns(self, adata: AnnData, key_added: str | None) -> None:
        """Raise unless ``adata.uns[key_added]`` is free, or scivae's own."""
        if key_added is None:
            return
        check_key("key_added", key_added)
        taken = adata.uns.get(key_added, {})
        keys = set(taken) if isinstance(taken, Mapping) else None
        if (
            keys is None
            or not (keys <= _keys.UNS_ENTRIES or keys >= _keys.PROVENANCE)
            or not isinstance(taken.get(_keys.PATHS, {}), Mapping)
        ):
            raise ValueError(
                f"adata.uns[{key_added!r}] already holds something else; pass another key_added."
            )

    def _class_column(self, adata: AnnData, codes: np.ndarray) -> Any:
        """Classes by their codes, in the type of the labels of the real cells."""
        setup = self.setup
        kind = pd.CategoricalDtype(pd.Index(setup.classes).infer_objects(), setup.ordered)
        values = pd.Categorical.from_codes(codes, dtype=kind)
        return column_like(values, adata.obs.get(setup.labels_key))

    def _categories(self, obs: pd.DataFrame) -> pd.DataFrame:
        """Make the columns of text categorical."""
        for column in (_keys.KIND, _keys.PATH, _keys.SOURCE, _keys.TARGET):
            if column in obs:
                obs[column] = pd.Categorical(obs[column])
        return obs

    def _assemble(
        self,
        adata: AnnData,
        values: Any,
        obs: pd.DataFrame,
        latent: np.ndarray,
        uns: dict[str, Any],
        layers: dict[str, np.ndarray] | None = None,
    ) -> AnnData:
        """AnnData of generated cells on the genes of the model, with what ``adata`` says of these."""
        return assemble(
            values,
            real=adata,
            setup=self.setup,
            obs=obs,
            latent=latent,
            counts=self.likelihood in COUNT_LIKELIHOODS,
            uns=uns,
            layers=layers,
        )
