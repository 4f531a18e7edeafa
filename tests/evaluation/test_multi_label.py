"""Sets of classes against true ones, and thresholds by answers."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import f1_score

from selftrain.evaluation.multi_label import evaluate_sets, thresholds_for


def test_the_figures_are_those_of_scikit_learn():
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    found = np.array([[0.9, 0.2], [0.8, 0.4], [0.1, 0.5], [0.3, 0.7]])
    figures = evaluate_sets(found, truth, ("sport", "money"))
    said = found >= 0.5
    assert figures["accuracy"] == 0.5  # the second lacks a class, the third has one too many
    assert figures["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro")) and figures["macro_f1"] == pytest.approx(0.75)
    assert [one["f1"] for one in figures["per_class"]] == [1.0, 0.5] and [one["predicted"] for one in figures["per_class"]] == [2, 2]
    assert (figures["labels"], figures["predicted_labels"]) == (1.0, 1.0)
    assert figures["ece"] == pytest.approx(
        np.mean([abs(0.9 - 1), abs(0.8 - 1), abs(0.8 - 1), abs(0.9 - 1), abs(0.7 - 1), abs(0.7 - 1), abs(0.6 - 0), abs(0.5 - 0)]), abs=0.15
    )
    assert evaluate_sets(found, truth, ("sport", "money"), threshold=0.4)["per_class"][1]["recall"] == 1.0
    with pytest.raises(ValueError, match=r"expected \[N, L\] twice"):
        evaluate_sets(found, truth[:, :1], ("sport", "money"))


def test_a_threshold_misses_as_many_answers_as_the_binomial_test_lets():
    rng = np.random.default_rng(0)
    truth = np.zeros((300, 2), dtype=bool)
    truth[:100, 0] = truth[95:110, 1] = True
    found = rng.random((300, 2))
    sport, money = thresholds_for(found, truth, risk=0.1)
    allowed = sport.missed
    assert sport.answers == 100 and binom.cdf(allowed, 100, 0.1) <= 0.025 < binom.cdf(allowed + 1, 100, 0.1)
    assert allowed == int((found[:100, 0] < sport.threshold).sum()) == 4
    assert (money.threshold, money.answers, money.needed) == (None, 15, 36)  # 0.9 ** 36 is the first power below 0.025
    with pytest.raises(ValueError, match="risk must be above 0"):
        thresholds_for(found, truth, risk=1.0)


def test_the_promise_is_kept_as_often_as_it_says():
    """Exact scores of a class are uniform here, so the share that a threshold misses is the threshold itself."""
    rng, broken = np.random.default_rng(1), 0
    for _ in range(400):
        truth = rng.random((120, 2)) < 0.6
        broken += any(one.threshold is not None and one.threshold > 0.2 for one in thresholds_for(rng.random((120, 2)), truth, risk=0.2))
    assert 0 < broken / 400 <= 0.05
