"""Training on a GPU that holds the data: nothing is copied to it, and steps are replayed as recorded graphs.

A step on a minibatch is some hundred small operations, each of which takes longer to ask for than to do. A
graph of several steps is asked for once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

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
from ..module import check_finite

# Share of the free memory of the device that the data may take.
MEMORY_SHARE = 0.5
# Minibatches that are recorded as one graph.
MINIBATCHES_A_GRAPH = 16
# Minibatches between two looks of the framework.
MINIBATCHES_A_BLOCK = 128
# Cells that are copied to the device at once.
CELLS_A_COPY = 4096
# What a callback can only see of a step that Python takes.
STEP_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def narrowest(values: np.ndarray) -> torch.dtype:
    """The type of fewest bytes that holds these numbers as they are (as float32)."""
    if values.size and (values == np.floor(values)).all():
        low, high = values.min(), values.max()
        for dtype in (torch.uint8, torch.int16):
            limits = torch.iinfo(dtype)
            if limits.min <= low and high <= limits.max:
                return dtype
    return torch.float32


class DeviceDataset(NamedTuple):
    """Cells on a device.

    Attributes
    ----------
    tensors
        What the loaders of scvi-tools give of them, for all of them; counts in few bytes.
    """

    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, manager: AnnDataManager, device: torch.device) -> DeviceDataset | None:
        """All cells of a data set, if they fit in its memory.

        Parameters
        ----------
        manager
            Of the data set.
        device
            Where to.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        if not (isinstance(x, np.ndarray) or sparse.issparse(x)):
            return None
        room = MEMORY_SHARE * free_memory(device) / (x.shape[0] * x.shape[1])  # bytes a value
        if room < 1:
            return None
        values = x.data if sparse.issparse(x) else x
        check_finite(values)
        # values that are stored twice are summed, and may need more bytes than either
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
        """Free the memory, even if references remain."""
        self.tensors.clear()

    def at(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Some of the cells, counts as float32."""
        found = {key: of_all.index_select(0, indices) for key, of_all in self.tensors.items()}
        found[REGISTRY_KEYS.X_KEY] = found[REGISTRY_KEYS.X_KEY].float()
        return found


class IndexBatch(NamedTuple):
    """What the loader yields: cells, and which of them."""

    cells: DeviceDataset
    indices: torch.Tensor  # (n_obs,), on the device
    minibatch_size: int

    def minibatches(self) -> Iterator[torch.Tensor]:
        """Indices ``(n_minibatches, size)``, of few different shapes: as many to a graph as there can be."""
        size, whole = self.minibatch_size, len(self.indices) // self.minibatch_size
        in_graphs = whole // MINIBATCHES_A_GRAPH * MINIBATCHES_A_GRAPH
        yield from self.indices[: in_graphs * size].view(-1, MINIBATCHES_A_GRAPH, size)
        yield from self.indices[in_graphs * size : whole * size].view(-1, 1, size)
        if whole * size < len(self.indices):
            yield self.indices[whole * size :][None]


class IndexLoader:
    """Yields which cells come next, in the order in which scvi-tools' loader would yield them.

    Parameters
    ----------
    cells
        All cells.
    indices
        Those to yield.
    minibatch_size
        Cells of a minibatch; many of them are yielded at a time.
    shuffle
        Whether in a new order each time.
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
    """Bytes that are free on a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def why_not_held(trainer: Trainer) -> str | None:
    """Why training cannot record its steps on a GPU that holds the cells; ``None`` where it can."""
    device = trainer.strategy.root_device.type
    if device != "cuda":
        return f"training is on a device of type {device}"
    if trainer.world_size != 1:
        return "training is on several devices"
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
    """Let an optimizer read its learning rates where what is recorded finds them again.

    Parameters
    ----------
    groups
        Of its weights; they have floats before and after.
    rates
        Of each group a number on the device, which takes the value of the float.
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
    """A function of which cells, recorded as a graph and replayed from its second call with a shape on.

    The first call runs as it is: it is a step like any other, and does what is done but once. Should it wait
    for the device, which a recording must not, all calls run as they are. Both give the same numbers, but for
    what is drawn.

    Parameters
    ----------
    function
        From which cells, ``(n_minibatches, size)``, to a tuple of tensors. What it reads and writes besides
        must stay where it is.
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
        """The function as it is, on a stream of its own, as what is recorded later must find it."""
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
    """One for all, as what a stream has once used stays with it."""
    return torch.cuda.Stream()


class _Recorded(NamedTuple):
    """A graph, what it reads, and what it writes."""

    graph: torch.cuda.CUDAGraph
    indices: torch.Tensor
    results: tuple[torch.Tensor, ...]


@contextmanager
def _noting_waits() -> Iterator[list]:
    """Gives a list, which holds in the end what waited for the device."""
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
    for warning in told:  # but for what torch says of this mode when it is first asked for
        if warning not in waits and "Synchronization debug mode" not in str(warning.message):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
