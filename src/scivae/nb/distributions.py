"""The negative binomial likelihood, at the cost of its nonzero counts.

Most counts of a cell are zero, and there the gamma functions of the log-probability cancel:
``lgamma(0 + theta) - lgamma(theta) - lgamma(1) = 0``. Evaluating them only where a count is nonzero
(about one value in ten), and differentiating by hand, gives the same numbers as
:class:`scvi.distributions.NegativeBinomial` in a fraction of its time.
"""

from __future__ import annotations

from typing import Any

import torch
from scvi.distributions import NegativeBinomial as SCVINegativeBinomial
from scvi.distributions import ZeroInflatedNegativeBinomial as SCVIZeroInflated
from torch.autograd.function import once_differentiable

EPS = 1e-8  # as in the logarithms of scvi-tools, so that both give the same results


class _LogProb(torch.autograd.Function):
    """Log-probability of counts, elementwise, with its analytic gradient.

    ``theta`` is of shape ``(1, n_vars)`` when cells share it, else ``(n_obs, n_vars)``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, mu: torch.Tensor, theta: torch.Tensor, eps: float
    ) -> torch.Tensor:
        total = theta + mu + eps  # (n_obs, n_vars)
        log_total = total.log()
        out = theta * ((theta + eps).log() - log_total) - x * log_total
        index = x.flatten().nonzero().squeeze(1)  # of the nonzero counts, (nnz,)
        counts, means, shapes = _at(x, index), _at(mu, index), _at(theta, index)
        out.view(-1)[index] += (
            counts * (means + eps).log()
            + torch.lgamma(counts + shapes)
            - torch.lgamma(shapes)
            - torch.lgamma(counts + 1)
        )
        ctx.save_for_backward(theta, (theta + x) / total, log_total, index, counts, means, shapes)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor, None]:
        theta, ratio, log_total, index, counts, means, shapes = ctx.saved_tensors
        eps = ctx.eps
        grad_mu = -ratio
        grad_mu.view(-1)[index] += counts / (means + eps)
        grad_theta = ((theta + eps).log() + theta / (theta + eps)) - log_total - ratio
        grad_theta.view(-1)[index] += torch.digamma(counts + shapes) - torch.digamma(shapes)
        grad_theta *= grad
        if theta.shape[0] == 1:
            grad_theta = grad_theta.sum(0, keepdim=True)
        return None, grad_mu.mul_(grad), grad_theta, None


def _at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Entries of a matrix at flat positions; a matrix of one row is repeated for every cell."""
    return values.flatten()[index % values.shape[1] if values.shape[0] == 1 else index]


class NegativeBinomial(SCVINegativeBinomial):
    """:class:`scvi.distributions.NegativeBinomial` with a fast log-probability.

    Parameters
    ----------
    mu
        Means, shape ``(n_obs, n_vars)`` or ``(n_samples, n_obs, n_vars)``.
    theta
        Inverse dispersions, shape ``(n_vars,)`` or that of ``mu``.
    scale
        Normalized means, of the shape of ``mu``.
    """

    def __init__(self, mu: torch.Tensor, theta: torch.Tensor, scale: torch.Tensor):
        super().__init__(mu=mu, theta=theta, scale=scale, validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-probability of counts, elementwise, of the broadcast shape of ``mu``."""
        value = value.to(self.mu.dtype).expand_as(self.mu)
        if self.mu.ndim != 2 or not value.is_cpu:  # on a GPU, indexing costs more than it saves
            return super().log_prob(value)
        theta = self.theta[:1] if self.theta.stride(0) == 0 else self.theta
        return _LogProb.apply(value.contiguous(), self.mu.contiguous(), theta.contiguous(), EPS)


class ZeroInflatedNegativeBinomial(SCVIZeroInflated):
    """scvi-tools' distribution, which checks counts only if validation is on.

    Such a check waits for the device, which is not possible while a CUDA graph is recorded.
    """

    def _validate_sample(self, value: torch.Tensor) -> None:
        if self._validate_args:
            super()._validate_sample(value)
