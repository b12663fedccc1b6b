"""Predict the effect of a condition on a group that was measured in only one condition."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Candidate powers of the distance, and the default if there are too few groups to choose.
POWERS = (0.0, 1.0, 2.0, 3.0, 4.0)
DEFAULT_POWER = 2.0
_MIN_GROUPS = 3
_MOST_DISPERSION = 10.0


class Transfer(NamedTuple):
    """A predicted change between conditions.

    Attributes
    ----------
    change
        Predicted target minus source, on the scale of the profiles, shape ``(n_genes,)``.
    weights
        Weight of each of the other groups, shape ``(n_groups,)``. Weights sum to 1.
    distances
        Distance of each other group: root mean squared difference between source profiles.
    power
        Exponent p: the weight of a group at distance d is proportional to ``d ** -p``.
    """

    change: np.ndarray
    weights: np.ndarray
    distances: np.ndarray
    power: float


def transfer_change(
    source: np.ndarray, target: np.ndarray, own: np.ndarray, *, power: float | None = None
) -> Transfer:
    """Predict the change of a group from the measured changes of similar groups.

    The prediction is a weighted mean of the changes in the other groups. Weights are inverse powers
    of the distance between source profiles.

    Parameters
    ----------
    source, target
        Profiles of the other groups in the two conditions, shape ``(n_groups, n_genes)``, on a log
        scale.
    own
        Source profile of the group to predict, shape ``(n_genes,)``.
    power
        Power of the distance. ``None``: chosen from 0, 1, 2, 3 and 4 by leave-one-out
        cross-validation over the other groups; 2 if there are fewer than three.

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
    """Inverse powers of distances, summing to 1. Groups at distance zero share all the weight."""
    if (distances == 0).any() and power > 0:
        weights = (distances == 0).astype(float)
    else:
        weights = (np.maximum(distances, 1e-300) / distances.max()) ** -power if power else (
            np.ones(len(distances))
        )  # fmt: skip
    return weights / weights.sum()


def _choose_power(source: np.ndarray, target: np.ndarray) -> float:
    """Choose the power by leave-one-out cross-validation over groups."""
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
    """Estimate the dispersion of each gene around the rates of the groups.

    The variance of a count with mean m is ``m + dispersion · m²``, so this is 1/θ, where θ is the
    inverse dispersion of the negative binomial of a model. It is estimated by the method of
    moments, pooled over groups, and clipped to [0, 10].

    Parameters
    ----------
    counts
        Dense or sparse, shape ``(n_cells, n_genes)``.
    groups
        Group code of each cell, shape ``(n_cells,)``.
    rates
        Expected proportion of each gene in the counts of a cell, shape ``(n_groups, n_genes)``.

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
    """Change measured counts of one condition so that their means match another condition.

    If a gene decreases, each count is thinned: it is replaced by a binomial draw with probability
    ``target / source``. This multiplies the deviation of a cell from the mean of its group by the
    same factor, on average. If a gene increases, a negative binomial count is added to each count,
    with a mean in proportion to the total counts of the cell.

    Parameters
    ----------
    counts
        Shape ``(n_cells, n_genes)``.
    source, target
        Rate of each gene in the two conditions, as a proportion of the counts of a source cell;
        shape ``(n_genes,)``.
    overdispersion
        Dispersion (1/θ) of the added counts, as :func:`dispersion` returns it, shape ``(n_genes,)``.
        Where it is 0, Poisson counts are added.
    rng
        Random number generator.

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
