from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scivae.metrics import conformal_p_values, conformal_thresholds, set_coverage


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 12), st.integers(1, 19), st.integers(0, 5))
def test_coverage_is_exact_over_all_ways_to_leave_a_cell_out(n, twentieths, seed):
    """Each of n + 1 exchangeable cells is the new one equally often: a count, no estimate."""
    scores = np.random.default_rng(seed).permutation(n + 1).astype(float)
    level = twentieths / 20
    covered = sum(
        scores[i]
        <= conformal_thresholds(
            np.delete(scores, i), ["a"] * n, classes=["a"], level=level, min_cells=1
        )[0]
        for i in range(n + 1)
    )
    assert covered == ceil(Fraction(twentieths, 20) * (n + 1))


def test_random_rounding_covers_at_the_level_itself():
    """Mean over the draw, again over all ways to leave a cell out."""
    n, level = 7, 0.7  # 0.7 · 8 = 5.6: the 5th or the 6th of 7
    scores = np.arange(8.0)
    shares = [
        np.mean(
            [
                scores[i]
                <= conformal_thresholds(
                    np.delete(scores, i),
                    ["a"] * n,
                    classes=["a"],
                    level=level,
                    min_cells=1,
                    seed=seed,
                )[0]
                for i in range(n + 1)
            ]
        )
        for seed in range(2000)
    ]
    assert set(shares) == {5 / 8, 6 / 8}
    assert np.mean(shares) == pytest.approx(level, abs=4 * 0.125 * 0.5 / np.sqrt(2000))


def test_a_class_of_its_own_threshold_is_covered_by_itself():
    rng = np.random.default_rng(0)
    y = np.repeat(["common", "hard"], [8000, 4000])
    scores = np.where(y == "hard", rng.normal(3, 2, 12_000), rng.normal(0, 1, 12_000))
    fit, new = np.arange(12_000) % 4 == 0, np.arange(12_000) % 4 != 0
    options = {"classes": ["common", "hard", "absent"], "level": 0.9}
    own = conformal_thresholds(scores[fit], y[fit], **options)
    pooled = conformal_thresholds(scores[fit], y[fit], min_cells=10_000, **options)
    for name, k in (("common", 0), ("hard", 1)):
        these = new & (y == name)
        assert (scores[these] <= own[k]).mean() == pytest.approx(0.9, abs=0.025)
    assert pooled[0] == pooled[1] == pooled[2]
    assert (scores[new & (y == "hard")] <= pooled[1]).mean() < 0.8
    assert own[2] == np.inf  # nothing is known of it, so it cannot be ruled out


def test_few_cells_share_a_threshold_and_do_not_count_for_others():
    scores, y = np.array([1.0, 2, 3, 10, 20, 30, 40]), np.array([0, 1, 2, 3, 3, 3, 3])
    found = conformal_thresholds(scores, y, classes=[0, 1, 2, 3], level=0.75, min_cells=4)
    assert found.tolist() == [3, 3, 3, 40]  # the 3rd of 3, and the 4th of 4 (0.75 · 5 = 3.75)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9), st.floats(0.0, 0.09))
def test_sets_of_a_lower_level_are_subsets(seed, level, more):
    rng = np.random.default_rng(seed)
    y, scores = rng.integers(0, 3, 50), rng.normal(size=50)
    low, high = (
        conformal_thresholds(scores, y, classes=[0, 1, 2], level=a, min_cells=15, seed=seed)
        for a in (level, level + more)
    )
    assert (low <= high).all()


def test_thresholds_are_those_of_mapie():
    mapie = pytest.importorskip("mapie.classification")
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 900)
    x = rng.normal(size=(900, 4)) + np.eye(4)[y]
    model = LogisticRegression().fit(x[:300], y[:300])
    theirs = mapie.SplitConformalClassifier(
        model, confidence_level=0.9, conformity_score="lac", prefit=True
    ).conformalize(x[300:417], y[300:417])
    _, sets = theirs.predict_set(x[417:])
    scores = 1 - model.predict_proba(x)
    own = scores[np.arange(900), y]
    thresholds = conformal_thresholds(
        own[300:417], y[300:417], classes=[0, 1, 2], level=0.9, min_cells=1000
    )
    np.testing.assert_array_equal(scores[417:] <= thresholds, sets[:, :, 0])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(-1, 10))
def test_p_value_is_the_plain_count(held_out, score):
    expected = (1 + sum(x >= score for x in held_out)) / (len(held_out) + 1)
    assert conformal_p_values([score], held_out)[0] == pytest.approx(expected)


def test_p_values_of_exchangeable_cells_are_uniform():
    for i in range(10):  # each of ten cells is the new one once
        scores = np.arange(10.0)
        (p,) = conformal_p_values(scores[[i]], np.delete(scores, i))
        assert p == pytest.approx((10 - i) / 10)


def test_coverage_counts():
    sets = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]]
    found = set_coverage(sets, ["a", "b", "b", "a"], classes=["b", "a", "c"])
    assert found.coverage == 0.5
    assert found.per_class == {"a": 0.5, "b": 0.5}
    assert (found.mean_size, found.empty, found.single) == (1.25, 0.25, 0.25)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 1.0"):
        conformal_thresholds([1.0], ["a"], classes=["a"], level=1.0)
    with pytest.raises(ValueError, match="every label of y must be among classes"):
        conformal_thresholds([1.0], ["b"], classes=["a"])
    with pytest.raises(ValueError, match="classes must be unique"):
        conformal_thresholds([1.0], ["a"], classes=["a", "a"])
    with pytest.raises(ValueError, match="one label for each column of sets"):
        set_coverage([[True, False]], ["a"], classes=["a"])
    with pytest.raises(ValueError, match="scores must be finite"):
        conformal_p_values([np.nan], [1.0])
