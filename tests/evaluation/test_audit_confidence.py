"""What a design takes for the chance that a prediction is right: confidence on a scale of its own, and what documents with alike words say."""

from __future__ import annotations

import numpy as np
import pytest

from selftrain.evaluation.audit import confidence
from selftrain.evaluation.audit.confidence import confidence_among_neighbours, confidence_at

# Of mean confidence .75, so that no temperature changes them where .75 is asked for; document 2 is predicted as class 1 among documents of class 0.
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.1, 0.9], [0.6, 0.4]])
TEXTS = ["red apple", "Apple, red", "apple red", "blue sky", "sky: blue", "alone"]


def test_the_temperature_brings_the_mean_confidence() -> None:
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert confidence_at(probabilities, 0.7) == pytest.approx([0.7, 0.7])
    # ln 9 / T for one and ln 3 / T for the other, by two classes: T = 1 has the mean (.9 + .75) / 2
    mixed = np.array([[0.9, 0.1], [0.25, 0.75]])
    assert confidence_at(mixed, 0.825) == pytest.approx([0.9, 0.75])
    assert confidence_at(np.array([[1.0, 0.0], [0.6, 0.4]]), 0.9).mean() == pytest.approx(0.9)
    assert confidence_at(np.array([[0.5, 0.5]]), 0.9) == pytest.approx([0.5]), "no temperature makes one of two equals the likelier"


def test_neighbours_by_words_by_hand() -> None:
    # The neighbours of 0 are 1 and 2, as alike, with (.8 + .4) / 2 = .6 for class 0; those of 2 have (.1 + .2) / 2 for class 1. 5 shares no word.
    expected = [(0.9 + 0.6) / 2, (0.8 + 0.65) / 2, (0.6 + 0.15) / 2, (0.7 + 0.9) / 2, (0.9 + 0.7) / 2, 0.6]
    assert confidence_among_neighbours(PROBABILITIES, TEXTS, 0.75) == pytest.approx(expected)
    # the temperature is that of confidence_at
    none_alike = confidence_among_neighbours(PROBABILITIES, ["one", "two", "three", "four", "five", "six"], 0.6)
    assert none_alike == pytest.approx(confidence_at(PROBABILITIES, 0.6)) and none_alike.mean() == pytest.approx(0.6)


def test_neighbours_weigh_by_how_alike_they_are() -> None:
    # Every word but "ff" is in two documents and weighs the same. Of three words document 0 shares two with 1 and one with 2: cosines of 2/3 and 1/3.
    texts = ["aa bb cc", "aa bb dd", "cc dd ee", "ee"]
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
    assert confidence_among_neighbours(probabilities, texts, 0.75)[0] == pytest.approx((0.9 + (2 * 0.7 + 0.4) / 3) / 2)


def test_words_that_all_share_and_that_are_said_again_weigh_less() -> None:
    # "the" is in all four documents: idf 1. "kite" and "lake" are in two: ln(5 / 3) + 1. Said twice a word weighs 1 + ln 2 of itself.
    texts = ["the kite", "the kite kite", "the lake", "the lake"]
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    rare, said_twice = np.log(5 / 3) + 1, 1 + np.log(2)
    first, second, third = np.array([1, rare]), np.array([1, said_twice * rare]), np.array([1, 0])
    alike = first @ second / np.linalg.norm(second)
    other = first @ third / np.hypot(1, rare)
    expected = (alike * 0.8 + other * (0.4 + 0.3)) / (alike + 2 * other)
    assert confidence_among_neighbours(probabilities, texts, 0.75)[0] == pytest.approx((0.9 + expected) / 2)


def test_only_the_most_alike_count() -> None:
    # 30 documents have both words of the first, and ten one of them.
    texts = ["one two"] * 31 + ["one"] * 10
    probabilities = np.array([[0.75, 0.25]] * 31 + [[0.25, 0.75]] * 10)
    assert confidence_among_neighbours(probabilities, texts, 0.75)[0] == pytest.approx(0.75)
    assert confidence_among_neighbours(probabilities[1:], texts[1:], 0.75)[0] < 0.74, "of 29, some of the others are neighbours too"


@pytest.mark.parametrize("block", [1, 4, 6])
def test_blocks_change_nothing(block, monkeypatch) -> None:
    whole = confidence_among_neighbours(PROBABILITIES, TEXTS, 0.75)
    monkeypatch.setattr(confidence, "_BLOCK", block)
    assert confidence_among_neighbours(PROBABILITIES, TEXTS, 0.75) == pytest.approx(whole, abs=1e-12)


def test_neighbours_are_sought_among_some_documents(monkeypatch) -> None:
    monkeypatch.setattr(confidence, "MOST_COMPARED", 2)
    first, second = np.random.default_rng(0).permutation(6)[:2].tolist()
    found = confidence_among_neighbours(PROBABILITIES, ["same words"] * 6, 0.75)
    own, predicted = PROBABILITIES.max(axis=1), PROBABILITIES.argmax(axis=1)
    both = PROBABILITIES[[first, second]]
    for index in range(6):
        others = {first: both[1], second: both[0]}.get(index, both.mean(axis=0))  # the two are not their own
        assert found[index] == pytest.approx((own[index] + others[predicted[index]]) / 2)


@pytest.mark.parametrize("texts", [["", "", "", "", "", ""], ["!", "?", ".", "-", "a", "b"]])
def test_documents_without_words_have_their_own_confidence(texts) -> None:
    assert confidence_among_neighbours(PROBABILITIES, texts, 0.75) == pytest.approx(PROBABILITIES.max(axis=1))
