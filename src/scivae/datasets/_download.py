"""Bring a file of the registry onto this machine, whole or not at all.

The transfer itself is pooch's (address, progress bar, time limit). What pooch leaves open is added
here: several mirrors, a temporary file whose name is known (pooch's is random, so that a killed
process leaves an incomplete file that looks like data), a check of files whose checksum no publisher
states, and a lock between processes. pooch has no lock: two processes that ask at once would both
download. The lock is :mod:`filelock`'s; the system releases it when its holder is killed.
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

# Bytes read at once when a file is hashed, checked or received.
_PIECE = 1 << 20
# Asked again at the same mirror after a passing fault (5xx, a cut connection, a time limit).
_ATTEMPTS = 2
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


def dataset_folder() -> Path:
    """Folder for downloads: ``scanpy.settings.datasetdir``, made absolute."""
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
    """Path of a file of the registry, downloaded if it is missing or damaged.

    Parameters
    ----------
    file
        What to fetch.
    folder
        Where ``file.name`` lies. None: ``scanpy.settings.datasetdir``.
    mirrors
        Base addresses that are asked before the ones in the table: the file's own name
        is appended to each.
    timeout
        Seconds without a byte after which a mirror is given up.
    progress
        Whether to draw a progress bar.
    verify
        Whether to hold the content against the published checksums. The form of the file is
        checked in any case.

    Returns
    -------
    Path of the whole, checked file.

    Raises
    ------
    DownloadError
        No mirror gave the file; says which file to put where.
    OSError
        This machine cannot store it (full disk, no permission).
    """
    target = (dataset_folder() if folder is None else Path(folder)) / file.name
    # Files arrive by an atomic rename: one that is there and on record needs no lock.
    if recorded_hash(target) is not None and _damage(target, file, verify=verify) is None:
        return target
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(target))
        except OSError:
            # A folder that is only read from: what lies there is used if it is whole.
            if _damage(target, file, verify=verify) is None:
                return target
            raise
        damage = _damage(target, file, verify=verify)  # another process may have brought it
        if damage is not None:
            _download(file, target, mirrors, timeout, progress, verify, damage)
        elif recorded_hash(target) is None:  # put there by hand
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
                part.unlink(missing_ok=True)  # of a process that was killed while it held the lock
                failure, passing = _transfer(url, part, timeout, progress)
                if failure is None:
                    try:
                        check(part, file, verify=verify)
                    except DamagedFileError as error:
                        failure, passing = str(error), False
                if failure is None:
                    # A record of the file that is replaced must not outlive it.
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
        f"{file.filename}{size} could not be fetched, and the copy at {target} is {damage}. "
        f"Tried: {tried}. Download the file by hand{source} and put it at {target}"
    )


def _transfer(url: str, part: Path, timeout: float, progress: bool) -> tuple[str | None, bool]:
    """One request into ``part``. Returns what went wrong, and whether it may pass."""
    with without_widgets():
        import pooch
    import requests

    # identity: a server that labels .gz as an encoding would have it unpacked on arrival.
    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=_PIECE,
        timeout=timeout,
        headers={"Accept-Encoding": "identity"},
    )
    # O_EXCL follows no link: a link that someone left under this name cannot lead us elsewhere.
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
    # Any other OSError is this machine's: a full disk is not cured by the next mirror.
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
    """What is wrong with the cached file; None when it is whole.

    A file without a record is read through. Once it was found whole, its SHA-256 is written beside
    it (in the form that ``sha256sum -c`` reads), and from then on the hash tells.
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
    """Read a file through and hold it against the registry.

    Raises
    ------
    DamagedFileError
        With the rule that is broken and the value found.
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
            )  # reads to the end, where length and CRC are
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFileError(f"not a whole gzip file: {_one_line(error)}") from error
    if verify and file.unpacked is not None:
        _compare(expected, found, "unpacked file")


def _check_zip(path: Path, file: RemoteFile, verify: bool) -> None:
    del file, verify
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive)
            bad = archive.testzip()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DamagedFileError(f"not a whole zip archive: {_one_line(error)}") from error
    if bad is not None:
        raise DamagedFileError(f"not a whole zip archive: wrong CRC of member {bad!r}")


def _check_tsv(path: Path, file: RemoteFile, verify: bool) -> None:
    del verify
    with path.open("rb") as stream:
        header = stream.readline(_PIECE).rstrip(b"\r\n").split(b"\t")
        names = [name.decode("utf-8", "replace").strip('"') for name in header]
        missing = [column for column in file.columns if column not in names]
        if missing:
            raise DamagedFileError(f"the table lacks column {missing[0]!r} in its header")
        last = b"\n"
        for number, line in enumerate(stream, start=2):
            n_fields = line.count(b"\t") + 1
            if n_fields != len(header):
                raise DamagedFileError(
                    f"line {number} has {n_fields} fields, the header {len(header)}"
                )
            last = line
    if not last.endswith(b"\n"):
        raise DamagedFileError("the last line has no end, so the table is cut short")


_CHECKS: dict[str, Callable[[Path, RemoteFile, bool], None]] = {
    "gzip": _check_gzip,
    "zip": _check_zip,
    "tsv": _check_tsv,
}


def _compare(expected: str, found: str, what: str) -> None:
    if expected != found:
        raise DamagedFileError(f"wrong checksum of the {what}: {found}, expected {expected}")


def _hash_of(stream: IO[bytes] | gzip.GzipFile, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while piece := stream.read(_PIECE):
        digest.update(piece)
    return f"{algorithm}:{digest.hexdigest()}"


def file_hash(path: Path, algorithm: str) -> str:
    """``"algorithm:hex"`` of a file."""
    with path.open("rb") as stream:
        return _hash_of(stream, algorithm)


# ---- the hash beside the file ---------------------------------------------------------------


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def recorded_hash(target: Path) -> str | None:
    """``"sha256:hex"`` that was written beside a file; None without one."""
    try:
        text = _record_path(target).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    words = text.split()
    return f"sha256:{words[0]}" if words and len(words[0]) == 64 else None


def write_record(target: Path) -> None:
    """Write the SHA-256 of a file beside it."""
    digest = file_hash(target, "sha256").removeprefix("sha256:")
    with atomic_write(_record_path(target)) as part:
        part.write_text(f"{digest}  {target.name}\n", encoding="ascii")


def locked(target: Path) -> AbstractContextManager[object]:
    """One process at a time between this one's entry and exit, for one file."""
    from filelock import FileLock

    return FileLock(target.with_name(f".{target.name}.lock"))


@contextlib.contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Temporary path beside ``target``: renamed to it on success, removed on failure.

    Its name is always the same, so that what a killed process left is overwritten by the next one;
    the caller holds the lock of :func:`locked`.
    """
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
