"""Requirements of a model for cells from an AnnData, a dataloader or a datamodule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from .. import _keys
from .._errors import shown
from .._scvi import get_minify_type
from . import checks, likelihoods, profile
from .setup import Setup, check_setup_arguments

Minibatch = dict[str, torch.Tensor]
# Most values that are checked in a minibatch of a custom loader.
VALUES_LOOKED_AT = 2**20
# Number of minibatches of a custom loader whose values are checked.
MINIBATCHES_LOOKED_AT = 4


class Requirements(NamedTuple):
    """The genes, columns and kind of values that a model can read.

    Attributes
    ----------
    setup
        Names and categories of the setup.
    likelihood
        Likelihood of the model.
    n_input
        Number of genes.
    minified
        Type of minification of the model's own AnnData; ``None`` if it is not minified.
    trained_on
        Summary of the values of training; ``None`` if unknown.
    """

    setup: Setup
    likelihood: str
    n_input: int
    minified: str | None
    trained_on: profile.DataSummary | None

    def check_cells(self, adata: AnnData) -> None:
        """Raise for the first invalid property of the cells; warn about suspicious ones."""
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
        self.check_minified(adata)
        self.check_values(adata)

    def check_minified(self, adata: AnnData) -> None:
        """Raise a ValueError if the model or the AnnData is minified, but not both."""
        of_adata, of_model = get_minify_type(adata), self.minified
        if of_adata == of_model:
            return
        if of_adata is not None:
            raise ValueError(
                "adata is minified (its counts were removed), but the AnnData of the model is "
                "not; pass the cells with their counts, or load the model with this AnnData: "
                "CIVAE.load(folder, adata)."
            )
        raise ValueError(
            "the AnnData of the model is minified (its counts were removed), but adata is not; "
            "load the model with an AnnData that has its counts, or pass minified cells."
        )

    def check_values(self, adata: AnnData) -> None:
        """Raise a ValueError for values that the model cannot read; warn about suspicious values."""
        layer = checks.resolve_layer(adata, self.setup.layer)
        if get_minify_type(adata) is not None:
            return
        summary = profile.summarize(checks.values_of(adata, layer))
        profile.check_finite(adata, layer, summary)
        likelihoods.check_values(adata, layer, summary, self.likelihood, training=False)
        if not _is_generated(adata):
            likelihoods.check_like_training(layer, summary, self.likelihood, self.trained_on)

    def check_source(self, source: Any, argument: str) -> None:
        """Raise a ValueError unless the setup of a datamodule is that of the model.

        Parameters
        ----------
        source
            The datamodule.
        argument
            Name of the argument, for the error.
        """
        registry = getattr(source, "registry", None)
        if not isinstance(registry, dict) or "field_registries" not in registry:
            return  # a custom datamodule, whose minibatches are checked instead
        theirs, ours = Setup.from_registry(registry), self.setup
        checks.check_genes(
            checks.Genes(theirs.genes),
            ours.genes,
            cure=f"make the {argument} of cells with these genes, by "
            "BlockDataModule(…, registry=model.registry)",
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
                    f"the {argument} must have the {what} of the model ({shown(b)}), got "
                    f"{shown(a)}; make it with BlockDataModule(…, registry=model.registry)."
                )
        if profile.PROFILE in registry:
            found = profile.DataProfile.from_plain(registry[profile.PROFILE])
            layer, likelihood = theirs.layer, self.likelihood
            likelihoods.check_values(found, layer, found.summary, likelihood, training=False)
            likelihoods.check_like_training(layer, found.summary, likelihood, self.trained_on)

    def checked_loader(self, dataloader: Any, **cells: Any) -> Iterable[Minibatch]:
        """Minibatches of a loader, with checks; raise if cells were given in another argument too."""
        for name, given in cells.items():
            if given is not None:
                raise ValueError(
                    f"dataloader replaces adata and indices, but {name} was given as well; pass only "
                    "one of them."
                )
        source: Any = getattr(dataloader, "data", None)
        if hasattr(source, "setup_"):
            self.check_source(source, "dataloader")
            if source.is_checked:
                return dataloader
        if not isinstance(dataloader, Iterable):
            raise TypeError(
                "dataloader must yield minibatches, as BlockDataModule.inference_dataloader does, "
                f"got {type(dataloader).__name__}; pass what that method returns."
            )
        return self.checked_minibatches(dataloader)

    def checked_minibatches(self, minibatches: Iterable[Minibatch]) -> _CheckedLoader:
        """A loader that checks each minibatch when it is used."""
        return _CheckedLoader(self, minibatches)


class _CheckedLoader:
    """Check minibatches of a custom loader before they are passed on."""

    def __init__(self, requirements: Requirements, loader: Iterable[Minibatch]):
        self.requirements, self.loader = requirements, loader

    def __iter__(self) -> Iterator[Minibatch]:
        for number, tensors in enumerate(self.loader):
            self._check(tensors, number)
            yield tensors

    def _check(self, tensors: Any, number: int) -> None:
        model, here = self.requirements, f"minibatch {number} of the dataloader"
        x = tensors.get(REGISTRY_KEYS.X_KEY) if isinstance(tensors, dict) else None
        if x is None or getattr(x, "ndim", 0) != 2:
            raise TypeError(
                "a dataloader must yield dicts of tensors with the values under 'X', as "
                f"BlockDataModule.inference_dataloader does, but {here} is "
                f"{type(tensors).__name__}; yield what that method yields."
            )
        if x.shape[1] != model.n_input:
            raise ValueError(
                f"a dataloader must yield the {model.n_input} genes of the model, but {here} "
                f"has {x.shape[1]}; select adata[:, model.get_var_names()] for it."
            )
        n_batches = len(model.setup.batches)
        batch = tensors.get(REGISTRY_KEYS.BATCH_KEY)
        if batch is not None and batch.numel() and int(batch.max()) >= n_batches:
            raise ValueError(
                f"a dataloader must yield codes of the {n_batches} batches of the model, but "
                f"{here} holds {int(batch.max())}; encode batches by their position in "
                "model.setup.batches."
            )
        if number >= MINIBATCHES_LOOKED_AT or model.minified is not None:
            return
        some = x[: max(1, VALUES_LOOKED_AT // x.shape[1])].to_dense().numpy(force=True)
        summary = profile.summarize(some)
        if summary.first_bad is None:  # the network raises an error for NaN and infinity
            rows = pd.RangeIndex(len(some)).astype(str)
            found = profile.DataProfile(summary, np.zeros(0), 1.0, [], rows, len(some))
            layer, likelihood = model.setup.layer, model.likelihood
            likelihoods.check_values(found, layer, summary, likelihood, training=False, here=here)


def _is_generated(adata: AnnData) -> bool:
    """Whether cells were generated by a model; their expected counts are not whole numbers."""
    return _keys.KIND in adata.obs or _keys.UNS in adata.uns
