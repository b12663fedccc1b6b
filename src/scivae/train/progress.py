"""The progress bar of ``train``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from .._progress import Bar, bar

# Metrics that the bar shows, and their names there.
SHOWN = {"train_loss": "loss", "validation_loss": "held-out loss"}


class EpochBar(ProgressBar):
    """One bar for the whole training, updated after each epoch; :mod:`scivae._progress` draws it."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Bar | None = None

    def disable(self) -> None:
        """Show nothing; Lightning calls this in all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, plan: LightningModule) -> None:
        """Draw the bar."""
        if self._enabled and trainer.is_global_zero:
            self._bar = bar(
                "Training", trainer.max_epochs, "epochs", done=trainer.current_epoch, stays=True
            )

    def on_train_epoch_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Advance the bar by one epoch."""
        if self._bar is not None:
            metrics = trainer.callback_metrics
            self._bar.note(
                {name: float(metrics[key]) for key, name in SHOWN.items() if key in metrics}
            )
            self._bar.update(1)

    def on_train_end(self, trainer: Trainer, plan: LightningModule) -> None:
        """Leave it as it is."""
        self._close()

    def on_exception(self, trainer: Trainer, plan: LightningModule, exception: Any) -> None:
        """Leave it as it is."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the bar, which belongs to this process."""
        return {**self.__dict__, "_bar": None}
