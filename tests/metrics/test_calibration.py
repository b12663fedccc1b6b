import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from scivae.metrics import calibration_error, expected_calibration_error

weights = hnp.arrays(
    float, st.tuples(st.integers(1, 30), st.just(4)), elements=st.integers(1, 9).map(float)
)


def plain(chances, y, n_bins):
    bins = [[] for _ in range(n_bins)]
    for row, label in zip(chances, y, strict=True):
        confidence = max(row)
        hit = list(row).index(confidence) == label
        for b in range(n_bins):
            if b / n_bins < confidence <= (b + 1) / n_bins:
                bins[b].append((hit, confidence))
    gaps = [(len(b), abs(np.mean([h - c for h, c in b]))) for b in bins if b]
    brier = np.mean(
        [sum((p - (j == t)) ** 2 for j, p in enumerate(r)) for r, t in zip(chances, y, strict=True)]
    )
    return sum(n * gap for n, gap in gaps) / len(y), max(gap for _, gap in gaps), brier


@settings(deadline=None, max_examples=60)
@given(weights, st.data(), st.sampled_from([1, 7, 15]))
def test_is_the_plain_loop(w, data, n_bins):
    chances = w / w.sum(axis=1, keepdims=True)
    y = data.draw(hnp.arrays(int, len(w), elements=st.integers(0, 3)))
    result = calibration_error(chances, y, n_bins=n_bins)
    assert result[:3] == pytest.approx(plain(chances, y, n_bins))
    assert result.accuracy == pytest.approx((chances.argmax(1) == y).mean())
    assert result.confidence == pytest.approx(chances.max(1).mean())
    assert expected_calibration_error(chances, y, n_bins=n_bins) == result.expected_error
    assert result.maximum_error >= result.expected_error
    # neither the order of the cells nor that of the (named) columns matters
    again = calibration_error(
        chances[::-1, ::-1], y[::-1], classes=np.arange(4)[::-1], n_bins=n_bins
    )
    if (np.sort(chances, axis=1)[:, -1] > np.sort(chances, axis=1)[:, -2]).all():
        assert again == pytest.approx(result)


def test_two_classes_are_sklearns_brier_score_and_calibration_curve():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 3000)  # so that the second class is the confident one
    y = (rng.uniform(size=3000) < p**2).astype(int)
    result = calibration_error(np.column_stack([1 - p, p]), y, n_bins=10)
    assert result.brier == pytest.approx(2 * brier_score_loss(y, p))
    accuracy, confidence = calibration_curve(y, p, n_bins=10)
    n_in_bin = np.histogram(p, bins=np.linspace(0, 1, 11))[0]
    gaps = np.abs(accuracy - confidence)
    assert result.maximum_error == pytest.approx(gaps.max())
    assert result.expected_error == pytest.approx(gaps @ n_in_bin[n_in_bin > 0] / 3000)


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40000, 3))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (rng.uniform(size=(40000, 1)) > chances.cumsum(1)).sum(1)
    sharp = chances**3 / (chances**3).sum(1, keepdims=True)
    good, bad = calibration_error(chances, y), calibration_error(sharp, y)
    assert good.expected_error < 0.01
    assert bad.expected_error > 0.1
    assert bad.accuracy == good.accuracy
    assert bad.brier > good.brier
    assert bad.confidence > bad.accuracy + 0.1


def test_the_lowest_bins_are_apart():
    """Of 40 classes the surest can be at 0.05 or at 0.15: right there never, here always."""
    low, high = np.full((2, 40), 1 / 40)
    low[0], high[0] = 0.05, 0.15
    low[1:], high[1:] = 0.95 / 39, 0.85 / 39
    found = calibration_error(np.stack([low, high]), [1, 0], n_bins=10)
    assert found.expected_error == pytest.approx((0.05 + 0.85) / 2)
    assert found.maximum_error == pytest.approx(0.85)


def test_named_columns():
    chances = [[0.9, 0.1], [0.2, 0.8]]
    named = calibration_error(chances, ["T", "B"], classes=["T", "B"])
    assert named == calibration_error(chances, [0, 1])
    assert named.accuracy == 1
    assert calibration_error(chances, ["T", "B"], classes=["B", "T"]).accuracy == 0


CHANCES = np.array([[0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("chances", "y", "kwargs", "message"),
    [
        (CHANCES, [0], {}, "1 labels for 2 rows"),
        (
            CHANCES * 5,
            [0, 1],
            {},
            r"2 of 2 rows that do not, the first is row 0 \(minimum 0.5, sum 5\).*softmax",
        ),
        ([[1.2, -0.2]], [0], {}, r"1 of 1 rows that do not, .*minimum -0.2, sum 1\)"),
        (CHANCES, [0, 2], {}, r"among the columns of probabilities \(classes\), got 1 .*\(2\)"),
        (CHANCES, ["a", "b"], {}, "2 unknown labels"),
        (CHANCES, [0, 1], {"classes": [0, 1, 2]}, r"got 3 names \(3 different\) for 2 columns"),
        (CHANCES, [0, 0], {"classes": [0]}, r"got 1 names \(1 different\) for 2 columns"),
        (CHANCES, [0, 0], {"classes": [0, 0]}, r"got 2 names \(1 different\) for 2 columns"),
        (CHANCES, [0, 1], {"n_bins": 0}, "n_bins must be at least 1, got 0"),
        (CHANCES * np.nan, [0, 1], {}, "probabilities must be finite"),
    ],
)
def test_refuses_in_one_clear_line(chances, y, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        calibration_error(chances, y, **kwargs)
    assert "\n" not in str(error.value)
