"""Kernels for a GPU, in Triton; imported only by :mod:`.on_gpu`, when training on a GPU starts.

By default, Triton compiles separate versions of a kernel for an argument that is 1 or a multiple of 16. This is
turned off for arguments that differ between minibatches, because nothing can be compiled while a graph is
recorded. An argument of 1 is then an integer of Python, without the methods of Triton.

Differences of gamma functions are computed so that they stay accurate for large inverse dispersions: both arguments are
raised by four, where Stirling's series is accurate to float32 rounding, and the four factors are divided out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .distributions import EPS

_EPS = tl.constexpr(EPS)
# Above this mean, binomial draws are made by rejection; below it, no probability is smaller than exp(-20).
_MANY = tl.constexpr(20.0)
# Probabilities below this, beyond the mean, are dominated by rounding errors.
_NEGLIGIBLE = tl.constexpr(1e-9)


@triton.jit
def _log1p(u):
    """Logarithm of 1 + u, for u at least 0; accurate where u is small."""
    w = 1.0 + u
    return tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def _stirling(x):
    """``lgamma(x) - (x - 1/2) log(x) + x - log(2 pi) / 2``, for x at least 4."""
    inverse = 1.0 / x
    s = inverse * inverse
    return inverse * (
        0.08333333333333333
        - s * (0.002777777777777778 - s * (0.0007936507936507937 - s * 0.0005952380952380953))
    )


@triton.jit
def _digamma_tail(x):
    """``digamma(x) - log(x)``, for x at least 4."""
    inverse = 1.0 / x
    s = inverse * inverse
    return -0.5 * inverse - s * (
        0.08333333333333333
        - s * (0.008333333333333333 - s * (0.003968253968253968 - s * 0.004166666666666667))
    )


@triton.jit
def _log_gammas(k, theta):
    """``lgamma(k + theta) - lgamma(theta) - lgamma(k + 1)``; 0 where k is 0."""
    low, high = theta + 4.0, theta + 4.0 + k
    found = (low + k - 0.5) * _log1p(k / low) - (4.5 + k) * _log1p(k / 5.0) + k * tl.log(low / 5.0)
    found += (_stirling(high) - _stirling(low)) - (_stirling(5.0 + k) - _stirling(k * 0 + 5.0))
    a, b, c = theta, theta + k, 1.0 + k
    ratio = (b * (b + 1.0)) / (a * (a + 1.0)) * 2.0 / (c * (c + 1.0))
    ratio *= (b + 2.0) * (b + 3.0) / ((a + 2.0) * (a + 3.0)) * 12.0 / ((c + 2.0) * (c + 3.0))
    return tl.where(k == 0.0, 0.0, found - tl.log(ratio))  # a rounded quotient is not 1


@triton.jit
def _digammas(k, theta):
    """``digamma(k + theta) - digamma(theta)``; 0 where k is 0."""
    low, high = theta + 4.0, theta + 4.0 + k
    a, b = theta, theta + k
    p, q = a * b, (a + 1.0) * (b + 1.0)
    r, s = (a + 2.0) * (b + 2.0), (a + 3.0) * (b + 3.0)
    of_four = k * ((p + q) / (p * q) + (r + s) / (r * s))
    return of_four + _log1p(k / low) + (_digamma_tail(high) - _digamma_tail(low))


@triton.jit(do_not_specialize=["n_obs"])
def value(
    products,  # (n_obs, n_vars): hidden units times weights
    bias,  # (n_vars,)
    log_theta,  # (n_groups, n_vars)
    groups,  # (n_obs,)
    counts,  # (n_obs, n_vars), of any type
    loss,  # (n_obs,), filled: negative log-probability of each cell
    of_cells,  # (3, n_obs), filled: largest logit, library / sum of exponentials, sum of gradients
    n_obs,
    n_vars,
    GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Negative log-probability of the counts of a cell; one program per cell."""
    cell = tl.program_id(0).to(tl.int64)
    products += cell * n_vars
    counts += cell * n_vars
    if GROUPED:
        log_theta += tl.load(groups + cell) * n_vars
    genes = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for first in range(0, n_vars, BLOCK):
        j = first + genes
        here = j < n_vars
        logits = tl.load(products + j, here, float("-inf")).to(tl.float32)
        logits += tl.load(bias + j, here, 0.0).to(tl.float32)
        highest = tl.maximum(highest, logits)
    top = tl.max(highest, 0)
    exponentials = tl.zeros((BLOCK,), tl.float32)
    library = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n_vars, BLOCK):
        j = first + genes
        here = j < n_vars
        logits = tl.load(products + j, here, float("-inf")).to(tl.float32)
        logits += tl.load(bias + j, here, 0.0).to(tl.float32)
        exponentials += tl.exp(logits - top)
        library += tl.load(counts + j, here, 0).to(tl.float32)
    total_counts = tl.sum(library, 0)
    scale = total_counts / tl.sum(exponentials, 0)
    log_prob = tl.zeros((BLOCK,), tl.float32)
    by_log_mean = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n_vars, BLOCK):
        j = first + genes
        here = j < n_vars
        logits = tl.load(products + j, here, float("-inf")).to(tl.float32)
        logits += tl.load(bias + j, here, 0.0).to(tl.float32)
        x = tl.load(counts + j, here, 0).to(tl.float32)
        theta = tl.exp(tl.load(log_theta + j, here, 0.0))
        mean = tl.exp(logits - top) * scale
        total, near = mean + (theta + _EPS), mean + _EPS
        log = _log_gammas(x, theta) - theta * _log1p(mean / (theta + _EPS))
        log += x * tl.log(near / total)
        log_prob += tl.where(here, log, 0.0)
        by_log_mean += mean * (x / near - (x + theta) / total)
    tl.store(loss + cell, -tl.sum(log_prob, 0))
    tl.store(of_cells + cell, top)
    tl.store(of_cells + n_obs + cell, scale)
    # an empty cell has neither mean nor gradient: 0 / EPS
    surplus = tl.sum(by_log_mean, 0) / tl.maximum(total_counts, _EPS)
    tl.store(of_cells + 2 * n_obs + cell, surplus)


