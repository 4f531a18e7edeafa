"""A bundle of windows answers what the training computes, says what it does not read, and is refused where windows are not known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from selftrain.bundle import format as bundle_format
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, read_card, write_bundle
from selftrain.bundle.tokens import Continued
from selftrain.errors import BundleError
from selftrain.models.bilstm import bilstm
from selftrain.models.encoder import TextEncoder
from selftrain.models.student import Student
from selftrain.models.windows import over_windows

LABELS = ("sport", "tech", "politics")
LONG = "the team won the match in the league, the coach of the player said, and the market for phones and the bank fell on the vote"
TEXTS = [LONG, "a phone and a chip", LONG[40:], "music", "party " * 5000]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def student(backbone) -> Student:
    encoder = TextEncoder(backbone, max_tokens=16, windows=3).eval()
    return Student(encoder, encoder.encode([f"about {label}" for label in LABELS]), 10.0, torch.tensor([0.5, -0.5, 0.0]))


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory) -> Path:
    card = BundleCard(name="news", labels=LABELS, method="genco", scale=10.0, max_tokens=16, windows=3, longest=64)
    place = tmp_path_factory.mktemp("bundles") / "bundle"
    return write_bundle(place, backbone=student.encoder.export(), prototypes=student.weights, bias=student.bias, card=card)


def test_a_bundle_answers_what_the_training_computes(folder, student) -> None:
    found = Classifier.load(folder, device="cpu", batch_size=2)
    np.testing.assert_allclose(found.predict_proba(TEXTS), student.predict(TEXTS).numpy(), atol=1e-6)
    np.testing.assert_allclose(found.predict_proba(TEXTS[::-1]), found.predict_proba(TEXTS)[::-1], atol=1e-6)
    assert found.predict_proba([]).shape == (0, 3)


def test_the_answer_is_the_mean_of_the_windows_similarities_by_hand(folder, student, backbone) -> None:
    windows = student.encoder.splitter([LONG])[0].windows
    assert len(windows) == 3
    backbone.max_seq_length = 16
    similarities = backbone.encode(list(windows)).astype(np.float64) @ student.weights.double().numpy().T
    powers = np.exp(10.0 * similarities.mean(axis=0) + [0.5, -0.5, 0.0])
    np.testing.assert_allclose(Classifier.load(folder, device="cpu").predict_proba([LONG])[0], powers / powers.sum(), atol=1e-5)


def test_a_text_is_truncated_only_where_it_goes_on_behind_its_windows(folder) -> None:
    found = Classifier.load(folder, device="cpu").tokenize(TEXTS)
    assert [(len(one.windows), one.truncated) for one in found] == [(3, False), (1, False), (2, False), (1, False), (3, True)]
    assert all(len(ids) <= 16 for one in found for ids in one.windows)
    assert found[0].ids == found[0].windows[0] and Classifier.load(folder, device="cpu").tokenize(["the team"])[0].further == ()


def test_short_texts_are_answered_as_without_windows_digit_for_digit(folder, tmp_path) -> None:
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    card = json.loads((plain / "selftrain.json").read_text())
    (plain / "selftrain.json").write_text(json.dumps(card | {"windows": 1}))
    short = ["a phone and a chip", "music", "the team won the match"]
    expected = Classifier.load(plain, device="cpu").predict_proba(short)
    assert (Classifier.load(folder, device="cpu").predict_proba(short) == expected).all()
    assert not np.allclose(Classifier.load(folder, device="cpu").predict_proba([LONG]), Classifier.load(plain, device="cpu").predict_proba([LONG]))


def test_a_continuation_follows_the_first_window(folder, student) -> None:
    """Without a second continuation of a text nothing but the order of means differs from the training (see `mean_over_continuations`)."""
    classifier, continuations = Classifier.load(folder, device="cpu"), ["the goal of a match", "new software", "an election", "film", "law"]
    read = classifier.tokenize_continued([Continued(*pair) for pair in zip(TEXTS, continuations, strict=True)])
    assert [(len(one.windows), one.truncated) for one in read] == [(3, False), (1, False), (2, False), (1, False), (3, True)]
    rows = np.concatenate([classifier.classify(one.windows) for one in read])
    found = over_windows(rows, [len(one.windows) for one in read])
    expected = student.probabilities(student.encoder.encode_augmented(TEXTS, [[one] for one in continuations])).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_card_and_the_model_card_say_it(folder) -> None:
    card = read_card(folder)
    assert (card.windows, card.format) == (3, 2)
    words = (folder / "README.md").read_text()
    assert (
        "Up to 3 windows of a text, of 16 tokens each" in words and "first 4,096 tokens" in words and "embeds the first 16 tokens of a text" in words
    )


def test_a_reader_that_knows_no_windows_refuses_the_bundle(folder, monkeypatch) -> None:
    monkeypatch.setattr(bundle_format, "FORMAT", 1)
    with pytest.raises(BundleError, match=r"format 2.*upgrade"):
        read_card(folder)


def test_a_bundle_of_words_cannot_have_windows(tmp_path) -> None:
    words = bilstm(["match", "team"], word_dimensions=4, hidden=4)
    card = BundleCard(name="n", labels=("a", "b"), similarity="dot", max_tokens=8, method="zerogen", windows=2)
    write_bundle(tmp_path / "bundle", backbone=words, prototypes=torch.randn(2, 8), card=card)
    with pytest.raises(BundleError, match=r"windows must be 1.*\(got 2\)"):
        Classifier.load(tmp_path / "bundle", device="cpu")
