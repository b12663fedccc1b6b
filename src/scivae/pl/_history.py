"""Training curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ._style import TRAIN, VALIDATION, WIDTH, label_outer, n_ticks, panels

# Title, unit, and the keys of the history for training and validation cells.
_TERMS = (
    ("objective J", "nats per cell", "train_loss", "validation_loss"),
    ("reconstruction", "nats per cell", "reconstruction_loss_train", "reconstruction_loss_validation"),
    ("KL divergence", "nats per cell", "kl_local_train", "kl_local_validation"),
    ("cross-entropy", "nats per cell", "classification_loss_train", "classification_loss_validation"),
    ("accuracy", "% of cells", "accuracy_train", "accuracy_validation"),
)  # fmt: skip


def history(model: Any, *, ax: Any = None, show: bool = False) -> np.ndarray:
    """Each term of the objective by epoch, for training and for validation cells.

    Parameters
    ----------
    model
        A trained :class:`~scivae.model.CIVAE`, or its ``history``.
    ax
        As many Axes as there are terms; ``None`` makes a figure.
    show
        Show the figure.

    Returns
    -------
    Array of Axes, shape ``(n_terms,)``: the objective J, the reconstruction term, the divergence
    from the prior and the discriminator's cross-entropy, the last three before they are weighted, in
    nats per cell; and the discriminator's accuracy. Terms that were not logged are left out.

    Raises
    ------
    ValueError
        If the model was not trained.

    Notes
    -----
    Validation cells are measured at every epoch where ``model.train`` was called with
    ``check_val_every_n_epoch=1``.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, check_val_every_n_epoch=1, enable_progress_bar=False)
    >>> axes = scivae.pl.history(model)
    >>> [ax.get_title(loc="left") for ax in axes]
    ['objective J', 'reconstruction', 'KL divergence', 'cross-entropy', 'accuracy']
    """
    curves = _curves(model)
    if not curves:
        raise ValueError("history must hold the terms of the objective, got none of them.")
    with panels(ax, len(curves), panel=(WIDTH / 2, 1.12), shared=0.35, show=show) as drawn:
        for one, (title, unit, *parts) in zip(drawn, curves, strict=True):
            for curve, color, label in zip(
                parts, (TRAIN, VALIDATION), ("training", "validation"), strict=True
            ):
                if curve is not None:
                    few = "o" if len(curve) < 3 else None
                    one.plot(curve.index, curve, color=color, label=label, lw=1.2, marker=few, ms=3)
            one.set_title(title, loc="left")
            one.set_ylabel(unit, fontsize=None if ax is not None else "small")
            one.xaxis.get_major_locator().set_params(
                integer=True, nbins=n_ticks(one, 3), steps=[1, 2, 5, 10]
            )
            one.yaxis.get_major_locator().set_params(nbins=4, steps=[1, 2, 5, 10])
        if ax is not None:
            label_outer(list(drawn), x="epoch")
        _legend(drawn, own=ax is None)
    return drawn


def _legend(drawn: np.ndarray, *, own: bool) -> None:
    """One legend for all: above the panels of our own figure, else in the last panel."""
    handles: dict[str, Any] = {}
    for ax in drawn:
        handles |= {str(h.get_label()): h for h in ax.get_lines()}
    if own:
        figure = drawn[0].get_figure()
        figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=2)
        figure.supxlabel("epoch", fontsize="medium")
    else:
        drawn[-1].legend(handles=list(handles.values()))


def _curves(model: Any) -> list[tuple[str, str, pd.Series | None, pd.Series | None]]:
    """Title, unit and both curves of every term that was logged."""
    logged = getattr(model, "history", model)
    if not logged:
        raise ValueError(
            f"the history of {type(model).__name__} is empty; call model.train() first."
        )
    if not hasattr(logged, "keys"):
        raise TypeError(
            f"model must be a trained model or its history, got {type(model).__name__}."
        )
    found = []
    for title, unit, train_key, validation_key in _TERMS:
        both = [_series(logged[k]) if k in logged else None for k in (train_key, validation_key)]
        if unit == "% of cells":
            both = [None if s is None else 100 * s for s in both]
        if any(s is not None and len(s) for s in both):
            found.append((title, unit, *both))
    return found  # type: ignore[return-value]


def _series(logged: Any) -> pd.Series:
    """A logged metric by epoch, without the epochs at which it was not measured."""
    series = logged.iloc[:, 0] if isinstance(logged, pd.DataFrame) else pd.Series(logged)
    series = pd.to_numeric(series).dropna()
    series.index = series.index.astype(int) + 1  # the first epoch is 1
    return series
