"""Encode cells and decode latent points, in evaluation mode and with the seed of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.special
import torch
from anndata import AnnData

from .._progress import track
from .._quiet import quiet_about_sparse_tensors
from .._random import seeded, usual_torch
from .._validate.arguments import check_bool, check_integer
from .._validate.arrays import as_numbers
from ..data.checks import MAX_VALUE
from ..data.setup import Setup
from ..geometry import LinearClasses
from ..module import (
    CIVAEModule,
    Covariates,
    Posterior,
    decoded_blocks,
    encoded_minibatches,
    sample_blocks,
)

MIN_LIBRARY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Codec:
    """Encode cells and decode latent points, leaving modes and random states unchanged.

    Knows nothing of training or files.

    Attributes
    ----------
    module
        The network.
    setup
        Names and categories of the setup.
    seed
        Seed of the model.
    temperature
        Temperature by which logits are divided before the softmax.
    default_library
        Median library size (or size factor) of the training cells.
    minibatches
        Makes a loader from a validated AnnData, increasing positions of cells and a batch size.
    """

    module: CIVAEModule
    setup: Setup
    seed: int
    temperature: float
    default_library: float
    minibatches: Callable[[AnnData, np.ndarray, int | None], Iterable[dict[str, torch.Tensor]]]

    @contextmanager
    def evaluating(self) -> Iterator[CIVAEModule]:
        """The network in evaluation mode; it is put back into the mode it was in."""
        with usual_torch():
            training = self.module.training
            self.module.eval()
            try:
                yield self.module
            finally:
                self.module.train(training)

    @property
    def linear_classes(self) -> LinearClasses:
        """The discriminator as geometry, with weights ``(n_classes, n_latent)`` and biases."""
        layer = self.module.discriminator
        return LinearClasses(
            layer.weight.detach().cpu().numpy().astype(np.float64),
            layer.bias.detach().cpu().numpy().astype(np.float64),
        )

    def encode(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None = None
    ) -> Posterior:
        """Posterior, labels and covariates of some cells of a validated AnnData, in their order.

        Parameters
        ----------
        adata
            The cells.
        indices
            Positions, shape ``(n,)``, in any order.
        batch_size
            Cells in a minibatch.
        """
        # Loaders read files in sorted order, whatever the order asked for.
        cells, inverse = np.unique(indices, return_inverse=True)
        loader = self.minibatches(adata, cells, batch_size)
        return Posterior.concatenate(self.encode_loader(loader)).take(inverse)

    def encode_loader(self, loader: Iterable[dict[str, torch.Tensor]]) -> list[Posterior]:
        """Posterior, labels and covariates of each minibatch of a loader."""
        with self.evaluating() as module, seeded(self.seed), quiet_about_sparse_tensors():
            return list(
                encoded_minibatches(module, track(loader, "encoding cells", unit="batches"))
            )

    def class_codes(self, cells: Posterior) -> np.ndarray:
        """Codes of the classes of cells: the label, or the predicted class of an unlabeled cell."""
        predicted = self.linear_classes.predict(cells.mean)
        return np.where(cells.labels < len(self.setup.classes), cells.labels, predicted)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities after temperature scaling, shape ``(n, n_classes)``."""
        return scipy.special.softmax(logits / self.temperature, axis=1)

    def decode(
        self,
        z: np.ndarray,
        covariates: pd.DataFrame | None = None,
        *,
        library_size: float | np.ndarray | None = None,
        sample: bool = False,
        seed: int = 0,
    ) -> np.ndarray:
        """Expected values or samples at latent points; see :meth:`CIVAE.decode`."""
        check_bool("sample", sample)
        seed = check_integer("seed", seed, minimum=0)
        z = as_numbers("z", z)
        n_latent = self.module.n_latent
        if z.ndim != 2 or z.shape[1] != n_latent:
            raise ValueError(
                f"z must be of shape (n, {n_latent}), got {z.shape}; pass a single point as z[None]."
            )
        bad = ~(np.abs(z) <= MAX_VALUE)  # NaN is bad
        if bad.any():
            raise ValueError(f"z must be finite and within ±{MAX_VALUE:g}, got {z[bad][0]:g}.")
        z = z.astype(np.float32)
        log_library = self.log_library(library_size, len(z), default=self.default_library)
        given = self.setup.covariates_of(covariates, len(z), log_library)
        out = np.empty((len(z), self.module.n_input), dtype=np.float32)
        with self.evaluating() as module:
            for rows, values in self.blocks(
                module, z, given, rng=np.random.default_rng(seed) if sample else None
            ):
                out[rows] = values
        return out

    @staticmethod
    def blocks(
        module: CIVAEModule,
        z: np.ndarray,
        covariates: Covariates,
        *,
        rng: np.random.Generator | None,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Samples if a generator is given, else expected values, a block of rows at a time."""
        if rng is None:
            return decoded_blocks(module, z, covariates)
        return sample_blocks(module, z, covariates, rng=rng)

    def log_library(
        self, library_size: float | np.ndarray | None, n: int, *, default: float
    ) -> np.ndarray:
        """Log library sizes of n points, from the argument of the user or a default."""
        size = as_numbers("library_size", default if library_size is None else library_size)
        if size.ndim > 1 or (size.ndim == 1 and len(size) != n):
            raise ValueError(
                f"library_size must be one number or of shape ({n},), got shape {size.shape}; pass "
                "one for each point."
            )
        bad = ~((size >= MIN_LIBRARY) & (size <= MAX_VALUE))  # NaN is bad
        if bad.any():
            raise ValueError(
                f"library_size must be positive and at most {MAX_VALUE:g}, got {size[bad][0]:g}."
            )
        return np.broadcast_to(np.log(size), (n,))
