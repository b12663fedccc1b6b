"""Threads that share a minibatch, and one that prepares the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch


class _Threads(NamedTuple):
    """Threads of a ``worker_pool`` block."""

    n_workers: int  # with the one that is in the block
    others: ThreadPoolExecutor
    prefetching: ThreadPoolExecutor


_threads: list[_Threads] = []  # of the blocks that are open, the innermost last


@contextmanager
def worker_pool(n_threads: int) -> Iterator[None]:
    """Share a minibatch among this many threads inside the block, this one included.

    One more is there for :func:`prefetch`. They live as long as the block: each thread has memory of
    its own, which is not given back.
    """
    like_this = partial(torch.set_num_threads, torch.get_num_threads())
    with (
        ThreadPoolExecutor(max(1, n_threads - 1), initializer=like_this) as others,
        ThreadPoolExecutor(1, initializer=like_this) as one,
    ):
        _threads.append(_Threads(n_threads, others, one))
        try:
            yield
        finally:
            _threads.pop()


def n_workers() -> int:
    """Threads that share a minibatch here."""
    return _threads[-1].n_workers if _threads else 1


def prefetch(calls: Iterable[Callable[[], Any]], n: int) -> Iterator[Any]:
    """Results of calls, in order; up to ``n`` are computed ahead of use."""
    if not _threads:
        yield from (call() for call in calls)
        return
    waiting: deque[Future] = deque()
    for call in calls:
        waiting.append(_threads[-1].prefetching.submit(call))
        if len(waiting) > n:
            yield waiting.popleft().result()
    yield from (call.result() for call in waiting)


def in_threads(function: Callable, *arguments: Sequence) -> list:
    """``map`` over threads: this one takes the first item, the others the rest."""
    first, *others = zip(*arguments, strict=True)
    if not others or n_workers() == 1:
        return [function(*these) for these in (first, *others)]
    # the gradient is worked out here, in every thread
    waiting = [_threads[-1].others.submit(torch.no_grad()(function), *these) for these in others]
    return [function(*first), *(found.result() for found in waiting)]
