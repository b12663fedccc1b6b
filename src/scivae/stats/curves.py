"""Curves of gene expression along a path: fits, confidence bands, and switch positions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._parts import Parts, digest
from .._progress import track
from .._validate.arguments import check_integer
from .._validate.arrays import as_positions, as_vector
from ._matrices import as_weights, dense, genes_by_cells, over_blocks
from .gaussian import fit_gaussian
from .negative_binomial import RegressionFit, dispersion_trend, fit_negative_binomial
from .splines import roughness_penalty, spline_basis

FloatArray = npt.NDArray[np.float64]
# Takes weights of cells (None: equal weights) and returns the positions of the cells.
Place = Callable[[FloatArray | None], FloatArray]

TARGET_SUM = 1e4
LEVEL = 0.9
# Widest interval of a switch that counts as resolved.
WIDEST = 0.3
N_BASIS = 10
# Candidate penalties and candidate variances of group effects for generalized cross-validation.
_PENALTIES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_VARIANCES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
# The penalty that predicts best biases the curve too much for intervals, so it is reduced.
_UNDERSMOOTHING = 0.25
# Penalty on first differences, so that the curve of a gene without counts at one end stays finite.
_LEAST_PENALTY = 0.01
# Number of genes used to choose penalty and variance.
_GENES_OF_CHOICE = 300
# Fewest donors for resampling by donor.
MIN_UNITS = 3
# Bins of positions in a resample, without groups and in total.
_BINS, _MAX_ENTRIES = 60, 400
# Percentile intervals from 100 resamples are slightly too narrow (remaining bias): widen them.
_WIDER = 1.25
# The interval of a switch includes at least this many cells on either side.
_CELLS_BESIDE = 10


class Curves(NamedTuple):
    """Fitted curve of every gene along positions, with confidence bands and switch positions.

    Attributes
    ----------
    t
        Positions, shape ``(n_steps,)``.
    fit, low, high
        Curves and their 90 % bands, shape ``(n_steps, n_genes)``. For counts: natural log of one
        plus the mean counts per 10,000. The bands are NaN without resamples.
    change, change_low, change_high
        Fit at 1 minus fit at 0, and its 90 % interval. Shape ``(n_genes,)``.
    switch, switch_low, switch_high
        Position at which half of the change is reached, and its 90 % interval. Shape
        ``(n_genes,)``.
    resolved
        Whether the interval of the change excludes zero and the interval of the switch is no wider
        than 0.3.
    switches
        Switch position in each resample, shape ``(n_genes, n_bootstraps)``.
    position
        Position of each cell, shape ``(n_cells,)``.
    penalty, group_variance
        Penalty and variance of group effects, chosen by generalized cross-validation.
    dispersion
        Dispersion of each gene; NaN for continuous values.
    effective_df
        Effective degrees of freedom of each gene.
    unit
        Unit of resampling: ``"donor"`` or ``"cell"``.

    Examples
    --------
    >>> from scivae.stats import Curves
    >>> Curves._fields[:4]
    ('t', 'fit', 'low', 'high')
    """

    t: FloatArray
    fit: FloatArray
    low: FloatArray
    high: FloatArray
    change: FloatArray
    change_low: FloatArray
    change_high: FloatArray
    switch: FloatArray
    switch_low: FloatArray
    switch_high: FloatArray
    resolved: npt.NDArray[np.bool_]
    switches: npt.NDArray[np.float32]
    position: FloatArray
    penalty: float
    group_variance: float
    dispersion: FloatArray
    effective_df: FloatArray
    unit: str


def measured_curves(
    values: Any,
    position: npt.ArrayLike | Place,
    *,
    library: npt.ArrayLike | None,
    weights: npt.ArrayLike | None = None,
    donor: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
    free_ends: bool = False,
    n_steps: int = 100,
    n_bootstraps: int = 100,
    seed: int = 0,
    parts: str | os.PathLike | None = None,
) -> Curves:
    """Fit every gene against position, with confidence bands and the interval of its switch.

    Parameters
    ----------
    values
        Counts, or continuous values, shape ``(n_genes, n_cells)``, dense or sparse.
    position
        Position of each cell in [0, 1], shape ``(n_cells,)``; or a function that takes weights of
        the cells (``None``: equal weights) and returns their positions. With a function, intervals
        include the uncertainty of the positions.
    library
        Library size of each cell, shape ``(n_cells,)``; ``None`` for continuous values.
    weights
        Weight of each cell, shape ``(n_cells,)``.
    donor
        Donor code of each cell; negative for cells without a donor. With three or more donors,
        whole donors are resampled; otherwise cells are.
    group
        Codes of groups with random effects, such as donors or donor × batch. ``None``: the donors.
    free_ends
        Set to True if whole groups of cells were placed at exactly 0 and 1. They then get separate
        levels, so they do not pull the curve of the cells in between.
    n_steps
        Number of points of each curve.
    n_bootstraps
        Number of resamples; 0 leaves out bands and intervals.
    seed
        Seed of the resamples.
    parts
        Folder for finished resamples. Processes that torchrun or Lightning started share the resamples, if
        all make this call and can read the folder; each returns the curves that one process returns. A call
        that was interrupted goes on from the resamples that are there. ``None``: this process does
        everything.

    Returns
    -------
    Curves

    Raises
    ------
    ValueError
        If shapes do not match, a value is out of range, or ``parts`` holds parts of another call.

    Notes
    -----
    *Fit*: :func:`fit_negative_binomial` (or :func:`fit_gaussian`) on ten cubic B-splines with a
    penalty on second differences. All genes share one penalty, chosen by the generalized
    cross-validation score summed over 300 genes (for counts, where the variance is known: deviance
    plus twice the effective degrees of freedom [1]_). A quarter of it is used, so that bias is
    small relative to the standard error. The variance of the group effects is chosen the same way.
    The reported curve is the mean over groups.

    *Resamples*: the Bayesian bootstrap [2]_ over donors or cells. Positions are refitted with the
    resampled weights. Cells are summed in fine bins of position within each group, and the bins are
    fitted in two iterations, starting from the fit of all cells. Intervals are percentiles, widened
    by a quarter, which gives the nominal coverage in simulations. With D donors they are widened
    further, to match a t distribution with D − 1 degrees of freedom.

    *Switch*: the fraction of the path on which the curve has not reached half of its change. If the
    curve crosses half of its change once, this is the position of the crossing. The interval
    includes at least ten cells on either side, because a gap without cells says nothing about when
    a gene changes.

    References
    ----------
    .. [1] P. Craven and G. Wahba. Smoothing noisy data with spline functions. Numerische Mathematik
       31 (1979).
    .. [2] D. B. Rubin. The Bayesian bootstrap. Annals of Statistics 9 (1981).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import measured_curves
    >>> rng = np.random.default_rng(0)
    >>> t = rng.random(500)
    >>> mean = 2 + 18 / (1 + np.exp(-(t - 0.6) / 0.05))
    >>> curves = measured_curves(rng.poisson(mean)[None], t, library=np.full(500, 1e4))
    >>> bool(curves.switch_low[0] < curves.switch[0] < curves.switch_high[0])
    True
    """
    matrix = genes_by_cells(values, "values")
    n_genes, n_cells = matrix.shape
    n_steps = check_integer("n_steps", n_steps, minimum=2)
    n_bootstraps = check_integer("n_bootstraps", n_bootstraps, minimum=0)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    place: Place
    if callable(position):
        place = position
    else:
        fixed = as_positions("position", position)

        def place(weights: FloatArray | None) -> FloatArray:
            return fixed

    t = as_positions("position", place(None))
    if len(t) != n_cells:
        raise ValueError(
            f"position must have the shape ({n_cells},), got {t.shape}; pass one position per cell."
        )
    weight = as_weights(weights, n_cells)
    size = None if library is None else as_vector("library", library, n_cells)
    donors = _codes("donor", donor, n_cells)
    groups = donors if group is None else _codes("group", group, n_cells)
    if groups.max(initial=-1) < 1:  # one group has no effect of its own
        groups = np.full(n_cells, -1, dtype=np.int64)
    model = _Model.chosen(matrix, t, size, weight, groups, free_ends=free_ends)
    fit = model.fit(matrix, t, size, weight, groups)
    grid = np.linspace(0, 1, n_steps)
    basis = model.design(grid)
    curve = model.scaled(basis @ model.average(fit).T)
    switch = switch_position(curve, grid)

    by_donor = int(donors.max(initial=-1)) + 1 >= MIN_UNITS
    unit = donors if by_donor else np.arange(n_cells, dtype=np.int64)
    settings = _Resamples(matrix, place, t, size, weight, groups, unit, model, fit)
    resampled = settings.run(
        n_bootstraps, rng, None if parts is None else Path(parts) / "resamples"
    )
    widening = _WIDER * (_widening(len(np.unique(unit[unit >= 0]))) if by_donor else 1.0)
    nan = np.full(n_genes, np.nan)
    low, high = np.full((2, n_steps, n_genes), np.nan, dtype=np.float64)
    change_low, change_high, switch_low, switch_high = (nan.copy() for _ in range(4))
    switches = np.empty((n_genes, n_bootstraps), dtype=np.float32)

    def one(genes: slice) -> None:
        own = model.scaled(np.einsum("sp,rgp->rsg", basis, resampled[:, genes].astype(float)))
        switches[genes] = switch_position(own, grid).T
        around = curve[:, genes], curve[-1, genes] - curve[0, genes], switch[genes]
        low[:, genes], high[:, genes] = _interval(own, around[0], widening)
        change_low[genes], change_high[genes] = _interval(
            own[:, -1] - own[:, 0], around[1], widening
        )
        switch_low[genes], switch_high[genes] = _interval(switches[genes].T, around[2], widening)

    if n_bootstraps:
        over_blocks(one, n_genes, n_bootstraps * n_steps, "taking intervals")
        if model.counts:
            np.maximum(low, 0, out=low)
        _reach(switch_low, switch_high, switch, np.sort(t[weight > 0.5 * weight.max()]))
    resolved = (change_low * change_high > 0) & (switch_high - switch_low <= WIDEST)
    return Curves(
        t=grid,
        fit=curve,
        low=low,
        high=high,
        change=curve[-1] - curve[0],
        change_low=change_low,
        change_high=change_high,
        switch=switch,
        switch_low=switch_low,
        switch_high=switch_high,
        resolved=resolved,
        switches=switches,
        position=t,
        penalty=model.penalty,
        group_variance=model.variance if (groups >= 0).any() else np.nan,
        dispersion=model.dispersion,
        effective_df=fit.effective_df,
        unit="donor" if by_donor else "cell",
    )


def switch_position(curves: npt.ArrayLike, t: npt.ArrayLike) -> FloatArray:
    """Position at which each curve reaches half of its change.

    Parameters
    ----------
    curves
        Shape ``(…, n_steps, n_genes)``.
    t
        Positions, increasing from 0 to 1, shape ``(n_steps,)``.

    Returns
    -------
    Shape ``(…, n_genes)``: the fraction of the path on which the curve has completed less than half
    of its change from start to end, with linear interpolation between steps. For a curve that
    crosses half of its change once, this is the position of the crossing. NaN for a curve that ends
    where it began.

    Examples
    --------
    >>> from scivae.stats import switch_position
    >>> switch_position([[0.0], [0.0], [2.0]], [0.0, 0.5, 1.0])
    array([0.75])
    """
    values = np.asarray(curves)
    when = np.asarray(t, dtype=values.dtype if values.dtype.kind == "f" else np.float64)
    first, last = values[..., :1, :], values[..., -1:, :]
    change = last - first
    with np.errstate(divide="ignore", invalid="ignore"):
        done = (values - first) / change - 0.5  # −½ at the start, ½ at the end
        left, right = done[..., :-1, :], done[..., 1:, :]
        # fraction of a step below zero
        part = np.where(
            (left < 0) == (right < 0), (left < 0).astype(done.dtype),
            np.where(left < 0, left, right) / np.where(left < 0, left - right, right - left),
        )  # fmt: skip
    out = np.einsum("...sg,s->...g", part, np.diff(when))
    return np.where(change[..., 0, :] == 0, np.nan, out).astype(np.float64)


class _Model(NamedTuple):
    """Settings that all genes and resamples share."""

    counts: bool
    penalty: float
    variance: float
    dispersion: FloatArray
    free_ends: bool

    @classmethod
    def chosen(
        cls,
        matrix: Any,
        t: FloatArray,
        library: FloatArray | None,
        weight: FloatArray,
        group: npt.NDArray[np.int64],
        *,
        free_ends: bool,
    ) -> _Model:
        """Choose penalty and group variance by cross-validation; estimate the dispersion."""
        counts = library is not None
        model = cls(counts, 1.0, 0.1, np.full(matrix.shape[0], np.nan), free_ends)
        if library is not None:
            dispersion = dispersion_trend(
                matrix, model.design(t), library=library, weights=weight,
                **model.settings(group),
            )  # fmt: skip
            model = model._replace(dispersion=dispersion)
        total = np.asarray(abs(matrix) @ weight).ravel()
        telling = np.argsort(-total, kind="stable")[: max(1, int((total > 0).sum()) // 2)]
        some = telling[np.unique(np.linspace(0, len(telling) - 1, _GENES_OF_CHOICE).astype(int))]
        few, part = model._replace(dispersion=model.dispersion[some]), matrix[some]

        def score(candidate: _Model) -> float:
            found = candidate.fit(part, t, library, weight, group, tolerance=1e-3)
            if counts:
                return float((found.deviance + 2 * found.effective_df).sum())
            n = weight.sum()
            left = np.maximum(n - found.effective_df, 1)
            return float(np.log(np.maximum(found.deviance, 1e-300) / left**2).sum())

        if (group >= 0).any():
            few = min((few._replace(variance=v) for v in _VARIANCES), key=score)
        few = min((few._replace(penalty=p) for p in _PENALTIES), key=score)
        return model._replace(penalty=_UNDERSMOOTHING * few.penalty, variance=few.variance)

    def design(self, t: FloatArray) -> FloatArray:
        """Design matrix: B-splines, and indicators of both ends if ``free_ends`` is set."""
        basis = spline_basis(t, N_BASIS)
        return np.column_stack([basis, t == 0, t == 1]) if self.free_ends else basis

    def settings(self, group: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Keyword arguments of the fit: penalty and groups."""
        smooth = self.penalty * roughness_penalty(N_BASIS)
        smooth += _LEAST_PENALTY * roughness_penalty(N_BASIS, order=1)
        whole = np.eye(N_BASIS + 2 * self.free_ends)  # end levels: variance 1 (log scale)
        whole[:N_BASIS, :N_BASIS] = smooth
        return {"penalty": whole, "group": group, "group_precision": 1 / self.variance}

    def fit(
        self,
        matrix: Any,
        t: FloatArray,
        library: FloatArray | None,
        weight: FloatArray,
        group: npt.NDArray[np.int64],
        **more: Any,
    ) -> RegressionFit:
        """Fit genes against positions with these settings."""
        basis = self.design(t)
        if library is None:
            for name in ("tolerance", "start", "max_iterations", "dispersion_scale"):
                more.pop(name, None)
            return fit_gaussian(matrix, basis, weights=weight, **self.settings(group))
        more = {"tolerance": 1e-8, **more}
        return fit_negative_binomial(
            matrix, basis, library=library, dispersion=self.dispersion, weights=weight,
            **self.settings(group), **more,
        )  # fmt: skip

    def average(self, fit: RegressionFit, weights: FloatArray | None = None) -> FloatArray:
        """Coefficients of the (weighted) mean over groups; exact because B-splines sum to one."""
        effects = fit.group_effects
        if not effects.shape[1]:
            return fit.coefficients
        if self.counts:
            mean = np.log(np.average(np.exp(effects), axis=1, weights=weights))
        else:
            mean = np.average(effects, axis=1, weights=weights)
        out = fit.coefficients.copy()
        out[:, :N_BASIS] += mean[:, None]
        return out

    def scaled(self, predictor: FloatArray) -> FloatArray:
        """Convert to the reported scale: for counts, log1p of the mean counts per 10,000."""
        if not self.counts:
            return predictor
        return np.log1p(TARGET_SUM * np.exp(np.minimum(predictor, 30.0)))


