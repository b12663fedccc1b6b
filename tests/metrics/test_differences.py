import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from scivae.metrics import log_fold_change_agreement

changes = hnp.arrays(float, 9, elements=st.integers(-80, 80).map(lambda i: i / 8))


@settings(deadline=None, max_examples=60)
@given(changes, changes)
def test_is_scipys_regression_of_predicted_on_observed(predicted, observed):
    assume(np.ptp(predicted) > 0 and np.ptp(observed) > 0)
    line = stats.linregress(x=observed, y=predicted)
    result = log_fold_change_agreement(predicted, observed)
    assert result == pytest.approx((line.rvalue, line.slope, line.intercept, 9), abs=1e-9)
    assert -1 <= result.pearson <= 1


def test_direction_of_the_regression():
    observed = np.linspace(-2, 2, 101)
    result = log_fold_change_agreement(0.5 * observed + 0.25, observed)
    assert result == pytest.approx((1, 0.5, 0.25, 101))


def test_noise_in_the_prediction_leaves_the_slope_and_noise_in_the_truth_attenuates_it():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20000)
    noise = rng.normal(size=20000)
    of_prediction = log_fold_change_agreement(truth + noise, truth)
    of_truth = log_fold_change_agreement(truth, truth + noise)
    assert of_prediction.slope == pytest.approx(1, abs=0.03)
    assert of_truth.slope == pytest.approx(0.5, abs=0.03)
    assert of_prediction.pearson == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_only_genes_that_change_enough():
    rng = np.random.default_rng(0)
    observed = rng.normal(size=5000)
    predicted = observed + rng.normal(size=5000)
    kept = np.abs(observed) >= 1
    expected = stats.linregress(observed[kept], predicted[kept])
    result = log_fold_change_agreement(predicted, observed, min_observed=1)
    assert result.n_genes == kept.sum()
    assert result.slope == pytest.approx(expected.slope)
    everything = log_fold_change_agreement(predicted, observed)
    assert result.slope == pytest.approx(everything.slope, abs=0.05)
    assert result.pearson > everything.pearson + 0.05


@pytest.mark.parametrize(
    ("predicted", "observed", "kwargs", "message"),
    [
        ([1, 2, 3], [1, 2, 3, 4], {}, r"same shape, .*got \(3,\) and \(4,\)"),
        ([1, 2], [1, 2], {}, "at least 3 genes must be compared, got 2 of 2"),
        ([1, 2, 3], [1, 2, 3], {"min_observed": 2.5}, "got 1 of 3 .* at least 2.5; lower"),
        ([1, 1, 1], [1, 2, 3], {}, "predicted must differ between genes, got 1.0 for all 3"),
        ([1, 2, 3], [2, 2, 2], {}, "observed must differ between genes, got 2.0 for all 3"),
        ([1, np.nan, 3], [1, 2, 3], {}, "predicted must be finite, got 1 NaN"),
        ([1, 2, 3], [1, 2, 3], {"min_observed": np.nan}, "min_observed must be finite"),
        ([[1, 2, 3]], [1, 2, 3], {}, "predicted must be one-dimensional"),
    ],
)
def test_refuses_in_one_clear_line(predicted, observed, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        log_fold_change_agreement(predicted, observed, **kwargs)
    assert "\n" not in str(error.value)
