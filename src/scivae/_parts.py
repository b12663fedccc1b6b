"""Work that several processes share, and that goes on where it stopped.

Work is divided into parts that do not depend on the number of processes. Each process makes every n-th part
and writes it into a folder that all can read. The processes send no messages: they look into the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from ._progress import advance, progress

# Seconds between two looks into the folder.
PAUSE = 0.2


class Process(NamedTuple):
    """Number of this process among those that were started together, from 0, and how many there are."""

    rank: int
    n: int


def this_process() -> Process:
    """Rank of this process, from torch.distributed or from torchrun's variables; without them, 0 of 1.

    Raises
    ------
    ValueError
        If RANK and WORLD_SIZE do not fit together.
    """
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Process(distributed.get_rank(), distributed.get_world_size())
    rank, n = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and n in (None, "", "1"):
        return Process(0, 1)
    if not (rank or "").isdigit() or not (n or "").isdigit() or int(rank or 0) >= int(n or 0):
        raise ValueError(
            "RANK must be an integer from 0 to below WORLD_SIZE, but the environment has "
            f"RANK={rank!r} and WORLD_SIZE={n!r}; start the processes with torchrun, which sets both, "
            "or unset both for a single process."
        )
    return Process(int(rank or 0), int(n or 0))


def digest(*values: Any) -> str:
    """A short hash of arrays, sparse matrices and texts, in hexadecimal digits."""
    found = hashlib.blake2b(digest_size=8)
    for value in values:
        for part in ("data", "indices", "indptr") if hasattr(value, "indptr") else (None,):
            array = np.asarray(value if part is None else getattr(value, part))
            found.update(f"{array.dtype.kind}{array.shape}".encode())
            if array.dtype.kind in "OUS":
                found.update("\0".join(map(str, array.ravel())).encode())
            else:
                found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class Parts:
    """The parts of a piece of work, in a folder that all processes can read and write.

    As a context manager, it tells the other processes of an error in the block.

    Parameters
    ----------
    folder
        The folder. It is created if it does not exist.
    n
        Number of parts.
    ending
        Ending of the names of parts: ``".npy"`` for arrays.
    **work
        Description of the work: numbers, texts and digests. Parts of other work are not used.

    Raises
    ------
    ValueError
        If the folder holds parts of other work.
    """

    def __init__(self, folder: str | os.PathLike, n: int, *, ending: str = ".npy", **work: Any):
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(
                f"parts must be the path of a folder, got {type(folder).__name__}; pass the path as "
                "text."
            )
        self.rank, self.n_processes = this_process()
        self.folder, self.n, self.ending = Path(folder).absolute(), n, ending
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"parts must be a folder, but {self.folder} is a file; choose another."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        work |= {"n_parts": n, "scivae": version("scivae-tools")}
        said = {name: str(value) for name, value in work.items()}
        about = self.folder / "work.json"
        if about.exists():
            before = json.loads(about.read_text(encoding="utf-8"))
            differ = [name for name in {**before, **said} if before.get(name) != said.get(name)]
            if differ:
                if self.n_processes > 1:  # the others would wait for this one
                    self._fail("it makes another call")
                raise ValueError(
                    f"parts must be of one call, but {self.folder} holds those of another, which "
                    f"differs in {', '.join(differ)}; choose another folder, or delete this one."
                )
        else:
            self._start()  # before any process that makes another call can see it, and fail
            self._replace(about, json.dumps(said, indent=1).encode())

    # --- the folder --------------------------------------------------------------------------------

    def path(self, i: int) -> Path:
        """Path of a part; it exists once the part is whole."""
        return self.folder / f"part_{i:05d}{self.ending}"

    def _of_process(self, what: str, rank: int | None = None) -> Path:
        return self.folder / f"{what}_{self.rank if rank is None else rank}"

    def _replace(self, path: Path, *contents: bytes | np.ndarray) -> None:
        """Write a file as a whole: it has its name once all of it is on the disk."""
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with part.open("wb") as stream:
                for content in contents:
                    if isinstance(content, bytes):
                        stream.write(content)
                    else:
                        np.lib.format.write_array(stream, content, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    # --- the work ----------------------------------------------------------------------------------

    def missing(self) -> Iterator[int]:
        """Parts of this process that are not made yet."""
        return (i for i in range(self.rank, self.n, self.n_processes) if not self.path(i).exists())

    def write(self, i: int, arrays: Sequence[np.ndarray]) -> None:
        """Write a part: arrays, of which none holds Python objects."""
        self._replace(self.path(i), *map(np.asarray, arrays))

    def read(self) -> Iterator[list[np.ndarray]]:
        """Wait until all parts are made, and yield the arrays of each, in their order."""
        self.wait()
        for i in range(self.n):
            size, found = self.path(i).stat().st_size, []
            with self.path(i).open("rb") as stream:
                while stream.tell() < size:
                    found.append(np.lib.format.read_array(stream, allow_pickle=False))
            yield found

    def wait(self) -> None:
        """Wait until all processes have made their parts."""
        left = [i for i in range(self.n) if not self.path(i).exists()]
        if left:
            with progress("waiting for other processes", len(left), unit="parts"):
                while left:
                    self._pause()
                    still = [i for i in left if not self.path(i).exists()]
                    advance(len(left) - len(still))
                    left = still

    @property
    def done(self) -> bool:
        """Whether the result of all parts has been written."""
        return (self.folder / "done").exists()

    def finish(self, write: Callable[[], None]) -> None:
        """Write the result, once: by the process of rank 0, for which the others wait. Parts are removed then.

        Parameters
        ----------
        write
            Writes the result; called when all parts are made.
        """
        if self.rank == 0 and not self.done:
            self.wait()
            ranks = range(self.n_processes)
            while not all(self._of_process("started", rank).exists() for rank in ranks):
                self._pause()  # a file cannot be written while a process opens it
            write()
            self._replace(self.folder / "done", b"")
            for i in range(self.n):
                path = self.path(i)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        while not self.done:
            self._pause()

    # --- errors ------------------------------------------------------------------------------------

    def __enter__(self) -> Parts:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, OtherProcessError):
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._fail(said)

    def _start(self) -> None:
        self._of_process("failed").unlink(missing_ok=True)
        self._replace(self._of_process("started"), b"")

    def _fail(self, why: str) -> None:
        self._replace(self._of_process("failed"), why.encode())

    def _pause(self) -> None:
        """Wait a little; raise if another process has failed since this one started."""
        started = self._of_process("started").stat().st_mtime_ns
        for rank in range(self.n_processes):
            failed = self._of_process("failed", rank)
            if rank != self.rank and failed.exists() and failed.stat().st_mtime_ns >= started:
                raise OtherProcessError(
                    f"all {self.n_processes} processes must make their parts, but process {rank} "
                    f"failed ({failed.read_text(encoding='utf-8')}); repeat the call, which uses the "
                    "parts that are made."
                )
        time.sleep(PAUSE)


class OtherProcessError(RuntimeError):
    """Another process that shares the work has failed."""


def digest_of_weights(weights: Mapping[str, Any]) -> str:
    """Digest of the weights of a network, ``module.state_dict()``."""
    return digest(*(value for w in weights.items() for value in (w[0], w[1].cpu().numpy())))
