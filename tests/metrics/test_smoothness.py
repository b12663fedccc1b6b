import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from scivae.metrics import interpolation_smoothness

coordinates = st.integers(-80, 80).map(lambda i: i / 8)
paths = hnp.arrays(
    float, st.tuples(st.integers(1, 3), st.integers(3, 8), st.just(3)), elements=coordinates
)


def straight(n_steps, p=3):
    return np.linspace(0, 1, n_steps)[:, None] * np.arange(1, p + 1)


@settings(deadline=None, max_examples=60)
@given(paths)
def test_is_the_plain_loop_over_paths(x):
    assume((x[:, 0] != x[:, -1]).any(axis=1).all())
    ratios, roughness, largest = [], [], []
    for path in x:
        steps = [path[i + 1] - path[i] for i in range(len(path) - 1)]
        lengths = [np.sqrt(step @ step) for step in steps]
        turns = [steps[i + 1] - steps[i] for i in range(len(steps) - 1)]
        chord = path[-1] - path[0]
        ratios.append(sum(lengths) / np.sqrt(chord @ chord))
        mean_turn = sum(np.sqrt(turn @ turn) for turn in turns) / len(turns)
        mean_step = sum(lengths) / len(lengths)
        roughness.append(len(steps) * mean_turn / mean_step)
        largest.append(max(lengths) / mean_step)
    expected = np.mean(ratios), np.mean(roughness), np.mean(largest)
    assert interpolation_smoothness(x) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(paths, st.integers(0, 2**32 - 1), st.sampled_from([0.01, -1.0, 1000.0]))
def test_free_of_place_direction_and_scale(x, seed, factor):
    assume((x[:, 0] != x[:, -1]).any(axis=1).all())
    result = interpolation_smoothness(x)
    assert result.length_ratio >= 1 - 1e-12
    assert result.largest_step >= 1 - 1e-12
    assert result.roughness >= 0
    rotation = stats.ortho_group.rvs(3, random_state=seed)
    moved = factor * x @ rotation + [1.0, -2.0, 3.0]
    assert interpolation_smoothness(moved) == pytest.approx(result, rel=1e-6, abs=1e-6)
    assert interpolation_smoothness(x[:, ::-1]) == pytest.approx(result, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("n_steps", [3, 10, 50])
def test_a_straight_even_walk_is_perfect_and_a_jump_is_the_worst(n_steps):
    assert interpolation_smoothness(straight(n_steps)) == pytest.approx((1, 0, 1), abs=1e-9)
    jump = np.zeros((n_steps, 3))
    jump[n_steps // 2 :] = 1
    result = interpolation_smoothness(jump)
    assert result.length_ratio == pytest.approx(1)
    assert result.largest_step == pytest.approx(n_steps - 1)


@pytest.mark.parametrize("n_steps", [200, 800])
def test_roughness_of_a_smooth_curve_is_its_integral_whatever_the_number_of_steps(n_steps):
    # x(t) = (t, t³): x' = (1, 3t²), x'' = (0, 6t)
    t = np.linspace(0, 1, n_steps)
    result = interpolation_smoothness(np.column_stack([t, t**3]))
    length = integrate.quad(lambda s: np.sqrt(1 + 9 * s**4), 0, 1)[0]
    assert result.roughness == pytest.approx(3 / length, rel=0.02)
    assert result.length_ratio == pytest.approx(length / np.sqrt(2), rel=1e-3)


def test_noise_is_rougher_than_no_noise_and_more_so_with_more_steps():
    rng = np.random.default_rng(0)

    def noisy(n_steps):
        return interpolation_smoothness(straight(n_steps) + rng.normal(0, 0.3, (n_steps, 3)))

    assert noisy(400).roughness > 5 * noisy(40).roughness > 5


def test_one_path_or_many():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 9, 4))
    each = [interpolation_smoothness(path) for path in x]
    assert interpolation_smoothness(x) == pytest.approx(np.mean(each, axis=0))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 4)), r"at least 3 steps, got shape \(2, 4\)"),
        (np.ones(5), r"got shape \(5,\)"),
        (np.ones((0, 5, 2)), r"got shape \(0, 5, 2\)"),
        (straight(4) * np.nan, "paths must be finite"),
        (
            np.stack([straight(4), straight(4)[[0, 1, 2, 0]]]),
            "got 1 of 2 paths with equal ends, the first is number 1",
        ),
    ],
)
def test_refuses_in_one_clear_line(x, message):
    with pytest.raises(ValueError, match=message) as error:
        interpolation_smoothness(x)
    assert "\n" not in str(error.value)
