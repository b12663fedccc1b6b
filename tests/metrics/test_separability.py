import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression

from scivae.metrics import linear_separability


def gaussians(n, distance, seed, n_latent=3):
    """Two unit Gaussians whose means are ``distance`` apart: Bayes accuracy Φ(distance / 2)."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], n)
    z = rng.normal(size=(2 * n, n_latent))
    z[:, 0] += distance * y
    return z, y


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0, 4.0])
def test_reaches_the_bayes_accuracy_of_two_gaussians(distance):
    train, test = gaussians(4000, distance, 0), gaussians(4000, distance, 1)
    bayes = stats.norm.cdf(distance / 2)
    standard_error = np.sqrt(bayes * (1 - bayes) / 8000)
    assert linear_separability(*train, *test) == pytest.approx(bayes, abs=4 * standard_error)


def test_no_line_tells_a_disc_from_the_ring_around_it():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6000, 2))
    ring = (z**2).sum(1) > 2 * np.log(2)  # the median of chi-squared with 2 degrees of freedom
    assert linear_separability(z[:3000], ring[:3000], z[3000:], ring[3000:]) < 0.55


def test_the_three_protocols_rank_as_their_docstring_says():
    # labels are pure noise, and 40 points in 100 dimensions are always separable: what is fitted
    # and scored on the same points reads 1, and only the honest protocol sees chance
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(440, 100)), rng.integers(0, 2, 440)
    parts = z[:40], y[:40], z[40:], y[40:]
    assert linear_separability(*parts, protocol="train-train") == 1
    assert 0.4 < linear_separability(*parts) < 0.6
    assert 0.6 < linear_separability(*parts, protocol="test-test") < 1
    assert linear_separability(z[40:], y[40:], *parts[:2], protocol="test-test") == 1
    assert linear_separability(*parts[:2], protocol="train-train") == 1


def test_agrees_with_standardization_by_hand():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 4, 300)
    z = (rng.normal(size=(300, 5)) + y[:, None]) * [1, 10, 0.1, 100, 1] + 7
    mean, sd = z[:200].mean(0), z[:200].std(0)
    by_hand = LogisticRegression(max_iter=2000).fit((z[:200] - mean) / sd, y[:200])
    expected = by_hand.score((z[200:] - mean) / sd, y[200:])
    names = np.array(["a", "b", "c", "d"], dtype=object)[y]
    assert 0.5 < expected < 1
    assert linear_separability(z[:200], y[:200], z[200:], y[200:]) == expected
    assert linear_separability(z[:200], names[:200], z[200:], names[200:]) == expected
    assert (
        linear_separability(
            sparse.csr_matrix(z[:200]), y[:200], sparse.csr_matrix(z[200:]), y[200:]
        )
        == expected
    )


def test_affine_changes_of_each_dimension_and_the_order_of_cells_do_not_matter():
    z, y = gaussians(200, 1.5, 0)
    w, v = gaussians(200, 1.5, 1)
    moved = [a * [3.0, 0.01, 50.0] - [1.0, 5.0, 0.0] for a in (z, w)]
    order = np.random.default_rng(0).permutation(400)
    expected = linear_separability(z, y, w, v)
    assert linear_separability(moved[0], y, moved[1], v) == pytest.approx(expected, abs=0.01)
    assert linear_separability(z[order], y[order], w, v) == pytest.approx(expected, abs=0.01)


Z, Y = gaussians(5, 3.0, 0)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((Z, Y), {}, "no z_test and no y_test; pass both"),
        ((Z, Y, Z), {}, "no y_test"),
        ((Z, Y, None, Y), {"protocol": "train-train"}, "no z_test"),
        ((Z, Y[:4], Z, Y), {}, "y_train must have one label.* 4 labels for 10 rows"),
        ((Z, Y, Z[:, :2], Y), {}, "z_train and z_test must have the same columns, got 3 and 2"),
        ((Z, Y, np.where(Z > 1, np.nan, Z), Y), {}, "z_test must be finite"),
        ((Z, Y * 0, Z, Y * 0), {}, "y_train must hold at least two classes, got only 0"),
        ((Z, Y, Z, Y + 1), {}, r"every label of y_test must be among the labels of y_train.*\(2\)"),
        ((Z, Y, Z, Y), {"protocol": "test-train"}, "protocol must be one of 'train-test'"),
        ((Z, Y, Z, Y), {"inverse_penalty": 0}, "inverse_penalty must be a finite number above 0"),
        ((Z, Y, Z, Y), {"max_iter": 0}, "max_iter must be at least 1, got 0"),
    ],
)
def test_refuses_in_one_clear_line(args, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        linear_separability(*args, **kwargs)
    assert "\n" not in str(error.value)
