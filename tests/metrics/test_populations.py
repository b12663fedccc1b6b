import hypothesis.extra.numpy as hnp
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse, stats

from scivae.metrics import energy_distance, maximum_mean_discrepancy, wasserstein_1
from scivae.metrics import populations as source

DISTANCES = [wasserstein_1, energy_distance, maximum_mean_discrepancy]


def biased_mmd(x, y):
    return maximum_mean_discrepancy(x, y, bandwidth=1.5, unbiased=False)


coordinates = st.integers(-80, 80).map(lambda i: i / 8)


def clouds(n_columns=3):
    return hnp.arrays(float, st.tuples(st.integers(2, 7), st.just(n_columns)), elements=coordinates)


def euclid(a, b):
    return sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) ** 0.5


# --- against other people's answers -----------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(clouds(1), clouds(1))
def test_one_dimension_is_scipys(x, y):
    assert wasserstein_1(x, y) == pytest.approx(
        stats.wasserstein_distance(x[:, 0], y[:, 0]), abs=1e-9
    )
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]), abs=1e-6)


def test_one_dimension_is_pots_closed_form():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 1)), rng.gamma(2.0, size=(170, 1))
    assert wasserstein_1(x, y) == pytest.approx(ot.wasserstein_1d(x, y, p=1).item(), abs=1e-9)


def test_equal_numbers_of_points_are_an_assignment():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) + 0.5
    cost = np.array([[euclid(a, b) for b in y] for a in x])
    rows, columns = optimize.linear_sum_assignment(cost)
    assert wasserstein_1(x, y) == pytest.approx(cost[rows, columns].mean(), rel=1e-9)


def test_unequal_numbers_of_points_are_scipys_linear_programme():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(9, 2)), rng.normal(size=(13, 2))
    assert wasserstein_1(x, y) == pytest.approx(stats.wasserstein_distance_nd(x, y), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(clouds(), clouds())
def test_energy_distance_is_the_plain_double_loop(x, y):
    def mean(a, b):
        return sum(euclid(s, t) for s in a for t in b) / (len(a) * len(b))

    squared = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert energy_distance(x, y) ** 2 == pytest.approx(squared, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(clouds(), clouds(), st.sampled_from([0.3, 1.0, 4.0]))
def test_both_discrepancies_are_the_plain_double_loop(x, y, width):
    def kernel(a, b):
        return np.exp(-(euclid(a, b) ** 2) / (2 * width**2))

    def mean(a, b, skip=False):
        values = [
            kernel(s, t) for i, s in enumerate(a) for j, t in enumerate(b) if not (skip and i == j)
        ]
        return np.mean(values)

    between = 2 * mean(x, y)
    biased = mean(x, x) + mean(y, y) - between
    unbiased = mean(x, x, skip=True) + mean(y, y, skip=True) - between
    assert maximum_mean_discrepancy(x, y, bandwidth=width, unbiased=False) == pytest.approx(
        biased, abs=1e-12
    )
    assert maximum_mean_discrepancy(x, y, bandwidth=width) == pytest.approx(unbiased, abs=1e-12)


# --- against sampling theory of Gaussians -------------------------------------------------------


def test_discrepancy_of_two_gaussians_is_its_closed_form():
    rng = np.random.default_rng(0)
    shift, width = np.array([0.8, 0.0, 0.6]), 1.3
    x, y = rng.normal(size=(2500, 3)), rng.normal(size=(2500, 3)) + shift
    # E k(X, Y) of N(0, I) and N(m, I) is (w² / (w² + 2))^(p/2) · exp(−‖m‖² / (2 (w² + 2)))
    scale = (width**2 / (width**2 + 2)) ** 1.5
    closed = 2 * scale * (1 - np.exp(-(shift @ shift) / (2 * (width**2 + 2))))
    assert maximum_mean_discrepancy(x, y, bandwidth=width) == pytest.approx(closed, rel=0.07)


def test_unbiased_is_zero_on_average_and_biased_is_not():
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=(20, 2)), rng.normal(size=(30, 2))) for _ in range(200)]

    def z_score(unbiased):
        values = [
            maximum_mean_discrepancy(x, y, bandwidth=1.0, unbiased=unbiased) for x, y in draws
        ]
        return np.mean(values) / stats.sem(values)

    assert abs(z_score(True)) < 3
    assert z_score(False) > 20


def test_energy_distance_of_two_gaussians_is_its_closed_form():
    # evenly spaced quantiles stand for the population: no sampling noise
    x = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    y = x + 1.0
    # X − Y is N(−1, 2) and X − X' is N(0, 2); the mean of a folded normal is known
    s = np.sqrt(2)
    folded = s * np.sqrt(2 / np.pi) * np.exp(-1 / 4) + (1 - 2 * stats.norm.cdf(-1 / s))
    squared = 2 * folded - 2 * s * np.sqrt(2 / np.pi)
    assert energy_distance(x, y) ** 2 == pytest.approx(squared, rel=1e-3)


