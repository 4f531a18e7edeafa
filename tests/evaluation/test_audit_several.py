"""The figures of an audit of several labels a document: by hand, against those of one label a document, and by what they promise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from selftrain.evaluation.audit.estimate import anytime_z
from selftrain.evaluation.audit.figures import figures
from selftrain.evaluation.audit.report import describe
from selftrain.evaluation.audit.several import SeveralFigures, exact_match_alone, micro_f1_interval, several_figures

NAMES = ("sport", "business", "film")
Z = 1.959964


def world(documents: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which classes documents have, and which are predicted, `[documents, 3]`; labels come together, and so do mistakes."""
    rng = np.random.default_rng(seed)
    hard = rng.random((documents, 1))
    truth = rng.random((documents, 3)) < np.array([0.5, 0.3, 0.1])
    return truth, truth ^ (rng.random((documents, 3)) < 0.4 * hard**2)


def audited(
    truth: np.ndarray, predicted: np.ndarray, asked: np.ndarray, planned: int | None = None, skipped: np.ndarray | None = None
) -> SeveralFigures:
    skipped = np.zeros(len(asked), dtype=bool) if skipped is None else skipped
    return several_figures(len(truth), predicted.sum(axis=0), predicted[asked], truth[asked], skipped, NAMES, planned=planned or len(asked))


def test_each_class_is_a_question_of_yes_and_no() -> None:
    truth, predicted = world(400)
    asked, skipped = np.arange(60), np.arange(60) % 20 == 7
    found = audited(truth, predicted, asked, skipped=skipped)
    for place, one in enumerate(found.classes):
        counts = np.array([[(~predicted[:, place]).sum(), predicted[:, place].sum()]])
        answers = np.where(skipped, -1, truth[asked, place])
        yes = figures(counts, np.zeros(60), predicted[asked, place], answers, ("no", "yes"), planned=60).classes[1]
        assert (one.name, one.predicted) == (NAMES[place], yes.predicted)
        for figure, other in ((one.precision, yes.precision), (one.recall, yes.recall), (one.share, yes.share)):
            assert (figure.estimate, figure.low, figure.high) == pytest.approx((other.estimate, other.low, other.high), abs=1e-9)
    known = asked[~skipped]
    right = (truth[known] == predicted[known]).all(axis=1)
    assert found.exact_match.estimate == pytest.approx(right.mean()) and found.none_of_these.estimate == pytest.approx(
        (~truth[known].any(axis=1)).mean()
    )
    assert found.micro_f1.estimate == pytest.approx(2 * (truth[known] & predicted[known]).sum() / (truth[known].sum() + predicted[known].sum()))
    assert (found.documents, found.asked, found.skipped, found.planned, found.anytime) == (400, 60, 3, 60, False)
    assert json.loads(json.dumps(found.to_json()))["classes"][2]["name"] == "film"
    said = describe(found)
    assert said.startswith(f"exact match {found.exact_match.estimate:.3f} (") and "\nmicro-F1 " in said and "Narrower for exact match: " in said


def test_the_interval_of_micro_f1_is_where_the_test_does_not_refuse() -> None:
    truth, predicted = world(300, seed=3)
    right, labels = 2.0 * (truth & predicted)[:80].sum(axis=1), 1.0 * truth[:80].sum(axis=1) + predicted[:80].sum(axis=1)
    low, high = micro_f1_interval(300, np.stack([right, right]), np.stack([labels, labels]), Z)
    left = 1 - 80 / 300
    values = np.linspace(0, 1, 20001)
    ends = []
    for further in (0.0, labels.mean()):
        weights = np.append(np.ones(80), 2 * left)
        a, b = np.append(right, further), np.append(labels, labels.mean())
        away = np.abs(np.average(a, weights=weights) - values * np.average(b, weights=weights))
        rest = a - values[:, None] * b
        spread = np.average((rest - np.average(rest, axis=1, weights=weights)[:, None]) ** 2, axis=1, weights=weights)
        total = weights.sum()
        accepted = values[away <= Z * np.sqrt(spread * total / (total - 1) * left / total)]
        ends.append((accepted.min(), accepted.max()))
    assert (float(low), float(high)) == pytest.approx((ends[0][0], ends[1][1]), abs=1e-4)


