"""The loop: resumed training continues exactly, and a finished one is a no-op."""

import copy

import torch
from tiny import tiny_backbone

from selftrain import methods
from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.models.encoder import TextEncoder
from selftrain.training.loop import Validation, train

SELF_TRAINING = parse(
    {"method": {"rounds": 3, "steps_per_round": 2, "learning_rate": 1e-3, "input_augmentation": False, "conditional_augmentation": False}}
)


def build(corpus, folder):
    return methods.build(SELF_TRAINING, corpus, TextEncoder(tiny_backbone(folder), max_tokens=16), seed=5)


def test_a_resumed_training_ends_with_the_same_weights(corpus, tmp_path):
    states = []
    whole = build(corpus, tmp_path / "a")
    history = train(whole, texts=no_texts, report=lambda figures, state: states.append(copy.deepcopy(state)), seed=5)
    rest = build(corpus, tmp_path / "b")
    reported = []
    again = train(rest, texts=no_texts, report=lambda figures, state: reported.append(figures["round"]), seed=5, resume=states[0])
    assert reported == [2.0, 3.0]  # the finished round is not done twice
    assert again.rounds == history.rounds
    assert all(torch.equal(a, b) for a, b in zip(whole.encoder.state_dict().values(), rest.encoder.state_dict().values(), strict=True))


def test_a_finished_training_is_a_no_op(corpus, tmp_path):
    states = []
    whole = build(corpus, tmp_path / "a")
    train(whole, texts=no_texts, report=lambda figures, state: states.append(copy.deepcopy(state)), seed=5)
    again = build(corpus, tmp_path / "b")
    history = train(again, texts=no_texts, report=lambda figures, state: states.append(state), seed=5, resume=states[-1])
    assert len(states) == 3
    assert len(history.rounds) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.encoder.state_dict().values(), again.encoder.state_dict().values(), strict=True))


def test_validation_keeps_the_best_round_and_changes_no_weight(corpus, tmp_path):
    plain, watched = build(corpus, tmp_path / "a"), build(corpus, tmp_path / "b")
    train(plain, texts=no_texts, report=lambda figures, state: None, seed=5)
    scores, states = iter([0.5, 0.75, 0.75]), []

    class Scripted(Validation):
        def accuracy(self, student):
            super().accuracy(student)  # the real one, for what it may do to the weights
            return next(scores)

    validation = Scripted(corpus.unlabeled.texts[:4], [0, 0, 1, 1])
    report = lambda figures, state: states.append(copy.deepcopy(state))  # noqa: E731
    history = train(watched, texts=no_texts, report=report, seed=5, validation=validation)
    assert [entry["validation_accuracy"] for entry in history.rounds] == [0.5, 0.75, 0.75]
    assert history.best["round"] == 1 and history.best["accuracy"] == 0.75  # of equal ones the first
    assert all(torch.equal(value, states[1]["method"]["encoder"][name]) for name, value in history.best["method"]["encoder"].items())
    assert all(torch.equal(a, b) for a, b in zip(plain.encoder.state_dict().values(), watched.encoder.state_dict().values(), strict=True))


def test_validation_accuracy_is_the_share_that_is_right(corpus, tmp_path):
    student = build(corpus, tmp_path / "a").student()
    predicted = student.predict(corpus.unlabeled.texts[:8]).argmax(1).tolist()
    wrong = [predicted[0] ^ 1, predicted[1] ^ 1, *predicted[2:]]
    assert Validation(corpus.unlabeled.texts[:8], wrong).accuracy(student) == 0.75
