"""The training engine, chosen in one place, and the loaders that it needs.

====================  ============================================================================
step by step          Each minibatch is a step of Lightning, seen by callbacks and logs.
superbatch            Several minibatches are read at once, and are one step of Lightning.
CUDA graph            The same, with all cells in GPU memory, and steps recorded and replayed.
====================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter

from ..data.loader import BLOCK_VALUES, CellsLoader
from ..nb.workers import worker_pool
from .device import DeviceDataset, IndexBatch, IndexLoader, why_not_held

# Most threads that share a minibatch; more would wait for each other in Python.
MAX_WORKERS = 4
# Values of a minibatch (cells × genes) per thread; with fewer, a thread costs more than it saves.
VALUES_PER_WORKER = 2**18
# Most minibatches that are read at once.
MAX_AT_ONCE = 32
# Arguments of the trainer that need one minibatch per step of Lightning.
STEPWISE = frozenset(
    {
        "accumulate_grad_batches",
        "fast_dev_run",
        "gradient_clip_algorithm",
        "gradient_clip_val",
        "limit_train_batches",
        "limit_val_batches",
        "max_steps",
        "num_nodes",
        "overfit_batches",
        "strategy",
        "val_check_interval",
    }
)
# Of these, the arguments that share minibatches between processes.
SHARING = frozenset({"num_nodes", "strategy"})


class Engine:
    """The way in which training takes its steps, and the reason for it.

    :func:`choose_engine` makes it before training. Only when the trainer exists is it known whether the
    cells fit on a GPU; :meth:`place` then decides between a superbatch and a CUDA graph.

    Attributes
    ----------
    kind
        The engine.
    reason
        Why it was chosen: a clause that follows "because".
    minibatch_size
        Cells per minibatch; ``None`` if what the loader yields is one minibatch.
    at_once
        Number of minibatches that the loader yields at once.
    compiled
        Whether steps were calculated in compiled loops, without autograd; known after training.
    """

    def __init__(
        self,
        kind: Literal["step by step", "superbatch", "CUDA graph"],
        reason: str,
        minibatch_size: int | None = None,
        at_once: int = 1,
        *,
        may_record: bool = False,
    ):
        self.kind, self.reason = kind, reason
        self.minibatch_size, self.at_once = minibatch_size, at_once
        self.compiled = False
        self._may_record = may_record

    def __str__(self) -> str:
        how = {
            "step by step": "step by step",
            "superbatch": f"in superbatches of {self.at_once} minibatches",
            "CUDA graph": "as CUDA graphs",
        }
        loops = ", each step in compiled loops" if self.compiled else ""
        return f"Trained {how[self.kind]}{loops}, because {self.reason}."

    def place(self, trainer: Trainer, manager: AnnDataManager) -> DeviceDataset | None:
        """Copy all cells to the GPU if steps can be recorded there; ``None`` if not. Called once.

        Parameters
        ----------
        trainer
            The trainer.
        manager
            Manager of the AnnData.
        """
        if not self._may_record:
            return None
        reason = why_not_held(trainer)
        if reason is None:
            cells = DeviceDataset.of(manager, trainer.strategy.root_device)
            if cells is not None:
                self.kind, self.reason = "CUDA graph", "one GPU holds all cells"
                return cells
            reason = "the cells do not fit in the memory of the GPU"
        self.reason = reason
        return None


def choose_engine(
    *,
    trainer: Mapping[str, Any],
    plan: Mapping[str, Any],
    drop_last: bool,
    datamodule: Any,
    batch_size: int,
    n_vars: int,
    needs_outputs: bool,
) -> Engine:
    """Choose the engine of a training from its arguments.

    Parameters
    ----------
    trainer, plan
        Arguments of the trainer and of the training plan.
    drop_last
        Whether the loader drops an incomplete last batch.
    datamodule
        Source of the cells; ``None`` for the AnnData of the model.
    batch_size
        Cells per minibatch.
    n_vars
        Number of genes.
    needs_outputs
        Whether callbacks need the outputs of the network, which a recorded step does not return.
    """
    in_memory = datamodule is None
    if "minibatch_size" in plan:
        size = plan["minibatch_size"]
        if size is None:
            return Engine("step by step", "minibatch_size=None asks for it")
        reason = f"minibatch_size={size} asks for it"
        may_record = in_memory and not drop_last and not needs_outputs
        return Engine("superbatch", reason, size, may_record=may_record)
    given = STEPWISE & trainer.keys()
    if hasattr(datamodule, "take_together") and is_ddp(trainer.get("strategy")):
        given -= SHARING
    if given:
        does = "shares" if (name := min(given)) in SHARING else "counts"
        return Engine("step by step", f"{name} {does} minibatches")
    if not in_memory and not hasattr(datamodule, "take_together"):
        return Engine("step by step", "the datamodule makes minibatches of its own")
    size = batch_size if in_memory else getattr(datamodule, "batch_size", 0)
    if drop_last:
        return Engine("superbatch", "drop_last drops what is read at once", size)
    reason = "the cells are in memory" if in_memory else "the cells are read from the disk"
    return Engine(
        "superbatch",
        reason,
        size,
        minibatches_at_once(size, n_vars),
        may_record=in_memory and not needs_outputs,
    )


def is_ddp(strategy: Any) -> bool:
    """Whether a strategy keeps all weights in each process, and averages their gradients."""
    if isinstance(strategy, str):
        return strategy.startswith("ddp")
    return type(strategy) is DDPStrategy


def minibatches_at_once(batch_size: int, n_vars: int) -> int:
    """Number of minibatches in one step of Lightning."""
    return int(np.clip(BLOCK_VALUES // (batch_size * n_vars), 1, MAX_AT_ONCE))


def steps_between_logs(
    trainer: Mapping[str, Any], indexing: Any, datamodule: Any, batch_size: int
) -> int | None:
    """Steps between two logs of numbers that are logged by step: every epoch has one at least.

    Parameters
    ----------
    trainer
        Arguments of the trainer.
    indexing
        Positions of the training, validation and test cells; ``None`` if there is a datamodule.
    datamodule
        Source of the cells; the result is ``None`` if it does not say how many it trains on.
    batch_size
        Cells per minibatch, without a datamodule.
    """
    n_train = getattr(datamodule, "n_train", None) if indexing is None else len(indexing[0])
    batch_size = batch_size if indexing is not None else getattr(datamodule, "batch_size", 0)
    if not n_train or not batch_size:
        return None
    n_nodes = trainer.get("num_nodes", 1)
    n_processes = n_devices(trainer) * (n_nodes if isinstance(n_nodes, int) else 1)
    return min(10, max(1, -(-n_train // batch_size) // n_processes))


def n_devices(trainer: Mapping[str, Any]) -> int:
    """Number of devices that the arguments of a trainer ask for on each machine."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, list | tuple):
        return len(devices)
    if str(devices).isdigit() and int(devices) >= 1:
        return int(devices)
    return max(1, torch.cuda.device_count())  # as many as there are


