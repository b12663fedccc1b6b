"""The terms of a loss, and how those of several minibatches are joined."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from scvi.module.base import LossOutput


class Terms(NamedTuple):
    """The terms of a loss, detached from the graph that computed them."""

    loss: torch.Tensor
    reconstruction_loss: torch.Tensor  # (n_obs,)
    kl_local: torch.Tensor  # (n_obs,)
    classification_loss: torch.Tensor
    logits: torch.Tensor  # (..., n_obs, n_classes)
    true_labels: torch.Tensor  # (..., n_obs)

    @classmethod
    def of(cls, output: LossOutput) -> Terms:
        """The detached terms of a loss."""
        return cls(
            output.loss.detach(),
            sum(output.reconstruction_loss.values()).detach(),
            sum(output.kl_local.values()).detach(),
            output.classification_loss.detach(),
            output.logits.detach(),
            output.true_labels,
        )

    def output(self) -> LossOutput:
        """A loss with these terms, as scvi-tools uses it."""
        return LossOutput(**self._asdict())


def joined(outputs: list[LossOutput]) -> LossOutput:
    """One loss of several minibatches: values per cell are concatenated, others averaged over cells.

    That of the classifier is averaged over labeled cells.
    """
    if len(outputs) == 1:
        return outputs[0]
    return joined_terms([Terms.of(output) for output in outputs])


def joined_terms(terms: list[Terms]) -> LossOutput:
    """As :func:`joined`, for the terms of losses."""
    if len(terms) == 1:
        return terms[0].output()
    sizes = [len(each.kl_local) for each in terms]
    loss, reconstruction, kl, classification, logits, true = zip(*terms, strict=True)
    total: Any = sum(size * value for size, value in zip(sizes, loss, strict=True))
    # Labeled cells are counted on the device: a CUDA graph must not wait for numbers.
    labeled = torch.stack(
        [(of < scores.shape[-1]).sum() for of, scores in zip(true, logits, strict=True)]
    )
    return Terms(
        total / sum(sizes),
        torch.cat(reconstruction),
        torch.cat(kl),
        (labeled * torch.stack(classification)).sum() / labeled.sum().clamp(min=1),
        torch.cat(logits, dim=-2),
        torch.cat(true, dim=-1),
    ).output()
