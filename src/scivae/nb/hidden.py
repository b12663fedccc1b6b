"""All of a training step but the products over genes: hidden layers, latent space, classifier.

For networks with one hidden layer in the encoder and one in the decoder, each with batch normalization and
ReLU. The loops give the results of torch's operations and of their gradients. They are compiled as those of
:mod:`.kernels`: arrays in, arrays out, without the global interpreter lock.

Shapes: ``n`` cells, ``H`` hidden units of the encoder and ``D`` of the decoder, ``L`` latent dimensions, ``K``
further inputs of the decoder, ``C`` classes. All arrays are float32 and contiguous.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from .kernels import compiled, vectorized

_f = np.float32
_ZERO, _HALF, _ONE = _f(0), _f(0.5), _f(1)


class Normalization(NamedTuple):
    """Parameters and running statistics of a batch normalization, each ``(m,)``."""

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class Heads(NamedTuple):
    """The layers that give mean and log-variance of the posterior."""

    mean_weight: np.ndarray  # (L, H)
    mean_bias: np.ndarray  # (L,)
    log_weight: np.ndarray
    log_bias: np.ndarray


class Layers(NamedTuple):
    """The parameters between the first layer and the last one, or their gradients."""

    encoder_bias: np.ndarray  # (H,)
    encoder: Normalization
    heads: Heads
    decoder_weight: np.ndarray  # (D, L + K)
    decoder_bias: np.ndarray  # (D,)
    decoder: Normalization


class Activated(NamedTuple):
    """A layer after batch normalization and ReLU."""

    normalized: np.ndarray  # (n, m)
    inverse: np.ndarray  # (m,), by which it was multiplied: 1 / standard deviation
    units: np.ndarray  # (n, m), after weight, bias and ReLU


class Latent(NamedTuple):
    """The posterior of the cells and a draw from it, each ``(n, L)``; ``kl`` is ``(n,)``."""

    mean: np.ndarray
    variance: np.ndarray
    noise: np.ndarray
    z: np.ndarray
    kl: np.ndarray


@vectorized
def _add(total, row, factor):
    for j in range(len(total)):
        total[j] += factor * row[j]


@vectorized
def _add_product(total, row, other):
    for j in range(len(total)):
        total[j] += row[j] * other[j]


@vectorized
def _add_square(total, row, center):
    for j in range(len(total)):
        total[j] += (row[j] - center[j]) * (row[j] - center[j])


@vectorized
def _dot(row, other):
    total = _ZERO
    for j in range(len(row)):
        total += row[j] * other[j]
    return total


@vectorized
def _standardize(row, center, inverse):
    for j in range(len(row)):
        row[j] = (row[j] - center[j]) * inverse[j]


@vectorized
def _relu(row, weight, bias, out):
    for j in range(len(row)):
        value = row[j] * weight[j] + bias[j]
        out[j] = _ZERO if value < _ZERO else value  # NaN stays NaN


@vectorized
def _relu_back(grad, out):
    for j in range(len(grad)):
        grad[j] = grad[j] if out[j] > _ZERO else _ZERO


@vectorized
def _standardize_back(grad, normalized, mean, mean_product, factor):
    for j in range(len(grad)):
        grad[j] = (grad[j] - mean[j] - normalized[j] * mean_product[j]) * factor[j]


@compiled
def activate(x, weight, bias, running_mean, running_variance, momentum, eps):
    """Batch normalization and ReLU: normalizes ``x`` in place; returns by what, and the units.

    Running statistics are updated.
    """
    n, m = x.shape
    center, spread = np.zeros(m, np.float32), np.zeros(m, np.float32)
    inverse, out = np.empty(m, np.float32), np.empty_like(x)
    for i in range(n):
        _add(center, x[i], _ONE / _f(n))
    for i in range(n):
        _add_square(spread, x[i], center)
    for j in range(m):
        inverse[j] = _ONE / np.sqrt(spread[j] / _f(n) + eps)
        running_mean[j] += momentum * (center[j] - running_mean[j])
        running_variance[j] += momentum * (spread[j] / _f(n - 1) - running_variance[j])
    for i in range(n):
        _standardize(x[i], center, inverse)
        _relu(x[i], weight, bias, out[i])
    return inverse, out


@compiled
def activate_back(grad, normalized, inverse, units, weight, by_weight, by_shift, by_bias):
    """From the gradient by the units of a layer to that before its normalization, in place.

    Filled: gradients by weight and bias of the normalization, and ``by_bias``, the sum over cells.
    """
    n = len(grad)
    by_weight[:], by_shift[:], by_bias[:] = _ZERO, _ZERO, _ZERO
    for i in range(n):
        _relu_back(grad[i], units[i])
        _add(by_shift, grad[i], _ONE)
        _add_product(by_weight, grad[i], normalized[i])
    mean, mean_product = by_shift / _f(n), by_weight / _f(n)
    factor = weight * inverse
    for i in range(n):
        _standardize_back(grad[i], normalized[i], mean, mean_product, factor)
        _add(by_bias, grad[i], _ONE)


@compiled
def encode(units, mean_weight, mean_bias, log_weight, log_bias, noise, least):
    """Posterior of the cells, a draw from it, and its KL term. ``least`` is added to the variances."""
    n, n_latent = noise.shape
    mean, variance, z = np.empty_like(noise), np.empty_like(noise), np.empty_like(noise)
    kl = np.empty(n, np.float32)
    for i in range(n):
        total = _ZERO
        for k in range(n_latent):
            m = _dot(units[i], mean_weight[k]) + mean_bias[k]
            v = np.exp(_dot(units[i], log_weight[k]) + log_bias[k]) + least
            mean[i, k], variance[i, k], z[i, k] = m, v, m + np.sqrt(v) * noise[i, k]
            total += v + m * m - _ONE - np.log(v)
        kl[i] = _HALF * total
    return mean, variance, z, kl


@compiled
def encode_back(
    by_z,
    mean,
    variance,
    noise,
    units,
    mean_weight,
    log_weight,
    by_mean_weight,
    by_mean_bias,
    by_log_weight,
    by_log_bias,
    alpha,
    least,
):
    """Gradient by the units, from that by z; alpha weighs the KL term. Those by the layers are filled."""
    n, n_latent = by_z.shape
    by_units = np.zeros_like(units)
    by_mean_weight[:], by_log_weight[:] = _ZERO, _ZERO
    by_mean_bias[:], by_log_bias[:] = _ZERO, _ZERO
    weight = alpha / _f(n)
    for i in range(n):
        for k in range(n_latent):
            v = variance[i, k]
            by_mean = by_z[i, k] + weight * mean[i, k]
            by_variance = by_z[i, k] * noise[i, k] / np.sqrt(v) + weight * (_ONE - _ONE / v)
            by_log = _HALF * by_variance * (v - least)
            by_mean_bias[k] += by_mean
            by_log_bias[k] += by_log
            _add(by_mean_weight[k], units[i], by_mean)
            _add(by_log_weight[k], units[i], by_log)
            _add(by_units[i], mean_weight[k], by_mean)
            _add(by_units[i], log_weight[k], by_log)
    return by_units


@compiled
def decode(z, others, weight, bias):
    """First layer of the decoder, ``(n, D)``, of z and ``others``, ``(n, K)``; ``weight`` is ``(D, L + K)``."""
    n, n_latent = z.shape
    by_input = np.ascontiguousarray(weight.T)
    out = np.zeros((n, len(bias)), np.float32)
    for i in range(n):
        _add(out[i], bias, _ONE)
        for k in range(n_latent):
            _add(out[i], by_input[k], z[i, k])
        for k in range(others.shape[1]):
            if others[i, k] != _ZERO:
                _add(out[i], by_input[n_latent + k], others[i, k])
    return out


@compiled
def decode_back(grad, z, others, weight, by_weight, by_z):
    """Add to ``by_z`` the gradient by z, and fill ``by_weight``, from the gradient by the layer."""
    n, n_latent = z.shape
    by_input = np.ascontiguousarray(weight.T)
    sums = np.zeros_like(by_input)
    for i in range(n):
        for k in range(n_latent):
            by_z[i, k] += _dot(grad[i], by_input[k])
            _add(sums[k], grad[i], z[i, k])
        for k in range(others.shape[1]):
            if others[i, k] != _ZERO:
                _add(sums[n_latent + k], grad[i], others[i, k])
    for j in range(len(by_weight)):  # assigning an array takes two seconds to compile
        for k in range(len(sums)):
            by_weight[j, k] = sums[k, j]


@compiled
def classify(z, weight, bias, labels, class_weights, scales, beta, robustness, by_weight, by_bias):
    """Logits and penalty of each cell, the gradient by z, and the number of labeled cells.

    ``scales`` multiply the gradient by z, and beta all gradients. With ``robustness``, the penalty is the
    generalized cross-entropy. ``by_weight`` and ``by_bias`` are filled.
    """
    n, n_latent = z.shape
    n_classes = len(bias)
    logits, penalty = np.empty((n, n_classes), np.float32), np.empty(n, np.float32)
    by_z, shares = np.zeros_like(z), np.empty(n_classes, np.float32)
    by_weight[:], by_bias[:] = _ZERO, _ZERO
    n_labeled = 0
    for i in range(n):
        highest, broken = _f(-np.inf), _ZERO
        for c in range(n_classes):
            logit = _dot(z[i], weight[c]) + bias[c]
            logits[i, c] = logit
            highest = max(highest, logit)
            broken += logit - logit  # NaN if a logit is not finite
        penalty[i] = broken
        y = labels[i]
        if y >= n_classes:
            continue
        n_labeled += 1
        total = _ZERO
        for c in range(n_classes):
            shares[c] = np.exp(logits[i, c] - highest)
            total += shares[c]
        log_p = logits[i, y] - highest - np.log(total)
        pull = class_weights[y]
        if robustness > _ZERO:
            penalty[i] -= pull * _f(math.expm1(robustness * log_p)) / robustness
            pull *= np.exp(robustness * log_p)
        else:
            penalty[i] -= pull * log_p
        pull *= beta / _f(n)
        for c in range(n_classes):
            by_logit = pull * (shares[c] / total - (_ONE if c == y else _ZERO))
            by_bias[c] += by_logit
            _add(by_weight[c], z[i], by_logit)
            _add(by_z[i], weight[c], by_logit * scales[y])
    return logits, penalty, by_z, n_labeled


def _drop(units: np.ndarray, kept: np.ndarray) -> None:
    """Multiply units by ``kept``, in place; an empty ``kept`` keeps all."""
    if len(kept):
        units *= kept


def forward(
    first: np.ndarray,
    kept: np.ndarray,
    noise: np.ndarray,
    others: np.ndarray,
    layers: Layers,
    momentum: np.float32,
    eps: np.float32,
    least: np.float32,
) -> tuple[Activated, Latent, Activated]:
    """Both hidden layers and the latent space, from the products of the first layer, which are overwritten."""
    first += layers.encoder_bias
    encoder = Activated(first, *activate(first, *layers.encoder, momentum, eps))
    _drop(encoder.units, kept)
    mean, variance, z, kl = encode(encoder.units, *layers.heads, noise, least)
    hidden = decode(z, others, layers.decoder_weight, layers.decoder_bias)
    decoder = Activated(hidden, *activate(hidden, *layers.decoder, momentum, eps))
    return encoder, Latent(mean, variance, noise, z, kl), decoder


def backward(
    by_hidden: np.ndarray,
    by_z: np.ndarray,
    kept: np.ndarray,
    others: np.ndarray,
    encoder: Activated,
    latent: Latent,
    decoder: Activated,
    layers: Layers,
    by_layers: Layers,
    alpha: np.float32,
    least: np.float32,
) -> np.ndarray:
    """Gradient by the products of the first layer; those by the layers are filled.

    ``by_hidden`` and ``by_z`` are the gradients by the last hidden units and, of the classifier alone, by z. They
    are overwritten.
    """
    heads, by_heads = layers.heads, by_layers.heads
    by_norm, by_bias = by_layers.decoder[:2], by_layers.decoder_bias
    activate_back(by_hidden, *decoder, layers.decoder.weight, *by_norm, by_bias)
    decode_back(by_hidden, latent.z, others, layers.decoder_weight, by_layers.decoder_weight, by_z)
    by_units = encode_back(
        by_z,
        latent.mean,
        latent.variance,
        latent.noise,
        encoder.units,
        heads.mean_weight,
        heads.log_weight,
        *by_heads,
        alpha,
        least,
    )
    _drop(by_units, kept)
    by_norm, by_bias = by_layers.encoder[:2], by_layers.encoder_bias
    activate_back(by_units, *encoder, layers.encoder.weight, *by_norm, by_bias)
    return by_units


@functools.cache
def load() -> None:
    """Load, or compile, the innermost loops before those that call them, as :func:`.kernels.load` does."""
    row, out, one = np.ones(1, np.float32), np.ones(1, np.float32), _ONE
    _add(out, row, one)
    _add_product(out, row, row)
    _add_square(out, row, row)
    _dot(row, row)
    _standardize(out, row, row)
    _relu(row, row, row, out)
    _relu_back(out, row)
    _standardize_back(out, row, row, row, row)
