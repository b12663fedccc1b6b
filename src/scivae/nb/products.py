"""Products of matrices in the last layer.

In single precision on a CPU, PyTorch leaves them to MKL, which uses the 512-bit instructions of Intel's processors only. AMD's
have them at full width since Zen 5. There, oneDNN, which is part of PyTorch, is about twice as fast.
"""

from __future__ import annotations

import re
from functools import lru_cache

import llvmlite.binding
import torch

# The first of AMD's processors, by LLVM's name, that adds and multiplies 512 bits at once.
_FIRST_ZEN = 5


@lru_cache
def uses_onednn() -> bool:
    """Whether this processor multiplies in single precision faster in oneDNN."""
    zen = re.fullmatch(r"znver(\d+)", llvmlite.binding.get_host_cpu_name())
    return (
        zen is not None
        and int(zen[1]) >= _FIRST_ZEN
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # what torch.compile calls
    )


def times(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``a @ b + bias`` in the precision of ``a``; the product is calculated in the precision of ``b``.

    It has no gradient of its own.
    """
    if a.dtype != b.dtype:
        product = (a.to(b.dtype) @ b).to(a.dtype)
        return product if bias is None else product.add_(bias)
    if a.dtype == torch.float32 and a.device.type == "cpu" and len(b) and uses_onednn():
        in_a_row = None if bias is None else bias.contiguous()  # strides are not looked at
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), in_a_row, "none", [], "")
    return a @ b if bias is None else torch.addmm(bias, a, b)


def add_product(total: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``total + a @ b`` in single precision, in the memory of the total if there is one."""
    if total is None:
        return times(a, b).float()
    if a.dtype != total.dtype or uses_onednn():
        return total.add_(times(a, b))
    return total.addmm_(a, b)
