"""How the steps of training are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ..data.loader import BLOCK_VALUES
from ..nb.workers import sharing

# Minibatches that are prepared while one is trained on.
AHEAD = 2


# Threads that share a minibatch: with more, they wait for each other in Python.
MOST_SHARES = 4


# Fewer values of the expression matrix are not worth a thread of their own.
VALUES_A_SHARE = 2**18


# Arguments of the trainer whose meaning depends on one minibatch being one step of its own.
STEPWISE = frozenset(
    {
        "accumulate_grad_batches",
        "fast_dev_run",
        "gradient_clip_algorithm",
        "gradient_clip_val",
        "limit_train_batches",
        "limit_val_batches",
        "max_steps",
        "num_nodes",
        "overfit_batches",
        "strategy",
        "val_check_interval",
    }
)


@contextmanager
def threads_share_cells(n_values: int) -> Iterator[None]:
    """Give the threads of torch to parts of a minibatch, in place of parts of each operation.

    Most operations of a step are too small to be worth waiting for several threads at each. In a small
    minibatch, so are its parts: there, one thread trains less, and is left to what is prepared beside it.

    Parameters
    ----------
    n_values
        Cells of a minibatch times genes; 0 changes nothing.
    """
    if n_values == 0:
        yield
        return
    before = torch.get_num_threads()
    n_shares = max(1, min(before, MOST_SHARES, n_values // VALUES_A_SHARE))
    torch.set_num_threads(max(1, before // n_shares if n_shares > 1 else before - 1))
    try:
        with sharing(n_shares):
            yield
    finally:
        torch.set_num_threads(before)


def minibatches_a_block(batch_size: int, n_vars: int) -> int:
    """Minibatches that are read, and trained on, between two looks of the framework."""
    return int(np.clip(BLOCK_VALUES // (batch_size * n_vars), 1, 32))
