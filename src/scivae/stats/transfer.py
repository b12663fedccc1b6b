"""Change of a condition in cells whose treated counterparts are missing. Arrays in, arrays out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Powers of the distance that are tried, and the one without enough groups to try them.
POWERS = (0.0, 1.0, 2.0, 3.0, 4.0)
DEFAULT_POWER = 2.0
_MIN_GROUPS = 3
_MOST_DISPERSION = 10.0


class Transfer(NamedTuple):
    """A predicted change.

    Attributes
    ----------
    change
        Target minus source of the group, on the scale of the profiles, shape ``(n_genes,)``.
    weights
        Weight of each of the other groups, shape ``(n_groups,)``, which add up to 1.
    distances
        Of these groups from the group, by their source profiles: root mean squared difference.
    power
        Weights fall with this power of the distance.
    """

    change: np.ndarray
    weights: np.ndarray
    distances: np.ndarray
    power: float


def transfer_change(
    source: np.ndarray, target: np.ndarray, own: np.ndarray, *, power: float | None = None
) -> Transfer:
    """Predict the change of a group from the measured changes of others like it.

    The prediction is a mean of the other groups' changes, weighted by the inverse distance between
    source profiles to some power.

    Parameters
    ----------
    source, target
        Profiles of the other groups in both conditions, shape ``(n_groups, n_genes)``, on a scale on
        which changes add up (logarithms).
    own
        Source profile of the group itself, shape ``(n_genes,)``.
    power
        Of the distance. ``None``: the one of 0, 1, 2, 3 and 4 that predicts each of the other groups best
        from the rest of them; 2 with fewer than three other groups.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import transfer_change
    >>> source = np.array([[0.0, 0.0], [3.0, 3.0]])
    >>> target = source + np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> transfer_change(source, target, np.array([1.0, 1.0])).weights.round(2)
    array([0.8, 0.2])
    """
    changes = target - source
    if power is None:
        power = _choose_power(source, target)
    distances = np.sqrt(((source - own) ** 2).mean(axis=1))
    weights = _weights(distances, power)
    return Transfer(weights @ changes, weights, distances, float(power))


def _weights(distances: np.ndarray, power: float) -> np.ndarray:
    """Inverse distances to a power, which add up to 1; groups at distance zero share all."""
    if (distances == 0).any() and power > 0:
        weights = (distances == 0).astype(float)
    else:
        weights = (np.maximum(distances, 1e-300) / distances.max()) ** -power if power else (
            np.ones(len(distances))
        )  # fmt: skip
    return weights / weights.sum()


def _choose_power(source: np.ndarray, target: np.ndarray) -> float:
    """The power that predicts each group best from the others."""
    n = len(source)
    if n < _MIN_GROUPS:
        return DEFAULT_POWER
    errors = []
    for power in POWERS:
        error = 0.0
        for i in range(n):
            others = np.arange(n) != i
            found = transfer_change(source[others], target[others], source[i], power=power)
            error += ((found.change - (target[i] - source[i])) ** 2).mean()
        errors.append(error)
    return POWERS[int(np.argmin(errors))]


def dispersion(counts: Any, groups: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Dispersion of the counts of each gene around the rate of its group.

    The variance of a count with mean m is ``m + dispersion · m²``; estimated by moments, pooled over
    groups, between 0 and 10.

    Parameters
    ----------
    counts
        Dense or sparse, shape ``(n_cells, n_genes)``.
    groups
        Code of the group of each cell, shape ``(n_cells,)``.
    rates
        Proportion of the counts of a cell that falls on each gene, shape ``(n_groups, n_genes)``.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import dispersion
    >>> rng = np.random.default_rng(0)
    >>> rates = np.array([[0.2, 0.8]])
    >>> counts = rng.poisson(100 * rates[0] * rng.gamma(2, 0.5, (2000, 2)))
    >>> bool(abs(dispersion(counts, np.zeros(2000, int), rates)[0] - 0.3) < 0.2)
    True
    """
    from scipy import sparse

    excess, square = np.zeros(rates.shape[1]), np.zeros(rates.shape[1])
    for start in range(0, len(groups), 4096):
        rows = slice(start, start + 4096)
        block = counts[rows]
        x = block.toarray() if sparse.issparse(block) else np.asarray(block, dtype=float)
        mean = x.sum(axis=1, keepdims=True) * rates[groups[rows]]
        excess += ((x - mean) ** 2 - mean).sum(axis=0)
        square += (mean**2).sum(axis=0)
    return np.clip(excess / np.maximum(square, 1e-300), 0, _MOST_DISPERSION)


def change_counts(
    counts: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    overdispersion: np.ndarray,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    """Measured counts of one condition, changed such that their means are those of another.

    Where a gene falls, each count is thinned (binomial); where it rises, a negative binomial count is
    added. What a cell has beyond the mean of its group remains.

    Parameters
    ----------
    counts
        Shape ``(n_cells, n_genes)``.
    source, target
        Rate of each gene in both conditions, as proportion of the counts of a cell in the first;
        shape ``(n_genes,)``.
    overdispersion
        Of the counts that are added, shape ``(n_genes,)``.
    rng
        Source of the draws.

    Returns
    -------
    Counts, shape ``(n_cells, n_genes)``.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import change_counts
    >>> counts = np.full((1000, 2), 50)
    >>> changed = change_counts(
    ...     counts,
    ...     np.array([0.5, 0.5]),
    ...     np.array([0.25, 1.0]),
    ...     np.zeros(2),
    ...     rng=np.random.default_rng(0),
    ... )
    >>> changed.mean(axis=0).round()
    array([ 25., 100.])
    """
    whole = np.rint(counts).astype(np.int64)
    kept = np.where(source > 0, np.minimum(target / np.maximum(source, 1e-300), 1.0), 1.0)
    out = rng.binomial(whole, kept)
    added = whole.sum(axis=1, keepdims=True) * np.maximum(target - source, 0)
    shape = 1 / np.maximum(overdispersion, 1e-8)
    factor = np.where(overdispersion > 1e-6, rng.gamma(shape, 1 / shape, added.shape), 1.0)
    return out + rng.poisson(added * factor)
