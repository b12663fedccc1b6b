"""Loops compiled for the local processor: arrays in, arrays out.

They are written so that numba's compiler can use vector instructions in the longest loops. Exp and log are
polynomials, because a libm call blocks vectorization. Each loop reads few arrays, because the compiler
checks every pair of arrays for overlap. All loops release Python's global interpreter lock.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from .distributions import EPS

# Counts up to this value are thinned molecule by molecule, which is faster than a binomial draw.
FEW = 32
# For counts up to this value, gamma functions are looked up in a table.
TABLED = 8

_f, _i = np.float32, np.int32
_EPS, _LOG2_E, _LOG_2 = _f(EPS), _f(1 / np.log(2)), _f(np.log(2))
_ZERO, _HALF, _ONE = _f(0), _f(0.5), _f(1)
# Bits of a float32 are sign, exponent (8, from -127) and fraction (23).
_FRACTION, _BIAS, _SQRT_HALF = _i(23), _i(127), _f(np.sqrt(0.5)).view(_i)


def _polynomial(function: Callable, degree: int, low: float, high: float) -> tuple[np.float32, ...]:
    """Coefficients, the constant first, of the interpolant at the Chebyshev nodes of an interval."""
    found = Chebyshev.interpolate(function, degree, domain=[low, high])
    return tuple(found.convert(kind=Polynomial).coef.astype(np.float32))


# 2^x, and the remainder in log(1 + x) = x - x² / 2 + x³ · remainder; both accurate to float32 rounding.
_EXP2 = _polynomial(np.exp2, 6, -0.5, 0.5)
_REMAINDER = _polynomial(
    lambda x: (np.log1p(x) - x + x**2 / 2) / x**3, 8, np.sqrt(0.5) - 1, np.sqrt(2) - 1
)


def compiled(function: Callable, **settings: Any) -> Callable:
    """``numba.njit``, which caches the machine code on disk if possible."""
    settings |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **settings)
    except RuntimeError:  # no writable folder for the cache
        return numba.njit(function, **settings)


def vectorized(function: Callable) -> Callable:
    """Compile so that sums can be reordered, as vectorization requires. NaN and infinity stay correct."""
    return compiled(function, fastmath={"contract", "nsz", "reassoc"})


_inlined = numba.njit(inline="always", error_model="numpy")


@_inlined
def _exp2(x):
    """2 to the power of x, for x ≤ 0; for x below -126, the result for -126."""
    x = max(x, _f(-126))
    n = np.floor(x + _HALF)
    f = x - n  # in [-0.5, 0.5]
    p = _EXP2[6] * f + _EXP2[5]
    p = p * f + _EXP2[4]
    p = p * f + _EXP2[3]
    p = p * f + _EXP2[2]
    p = p * f + _EXP2[1]
    p = p * f + _EXP2[0]
    return p * np.int32((np.int32(n) + _BIAS) << _FRACTION).view(np.float32)


@_inlined
def _log1p(u):
    """Logarithm of 1 + u, for u ≥ 0; accurate to rounding also for small u."""
    bits = np.float32(_ONE + u).view(np.int32)
    exponent = (bits - _SQRT_HALF) >> _FRACTION
    fraction = np.int32(bits - (exponent << _FRACTION)).view(np.float32)
    f = u if exponent == 0 else fraction - _ONE  # in [sqrt(1/2) - 1, sqrt(2) - 1]
    p = _REMAINDER[8] * f + _REMAINDER[7]
    p = p * f + _REMAINDER[6]
    p = p * f + _REMAINDER[5]
    p = p * f + _REMAINDER[4]
    p = p * f + _REMAINDER[3]
    p = p * f + _REMAINDER[2]
    p = p * f + _REMAINDER[1]
    p = p * f + _REMAINDER[0]
    square = f * f
    return f + (square * f * p - _HALF * square) + np.float32(exponent) * _LOG_2


@vectorized
def _exponentials(logits, highest, out):
    """exp(logits - highest), and their sum."""
    total = _ZERO
    for j in range(len(logits)):
        e = _exp2((logits[j] - highest) * _LOG2_E)
        out[j] = e
        total += e
    return total


@vectorized
def _as_if_zero(shares, library, theta, inverse, by_cell, gradient, by_theta):
    """Log-probability of a cell if all counts were zero, and the sum of its gradient over log means."""
    log_prob, total = _ZERO, _ZERO
    for j in range(len(shares)):
        mean = shares[j] * library
        excess = mean * inverse[j]
        log = _log1p(excess)
        ratio = theta[j] * inverse[j] / (_ONE + excess)  # theta / (theta + mean)
        by_log_mean = -mean * ratio
        log_prob -= theta[j] * log
        gradient[j] = by_log_mean
        total += by_log_mean
        by_theta[j] -= by_cell * (log + ratio)
    return log_prob, total


@vectorized
def _by_logits(shares, surplus, by_cell, gradient, by_bias):
    """Convert the gradient with respect to log means to that with respect to logits (of a softmax)."""
    for j in range(len(gradient)):
        by_logit = by_cell * (gradient[j] - shares[j] * surplus)
        gradient[j] = by_logit
        by_bias[j] += by_logit


@vectorized
def _next_count(theta, k, log_next, logs, slopes, next_logs, next_slopes):
    """Rows of the tables for a count of k + 1, from those for a count of k ≥ 1."""
    for j in range(len(theta)):
        next_logs[j] = logs[j] + (_log1p(theta[j] + (k - _ONE)) - log_next)
        next_slopes[j] = slopes[j] + _ONE / (theta[j] + k)


@compiled
def fill_tables(theta, logs, slopes):
    """Fill the tables of :func:`.gamma_tables` for counts above 1."""
    for group in range(len(theta)):
        for k in range(1, TABLED):
            _next_count(
                theta[group],
                np.float32(k),
                np.float32(math.log(k + 1)),
                logs[group, k],
                slopes[group, k],
                logs[group, k + 1],
                slopes[group, k + 1],
            )


@functools.cache
def load() -> None:
    """Load, or compile, the functions that :func:`score` and :func:`fill_tables` call, before these two.

    A cached ``score`` contains copies of these functions, which were compiled in another context and can round
    differently. The copies are used only if the functions themselves are not loaded. Without this call,
    the process that fills the cache would get slightly different results from processes that read it.
    """
    row, one = np.ones(1, np.float32), np.float32(1)
    _exponentials(row, one, row.copy())
    _as_if_zero(row, one, row, row, one, row.copy(), row.copy())
    _by_logits(row, one, one, row.copy(), row.copy())
    _next_count(row, one, one, row, row, row.copy(), row.copy())


@compiled
def score(
    logits,  # (n_obs, n_vars); on return, gradients by them times by_cell
    highest,  # of each cell
    starts,  # (n_obs + 1,), of the counts of each cell in the two that follow
    columns,
    counts,
    libraries,  # (n_obs,)
    groups,  # (n_obs,), which row of the inverse dispersions a cell has
    log_gammas,  # (n_groups, TABLED + 1, n_vars), see gamma_tables
    gamma_slopes,
    log_gammas_of_large,  # of counts beyond the table, one after the other
    gamma_slopes_of_large,
    n_large,  # how many of these come before the first cell
    theta,  # (n_groups, n_vars)
    inverse,  # 1 / (theta + EPS)
    by_cell,  # (n_obs,)
    log_prob,  # (n_obs,), filled
    by_theta,  # (n_groups, n_vars), added to
    by_bias,  # (n_vars,), added to
):
    """Log-probability of each cell, and its gradients."""
    shares = np.empty_like(theta[0])  # of the library: softmax but for a factor
    for i in range(len(logits)):
        # NaN, and with it all of the cell, if a logit is not finite
        broken = highest[i] - highest[i]
        weight = by_cell[i] + broken
        row, group = logits[i], groups[i]
        library = libraries[i] / _exponentials(row, highest[i], shares)
        log, total = _as_if_zero(
            shares, library, theta[group], inverse[group], weight, row, by_theta[group]
        )
        for k in range(starts[i], starts[i + 1]):
            j, count = columns[k], counts[k]
            mean = shares[j] * library
            everything = (_ONE + mean * inverse[group, j]) / inverse[group, j]  # theta + mean + EPS
            if count <= TABLED:
                small = max(int(count), 0)
                log_gamma, gamma_slope = log_gammas[group, small, j], gamma_slopes[group, small, j]
            else:
                log_gamma, gamma_slope = (
                    log_gammas_of_large[n_large],
                    gamma_slopes_of_large[n_large],
                )
                n_large += 1
            log += count * math.log((mean + _EPS) / everything) + log_gamma
            more = mean * (count / (mean + _EPS) - count / everything)
            row[j] += more
            total += more
            by_theta[group, j] += weight * (gamma_slope - count / everything)
        log_prob[i] = log + broken
        # an empty cell has neither mean nor gradient: 0 / EPS
        surplus = library * total / max(libraries[i], _EPS)
        _by_logits(shares, surplus, weight, row, by_bias)
    return n_large


@compiled
def thin(counts, starts, thinning, rng):
    """Thinned counts: each cell keeps each molecule with one probability, drawn from [1 - thinning, 1]."""
    kept = np.empty_like(counts)
    for i in range(len(starts) - 1):
        chance = 1 - thinning * rng.random()
        for k in range(starts[i], starts[i + 1]):
            n = int(counts[k])
            if n <= FEW:
                kept[k] = 0
                for _ in range(n):
                    kept[k] += rng.random() < chance
            else:
                kept[k] = rng.binomial(n, chance)
    return kept


@compiled
def by_gene(columns, starts, n_vars):
    """Cells and places of the counts in the order of the genes, and where each gene starts."""
    firsts = np.zeros(n_vars + 1, np.int64)
    for j in columns:
        firsts[j + 1] += 1
    for j in range(n_vars):
        firsts[j + 1] += firsts[j]
    free = firsts[:-1].copy()
    cells, places = np.empty_like(columns), np.empty_like(columns)
    for i in range(len(starts) - 1):
        for k in range(starts[i], starts[i + 1]):
            j = columns[k]
            cells[free[j]], places[free[j]] = i, k
            free[j] += 1
    return cells, places, firsts[:-1]


@compiled
def prepare(counts, columns, starts, n_vars, thinning, rng):
    """Thinned counts, their order by gene, sums of cells, and the indices of counts beyond the table."""
    encoder_input = thin(counts, starts, thinning, rng) if thinning > 0 else counts
    totals = np.zeros((len(starts) - 1, 1), counts.dtype)
    for i in range(len(totals)):
        for k in range(starts[i], starts[i + 1]):
            totals[i, 0] += counts[k]
    n_large = 0
    for count in counts:
        n_large += count > TABLED
    large = np.empty(n_large, np.int64)  # ``flatnonzero`` takes a second to compile
    n_large = 0
    for k in range(len(counts)):
        if counts[k] > TABLED:
            large[n_large] = k
            n_large += 1
    return encoder_input, by_gene(columns, starts, n_vars), totals, large