# --- invariants ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(clouds(), clouds(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("distance", [wasserstein_1, energy_distance, biased_mmd])
def test_distances_of_populations(distance, x, y, random):
    expected = distance(x, y)
    assert expected >= 0
    assert distance(y, x) == pytest.approx(expected, abs=1e-6)
    order = list(range(len(x)))
    random.shuffle(order)
    assert distance(x[order], y) == pytest.approx(expected, abs=1e-6)
    assert distance(x[order], x) == pytest.approx(0, abs=1e-6)
    shift = np.array([0.5, -20.0, 3.0])
    assert distance(x + shift, y + shift) == pytest.approx(expected, abs=1e-6)
    mirrored = [a[:, [2, 0, 1]] * [1, -1, 1] for a in (x, y)]
    assert distance(*mirrored) == pytest.approx(expected, abs=1e-6)
    # a population, not a list: each point twice is the same distribution
    assert distance(np.repeat(x, 2, axis=0), y) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(clouds(), hnp.arrays(float, 3, elements=coordinates))
def test_moving_all_points_by_a_vector_costs_its_length(x, vector):
    assert wasserstein_1(x, x + vector) == pytest.approx(np.linalg.norm(vector), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(clouds(), clouds(), clouds())
def test_triangle_inequality(x, y, z):
    for distance in (wasserstein_1, energy_distance):
        assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-6


@settings(deadline=None, max_examples=30)
@given(clouds(), clouds(), st.sampled_from([0.01, 3.0, 1000.0]))
def test_scaling(x, y, factor):
    assert wasserstein_1(factor * x, factor * y) == pytest.approx(
        factor * wasserstein_1(x, y), rel=1e-6, abs=1e-9
    )
    assert energy_distance(factor * x, factor * y) ** 2 == pytest.approx(
        factor * energy_distance(x, y) ** 2, rel=1e-6, abs=1e-6 * factor
    )


def test_the_median_is_the_default_bandwidth_and_makes_it_free_of_scale():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(20, 2)) + 1
    pooled = [*x, *y]
    median = np.median([euclid(a, b) for i, a in enumerate(pooled) for b in pooled[:i]])
    expected = maximum_mean_discrepancy(x, y, bandwidth=median)
    assert maximum_mean_discrepancy(x, y) == pytest.approx(expected, rel=1e-12)
    assert maximum_mean_discrepancy(1000 * x, 1000 * y) == pytest.approx(expected, rel=1e-9)


# --- plumbing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_blocks_sparse_input_and_single_precision_change_nothing(distance, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, size=(40, 5)).astype(np.float32)
    y = rng.poisson(1.5, size=(33, 5))
    expected = distance(x, y)
    assert distance(sparse.csr_matrix(x), sparse.csc_matrix(y)) == expected
    monkeypatch.setattr("scivae.metrics._distances._BLOCK_ENTRIES", 70)
    assert distance(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_subsampling_is_by_seed_and_only_of_large_clouds(distance):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 2)), rng.normal(size=(50, 2)) + 0.5
    full = distance(x, y)
    assert distance(x, y, max_points=80) == full
    drawn = [distance(x, y, max_points=40, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(full, abs=0.3)
    # the two clouds draw rows of their own: x against itself is not zero
    assert distance(x, x, max_points=40) != 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), "x and y must have the same columns, got 2 and 3"),
        (
            np.ones((3, 2)),
            np.full((3, 2), np.inf),
            "y must be finite, got 6 NaN or infinite values of 6",
        ),
        (np.ones(3), np.ones((3, 1)), "x must be two-dimensional"),
        (np.ones((0, 2)), np.ones((3, 2)), "x must have at least"),
    ],
)
def test_refuses_in_one_clear_line(distance, x, y, message):
    with pytest.raises(ValueError, match=message) as error:
        distance(x, y)
    assert "\n" not in str(error.value)


def test_refuses_bandwidths_that_are_none():
    x, y = np.zeros((5, 2)), np.ones((1, 2))
    with pytest.raises(ValueError, match="median distance .* got 0 .* pass bandwidth="):
        maximum_mean_discrepancy(x, y, unbiased=False)
    with pytest.raises(ValueError, match="y must have at least 2 rows, got 1"):
        maximum_mean_discrepancy(x, y)
    with pytest.raises(ValueError, match="bandwidth must be a finite number above 0, got -1"):
        maximum_mean_discrepancy(x, x, bandwidth=-1)
    with pytest.raises(ValueError, match="max_points must be at least 1, got 0"):
        wasserstein_1(x, y, max_points=0)


def test_an_unfinished_transport_is_an_error(monkeypatch):
    monkeypatch.setattr(source, "_EMD_ITERATIONS", 1)
    rng = np.random.default_rng(0)
    with (
        pytest.warns(UserWarning, match="numItermax"),
        pytest.raises(
            RuntimeError, match="between 50 and 50 points was not found .*smaller max_points"
        ),
    ):
        wasserstein_1(rng.normal(size=(50, 2)), rng.normal(size=(50, 2)))
