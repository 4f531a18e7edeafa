"""Supervised training by hand (GenCo's equation 6 with true labels): epochs of steps on an encoder W c(x), with AdamW written out.

The factor e^s on the cosines starts at 1 / tau, and Adam moves s.
"""

from __future__ import annotations

import copy

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
BASE = {"epochs": 2, "batch_size": 4, "tau": 0.1, "fit_scale": True, "scale_learning_rate": 0.05, "learning_rate": 0.02, "weight_decay": 0.1}
SCALE, SEED = 2.5, 3


def corpus(granted):
    labels = tuple(Label(name, name, "") for name in CLASSES)
    named = {IDS[place]: label for place, label in granted.items()}
    return Corpus("toy", labels, ("about {label}", "news {label} more"), Documents(IDS, TEXTS), Documents(), granted=named)


def built(options, granted=None):
    document = {"model": {"scale": SCALE}, "method": {"name": "supervised", **BASE, **options}}
    return resolve(parse(document)).build(corpus(GRANTED if granted is None else granted), LinearEncoder(WORDS, seed=1), seed=SEED)


def by_hand(options, granted=None, derivative=gradient_of):
    """Losses, W after every step, and s after the last."""
    own, pairs = {**BASE, **options}, list((GRANTED if granted is None else granted).items())
    encoder = LinearEncoder(WORDS, seed=1)
    weight, batches = encoder.weight.detach(), -(-len(pairs) // own["batch_size"])
    adam, losses, weights = AdamW(falling(own["learning_rate"], own["epochs"] * batches), own["weight_decay"]), [], []
    s = torch.tensor(-np.log(own["tau"]) if own["fit_scale"] else 0.0)
    adam_of_s = AdamW(lambda step: own["scale_learning_rate"], 0.0)
    for epoch in range(own["epochs"]):
        order = np.random.default_rng([SEED, epoch]).permutation(len(pairs))
        for start in range(0, len(pairs), own["batch_size"]):
            batch = [pairs[i] for i in order[start : start + own["batch_size"]]]

            def loss(w, batch=batch, s=s):
                p = torch.stack([sum(embedded(w, encoder.words, t.format(n)) for t in ("about {}", "news {} more")) / 2 for n in CLASSES])
                terms = [-torch.log(softmax(torch.exp(s) * SCALE * p @ embedded(w, encoder.words, TEXTS[place]))[label]) for place, label in batch]
                return sum(terms) / len(terms)

            losses.append(float(loss(weight)))
            gradient, of_s = derivative(loss, weight), derivative(lambda one, loss=loss, w=weight: loss(w, s=one.reshape(())), s.reshape(1))
            weight = adam.step({"weight": weight}, {"weight": gradient})["weight"]
            s = adam_of_s.step({"s": s}, {"s": of_s.reshape(())})["s"] if own["fit_scale"] else s
            weights.append(weight)
    return losses, weights, float(s)


CASES = {
    "supervised": {},
    "as printed": {"fit_scale": False},
    "tau": {"tau": 0.4},
    "scale's rate": {"scale_learning_rate": 0.3},
    "epochs": {"epochs": 3},
    "batch_size": {"batch_size": 3},
    "rate": {"learning_rate": 0.01},
    "decay": {"weight_decay": 0.5},
}


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_equation_6(case):
    method = built(CASES[case])
    losses, weights, s = by_hand(CASES[case])
    done = 0
    for epoch in range(method.rounds):
        figures = method.refresh(epoch, no_texts)
        assert figures == {"labeled": 6.0, "factor": pytest.approx(np.exp(float(method.factor.logarithm)))}
        for step in range(method.steps(epoch)):
            assert method.step(epoch, step) == pytest.approx({"loss": losses[done]}, rel=1e-10)
            assert torch.allclose(method.encoder.weight, weights[done], rtol=0, atol=1e-10)
            done += 1
    assert done == len(weights)
    assert float(method.factor.logarithm) == pytest.approx(s, rel=1e-10)
    fitted = CASES[case].get("fit_scale", True)
    assert method.student().scale == pytest.approx(SCALE * np.exp(s) if fitted else SCALE / BASE["tau"])
    if case != "supervised":
        assert not torch.allclose(weights[-1], by_hand({})[1][-1], atol=1e-3)


def test_the_derivative_of_equation_6_is_that_of_differences():
    for exact, near in zip(by_hand({})[1], by_hand({}, derivative=differences_of)[1], strict=True):
        assert torch.allclose(exact, near, rtol=0, atol=1e-7)


def test_every_option_has_a_case():
    tried = {option for options in CASES.values() for option in options}
    assert tried == SupervisedOptions.model_fields.keys() - {"name"}


def test_as_printed_tau_is_of_the_reported_probabilities_alone():
    trained = []
    for tau in (0.2, 1.0):
        method = built({"tau": tau, "fit_scale": False})
        assert method.student().scale == pytest.approx(SCALE / tau)
        method.step(0, 0)
        trained.append(method.encoder.weight.detach())
    assert torch.equal(*trained)


def test_a_dot_product_has_no_factor():
    """Lengths are trained there, which do what the factor does."""
    document = {"model": {"similarity": "dot"}, "method": {"name": "supervised", **BASE}}
    method = resolve(parse(document)).build(corpus(GRANTED), LinearEncoder(WORDS, seed=1, normalize=False), seed=SEED)
    method.step(0, 0)
    assert float(method.factor.logarithm) == 0.0


def test_a_resumed_training_has_the_factor_that_it_was_stopped_with():
    whole, later = built({}), built({})
    for step in range(2):
        whole.step(0, step)
    later.load_state(copy.deepcopy(whole.state()))
    for method in (whole, later):
        for step in range(2):
            method.step(1, step)
    assert torch.equal(whole.encoder.weight, later.encoder.weight) and torch.equal(whole.factor.logarithm, later.factor.logarithm)


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