@contextmanager
def shared_minibatches(n_values: int) -> Iterator[None]:
    """Give each thread a part of the cells of a minibatch, instead of a part of each operation.

    Most operations of a step are too small to be split between threads. If the minibatch itself is
    too small to be split, one thread trains while another prepares the next minibatch.

    Parameters
    ----------
    n_values
        Cells per minibatch times genes; 0 leaves the threads of torch as they are.
    """
    if n_values == 0:
        yield
        return
    before = torch.get_num_threads()
    n_workers = max(1, min(before, MAX_WORKERS, n_values // VALUES_PER_WORKER))
    torch.set_num_threads(max(1, before // n_workers if n_workers > 1 else before - 1))
    try:
        with worker_pool(n_workers):
            yield
    finally:
        torch.set_num_threads(before)


class CellsSplitter(DataSplitter):
    """scvi-tools' splitter, which keeps sparse counts sparse, and yields positions of cells on a GPU.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`scvi.dataloaders.DataSplitter`.
    engine
        The engine of this training.
    """

    data_loader_cls = CellsLoader

    def __init__(self, *args, engine: Engine, **kwargs):
        super().__init__(*args, **kwargs)
        self.engine = engine
        self.on_device: DeviceDataset | None = None

    def train_dataloader(self):
        """Loader of the training cells."""
        self.on_device = self.engine.place(self.trainer, self.adata_manager)
        return self._index_loader(self.train_idx, shuffle=True) or super().train_dataloader()

    def val_dataloader(self):
        """Loader of the held-out cells."""
        return self._index_loader(self.val_idx, shuffle=False) or super().val_dataloader()

    def _index_loader(self, indices: np.ndarray, shuffle: bool) -> IndexLoader | None:
        """Loader of positions, if the device holds the cells; else ``None``."""
        if self.on_device is None or not len(indices):
            return None
        return IndexLoader(self.on_device, indices, self.engine.minibatch_size or 0, shuffle)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int):
        """Copy a minibatch to the device, unless its cells are there already."""
        if isinstance(batch, IndexBatch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int):
        """Return the batch unchanged; scvi-tools would make it dense."""
        return batch

    def teardown(self, stage: str | None = None) -> None:
        """Free the GPU memory of the cells, which loaders would hold for as long as the model exists."""
        if self.on_device is not None:
            self.on_device.free()
        self.on_device = None
