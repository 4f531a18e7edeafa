"""The leak test: shuffle the true labels that the learner may not see, and every trained weight stays the same, bit for bit."""

import csv
import random

import pytest
import torch
from tiny import tiny_backbone, tiny_masked

from selftrain import methods
from selftrain.config import parse
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.data.texts import no_texts
from selftrain.models.encoder import TextEncoder
from selftrain.training.loop import train

WORDS = [
    "match",
    "goal",
    "team",
    "player",
    "coach",
    "league",
    "bank",
    "market",
    "profit",
    "shares",
    "film",
    "music",
    "actor",
    "album",
    "band",
    "show",
]

GROUPS = {"sport": WORDS[:6], "money": WORDS[6:10], "culture": WORDS[10:]}


def written(request):
    return f"{WORDS[len(request.document_id + request.kind) % 16]} {WORDS[request.label]} and more"


def texts_for(requests):
    return {request: written(request) for request in requests}


def train_on(folder, rows, supervision="none", channel=no_texts, **method):
    file = folder / "documents.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("text", "label"), *rows])
    experiment = parse(
        {
            "data": {
                "source": str(file),
                "label_column": "label",
                "classes": ["sport", "money", "culture"],
                "test_documents": 20,
                "supervision": supervision,
            },
            "method": method,
            "model": {"masked_lm": str(tiny_masked(folder / "masked", GROUPS)), "max_tokens": 16},
        }
    )
    corpus, truth = load_corpus(experiment.data)
    corpus = grant(corpus, truth, experiment.data, seed=3)
    encoder = TextEncoder(tiny_backbone(folder / "encoder"), max_tokens=16)
    torch.manual_seed(3)
    trainer = methods.build(experiment, corpus, encoder, seed=3)
    train(trainer, texts=channel, report=lambda figures, state: None, seed=3)
    student = trainer.student()
    return truth, student.encoder.state_dict() | {"weights": student.weights}


@pytest.fixture
def rows():
    random.seed(0)
    names = ["sport", "money", "culture"]
    # Every document says some class's name, whatever its own is: LOTClass learns from places where one stands.
    return [(" ".join(random.choices(WORDS, k=6)) + f" {random.choice(names)} {number}", names[number % 3]) for number in range(80)]


@pytest.fixture
def shuffled(rows):
    labels = [label for _, label in rows]
    random.seed(1)
    random.shuffle(labels)
    return [(text, label) for (text, _), label in zip(rows, labels, strict=True)]


WITHOUT = {"rounds": 2, "steps_per_round": 3, "learning_rate": 1e-3}
ZERO_SHOT = {
    "self-training": (no_texts, {"name": "genco", **WITHOUT, "input_augmentation": False, "conditional_augmentation": False}),
    "genco": (texts_for, {"name": "genco", **WITHOUT}),
    "pesco": (no_texts, {"name": "pesco", **WITHOUT}),
    "ipet": (
        no_texts,
        {"name": "ipet", "patterns": ["{mask}: {text}", "{text} ({mask})"], "repeats": 1, "generations": 2, "model_steps": 2, "classifier_steps": 3},
    ),
    "lotclass": (
        no_texts,
        {"name": "lotclass", "top_words": 7, "vocabulary": 7, "match_threshold": 2, "fewest_documents": 1, "batch_size": 16, "update_interval": 2},
    ),
}


def test_every_method_that_needs_no_label_is_tested():
    assert {options["name"] for _, options in ZERO_SHOT.values()} == {
        name for name in methods.METHODS if methods.method_class(name).supervision == "none"
    }


@pytest.mark.parametrize("which", ZERO_SHOT)
def test_shuffled_labels_change_no_weight(tmp_path, rows, shuffled, which):
    channel, method = ZERO_SHOT[which]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    truth, weights = train_on(tmp_path / "a", rows, channel=channel, **method)
    other_truth, other_weights = train_on(tmp_path / "b", shuffled, channel=channel, **method)
    assert truth.unlabeled.keys() == other_truth.unlabeled.keys()
    assert truth.unlabeled != other_truth.unlabeled  # the labels did change
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def test_the_test_can_fail_where_labels_are_granted(tmp_path, rows, shuffled):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, weights = train_on(tmp_path / "a", rows, supervision="all", name="supervised", epochs=1)
    _, other_weights = train_on(tmp_path / "b", shuffled, supervision="all", name="supervised", epochs=1)
    assert not all(torch.equal(weights[name], other_weights[name]) for name in weights)