class _Resamples(NamedTuple):
    """Bootstrap on cells that are summed in bins of position."""

    matrix: Any
    place: Place
    t: FloatArray
    library: FloatArray | None
    weight: FloatArray
    group: npt.NDArray[np.int64]
    unit: npt.NDArray[np.int64]
    model: _Model
    fit: RegressionFit

    def run(
        self, n: int, rng: np.random.Generator, folder: Path | None = None
    ) -> npt.NDArray[np.float32]:
        """Coefficients of each resample, shape ``(n, n_genes, n_basis)``."""
        out = np.empty((n, *self.fit.coefficients.shape), dtype=np.float32)
        start = self._fit(self.t, self.weight, self.fit, iterations=4) if n else self.fit
        center = self.model.average(self.fit) - self.model.average(start)  # of cells minus bins
        work = {} if folder is None else self._work(rng)
        with nullcontext() if folder is None else Parts(folder, n, **work) as parts:
            mine = range(n) if parts is None else set(parts.missing())
            weights = self._weights(n, rng)
            for i, factor in enumerate(track(weights, "resampling", n, unit="resamples")):
                if i not in mine:
                    continue
                t = np.clip(self.place(factor), 0, 1)
                found = self._fit(t, self.weight * factor, start, iterations=2)
                out[i] = self.model.average(found, self._of_groups(factor)) + center
                if parts is not None:
                    parts.write(i, [out[i]])
            if parts is not None:
                for i, (resample,) in enumerate(parts.read()):
                    out[i] = resample
        return out

    def _work(self, rng: np.random.Generator) -> dict[str, Any]:
        """Everything that the resamples depend on."""
        matrix = self.matrix
        cells = (
            self.t,
            self.weight,
            self.group,
            self.unit,
            *([] if self.library is None else [self.library]),
        )
        return {
            "values": digest(matrix, *cells),
            "fit": digest(self.fit.coefficients, self.fit.group_effects, self.model.dispersion),
            "random state": digest(str(rng.bit_generator.state)),
        }

    def _of_groups(self, factor: FloatArray) -> FloatArray:
        """Mean resampling weight of the cells of each group."""
        known = self.group >= 0
        total = np.bincount(self.group[known], factor[known])
        return (total / np.bincount(self.group[known])).astype(np.float64)

    def _weights(self, n: int, rng: np.random.Generator) -> Iterator[FloatArray]:
        """Weights of cells in each resample: exponential for each donor or cell, with mean one."""
        names, code = np.unique(self.unit, return_inverse=True)
        for _ in range(n):
            drawn = rng.standard_exponential(len(names))
            drawn *= len(names) / drawn.sum()
            yield drawn[code]

    def _fit(
        self, t: FloatArray, weight: FloatArray, start: RegressionFit, *, iterations: int
    ) -> RegressionFit:
        """Sum cells in bins and fit the bins."""
        from scipy import sparse

        group = self.group + 1
        n_groups = int(group.max()) + 1
        n_bins = max(8, min(_BINS, _MAX_ENTRIES // n_groups))
        inner = np.minimum((t * n_bins).astype(np.int64), n_bins - 1) + 1
        # Cells at exactly 0 and 1 get separate bins, as they may have separate levels.
        entry = np.where(t == 0, 0, np.where(t == 1, n_bins + 1, inner)) * n_groups + group
        used, code = np.unique(entry[weight > 0], return_inverse=True)
        cells = np.flatnonzero(weight > 0)
        w = weight[cells]
        sums = sparse.csr_matrix((w, (cells, code)), shape=(len(t), len(used)))
        size: FloatArray = np.bincount(code, w).astype(np.float64)
        middle: FloatArray = np.clip(np.bincount(code, w * t[cells]) / size, 0, 1)
        group_of = used % n_groups - 1
        if self.library is None:
            means = dense(self.matrix @ sums) / size
            return self.model.fit(means, middle, None, size, group_of)
        library: FloatArray = np.bincount(code, w * self.library[cells]).astype(np.float64)
        squares = np.bincount(code, w * self.library[cells] ** 2)
        return self.model.fit(
            dense(self.matrix @ sums), middle, library, np.ones(len(used)), group_of,
            dispersion_scale=squares / library**2, start=start, max_iterations=iterations,
        )  # fmt: skip


def _codes(name: str, value: Any, n: int) -> npt.NDArray[np.int64]:
    """Renumber codes as 0, 1, … without gaps; -1 for none, as for all cells if ``value`` is ``None``."""
    code = np.full(n, -1) if value is None else np.asarray(value)
    if code.shape != (n,) or code.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold an integer for each of {n} cells, got shape {code.shape} and dtype "
            f"{code.dtype}; convert names with pandas.factorize."
        )
    known = code >= 0
    out = np.full(n, -1, dtype=np.int64)
    out[known] = np.unique(code[known], return_inverse=True)[1]
    return out


def _interval(
    values: npt.NDArray[Any], center: FloatArray, widening: float
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval over the first axis, widened around ``center``."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = center - widening * (center - low), center + widening * (high - center)
    return np.minimum(low, center), np.maximum(high, center)


def _widening(n: int, level: float = LEVEL) -> float:
    """Factor that widens Bayesian bootstrap percentiles of n units to a t distribution."""
    from scipy.stats import norm, t

    upper = (1 + level) / 2
    return float(t.ppf(upper, n - 1) / norm.ppf(upper) * np.sqrt((n + 1) / (n - 1)))


def half_width(level: float, n_donors: int | None = None) -> float:
    """Half of the width of an interval, in standard deviations of the resamples.

    Widened as the intervals of :func:`measured_curves` are; ``n_donors`` is ``None`` if cells were resampled.
    """
    from scipy.stats import norm

    if not 0 < level < 1:
        return 0.0 if level <= 0 else np.inf
    widening = _WIDER * (1.0 if n_donors is None else _widening(n_donors, level))
    return float(norm.ppf((1 + level) / 2) * widening)


def _reach(low: FloatArray, high: FloatArray, switch: FloatArray, t: FloatArray) -> None:
    """Widen intervals in place so that they include enough cells on either side."""
    known = np.isfinite(switch)
    below = np.searchsorted(t, switch[known], side="left") - _CELLS_BESIDE
    reach = np.where(below < 0, 0.0, t[np.clip(below, 0, len(t) - 1)])
    low[known] = np.maximum(np.minimum(low[known], reach), 0)
    above = np.searchsorted(t, switch[known], side="right") + _CELLS_BESIDE - 1
    reach = np.where(above >= len(t), 1.0, t[np.clip(above, 0, len(t) - 1)])
    high[known] = np.minimum(np.maximum(high[known], reach), 1)
