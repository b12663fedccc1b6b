"""The method ``augment``: generated cells of a class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from .. import _keys
from .._errors import shown
from .._parts import Parts, digest, digest_of_weights
from .._progress import advance, progress
from .._random import seeded
from .._validate.arguments import (
    check_bool,
    check_choice,
    check_integer,
    check_number,
    check_trained,
)
from ..data import checks
from ..data.generated import check_uns, provenance
from ..data.writers import check_new, new_store, write_blocks
from ..module import (
    COUNT_LIKELIHOODS,
    Covariates,
    decoded_blocks,
    encode_values,
    sample_blocks,
)
from ._base import CellsModel
from ._drawing import (
    MAX_DRAWS,
    Drawn,
    Source,
    class_covariance,
    in_class,
    on_lines,
    shared_covariance,
)
from ._portions import (
    Augmented,
    Portion,
    blocks_of,
    cells_of,
    drawn_in,
    make_parts,
    portions_of,
    stacked,
)

# With fewer held-out cells of a class, its quantile of probabilities is too uncertain to use.
MIN_HELD_OUT = 20
# Quantile of the probabilities of real cells that new cells must reach.
ACCEPTED_QUANTILE = 0.05
# Most cells that are drawn at once.
DRAWS_PER_ROUND = 4096


def _summary(
    sources: Sequence[Source], sizes: Mapping[int, int], drawn: Mapping[int, int]
) -> pd.DataFrame:
    """Yield and threshold of each class."""
    return pd.DataFrame(
        [
            {
                "n": sizes[source.code],
                _keys.N_DRAWN: drawn[source.code],
                "yield": sizes[source.code] / drawn[source.code],
                "min_confidence": source.threshold,
                **source.summary,
            }
            for source in sources
        ],
        index=pd.Index([source.name for source in sources], name="label"),
    )


@overload
def augment(
    self: CellsModel,
    label: Any,
    n: int | None = ...,
    *,
    method: Literal["linear", "normal"] = ...,
    sample: bool = ...,
    min_confidence: float | None = ...,
    adata: AnnData | None = ...,
    store: None = ...,
    parts: None = ...,
    key_added: str | None = ...,
    seed: int = ...,
) -> AnnData: ...


@overload
def augment(
    self: CellsModel,
    label: Any,
    n: int | None = ...,
    *,
    method: Literal["linear", "normal"] = ...,
    sample: bool = ...,
    min_confidence: float | None = ...,
    adata: AnnData | None = ...,
    store: str | os.PathLike,
    parts: str | os.PathLike | None = ...,
    key_added: str | None = ...,
    seed: int = ...,
) -> Path: ...


@checks.leaves_unchanged
def augment(
    self: CellsModel,
    label: Any,
    n: int | None = None,
    *,
    method: Literal["linear", "normal"] = "linear",
    sample: bool = True,
    min_confidence: float | None = None,
    adata: AnnData | None = None,
    store: str | os.PathLike | None = None,
    parts: str | os.PathLike | None = None,
    key_added: str | None = _keys.KEY_ADDED,
    seed: int = 0,
) -> AnnData | Path:
    """Generate cells of a class.

    Each cell lies at a random position on the straight line between two random real cells of the class
    (Section 2.2 of the paper), more often near one of them than halfway. It is accepted only if the
    discriminator still assigns it to the class after decoding and re-encoding, with a probability of
    at least ``min_confidence``.

    Parameters
    ----------
    label
        A class, or ``{class: n}``.
    n
        Number of cells; ``None`` if ``label`` is a dict.
    method
        ``"linear"``: on the straight line between two real cells, at a position drawn from
        Beta(0.2, 0.2), so that generated cells vary as much as real ones (closer to uniform for
        classes with fewer than 50 cells). Library size and covariates are those of one of the two,
        more often of the nearer. ``"normal"``: drawn from the normal distribution of the class in
        latent space, within the region of the class. Its covariance is that of the posteriors of
        the cells, shrunk toward the within-class covariance of all classes (which has the weight of
        20 cells), so a class of five cells is not limited to lines between them. Library size and
        covariates are those of a real cell of the class, the ``civae_source``.
    sample
        Sample cells from the likelihood; ``False`` gives expected values.
    min_confidence
        Probability of the class that a cell must reach. ``None``: the probability that 95 % of the
        held-out real cells of the class reach; with fewer than 20 of these, that 95 % of all
        held-out cells reach for their own class.
    adata
        Cells to start from; ``None`` for the training data.
    store
        Folder of a zarr store, to which cells are written as they are generated, so that any number
        needs the memory of a few thousand. The folder must not exist. ``None``: return the cells.
    parts
        Folder for finished parts, 16,384 cells of a class each; needs ``store``. Processes that torchrun
        or Lightning started share the parts, if all make this call and can read the folder; the first
        process then joins them to the store. A call that was interrupted goes on from the parts that are
        there. The cells are those that one process makes. ``None``: this process makes all cells.
    key_added
        Slot of ``adata.uns`` in which the yield is recorded; ``None``: not recorded.
    seed
        Seed of all random draws.

    Returns
    -------
    AnnData of n cells, class by class. ``uns["civae"]["classes"]`` has the threshold and the numbers of
    cells drawn and accepted for each class; ``obs["civae_confidence"]`` has the probability of each
    cell. Genes keep their annotation, and columns of the setup keep their dtypes and colors, so the result
    can be concatenated with ``adata``. With ``store``: its path, for :func:`anndata.read_zarr`, with the
    same cells; names of paths are text there, not categories.

    Raises
    ------
    KeyError
        If a class was not seen in training.
    ValueError
        If the class has fewer than two cells, the store exists, or ``parts`` holds parts of another call.
    OSError
        If the store cannot be written. After this or any other error, nothing of it remains.
    RuntimeError
        If fewer than one in 100 draws is accepted, or another process that shares the parts fails.

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
    check_trained(self)
    check_choice("method", method, ("linear", "normal"))
    seed = check_integer("seed", seed, minimum=0)
    if min_confidence is not None:
        check_number("min_confidence", min_confidence, minimum=0, maximum=1)
    check_bool("sample", sample)
    if isinstance(label, Mapping):
        if n is not None:
            raise ValueError(
                f"n must be None where label is a dict of {{class: n}}, got {n!r}; give the numbers in "
                "the dict alone."
            )
        wanted = dict(label)
    elif isinstance(label, Hashable):
        wanted = {label: n}
    else:
        raise TypeError(
            f"label must be one class, or a dict of {{class: n}}, got {label!r}; for several classes, "
            "pass a dict."
        )
    if not wanted:
        raise ValueError(
            f"label must name at least one class, got an empty dict; available: {shown(self.classes)}."
        )
    counts = {self.setup.label_code(k): check_integer("n", v, minimum=1) for k, v in wanted.items()}
    if parts is not None and store is None:
        raise ValueError(
            "parts needs store=, the zarr store to which they are joined, but store is None; pass both, or "
            "parts=None."
        )
    target = None if store is None else new_store(store)
    if target is not None and parts is None:
        check_new(target)
    adata = self._validate_anndata(adata, every_row=False)
    self._warn_of_changed_columns(adata)
    check_uns(adata, key_added)
    shared = shared_covariance(self, adata) if method == "normal" else None
    sources, held_out = [], HeldOut(self, adata)
    for code in counts:  # in a comprehension, a warning would name this line, not the caller's
        sources.append(_source(self, adata, code, min_confidence, shared, held_out))
    drawn = dict.fromkeys(counts, 0)

    def made(portion: Portion, counted: dict[int, int] = drawn) -> Iterator[Augmented]:
        return _rounds(self, adata, portion, sample, seed, counted)

    def uns() -> dict[str, Any]:
        return provenance(
            self.init_params_["non_kwargs"],
            kind=_keys.AUGMENTED,
            values="sampled" if sample else "expected",
            method=method,
            seed=seed,
            classes=_summary(sources, counts, drawn),
        )

    portions = portions_of(sources, counts)
    generated: AnnData | Path
    if target is not None and parts is not None:
        work = {
            "seed": seed, "sample": sample, "method": method, "temperature": self.temperature_,
            "cells": ", ".join(f"{s.name}: {counts[s.code]}, {s.threshold!r}" for s in sources),
            "adata": digest(
                *(x for s in sources for x in (s.names, s.cells.mean, *s.cells.covariates)),
                *(s.covariance for s in sources if s.covariance is not None),
            ),
            "model": digest_of_weights(self.module.state_dict()),
        }  # fmt: skip
        with Parts(Path(parts) / "augment", len(portions), ending=".zarr", **work) as share:
            make_parts(self, adata, share, sources, portions, target, made, uns, drawn)
        drawn |= drawn_in(target, sources)
        generated = target
    else:
        with progress("making cells", sum(counts.values()), unit="cells"):
            rounds = (block for portion in portions for block in made(portion))
            if target is None:
                found = list(rounds)
                generated = cells_of(self, adata, found, uns())
            else:
                blocks = blocks_of(self, adata, rounds, sources)
                write_blocks(target, blocks, lambda: {_keys.UNS: uns()})
                generated = target
    if key_added is not None:
        adata.uns.setdefault(key_added, {})[_keys.AUGMENTATION] = _summary(sources, counts, drawn)
    return generated


