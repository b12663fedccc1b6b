"""The optimizer's part of a training step, compiled as the loops of :mod:`.kernels` are."""

from __future__ import annotations

import functools
import math

import numpy as np

from .kernels import compiled, vectorized

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)


@vectorized
def _adam(weight, grad, mean, square, slow, beta, decay, keep, rate, root, eps):
    for j in range(len(weight)):
        slope = grad[j] + decay * weight[j]
        mean[j] += slow * (slope - mean[j])
        square[j] = beta * square[j] + (_ONE - beta) * (slope * slope)
        weight[j] = keep * weight[j] - rate * mean[j] / (np.sqrt(square[j]) / root + eps)


@compiled
def adam(weights, grads, means, squares, step, rate, betas, decay, decoupled, eps):
    """One step of Adam, or with ``decoupled`` weight decay of AdamW, in place.

    Each of the first four is a tuple of arrays ``(size,)``; ``step`` counts from one.
    """
    keep = _f(1 - rate * decay) if decoupled else _ONE
    added = _ZERO if decoupled else _f(decay)
    size, root = _f(rate / (1 - betas[0] ** step)), _f(math.sqrt(1 - betas[1] ** step))
    for i in range(len(weights)):
        _adam(
            weights[i],
            grads[i],
            means[i],
            squares[i],
            _f(1 - betas[0]),
            _f(betas[1]),
            added,
            keep,
            size,
            root,
            _f(eps),
        )


@functools.cache
def load() -> None:
    """Load, or compile, the innermost loop before the one that calls it, as :func:`.kernels.load` does."""
    one = _ONE
    weight, grad, mean, square = (np.ones(1, np.float32) for _ in range(4))
    _adam(weight, grad, mean, square, one, one, one, one, one, one, one)
