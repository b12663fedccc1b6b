"""How much each input of the encoder contributes to a difference of logits."""

from __future__ import annotations

import torch
from scvi import REGISTRY_KEYS

from .._scvi import MODULE_KEYS
from ._civae import CIVAEModule


def encoder_values(module: CIVAEModule, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Expression on the scale of the first layer (log1p of counts), shape ``(n_obs, n_input)``."""
    x = tensors[REGISTRY_KEYS.X_KEY]
    x = (x if x.layout is torch.strided else x.to_dense()).to(module.device, torch.float32)
    return x.log1p() if module.log_variational else x


def integrated_gradients(
    module: CIVAEModule,
    tensors: dict[str, torch.Tensor],
    baseline: torch.Tensor,
    weights: torch.Tensor,
    *,
    n_steps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integrated gradients of ``weights · z`` between a baseline and the cells of a minibatch.

    The gradient with respect to the expression is averaged over the straight line from the baseline to each
    cell, at the centers of ``n_steps`` equal intervals, and multiplied by the difference between the cell and
    the baseline (Sundararajan et al., "Axiomatic attribution for deep networks", 2017). All points of the
    line have the covariates of the cell.

    Parameters
    ----------
    module
        The network, in evaluation mode.
    tensors
        A minibatch of n cells.
    baseline
        As :func:`encoder_values` returns it, shape ``(n_input,)``.
    weights
        Shape ``(n_latent,)``.
    n_steps
        Number of intervals.

    Returns
    -------
    Attributions, shape ``(n, n_input)``, and ``weights · (z of the cell − z of the baseline)``, shape
    ``(n,)``. The sum of the attributions of a cell converges to the latter as ``n_steps`` grows.
    """
    values = encoder_values(module, tensors)
    inputs = module._get_inference_input({**tensors, REGISTRY_KEYS.X_KEY: values})

    def score(at: torch.Tensor) -> torch.Tensor:
        x = at.expm1() if module.log_variational else at  # the encoder takes the logarithm itself
        mean = module.inference(**{**inputs, "x": x})[MODULE_KEYS.QZ_KEY].loc
        return mean @ weights

    step = values - baseline
    gradient = torch.zeros_like(values)
    with torch.enable_grad():
        for k in range(n_steps):
            at = (baseline + (k + 0.5) / n_steps * step).requires_grad_()
            gradient += torch.autograd.grad(score(at).sum(), at)[0]
    with torch.no_grad():
        difference = score(values) - score(baseline.expand_as(values))
    return step * gradient / n_steps, difference
