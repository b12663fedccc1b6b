"""The log of a command, in the terminal and in a file, and files of options."""

from __future__ import annotations

import os
import platform
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import _progress
from .wording import of_command

PACKAGES = ("scivae-tools", "scvi-tools", "anndata", "scanpy", "torch", "numpy", "pandas")


class StoppedError(RuntimeError):
    """An error after a command had written some results; its text says where these are."""


class Log:
    """Lines for the terminal and for a file.

    Parameters
    ----------
    quiet
        Show warnings and errors only; the file has all lines.
    options
        Names of the options of the command, by which messages of Python functions are worded.
    """

    def __init__(self, quiet: bool = False, options: Collection[str] = ()):
        self.quiet = quiet
        self.options = options
        self.started = time.perf_counter()
        self._lines: list[str] = []
        self._file: Path | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the command started."""
        return time.perf_counter() - self.started

    def worded(self, text: Any) -> str:
        """A message in one line, in the words of the command."""
        return of_command(" ".join(str(text).split()), self.options)

    def say(self, text: str) -> None:
        """Print a text and write it to the file."""
        if not self.quiet:
            print(text, flush=True)
        self.keep(text)

    def keep(self, text: str) -> None:
        """Write a text to the file, or keep it until there is a file."""
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        self._lines += [f"{now}  {line}".rstrip() for line in text.splitlines() if line.strip()]
        if self._file is not None:
            with self._file.open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(f"{line}\n" for line in self._lines)
            self._lines = []

    def open(self, path: Path) -> None:
        """Create the file, with all texts so far."""
        path.write_text("", encoding="utf-8")
        self._file = path
        self.keep(
            f"scivae {version('scivae-tools')}, {' '.join(map(printable_path, sys.argv[1:]))}"
        )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Log each warning in one line."""

        def show(message, category, filename, lineno, file=None, line=None):
            text = f"scivae: warning: {self.worded(message)}"
            print(text, file=sys.stderr, flush=True)
            self.keep(text)

        with warnings.catch_warnings(), _progress_hidden(self.quiet):
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category)
            warnings.showwarning = show
            yield


@contextmanager
def _progress_hidden(hidden: bool) -> Iterator[None]:
    """Hide progress bars and messages of scvi-tools."""
    if not hidden:
        yield
        return
    import logging

    logger = logging.getLogger("scvi")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with _progress.hidden():
            yield
    finally:
        logger.setLevel(before)


def printable_path(path: Any) -> str:
    """A path or argument as printable text, even if it is not valid in the encoding."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def write_config(path: Path, command: str, options: Mapping[str, Any]) -> None:
    """Write the options of a command to a file that ``--config`` can read."""
    import yaml

    head = [
        f"# scivae {command} --config {path.name} runs this again. Made with:",
        "# " + ", ".join(f"{name} {number}" for name, number in versions().items()),
    ]
    plain = {name: _plain(value) for name, value in options.items() if value is not None}
    body = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    path.write_text("\n".join([*head, body]), encoding="utf-8", errors="replace")


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return printable_path(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def read_config(path: Path) -> dict[str, Any]:
    """Read options from a TOML or YAML file.

    Raises
    ------
    ValueError
        If the file does not exist, is neither TOML nor YAML, or does not contain a table of options.
    """
    import tomllib

    import yaml

    if not path.is_file():
        raise ValueError(
            f"--config must be a file, got {path}, which does not exist; check the path."
        )
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--config must be a file of TOML (named .toml) or YAML, but {path} is not ({reason}); "
            "correct it."
        ) from error
    found = {} if found is None else found
    if not isinstance(found, dict):
        raise ValueError(
            f"--config must hold options by name, as in 'labels_key: cell_type', but {path} holds "
            f"a {type(found).__name__}; write one option per line."
        )
    return {str(name): value for name, value in found.items()}