@triton.jit(do_not_specialize=["n_obs", "n_parts", "weight_stride"])
def gradient(
    products,  # as those of value
    bias,
    log_theta,
    groups,
    counts,
    of_cells,
    weights,  # (n_obs,), of the losses of the cells
    by_logits,  # (n_obs, n_vars), filled
    sums,  # (2, n_parts, n_vars), filled: gradients by the biases, and by log_theta
    n_obs,
    n_vars,
    n_parts,
    weight_stride,
    GROUPED: tl.constexpr,
    CELLS: tl.constexpr,
    GENES: tl.constexpr,
):
    """Gradients of the weighted sum of losses; one program per block of cells and genes."""
    part = tl.program_id(0).to(tl.int64)
    cells = part * CELLS + tl.arange(0, CELLS)
    genes = tl.program_id(1) * GENES + tl.arange(0, GENES)
    known, here = cells < n_obs, genes < n_vars
    both = known[:, None] & here[None, :]
    at = cells[:, None] * n_vars + genes[None, :]
    top = tl.load(of_cells + cells, known, 0.0)
    scale = tl.load(of_cells + n_obs + cells, known, 0.0)
    surplus = tl.load(of_cells + 2 * n_obs + cells, known, 0.0)
    weight = -tl.load(weights + cells * weight_stride, known, 0.0)
    if GROUPED:
        group = tl.load(groups + cells, known, 0)
        logs = tl.load(log_theta + group[:, None] * n_vars + genes[None, :], both, 0.0)
    else:
        logs = tl.load(log_theta + genes, here, 0.0)[None, :]
    theta = tl.exp(logs)
    logits = tl.load(products + at, both, float("-inf")).to(tl.float32)
    logits += tl.load(bias + genes, here, 0.0).to(tl.float32)[None, :]
    x = tl.load(counts + at, both, 0).to(tl.float32)
    mean = tl.exp(logits - top[:, None]) * scale[:, None]
    total, near = mean + (theta + _EPS), mean + _EPS
    by_logit = mean * (x / near - (x + theta) / total - surplus[:, None]) * weight[:, None]
    tl.store(by_logits + at, by_logit.to(by_logits.dtype.element_ty), both)
    ratio = theta / (theta + _EPS)
    by_theta = _digammas(x, theta) - _log1p(mean / (theta + _EPS)) + (ratio * mean - x) / total
    by_theta = tl.where(both, by_theta * theta * weight[:, None], 0.0)
    place = sums + part * n_vars + genes
    tl.store(place, tl.sum(tl.where(both, by_logit, 0.0), 0), here)
    place = sums + (part + n_parts) * n_vars + genes
    tl.store(place, tl.sum(by_theta, 0), here)


@triton.jit
def _uniform(seed, at, draw: tl.constexpr):
    """Two uniform numbers in [0, 1) for each position; they differ between values of ``draw``."""
    zero = at * 0
    a, b, _, _ = tl.philox(seed, at, zero + draw, zero, zero)
    return tl.uint_to_uniform_float(a), tl.uint_to_uniform_float(b)