def _source(
    model: CellsModel,
    adata: AnnData,
    code: int,
    min_confidence: float | None,
    shared: np.ndarray | None = None,
    held_out: HeldOut | None = None,
) -> Source:
    """Real cells of a class that are classified correctly, and the threshold for new cells.

    If a ``shared`` covariance is given, the covariance of the class too.
    """
    name = str(model.classes[code])
    cells = np.flatnonzero(np.asarray(adata.obs[checks.LABEL_CODES]) == code)
    if len(cells) < 2:
        raise ValueError(
            f"a class needs two cells to draw lines between, but {name!r} has {len(cells)} in "
            "adata; augment another class, or pass adata= with more cells of it."
        )
    encoded = model.codec.encode(adata, cells)
    logits = model.linear_classes.logits(encoded.mean)
    inside = np.flatnonzero(logits.argmax(axis=1) == code)
    if len(inside) < 2:
        warnings.warn(
            f"the model recognizes fewer than two {name!r} cells, so all of them are used; train "
            "longer or raise discriminator_weight.",
            UserWarning,
            stacklevel=4,
        )
        inside = np.arange(len(cells))
    reference = (held_out or HeldOut(model, adata)).confidence(code)
    pool = encoded.take(inside)
    return Source(
        code,
        name,
        pool,
        adata.obs_names[cells[inside]].astype(str).to_numpy(),
        float(np.quantile(reference, ACCEPTED_QUANTILE))
        if min_confidence is None
        else min_confidence,
        None if shared is None else class_covariance(pool, shared),
        {
            "n_real": len(cells),
            "n_inside": len(inside),
            "n_threshold_cells": len(reference),
        },
    )


