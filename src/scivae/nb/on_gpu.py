"""The negative binomial of :mod:`.loss`, and thinned counts, with Triton kernels on a GPU.

One kernel computes the losses from the logits, and another one the gradients, so no other arrays of the size
of a minibatch are written or read. Torch computes the matrix products. Triton is imported for the first
minibatch on a GPU. If one of its kernels does not work, :func:`usable` is false, and torch does all of it.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .counts import DenseCounts

# Types of counts that one kernel can gather and thin; they hold only integers.
INTEGERS = (torch.uint8, torch.int16)
# Genes, or cells and genes, of one program, and its warps of 32 threads.
VALUE_GENES, VALUE_WARPS = 2048, 8
GRADIENT_CELLS, GRADIENT_GENES, GRADIENT_WARPS = 8, 256, 4
GATHER_GENES, GATHER_WARPS = 1024, 4


@cache
def _kernels() -> ModuleType:
    from . import triton_kernels

    return triton_kernels


@cache
def _works(device: torch.device) -> bool:
    """Whether all kernels can be compiled and run on the device, in blocks of the usual size."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            counts = torch.zeros(16, VALUE_GENES, dtype=torch.uint8, device=device)
            cells = torch.zeros(16, dtype=torch.long, device=device)
            counts = gathered(counts, cells, 0.0, log=False).counts
            hidden = torch.zeros(16, 16, device=device, requires_grad=True)
            weight = torch.zeros(VALUE_GENES, 16, device=device)
            bias, log_theta = torch.zeros(2, VALUE_GENES, device=device)
            last = weight, bias, log_theta[None], cells
            loss = TritonLoss.apply(hidden, *last, counts, None, True)
            torch.autograd.grad(loss.sum(), hidden)
    except Exception:  # noqa: BLE001 - no Triton, no C compiler, an unknown GPU: torch can do it
        return False
    return True


def usable(device: torch.device) -> bool:
    """Whether the kernels work on tensors of this device."""
    return device.type == "cuda" and _works(device)


def _parts(n: int, size: int) -> int:
    return -(-n // size)


def _block(n_vars: int, most: int) -> int:
    """Number of genes per program: a power of two."""
    return min(most, 1 << max(n_vars - 1, 15).bit_length())


class TritonLoss(torch.autograd.Function):
    """Negative log-probability of each cell, shape ``(n_obs,)``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (n_obs, n_hidden)
        weight: torch.Tensor,  # (n_vars, n_hidden)
        bias: torch.Tensor,  # (n_vars,)
        log_theta: torch.Tensor,  # (n_groups, n_vars)
        groups: torch.Tensor,  # (n_obs,)
        counts: torch.Tensor,  # (n_obs, n_vars), of any type
        products: torch.dtype | None,
        keep: bool,  # whether a gradient will be needed
    ) -> torch.Tensor:
        """Negative log-probability of each cell."""
        weight, log_theta = weight.to(products or weight.dtype), log_theta.contiguous()
        logits = hidden.to(weight.dtype) @ weight.t()  # without the bias
        (n_obs, n_vars), counts = logits.shape, counts.contiguous()
        loss, of_cells = hidden.new_empty(n_obs), hidden.new_empty(3, n_obs)
        _kernels().value[(n_obs,)](
            logits,
            bias,
            log_theta,
            groups,
            counts,
            loss,
            of_cells,
            n_obs,
            n_vars,
            GROUPED=len(log_theta) > 1,
            BLOCK=_block(n_vars, VALUE_GENES),
            num_warps=VALUE_WARPS,
        )
        if keep:
            ctx.save_for_backward(hidden, weight, bias, log_theta, groups, counts, logits, of_cells)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        """Gradients with respect to hidden units, weights, biases and inverse dispersions."""
        hidden, weight, bias, log_theta, groups, counts, logits, of_cells = ctx.saved_tensors
        (n_obs, n_vars), grouped = logits.shape, len(log_theta) > 1
        size = 1 if grouped else GRADIENT_CELLS
        n_parts, genes = (
            _parts(n_obs, size),
            _block(n_vars, GRADIENT_GENES * GRADIENT_CELLS // size),
        )
        by_logits, sums = torch.empty_like(logits), hidden.new_empty(2, n_parts, n_vars)
        _kernels().gradient[(n_parts, _parts(n_vars, genes))](
            logits,
            bias,
            log_theta,
            groups,
            counts,
            of_cells,
            grad,
            by_logits,
            sums,
            n_obs,
            n_vars,
            n_parts,
            grad.stride(0),
            GROUPED=grouped,
            CELLS=size,
            GENES=genes,
            num_warps=GRADIENT_WARPS,
        )
        if grouped:  # a product, whose sums are in the same order each time
            by_bias = sums[0].sum(0)
            by_theta = F.one_hot(groups, len(log_theta)).to(sums).t() @ sums[1]
        else:
            by_bias, by_theta = sums.sum(1)
        return (
            (by_logits @ weight).to(hidden.dtype),
            (by_logits.t() @ hidden.to(weight.dtype)).to(hidden.dtype),
            by_bias,
            by_theta.view_as(log_theta),
            None,
            None,
            None,
            None,
        )


def gathered(
    values: torch.Tensor, indices: torch.Tensor, thinning: float, log: bool
) -> DenseCounts:
    """Gather cells of a data set on a device, and thin them for the encoder, in one kernel.

    Parameters
    ----------
    values
        Counts of all cells, shape ``(n_all, n_vars)``, of one of the types in :data:`INTEGERS`.
    indices
        Positions of the cells, shape ``(n_obs,)``.
    thinning
        Largest fraction of the counts of a cell that is removed, as in :func:`scivae.module.thin`. Random
        numbers come from the global generator of the device, also if a graph is replayed.
    log
        Whether the encoder receives ``log(1 + counts)``.
    """
    (n_obs,), n_vars = indices.shape, values.shape[1]
    counts = values.new_empty(n_obs, n_vars)
    encoder_input = torch.empty(n_obs, n_vars, device=values.device)
    seed = indices[:1]  # not read
    if thinning > 0:
        seed = torch.randint(2**62, (1,), device=values.device)
    genes = _block(n_vars, GATHER_GENES)
    _kernels().gather[(n_obs, _parts(n_vars, genes))](
        values,
        indices,
        seed,
        counts,
        encoder_input,
        float(thinning),
        n_vars,
        THIN=thinning > 0,
        LOG=log,
        BLOCK=genes,
        num_warps=GATHER_WARPS,
    )
    return DenseCounts(counts, encoder_input, logged=log)
