"""Download files of the registry. A file is stored only if it is complete.

pooch does the transfer (address, progress bar, timeout). This module adds what pooch lacks: several
mirrors, a temporary file with a known name (pooch's is random, so a killed process leaves an
incomplete file that looks like data), checks of files without a published checksum, and a lock, so
that two processes do not download the same file. The lock is from :mod:`filelock`; the system
releases it if its process is killed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from .._progress import without_widgets
from ._atlas import check_archive
from ._errors import DamagedFileError, DownloadError
from .registry import RemoteFile

# Bytes read at once when a file is hashed, checked or downloaded.
_PIECE = 1 << 20
# Attempts per mirror after a temporary failure (5xx, lost connection, timeout).
_ATTEMPTS = 2
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


def dataset_folder() -> Path:
    """Folder for downloads: ``scanpy.settings.datasetdir`` as an absolute path."""
    import scanpy as sc

    return Path(sc.settings.datasetdir).expanduser().absolute()


def fetch(
    file: RemoteFile,
    folder: Path | None = None,
    *,
    mirrors: Sequence[str] = (),
    timeout: float = 30.0,
    progress: bool = True,
    verify: bool = True,
) -> Path:
    """Return the path of a file of the registry; download it if it is missing or damaged.

    Parameters
    ----------
    file
        The file to download.
    folder
        Folder of ``file.name``. None: ``scanpy.settings.datasetdir``.
    mirrors
        Base addresses that are tried before those in the registry; the file name is appended to
        each.
    timeout
        Seconds without data after which a mirror is abandoned.
    progress
        Whether to show a progress bar.
    verify
        Whether to compare the content with published checksums. The file format is always checked.

    Returns
    -------
    Path of the complete, checked file.

    Raises
    ------
    DownloadError
        If no mirror provides the file. The message says which file to put where.
    OSError
        If the file cannot be stored (disk full, no permission).
    """
    target = (dataset_folder() if folder is None else Path(folder)) / file.name
    # Files are renamed atomically, so an existing file with a matching record needs no lock.
    if recorded_hash(target) is not None and _damage(target, file, verify=verify) is None:
        return target
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(target))
        except OSError:
            # Read-only folder: use the file if it is complete.
            if _damage(target, file, verify=verify) is None:
                return target
            raise
        damage = _damage(target, file, verify=verify)  # another process may have downloaded it
        if damage is not None:
            _download(file, target, mirrors, timeout, progress, verify, damage)
        elif recorded_hash(target) is None:  # placed there manually
            write_record(target)
    return target


def _download(
    file: RemoteFile,
    target: Path,
    mirrors: Sequence[str],
    timeout: float,
    progress: bool,
    verify: bool,
    damage: str,
) -> None:
    """Try every mirror; the lock is held."""
    urls = (*(f"{base.rstrip('/')}/{file.filename}" for base in mirrors), *file.urls)
    failures = []
    part = target.with_name(f".{target.name}.part")
    try:
        for url in urls:
            for attempt in range(_ATTEMPTS):
                part.unlink(missing_ok=True)  # left by a process that was killed
                failure, passing = _transfer(url, part, timeout, progress)
                if failure is None:
                    try:
                        check(part, file, verify=verify)
                    except DamagedFileError as error:
                        failure, passing = str(error), False
                if failure is None:
                    # Remove the record of the replaced file first.
                    _record_path(target).unlink(missing_ok=True)
                    os.replace(part, target)
                    write_record(target)
                    return
                if not passing or attempt == _ATTEMPTS - 1:
                    failures.append(f"{url}: {failure}")
                    break
    finally:
        part.unlink(missing_ok=True)
    raise DownloadError(_by_hand(file, target, urls, failures, damage))


def _by_hand(
    file: RemoteFile, target: Path, urls: Sequence[str], failures: Sequence[str], damage: str
) -> str:
    size = "" if file.megabytes is None else f" (about {file.megabytes:g} MB)"
    tried = "; ".join(failures) or "no address is known"
    source = f" from {(file.urls or urls)[0]}" if urls else ""
    return (
        f"{file.filename}{size} could not be downloaded, and the copy at {target} is {damage}. "
        f"Tried: {tried}. Download the file manually{source} and save it as {target}"
    )


def _transfer(url: str, part: Path, timeout: float, progress: bool) -> tuple[str | None, bool]:
    """Download once into ``part``. Return the failure, if any, and whether it may be temporary."""
    with without_widgets():
        import pooch
    import requests

    # identity: otherwise a server that declares .gz as an encoding makes the client unpack it.
    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=_PIECE,
        timeout=timeout,
        headers={"Accept-Encoding": "identity"},
    )
    # O_EXCL does not follow links, so a link with this name cannot redirect the download.
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0))
    try:
        with os.fdopen(descriptor, "wb") as stream:
            downloader(url, stream, None)
            stream.flush()
            os.fsync(stream.fileno())
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        return f"HTTP {status}", status in _PASSING
    except requests.Timeout:
        return f"no answer within {timeout:g} s", True
    except requests.RequestException as error:
        return f"{type(error).__name__}: {_one_line(error)}", True
    # Any other OSError is local (such as a full disk), so other mirrors would not help.
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot store the download of {url}: {error.strerror}; free some space there, or "
            "point scanpy.settings.datasetdir to another folder",
            str(part.parent),
        ) from error
    return None, False


def _one_line(error: BaseException, limit: int = 160) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# ---- checks ---------------------------------------------------------------------------------


def _damage(target: Path, file: RemoteFile, *, verify: bool) -> str | None:
    """Return the problem with the cached file; None if it is complete.

    A file without a record is read completely. If it is complete, its SHA-256 is stored next to it
    (in the format of ``sha256sum -c``), and later calls compare the hash.
    """
    if not target.is_file():
        return "missing"
    record = recorded_hash(target)
    if record is not None and record != file_hash(target, "sha256"):
        return (
            f"damaged (its SHA-256 is not the recorded one; if you replaced it on purpose, "
            f"delete {_record_path(target).name})"
        )
    if record is None or (verify and (file.checksum or file.unpacked)):
        try:
            check(target, file, verify=verify)
        except DamagedFileError as error:
            return f"damaged ({error})"
    return None


def check(path: Path, file: RemoteFile, *, verify: bool = True) -> None:
    """Read a file completely and compare it with the registry.

    Raises
    ------
    DamagedFileError
        If the file does not match.
    """
    if verify and file.checksum is not None:
        _compare(file.checksum, file_hash(path, file.checksum.split(":")[0]), "file")
    _CHECKS[file.format](path, file, verify)


def _check_gzip(path: Path, file: RemoteFile, verify: bool) -> None:
    expected = file.unpacked or "md5"
    try:
        with gzip.open(path, "rb") as stream:
            found = _hash_of(
                stream, expected.split(":")[0]
            )  # reads to the end, which checks length and CRC
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFileError(f"not a complete gzip file: {_one_line(error)}") from error
    if verify and file.unpacked is not None:
        _compare(expected, found, "unpacked file")


def _check_zip(path: Path, file: RemoteFile, verify: bool) -> None:
    del file, verify
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive)
            bad = archive.testzip()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DamagedFileError(f"not a complete zip archive: {_one_line(error)}") from error
    if bad is not None:
        raise DamagedFileError(f"not a complete zip archive: wrong CRC of member {bad!r}")


def _check_tsv(path: Path, file: RemoteFile, verify: bool) -> None:
    del verify
    with path.open("rb") as stream:
        header = stream.readline(_PIECE).rstrip(b"\r\n").split(b"\t")
        names = [name.decode("utf-8", "replace").strip('"') for name in header]
        missing = [column for column in file.columns if column not in names]
        if missing:
            raise DamagedFileError(f"the header must have a column {missing[0]!r}, got none")
        last = b"\n"
        for number, line in enumerate(stream, start=2):
            n_fields = line.count(b"\t") + 1
            if n_fields != len(header):
                raise DamagedFileError(
                    f"line {number} must have {len(header)} fields like the header, got {n_fields}"
                )
            last = line
    if not last.endswith(b"\n"):
        raise DamagedFileError("the last line must end with a newline, got none: truncated")


_CHECKS: dict[str, Callable[[Path, RemoteFile, bool], None]] = {
    "gzip": _check_gzip,
    "zip": _check_zip,
    "tsv": _check_tsv,
}


def _compare(expected: str, found: str, what: str) -> None:
    if expected != found:
        raise DamagedFileError(f"the checksum of the {what} must be {expected}, got {found}")


def _hash_of(stream: IO[bytes] | gzip.GzipFile, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while piece := stream.read(_PIECE):
        digest.update(piece)
    return f"{algorithm}:{digest.hexdigest()}"


def file_hash(path: Path, algorithm: str) -> str:
    """``"algorithm:hex"`` of a file."""
    with path.open("rb") as stream:
        return _hash_of(stream, algorithm)


# ---- stored hashes --------------------------------------------------------------------------


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def recorded_hash(target: Path) -> str | None:
    """``"sha256:hex"`` stored next to a file; None if there is none."""
    try:
        text = _record_path(target).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    words = text.split()
    return f"sha256:{words[0]}" if words and len(words[0]) == 64 else None


def write_record(target: Path) -> None:
    """Store the SHA-256 of a file next to it."""
    digest = file_hash(target, "sha256").removeprefix("sha256:")
    with atomic_write(_record_path(target)) as part:
        part.write_text(f"{digest}  {target.name}\n", encoding="ascii")


def locked(target: Path) -> AbstractContextManager[object]:
    """Lock a file, so that only one process at a time writes it."""
    from filelock import FileLock

    return FileLock(target.with_name(f".{target.name}.lock"))


@contextlib.contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Temporary path next to ``target``, renamed to ``target`` on success and removed on failure.

    The name is always the same, so leftovers of a killed process are overwritten. The caller must
    hold the lock of :func:`locked`.
    """
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
