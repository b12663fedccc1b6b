import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from scivae.metrics import f1_per_class, macro_f1

pairs = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abce")), min_size=1)


@settings(deadline=None, max_examples=80)
@given(pairs)
def test_is_sklearns_f1(labels):
    truth, guess = map(list, zip(*labels, strict=True))
    each = f1_per_class(truth, guess)
    assert list(each) == sorted(set(truth) | set(guess))
    assert list(each.values()) == pytest.approx(f1_score(truth, guess, average=None))
    assert macro_f1(truth, guess) == pytest.approx(f1_score(truth, guess, average="macro"))


@settings(deadline=None, max_examples=40)
@given(pairs)
def test_symmetric_and_one_only_if_equal(labels):
    truth, guess = map(list, zip(*labels, strict=True))
    assert macro_f1(truth, guess) == macro_f1(guess, truth)
    assert macro_f1(truth, truth) == 1
    assert (macro_f1(truth, guess) == 1) == (truth == guess)


def test_a_rare_class_weighs_as_much_as_a_common_one():
    truth = np.repeat([0, 1], [99, 1])
    assert macro_f1(truth, np.zeros(100, dtype=int)) == pytest.approx((2 * 99 / 199 + 0) / 2)


def test_refuses_in_one_clear_line():
    with pytest.raises(ValueError, match=r"same shape, .*got \(2,\) and \(3,\)"):
        macro_f1([0, 1], [0, 1, 1])
    with pytest.raises(TypeError, match="labels of one type, got int64 and <U1"):
        macro_f1([0, 1], ["0", "1"])
    with pytest.raises(ValueError, match="y_pred must not have missing labels"):
        macro_f1(["a", "b"], ["a", None])
