"""Atomic writing of files, and reading without running code from them."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Folder of a save that is complete, but whose files were not moved yet; see ``new_files``.
_COMPLETE = ".complete"
# Age in seconds after which temporary files are removed as those of a killed process.
_STALE = 24 * 3600


def read(path: Path, *, trusted: bool = False) -> Any:
    """Read a file that :func:`torch.save` wrote; tensors are put on the CPU.

    Parameters
    ----------
    path
        The file.
    trusted
        Also read files that run code when they are read.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged, or would run code and is not trusted.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=not trusted)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torch raises various errors for damaged files
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and named and not trusted:
            if (other := _class_of(path)) not in ("CIVAE", None):
                raise ValueError(
                    f"a model file must be of a CIVAE, but {path} is of {other!r}; nothing was "
                    f"executed. Load it with the class {other} if you trust the source of the file."
                ) from error
            raise ValueError(
                f"a model file must contain only numbers and text, but {path} names {named[1]!r}, "
                "which loading would execute; nothing was executed. Pass trusted=True only if you "
                "trust the source of the file."
            ) from error
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{path} is not a complete model file "
            f"({reason[0] if reason else type(error).__name__}); save the model again, or download "
            "the file again."
        ) from error


def _class_of(path: Path) -> str | None:
    """Name of the class that a model file says it is of, read as text; ``None`` if it says none."""
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as parts:  # it may be damaged
        (name,) = (n for n in parts.namelist() if n.endswith("data.pkl"))
        found = [a for _, a, _ in pickletools.genops(parts.read(name)) if isinstance(a, str)]
        text = found[found.index("model_name") + 1]
        return text if text.isidentifier() else None
    return None


def write(path: Path, value: Any) -> None:
    """Write a value for :func:`read`; errors of the file system are raised as OSError."""
    with path.open("wb") as stream:
        torch.save(value, stream)


@contextlib.contextmanager
def storing(target: Path) -> Iterator[None]:
    """Raise errors of a block that writes files as an OSError that says what happened to them."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        # torch and h5py raise RuntimeError for some errors of the file system.
        if isinstance(error, RuntimeError):
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
    """Flush a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces ``target`` if the block ends without an error."""
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
    """Yield a temporary folder; at the end of the block, all or none of its files move to ``target``.

    If ``target`` does not exist, the temporary folder is renamed to it. If it exists, the temporary folder is
    first renamed to ``target/.complete``, and its files are then moved one by one. :func:`find` also looks
    in ``.complete``, so the save is complete even if the process is killed while files are moved.
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
                _finish(target)  # complete the save of a killed process
                part.rename(target / _COMPLETE)
                _sync(target)
                _finish(target)
            else:
                part.rename(target)
            _sync(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _finish(target: Path) -> None:
    """Move the files of a complete save to their final names."""
    complete = target / _COMPLETE
    if complete.is_dir():
        for path in complete.iterdir():
            os.replace(path, target / path.name)
        complete.rmdir()


def find(folder: Path, name: str) -> Path:
    """Path of a file of a saved model, also if a killed process left it in ``.complete``."""
    complete = folder / _COMPLETE / name
    return complete if complete.exists() else folder / name
