"""Thinning: random removal of counts or values before encoding, in training."""

from __future__ import annotations

import torch


def _shares_kept(x: torch.Tensor, most_lost: float) -> torch.Tensor:
    """Fraction that each observation keeps, uniform on ``[1 - most_lost, 1]``, shape ``(n_obs, 1)``."""
    return 1 - most_lost * torch.rand(x.shape[0], 1, device=x.device, dtype=x.dtype)


def thin(x: torch.Tensor, thinning: float) -> torch.Tensor:
    """Counts at a lower sequencing depth.

    For each cell, a fraction is drawn uniformly from ``[1 - thinning, 1]``. Each molecule is then kept with
    this probability, independently (a binomial draw), which simulates a lower depth exactly for UMI counts.

    Parameters
    ----------
    x
        Counts, shape ``(n_obs, n_vars)``.
    thinning
        Largest fraction of the counts of a cell that is removed, in [0, 1).

    Examples
    --------
    >>> import torch
    >>> from scivae.module import thin
    >>> counts = torch.tensor([[9.0, 0.0, 4.0]])
    >>> bool((thin(counts, 0.7) <= counts).all())
    True
    """
    share = _shares_kept(x, thinning)
    if not x.is_cpu:
        return torch.binomial(x, share.expand_as(x))
    index = x.flatten().nonzero().squeeze(1)  # zeros stay zeros
    out = torch.zeros_like(x).flatten()
    out[index] = torch.binomial(x.flatten()[index], share.expand_as(x).flatten()[index])
    return out.view_as(x)


def mask(x: torch.Tensor, thinning: float) -> torch.Tensor:
    """Continuous values, some of them set to zero at random.

    For each observation, a fraction is drawn uniformly from ``[1 - thinning, 1]``. Each value is then kept
    with this probability, else set to zero.

    Parameters
    ----------
    x
        Values, shape ``(n_obs, n_vars)``.
    thinning
        Largest fraction of the values of an observation that is set to zero, in [0, 1).

    Examples
    --------
    >>> import torch
    >>> from scivae.module import mask
    >>> image = torch.full((1, 4), 0.5)
    >>> bool(((mask(image, 0.7) == 0) | (mask(image, 0.7) == 0.5)).all())
    True
    """
    share = _shares_kept(x, thinning)  # drawn before the rest, as in thin
    return x * (torch.rand_like(x) < share)
