"""Supervised training by hand (GenCo's equation 6 with true labels): epochs of steps on an encoder W c(x), with AdamW written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_hand import AdamW, LinearEncoder, differences_of, embedded, falling, gradient_of, softmax

from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.few_labels.supervised import SupervisedOptions
from selftrain.methods.recipe import resolve

CLASSES = ("sport", "money", "film")
WORDS = "sport money film about news match goal team bank share profit actor scene music more then day"
TEXTS = ("match goal day", "goal team more", "bank share day", "profit more bank", "actor scene", "music film then", "scene day", "then more news")
IDS = tuple(map(document_id, TEXTS))
GRANTED = {
    place: label for place, label in enumerate((0, 0, 1, 1, 2, 2, 0)) if place != 3
}  # the fourth and the last are not granted; one label is wrong
BASE = {"epochs": 2, "batch_size": 4, "learning_rate": 0.02, "weight_decay": 0.1}
SCALE, SEED = 2.5, 3


def corpus(granted):
    labels = tuple(Label(name, name, "") for name in CLASSES)
    named = {IDS[place]: label for place, label in granted.items()}
    return Corpus("toy", labels, ("about {label}", "news {label} more"), Documents(IDS, TEXTS), Documents(), granted=named)


def built(options, granted=None):
    document = {"model": {"scale": SCALE}, "method": {"name": "supervised", **BASE, **options}}
    return resolve(parse(document)).build(corpus(GRANTED if granted is None else granted), LinearEncoder(WORDS, seed=1), seed=SEED)


def by_hand(options, granted=None, derivative=gradient_of):
    """Losses and W after every step."""
    own, pairs = {**BASE, **options}, list((GRANTED if granted is None else granted).items())
    encoder = LinearEncoder(WORDS, seed=1)
    weight, batches = encoder.weight.detach(), -(-len(pairs) // own["batch_size"])
    adam, losses, weights = AdamW(falling(own["learning_rate"], own["epochs"] * batches), own["weight_decay"]), [], []
    for epoch in range(own["epochs"]):
        order = np.random.default_rng([SEED, epoch]).permutation(len(pairs))
        for start in range(0, len(pairs), own["batch_size"]):
            batch = [pairs[i] for i in order[start : start + own["batch_size"]]]

            def loss(w, batch=batch):
                p = torch.stack([sum(embedded(w, encoder.words, t.format(n)) for t in ("about {}", "news {} more")) / 2 for n in CLASSES])
                terms = [-torch.log(softmax(SCALE * p @ embedded(w, encoder.words, TEXTS[place]))[label]) for place, label in batch]
                return sum(terms) / len(terms)

            losses.append(float(loss(weight)))
            weight = adam.step({"weight": weight}, {"weight": derivative(loss, weight)})["weight"]
            weights.append(weight)
    return losses, weights


CASES = {"supervised": {}, "epochs": {"epochs": 3}, "batch_size": {"batch_size": 3}, "rate": {"learning_rate": 0.01}, "decay": {"weight_decay": 0.5}}


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_equation_6(case):
    method = built(CASES[case])
    losses, weights = by_hand(CASES[case])
    done = 0
    for epoch in range(method.rounds):
        assert method.refresh(epoch, no_texts) == {"labeled": 6.0}
        for step in range(method.steps(epoch)):
            assert method.step(epoch, step) == pytest.approx({"loss": losses[done]}, rel=1e-10)
            assert torch.allclose(method.encoder.weight, weights[done], rtol=0, atol=1e-10)
            done += 1
    assert done == len(weights)
    if case != "supervised":
        assert not torch.allclose(weights[-1], by_hand({})[1][-1], atol=1e-3)


def test_the_derivative_of_equation_6_is_that_of_differences():
    for exact, near in zip(by_hand({})[1], by_hand({}, derivative=differences_of)[1], strict=True):
        assert torch.allclose(exact, near, rtol=0, atol=1e-7)


def test_every_option_has_a_case():
    tried = {option for options in CASES.values() for option in options}
    assert tried == SupervisedOptions.model_fields.keys() - {"name", "tau"}


def test_tau_is_of_the_reported_probabilities_alone():
    for tau in (0.2, 1.0):
        assert built({"tau": tau}).student().scale == pytest.approx(SCALE / tau)


@pytest.mark.parametrize("place", GRANTED)
def test_every_label_moves_the_weights(place):
    other = GRANTED | {place: (GRANTED[place] + 1) % 3}
    method = built({}, other)
    for epoch in range(2):
        for step in range(2):
            method.step(epoch, step)
    assert torch.allclose(method.encoder.weight, by_hand({}, other)[1][-1], rtol=0, atol=1e-10)
    assert not torch.allclose(method.encoder.weight, by_hand({})[1][-1], atol=1e-3)


def test_it_says_what_it_needs_where_nothing_is_granted():
    with pytest.raises(SelfTrainError, match=r"needs labels; set data\.supervision: all \(or few\)"):
        built({}, {})
