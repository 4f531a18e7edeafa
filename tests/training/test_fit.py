"""`fit` is the only thing that trains: where it does, what it seeds, and what comes back."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import TextRequest, no_texts
from selftrain.methods.recipe import Recipe, resolve
from selftrain.models.encoder import TextEncoder
from selftrain.models.student import Student
from selftrain.runtime.background import in_order
from selftrain.training import ray as workers_of_ray
from selftrain.training.fit import fit, probabilities
from selftrain.training.loop import Validation
from selftrain.training.ray import Workgroup

TEXTS = tuple(f"{words} {n}" for n in range(8) for words in ("the team won match", "the bank lost profit"))


@pytest.fixture
def corpus():
    ids = tuple(map(document_id, TEXTS))
    labels = (Label("sport", "sport", ""), Label("business", "business", ""))
    granted = {id_: place % 2 for place, id_ in enumerate(ids)}
    return Corpus("toy", labels, ("about {label}",), Documents(ids, TEXTS), Documents(ids[:4], TEXTS[:4]), granted=granted)


@pytest.fixture
def recipe(tmp_path):
    """recipe(**model) of two rounds of training a tiny encoder."""
    tiny_backbone(tmp_path / "parts").save_pretrained(str(tmp_path / "encoder"))

    def made(precision="float32", rounds=2, **model):
        document = {"encoder": str(tmp_path / "encoder"), "cache": str(tmp_path / "cache"), "max_tokens": 16} | model
        method = {"name": "cross_entropy", "rounds": rounds, "steps_per_round": 3, "batch_size": 4, "unlabeled_ratio": 1}
        if not rounds:
            method = {"name": "genco", "rounds": 0}
        return resolve(parse({"model": document, "method": method, "training": {"precision": precision}}))

    return made


def weights(fitted):
    return fitted.method.encoder.state_dict()


def same(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize("train", ["head", "full"])
def test_weights_follow_from_the_seed_whatever_was_drawn_before(recipe, corpus, train):
    found = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        found.append(fit(recipe(train=train), corpus, seed=seed))
    assert same(found[0], found[1]) and not same(found[0], found[2])
    assert found[0].rounds == found[1].rounds and len(found[0].rounds) == 2 and found[0].seconds > 0


def test_what_trained_in_bfloat16_is_evaluated_in_float32(recipe, corpus):
    fitted = fit(recipe("bfloat16"), corpus, seed=0)
    plain = fit(recipe("float32"), corpus, seed=0)
    assert fitted.method.encoder.precision == plain.method.encoder.precision == "float32"
    assert not fitted.method.encoder.training
    assert not same(fitted, plain)  # trained it has in another format
    assert fit(recipe("bfloat16", rounds=0), corpus, seed=0).method.encoder.precision == "float32"


def test_a_training_that_is_over_is_not_done_again(recipe, corpus):
    first = fit(recipe(train="head"), corpus, seed=0, validation=Validation(TEXTS[:4], [0, 1, 0, 1]))
    again = fit(recipe(train="head"), corpus, seed=0, resume=first.state(), step_done=lambda *step: pytest.fail("a step was done"))
    assert same(first, again) and (again.rounds, again.seconds, again.best) == (first.rounds, first.seconds, first.best)


def test_reports_come_after_every_round_and_steps_after_every_step(recipe, corpus):
    rounds, steps = [], []
    fit(recipe(train="head"), corpus, seed=0, report=lambda figures, state: rounds.append(figures["round"]), step_done=lambda *at: steps.append(at))
    assert rounds == [1.0, 2.0] and steps == [(round_, 2, step, 3) for round_ in (1, 2) for step in (1, 2, 3)]


def test_the_best_round_is_there_for_a_while(recipe, corpus):
    fitted = fit(recipe(train="head"), corpus, seed=0, validation=Validation(TEXTS[:4], [0, 1, 0, 1]))
    last = {name: value.clone() for name, value in weights(fitted).items()}
    fitted.best["method"]["encoder"] = {name: value + 1 for name, value in last.items()}
    with fitted.best_round() as student:
        assert isinstance(student, Student) and not any(torch.equal(value, weights(fitted)[name]) for name, value in last.items())
    assert all(torch.equal(value, weights(fitted)[name]) for name, value in last.items())


def test_a_whole_encoder_with_a_workgroup_trains_in_ray_and_a_head_never(recipe, corpus, monkeypatch):
    plain = fit(recipe(), corpus, seed=5)
    asked = []

    def in_workers(recipe, corpus, texts, *, seed, workgroup, validation, tested, names_read):
        asked.append((recipe.name, seed, workgroup, validation, names_read))
        return plain.state() | {"rounds": [{"round": 1.0}], "seconds": 7.0}

    monkeypatch.setattr(workers_of_ray, "train_in_workers", in_workers)
    workgroup = Workgroup("a", "b")
    read = print
    fitted = fit(recipe(), corpus, seed=5, workgroup=workgroup, names_read=read)
    assert same(fitted, plain) and (fitted.rounds, fitted.seconds) == ([{"round": 1.0}], 7.0)
    fit(recipe(train="head"), corpus, seed=5, workgroup=workgroup)
    assert asked == [("cross_entropy", 5, workgroup, None, read)]


def test_probabilities_are_read_with_continuations_where_texts_are_given(recipe, corpus):
    student = fit(recipe(), corpus, no_texts, seed=0).student
    assert isinstance(student.encoder, TextEncoder)
    alone = probabilities(student, corpus.test)
    assert alone.shape == (4, 2) and isinstance(alone, np.ndarray) and alone.sum(axis=1) == pytest.approx(1)
    asked = []

    def texts(requests):
        asked.extend(requests)
        return dict.fromkeys(requests, "a film with music")

    read = probabilities(student, corpus.test, texts, 2)
    assert asked == [TextRequest(id_, "input", sample=sample) for id_ in corpus.test.ids for sample in (0, 1)]
    assert not np.allclose(read, alone)


@pytest.mark.parametrize(("gpu", "moves"), [(True, ["cuda:0", "cpu"]), ("auto", ["cuda:0", "cpu"]), (0.4, ["cuda:0", "cpu"]), (False, [])])
def test_a_classifier_is_evaluated_on_the_gpu_of_this_process_and_is_back_on_the_cpu(recipe, corpus, monkeypatch, gpu, moves):
    """No test has a GPU: the moves are looked at, and not made."""
    student = fit(recipe(), corpus, no_texts, seed=0).student
    expected, made = probabilities(student, corpus.test), []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(student.encoder, "_move", made.append)
    np.testing.assert_array_equal(probabilities(student, corpus.test, gpu=gpu), expected)
    assert made == moves


@pytest.mark.parametrize(("model", "gpu", "device"), [("head", "auto", "cuda:0"), ("head", False, "cpu"), ("full", True, "cuda:0")])
def test_a_training_in_this_process_is_where_it_is_asked_for(recipe, corpus, monkeypatch, model, gpu, device):
    one = recipe(train=model)
    asked = []

    def untrained(self, corpus, **given):
        asked.append(given)
        raise ZeroDivisionError

    monkeypatch.setattr(type(one), "untrained", untrained)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    placed = replace(one, training=one.training.model_copy(update={"gpu": gpu}))
    with pytest.raises(ZeroDivisionError):
        fit(placed, corpus, seed=0, workgroup=Workgroup("a", "b") if model == "head" else None)  # a run's head trains here too
    assert asked[0]["device"] == device


def test_trainings_in_several_threads_are_those_of_one_after_the_other(recipe, corpus, monkeypatch):
    alone = [fit(recipe(train="head"), corpus, seed=seed) for seed in (0, 1)]
    inside, untrained = threading.Semaphore(0), Recipe.untrained

    def slow(self, *arguments, **options):
        method = untrained(self, *arguments, **options)
        inside.release()
        inside.acquire(timeout=1)  # without the lock, the other thread seeds and draws now
        time.sleep(0.5)
        return method

    monkeypatch.setattr(Recipe, "untrained", slow)
    together = list(in_order([partial(fit, recipe(train="head"), corpus, seed=seed) for seed in (0, 1)], 2, "test"))
    assert all(same(one, other) for one, other in zip(alone, together, strict=True))