def _rounds(
    model: CellsModel,
    adata: AnnData,
    portion: Portion,
    sample: bool,
    seed: int,
    drawn: dict[int, int],
) -> Iterator[Augmented]:
    """Draw cells of one part of a class until all are accepted; add their number to ``drawn``."""
    source, n, code = portion.source, portion.n, portion.source.code
    rng = np.random.default_rng([seed, code, *([portion.number] if portion.number else [])])
    accepted = n_drawn = 0
    while accepted < n:
        if n_drawn >= MAX_DRAWS * max(n, 10):
            rule, cure = "", "train longer or raise discriminator_weight"
            if source.threshold > 0:
                rule = f" with a probability of at least {source.threshold:.6g}"
                cure = f"lower min_confidence, or {cure}"
            raise RuntimeError(
                f"only {accepted} of {n_drawn} cells drawn for {source.name!r} were classified "
                f"as it{rule} once decoded and encoded again; {cure}."
            )
        rate = (accepted + 1) / (n_drawn + 1)
        size = int(np.clip(1.1 * (n - accepted) / rate, 16, DRAWS_PER_ROUND))
        new = _draw(model, source, size, rng)
        z, covariates = new.z, new.covariates
        n_drawn += new.rejected
        if len(z) == 0:
            continue
        values, reached, predicted = _decode_and_encode(model, z, covariates, sample, rng, code)
        good = np.flatnonzero((predicted == code) & (reached >= source.threshold))
        good = good[: n - accepted]
        # Cells drawn after the last accepted one do not count toward the yield.
        n_drawn += len(z) if accepted + len(good) < n else int(good[-1]) + 1
        accepted += len(good)
        advance(len(good))
        if len(good) == 0:
            continue
        first, last = source.names[new.first[good]], source.names[new.last[good]]
        label = model.setup.class_column(np.full(len(good), code), adata.obs)
        obs = model.setup.obs(covariates.take(good), pd.RangeIndex(len(good)), adata.obs)
        obs[model.setup.labels_key] = label
        obs[_keys.KIND] = _keys.AUGMENTED
        obs[_keys.PATH] = [
            x if source.covariance is not None else f"{x} → {y}"
            for x, y in zip(first, last, strict=True)
        ]
        obs[_keys.T] = new.t[good]
        obs[_keys.SOURCE] = first
        obs[_keys.TARGET] = last
        obs[_keys.PREDICTED] = label
        obs[_keys.MARGIN] = model.linear_classes.margin(z[good], code)
        obs[_keys.CONFIDENCE] = reached[good]
        yield Augmented(values[good], z[good], obs)
    drawn[code] += n_drawn


