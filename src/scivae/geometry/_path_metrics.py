"""Riemannian metrics for geodesics: pull-back of the decoder, or density of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._validate import latent as check
from .._validate.latent import FloatArray

if TYPE_CHECKING:
    import torch

    Decoder = Callable[[torch.Tensor], torch.Tensor]

HELD = 20_000_000  # largest number of values in one block of intermediate results


class PathMetric(NamedTuple):
    """A metric as the solver sees it. All arrays are float64.

    The solver is written in numpy, because synchronizing torch's threads would dominate its small
    steps.
    """

    squares: Callable[[FloatArray], FloatArray]
    """(n, n_steps, n_latent) → (n, n_steps − 1): squared lengths of the segments."""
    gradient: Callable[[FloatArray], tuple[FloatArray, FloatArray]]
    """Squared lengths, and the gradient of their sum, (n, n_steps, n_latent)."""
    tensor: Callable[[FloatArray], FloatArray]
    """(q, n_latent) → (q, n_latent, n_latent): approximate metric tensor, for preconditioning."""
    width: int
    """Number of values in memory per point."""


def pullback(decoder: Decoder, straight: FloatArray, dtype: str | None) -> PathMetric:
    """Pull-back metric: distances between decoded points."""
    import torch

    kind, device = torch.get_default_dtype(), torch.device("cpu")
    if isinstance(decoder, torch.nn.Module):
        for name, part in decoder.named_modules():
            if part.training and isinstance(
                part, (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._NormBase)
            ):
                raise ValueError(
                    f"the decoder must be deterministic, got {name or 'the decoder itself'!r} "
                    f"({type(part).__name__}) in training mode; call decoder.eval() first."
                )
        for weight in decoder.parameters():
            kind, device = weight.dtype, weight.device
            break
    if dtype is not None:
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype) or not named.is_floating_point:
            raise ValueError(
                f"dtype must be the name of a floating-point dtype of torch, got {dtype!r}; "
                'pass "float32" or "float64".'
            )
        kind = named

    n, n_steps, n_latent = straight.shape

    def held(z: FloatArray) -> torch.Tensor:
        return torch.from_numpy(z.reshape(-1, n_latent)).to(device=device, dtype=kind)

    def array(x: torch.Tensor) -> FloatArray:
        return x.to("cpu", torch.float64).numpy()

    probe = held(straight[:, [0, -1]])
    with torch.no_grad():
        decoded = decoder(probe)
    if not isinstance(decoded, torch.Tensor) or decoded.ndim != 2 or len(decoded) != 2 * n:
        what = tuple(decoded.shape) if isinstance(decoded, torch.Tensor) else type(decoded).__name__
        raise ValueError(
            f"the decoder must map a tensor (b, n_latent) to a tensor (b, n_vars), got {what} for "
            f"input {tuple(probe.shape)}; wrap the decoder in a function that does."
        )
    if not torch.isfinite(decoded).all():
        pair = int(torch.argwhere(~torch.isfinite(decoded))[0, 0]) // 2
        raise ValueError(
            "the decoder must return finite numbers, got NaN or infinity at the ends of pair "
            f"{pair}; check the decoder there, or drop the pair."
        )
    width = int(decoded.shape[1])

    def squares(points: FloatArray) -> FloatArray:
        with torch.no_grad():
            decoded = decoder(held(points)).reshape(*points.shape[:2], width)
            return array(decoded.diff(dim=1).square().sum(dim=2))

    def gradient(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        # Gradients are needed even if the caller uses no_grad or inference_mode, which are then
        # restored.
        with torch.inference_mode(False), torch.enable_grad():
            z = held(points).requires_grad_()
            decoded = decoder(z)
            change = decoded.detach().reshape(*points.shape[:2], width).diff(dim=1)
            by_decoded = torch.zeros_like(decoded).reshape(*points.shape[:2], width)
            by_decoded[:, 1:] += 2 * change
            by_decoded[:, :-1] -= 2 * change
            if not decoded.requires_grad:
                raise ValueError(
                    "the decoder must be differentiable, got a result without a gradient; "
                    "remove no_grad, detach and numpy from the decoder."
                )
            (found,) = torch.autograd.grad(decoded, z, by_decoded.reshape(decoded.shape))
        return array(change.square().sum(dim=2)), array(found).reshape(points.shape)

    # Finite differences are accurate enough for a preconditioner and work for any decoder.
    spread = np.diff(straight[:, [0, -1]].astype(np.float64), axis=1)
    small = 1e-3 * float(np.sqrt((spread**2).mean())) if spread.any() else 1e-3
    moved = small * np.eye(n_latent)

    def tensor(z: FloatArray) -> FloatArray:
        result = np.empty((len(z), n_latent, n_latent))
        block = max(1, HELD // (n_latent * width))
        with torch.no_grad():
            for rows in (slice(low, low + block) for low in range(0, len(z), block)):
                around = decoder(held(z[rows, None] + moved)).reshape(-1, n_latent, width)
                change = around - decoder(held(z[rows]))[:, None]
                result[rows] = array(change @ change.mT) / small**2
        return result

    return PathMetric(squares, gradient, tensor, width)


def density(
    data: ArrayLike, n_latent: int, strength: float, n_neighbors: int, max_data: int, seed: int
) -> PathMetric:
    """Conformal metric with larger distances in regions without data."""
    from scipy.spatial.distance import cdist

    cells = check.points("data", data, 2, n_latent).astype(np.float64)
    if len(cells) > max_data:
        chosen = np.random.default_rng(seed).choice(len(cells), max_data, replace=False)
        cells = cells[np.sort(chosen)]
    if len(cells) <= n_neighbors:
        raise ValueError(
            f"data must have more points than n_neighbors = {n_neighbors}, got {len(cells)}; "
            "pass more data, or a smaller n_neighbors."
        )
    center = cells.mean(axis=0)  # less cancellation in the distances
    x = cells - center
    apart = cdist(x, x)
    near = np.sort(apart, axis=1)[:, 1 : n_neighbors + 1]  # (n_data, n_neighbors)
    radius = near[:, -1]
    if not radius.any():
        raise ValueError(
            f"data must have points that differ, got {len(cells)} points with at least "
            f"{n_neighbors} copies each; pass other data, or a larger n_neighbors."
        )
    # The radius of duplicated points is 0: use the median radius instead.
    radius = np.where(radius > 0, radius, np.median(radius[radius > 0]))
    ratios = np.log(radius[:, None] / np.maximum(near[:, :-1], 1e-12 * np.median(radius)))
    growth = float(np.maximum(ratios, 0).mean()) if n_neighbors > 1 else 1.0
    dimension = float(np.clip(1 / max(growth, 1e-12), 1, n_latent))
    precision = dimension / (2 * radius**2)  # 1 / 2σ²
    others = np.exp(-(apart**2) * precision).sum(axis=1) - 1  # each excludes itself
    typical = float(np.log(max(np.median(others), 1e-300)))
    squared = (x**2).sum(axis=1)

    def weight(z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(q, n_latent) → w and its gradient, (q,) and (q, n_latent)."""
        z = z - center
        power = (z**2).sum(axis=1, keepdims=True) - 2 * z @ x.T + squared
        power *= -precision
        top = power.max(axis=1, keepdims=True)
        kernel = np.exp(power - top)
        total = kernel.sum(axis=1)
        rarity = typical - top[:, 0] - np.log(total)
        root = 1 + strength * np.logaddexp(0, rarity)
        kernel *= precision
        uphill = 2 * (kernel.sum(axis=1)[:, None] * z - kernel @ x) / total[:, None]
        sigmoid = np.exp(-np.logaddexp(0, -rarity))
        return root**2, (2 * strength * root * sigmoid)[:, None] * uphill

    def gradient(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        middle = (points[:, 1:] + points[:, :-1]) / 2
        change = np.diff(points, axis=1)
        w, uphill = weight(middle.reshape(-1, n_latent))
        w, uphill = w.reshape(middle.shape[:2]), uphill.reshape(middle.shape)
        size = (change**2).sum(axis=2)
        half, whole = size[..., None] * uphill / 2, 2 * w[..., None] * change
        found = np.zeros(points.shape)
        found[:, 1:] += half + whole
        found[:, :-1] += half - whole
        return w * size, found

    def tensor(z: FloatArray) -> FloatArray:
        return weight(z)[0][:, None, None] * np.eye(n_latent)

    return PathMetric(lambda points: gradient(points)[0], gradient, tensor, 3 * len(x))
