"""Randomness that is an argument: nobody else's random state is read or changed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Generators, thread counts and the mode of a network belong to the whole process: one thread at a time.
LOCK = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under seeded global generators, then put all of them back.

    The layers of the network and the loaders of scvi-tools draw from the global generators of
    torch and numpy; what they draw inside the block depends on ``seed`` alone.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with LOCK, torch.random.fork_rng(devices=devices):
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        torch.manual_seed(seed % 2**64)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
