"""The figures of an audit, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from selftrain.evaluation.audit.estimate import anytime_z
from selftrain.evaluation.audit.figures import SKIPPED, figures
from selftrain.evaluation.audit.report import describe

NAMES = ("sport", "tech")


def test_strata_are_weighted_by_their_documents() -> None:
    # 90 documents of which 9 of 10 are right, and 10 of which 5 of 10 are.
    documents = np.array([[90, 0], [0, 10]])
    strata = np.array([0] * 10 + [1] * 10)
    answers = np.array([0] * 9 + [1] + [1] * 5 + [0] * 5)
    found = figures(documents, strata, strata, answers, NAMES, planned=20)
    assert found.accuracy.estimate == pytest.approx(0.9 * 0.9 + 0.1 * 0.5)
    sport, tech = found.classes
    assert (sport.predicted, tech.predicted) == (0.9, 0.1)
    assert sport.precision is not None and sport.precision.estimate == pytest.approx(0.9)
    assert sport.share.estimate == pytest.approx(0.9 * 0.9 + 0.1 * 0.5)
    assert tech.share.estimate == pytest.approx(0.9 * 0.1 + 0.1 * 0.5)
    assert sport.recall.estimate == pytest.approx(0.81 / (0.81 + 0.05))
    assert tech.precision is not None and tech.precision.estimate == pytest.approx(0.5)
    assert (tech.precision.low, tech.precision.high) == pytest.approx((0.5, 0.5), abs=1e-6), "all ten were asked about"
    assert not found.anytime and found.none_of_these.estimate == 0 and found.skipped == 0
    assert json.loads(json.dumps(found.to_json()))["classes"][0]["precision"]["estimate"] == pytest.approx(0.9)


def test_a_stratum_of_several_predicted_classes_is_split_for_each_of_them() -> None:
    documents = np.array([[60, 40]])
    predicted = np.array([0] * 6 + [1] * 4)
    answers = np.array([0] * 6 + [1, 0, 0, 0])
    found = figures(documents, np.zeros(10), predicted, answers, NAMES, planned=10)
    sport, tech = found.classes
    assert sport.precision is not None and sport.precision.estimate == 1 and tech.precision is not None and tech.precision.estimate == 0.25
    assert found.accuracy.estimate == 0.7
    assert sport.recall.estimate == pytest.approx(0.6 / (0.6 + 0.4 * 0.75))
    assert tech.recall.estimate == 1


def test_all_documents_leave_nothing_open() -> None:
    documents = np.array([[3, 0], [0, 2]])
    found = figures(documents, [0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 2, 1, 0], NAMES, planned=5)
    assert (found.accuracy.estimate, found.accuracy.low, found.accuracy.high) == pytest.approx((0.6, 0.6, 0.6), abs=1e-6)
    assert (found.none_of_these.estimate, found.none_of_these.low) == pytest.approx((0.2, 0.2), abs=1e-6)
    assert (found.classes[0].share.low, found.classes[0].share.high) == pytest.approx((0.6, 0.6), abs=1e-6)
    assert found.prices == () and "is not to be had" in describe(found)


def test_before_the_planned_number_and_beyond_it_intervals_are_valid_at_any_time() -> None:
    documents = np.array([[1000, 0], [0, 1000]])

    def of(asked: int, planned: int):
        places = np.arange(asked) % 2
        return figures(documents, places, places, np.where(np.arange(asked) % 5 == 0, 1 - places, places), NAMES, planned=planned)

    exact, early, late = of(100, 100), of(100, 140), of(100, 60)
    assert (exact.anytime, early.anytime, late.anytime) == (False, True, True)
    width = [found.accuracy.high - found.accuracy.low for found in (exact, early, late)]
    assert width[1] / width[0] == pytest.approx(float(anytime_z(100, 140)) / 1.96, rel=0.1) and width[2] > width[0]
    assert [price.half_width for price in exact.prices] == [0.075, 0.05, 0.04]
    assert [price.answers for price in exact.prices] == sorted(price.answers for price in exact.prices)
    for price in exact.prices:  # what is promised holds, if the answers go on as they did
        total = 100 + price.answers
        there = of(total + total % 10, 100)
        assert (there.accuracy.high - there.accuracy.low) / 2 <= 1.03 * price.half_width
    assert "40 of the planned questions are open" in describe(early)


def test_skipped_questions_and_classes_that_are_never_predicted_are_said() -> None:
    found = figures(np.array([[50, 0]]), np.zeros(6), np.zeros(6), [0, 0, 0, 1, 2, SKIPPED], NAMES, planned=6)
    assert found.accuracy.estimate == pytest.approx(0.6) and found.skipped == 1
    assert found.classes[1].precision is None and found.classes[1].recall.estimate == 0
    said = describe(found)
    assert "never predicted" in said and "Skipped questions (1)" in said and "none of these: 0.200" in said


def test_a_figure_without_an_answer_is_unknown() -> None:
    documents = np.array([[50, 0], [0, 50]])
    found = figures(documents, [0], [0], [0], NAMES, planned=20)
    assert found.accuracy.estimate is None and "accuracy unknown (0." in describe(found)
    assert found.accuracy.low < 0.1 and found.accuracy.high == pytest.approx(1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"documents": np.array([[5, 5, 5]])}, "do not fit"),
        ({"strata": [0]}, "do not fit"),
        ({"answers": [0, 3]}, "from -1 to 2"),
        ({"planned": 0}, "planned must be at least 1"),
        ({"documents": np.array([[1, 5]])}, "than it has documents"),
    ],
)
def test_what_does_not_fit_is_refused(changed, why) -> None:
    good = {"documents": np.array([[5, 5]]), "strata": [0, 0], "predicted": [0, 0], "answers": [0, 1], "class_names": NAMES, "planned": 2}
    with pytest.raises(ValueError, match=why):
        figures(**(good | changed))
