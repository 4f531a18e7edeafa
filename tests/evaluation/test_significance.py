import math
import warnings

import pytest

from selftrain.evaluation.significance import compare_by_seed, holm, mean_interval, mean_std, paired_t_test


def test_sample_standard_deviation_by_hand():
    # Squared deviations from 2: 1, 0, 1; divided by n - 1 = 2.
    assert mean_std([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0}


def test_one_value_has_no_deviation():
    assert mean_std([0.9]) == {"mean": 0.9, "std": None}


def test_interval_of_the_mean_by_hand():
    # 2 +- 4.3027 / sqrt(3): the 97.5 % point of Student's t with two degrees of freedom
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
    assert mean_interval([0.9]) is None and mean_interval([]) is None


def test_paired_t_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3). With two degrees of freedom the two-sided p is 1 - t / sqrt(t^2 + 2).
    t = 2 * math.sqrt(3)
    found = paired_t_test([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.difference == pytest.approx(2.0) and found.pairs == 3
    assert found.interval == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert found.p == pytest.approx(1 - t / math.sqrt(t * t + 2))


def test_a_difference_of_the_same_size_for_every_seed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shifted = paired_t_test([0.3, 0.4, 0.7], [0.2, 0.3, 0.6])
        assert (shifted.difference, shifted.p) == (pytest.approx(0.1), 0.0) and shifted.interval == pytest.approx((0.1, 0.1))
        assert paired_t_test([0.3, 0.4], [0.3, 0.4]) == (0.0, (0.0, 0.0), 1.0, 2)


def test_one_pair_and_what_no_seed_changes_have_no_p():
    assert paired_t_test([0.9], [0.8]) == (pytest.approx(0.1), None, None, 1)
    assert paired_t_test([0.9, 0.9, 0.9], [0.8, 0.8, 0.8]) == (pytest.approx(0.1), None, None, 3)
    assert paired_t_test([0.9, 0.9, 0.9], [0.8, 0.7, 0.8]).p is not None


def test_seeds_are_paired_by_their_number():
    found = compare_by_seed({0: 5.0, 2: 3.0, 1: 2.0}, {1: 1.0, 2: 1.0, 7: 9.0})
    assert found is not None and (found.difference, found.pairs) == (1.5, 2)  # 3 - 1 and 2 - 1
    assert compare_by_seed({0: 1.0}, {1: 1.0}) is None


def test_holm_by_hand():
    # .01 three times, .03 twice and not below .03, .04 once and not below .06
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


@pytest.mark.parametrize("call", [lambda: mean_std([]), lambda: paired_t_test([], []), lambda: paired_t_test([1.0], [1.0, 2.0])])
def test_nothing_to_compare(call):
    with pytest.raises(ValueError):
        call()
