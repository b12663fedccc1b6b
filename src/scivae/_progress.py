"""Progress bars of long-running calls.

A terminal shows a bar, which is removed when the call ends. A notebook shows one line of output
that is updated in place, so an exported notebook contains one line. Anywhere else (a file, a
cluster log) a line is printed for each tenth of the work.

``scvi.settings.progress_bar_style`` sets the style of a bar in a terminal. With
``scvi.settings.verbosity`` at ``logging.WARNING`` or above, there is no progress output.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
# Seconds before a call shows its progress.
DELAY = 2.0
# Lines printed if there is no terminal, and seconds between updates in a notebook.
LINES, REFRESH = 10, 0.25


@contextmanager
def without_widgets() -> Iterator[None]:
    """Import a package without its warning about missing notebook widgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield


_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def hidden() -> Iterator[None]:
    """Show no progress, also if scvi-tools, which sets its level of messages, is imported later."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def is_hidden() -> bool:
    """Whether progress is hidden, or the user has set scvi-tools to be quiet."""
    quiet = "scvi" in sys.modules and logging.getLogger("scvi").level >= logging.WARNING
    return _HIDDEN.get() or quiet


class Bar(Protocol):
    """Progress display of a call."""

    def update(self, n: int) -> None:
        """Advance by ``n`` units."""

    def note(self, numbers: Mapping[str, float]) -> None:
        """Show numbers next to the progress."""

    def close(self) -> None:
        """Finish the display."""


class _Hidden:
    """No display."""

    def update(self, n: int) -> None:
        pass

    def note(self, numbers: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


_current: ContextVar[Bar] = ContextVar("bar", default=_Hidden())  # noqa: B039  it has no state


def bar(
    description: str, total: int | None, unit: str = "it", *, done: int = 0, stays: bool = False
) -> Bar:
    """Create the progress display that suits where this process runs.

    Parameters
    ----------
    description
        Title of the progress bar.
    total
        Total number of units; ``None`` if unknown.
    unit
        Name of a unit, in the plural.
    done
        Number of units that are already done.
    stays
        Show the bar at once and keep it after the call. ``False``: show it after :data:`DELAY`
        seconds and remove it at the end.
    """
    delay = 0.0 if stays else DELAY
    if _in_notebook():
        return _NotebookLine(description, total, unit, done, delay)
    style = getattr(getattr(sys.modules.get("scvi"), "settings", None), "progress_bar_style", None)
    if style == "rich" and not stays:
        return _rich_bar(description, total, unit, done, delay)
    if not getattr(sys.stderr, "isatty", bool)():
        return _Lines(description, total, unit, done, delay)
    return _TqdmBar(description, total, unit, done, delay, stays)


@contextmanager
def _shown(description: str, total: int | None, unit: str) -> Iterator[Bar]:
    """Progress display of a block; a call of a single unit has no progress to show."""
    hidden = is_hidden() or total == 1
    shown = _Hidden() if hidden else bar(description, total, unit)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def progress(description: str, total: int | None, *, unit: str = "it") -> Iterator[None]:
    """Show a progress bar while the block runs; :func:`advance` moves it.

    Parameters
    ----------
    description
        Title of the progress bar.
    total
        Total number of units; ``None`` if unknown.
    unit
        Name of a unit, in the plural.
    """
    with _shown(description, total, unit) as shown:
        token = _current.set(shown)
        try:
            yield
        finally:
            _current.reset(token)


def advance(n: int = 1) -> None:
    """Advance the innermost progress bar, if there is one."""
    _current.get().update(n)


def track(
    items: Iterable[Item], description: str, total: int | None = None, *, unit: str = "it"
) -> Iterator[Item]:
    """Iterate over the items with a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with _shown(description, total, unit) as shown:
        for item in items:
            yield item
            shown.update(1)


def _in_notebook() -> bool:
    """Whether the output goes to a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _spelled(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


class _Counted:
    """State of a call: units done and start time."""

    def __init__(self, description: str, total: int | None, unit: str, done: int, delay: float):
        self.description, self.total, self.unit, self.delay = description, total, unit, delay
        self.done = self.done_before = done
        self.numbers: Mapping[str, float] = {}
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.start

    def note(self, numbers: Mapping[str, float]) -> None:
        self.numbers = numbers

    def line(self) -> str:
        """The progress as one line of text."""
        of = "" if self.total is None else f"/{self.total}"
        numbers = f", {_spelled(self.numbers)}" if self.numbers else ""
        return f"{self.description}: {self.done}{of} {self.unit}{numbers}"


class _Lines(_Counted):
    """Print a line for each tenth of the work, for files and logs."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._written = self._tenth()

    def _tenth(self) -> int:
        return LINES * self.done // max(self.total or 1, 1)

    def update(self, n: int) -> None:
        self.done += n
        if self.total is not None and self._tenth() > self._written and self.seconds >= self.delay:
            self._write()

    def _write(self) -> None:
        from tqdm import tqdm

        if sys.stderr is None:  # a process without a console
            return
        self._written = self._tenth()
        done = self.done - self.done_before
        left = self.seconds / max(done, 1) * ((self.total or self.done) - self.done)
        times = [tqdm.format_interval(round(t)) for t in (self.seconds, left)]
        print(f"{self.line()} ({times[0]}, {times[1]} left)", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _NotebookLine(_Counted):
    """One line of notebook output, updated in place until the call ends."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._handle: Any = None
        self._shown = self.start - REFRESH
        self._refresh()

    def update(self, n: int) -> None:
        self.done += n
        self._refresh()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self.seconds >= self.delay and now - self._shown >= REFRESH:
            from tqdm import tqdm

            self._shown = now
            text = tqdm.format_meter(
                self.done,
                self.total,
                self.seconds,
                ncols=100,
                prefix=self.description,
                unit=f" {self.unit}",
                postfix=_spelled(self.numbers) or None,
                initial=self.done_before,
            )
            self._show(text)

    def _show(self, text: str) -> None:
        from IPython.display import display

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def close(self) -> None:
        if self._handle is not None:
            self._show(self.line())


class _TqdmBar:
    """A tqdm bar in a terminal, on stderr so that piped output stays clean."""

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str,
        done: int,
        delay: float,
        stays: bool,
    ):
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=description,
            unit=f" {unit}",
            initial=done,
            delay=delay,
            leave=stays,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def update(self, n: int) -> None:
        self._bar.update(n)

    def note(self, numbers: Mapping[str, float]) -> None:
        self._bar.set_postfix_str(_spelled(numbers), refresh=False)

    def close(self) -> None:
        self._bar.close()


def _rich_bar(description: str, total: int | None, unit: str, done: int, delay: float) -> Bar:
    """A rich bar if rich finds a terminal, otherwise lines."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return _Lines(description, total, unit, done, delay)
    return _RichBar(console, description, total, done, delay)


class _RichBar:
    """A rich bar that appears after a delay."""

    def __init__(self, console: Any, description: str, total: int | None, done: int, delay: float):
        from rich.progress import Progress

        self._bar = Progress(transient=True, console=console)
        self._task = self._bar.add_task(description, total=total, completed=done)
        self._start, self._delay = time.monotonic(), delay

    def update(self, n: int) -> None:
        self._bar.advance(self._task, n)
        if not self._bar.live.is_started and time.monotonic() - self._start >= self._delay:
            self._bar.start()

    def note(self, numbers: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        if self._bar.live.is_started:
            self._bar.stop()
