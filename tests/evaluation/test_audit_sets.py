"""Prediction sets from an audit: who is in a set, the count of answers that may be missed, and how often a promise is broken at different rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from selftrain.bundle.promise import PredictionSets
from selftrain.evaluation.audit.design import drawn, plan, plan_for_promise, plan_for_sets
from selftrain.evaluation.audit.sets import NEVER, Covering, cover, explain_uncovered, mean_size, misses, score_of

PROBABILITIES = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.34, 0.33, 0.33]])
SETS = PredictionSets(
    risk=0.1, level=0.95, threshold=0.3, size=1.8, classes=3, documents=4000, answers=100, missed=4, backend="torch", made="2026-11-30T00:00:00+00:00"
)


def test_a_class_is_in_the_set_of_every_threshold_up_to_its_score() -> None:
    assert score_of(PROBABILITIES, np.array([1, 0, 2])).tolist() == [0.3, 0.2, 0.33]
    assert score_of(PROBABILITIES, np.array([0, 2, 0])).tolist() == [1, 1, 1]  # the most probable class
    assert score_of(PROBABILITIES, np.array([-1, 3, 1])).tolist() == [NEVER, NEVER, 0.33]
    for threshold in (0.1, 0.2, 0.3, 0.33, 0.5, 1.0):
        sets = SETS.model_copy(update={"threshold": threshold})
        for row in PROBABILITIES:
            scores = [score_of(row[None], np.array([index]))[0] for index in range(3)]
            assert sorted(sets.members(row.tolist())) == [index for index in range(3) if scores[index] >= threshold]
    assert SETS.members([0.1, 0.3, 0.6]) == [2, 1] and SETS.members([0.2, 0.2, 0.2]) == [0]


def test_with_one_rate_as_many_answers_may_be_missed_as_by_the_binomial_test() -> None:
    for risk in (0.05, 0.1, 0.2):
        found = misses(np.full(10, 10), np.full(10, 400), risk, 0.04)
        assert binom.cdf(found, 100, risk) <= 0.04 < binom.cdf(found + 1, 100, risk)
    assert misses(np.full(2, 10), np.full(2, 400), 0.1, 0.04) == -1  # .9 ** 20 is .12


def test_where_few_are_asked_fewer_may_be_missed() -> None:
    even, uneven = np.full(2, 50), np.array([80, 20])
    assert misses(even, np.full(2, 1000), 0.1, 0.04) > misses(uneven, np.full(2, 1000), 0.1, 0.04) >= 0


def test_the_threshold_is_the_score_of_the_first_answer_that_may_not_be_missed() -> None:
    documents, strata = np.full(10, 400), np.repeat(np.arange(10), 10)
    scores = np.append(np.linspace(0.01, 0.1, 10), np.full(90, 1.0))
    found = cover(documents, strata, scores, risk=0.1, planned=100)
    assert found == Covering(pytest.approx(0.05 * (1 - 1e-4)), 100, 4)  # four of 100 may be missed
    assert cover(documents, strata, scores, risk=0.1, planned=101) is None  # an answer is missing
    further = np.append(strata, [0, 1]), np.append(scores, [0.0, 0.0])
    assert cover(documents, *further, risk=0.1, planned=100) == found  # the next look is at 200
    scores[:4] = NEVER
    assert cover(documents, strata, scores, risk=0.1, planned=100) == found
    scores[4] = NEVER
    assert cover(documents, strata, scores, risk=0.1, planned=100) is None
    why = explain_uncovered(documents, strata, scores, risk=0.1, planned=100)
    assert (why.asked, why.never, why.allowed, why.risk) == (100, 5, 4, 0.15)
    assert cover(documents, strata, scores, risk=0.15, planned=100) is not None


def test_every_stratum_counts_by_its_documents_in_the_mean_size() -> None:
    assert mean_size(np.array([300, 100]), np.array([0, 0, 1]), np.array([1, 2, 5])) == pytest.approx((300 * 1.5 + 100 * 5) / 400)
    assert mean_size(np.array([300, 100]), np.array([1]), np.array([2])) == 2


def test_questions_for_sets_are_asked_at_one_rate() -> None:
    scores = np.random.default_rng(0).uniform(0.3, 1, 4000)
    design = plan_for_sets(scores, budget=100, seed=0)
    assert np.bincount(design.strata).tolist() == [400] * 10 and np.bincount(design.strata[design.order[:100]]).tolist() == [10] * 10
    assert scores[design.strata == 0].min() >= scores[design.strata == 1].max()


@pytest.mark.parametrize("questions", ["sets", "figures", "promise"])
def test_promises_hold_where_mistakes_lie_where_an_audit_asks_least(questions: str) -> None:
    """True classes of low scores are where the questions are rarest; the usual quantile, which knows no strata, is wrong there in most audits."""
    rng = np.random.default_rng(2)
    confidence = np.sort(rng.uniform(0.4, 1.0, 2000))[::-1]
    strata = {
        "sets": plan_for_sets(confidence, budget=100, seed=0).strata,
        "figures": plan(rng.integers(0, 3, 2000), 1 - confidence, budget=100, seed=0).strata,
        "promise": plan_for_promise(confidence, risk=0.05, budget=100, seed=0).strata,
    }[questions]
    documents = np.bincount(strata)
    asked = np.bincount(strata[drawn(strata, 0).order[:100]], minlength=len(documents))
    rare = np.argsort((asked / documents)[strata], kind="stable")[:240]
    scores = np.ones(2000)
    scores[rare] = rng.uniform(0, 0.5, 240)
    broken = usual = 0
    for seed in range(200):
        order = drawn(strata, seed).order[:100]
        found = cover(documents, strata[order], scores[order], risk=0.1, planned=100)
        broken += found is not None and (scores < found.threshold).mean() > 0.1
        usual += (scores < np.sort(scores[order])[9]).mean() > 0.1
    assert broken / 200 <= 0.05
    assert usual / 200 > 0.3


def test_arrays_of_different_lengths_and_impossible_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        cover(np.array([9]), np.zeros(3, dtype=int), np.zeros(2), risk=0.1, planned=1)
    for risk in (0.0, 1.0):
        with pytest.raises(ValueError, match="risk must be"):
            cover(np.array([9]), np.zeros(2, dtype=int), np.zeros(2), risk=risk, planned=1)
