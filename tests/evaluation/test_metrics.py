import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, f1_score

from selftrain.evaluation.metrics import area_under_curve, evaluate, precision_of_most_confident

# Seven documents of three classes; confidences 0.8, 0.6, 0.5, 0.7, 0.9, 0.4, 0.6 and predictions 0, 0, 1, 1, 1, 0, 1: class c is never predicted.
TOY = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.2, 0.7, 0.1], [0.05, 0.9, 0.05], [0.4, 0.3, 0.3], [0.2, 0.6, 0.2]])
TOY_LABELS = np.array([0, 0, 0, 1, 1, 2, 2])


def test_three_classes_by_hand():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = evaluate(TOY, TOY_LABELS, ["a", "b", "c"])
    assert scores.confusion == ((2, 1, 0), (0, 2, 0), (1, 1, 0))
    assert scores.accuracy == pytest.approx(4 / 7)
    assert [entry["f1"] for entry in scores.per_class] == pytest.approx([2 / 3, 2 / 3, 0.0])
    assert scores.macro_f1 == pytest.approx(4 / 9)
    assert [entry["precision"] for entry in scores.per_class] == pytest.approx([2 / 3, 1 / 2, 0.0])
    assert [entry["recall"] for entry in scores.per_class] == pytest.approx([2 / 3, 1.0, 0.0])
    assert [(entry["support"], entry["predicted"]) for entry in scores.per_class] == [(3, 3), (2, 4), (2, 0)]
    assert scores.mean_confidence == pytest.approx(4.5 / 7)


def test_area_under_the_curve_by_hand():
    """The share of pairs, one of the class and one of another, that are ranked rightly; a tie is half of one."""
    second = np.array([0.9, 0.4, 0.4, 0.1])  # (.9 over .4, .9 over .1, .4 beside .4, .4 over .1): 3.5 of 4
    assert area_under_curve(np.stack([1 - second, second], axis=1), np.array([1, 1, 0, 0])) == pytest.approx(3.5 / 4)
    # a: .8 .6 .3 against .2 .05 .4 .2: 11 of 12; b: .7 .9 against .1 .3 .5 .3 .6: 10 of 10; c: .3 .2 against .1 .1 .2 .1 .05: 5 and 4.5 of 10
    assert area_under_curve(TOY, TOY_LABELS) == pytest.approx((11 / 12 + 1 + 9.5 / 10) / 3)
    assert area_under_curve(TOY, np.array([0, 0, 0, 1, 1, 1, 1])) is None


def test_calibration_error_of_the_toy_by_hand():
    # Fifteenths: 0.4 in (5, 6], 0.5 in (7, 8], 0.6 twice in (8, 9], 0.7 in (10, 11], 0.8 in (11, 12], 0.9 in (13, 14].
    gaps = [abs(0 - 0.4), abs(0 - 0.5), 2 * abs(0.5 - 0.6), abs(1 - 0.7), abs(1 - 0.8), abs(1 - 0.9)]
    assert evaluate(TOY, TOY_LABELS, ["a", "b", "c"]).ece == pytest.approx(sum(gaps) / 7)


def test_precision_of_the_most_confident_by_hand():
    # In order of confidence 0.9 right, 0.8 right, 0.7 right, then 0.6 twice, one of them right, 0.5 and 0.4 wrong.
    # Tenths of seven documents, rounded up: 1, 2, 3, 3, 4, 5, 5, 6, 7, 7. At four documents half of the tied pair counts: 3.5 / 4.
    points = evaluate(TOY, TOY_LABELS, ["a", "b", "c"]).precision_at
    assert [point["documents"] for point in points] == [1, 2, 3, 4, 5, 6, 7]
    assert [point["precision"] for point in points] == pytest.approx([1, 1, 1, 3.5 / 4, 4 / 5, 4 / 6, 4 / 7])
    assert points[3]["fraction"] == pytest.approx(4 / 7)