def test_a_sample_without_a_mistake_is_not_certain_and_all_documents_are() -> None:
    truth, _ = world(500)
    found = audited(truth, truth, np.arange(50))
    assert found.micro_f1.estimate == 1 == found.micro_f1.high and 0.85 < found.micro_f1.low < 0.97
    truth, predicted = world(60)
    found = audited(truth, predicted, np.arange(60))
    exact = 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())
    assert (found.micro_f1.estimate, found.micro_f1.low, found.micro_f1.high) == pytest.approx((exact, exact, exact))
    assert "is not to be had" in describe(found)


def test_skipped_questions_count_against_both_ends() -> None:
    truth, predicted = world(300)
    asked, skipped = np.arange(40), np.arange(40) < 2
    found = audited(truth, predicted, asked, skipped=skipped)
    worst, best = truth.copy(), truth.copy()
    worst[:2], best[:2] = ~predicted[:2], predicted[:2]
    low, high = audited(worst, predicted, asked).micro_f1, audited(best, predicted, asked).micro_f1
    assert (found.micro_f1.low, found.micro_f1.high) == pytest.approx((low.low, high.high))
    assert found.micro_f1.estimate == audited(truth[2:], predicted[2:], asked[:38]).micro_f1.estimate
    changed = truth.copy()
    changed[:2] ^= True
    assert audited(changed, predicted, asked, skipped=skipped) == found, "what stands in a skipped row does not count"
    assert "Skipped questions (2)" in describe(found)


def test_before_the_planned_number_intervals_are_valid_at_any_time() -> None:
    truth, predicted = world(3000)
    exact, early = audited(truth, predicted, np.arange(100)), audited(truth, predicted, np.arange(100), planned=140)
    assert (exact.anytime, early.anytime) == (False, True) and "40 of the planned questions are open" in describe(early)
    for name in ("exact_match", "micro_f1"):
        narrow, wide = getattr(exact, name), getattr(early, name)
        assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(float(anytime_z(100, 140)) / Z, rel=0.1)


def test_no_label_at_all_and_a_class_that_is_never_predicted_are_unknown() -> None:
    nothing = np.zeros((50, 3), dtype=bool)
    found = audited(nothing, nothing, np.arange(10))
    assert (found.micro_f1.estimate, found.micro_f1.low, found.micro_f1.high) == (None, 0.0, 1.0) and found.exact_match.estimate == 1
    assert found.classes[0].precision is None and found.classes[0].recall.estimate is None
    said = describe(found)
    assert "micro-F1 unknown (0.000 to 1.000)" in said and "never predicted" in said and "none of these: 1.000" in said


def test_intervals_hold_as_often_as_they_say() -> None:
    """300 audits of 80 of 2,000 documents: 95 % intervals, with room for chance (.92 is five standard errors below .97, and more than two below .95)."""
    truth, predicted = world(2000)
    exact, f1 = (truth == predicted).all(axis=1).mean(), 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())
    held, widths = np.zeros(2), []
    for seed in range(300):
        asked = np.random.default_rng(seed).permutation(2000)[:80]
        right, labels = 2.0 * (truth & predicted)[asked].sum(axis=1), 1.0 * truth[asked].sum(axis=1) + predicted[asked].sum(axis=1)
        low, high = micro_f1_interval(2000, np.stack([right, right]), np.stack([labels, labels]), Z)
        found, _ = exact_match_alone(2000, predicted[asked], truth[asked], np.zeros(80, dtype=bool), planned=80)
        held += (low <= f1 <= high, found.low <= exact <= found.high)
        widths.append(float(high - low))
    assert min(held) / 300 >= 0.92 and np.mean(widths) < 0.25


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"predicted": np.zeros((2, 2), dtype=bool)}, "do not fit"),
        ({"skipped": np.zeros(3, dtype=bool)}, "do not fit"),
        ({"predicted_as": np.array([1, 1])}, "do not fit"),
        ({"predicted_as": np.array([0, 5, 5])}, "than there are"),
        ({"predicted_as": np.array([5, 10, 5])}, "than there are"),
    ],
)
def test_what_does_not_fit_is_refused(changed, why) -> None:
    predicted = np.array([[True, False, False], [True, False, True]])
    good = {"documents": 10, "predicted_as": np.array([5, 5, 5]), "predicted": predicted, "answers": predicted, "skipped": np.zeros(2, dtype=bool)}
    with pytest.raises(ValueError, match=why):
        several_figures(**(good | changed), class_names=NAMES, planned=2)
