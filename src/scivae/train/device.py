"""Training with all cells in GPU memory: no copies during training, and steps replayed as CUDA graphs.

A training step runs about a hundred small GPU operations. Launching one takes longer than running it. A CUDA
graph of several steps is launched once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from .._scvi import unchecked_distributions
from ..data.loader import CellsLoader
from ..module import check_finite, thin
from ..nb.counts import DenseCounts
from ..nb.on_gpu import INTEGERS, gathered, usable

# Largest fraction of the free GPU memory that the data may use.
MEMORY_SHARE = 0.5
# Number of minibatches recorded in one graph.
MINIBATCHES_A_GRAPH = 16
# Number of minibatches in one step of Lightning, which runs callbacks and logs between its steps.
MINIBATCHES_A_BLOCK = 128
# Number of cells copied to the device at a time.
CELLS_A_COPY = 4096
# Hooks of callbacks that run inside a step, which a replayed graph does not call.
STEP_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def narrowest(values: np.ndarray) -> torch.dtype:
    """The smallest of uint8, int16 and float32 that holds these float32 values exactly."""
    if values.size and (values == np.floor(values)).all():
        low, high = values.min(), values.max()
        for dtype in (torch.uint8, torch.int16):
            limits = torch.iinfo(dtype)
            if limits.min <= low and high <= limits.max:
                return dtype
    return torch.float32


def dense_counts(counts: torch.Tensor, thinning: float) -> DenseCounts:
    """A dense matrix of counts, and the thinned counts that the encoder sees."""
    return DenseCounts(counts, thin(counts, thinning) if thinning > 0 else counts)


class DeviceDataset(NamedTuple):
    """All cells, in the memory of a device.

    Attributes
    ----------
    tensors
        The tensors of a minibatch of scvi-tools, here for all cells; counts in the smallest type that
        holds them.
    """

    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, manager: AnnDataManager, device: torch.device) -> DeviceDataset | None:
        """Copy all cells of a data set to a device; ``None`` if they do not fit in its memory.

        Parameters
        ----------
        manager
            Manager of the AnnData.
        device
            The device.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        if not (isinstance(x, np.ndarray) or sparse.issparse(x)):
            return None
        room = MEMORY_SHARE * free_memory(device) / (x.shape[0] * x.shape[1])  # bytes per value
        if room < 1:
            return None
        values = x.data if sparse.issparse(x) else x
        check_finite(values)
        # duplicate entries of a sparse matrix are summed, and the sum may need a larger type
        summed = sparse.issparse(x) and not x.has_canonical_format
        dtype = torch.float32 if summed else narrowest(values)
        if room < dtype.itemsize:
            return None
        parts: dict[str, list[torch.Tensor]] = {}
        tensors = {REGISTRY_KEYS.X_KEY: torch.empty(x.shape, dtype=dtype, device=device)}
        loader = CellsLoader(
            manager,
            batch_size=CELLS_A_COPY,
            load_sparse_tensor=isinstance(x, sparse.csr_matrix),
        )
        counts = iter(tensors[REGISTRY_KEYS.X_KEY].split(CELLS_A_COPY))
        for some in loader:
            next(counts).copy_(some.pop(REGISTRY_KEYS.X_KEY).to(device).to_dense())
            for key, value in some.items():
                parts.setdefault(key, []).append(value)
        return cls(tensors | {key: torch.cat(part).to(device) for key, part in parts.items()})

    def free(self) -> None:
        """Free the memory, even if other objects still refer to this one."""
        self.tensors.clear()

    def at(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """A minibatch of the cells at these positions, with counts as float32."""
        found = self._others_at(indices)
        found[REGISTRY_KEYS.X_KEY] = self._values_at(indices)
        return found

    def counts_at(self, indices: torch.Tensor, thinning: float, log: bool) -> dict[str, Any]:
        """A minibatch of the cells at these positions, with counts as the fused likelihood reads them.

        Parameters
        ----------
        indices
            Positions of the cells, shape ``(n_obs,)``.
        thinning
            See :func:`scivae.module.thin`.
        log
            Whether the encoder receives logarithms.
        """
        x, found = self.tensors[REGISTRY_KEYS.X_KEY], self._others_at(indices)
        if x.dtype in INTEGERS and usable(x.device):
            found[REGISTRY_KEYS.X_KEY] = gathered(x, indices, thinning, log)
        else:
            found[REGISTRY_KEYS.X_KEY] = dense_counts(self._values_at(indices), thinning)
        return found

    def _values_at(self, indices: torch.Tensor) -> torch.Tensor:
        return self.tensors[REGISTRY_KEYS.X_KEY].index_select(0, indices).float()

    def _others_at(self, indices: torch.Tensor) -> dict[str, Any]:
        return {
            key: of_all.index_select(0, indices)
            for key, of_all in self.tensors.items()
            if key != REGISTRY_KEYS.X_KEY
        }


class IndexBatch(NamedTuple):
    """A batch of :class:`IndexLoader`: all cells, and the positions of those to train on."""

    cells: DeviceDataset
    indices: torch.Tensor  # (n_obs,), on the device
    minibatch_size: int

    def minibatches(self) -> Iterator[torch.Tensor]:
        """Positions by minibatch, ``(n_minibatches, size)``: full graphs first, then single minibatches.

        Each shape needs a graph of its own, so there are few shapes.
        """
        size, whole = self.minibatch_size, len(self.indices) // self.minibatch_size
        in_graphs = whole // MINIBATCHES_A_GRAPH * MINIBATCHES_A_GRAPH
        yield from self.indices[: in_graphs * size].view(-1, MINIBATCHES_A_GRAPH, size)
        yield from self.indices[in_graphs * size : whole * size].view(-1, 1, size)
        if whole * size < len(self.indices):
            yield self.indices[whole * size :][None]


class IndexLoader:
    """Yields positions of cells, in the order in which scvi-tools' loader would yield the cells.

    Parameters
    ----------
    cells
        All cells.
    indices
        Positions of the cells to yield.
    minibatch_size
        Cells per minibatch; :data:`MINIBATCHES_A_BLOCK` minibatches are yielded at a time.
    shuffle
        Whether to shuffle the cells in every epoch.
    """

    def __init__(
        self, cells: DeviceDataset, indices: np.ndarray, minibatch_size: int, shuffle: bool
    ):
        self.cells = cells
        self.indices = torch.as_tensor(indices, dtype=torch.long)
        self.minibatch_size = minibatch_size
        self.size = minibatch_size * MINIBATCHES_A_BLOCK
        self.shuffle = shuffle
        self.generator: torch.Generator | None = None

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def __iter__(self) -> Iterator[IndexBatch]:
        indices = self.indices
        if self.shuffle:
            indices = indices[torch.randperm(len(indices), generator=self.generator)]
        device = self.cells.tensors[REGISTRY_KEYS.X_KEY].device
        for some in indices.to(device).split(self.size):
            yield IndexBatch(self.cells, some, self.minibatch_size)


def free_memory(device: torch.device) -> int:
    """Free memory of a GPU, in bytes."""
    return torch.cuda.mem_get_info(device)[0]


def why_not_held(trainer: Trainer) -> str | None:
    """Why training cannot record its steps as CUDA graphs; ``None`` if it can."""
    device = trainer.strategy.root_device.type
    if device != "cuda":
        return f"training is on a device of type {device}"
    if trainer.world_size != 1:
        return "training is on several devices"
    return why_seen(trainer)


def why_seen(trainer: Trainer) -> str | None:
    """Why the framework has to take each step; ``None`` if a step can be taken without it."""
    plugin = trainer.precision_plugin
    scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None
    if scaled or not (type(plugin) is Precision or isinstance(plugin, MixedPrecision)):
        return "this precision cannot be recorded"
    for callback in trainer.callbacks:
        if any(is_overridden(hook, callback, parent=Callback) for hook in STEP_HOOKS):
            return f"the callback {type(callback).__name__} watches each step"
    return None


@contextmanager
def rates_on_device(groups: list[dict], rates: list[torch.Tensor]) -> Iterator[None]:
    """Replace the learning rates of an optimizer by tensors, which a recorded graph can read.

    Parameters
    ----------
    groups
        Parameter groups of the optimizer. Their learning rates are floats again afterwards.
    rates
        For each group, a tensor on the device that is set to its learning rate.
    """
    before = [(group["lr"], group["capturable"]) for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        rate.fill_(group["lr"])
        group["lr"], group["capturable"] = rate, True
    try:
        yield
    finally:
        for group, (rate, capturable) in zip(groups, before, strict=True):
            group["lr"], group["capturable"] = rate, capturable


class CudaGraphStep:
    """A function of positions of cells, recorded as a CUDA graph and replayed.

    For each shape of positions, the first call runs the function normally, which also initializes what is
    created only once. The second call records it. If the first call waits for the device, which a recorded
    graph must not do, all calls run normally. Results of both are equal, except for the random numbers.

    Parameters
    ----------
    function
        From positions of cells, ``(n_minibatches, size)``, to a tuple of tensors. All other tensors that it
        reads or writes must keep their memory addresses.
    """

    def __init__(self, function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]):
        self.function = function
        self.waits = False
        self._recorded: dict[tuple[int, ...], _Recorded | None] = {}
        self._stream = _side_stream()

    def __call__(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Results of the function for these cells."""
        shape = tuple(indices.shape)
        with unchecked_distributions():
            if self.waits:
                return self.function(indices)
            if shape not in self._recorded:
                self._recorded[shape] = None
                return self._aside(indices)
            recorded = self._recorded[shape]
            if recorded is None:
                recorded = self._recorded[shape] = self._record(indices)
        recorded.indices.copy_(indices)
        recorded.graph.replay()
        return tuple(result.clone() for result in recorded.results)

    def _aside(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the function normally, on the side stream that CUDA requires before a recording."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream), _noting_waits() as waits:
            results = self.function(indices)
        here.wait_stream(self._stream)
        self.waits = bool(waits)
        return results

    def _record(self, indices: torch.Tensor) -> _Recorded:
        graph, given = torch.cuda.CUDAGraph(), indices.clone()
        try:
            with torch.cuda.graph(graph):
                results = self.function(given)
        except RuntimeError as error:
            raise RuntimeError(
                "a training step cannot be recorded as a CUDA graph, because the network or "
                "another thread uses an operation that CUDA graphs do not support; train with "
                "plan_kwargs={'minibatch_size': None}."
            ) from error
        return _Recorded(graph, given, results)


@cache
def _side_stream() -> torch.cuda.Stream:
    """One side stream for all graphs, because memory that a stream has used stays reserved for it."""
    return torch.cuda.Stream()


class _Recorded(NamedTuple):
    """A recorded graph, the tensor of positions that it reads, and the tensors that it writes."""

    graph: torch.cuda.CUDAGraph
    indices: torch.Tensor
    results: tuple[torch.Tensor, ...]


@contextmanager
def _noting_waits() -> Iterator[list]:
    """Yields a list that holds, after the block, a warning for each operation that waited for the device."""
    before = torch.cuda.get_sync_debug_mode()
    waits: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
            waits += [w for w in told if "called a synchronizing" in str(w.message)]
    for warning in told:  # except torch's own warning about this mode
        if warning not in waits and "Synchronization debug mode" not in str(warning.message):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
