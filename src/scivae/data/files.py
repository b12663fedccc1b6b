"""Atomic writing of files, and reading without running code from them."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Files of a save that is complete but not yet in its place; see ``new_files``.
_COMPLETE = ".complete"
# What a killed process left behind is swept up after a day: a younger one may be at work.
_STALE = 24 * 3600


def read(path: Path, *, trusted: bool = False) -> Any:
    """What :func:`torch.save` wrote, on the CPU.

    Parameters
    ----------
    path
        The file.
    trusted
        Also build objects that only running code from the file can build.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or names code and is not trusted.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=not trusted)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # what a damaged file makes torch raise is not stated
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and named and not trusted:
            other = " Load a model of another class, such as SCVI, with that class."
            raise ValueError(
                f"a model file must contain only numbers and text, but {path} names {named[1]!r}, "
                "which loading would execute; nothing was executed. Pass trusted=True only if you "
                f"trust the source of the file.{other if named[1].startswith('numpy.') else ''}"
            ) from error
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{path} is not a complete model file "
            f"({reason[0] if reason else type(error).__name__}); save the model again, or download "
            "the file again."
        ) from error


def write(path: Path, value: Any) -> None:
    """Write a value that :func:`read` reads; the file system's errors come as OSError."""
    with path.open("wb") as stream:
        torch.save(value, stream)


@contextlib.contextmanager
def storing(target: Path) -> Iterator[None]:
    """Errors of a block that writes files, as an OSError that says what became of them."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        if isinstance(error, RuntimeError):  # torch and h5py: some of theirs are the file system's
            stated = re.search(r"errno = (\d+)", str(error))
            if not stated and "PytorchStreamWriter" not in str(error):
                raise
            number = int(stated[1]) if stated else None
        reason = os.strerror(number) if number else str(error).strip().splitlines()[0]
        raise OSError(
            number or 0,
            f"cannot write ({reason}); what was there before is untouched. Free some space there, "
            "or choose another folder",
            str(target),
        ) from error


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Path of a file that takes the place of ``target`` at the end of the block, if it ends well."""
    part = target.with_name(f".{target.name}.part")
    try:
        with storing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield part
            _sync(part)
            os.replace(part, target)
            _sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_files(target: Path) -> Iterator[Path]:
    """Folder whose files all move into the folder ``target`` at the end of the block, or none.

    A folder that is new is renamed to ``target``. Into one that exists, files move one by one, but
    first their folder is renamed to ``target/.complete``: from that moment :func:`find` takes them
    from there, so that all are saved even if the process is killed.
    """
    exists = target.is_dir()
    home = target if exists else target.parent
    part = home / f".{target.name}.saving-{uuid.uuid4().hex}"
    try:
        with storing(target):
            home.mkdir(parents=True, exist_ok=True)
            for old in home.glob(f".{target.name}.saving-*"):
                if time.time() - old.stat().st_mtime > _STALE:
                    shutil.rmtree(old, ignore_errors=True)
            part.mkdir()
            yield part
            for path in (*part.iterdir(), part):
                _sync(path)
            if exists:
                _finish(target)  # what a killed process left to do
                part.rename(target / _COMPLETE)
                _sync(target)
                _finish(target)
            else:
                part.rename(target)
            _sync(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _finish(target: Path) -> None:
    """Move the files of a complete save to where they belong."""
    complete = target / _COMPLETE
    if complete.is_dir():
        for path in complete.iterdir():
            os.replace(path, target / path.name)
        complete.rmdir()


def find(folder: Path, name: str) -> Path:
    """Path of a file of a saved model, wherever a process that was killed has left it."""
    complete = folder / _COMPLETE / name
    return complete if complete.exists() else folder / name
