"""The leak test: shuffle the true labels that the learner may not see, and every trained weight stays the same, bit for bit.

It goes over `methods.METHODS`, so a new method is tested by being listed there.
"""

import csv
import random
from dataclasses import replace

import pytest
import torch
from tiny import tiny_backbone, tiny_masked

from selftrain import methods
from selftrain.config import parse
from selftrain.data.corpus import document_id
from selftrain.data.loading import load_corpus
from selftrain.data.splits import hash_order
from selftrain.data.supervision import grant
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
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


def train_on(folder, rows, supervision="none", channel=texts_for, labels_per_class=3, flip_probability=0.3, full=False, **method):
    """The true labels, the granted ones, and all that a checkpoint holds after training on `rows`."""
    folder.mkdir(exist_ok=True)
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
                "labels_per_class": labels_per_class,
                "flip_probability": flip_probability,
            },
            "method": method,
            "model": {"masked_lm": str(tiny_masked(folder / "masked", GROUPS)), "max_tokens": 16},
        }
    )
    corpus, truth = load_corpus(experiment.data)
    corpus = grant(corpus, truth, experiment.data, seed=3)
    backbone = tiny_backbone(folder / "encoder")
    torch.manual_seed(3)
    trainer = resolve(experiment).build(corpus, (TextEncoder if full else HeadEncoder)(backbone, max_tokens=16), seed=3)
    train(trainer, texts=channel, report=lambda figures, state: None, seed=3)
    return truth, corpus.granted or corpus.candidates, tensors(trainer.state())


def tensors(state):
    """Everything that was trained or made on the way, in one list."""
    if isinstance(state, torch.Tensor):
        return [state]
    below = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for part in below for tensor in tensors(part)]


