"""Training steps on what a loader yields: on a CPU, on a GPU, or as recorded CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput

from .._scvi import count_step
from ..module import check_finite
from ..nb.counts import SparseCounts
from ..nb.workers import n_workers, prefetch
from .compiled_step import CompiledStep, can_compile
from .device import CudaGraphStep, DeviceDataset, IndexBatch, dense_counts, rates_on_device
from .terms import Terms, joined, joined_terms

# Number of minibatches that are prepared ahead of the one that is trained on.
PREFETCHED = 2


class Steps:
    """Losses of minibatches and, in training, a step of the optimizer for each.

    The training plan calls :meth:`losses` and logs the result. The type of batch that the loader yields,
    which :class:`.Engine` has chosen, decides how they are computed.

    Attributes
    ----------
    compiled
        Whether steps were taken in compiled loops.
    """

    def __init__(self) -> None:
        # Recorded graphs of training (True) and evaluation (False), and the tensors that they read.
        self._graphs: dict[bool, Callable] = {}
        self._kl_weight = torch.zeros(())
        self._rates: list[torch.Tensor] = []
        self.compiled = False

    def release(self) -> None:
        """Release the memory of the recorded graphs."""
        self._graphs, self._kl_weight, self._rates = {}, torch.zeros(()), []

    def losses(self, plan: Any, batch: dict | IndexBatch) -> LossOutput:
        """Compute the losses of a batch. In training, each of its minibatches is also one optimizer step.

        The loss of a minibatch is that of the weights before its step.

        Parameters
        ----------
        plan
            The training plan.
        batch
            One or several minibatches, or positions of cells on the device, as the loader yields them.
        """
        if isinstance(batch, IndexBatch):
            return self._in_graphs(plan, batch)
        if can_compile(plan, len(batch[REGISTRY_KEYS.X_KEY])):
            self.compiled = True
            step, x = CompiledStep(plan, batch), batch[REGISTRY_KEYS.X_KEY]
            cells = _prepared(plan, x, plan.minibatch_size, step.prepare)
            return joined_terms(step.take_all(cells))
        return joined([take_step(plan, tensors) for tensors in _minibatches(plan, batch)])

    def _in_graphs(self, plan: Any, batch: IndexBatch) -> LossOutput:
        """As :meth:`losses`, for cells on the device, with recorded graphs if the optimizer allows it."""
        optimizer = plan.optimizers()
        groups = optimizer.param_groups
        recordable = all(group.get("fused") for group in groups)
        if plan.training not in self._graphs:
            self._kl_weight = self._kl_weight.to(batch.indices.device)
            self._rates = self._rates or [self._kl_weight.clone() for _ in groups]
            step = partial(self._on_device, plan, batch.cells, optimizer.optimizer)
            self._graphs[plan.training] = CudaGraphStep(step) if recordable else step
        outputs = []
        with rates_on_device(groups, self._rates) if recordable else nullcontext():
            for indices in batch.minibatches():
                if plan.training:
                    self._kl_weight.fill_(plan.kl_weight)
                outputs.append(Terms(*self._graphs[plan.training](indices)).output())
                for _ in range(len(indices) if plan.training else 0):
                    count_step(optimizer)
        return joined(outputs)

    def _on_device(
        self,
        plan: Any,
        cells: DeviceDataset,
        optimizer: torch.optim.Optimizer,
        indices: torch.Tensor,
    ) -> Terms:
        """The function that is recorded: losses and steps on minibatches ``(n_minibatches, size)``."""
        plan.loss_kwargs["kl_weight"] = self._kl_weight
        outputs = []
        for some in indices:
            if plan.module.supports_fused_nb:
                log = plan.module.log_variational
                tensors = cells.counts_at(some, plan.thinning_now, log)
            else:
                tensors = cells.at(some)
            outputs.append(take_step(plan, tensors, optimizer, checked=True))
        return Terms.of(joined(outputs))


def take_step(
    plan: Any, tensors: dict[str, Any], optimizer: Any = None, checked: bool = False
) -> LossOutput:
    """Compute the loss of one minibatch, and in training with manual optimization take a step.

    The loss is that of the weights before the step.

    Parameters
    ----------
    plan
        The training plan.
    tensors, checked
        As :meth:`.CIVAETrainingPlan.minibatch_loss` takes them.
    optimizer
        The optimizer; ``None`` for that of the plan.
    """
    output = plan.minibatch_loss(tensors, checked)
    if output.loss.is_cpu:  # on a GPU, one check of all minibatches saves a wait per step
        plan.check_loss(output)
    if not plan.training or plan.automatic_optimization:
        return output
    optimizer = optimizer or plan.optimizers()
    # as zero_grad does, without its overhead
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = None
    # Gradients keep the precision of their weights, also under mixed precision.
    with torch.autocast(output.loss.device.type, enabled=False):
        plan.manual_backward(output.loss)
    optimizer.step()
    return output


def _minibatches(plan: Any, tensors: dict[str, torch.Tensor]) -> Iterator[dict]:
    """Split what the loader yielded into minibatches."""
    x = tensors[REGISTRY_KEYS.X_KEY]
    size = plan.minibatch_size or len(x)
    fused = plan.module.supports_fused_nb
    values: Iterator[Any] = iter(_prepared(plan, x, size) if fused else x.to_dense().split(size))
    others = {k: v.split(size) for k, v in tensors.items() if k != REGISTRY_KEYS.X_KEY}
    for some, *columns in zip(values, *others.values(), strict=True):
        yield {REGISTRY_KEYS.X_KEY: some, **dict(zip(others, columns, strict=True))}


def _prepared(
    plan: Any, x: torch.Tensor, size: int, prepare: Callable = SparseCounts.prepare
) -> Iterator[Any]:
    """Minibatches of counts; on a CPU, a second thread prepares the next ones with a function."""
    if not x.is_cpu:
        check_finite(x := x.to_dense())
        yield from (dense_counts(some, plan.thinning_now) for some in x.split(size))
        return
    counts = SparseCounts.of(x)
    check_finite(counts.counts)
    parts, n = counts.split(size), n_workers()
    # Each minibatch has its own seed, so draws do not depend on the order of the threads.
    seeds = torch.randint(2**62, (-(-len(x) // size),)).tolist()
    lost = plan.thinning_now
    calls = (partial(prepare, p, lost, s, n) for p, s in zip(parts, seeds, strict=True))
    yield from prefetch(calls, PREFETCHED)
