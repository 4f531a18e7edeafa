"""Sets of classes against true ones, and thresholds by answers."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import f1_score

from selftrain.evaluation.calibration import calibration_error, reliability_bins
from selftrain.evaluation.multi_label import evaluate_sets, thresholds_for

TRUTH = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 1]], dtype=bool)
FOUND = np.array([[0.9, 0.2], [0.8, 0.4], [0.1, 0.5], [0.3, 0.7], [0.6, 0.2]])
NAMES = ("sport", "money")


def test_the_figures_are_those_of_scikit_learn():
    figures = evaluate_sets(FOUND, TRUTH, NAMES)
    said = FOUND >= 0.5
    assert figures["documents"] == 5 and figures["accuracy"] == 0.4  # two lack a class, and one has one too many
    assert figures["micro_f1"] == pytest.approx(f1_score(TRUTH, said, average="micro")) == pytest.approx(8 / 11)
    assert figures["macro_f1"] == pytest.approx(f1_score(TRUTH, said, average="macro")) == pytest.approx(0.7)
    sport, money = figures["per_class"]
    assert sport == {"name": "sport", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3, "predicted": 3}
    assert money == pytest.approx({"name": "money", "precision": 1 / 2, "recall": 1 / 3, "f1": 0.4, "support": 3, "predicted": 2})
    assert (figures["labels"], figures["predicted_labels"]) == pytest.approx((1.2, 1.0))
    assert figures["brier"] == pytest.approx((0.05 + 0.40 + 0.26 + 0.18 + 0.80) / 5) and figures["mean_confidence"] == pytest.approx(0.73)
    # Of each answer, yes or no: how sure it is, and whether it is right.
    confidence = np.array([0.9, 0.8, 0.8, 0.6, 0.9, 0.5, 0.7, 0.7, 0.6, 0.8])
    bins = reliability_bins(confidence, np.array([1, 1, 1, 0, 1, 0, 1, 1, 1, 0], dtype=bool))
    assert figures["reliability"] == list(bins) and figures["ece"] == pytest.approx(calibration_error(bins)) and figures["ece"] > 0.1


def test_another_threshold_makes_other_sets_and_leaves_the_calibration():
    figures, before = (evaluate_sets(FOUND, TRUTH, NAMES, threshold=threshold) for threshold in (0.4, 0.5))
    assert figures["per_class"][1]["recall"] == pytest.approx(2 / 3) and figures["predicted_labels"] == 1.2
    assert (figures["ece"], figures["brier"]) == (before["ece"], before["brier"])


def test_documents_without_a_class_that_get_none_are_right():
    nothing = evaluate_sets(np.full((3, 2), 0.1), np.zeros((3, 2), dtype=bool), NAMES)
    assert (nothing["accuracy"], nothing["micro_f1"], nothing["macro_f1"], nothing["labels"]) == (1.0, 0.0, 0.0, 0.0)
    missed = evaluate_sets(np.full((3, 2), 0.1), np.ones((3, 2), dtype=bool), NAMES)
    assert (missed["accuracy"], missed["macro_f1"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("found", "truth", "names"), [(FOUND, TRUTH[:, :1], NAMES), (FOUND, TRUTH, ("sport",)), (FOUND[:0], TRUTH[:0], NAMES), (FOUND[:4], TRUTH, NAMES)]
)
def test_tables_that_do_not_fit_are_refused(found, truth, names):
    with pytest.raises(ValueError, match=r"expected \[N, L\] twice"):
        evaluate_sets(found, truth, names)


def test_a_threshold_misses_as_many_answers_as_the_binomial_test_lets():
    rng = np.random.default_rng(0)
    truth = np.zeros((300, 2), dtype=bool)
    truth[:100, 0] = truth[95:110, 1] = True
    found = rng.random((300, 2))
    sport, money = thresholds_for(found, truth, risk=0.1)
    allowed = sport.missed
    assert sport.answers == 100 and binom.cdf(allowed, 100, 0.1) <= 0.025 < binom.cdf(allowed + 1, 100, 0.1)
    assert allowed == int((found[:100, 0] < sport.threshold).sum()) == 4
    assert sport.threshold == pytest.approx(np.sort(found[:100, 0])[allowed] * (1 - 1e-4), rel=1e-9)  # as low as rounding may make it elsewhere
    assert (money.threshold, money.answers, money.missed, money.needed) == (None, 15, 0, 36)  # 0.9 ** 36 is the first power below 0.025
    surer = thresholds_for(found, truth, risk=0.1, level=0.99)
    assert surer[0].missed < allowed and surer[1].needed == 51  # 0.9 ** 51 is the first below 0.005
    for risk in (0.0, 1.0):
        with pytest.raises(ValueError, match="risk must be above 0"):
            thresholds_for(found, truth, risk=risk)
    for tables in ((found, truth[:, :1]), (found[:, 0], truth[:, 0])):
        with pytest.raises(ValueError, match="must be tables of one shape"):
            thresholds_for(*tables, risk=0.1)


def test_as_many_answers_as_it_takes_are_enough_for_a_threshold():
    def found(answers: int):
        return thresholds_for(np.linspace(0.5, 1, answers)[:, None], np.ones((answers, 1), dtype=bool), risk=0.2)[0]

    few, enough = found(13), found(14)  # 0.8 ** 14 is the first power below 0.05
    assert (few.threshold, few.needed) == (None, 14) and enough.threshold == pytest.approx(0.5 * (1 - 1e-4)) and enough.missed == 0


def test_the_promise_is_kept_as_often_as_it_says():
    """Exact scores of a class are uniform here, so the share that a threshold misses is the threshold itself."""
    rng, broken = np.random.default_rng(1), 0
    for _ in range(400):
        truth = rng.random((120, 2)) < 0.6
        broken += any(one.threshold is not None and one.threshold > 0.2 for one in thresholds_for(rng.random((120, 2)), truth, risk=0.2))
    assert 0 < broken / 400 <= 0.05
