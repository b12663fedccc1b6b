"""Randomness by seed: the global random state is neither read nor changed."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

# Generators, thread counts and the mode of a network belong to the whole process: one thread at a time.
LOCK = threading.RLock()
_seeds: list[int] = []  # of the blocks that the thread with the lock is in


def epoch_seed(seed: int, epoch: int, rank: int = 0, *others: int) -> int:
    """Seed of what an epoch draws, in one of several processes."""
    words = (seed, epoch, rank, *others) if rank or others else (seed, epoch)
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@contextmanager
def usual_torch() -> Iterator[None]:
    """Run a block as torch runs by default, whatever the caller has set, then put that back.

    The network is of ``float32`` under ``torch.set_default_dtype(torch.float64)``, too, takes its cells
    from the CPU under ``torch.set_default_device("cuda")``, and can be trained inside
    ``torch.inference_mode()``.
    """
    # A device that is asked for slows every call of torch down.
    on_cpu = torch.get_default_device().type == "cpu"
    with LOCK, torch.inference_mode(False), nullcontext() if on_cpu else torch.device("cpu"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under seeded global generators, then put all of them back.

    The layers of the network and the loaders of scvi-tools draw from the global generators of
    torch and numpy; what they draw inside the block depends on ``seed`` alone.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with usual_torch(), torch.random.fork_rng(devices=devices):
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        torch.manual_seed(seed % 2**64)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        _seeds.append(seed)
        try:
            yield
        finally:
            _seeds.pop()
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def draws_by_seed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make an inherited method draw by the seed of the model, not from the global generators.

    Inside another such method it goes on with that one's draws: two samples are to differ.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with LOCK, nullcontext() if _seeds else seeded(self._seed):
            return method(self, *args, **kwargs)

    return call
