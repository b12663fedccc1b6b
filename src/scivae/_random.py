"""Seeded randomness that neither reads nor changes the global random state."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

# Global generators, thread counts and a network's training mode are shared by all threads.
LOCK = threading.RLock()
_seeds: list[int] = []  # of the nested seeded blocks of the thread that holds the lock


def epoch_seed(seed: int, epoch: int, rank: int = 0, *others: int) -> int:
    """Seed of an epoch in one process (rank)."""
    words = (seed, epoch, rank, *others) if rank or others else (seed, epoch)
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@contextmanager
def usual_torch() -> Iterator[None]:
    """Run a block with torch's default settings, then restore the caller's.

    Inside the block, tensors are ``float32`` and on the CPU by default, even if the caller used
    ``torch.set_default_dtype`` or ``torch.set_default_device``, and training works even inside
    ``torch.inference_mode()``.
    """
    # Setting a default device slows every torch call, so it is set only if needed.
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
    """Seed the global generators for a block, then restore their state.

    Network layers and the data loaders of scvi-tools draw from the global generators of torch and
    numpy. Inside the block, these draws depend only on ``seed``.
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
    """Make an inherited method use the model's seed instead of the global generators.

    If one such method calls another, the inner one continues the outer one's random stream, so that
    two samples differ.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with LOCK, nullcontext() if _seeds else seeded(self._seed):
            return method(self, *args, **kwargs)

    return call
