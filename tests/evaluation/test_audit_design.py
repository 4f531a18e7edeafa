"""Strata hold equal uncertainty, questions come in rounds, and every document has its known chance."""

from __future__ import annotations

import numpy as np
import pytest

from selftrain.evaluation.audit.design import MOST_STRATA, plan


def test_two_classes_of_two_certainties_by_hand() -> None:
    # sqrt(e (1 - e)) is .3 at .1 and .5 at .5: class 0 has 10 * .3 + 6 * .5 = 6, class 1 has 20 * .3 = 6. So of four strata each class has two, of 3 each.
    predicted = np.array([0] * 16 + [1] * 20)
    error = np.array([0.5] * 6 + [0.1] * 10 + [0.1] * 20)
    found = plan(predicted, error, budget=32, seed=0)
    assert found.strata.tolist() == [1] * 6 + [0] * 10 + [2] * 10 + [3] * 10
    assert sorted(found.order.tolist()) == list(range(36))
    for start in range(0, 24, 4):  # six rounds, until the smallest stratum is used up
        assert sorted(found.strata[found.order[start : start + 4]].tolist()) == [0, 1, 2, 3]
    assert found.probabilities(8).tolist() == [2 / 6] * 6 + [2 / 10] * 30
    assert found.probabilities(0).tolist() == [0] * 36 and found.probabilities(36).tolist() == [1] * 36


def test_a_seed_changes_the_order_and_not_the_strata() -> None:
    rng = np.random.default_rng(0)
    predicted, error = rng.integers(0, 3, 200), rng.random(200)
    first, again, other = (plan(predicted, error, budget=100, seed=seed) for seed in (0, 0, 1))
    assert first.order.tolist() == again.order.tolist() != other.order.tolist()
    assert first.strata.tolist() == other.strata.tolist()


def test_within_a_stratum_every_document_is_as_likely_as_another() -> None:
    predicted, error = np.zeros(40, dtype=int), np.linspace(0, 1, 40)
    first = [plan(predicted, error, budget=16, seed=seed) for seed in range(2000)]
    asked = np.bincount(np.concatenate([found.order[:4] for found in first]), minlength=40) / 2000
    expected = first[0].probabilities(4)
    assert np.abs(asked - expected).max() < 4 * np.sqrt(expected.max() / 2000)


def test_the_less_certain_are_asked_about_more_often() -> None:
    found = plan(np.zeros(1000, dtype=int), np.linspace(0, 0.5, 1000), budget=100, seed=0)
    likely = found.probabilities(96)
    assert found.strata.max() == 11 and likely[-50:].mean() > 1.5 * likely[:50].mean()


def test_small_classes_are_put_together() -> None:
    # 99 % are predicted as class 0; the other three share what is left and could not fill half a stratum each, but two thirds of one together.
    predicted = np.array([0] * 950 + [1] * 15 + [2] * 17 + [3] * 18)
    found = plan(predicted, np.full(1000, 0.2), budget=100, seed=0)
    small = set(found.strata[950:].tolist())
    assert len(small) == 1 and not small & set(found.strata[:950].tolist()) and found.strata.max() == 11
    # what would not even fill half a stratum joins the smallest class that does
    joined = plan(np.array([0] * 600 + [1] * 390 + [2] * 10), np.full(1000, 0.2), budget=100, seed=0)
    assert set(joined.strata[990:].tolist()) <= set(joined.strata[600:990].tolist())
    # with more classes than strata, certainty alone counts
    many = plan(np.arange(1000) % 200, np.linspace(0, 1, 1000), budget=100, seed=0)
    assert many.strata.max() == 11 and (np.diff(many.strata) >= 0).all()


@pytest.mark.parametrize(("documents", "budget", "strata"), [(5, 5, 1), (1000, 20, 2), (1000, 10_000, MOST_STRATA), (30, 100, 3), (1, 1, 1)])
def test_strata_follow_the_answers(documents, budget, strata) -> None:
    found = plan(np.zeros(documents, dtype=int), np.full(documents, 0.3), budget=budget, seed=0)
    assert found.strata.max() + 1 == strata


def test_what_is_no_design_is_refused() -> None:
    with pytest.raises(ValueError, match="of one length"):
        plan(np.zeros(3), np.zeros(2), budget=10, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        plan(np.zeros(0), np.zeros(0), budget=10, seed=0)
    with pytest.raises(ValueError, match="budget"):
        plan(np.zeros(3), np.zeros(3), budget=0, seed=0)
