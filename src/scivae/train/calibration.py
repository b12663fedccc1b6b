"""Arrays behind calibration: temperature, prediction sets and novelty, from held-out cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from scvi import REGISTRY_KEYS

from .._storage import row_blocks
from .._validate.arguments import check_number
from ..module import (
    CIVAEModule,
    Covariates,
    Posterior,
    decoded_blocks,
    encoded_minibatches,
)

# Weight of the pooled covariance when the covariance of a class is shrunk toward it, in cells.
SHARED_CELLS = 20
# Added to the variance of a gene's residuals, which is almost zero for a gene that is rarely detected.
MIN_VARIANCE = 0.01


class ClassGaussians(NamedTuple):
    """Mean and covariance of each class in latent space.

    Attributes
    ----------
    means
        Shape ``(n_classes, n_latent)``; NaN for a class without cells.
    whitening
        Matrices that transform deviations from the mean to unit covariance, shape
        ``(n_classes, n_latent, n_latent)``.
    """

    means: np.ndarray
    whitening: np.ndarray

    @classmethod
    def fit(cls, z: np.ndarray, labels: np.ndarray, n_classes: int) -> ClassGaussians:
        """Estimate both from cells; the covariance of a class is shrunk toward the pooled one.

        Parameters
        ----------
        z
            Latent points, shape ``(n, n_latent)``.
        labels
            Codes of their classes, shape ``(n,)``.
        n_classes
            Number of classes.
        """
        z = np.asarray(z, dtype=np.float64)
        n_latent = z.shape[1]
        means = np.full((n_classes, n_latent), np.nan)
        present = np.unique(labels)
        for code in present:
            means[code] = z[labels == code].mean(axis=0)
        deviations = z - means[labels]
        shared = deviations.T @ deviations / max(len(z) - len(present), 1)
        # Fewer cells than dimensions leave directions without variance.
        shared += np.eye(n_latent) * max(1e-3 * np.trace(shared) / n_latent, 1e-12)
        whitening = np.zeros((n_classes, n_latent, n_latent))
        for code in present:
            own = deviations[labels == code]
            scatter = own.T @ own + SHARED_CELLS * shared
            covariance = scatter / (len(own) - 1 + SHARED_CELLS)
            whitening[code] = np.linalg.inv(np.linalg.cholesky(covariance))
        return cls(means, whitening)

    def distance(self, z: np.ndarray) -> np.ndarray:
        """Mahalanobis distance to the nearest class, shape ``(n,)``."""
        nearest = np.full(len(z), np.inf)
        for mean, whitening in zip(self.means, self.whitening, strict=True):
            if np.isfinite(mean).all():
                away = (z - mean) @ whitening.T
                nearest = np.minimum(nearest, np.sqrt(np.square(away).sum(axis=1)))
        return nearest


class ResidualScale(NamedTuple):
    """Distribution of the residuals of training cells, by gene and by library size.

    Attributes
    ----------
    mean, variance
        Mean and variance of each gene's residuals, shape ``(n_vars,)``.
    trend, spread
        Coefficients of polynomials in the log library size: the expected value of :meth:`raw`, and its
        mean absolute deviation from there.
    """

    mean: np.ndarray
    variance: np.ndarray
    trend: np.ndarray
    spread: np.ndarray

    def raw(self, residuals: np.ndarray) -> np.ndarray:
        """Fourth root of the mean fourth power of standardized residuals, shape ``(n,)``.

        With the fourth power, a few genes with large residuals count more than many with small ones.
        """
        standardized = (residuals - self.mean) / np.sqrt(self.variance + MIN_VARIANCE)
        return np.sqrt(np.sqrt((np.square(np.square(standardized))).mean(axis=1)))

    def misfit(self, residuals: np.ndarray, log_library: np.ndarray) -> np.ndarray:
        """:meth:`raw`, standardized by its trend and spread at the library size of the cell, ``(n,)``."""
        usual = np.polyval(self.trend, log_library)
        deviation = np.maximum(np.polyval(self.spread, log_library), 1e-3)
        return (self.raw(residuals) - usual) / deviation

    @classmethod
    def fit(
        cls, passes: Iterable[Iterable[tuple[np.ndarray, np.ndarray]]], *, degree: int
    ) -> ResidualScale:
        """Estimate all from training cells, in two passes over them.

        Parameters
        ----------
        passes
            Two iterations over the same blocks of residuals ``(n, n_vars)`` and log library sizes
            ``(n,)``.
        degree
            Degree of the polynomials in the log library size; 0 for data without library sizes.
        """
        first, second = passes
        n, total, squares = 0, np.zeros(1), np.zeros(1)
        for residuals, _ in first:
            n += len(residuals)
            total = total + residuals.sum(axis=0, dtype=np.float64)
            squares = squares + np.square(residuals, dtype=np.float64).sum(axis=0)
        mean = total / n
        variance = np.maximum(squares / n - np.square(mean), 0)
        start = cls(mean, variance, np.zeros(1), np.ones(1))
        parts = [(start.raw(residuals), log_library) for residuals, log_library in second]
        raw, log_library = (np.concatenate(x) for x in zip(*parts, strict=True))
        degree = min(degree, len(np.unique(log_library)) - 1)
        trend = np.polyfit(log_library, raw, degree)
        away = np.abs(raw - np.polyval(trend, log_library))
        return cls(mean, variance, trend, np.polyfit(log_library, away, degree))


def with_residuals(
    module: CIVAEModule, minibatches: Iterable[dict[str, torch.Tensor]]
) -> Iterator[tuple[Posterior, np.ndarray]]:
    """Cells and their residuals, ``(n, n_vars)``: values minus those decoded from the latent means.

    Counts are transformed to ``2 sqrt(x + 3/8)`` first, which makes their variance almost independent of
    their mean (Anscombe, "The transformation of Poisson, binomial and negative-binomial data", 1948).

    Parameters
    ----------
    module
        The network, in evaluation mode.
    minibatches
        Minibatches of a loader.
    """
    for tensors in minibatches:
        (part,) = encoded_minibatches(module, [tensors])
        x = tensors[REGISTRY_KEYS.X_KEY]
        for rows, expected in decoded_blocks(module, part.mean, part.covariates):
            values = dense_rows(x, rows)
            if module.family.counts:
                values, expected = (2 * np.sqrt(a + 0.375) for a in (values, expected))
            yield part.take(rows), values - expected


def dense_rows(x: torch.Tensor, rows: slice) -> np.ndarray:
    """Rows of a dense or CSR tensor, as a dense array."""
    if x.layout == torch.strided:
        return x[rows].cpu().numpy()
    pointers = x.crow_indices()[rows.start : rows.stop + 1]
    inside = slice(int(pointers[0]), int(pointers[-1]))
    block = torch.sparse_csr_tensor(
        pointers - pointers[0],
        x.col_indices()[inside],
        x.values()[inside],
        size=(rows.stop - rows.start, x.shape[1]),
    )
    return block.to_dense().cpu().numpy()


def log_library_of(covariates: Covariates) -> np.ndarray:
    """Log library sizes, clipped to ±50 so that polynomials of them are finite, shape ``(n,)``."""
    return np.clip(covariates.log_library, -50, 50)


def calibrated_rank(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Ranks of scores among the scores of held-out cells, between 0 and 1, shape ``(n,)``.

    A rank is one minus the conformal p-value. It is interpolated between held-out scores and
    extrapolated beyond them, so that a greater score always has a greater rank.

    Parameters
    ----------
    scores
        Shape ``(n,)``.
    held_out
        Scores of held-out cells, shape ``(m,)``.
    """
    known, below = np.unique(held_out, return_counts=True)
    ranks = np.cumsum(below) / (len(held_out) + 1)
    rank = np.interp(scores, known, ranks)
    under, over = known[0] - scores, scores - known[-1]
    rank = np.where(under > 0, ranks[0] / (1 + np.maximum(under, 0)), rank)
    return np.where(over > 0, 1 - (1 - ranks[-1]) / (1 + np.maximum(over, 0)), rank)