def test_precision_counts_go_up_in_ones_threes_and_fives():
    points = precision_of_most_confident(np.linspace(0, 1, 1000), np.ones(1000))
    counts = {point["documents"] for point in points}
    assert counts == {10, 30, 50, 300, 500, 1000} | set(range(100, 1001, 100))


def test_a_class_that_occurs_nowhere_is_left_out_of_macro_f1():
    scores = evaluate(np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1]), ["a", "b", "c"])
    assert scores.macro_f1 == 1.0
    assert scores.per_class[2] == {"name": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "predicted": 0}


def test_documents_without_an_answer_are_wrong_and_in_no_class():
    scores = evaluate(np.array([[0.9, 0.1], [0.0, 0.0], [0.0, 0.0]]), np.array([0, 0, 1]), ["a", "b"])
    assert scores.confusion == ((1, 0), (0, 0)) and scores.accuracy == pytest.approx(1 / 3)
    assert [(entry["support"], entry["predicted"], entry["recall"]) for entry in scores.per_class] == [(2, 1, 0.5), (1, 0, 0.0)]
    nothing = evaluate(np.zeros((2, 2)), np.array([0, 1]), ["a", "b"])
    assert nothing.confusion == ((0, 0), (0, 0)) and nothing.accuracy == nothing.macro_f1 == 0.0


def test_to_json_survives_json():
    document = evaluate(TOY, TOY_LABELS, ["a", "b", "c"]).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((2, 3), 1 / 3), np.array([0, 1]), "do not fit"),
        (np.full((2, 2), 0.5), np.array([0]), "do not fit"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "no documents"),
        (np.full((1, 2), 0.5), np.array([2]), "0 .. 1"),
        (np.full((1, 2), 0.5), np.array([-1]), "0 .. 1"),
        (np.full((1, 2), 0.5), np.array([0.0]), "0 .. 1"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "finite"),
        (np.array([[2.0, 3.0]]), np.array([0]), "sum to 1"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate(probabilities, labels, ["a", "b"])


@st.composite
def predictions(draw):
    documents, classes, seed = draw(st.integers(1, 60)), draw(st.integers(2, 6)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    likely = rng.dirichlet(np.ones(classes), documents)
    if draw(st.booleans()):
        # One-hot rows, as of a language model that only names a class: every confidence is tied.
        likely = np.eye(classes)[likely.argmax(axis=1)]
    return likely, rng.integers(0, classes, documents), rng.permutation(documents)


@given(predictions())
def test_figures_agree_with_the_confusion_and_with_scikit_learn(case):
    likely, labels, _ = case
    scores = evaluate(likely, labels, [str(index) for index in range(likely.shape[1])])
    confusion = np.array(scores.confusion)
    assert confusion.sum() == len(labels)
    assert scores.accuracy == pytest.approx(np.trace(confusion) / confusion.sum())
    assert scores.macro_f1 == pytest.approx(f1_score(labels, likely.argmax(axis=1), average="macro", zero_division=0.0))
    assert scores.brier == pytest.approx(brier_score_loss(labels, likely, labels=range(likely.shape[1]), scale_by_half=False))
    assert 0.0 <= scores.ece <= 1.0
    assert scores.precision_at[-1]["precision"] == pytest.approx(scores.accuracy)
    assert scores.precision_at[-1]["fraction"] == 1.0


@pytest.mark.slow
@given(predictions())
def test_the_order_of_documents_does_not_matter(case):
    likely, labels, order = case
    names = [str(index) for index in range(likely.shape[1])]
    one, other = evaluate(likely, labels, names), evaluate(likely[order], labels[order], names)
    assert one.confusion == other.confusion
    assert [point["precision"] for point in one.precision_at] == pytest.approx([point["precision"] for point in other.precision_at])
    assert (one.ece, one.brier, one.macro_f1) == pytest.approx((other.ece, other.brier, other.macro_f1))
