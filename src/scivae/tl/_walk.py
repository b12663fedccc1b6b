"""Statistics over paths, summed up while they are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._progress import track

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from ..model import CIVAE
    from ..module._covariates import Conditions, Encoded

# Values of one block of decoded cells: what stays in a processor's cache is decoded fastest.
_VALUES_PER_BLOCK = 2**18


class Step(NamedTuple):
    """Statistics over paths at one position; each of shape ``(n_genes,)``.

    ``expected`` is the mean of the expected values themselves: for counts its log1p, where ``mean`` is
    the mean of log1p.
    """

    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    expected: np.ndarray


class Walk:
    """Paths between encoded cells, decoded one position at a time."""

    def __init__(
        self,
        model: CIVAE,
        start: Encoded,
        end: Encoded,
        adata: AnnData,
        method: str,
        t: np.ndarray,
    ):
        from ..module import COUNT_LIKELIHOODS

        self.model, self.start, self.end, self.t = model, start, end, t
        self.method = method
        self.counts = model.likelihood in COUNT_LIKELIHOODS
        self.curves: np.ndarray | None = None
        if method == "geodesic":
            self.curves = model._geodesics(adata, start, end, len(t))

    def take(self, n: int) -> Walk:
        """The first of the paths."""
        if n >= len(self.start.mean):
            return self
        out = copy(self)
        out.start, out.end = self.start.take(slice(n)), self.end.take(slice(n))
        out.curves = None if self.curves is None else self.curves[:n]
        return out

    def polylines(self) -> np.ndarray:
        """The paths, shape ``(n_paths, n_points, n_latent)``; of straight ones the ends."""
        if self.method == "linear":
            return np.stack([self.start.mean, self.end.mean], axis=1)
        return np.stack([self.points(i) for i in range(len(self.t))], axis=1)

    def points(self, i: int) -> np.ndarray:
        """Latent points of all paths at one position, shape ``(n_pairs, n_latent)``."""
        from .. import geometry

        if self.curves is not None:
            return self.curves[:, i]
        curve = getattr(geometry, self.method)
        return curve(self.start.mean, self.end.mean, self.t[i : i + 1])[:, 0]

    def conditions(self, i: int) -> tuple[Conditions, Conditions]:
        """Conditions at one position with the categories of either end."""
        from ..module._covariates import interpolate_conditions

        a, b = self.start.conditions, self.end.conditions
        here = interpolate_conditions(a, b, np.full(len(a.batch), self.t[i]))
        at_a = here._replace(batch=a.batch, categorical=a.categorical)
        return at_a, here._replace(batch=b.batch, categorical=b.categorical)

    def blocks(self, i: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Expected values (per 10,000 counts) at one position, a block of paths at a time."""
        from ..data.generated import TARGET_SUM
        from ..module._coding import normalized_means

        z = self.points(i)
        at_start, at_end = self.conditions(i)
        size = max(32, _VALUES_PER_BLOCK // self.model.module.n_input)
        for first in range(0, len(z), size):
            rows = slice(first, min(first + size, len(z)))
            values = normalized_means(
                self.model.module,
                z[rows],
                at_start.take(rows),
                other=at_end.take(rows),
                weight=np.full(rows.stop - first, self.t[i]),
            )
            yield rows, values.mul_(TARGET_SUM) if self.counts else values

    def steps(self, columns: np.ndarray, n_held: int) -> list[Step]:
        """Statistics at each position.

        Parameters
        ----------
        columns
            Genes that are wanted, shape ``(n_genes,)``.
        n_held
            Over how many of the first paths quantiles are taken.
        """
        import torch

        module = self.model.module
        n_paths = len(self.start.mean)
        subset = None
        if len(columns) < module.n_input or (np.diff(columns) != 1).any():
            subset = torch.as_tensor(columns, device=module.device)

        @torch.inference_mode()
        def one(i: int) -> Step:
            held = np.empty((len(columns), n_held), dtype=np.float32)
            shift = torch.zeros(len(columns), device=module.device)
            sums, squares, plain = np.zeros((3, len(columns)))
            for rows, values in self.blocks(i):
                if subset is not None:
                    values = values[:, subset]
                if self.counts:
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
            expected = np.log1p(plain / n_paths) if self.counts else mean
            return Step(mean, np.sqrt(np.maximum(variance, 0)), low, high, expected)

        with self.model._evaluating(), _one_thread_each(module.device.type == "cpu") as pool:
            steps = pool.map(one, range(len(self.t)))
            return list(track(steps, "following genes", len(self.t), unit="steps"))


@contextmanager
def _one_thread_each(cpu: bool) -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch would use, each of which does its step alone.

    Threads that share one product wait for each other after every one; these never do.
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
    """Quantiles of each row, as :func:`numpy.quantile` interpolates them; sorts ``values``."""
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