@triton.jit
def _by_inversion(n, chance, u, wanted):
    """Binomial draws with a small mean, by inversion: probabilities are summed until they exceed ``u``."""
    probability = tl.exp(n * tl.log(1.0 - chance))
    odds, mean = chance / (1.0 - chance), n * chance
    reached, drawn, k = probability, n * 0.0, n * 0.0
    active = wanted & (u > reached) & (n > 0)
    while tl.max(active.to(tl.int32), 0) > 0:
        k += 1.0
        drawn += active.to(tl.float32)
        probability *= (n - k + 1.0) / k * odds
        reached += probability
        rest = (probability > _NEGLIGIBLE) | (k < mean)
        active = active & (u > reached) & (k < n) & rest
    return drawn


@triton.jit
def _rest(k):
    """``log(k!) - (k + 1/2) log(k + 1) + k + 1 - log(2 pi) / 2``."""
    of_few = tl.where(
        k < 0.5, 0.0810614667953272, tl.where(k < 1.5, 0.0413406959554093, 0.0276779256849983)
    )
    return tl.where(k < 2.5, of_few, _stirling(k + 1.0))


@triton.jit
def _by_rejection(seed, at, n, chance, wanted):
    """Binomial draws with a large mean: Hörmann's transformed rejection, BTRS (1993)."""
    n, chance = tl.where(wanted, n, 100.0), tl.where(wanted, chance, 0.5)
    spread = tl.sqrt(n * chance * (1.0 - chance))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * chance
    center, alpha = n * chance + 0.5, (2.83 + 5.1 / b) * spread
    squeezed, odds = 0.92 - 4.2 / b, chance / (1.0 - chance)
    mode = tl.floor((n + 1.0) * chance)
    drawn, active, turn, zero = n * 0.0, wanted, at * 0, at * 0
    while tl.max(active.to(tl.int32), 0) > 0:
        turn += 1
        first, second, _, _ = tl.philox(seed, at, turn, zero + 1, zero)
        u, v = tl.uint_to_uniform_float(first) - 0.5, tl.uint_to_uniform_float(second)
        s = 0.5 - tl.abs(u)
        k = tl.floor((2.0 * a / s + b) * u + center)
        inside = (k >= 0.0) & (k <= n)
        at_once = inside & (s >= 0.07) & (v <= squeezed)
        k = tl.where(inside, k, mode)  # of which the logarithms below exist
        height = tl.log(v * alpha / (a / (s * s) + b))
        # logarithm of the probability of k by that of the mode; factorials by Stirling's series
        bound = (mode + 0.5) * tl.log((mode + 1.0) / (odds * (n - mode + 1.0)))
        bound += (n + 1.0) * tl.log((n - mode + 1.0) / (n - k + 1.0))
        bound += (k + 0.5) * tl.log(odds * (n - k + 1.0) / (k + 1.0))
        bound += _rest(mode) + _rest(n - mode) - _rest(k) - _rest(n - k)
        accepted = active & (at_once | (inside & (height <= bound)))
        drawn = tl.where(accepted, k, drawn)
        active = active & (accepted == 0)
    return drawn


@triton.jit
def _binomial(seed, at, n, chance):
    """Binomial draws: how many of ``n`` are kept, each with this probability."""
    rarer = tl.minimum(chance, 1.0 - chance)
    n, rarer = n + 0.0 * rarer, rarer + 0.0 * n
    many = n * rarer >= _MANY
    u, _ = _uniform(seed, at, 0)
    drawn = _by_inversion(n, rarer, u, many == 0)
    if tl.max(many.to(tl.int32), 0) > 0:
        drawn = tl.where(many, _by_rejection(seed, at, n, rarer, many), drawn)
    return tl.where(chance > 0.5, n - drawn, drawn)


@triton.jit(do_not_specialize_on_alignment=["indices", "seed"])
def gather(
    values,  # (n_all, n_vars), counts of all cells
    indices,  # (n_obs,), which cells
    seed,  # (1,), a 64-bit integer
    counts,  # (n_obs, n_vars), filled: of the type of values
    encoder_input,  # (n_obs, n_vars), filled
    thinning,
    n_vars,
    THIN: tl.constexpr,
    LOG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Counts of the cells at the given positions, and the thinned counts for the encoder."""
    cell = tl.program_id(0)
    genes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = genes < n_vars
    row, out = tl.load(indices + cell).to(tl.int64) * n_vars, cell.to(tl.int64) * n_vars
    x = tl.load(values + row + genes, here, 0)
    tl.store(counts + out + genes, x, here)
    kept = x.to(tl.float32)
    if THIN:
        key = tl.load(seed)
        of_cell, _ = _uniform(key, cell, 2)
        kept = _binomial(key, cell * n_vars + genes, kept, 1.0 - thinning * of_cell)
    if LOG:
        kept = _log1p(kept)
    tl.store(encoder_input + out + genes, kept, here)
