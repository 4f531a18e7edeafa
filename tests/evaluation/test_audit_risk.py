"""A promise from an audit: the test by hand, its worst case, its looks, and how often it is broken where questions are asked at different rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from selftrain.evaluation.audit.design import plan, plan_for_promise
from selftrain.evaluation.audit.risk import Chosen, choose, explain, fewest, grid, largest_tail, look_at, supported, tail


def population(documents: int, seed: int, *, wrong_at_top: float, wrong_below: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, predictions of three classes, and whether they are wrong: rarely among the surest tenth, and at one rate among all others."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.uniform(0.4, 1.0, documents))[::-1]
    wrong = rng.random(documents) < np.where(np.arange(documents) < documents // 10, wrong_at_top, wrong_below)
    return scores, rng.integers(0, 3, documents), wrong


def test_probabilities_of_a_count_by_hand() -> None:
    # two answers of a stratum with half of it wrong, one of a stratum with a fifth
    assert tail(np.array([2, 1]), np.array([0.5, 0.2]), 1) == pytest.approx([0.25 * 0.8, 0.5 * 0.8 + 0.25 * 0.2])
    assert tail(np.array([3]), np.array([1.0]), 3) == pytest.approx([0, 0, 0, 1])


def test_the_worst_case_of_no_wrong_answer_by_hand() -> None:
    one = np.array([1.0, 1.0]), np.array([100.0, 50.0]), np.ones(2)
    # (1 - a) (1 - b) with 100 a + 50 b = 90 is largest where 100 (1 - a) = 50 (1 - b) = 30
    assert largest_tail(*one, 90.0, 0) == pytest.approx(0.3 * 0.6)
    # with 30 wrong documents that point would have b < 0: all of them lie in the stratum that is asked about less
    assert largest_tail(*one, 30.0, 0) == pytest.approx(0.7)
    # and where at most a tenth of that stratum can be wrong, the rest lies in the other one
    assert largest_tail(one[0], one[1], np.array([0.1, 1.0]), 30.0, 0) == pytest.approx(0.9 * 0.6)


def test_one_rate_for_all_is_the_binomial_test() -> None:
    for wrong in (0, 1, 2, 3):
        found = largest_tail(np.full(8, 20.0), np.full(8, 500.0), np.ones(8), 0.1 * 4000, wrong)
        assert found == pytest.approx(binom.cdf(wrong, 160, 0.1), rel=1e-6)
    assert fewest(0.05, 0, 0.05) == 59 and fewest(0.05, 1, 0.05) == 93
    assert [supported([n], [3000], [3000], wrong=0, errors=150, chance=0.05) for n in (58, 59)] == [False, True]


def test_no_way_to_spread_the_errors_is_worse_than_the_worst() -> None:
    rng = np.random.default_rng(0)
    for wrong in (0, 1, 2, 4):
        asked, documents = rng.integers(4, 12, 6).astype(float), rng.integers(100, 900, 6).astype(float)
        most = rng.uniform(0.3, 1.0, 6)
        errors = 0.5 * (documents * most).sum()
        found = largest_tail(asked, documents, most, errors, wrong)
        assert found < 0.5  # it is computed, and not given up
        shares, best = 0.5 * most, 0.0
        for _ in range(1500):  # errors move between two strata wherever that makes so few wrong answers likelier
            giver, taker = rng.choice(6, 2, replace=False)
            moved = min(shares[giver] * documents[giver], (most - shares)[taker] * documents[taker]) * rng.random() ** 3
            other = shares.copy()
            other[giver] -= moved / documents[giver]
            other[taker] += moved / documents[taker]
            if (value := tail(asked, other, wrong).sum()) > best:
                shares, best = other, value
        assert 0.98 * found < best <= found * (1 + 1e-6)


def test_documents_that_nobody_asks_about_may_all_be_wrong() -> None:
    assert supported([70, 0], [1000, 40], [1000, 40], wrong=0, errors=100, chance=0.05)  # 40 and 6 % of a thousand
    assert not supported([70, 0], [1000, 99], [1000, 99], wrong=0, errors=100, chance=0.05)
    assert not supported([70, 0], [1000, 200], [1000, 200], wrong=0, errors=100, chance=0.05)
    assert supported([5, 5], [1000, 40], [9, 0], wrong=5, errors=10, chance=0.05)  # there are only nine documents


def test_looks_are_at_doubled_numbers_and_share_one_chance() -> None:
    assert look_at(99, 100) is None
    first, second, third = look_at(100, 100), look_at(200, 100), look_at(799, 100)
    assert (first.answers, second.answers, third.answers) == (100, 200, 400) and look_at(199, 100) == first
    assert (first.chance, second.chance, third.chance) == pytest.approx((0.04, 0.005, 0.01 / 6))
    assert 0.045 < sum(look_at(2**number, 1).chance for number in range(40)) <= 0.05


def test_thresholds_lie_between_scores_and_the_last_answers_everything() -> None:
    scores = np.array([0.9, 0.9, 0.9, 0.8, 0.6, 0.5])
    found = grid(scores, np.array([0, 0, 1, 1, 1, 0]))
    assert found.thresholds == pytest.approx([0.85, 0.7, 0.55, 0.25])
    assert found.above.tolist() == [[2, 2, 2, 3], [1, 2, 3, 3]] and found.documents.tolist() == [3, 3]
    many = grid(np.random.default_rng(0).uniform(0.3, 1, 4000), np.zeros(4000, dtype=int))
    assert many.above[0].tolist() == list(range(100, 4001, 100))


def test_a_promise_goes_down_to_where_the_mistakes_begin() -> None:
    scores = np.linspace(1, 0.5, 1000)
    strata = np.zeros(1000, dtype=int)
    asked = np.arange(0, 1000, 5)  # 200, evenly, of which the last 40 are mistakes
    wrong = asked >= 800
    found = choose(grid(scores, strata), strata[asked], scores[asked], wrong, risk=0.05, planned=200)
    # 3 of 165 may be wrong at .04, and the next threshold has five more of them
    assert found is not None and (found.asked, found.wrong, found.answered) == (160, 0, 0.8) and found.threshold == pytest.approx(0.6, abs=5e-4)
    assert binom.cdf(5, 165, 0.05) > 0.04
    assert choose(grid(scores, strata), strata[asked], scores[asked], wrong, risk=0.05, planned=201) is None  # an answer is missing


def test_what_would_be_supported_instead() -> None:
    scores, strata = np.linspace(1, 0.5, 3000), np.zeros(3000, dtype=int)
    asked = np.arange(0, 3000, 30)
    wrong = np.isin(np.arange(100), [50, 70])
    facts = grid(scores, strata), strata[asked], scores[asked], wrong
    assert choose(*facts, risk=0.05, planned=100) is None
    found = explain(*facts, risk=0.05, planned=100)
    assert (found.asked, found.wrong, found.allowed) == (100, 2, 1) and found.answers == 400 and found.risk == 0.075
    assert choose(*facts, risk=0.075, planned=100) is not None
    nothing = explain(*facts, risk=0.01, planned=100)
    assert (nothing.asked, nothing.allowed) == (0, -1)


@pytest.mark.parametrize("questions", ["figures", "promise"])
def test_promises_hold_where_questions_are_asked_at_different_rates(questions: str) -> None:
    """Everywhere below the top the risk is just above the promise, and mistakes lie where an audit asks least: as many promises as can be are broken."""
    scores, predicted, wrong = population(3000, 1, wrong_at_top=0.105, wrong_below=0.105)
    risks = np.cumsum(wrong) / np.arange(1, 3001)
    broken = ignored = made = 0
    for seed in range(150):
        design = (
            plan(predicted, 1 - scores, budget=100, seed=seed)
            if questions == "figures"
            else plan_for_promise(scores, risk=0.1, budget=100, seed=seed)
        )
        asked = design.order[:100]
        facts = grid(scores, design.strata), design.strata[asked], scores[asked], wrong[asked]
        found = choose(*facts, risk=0.1, planned=100)
        if found is not None:
            made += 1
            broken += risks[round(found.answered * 3000) - 1] > 0.1
        # what is usual: the largest share of documents for which the mistakes seen are few enough
        above = scores[asked][:, None] >= facts[0].thresholds
        seen = (above & wrong[asked][:, None]).sum(axis=0) / np.maximum(above.sum(axis=0), 1)
        held = np.flatnonzero(seen <= 0.1)
        ignored += len(held) > 0 and risks[facts[0].above[:, held[-1]].sum() - 1] > 0.1
    assert broken / 150 <= 0.05 and made == broken
    assert ignored / 150 > 0.2


def test_questions_for_a_promise_are_about_the_surest_and_a_fifth_elsewhere() -> None:
    scores = np.random.default_rng(0).uniform(0.3, 1, 4000)
    design = plan_for_promise(scores, risk=0.05, budget=100, seed=0)
    asked = design.order[:100]
    reach = 0.8 * 100 / 99 / 2  # 99 answers allow one mistake at 4 %
    top = scores >= np.quantile(scores, 1 - reach)
    assert top[asked].sum() == 80 and np.bincount(design.strata[asked]).tolist() == [10] * 10
    assert sorted(design.order) == list(range(4000))
    even = plan_for_promise(scores, risk=0.2, budget=100, seed=0)
    assert np.ptp(np.bincount(even.strata)) <= 1  # the budget reaches all documents at the rate that it takes
    found = choose(
        grid(scores, even.strata), even.strata[even.order[:100]], scores[even.order[:100]], np.zeros(100, dtype=bool), risk=0.2, planned=100
    )
    assert isinstance(found, Chosen) and found.answered == 1


def test_arrays_of_different_lengths_and_impossible_risks_are_refused() -> None:
    facts = grid(np.array([0.5, 0.6]), np.zeros(2, dtype=int)), np.zeros(2, dtype=int)
    with pytest.raises(ValueError, match="one length"):
        choose(*facts, np.zeros(3), np.zeros(2, dtype=bool), risk=0.1, planned=1)
    for risk in (0.0, 1.0):
        with pytest.raises(ValueError, match="risk must be"):
            choose(*facts, np.zeros(2), np.zeros(2, dtype=bool), risk=risk, planned=1)
