import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from scivae.metrics import density_coverage, precision_recall

coordinates = st.integers(-40, 40).map(lambda i: i / 8)
clouds = hnp.arrays(float, st.tuples(st.integers(5, 9), st.just(2)), elements=coordinates)


def plain(real, generated, k):
    """The four measures as sets of balls, one pair of points at a time."""

    def distance(a, b):
        return sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) ** 0.5

    def radius(points, i):
        return sorted(distance(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    def balls(points):
        return [(point, radius(points, i)) for i, point in enumerate(points)]

    def inside(point, ball):
        return distance(point, ball[0]) <= ball[1]

    of_real, of_generated = balls(real), balls(generated)
    precision = np.mean([any(inside(g, ball) for ball in of_real) for g in generated])
    recall = np.mean([any(inside(r, ball) for ball in of_generated) for r in real])
    density = sum(inside(g, ball) for g in generated for ball in of_real) / (k * len(generated))
    coverage = np.mean([any(inside(g, ball) for g in generated) for ball in of_real])
    return precision, recall, density, coverage


@settings(deadline=None, max_examples=60)
@given(clouds, clouds, st.integers(1, 4))
def test_are_the_plain_loops(real, generated, k):
    expected = plain(real, generated, k)
    assert precision_recall(real, generated, k=k) == pytest.approx(expected[:2])
    assert density_coverage(real, generated, k=k) == pytest.approx(expected[2:])


@settings(deadline=None, max_examples=40)
@given(clouds, clouds, st.randoms(use_true_random=False))
def test_invariants(real, generated, random):
    result = precision_recall(real, generated)
    assert precision_recall(generated, real) == result[::-1]
    order = list(range(len(generated)))
    random.shuffle(order)
    assert precision_recall(real, generated[order]) == result
    assert precision_recall(4 * real + 1, 4 * generated + 1) == result
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real, k=3).coverage == 1
    assert precision_recall(real, generated + 1000) == (0, 0)
    assert density_coverage(real, generated + 1000, k=3) == (0, 0)


@pytest.mark.parametrize(("n", "m", "k"), [(60, 40, 5), (30, 60, 2), (50, 50, 1)])
def test_equal_populations_have_the_expected_density_and_coverage(n, m, k):
    rng = np.random.default_rng(0)
    draws = np.array(
        [
            density_coverage(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), k=k)
            for _ in range(400)
        ]
    )
    i = np.arange(1, k + 1)
    coverage = 1 - np.prod((n - i) / (n + m - i))
    z_scores = (draws.mean(0) - [1, coverage]) / stats.sem(draws)
    assert np.abs(z_scores).max() < 3.5


def test_lost_modes_cost_recall_and_nonsense_costs_precision():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 2)) + 20 * rng.integers(0, 2, (200, 1))
    one_mode = rng.normal(size=(200, 2))
    nonsense = np.vstack([real[:100] + 0.01, rng.normal(size=(100, 2)) * 2 - 40])
    narrow, broad = precision_recall(real, one_mode), precision_recall(real, nonsense)
    assert narrow.precision > 0.9
    assert narrow.recall == pytest.approx((real[:, 0] < 10).mean(), abs=0.1)
    assert broad.precision == pytest.approx(0.5, abs=0.05)
    assert broad.recall > 0.9
    assert density_coverage(real, one_mode).coverage < 0.6
    assert density_coverage(real, nonsense).density < 0.7


def test_blocks_and_sparse_input_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    real, generated = rng.poisson(2.0, (30, 4)), rng.poisson(2.0, (25, 4))
    expected = precision_recall(real, generated), density_coverage(real, generated)
    monkeypatch.setattr("scivae.metrics._distances._BLOCK_ENTRIES", 70)
    sparse_real = sparse.csr_matrix(real)
    got = precision_recall(sparse_real, generated), density_coverage(sparse_real, generated)
    assert got == expected


@pytest.mark.parametrize("measure", [precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("real", "generated", "k", "message"),
    [
        (np.ones((3, 2)), np.ones((9, 2)), 3, "real must have at least 4 rows, got 3"),
        (np.ones((9, 2)), np.ones((3, 2)), 3, "generated must have at least 4 rows, got 3"),
        (np.ones((9, 2)), np.ones((9, 3)), 3, "same columns, got 2 and 3"),
        (np.ones((9, 2)), np.ones((9, 2)), 0, "k must be at least 1, got 0"),
    ],
)
def test_refuses_in_one_clear_line(measure, real, generated, k, message):
    with pytest.raises(ValueError, match=message) as error:
        measure(real, generated, k=k)
    assert "\n" not in str(error.value)