def larger_of(scores: Iterable[np.ndarray], held_out: Iterable[np.ndarray]) -> np.ndarray:
    """The largest of several scores of each cell, each standardized robustly by held-out cells.

    Parameters
    ----------
    scores, held_out
        Each score of the cells, shape ``(n,)``, and of held-out cells, ``(m,)``.
    """
    found = []
    for score, known in zip(scores, held_out, strict=True):
        center = np.median(known)
        width = 1.4826 * np.median(np.abs(known - center))
        found.append((score - center) / (width if width > 0 else 1.0))
    return np.max(found, axis=0)


# Returns minibatches; each call starts again with the same cells.
Loader = Callable[[], Iterable[dict[str, torch.Tensor]]]

# Number of held-out cells from which a class has its own threshold.
MIN_OF_CLASS = 20

# Most training cells used for the means and covariances of the classes, and for the residuals.
MAX_CELLS, MAX_RESIDUALS = 10_000, 2_000

# Number of held-out cells from which a temperature is fitted.
MIN_FOR_TEMPERATURE = 20

# Most logits (cells × classes) to which it is fitted, but at least 5,000 cells.
LOGITS_FOR_TEMPERATURE = 2**22

# Folds of the cross-validation that decides whether a temperature helps.
FOLDS = 10


def log_odds_against(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the odds against each class, shape ``(n, n_classes)``.

    It ranks cells as one minus the probability of the class does, but does not round to 0 or 1. The
    temperature is left out, because it was fitted on the same cells that calibrate the sets.
    """
    if logits.shape[1] < 2:  # a single class has no alternatives
        return np.zeros(logits.shape)
    # The sum over the others is the sum over all without the class. For the largest class, that difference
    # would lose its digits, so its others are summed by themselves. There is no loop over classes.
    rows, largest = np.arange(len(logits)), logits.argmax(axis=1)
    relative = logits - logits[rows, largest][:, None]
    others = relative.copy()
    others[rows, largest] = -np.inf
    rest = logsumexp(others, axis=1)
    total = np.logaddexp(0.0, rest)[:, None]
    with np.errstate(divide="ignore"):  # of the largest class, which is replaced
        against = total + np.log1p(-np.exp(relative - total)) - relative
    against[rows, largest] = rest
    return against


def useful_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature fitted on held-out cells; 1 if cross-validation does not show that it helps.

    Each of ten folds is scored with the temperature fitted on the others. The temperature is used only if
    it lowers the mean cross-entropy by more than its standard error, and if there are at least 20 cells.

    Parameters
    ----------
    logits
        Shape ``(n_obs, n_classes)``.
    labels
        Codes of the classes, shape ``(n_obs,)``.

    Returns
    -------
    The temperature by which logits are to be divided, in [0.05, 20].
    """
    if len(labels) < MIN_FOR_TEMPERATURE:
        return 1.0
    rows = np.arange(len(labels))
    # Stratified: the cells of each class are spread over the folds.
    fold = np.empty(len(labels), dtype=int)
    fold[np.argsort(labels, kind="stable")] = rows % FOLDS

    def cross_entropy(scaled: np.ndarray, of: np.ndarray) -> np.ndarray:
        return logsumexp(scaled, axis=1) - scaled[np.arange(len(of)), of]

    gain = np.empty(len(labels))
    for number in range(FOLDS):
        inside = fold == number
        temperature = fit_temperature(logits[~inside], labels[~inside])
        gain[inside] = cross_entropy(logits[inside], labels[inside]) - cross_entropy(
            logits[inside] / temperature, labels[inside]
        )
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        return 1.0
    return fit_temperature(logits, labels)


# Entries of the calibration that come from training cells.
OF_TRAINING = (
    *ClassGaussians._fields,
    *(f"residual_{name}" for name in ResidualScale._fields),
)


def check_level(level: Any) -> float:
    """The level of prediction sets as a float; raise unless it lies in (0, 1)."""
    level = check_number("level", level, minimum=0, maximum=1)
    if level in (0.0, 1.0):
        raise ValueError(f"level must lie in (0, 1), got {level:g}.")
    return level


def misfits_of(
    module: CIVAEModule, minibatches: Iterable[dict[str, torch.Tensor]], scale: ResidualScale
) -> Iterator[tuple[Posterior, np.ndarray]]:
    """Cells and their misfits, shape ``(n,)``, block by block."""
    for part, residuals in with_residuals(module, minibatches):
        yield part, scale.misfit(residuals, log_library_of(part.covariates))


def at_most(index: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``n`` positions, in increasing order."""
    index = np.sort(index)
    return index if len(index) <= n else np.sort(rng.choice(index, n, replace=False))


# Standard deviation of the normal prior on the logarithm of the temperature.
PRIOR_SD = 0.5


def cells_for_temperature(n_obs: int, n_classes: int, seed: int) -> np.ndarray:
    """Positions of the held-out cells to which a temperature is fitted: all, or some at random."""
    most = max(5_000, LOGITS_FOR_TEMPERATURE // n_classes)
    return at_most(np.arange(n_obs), most, np.random.default_rng(seed))


def own_log_odds(
    logits: Callable[[slice], np.ndarray], labels: np.ndarray, n_classes: int
) -> np.ndarray:
    """Logarithm of the odds against the class of each cell, ``(n,)``, a block of cells at a time.

    Parameters
    ----------
    logits
        Returns the logits of some cells, ``(n_cells, n_classes)``.
    labels
        Codes of the classes, shape ``(n,)``.
    n_classes
        Number of classes.
    """
    found = [np.zeros(0)]
    for rows in row_blocks(len(labels), max(1, LOGITS_FOR_TEMPERATURE // n_classes)):
        own = labels[rows]
        found.append(log_odds_against(logits(rows))[np.arange(len(own)), own])
    return np.concatenate(found)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that minimizes the cross-entropy of held-out cells (Guo et al., 2017).

    Its logarithm has a normal prior with mean 0 and standard deviation 1/2. With hundreds of cells, the prior
    has little effect. With a handful, which can all be classified correctly by chance, it prevents a
    temperature near zero, which would make every probability 0 or 1.

    Parameters
    ----------
    logits
        Shape ``(n_obs, n_classes)``.
    labels
        Codes of the classes, shape ``(n_obs,)``.

    Returns
    -------
    The temperature by which logits are to be divided, in [0.05, 20].
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    def improbability(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        cross_entropy = logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]
        return float(cross_entropy.sum() + 0.5 * (log_temperature / PRIOR_SD) ** 2)

    found = minimize_scalar(improbability, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))