def equal(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


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


ZERO_SHOT = [name for name in methods.METHODS if methods.method_class(name).supervision == "none"]
WITH_LABELS = [name for name in methods.METHODS if methods.method_class(name).supervision == "labels"]
WITH_SETS = [name for name in methods.METHODS if methods.method_class(name).supervision == "candidates"]
SHORT = {"rounds": 2, "epochs": 2, "steps_per_round": 3, "outer_iterations": 2, "batch_size": 8, "unlabeled_ratio": 1, "learning_rate": 1e-3}
SHORT |= {"objective_steps": 2}
SHORT_MASKED = {"patterns": ["{mask}: {text}", "{text} ({mask})"], "repeats": 1, "generations": 2, "model_steps": 2, "classifier_steps": 3}
SHORT_MASKED |= {"top_words": 7, "vocabulary": 7, "match_threshold": 2, "fewest_documents": 1, "update_interval": 2}


def short(name):
    """Options that make a training short, as far as the method has them."""
    known = methods.method_class(name).Options.model_fields
    return {"name": name} | {key: value for key, value in (SHORT | SHORT_MASKED).items() if key in known}


def ways(name):
    """(name, full, augmented): the ways in which a method that needs no label can be trained."""
    cls = methods.method_class(name)
    augmented = [False, True] if "input_augmentation" in cls.Options.model_fields else [False]
    return [(name, full, switch) for full in ([True] if cls.masked_lm else [False, True]) for switch in augmented]


@pytest.mark.parametrize(("name", "full", "augmented"), [way for name in ZERO_SHOT for way in ways(name)])
def test_shuffled_labels_change_no_weight(tmp_path, rows, shuffled, name, full, augmented):
    method = short(name)
    switches = {"input_augmentation": augmented, "conditional_augmentation": augmented}
    method |= {key: value for key, value in switches.items() if key in methods.method_class(name).Options.model_fields}
    truth, granted, weights = train_on(tmp_path / "a", rows, full=full, **method)
    other_truth, other_granted, other_weights = train_on(tmp_path / "b", shuffled, full=full, **method)
    assert truth.unlabeled.keys() == other_truth.unlabeled.keys()
    assert truth.unlabeled != other_truth.unlabeled  # the labels did change
    assert granted == other_granted == {}
    assert equal(weights, other_weights)


@pytest.fixture
def others_changed(tmp_path, rows):
    """The rows with another label for every document that gets none of the three a class, and for the test documents.

    Which documents are labeled follows from the order of their hashes and from the labels: of each class the first three. A document that comes after all of
    them in that order changes nothing about the draw, whatever its label becomes; those in between keep theirs.
    """
    names = ["sport", "money", "culture"]
    truth, granted, _ = train_on(tmp_path / "draw", rows, supervision="few", **short("cross_entropy"))
    ordered = hash_order(truth.unlabeled, salt="selftrain labels 1, seed 3")
    last = max(ordered.index(id_) for id_ in granted)
    kept = set(ordered[: last + 1])
    return [(text, label if document_id(text) in kept else names[(names.index(label) + 1) % 3]) for text, label in rows]


@pytest.mark.parametrize("name", WITH_LABELS)
def test_labels_that_were_not_granted_change_no_weight(tmp_path, rows, others_changed, name):
    method = short(name)
    truth, granted, weights = train_on(tmp_path / "a", rows, supervision="few", **method)
    other_truth, other_granted, other_weights = train_on(tmp_path / "b", others_changed, supervision="few", **method)
    assert granted == other_granted and len(granted) == 9
    changed = [id_ for id_, label in truth.unlabeled.items() if other_truth.unlabeled[id_] != label]
    assert len(changed) > len(truth.unlabeled) / 2 and not set(changed) & set(granted)
    assert equal(weights, other_weights)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_a_granted_label_that_is_another_changes_weights(tmp_path, rows, shuffled, name):
    """So the two tests above can fail."""
    _, granted, weights = train_on(tmp_path / "a", rows, supervision="all", **short(name))
    _, other_granted, other_weights = train_on(tmp_path / "b", shuffled, supervision="all", **short(name))
    assert granted != other_granted
    assert not equal(weights, other_weights)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_the_labels_of_an_oracle_change_no_weight_of_a_method_that_does_not_ask_it(tmp_path, rows, others_changed, name):
    _, _, weights = train_on(tmp_path / "a", rows, supervision="oracle", **short(name))
    _, _, other_weights = train_on(tmp_path / "b", others_changed, supervision="oracle", **short(name))
    assert equal(weights, other_weights)


def test_the_labels_of_an_oracle_change_weights_where_it_is_asked(tmp_path, rows, others_changed):
    asked = short("ns3l") | {"ns3l_negatives": "oracle"}
    _, granted, weights = train_on(tmp_path / "a", rows, supervision="oracle", **asked)
    _, other_granted, other_weights = train_on(tmp_path / "b", others_changed, supervision="oracle", **asked)
    assert granted == other_granted
    assert not equal(weights, other_weights)


@pytest.mark.parametrize("name", WITH_SETS)
def test_which_candidate_is_the_label_changes_no_weight(tmp_path, rows, shuffled, name):
    """Where every set holds every class, nothing of the labels is granted; where it holds less, they change what is learned."""
    nearly_one = 1.0 - 1e-12
    truth, sets, weights = train_on(tmp_path / "a", rows, supervision="candidates", flip_probability=nearly_one, **short(name))
    other_truth, other_sets, other_weights = train_on(tmp_path / "b", shuffled, supervision="candidates", flip_probability=nearly_one, **short(name))
    assert truth.unlabeled != other_truth.unlabeled and sets == other_sets and set(sets.values()) == {(0, 1, 2)}
    assert equal(weights, other_weights)
    _, _, fewer = train_on(tmp_path / "c", rows, supervision="candidates", **short(name))
    _, _, other_fewer = train_on(tmp_path / "d", shuffled, supervision="candidates", **short(name))
    assert not equal(fewer, other_fewer)


def test_every_method_is_tested_here():
    assert sorted([*ZERO_SHOT, *WITH_LABELS, *WITH_SETS]) == sorted(methods.METHODS)


def test_the_truth_behind_weak_labels_is_no_part_of_what_is_learned_from(tmp_path, rows, shuffled):
    """All that a method gets is the corpus: with other true labels and the same weak ones it is the same, but for the test documents' labels beside it."""
    weak = ["" if number % 4 == 0 else ["sport", "money", "culture"][number % 3] for number in range(len(rows))]
    found = []
    for name, labeled in (("a", rows), ("b", shuffled)):
        file = tmp_path / f"{name}.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([("text", "label", "rule"), *((*row, other) for row, other in zip(labeled, weak, strict=True))])
        data = {"source": str(file), "label_column": "label", "weak_label_column": "rule", "supervision": "weak", "test_documents": 20}
        experiment = parse({"data": {**data, "classes": ["sport", "money", "culture"]}})
        corpus, truth = load_corpus(experiment.data)
        found.append((replace(grant(corpus, truth, experiment.data, seed=3), name=""), truth))
    (corpus, truth), (other_corpus, other_truth) = found
    assert corpus == other_corpus and truth.unlabeled != other_truth.unlabeled
    assert 0 < len(corpus.granted) < len(corpus.unlabeled)
