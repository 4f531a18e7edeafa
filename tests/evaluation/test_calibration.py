import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selftrain.evaluation.calibration import calibration_error, reliability_bins


def test_error_by_hand():
    # Two bins. (0, 0.5]: confidences 0.4, 0.5, one of two right: gap |0.5 - 0.45| = 0.05.
    # (0.5, 1]: 0.6, 0.9, 0.9, all right: gap |1 - 0.8| = 0.2. Weighted: 2/5 * 0.05 + 3/5 * 0.2 = 0.14.
    confidence = np.array([0.4, 0.5, 0.6, 0.9, 0.9])
    correct = np.array([True, False, True, True, True])
    assert calibration_error(reliability_bins(confidence, correct, bins=2)) == pytest.approx(0.14)


def test_bins_are_open_below_and_closed_above():
    bins = reliability_bins(np.array([0.0, 0.25, 0.26, 0.5, 1.0]), np.array([0, 0, 1, 1, 1]), bins=4)
    assert [entry["documents"] for entry in bins] == [2, 2, 0, 1]
    assert (bins[2]["confidence"], bins[2]["accuracy"]) == (None, None)
    assert bins[1]["confidence"] == pytest.approx(0.38)
    assert bins[0]["accuracy"] == 0.0 and bins[3]["accuracy"] == 1.0


def test_extremes():
    assert calibration_error(reliability_bins(np.ones(4), np.ones(4))) == 0.0
    assert calibration_error(reliability_bins(np.ones(4), np.zeros(4))) == 1.0
    assert calibration_error(reliability_bins(np.array([]), np.array([]))) == 0.0


@pytest.mark.parametrize(
    ("confidence", "correct", "bins"), [(np.ones(3), np.ones(2), 15), (np.ones((2, 2)), np.ones((2, 2)), 15), (np.ones(2), np.ones(2), 0)]
)
def test_shapes_that_do_not_fit(confidence, correct, bins):
    with pytest.raises(ValueError):
        reliability_bins(confidence, correct, bins)


@given(arrays(float, st.integers(1, 40), elements=st.floats(0, 1)), st.integers(0, 2**32 - 1))
def test_error_is_in_the_unit_interval_and_knows_no_order(confidence, seed):
    rng = np.random.default_rng(seed)
    correct = rng.random(len(confidence)) < 0.5
    error = calibration_error(reliability_bins(confidence, correct))
    order = rng.permutation(len(confidence))
    assert 0.0 <= error <= 1.0
    assert calibration_error(reliability_bins(confidence[order], correct[order])) == pytest.approx(error)
