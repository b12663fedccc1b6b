"""The ``repr`` of a model, and class names for tab completion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from .. import _keys
from .._display import Description, counted, listed, printable
from .._errors import near_matches, shown
from ..data.checks import where
from ._base import CellsModel


class Labels(Mapping[str, Any]):
    """Names of the classes, for the Tab key: ``model.labels.<Tab>`` and ``model.labels["<Tab>``.

    A mapping of each name, as text, to the class as :meth:`~scivae.model.CIVAE.augment` takes it. Names
    that Python can spell are attributes too.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.labels.Dendritic, model.labels["CD34+"]
    ('Dendritic', 'CD34+')
    """

    def __init__(self, classes: np.ndarray):
        self._classes = {str(c): c for c in classes.tolist()}

    def __getitem__(self, name: str) -> Any:
        if name not in self._classes:
            raise KeyError(
                f"labels must be classes of the model, got {name!r}; available: "
                f"{shown(self._classes, 20)}.{near_matches(name, self._classes)}"
            )
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while it is unpickled, there are no classes to list
            raise AttributeError(name)
        if name not in self._classes:
            raise AttributeError(
                f"the model has no class {name!r}; available: {shown(self._classes, 12)}."
            )
        return self._classes[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(c for c in self._classes if c.isidentifier())})

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return printable(f"{counted(len(self), 'class')}: {listed(self, 30)}")


def describe(model: CellsModel) -> Description:
    """The text of ``print(model)``: data, settings, state of training, and what to call next."""
    setup, module = model.setup, model.module
    parameters = {
        name: value for group in model.init_params_.values() for name, value in group.items()
    }
    cells = f"none; methods take adata=, with values in {where(setup.layer)}"
    if model.adata is not None:
        n_obs, n_vars = model.adata.shape
        cells = f"{n_obs:,} cells × {n_vars:,} variables, {where(setup.layer)}"
    n_weights = sum(p.numel() for p in module.parameters())
    layers = counted(int(parameters.get("n_layers", 1)), "hidden layer")
    robustness = module.label_robustness
    facts = [
        ("data", cells),
        ("classes", f"obs[{setup.labels_key!r}]: {listed(setup.classes, 12)}"),
        ("likelihood", model.likelihood),
        (
            "network",
            f"n_latent {module.n_latent}, {layers} of {parameters.get('n_hidden', '?')}, "
            f"{n_weights:,} weights",
        ),
        (
            "objective",
            f"β = {module.discriminator_weight:g} (discriminator), α = {module.kl_weight:g} (KL)"
            + (f", labels doubted ({robustness:g})" if robustness else ""),
        ),
        ("training", _training_status(model)),
    ]
    if setup.batch_key is not None:
        facts.insert(2, ("batches", f"obs[{setup.batch_key!r}]: {listed(setup.batches)}"))
    accuracy = _held_out_accuracy(model)
    if accuracy is not None:
        facts.append(("held-out accuracy", f"{accuracy:.1%}"))
    return Description(
        f"CIVAE of {counted(len(setup.classes), 'class')}, "
        + ("trained" if model.is_trained_ else "not trained"),
        tuple(facts),
        _next_steps(model),
    )


def _next_steps(model: CellsModel) -> tuple[tuple[str, str], ...]:
    if not model.is_trained_:
        return (("model.train()", "fit it to the cells"),)
    label = model.classes[0]
    name = repr(label.item() if isinstance(label, np.generic) else label)
    return (
        (
            f'adata.obsm["{_keys.LATENT}"] = model.get_latent_representation()',
            "z of every cell",
        ),
        ("path = model.interpolate(cell_a, cell_b)", "trace a path between two cells"),
        (f"cells = model.augment({name}, 500)", "make more cells of a class"),
        ("scivae.pl.history(model)", "how training went"),
    )


def _training_status(model: CellsModel) -> str:
    """Describe the training: number of epochs, of training cells and of held-out cells."""
    if not model.is_trained_:
        return "not trained"
    epochs = max((len(v) for v in (model.history_ or {}).values()), default=0)
    parts = [counted(epochs, "epoch")] if epochs else ["trained"]
    for n, what in (
        (getattr(model, "train_indices", None), "cells"),
        (model.validation_indices, "held out"),
    ):
        if n is not None and len(n):
            parts.append(f"{len(n):,} {what}")
    return ", ".join(parts)


def _held_out_accuracy(model: CellsModel) -> float | None:
    """Accuracy at the last evaluation of the held-out cells; ``None`` if there was none."""
    logged = (model.history_ or {}).get("accuracy_validation")
    if not model.is_trained_ or logged is None:
        return None
    values = pd.to_numeric(pd.DataFrame(logged).iloc[:, 0]).dropna()
    return float(values.iloc[-1]) if len(values) else None
