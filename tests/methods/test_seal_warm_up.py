"""Why SEAL's h is warmed up: g's accuracy, seed by seed, with the default and without; and what a round says of g."""

import numpy as np
import pytest
import torch
from linear import WORDS, ResidualEncoder, corpus_of

from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.methods.recipe import resolve

pytestmark = pytest.mark.usefixtures("one_thread")
OWN = (("goal", "chip"), ("bank", "vote"), ("film",))
LABELS = [index % 3 for index in range(60)]
STEPS = 5


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def texts():
    """Sixty documents of three classes: four words of the class, and two of any."""
    rng = np.random.default_rng(0)
    return [" ".join([*rng.choice(OWN[label], 4), *rng.choice(WORDS, 2)]) for label in LABELS]


def built(seed, name="seal", **options):
    if name == "seal":
        given = {"granted": dict(enumerate(LABELS))}
    else:
        given = {"candidates": {place: tuple(sorted({label, (label + 1 + place // 3 % 2) % 3})) for place, label in enumerate(LABELS)}}
    # As released: a large step of h in the warm-up and a small one in the training, which cannot repair what h does wrong.
    fixed = {"rounds": 2, "steps_per_round": STEPS, "batch_size": 12, "generator_rate": 2.0, "virtual_rate": 1.0, "objective_rate": 1e-5}
    torch.manual_seed(seed)  # h's first weights differ with the seed, as in a run
    experiment = parse({"method": {"name": name, "learning_rate": 0.05, **fixed, **options}})
    return resolve(experiment).build(corpus_of(texts=texts(), **given), ResidualEncoder(), seed=seed)


def round_of(method):
    """What g's figures are before the first round's steps and after them."""
    before = method.refresh(0, no_texts)
    for step in range(STEPS):
        method.step(0, step)
    return before, method.refresh(1, no_texts)


@pytest.mark.parametrize("name", ["seal", "seal_partial"])
def test_with_the_default_g_goes_towards_the_labels_with_every_seed_and_without_warm_up_it_does_not(name):
    figure = "generator_accuracy" if name == "seal" else "generator_in_set"
    gains = {}
    for steps in ({}, {"objective_steps": 0}):
        found = [round_of(built(seed, name, **steps)) for seed in range(5)]
        gains[len(steps)] = [after[figure] - before[figure] for before, after in found]
        if not steps:
            assert min(after[figure] for _, after in found) > 0.8
    assert min(gains[0]) > 0.05
    assert min(gains[1]) < 0


def test_a_round_says_how_often_g_predicts_the_granted_label_and_how_sure_it_is():
    method = built(0, objective_steps=1)
    method.step(0, 0)
    weight, bias, classifier, shift = (value.detach() for value in method.generator.values())
    right, confidence = [], []
    for text, label in zip(texts(), LABELS, strict=True):
        words = text.split()
        x = torch.tensor([float(words.count(word)) for word in WORDS])
        z = x + weight @ x + bias
        p = torch.softmax(classifier @ (z / z.norm()) + shift, 0)
        right.append(int(p.argmax()) == label)
        confidence.append(float(p.max()))
    figures = method.generator_figures()
    assert figures == {"generator_accuracy": pytest.approx(np.mean(right)), "generator_confidence": pytest.approx(np.mean(confidence))}
    assert 0 < np.mean(right) < 1


def test_of_candidate_sets_a_round_says_how_often_g_is_within_them():
    method = built(0, "seal_partial", objective_steps=0)
    found = torch.softmax(method.call(method.generator, method.encoder.inputs(texts())), 1)
    inside = [int(row.argmax()) in method.corpus.candidates[str(place)] for place, row in enumerate(found)]
    figures = method.refresh(0, no_texts)
    assert figures["generator_in_set"] == pytest.approx(np.mean(inside)) and 0 < np.mean(inside) < 1
    assert figures["generator_confidence"] == pytest.approx(found.max(1).values.mean().item())
