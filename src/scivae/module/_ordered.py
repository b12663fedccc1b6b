"""A linear discriminator whose boundaries are parallel, for classes that have an order."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

# Smallest distance between two boundaries, in logits, so that every class keeps a region.
MIN_GAP = 1e-2


class OrderedLinear(nn.Module):
    r"""Linear softmax over ordered classes: the adjacent-category logit model.

    All classes share one direction :math:`u`. The log odds of a class against the one before it are

    .. math:: \log \frac{p(k \mid z)}{p(k - 1 \mid z)} = u^\top z - c_k

    with :math:`c_1 < c_2 < \dots`, so that the boundaries between neighbors are parallel hyperplanes, in order. This is a linear
    softmax with weights :math:`k\,u` and biases :math:`-\sum_{j \le k} c_j`: regions of classes are
    convex, as for any linear layer. Along a straight line, :math:`u^\top z` either rises or falls
    throughout, so the line passes through the classes in their order, through each at most once.

    Parameters
    ----------
    n_latent
        Dimensions of z.
    n_classes
        Number of classes, at least two.

    References
    ----------
    A. Agresti, "Analysis of Ordinal Categorical Data", 2nd edition (2010), chapter 4.

    Examples
    --------
    >>> import torch
    >>> from scivae.module import OrderedLinear
    >>> layer = OrderedLinear(4, 3)
    >>> layer(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    ranks: torch.Tensor

    def __init__(self, n_latent: int, n_classes: int):
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"ordered classes must be at least two, got {n_classes}.")
        self.direction = nn.Parameter(torch.empty(n_latent))  # (n_latent,)
        nn.init.uniform_(self.direction, -(n_latent**-0.5), n_latent**-0.5)
        # Boundaries begin one logit apart, about zero.
        first = torch.tensor([-(n_classes - 2) / 2])
        self.first = nn.Parameter(first)  # (1,)
        gap = torch.expm1(torch.ones(n_classes - 2) - MIN_GAP).log()  # softplus(gap) + MIN_GAP = 1
        self.gaps = nn.Parameter(gap)  # (n_classes - 2,)
        # Ranks are centered at zero, so that the first weights of no class are much larger than others.
        ranks = torch.arange(n_classes, dtype=torch.float32) - (n_classes - 1) / 2
        self.register_buffer("ranks", ranks, persistent=False)

    @property
    def boundaries(self) -> torch.Tensor:
        r"""Values of :math:`u^\top z` at the boundaries between neighboring classes, rising, ``(n_classes - 1,)``."""
        return torch.cat([self.first, F.softplus(self.gaps) + MIN_GAP]).cumsum(0)

    @property
    def weight(self) -> torch.Tensor:
        """Weights of the equivalent linear layer, shape ``(n_classes, n_latent)``."""
        return self.ranks[:, None] * self.direction

    @property
    def bias(self) -> torch.Tensor:
        """Biases of the equivalent linear layer, shape ``(n_classes,)``."""
        passed = torch.cat([self.first.new_zeros(1), self.boundaries.cumsum(0)])
        return passed.mean() - passed

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits ``(..., n_classes)`` of latent points ``(..., n_latent)``."""
        return F.linear(z, self.weight, self.bias)
