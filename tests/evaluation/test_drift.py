"""Evidence of a change: what a bet pays, that nothing is gained while nothing changes, that planted changes are found, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest

from selftrain.evaluation.drift.bets import _INSIDE, _OUTSIDE, _TAIL, ALARM, BINS, Detector, even_weights
from selftrain.evaluation.drift.exposition import exposition
from selftrain.evaluation.drift.look import Look, describe, evidence_of
from selftrain.evaluation.drift.scores import Sample, Scores
from selftrain.evaluation.drift.shares import expected_shares, shares
from selftrain.evaluation.drift.topics import far_from_known, topics

CLASSES = ("sport", "tech", "politics")


def texts(rng: np.random.Generator, count: int, mix: tuple[float, ...] = (0.4, 0.3, 0.3), new: float = 0.0) -> Sample:
    """Points around three centres, and with chance `new` around one that is far from all; probabilities are calibrated for even shares of the three."""
    centres = np.eye(4, 16) * 3
    labels = np.where(rng.random(count) < new, 3, rng.choice(3, count, p=mix))
    points = centres[labels] + rng.normal(size=(count, 16))
    logits = points @ centres[:3].T
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Sample((powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), points.astype(np.float16))


def watched(rng: np.random.Generator, reference: Sample) -> tuple[Scores, Detector]:
    half = len(reference) // 2
    scores = Scores(reference[:half], CLASSES)
    return scores, Detector(scores.bins(reference[half:]), even_weights(scores.kinds))


def alarm(rng: np.random.Generator, detector: Detector, bins: np.ndarray) -> int | None:
    """Texts until an alarm."""
    for number, text in enumerate(bins, 1):
        if detector.step(text, rng.random(len(text))).max() >= 1:
            return number
    return None


def test_no_bet_gains_on_uniform_ranks():
    assert np.allclose(_TAIL * _INSIDE + (1 - _TAIL) * _OUTSIDE, 1) and (_INSIDE > 1).all() and (_OUTSIDE > 0).all()


def test_one_step_by_hand():
    """Reference in bins 5, 5, 90; a text in bin 5 has one above it, and shares a place with two: its rank from above is (1 + .5 * 3) / 4 at the draw .5."""
    detector = Detector(np.array([[5], [5], [90]]), np.array([1.0]))
    level = detector.step(np.array([5]), np.array([0.5]))
    rank = (1 + 0.5 * 3) / 4
    paid = np.concatenate([np.where(rank <= _TAIL, _INSIDE, _OUTSIDE), np.where(1 - rank <= _TAIL, _INSIDE, _OUTSIDE)])
    assert np.allclose(detector.evidence[0], paid) and level[0] == pytest.approx(paid.mean() / ALARM)
    again = detector.step(np.array([BINS - 1]), np.array([0.25]))
    rank = 0.25 * 1 / 5  # above all four
    twice = np.concatenate([np.where(rank <= _TAIL, _INSIDE, _OUTSIDE), np.where(1 - rank <= _TAIL, _INSIDE, _OUTSIDE)])
    assert np.allclose(detector.evidence[0], (1 + paid) * twice) and again[0] == pytest.approx(((1 + paid) * twice).mean() / ALARM)


def test_while_nothing_changes_the_evidence_grows_by_one_a_text_on_average():
    """E_n - n is a martingale: over many streams of exchangeable bins the mean of E_n is n, also with a reference of four texts."""
    rng = np.random.default_rng(0)
    bins = rng.integers(0, 4, (4000, 4 + 6, 1)) * rng.integers(0, 2, (4000, 1, 1))  # half of the streams are all ties
    detector = Detector(bins[:, :4], np.array([1.0]))
    for number in range(6):
        detector.step(bins[:, 4 + number], rng.random((4000, 1)))
    of_streams = detector.evidence[:, 0].mean(axis=-1)
    assert of_streams.mean() == pytest.approx(6, abs=4 * of_streams.std() / 4000**0.5)


def test_weights_are_even_over_kinds():
    assert even_weights(["a", "b", "b"]).tolist() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("change", "kind"), [({"mix": (0.8, 0.1, 0.1)}, "classes"), ({"new": 0.3}, "topics"), ({}, None)], ids=["mix", "new class", "nothing"]
)
def test_planted_changes_are_found_and_named(change, kind):
    rng = np.random.default_rng(1)
    scores, detector = watched(rng, texts(rng, 600))
    assert alarm(rng, detector, scores.bins(texts(rng, 500))) is None
    number = alarm(rng, detector, scores.bins(texts(rng, 500, **change)))
    if kind is None:
        assert number is None
        return
    assert number is not None and number < 250
    most = max(evidence_of(detector, scores), key=lambda one: one.level)
    assert most.level >= 1 and most.kind == kind
    assert abs(detector.since(int(detector.level().argmax())) - 500) < 100


def test_without_embeddings_the_probabilities_are_looked_at():
    rng = np.random.default_rng(2)
    bare = Sample(texts(rng, 400).probabilities)
    scores, detector = watched(rng, bare)
    assert not scores.embedded and "domain" in scores.kinds
    assert alarm(rng, detector, scores.bins(Sample(texts(rng, 500, (0.9, 0.05, 0.05)).probabilities))) is not None


def test_of_two_classes_one_probability_says_both():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet((1, 1), 60).astype(np.float32)
    assert [score.what for score in Scores(Sample(probabilities), ("good", "bad")).scores if score.kind == "classes"] == ["good"]


def test_a_known_text_is_not_its_own_neighbour():
    rng = np.random.default_rng(0)
    sample = texts(rng, 40)
    scores = Scores(sample, CLASSES)
    points = scores.points(sample)
    squared = np.square(points[:, None] - points).sum(axis=-1)
    assert np.allclose(scores._far(points, own=True), np.sort(squared, axis=1)[:, 10])  # the first is the text itself
    assert np.allclose(scores.distances(sample), np.sort(squared, axis=1)[:, 9])


def test_a_detector_goes_on_from_a_file():
    rng = np.random.default_rng(3)
    scores, detector = watched(rng, texts(rng, 200))
    bins, draws = scores.bins(texts(rng, 40)), rng.random((40, len(scores.scores)))
    for text, draw in zip(bins[:20], draws[:20], strict=True):
        detector.step(text, draw)
    other = Detector(scores.bins(texts(rng, 100)), detector.weights)
    other.restore(detector.to_json())
    levels = [[one.step(text, draw) for text, draw in zip(bins[20:], draws[20:], strict=True)] for one in (detector, other)]
    assert np.array_equal(*levels) and other.since(0) == detector.since(0)
    found = detector.to_json()
    for wrong in (found | {"known": 99}, found | {"evidence": [[-1.0]]}, found | {"texts": -1}):
        with pytest.raises(ValueError, match=r"another reference|numbers that are none"):
            other.restore(wrong)


def test_shares_are_nearer_the_truth_than_counts_of_predictions():
    rng = np.random.default_rng(4)
    centres = np.array([-0.8, 0.8])
    labels = (rng.random(1000) < 0.9).astype(int)
    values = centres[labels] + rng.normal(size=1000)
    second = 1 / (1 + np.exp(-1.6 * values))  # calibrated for even shares
    found = shares(np.stack([1 - second, second], axis=1), np.array([0.5, 0.5]))
    assert abs(found.predicted[1] - 0.9) > 0.05 and abs(found.estimated[1] - 0.9) < 0.03
    assert found.low[1] < 0.9 < found.high[1] and found.estimated.sum() == pytest.approx(1)
    assert expected_shares(np.array([[1.0, 0.0]]), np.array([0.5, 0.5])).tolist() == pytest.approx([1, 0], abs=1e-4)


def test_a_group_of_far_texts_is_found_with_the_text_in_its_middle():
    points = np.array([[0.0, 0.0]] * 5 + [[9.0, 0.0], [9.0, 0.2], [9.0, 0.1], [0.0, 9.0]])
    far = far_from_known(np.array([0.0] * 5 + [9.0] * 4), np.linspace(0, 1, 100))
    found, single = topics(points, np.array([0] * 5 + [1, 1, 2, 0]), far, 1.0, 3)
    assert (found.texts, found.example, found.classes.tolist()) == (3, 7, [0, 2, 1])
    assert (single.texts, single.example) == (1, 8)
    (single,) = topics(points, np.zeros(9, dtype=int), np.arange(9) == 8, 1.0, 3)
    assert (single.texts, single.example, single.classes.tolist()) == (1, 8, [1, 0, 0])
    assert topics(points, np.zeros(9, dtype=int), np.zeros(9, dtype=bool), 1.0, 3) == []


def test_what_is_said_and_exposed_of_a_new_class():
    rng = np.random.default_rng(5)
    reference, recent = texts(rng, 400), texts(rng, 200, new=0.4)
    scores, detector = watched(rng, reference)
    described = describe(reference, recent, scores, CLASSES)
    assert described.far > 0.2 and described.apart > 0.6 and described.groups[0].texts > 30
    far = far_from_known(scores.distances(recent), scores.distances(reference[200:]))
    taken = np.bincount(recent.probabilities[far].argmax(axis=1), minlength=3)
    shown = sum(np.array([dict(group.classes).get(name, 0) for name in CLASSES]) for group in described.groups)
    assert (shown <= taken).all() and shown.sum() == sum(group.texts for group in described.groups) > 0.8 * taken.sum()
    look = Look(0, True, evidence_of(detector, scores), None, described)
    assert look.sentence.startswith("No change in 0 texts")
    lines = exposition(look, 'a "b"', 12.0).decode().splitlines()
    assert r'selftrain_watch_alarm{model="a \"b\""} 0.0' in lines
    assert any(line.startswith('selftrain_watch_class_share{label="sport",model="a \\"b\\"",of="seen"}') for line in lines)
