"""Threads that share a minibatch, and a thread that prepares the next one."""

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

    n_workers: int  # including the thread that runs the block
    others: ThreadPoolExecutor
    prefetching: ThreadPoolExecutor


_threads: list[_Threads] = []  # of nested open blocks, the innermost last


@contextmanager
def worker_pool(n_threads: int) -> Iterator[None]:
    """Inside the block, share each minibatch among this many threads, including the calling thread.

    One further thread serves :func:`prefetch`. All live as long as the block, because torch does not free
    the memory of a thread.
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
    """Number of threads that share a minibatch in the current block."""
    return _threads[-1].n_workers if _threads else 1


def prefetch(calls: Iterable[Callable[[], Any]], n: int) -> Iterator[Any]:
    """Results of the calls, in order; up to ``n`` calls are run ahead."""
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
    """``map`` over threads: the calling thread takes the first item, the others the rest."""
    first, *others = zip(*arguments, strict=True)
    if not others or n_workers() == 1:
        return [function(*these) for these in (first, *others)]
    # gradients are calculated by hand in every thread, so autograd must not record them
    waiting = [_threads[-1].others.submit(torch.no_grad()(function), *these) for these in others]
    return [function(*first), *(found.result() for found in waiting)]
