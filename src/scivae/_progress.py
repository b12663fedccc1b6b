"""Progress bars that come when a call takes long, and go when it ends.

They obey scvi-tools' settings: ``scvi.settings.progress_bar_style`` says how they look, and with
``scvi.settings.verbosity`` at ``logging.WARNING`` or above there are none.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")
# Seconds that a call may take before it shows how far it is.
DELAY = 2.0
_current: ContextVar[Any] = ContextVar("bar", default=None)


def is_hidden() -> bool:
    """Whether the user has told scvi-tools to be quiet."""
    return "scvi" in sys.modules and logging.getLogger("scvi").level >= logging.WARNING


def _bar(description: str, total: int | None, unit: str) -> Any:
    """A bar in the style of scvi-tools' settings, ``None`` where there is to be none.

    One step has no middle to tell of.
    """
    if is_hidden() or total == 1:
        return None
    style = getattr(getattr(sys.modules.get("scvi"), "settings", None), "progress_bar_style", None)
    return (_RichBar if style == "rich" else _tqdm_bar)(description, total, unit)


@contextmanager
def progress(description: str, total: int | None, *, unit: str = "it") -> Iterator[None]:
    """A bar that :func:`advance` moves while the block runs.

    Parameters
    ----------
    description
        What is being done.
    total
        How much there is to do; ``None`` where that is not known.
    unit
        Of what.
    """
    bar = _bar(description, total, unit)
    token = _current.set(bar)
    try:
        yield
    finally:
        _current.reset(token)
        if bar is not None:
            bar.close()


def advance(n: int = 1) -> None:
    """Move the innermost bar on; does nothing where there is none."""
    bar = _current.get()
    if bar is not None:
        bar.update(n)


def track(
    items: Iterable[Item], description: str, total: int | None = None, *, unit: str = "it"
) -> Iterator[Item]:
    """The items, with a bar that moves as they are taken."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    bar = _bar(description, total, unit)
    try:
        for item in items:
            yield item
            if bar is not None:
                bar.update(1)
    finally:
        if bar is not None:
            bar.close()


def _tqdm_bar(description: str, total: int | None, unit: str) -> Any:
    from tqdm.auto import tqdm

    # As scvi-tools does; in a terminal, what is piped on stays free of bars.
    file = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(total=total, desc=description, unit=f" {unit}", delay=DELAY, leave=False, file=file)


class _RichBar:
    """A bar of rich, with tqdm's delay and the two methods that are needed of it."""

    def __init__(self, description: str, total: int | None, unit: str):
        from rich.console import Console
        from rich.progress import Progress

        console = Console()
        seen = console.is_terminal or console.is_jupyter
        self._bar = Progress(transient=True, console=console, disable=not seen)
        self._task = self._bar.add_task(description, total=total)
        self._start = time.monotonic()

    def update(self, n: int) -> None:
        self._bar.advance(self._task, n)
        if not self._bar.live.is_started and time.monotonic() - self._start >= DELAY:
            self._bar.start()

    def close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()
