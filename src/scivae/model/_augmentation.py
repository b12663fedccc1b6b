"""More cells of a class."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from .. import _keys
from .._errors import check_bool, check_choice, check_integer, check_number
from .._progress import advance, progress
from ..module import COUNT_LIKELIHOODS
from . import _checks
from ._decoding import (
    Conditions,
    decoded_blocks,
    encode_values,
    interpolate_conditions,
    sample_blocks,
)
from ._generated import provenance
from ._generation import GenerationMixin
from ._random import seeded

# Fewer held-out cells than this say little about what 95 % of a class reach.
MIN_HELD_OUT = 20
ACCEPTED_QUANTILE = 0.05
# Cells drawn for each cell asked for, before augmentation gives up.
MAX_DRAWS = 100
DRAWS_PER_ROUND = 4096


class Augmented(NamedTuple):
    """Cells made of one class.

    Attributes
    ----------
    values
        Shape ``(n, n_vars)``, CSR for sampled counts.
    latent
        Shape ``(n, n_latent)``.
    obs
        Their annotation.
    summary
        Yield and threshold.
    """

    values: Any
    latent: np.ndarray
    obs: pd.DataFrame
    summary: dict[str, Any]


def _stacked(blocks: Sequence[Any]) -> Any:
    """Rows of all blocks, CSR where they are sparse."""
    if sparse.issparse(blocks[0]):
        return sparse.vstack(blocks, format="csr")
    return np.concatenate(blocks)


class AugmentationMixin(GenerationMixin):
    """The method ``augment`` of ``CIVAE``."""

    @_checks.leaves_unchanged
    def augment(
        self,
        label: Any,
        n: int | None = None,
        *,
        method: Literal["linear"] = "linear",
        sample: bool = True,
        min_confidence: float | None = None,
        adata: AnnData | None = None,
        key_added: str | None = _keys.KEY_ADDED,
        seed: int = 0,
    ) -> AnnData:
        """Make more cells of a class.

        Every cell lies at a random place on the straight line between two real cells of the class,
        drawn anew for it (Section 2.2 of the paper), and is accepted only if, decoded and encoded
        again, the discriminator still sees the class, with a probability of at least
        ``min_confidence``.

        Parameters
        ----------
        label
            A class, or ``{class: n}``.
        n
            Number of cells; left out where ``label`` is a dict.
        method
            How two cells are joined.
        sample
            Draw cells from the likelihood; ``False`` takes expected values.
        min_confidence
            Probability that a cell must reach. ``None``: what 95 % of the real cells of the class
            reach that training held out; where these are fewer than 20, of all held-out cells,
            each for its own class.
        adata
            Cells to start from; ``None`` for the training data.
        key_added
            Under which name the yield is noted in the AnnData's ``uns``; ``None`` notes nothing.
        seed
            Seed of all draws; nothing else influences them.

        Returns
        -------
        AnnData of n cells, class by class. ``uns["civae"]["classes"]`` tells for each class how many
        cells were drawn and accepted, and the threshold; ``obs["civae_confidence"]`` has the
        probability that each cell reached.

        Raises
        ------
        KeyError
            If a class was not seen in training.
        ValueError
            If the class has fewer than two cells.
        RuntimeError
            If fewer than one in 100 draws is accepted.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.pbmc()
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata)
        >>> model.train(max_epochs=5, enable_progress_bar=False)
        >>> cells = model.augment("Dendritic", 20)
        >>> cells.obs["cell_type"].unique().tolist()
        ['Dendritic']
        """
        self._require_trained()
        check_choice("method", method, ("linear",))
        seed = check_integer("seed", seed, minimum=0)
        if min_confidence is not None:
            check_number("min_confidence", min_confidence, minimum=0, maximum=1)
        check_bool("sample", sample)
        if isinstance(label, Mapping):
            if n is not None:
                raise ValueError("n must be left out where label is a dict of {class: n}.")
            wanted = dict(label)
        elif isinstance(label, Hashable):
            wanted = {label: n}
        else:
            raise TypeError(f"label must be one class, or a dict of {{class: n}}, got {label!r}.")
        if not wanted:
            raise ValueError("label must name at least one class, got an empty dict.")
        counts = {
            self.setup.label_code(k): check_integer("n", v, minimum=1) for k, v in wanted.items()
        }
        adata = self._validate_anndata(adata)
        self._check_uns(adata, key_added)
        with progress("making cells", sum(counts.values()), unit="cells"):
            parts = [
                self._augment_class(adata, code, size, sample, min_confidence, seed)
                for code, size in counts.items()
            ]
        summary = pd.DataFrame([part.summary for part in parts]).set_index(
            pd.Index([str(self.classes[c]) for c in counts], name="label")
        )
        n_rows = sum(counts.values())
        obs = pd.concat([part.obs for part in parts])
        obs.index = pd.Index([f"augmented_{i}" for i in range(n_rows)])
        obs = self._categories(obs)
        values = _stacked([part.values for part in parts])
        details = {
            "kind": _keys.AUGMENTED,
            "values": "sampled" if sample else "expected",
            "method": method,
            "seed": seed,
            "classes": summary,
        }
        uns = provenance(self.init_params_["non_kwargs"], **details)
        latent = np.concatenate([part.latent for part in parts])
        generated = self._assemble(values, obs, latent, uns, None)
        if key_added is not None:
            store = adata.uns.setdefault(key_added, {})
            store[_keys.AUGMENTATION] = summary.copy()
        return generated

    def _augment_class(
        self,
        adata: AnnData,
        code: int,
        n: int,
        sample: bool,
        min_confidence: float | None,
        seed: int,
    ) -> Augmented:
        """Draw cells of one class until n are accepted."""
        name = str(self.classes[code])
        cells = np.flatnonzero(np.asarray(adata.obs[_checks.LABEL_CODES]) == code)
        if len(cells) < 2:
            raise ValueError(
                f"a class needs two cells to draw lines between, but {name!r} has {len(cells)} in "
                "adata; augment another class, or pass adata= with more cells of it."
            )
        classes = self.linear_classes
        encoded = self._encode(adata, cells)
        logits = classes.logits(encoded.mean)
        inside = np.flatnonzero(logits.argmax(axis=1) == code)
        if len(inside) < 2:
            warnings.warn(
                f"fewer than two cells of {name!r} are classified as it, so lines are drawn between "
                "all of them; a greater discriminator_weight or more epochs would separate it.",
                UserWarning,
                stacklevel=4,
            )
            inside = np.arange(len(cells))
        reference = self._held_out_confidence(adata, code)
        threshold = min_confidence
        if threshold is None:
            threshold = float(np.quantile(reference, ACCEPTED_QUANTILE))

        pool, names = encoded.take(inside), adata.obs_names[cells[inside]].astype(str)
        rng = np.random.default_rng([seed, code])
        kept: list[tuple[Any, ...]] = []
        accepted = drawn = 0
        while accepted < n:
            if drawn >= MAX_DRAWS * max(n, 10):
                raise RuntimeError(
                    f"only {accepted} of {drawn} cells drawn for {name!r} reached a probability of "
                    f"{threshold:.3g} once decoded and encoded again; lower min_confidence, or train "
                    "with a greater discriminator_weight."
                )
            rate = (accepted + 1) / (drawn + 1)
            size = int(np.clip(1.1 * (n - accepted) / rate, 16, DRAWS_PER_ROUND))
            a = rng.integers(len(pool.mean), size=size)
            b = (a + rng.integers(1, len(pool.mean), size=size)) % len(pool.mean)  # never a itself
            t = rng.random(size)
            z = ((1 - t[:, None]) * pool.mean[a] + t[:, None] * pool.mean[b]).astype(np.float32)
            conditions = interpolate_conditions(pool.conditions.take(a), pool.conditions.take(b), t)
            values, reached, predicted = self._decode_and_encode(z, conditions, sample, rng, code)
            good = np.flatnonzero((predicted == code) & (reached >= threshold))[: n - accepted]
            # Cells drawn after the last one that was needed do not count towards the yield.
            drawn += size if accepted + len(good) < n else int(good[-1]) + 1
            accepted += len(good)
            advance(len(good))
            kept.append(
                (
                    values[good],
                    z[good],
                    conditions.take(good),
                    a[good],
                    b[good],
                    t[good],
                    reached[good],
                )
            )

        columns = list(zip(*kept, strict=True))
        values = _stacked(columns[0])
        latent, a, b, t, reached = (np.concatenate(columns[i]) for i in (1, 3, 4, 5, 6))
        conditions = Conditions.concatenate(columns[2])
        obs = self.setup.obs(conditions, pd.RangeIndex(n))
        obs[self.setup.labels_key] = self.classes[code]
        obs[_keys.KIND] = _keys.AUGMENTED
        obs[_keys.PATH] = names[a] + " → " + names[b]
        obs[_keys.T] = t
        obs[_keys.SOURCE] = names[a]
        obs[_keys.TARGET] = names[b]
        obs[_keys.PREDICTED] = self.classes[code]
        obs[_keys.MARGIN] = classes.margin(latent, code)
        obs[_keys.CONFIDENCE] = reached
        summary = {
            "n": n,
            "n_drawn": drawn,
            "yield": n / drawn,
            "min_confidence": threshold,
            "n_real": len(cells),
            "n_inside": len(inside),
            "n_threshold_cells": len(reference),
        }
        return Augmented(values, latent, obs, summary)

    def _held_out_confidence(self, adata: AnnData, code: int) -> np.ndarray:
        """Probabilities of their own class of real cells, preferably held out and of one class.

        Cells that the network was trained on are more sure of their class than any other cell can
        be, so where a class has too few held-out cells, those of all classes speak for it.
        """
        codes = np.asarray(adata.obs[_checks.LABEL_CODES])
        labeled = codes < len(self.classes)
        if adata is self.adata and self.validation_indices is not None:
            held_out = np.isin(np.arange(len(codes)), self.validation_indices) & labeled
        else:  # cells that this model was not trained on
            held_out = labeled
        for cells in (held_out & (codes == code), held_out, labeled):
            index = np.flatnonzero(cells)
            if len(index) >= MIN_HELD_OUT:
                break
        encoded = self._encode(adata, index)
        probabilities = self._probabilities(self.linear_classes.logits(encoded.mean))
        return probabilities[np.arange(len(index)), encoded.labels]

    @torch.inference_mode()
    def _decode_and_encode(
        self,
        z: np.ndarray,
        conditions: Conditions,
        sample: bool,
        rng: np.random.Generator,
        code: int,
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Cells at latent points, the probability of a class that they reach, and their class."""
        counts = self.likelihood in COUNT_LIKELIHOODS
        blocks, confidence, predicted = [], [], []
        # What the encoder draws beside its means is not used, but drawn.
        with self._evaluating() as module, seeded(0):
            decoded = (
                sample_blocks(module, z, conditions, rng=rng)
                if sample
                else decoded_blocks(module, z, conditions)
            )
            for rows, values in decoded:
                logits = self.linear_classes.logits(
                    encode_values(module, values, conditions.take(rows))
                )
                reached = self._probabilities(logits)[:, code]
                if counts:  # a cell without counts is no cell
                    reached[values.sum(axis=1) == 0] = -1.0
                confidence.append(reached)
                predicted.append(logits.argmax(axis=1))
                blocks.append(sparse.csr_matrix(values) if counts and sample else values)
        return _stacked(blocks), np.concatenate(confidence), np.concatenate(predicted)
