"""Which engine trains, decided in one place, and the loaders that it needs.

====================  ============================================================================
step by step          Each minibatch is a step of Lightning: callbacks and logs see every one.
superbatch            Several minibatches are read at once; Lightning sees one step for all of them.
CUDA graph            The same, with all cells on the GPU and the steps recorded and replayed.
====================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Trainer
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter

from ..data.loader import BLOCK_VALUES, CellsLoader
from ..nb.workers import worker_pool
from .device import DeviceDataset, IndexBatch, IndexLoader, why_not_held

# Threads that share a minibatch: with more, they wait for each other in Python.
MAX_WORKERS = 4
# Fewer values of the expression matrix are not worth a thread of their own.
VALUES_PER_WORKER = 2**18
# Minibatches that are read at once, at most.
MAX_AT_ONCE = 32
# Arguments of the trainer whose meaning depends on one minibatch being one step of its own.
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


class Engine:
    """How the steps of a training are taken, and why.

    Made by :func:`choose_engine` before training. Whether a GPU holds the cells is known only once the
    trainer exists: :meth:`place` adds that, once.

    Attributes
    ----------
    kind
        The engine.
    reason
        Why it was chosen, as the end of a sentence.
    minibatch_size
        Cells of a minibatch; ``None`` where a minibatch is what the loader yields.
    at_once
        Minibatches that the loader yields at once.
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
        self._may_record = may_record

    def __str__(self) -> str:
        how = {
            "step by step": "step by step",
            "superbatch": f"in superbatches of {self.at_once} minibatches",
            "CUDA graph": "as CUDA graphs",
        }
        return f"Trained {how[self.kind]}, because {self.reason}."

    def place(self, trainer: Trainer, manager: AnnDataManager) -> DeviceDataset | None:
        """All cells on the GPU, if the steps can be recorded there; called once, by the loader.

        Parameters
        ----------
        trainer
            The trainer.
        manager
            Of the cells.
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
    """The engine for a training.

    Parameters
    ----------
    trainer, plan
        Arguments of the trainer and of the training plan.
    drop_last
        Whether the loader drops a last part that is smaller than what it yields.
    datamodule
        Where the cells come from; ``None`` for the AnnData of the model.
    batch_size
        Cells in a minibatch.
    n_vars
        Number of genes.
    needs_outputs
        Whether callbacks need the outputs of the network, which a recorded step does not give.
    """
    in_memory = datamodule is None
    if "minibatch_size" in plan:
        size = plan["minibatch_size"]
        if size is None:
            return Engine("step by step", "minibatch_size=None asks for it")
        reason = f"minibatch_size={size} asks for it"
        may_record = in_memory and not drop_last and not needs_outputs
        return Engine("superbatch", reason, size, may_record=may_record)
    if given := sorted(STEPWISE & trainer.keys()):
        return Engine("step by step", f"{given[0]} counts minibatches")
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


def minibatches_at_once(batch_size: int, n_vars: int) -> int:
    """Minibatches that are read, and trained on, between two looks of Lightning."""
    return int(np.clip(BLOCK_VALUES // (batch_size * n_vars), 1, MAX_AT_ONCE))


@contextmanager
def shared_minibatches(n_values: int) -> Iterator[None]:
    """Let each thread of torch work on a part of the minibatch, not on a part of each operation.

    Most operations of a step are too small to be split between threads. If the minibatch itself is
    small, one thread trains, and one prepares the next minibatch.

    Parameters
    ----------
    n_values
        Cells of a minibatch times genes; 0 changes nothing.
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
    """scvi-tools' splitter, which leaves sparse counts as they are, and all cells on a GPU that holds them.

    Parameters
    ----------
    *args, **kwargs
        Passed to :class:`scvi.dataloaders.DataSplitter`.
    engine
        How the steps of this training are taken.
    """

    data_loader_cls = CellsLoader

    def __init__(self, *args, engine: Engine, **kwargs):
        super().__init__(*args, **kwargs)
        self.engine = engine
        self.on_device: DeviceDataset | None = None

    def train_dataloader(self):
        """Loader of the cells to train on."""
        self.on_device = self.engine.place(self.trainer, self.adata_manager)
        return self._index_loader(self.train_idx, shuffle=True) or super().train_dataloader()

    def val_dataloader(self):
        """Loader of the cells that are held out."""
        return self._index_loader(self.val_idx, shuffle=False) or super().val_dataloader()

    def _index_loader(self, indices: np.ndarray, shuffle: bool) -> IndexLoader | None:
        """Loader of the positions of cells that the device holds; ``None`` where it holds none."""
        if self.on_device is None or not len(indices):
            return None
        return IndexLoader(self.on_device, indices, self.engine.minibatch_size or 0, shuffle)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int):
        """Nothing is copied that is there."""
        if isinstance(batch, IndexBatch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int):
        """Nothing is made dense."""
        return batch

    def teardown(self, stage: str | None = None) -> None:
        """Give back the memory of the device: the trainer, which the model keeps, still has the loaders."""
        if self.on_device is not None:
            self.on_device.free()
        self.on_device = None
