"""Statistics over paths, accumulated while the paths are decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _keys
from .._parts import Parts, digest, digest_of_weights
from .._progress import track

if TYPE_CHECKING:
    from ..model.paths import Paths


class Step(NamedTuple):
    """Statistics over paths at one position; each of shape ``(n_genes,)``.

    For counts, ``mean`` is the mean of log1p of the expected values, and ``expected`` is log1p of
    their mean.
    """

    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    expected: np.ndarray


def decoded_layers(
    paths: Paths, columns: np.ndarray, n_held: int, parts: str | os.PathLike | None = None
) -> dict[str, np.ndarray]:
    """Layers with the statistics of :class:`Step`, each ``(n_steps, n_genes)``.

    Parameters
    ----------
    paths, columns, n_held
        As for :func:`path_statistics`.
    parts
        As for :func:`scivae.tl.gene_trends`.
    """
    folder = None if parts is None else Path(parts) / "decoded"
    names = (
        _keys.MEAN_LAYER, _keys.SD_LAYER, _keys.Q05_LAYER, _keys.Q95_LAYER, _keys.DECODED_LAYER
    )  # fmt: skip
    layers = {name: np.empty((len(paths.t), len(columns)), dtype=np.float32) for name in names}
    for i, step in enumerate(path_statistics(paths, columns, n_held, folder)):
        for name, row in zip(names, step, strict=True):
            layers[name][i] = row
    return layers


def path_statistics(
    paths: Paths, columns: np.ndarray, n_held: int, folder: Path | None = None
) -> list[Step]:
    """Statistics over paths at each position.

    Parameters
    ----------
    paths
        The paths.
    columns
        Positions of the requested genes, shape ``(n_genes,)``.
    n_held
        Number of paths, from the first on, over which quantiles are calculated.
    folder
        Folder for finished positions, which several processes share; ``None``: this process does all.
    """
    import torch

    module = paths.codec.module
    n_paths = len(paths.start.mean)
    subset = None
    if len(columns) < module.n_input or (np.diff(columns) != 1).any():
        subset = torch.as_tensor(columns, device=module.device)

    @torch.inference_mode()
    def one(i: int) -> Step:
        held = np.empty((len(columns), n_held), dtype=np.float32)
        shift = torch.zeros(len(columns), device=module.device)
        sums, squares, plain = np.zeros((3, len(columns)))
        for rows, values in paths.normalized_blocks(i):
            if subset is not None:
                values = values[:, subset]
            if paths.counts:
                plain += values.sum(dim=0).double().cpu().numpy()
                values = values.log1p_()
            if rows.start < n_held:
                stop = min(rows.stop, n_held)
                held[:, rows.start : stop] = values[: stop - rows.start].T.cpu().numpy()
            if rows.start == 0:
                shift = values.mean(dim=0)
            values -= shift
            sums += values.sum(dim=0).double().cpu().numpy()
            squares += values.square_().sum(dim=0).double().cpu().numpy()
        about = shift.double().cpu().numpy()
        mean = about + sums / n_paths
        variance = squares / n_paths - (sums / n_paths) ** 2
        low, high = _quantiles(held, (0.05, 0.95))
        expected = np.log1p(plain / n_paths) if paths.counts else mean
        return Step(mean, np.sqrt(np.maximum(variance, 0)), low, high, expected)

    def all_of(positions: list[int]) -> Iterator[Step]:
        with _one_thread_each(module.device.type == "cpu") as pool:
            steps = pool.map(one, positions)
            yield from track(steps, "following genes", len(positions), unit="steps")

    with paths.codec.evaluating():
        if folder is None:
            return list(all_of(list(range(len(paths.t)))))
        with Parts(folder, len(paths.t), **_work(paths, columns, n_held)) as parts:
            mine = list(parts.missing())
            for i, step in zip(mine, all_of(mine), strict=True):
                parts.write(i, step)
            return [Step(*arrays) for arrays in parts.read()]


def _work(paths: Paths, columns: np.ndarray, n_held: int) -> dict[str, Any]:
    """Everything that the statistics depend on."""
    ends = (paths.start, paths.end)
    return {
        "paths": digest(paths.t, *(x for end in ends for x in (end.mean, *end.covariates))),
        "points": digest(paths.points_at(len(paths.t) // 2)),
        "genes": digest(columns),
        "quantile_pairs": n_held,
        "model": digest_of_weights(paths.codec.module.state_dict()),
    }


@contextmanager
def _one_thread_each(cpu: bool) -> Iterator[ThreadPoolExecutor]:
    """A pool of as many threads as torch would use; each thread decodes its own positions.

    If threads shared each matrix product instead, they would wait for each other after every one.
    """
    import torch

    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(n_threads if cpu else 1) as pool:
        torch.set_num_threads(1)
        try:
            yield pool
        finally:
            torch.set_num_threads(n_threads)


def _quantiles(values: np.ndarray, at: Sequence[float]) -> list[np.ndarray]:
    """Quantiles of each row, interpolated as by :func:`numpy.quantile`; sorts ``values`` in place."""
    n = values.shape[1]
    values.sort(axis=1)
    out = []
    for q in at:
        place = q * (n - 1)
        below = int(place)
        above = min(below + 1, n - 1)
        low, high = values[:, below].astype(float), values[:, above].astype(float)
        out.append(low + (place - below) * (high - low))
    return out