def _draw(model: CellsModel, source: Source, size: int, rng: np.random.Generator) -> Drawn:
    """Latent points of new cells; fewer than ``size`` if most lie outside the class."""
    if source.covariance is None:
        return on_lines(source, size, rng)
    return in_class(model, source, source.covariance, size, rng)


class HeldOut:
    """Probabilities that real cells have for their own class: held-out cells, if possible.

    Training cells have higher probabilities than other cells, so if a class has too few held-out cells,
    the held-out cells of all classes are used instead. These are encoded once, for all classes.

    Parameters
    ----------
    model, adata
        The model and the cells.
    """

    def __init__(self, model: CellsModel, adata: AnnData):
        self.model, self.adata = model, adata
        codes = np.asarray(adata.obs[checks.LABEL_CODES])
        labeled = codes < len(model.classes)
        own = adata is model.adata
        if model.cell_hashes_ is None:
            # A model made from a datamodule adopts the first AnnData it is given, which may be a subset.
            trained_on = model.registry_["field_registries"]["X"]["state_registry"]["n_obs"]
            own = own and len(codes) == trained_on
        if own and model.validation_indices is not None:
            held_out = np.isin(np.arange(len(codes)), model.validation_indices) & labeled
        else:  # cells that this model was not trained on
            held_out = labeled
        self.cells = np.flatnonzero(held_out)  # (n_held_out,)
        self.codes = codes[self.cells]
        self.labeled = labeled

    def confidence(self, code: int) -> np.ndarray:
        """Probabilities of the held-out cells of a class; of all classes, if there are too few."""
        index = self.cells[self.codes == code]
        return self.of_all if len(index) < MIN_HELD_OUT else self._of(index)

    @cached_property
    def of_all(self) -> np.ndarray:
        """Probabilities of all held-out cells, or of all labeled cells if too few are held out."""
        enough = len(self.cells) >= MIN_HELD_OUT
        return self._of(self.cells if enough else np.flatnonzero(self.labeled))

    def _of(self, index: np.ndarray) -> np.ndarray:
        encoded = self.model.codec.encode(self.adata, index)
        logits = self.model.linear_classes.logits(encoded.mean)
        return self.model.codec.probabilities(logits)[np.arange(len(index)), encoded.labels]


@torch.inference_mode()
def _decode_and_encode(
    model: CellsModel,
    z: np.ndarray,
    covariates: Covariates,
    sample: bool,
    rng: np.random.Generator,
    code: int,
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Decode latent points and encode the cells again.

    Returns the cells, their probabilities of the class and their predicted classes.
    """
    counts = model.likelihood in COUNT_LIKELIHOODS
    blocks, confidence, predicted = [], [], []
    # The encoder also draws samples; only its means are used.
    with model.codec.evaluating() as module, seeded(0):
        decoded = (
            sample_blocks(module, z, covariates, rng=rng)
            if sample
            else decoded_blocks(module, z, covariates)
        )
        for rows, values in decoded:
            logits = model.linear_classes.logits(
                encode_values(module, values, covariates.take(rows))
            )
            reached = model.codec.probabilities(logits)[:, code]
            if counts:  # a cell without counts is not valid
                reached[values.sum(axis=1) == 0] = -1.0
            confidence.append(reached)
            predicted.append(logits.argmax(axis=1))
            blocks.append(sparse.csr_matrix(values) if counts and sample else values)
    return stacked(blocks), np.concatenate(confidence), np.concatenate(predicted)
