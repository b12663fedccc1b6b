"""Plot of training curves."""

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
    """Plot each term of the objective by epoch, for training and validation cells.

    Parameters
    ----------
    model
        A trained :class:`~scivae.model.CIVAE`, or its ``history``.
    ax
        Array of Axes, one per term; ``None`` creates a figure.
    show
        Show the figure.

    Returns
    -------
    Array of Axes, shape ``(n_terms,)``: the objective J, the reconstruction term, the KL divergence
    from the prior, and the cross-entropy of the discriminator, in nats per cell (the terms of J are
    shown without their weights); and the accuracy of the discriminator. Terms that were not logged
    are omitted.

    Raises
    ------
    ValueError
        If the model was not trained.

    Notes
    -----
    For validation curves at every epoch, call ``model.train`` with ``check_val_every_n_epoch=1``.

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
        raise ValueError(
            "history must contain terms of the objective, got none; pass a trained model or its "
            "history."
        )
    with panels(ax, len(curves), panel=(WIDTH / 2, 1.12), shared=0.35, show=show) as drawn:
        for one, (title, unit, *parts) in zip(drawn, curves, strict=True):
            looks = ((TRAIN, "-", 1.2), (VALIDATION, "--", 1.0))
            for curve, look, label in zip(parts, looks, ("training", "validation"), strict=True):
                if curve is not None:
                    color, ls, lw = look
                    few = "o" if len(curve) < 3 else None
                    one.plot(
                        curve.index, curve, ls, color=color, label=label, lw=lw, marker=few, ms=3
                    )
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
    """Draw one legend: above the panels of a new figure, otherwise in the last panel."""
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
    """Title, unit, training curve and validation curve of every logged term."""
    logged = getattr(model, "history", model)
    if not logged:
        raise ValueError(
            f"model must be trained, got an empty history of {type(model).__name__}; call "
            "model.train() first."
        )
    if not hasattr(logged, "keys"):
        raise TypeError(
            f"model must be a trained model or its history, got {type(model).__name__}; pass "
            "model or model.history."
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
    """A logged metric by epoch, without epochs at which it was not measured."""
    series = logged.iloc[:, 0] if isinstance(logged, pd.DataFrame) else pd.Series(logged)
    series = pd.to_numeric(series).dropna()
    series.index = series.index.astype(int) + 1  # the first epoch is 1
    return series
