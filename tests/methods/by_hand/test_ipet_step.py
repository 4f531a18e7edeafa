"""iPET's training by hand: two generations of four models and the distillation, on a language model E, U and a body E, D, from docs/methods/ipet.md.

Clipping and the rate that falls within every model are written out; draws follow from (seed, round, step).
"""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_hand import AdamW, falling, softmax
from masked_by_hand import LinearMasked, states

from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods import options_of
from selftrain.methods.zero_shot.ipet import IPET, IPETOptions
from selftrain.models.workers import Workers

WORDS = "sport money film match goal team bank share profit actor scene music day then news : ( )"
CLASSES = ("sport", "money", "film")
TEXTS = (
    "match goal team",
    "goal team day",
    "team match then goal",
    "bank share",
    "profit bank day",
    "share profit then bank",
    "actor scene",
    "scene music day",
    "music actor then scene",
    "day then news day then goal match team",  # the last two words are beyond max_tokens
)
PATTERNS = ("{mask}: {text}", "{text} ({mask})")
SEED = 3
BASE = {
    "patterns": PATTERNS,
    "repeats": 2,
    "generations": 2,
    "first_examples": 6,
    "first_candidates": 4,
    "growth": 2,
    "labelers": 0.7,
    "model_steps": 3,
    "batch_size": 4,
    "unlabeled_batch": 3,
    "mlm_weight": 0.3,
    "learning_rate": 0.1,
    "weight_decay": 0.1,
    "classifier_steps": 4,
    "classifier_batch": 5,
    "temperature": 2.0,
}


def encoder():
    return LinearMasked(WORDS, seed=2)


def built(options, own=None):
    labels = tuple(Label(name, name, "") for name in CLASSES)
    corpus = Corpus("toy", labels, ("about {label}",), Documents(tuple(map(document_id, TEXTS)), TEXTS), Documents())
    torch.manual_seed(1)
    return IPET(options=options_of({"name": "ipet", **BASE, **options}), corpus=corpus, encoder=own or encoder(), workers=Workers(), seed=SEED)


class ByHand:
    """The training, written out. `body` are the weights that are distilled into, E, D and the linear classifier C, c."""

    def __init__(self, options, classifier):
        self.own = SimpleNamespace(**IPETOptions(**{**BASE, **options}).model_dump())
        start = encoder()
        self.id_of = start.vocabulary
        self.untrained = {"E": start.language_model.E.detach(), "U": start.language_model.U.detach()}
        self.body = {"E": start.E.detach(), "D": start.D.detach(), "C": classifier.weight.detach().clone(), "c": classifier.bias.detach().clone()}
        self.words = [self.id_of[self.own.verbalizers.get(name, name)] for name in CLASSES]
        self.models = [pattern for pattern in self.own.patterns for _ in range(self.own.repeats)]
        self.s = torch.stack([self.scores(self.untrained, pattern) for pattern in self.models])
        self.clipped, self.seen = [], []

    def tokens(self, text):
        return [self.id_of["[CLS]"], *(self.id_of[word] for word in text.split()), self.id_of["[SEP]"]]

    def cloze(self, place, pattern):
        text = " ".join(TEXTS[place].split()[:6])  # max_tokens is eight with the two special ones
        before, after = pattern.split("{text}")
        shown = f"{before} {text} {after}".replace("{mask}", "[MASK]").replace(":", " : ").replace("(", " ( ").replace(")", " ) ")
        return self.tokens(shown)

    def at_mask(self, model, place, pattern):
        """s(l | x): the logit of every class's word at the mask."""
        row = self.cloze(place, pattern)
        return (states(model["E"], row) @ model["U"].T)[row.index(self.id_of["[MASK]"]), self.words]

    def scores(self, model, pattern):
        return torch.stack([self.at_mask(model, place, pattern) for place in range(len(TEXTS))])

    def examples(self, generation, model):
        own, rng = self.own, np.random.default_rng([SEED, generation, model, 1])
        wanted = math.ceil(own.first_examples / 3 * own.growth**generation)
        others = [other for other in range(len(self.models)) if other != model]
        chosen = rng.choice(others, size=max(1, round(own.labelers * len(others))), replace=False)
        p = torch.stack([softmax(sum(self.s[other][place] for other in chosen) / len(chosen)) for place in range(len(TEXTS))])
        found = []
        for label in range(3):
            if generation == 0:
                able = sorted(range(len(TEXTS)), key=lambda place: -float(p[place, label]))[: own.first_candidates]
                share = np.ones(len(able)) / len(able)
            else:
                able = [place for place in range(len(TEXTS)) if int(p[place].argmax()) == label]
                share = np.array([float(p[place, label]) for place in able])
                share = share / share.sum()
            if able:
                found += [(int(i), label) for i in rng.choice(able, size=min(wanted, len(able)), replace=False, p=share)]
        return found

    def hidden(self, place, rng):
        """BERT's pre-training: 15 % of the words are asked for; of these 80 % show the mask, 10 % any word, 10 % themselves."""
        row = self.tokens(" ".join(TEXTS[place].split()[:6]))
        asked = [(i, token) for i, token in enumerate(row) if 0 < i < len(row) - 1 and rng.random() < 0.15]
        shown = list(row)
        for i, _ in asked:
            lot = rng.random()
            if lot < 0.8:
                shown[i] = self.id_of["[MASK]"]
            elif lot < 0.9:
                shown[i] = int(rng.integers(len(self.id_of)))
        return shown, asked

    def generation(self, number):
        """Weights of every model after each of its steps, and the losses."""
        own, trained, losses = self.own, [], []
        for model, pattern in enumerate(self.models):
            weights, examples = dict(self.untrained), self.examples(number, model)
            adam = AdamW(falling(own.learning_rate, own.model_steps), own.weight_decay, clip=1.0)
            for step in range(own.model_steps):
                rng = np.random.default_rng([SEED, number, model * own.model_steps + step])
                drawn = [examples[i] for i in rng.integers(len(examples), size=own.batch_size)]
                others = rng.integers(len(TEXTS), size=own.unlabeled_batch)
                masked = [self.hidden(place, rng) for place in others] if own.mlm_weight else []

                def ce(w, drawn=drawn, pattern=pattern):
                    return -sum(torch.log(softmax(self.at_mask(w, place, pattern)))[label] for place, label in drawn) / len(drawn)

                def mlm(w, masked=masked):
                    terms = [-torch.log(softmax(states(w["E"], row)[i] @ w["U"].T))[token] for row, asked in masked for i, token in asked]
                    return sum(terms) / len(terms) if terms else 0.0 * w["E"].sum()

                def loss(w, ce=ce, mlm=mlm, masked=masked):
                    return (1 - own.mlm_weight) * ce(w) + own.mlm_weight * mlm(w) if masked else ce(w)

                losses.append({"ce": float(ce(weights))} | ({"mlm": float(mlm(weights))} if masked else {}))
                weights = self.moved(adam, loss, weights)
                trained.append(weights)
        ends = trained[own.model_steps - 1 :: own.model_steps]
        self.s = torch.stack([self.scores(model, pattern) for model, pattern in zip(ends, self.models, strict=True)])
        self.seen.append(self.s.mean(dim=0))
        return trained, losses

    def moved(self, adam, loss, weights):
        variables = {name: value.clone().requires_grad_() for name, value in weights.items()}
        gradients = dict(zip(variables, torch.autograd.grad(loss(variables), list(variables.values())), strict=True))
        self.clipped.append(sum(float(g.square().sum()) for g in gradients.values()) > 1.0)
        return adam.step(weights, gradients)

    def distilled(self):
        """W, b, ... after every step of the distillation, and the losses."""
        own, trained, losses = self.own, [], []
        adam, teacher = AdamW(falling(own.learning_rate, own.classifier_steps), own.weight_decay, clip=1.0), self.s.mean(dim=0)
        for step in range(own.classifier_steps):
            batch = np.random.default_rng([SEED, own.generations, step]).integers(len(TEXTS), size=own.classifier_batch)

            def loss(w, batch=batch):
                total = 0.0
                for place in batch:
                    first = states(w["E"], self.tokens(" ".join(TEXTS[place].split()[:6])))[0]
                    logits = w["C"] @ torch.tanh(w["D"] @ first) + w["c"]
                    q, p = softmax(teacher[place] / own.temperature), softmax(logits / own.temperature)
                    total = total + own.temperature**2 * (q * (torch.log(q) - torch.log(p))).sum()
                return total / len(batch)

            losses.append({"loss": float(loss(self.body))})
            self.body = self.moved(adam, loss, self.body)
            trained.append(self.body)
        self.seen.append(self.body["E"])
        return trained, losses


CASES = {
    "iPET": {},
    "patterns": {"patterns": ("{mask} news: {text}", "{text} ({mask})")},
    "verbalizers": {"verbalizers": {"sport": "match", "film": "music"}},
    "repeats": {"repeats": 1, "labelers": 1.0},
    "generations": {"generations": 1},
    "first_examples": {"first_examples": 3},
    "first_candidates": {"first_candidates": 8},
    "growth": {"growth": 1},
    "labelers": {"labelers": 0.1},
    "model_steps": {"model_steps": 2},
    "batch_size": {"batch_size": 2},
    "unlabeled_batch": {"unlabeled_batch": 6},
    "no unlabeled batch": {"unlabeled_batch": 0, "mlm_weight": 0.0},
    "mlm_weight": {"mlm_weight": 0.9},
    "without the language model's loss": {"mlm_weight": 0.0},
    "learning_rate": {"learning_rate": 0.05},
    "weight_decay": {"weight_decay": 0.5},
    "classifier_steps": {"classifier_steps": 3},
    "classifier_batch": {"classifier_batch": 2},
    "temperature": {"temperature": 4.0},
}


def near(module, weights):
    return all(torch.allclose(dict(module.named_parameters())[name], value, rtol=0, atol=1e-9) for name, value in weights.items() if name in "EUD")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_the_formulas(case):
    method = built(CASES[case])
    hand = ByHand(CASES[case], method.classifier)
    untrained = {name: value.detach().clone() for name, value in method.encoder.language_model.named_parameters()}
    assert method.rounds == hand.own.generations + 1
    for generation in range(hand.own.generations):
        labels = hand.s.argmax(dim=2)
        figures = method.refresh(generation, no_texts)
        assert torch.allclose(method._scores, hand.s, rtol=0, atol=1e-8)
        votes = [max(range(3), key=lambda label: int((labels[:, place] == label).sum())) for place in range(len(TEXTS))]
        agree = sum(int(labels[model, place]) == votes[place] for model in range(len(hand.models)) for place in range(len(TEXTS)))
        assert figures["examples"] == 3 * math.ceil(hand.own.first_examples / 3 * hand.own.growth**generation)
        assert figures["models_agree"] == pytest.approx(agree / labels.numel())
        trained, losses = hand.generation(generation)
        assert method.steps(generation) == len(trained) == len(hand.models) * hand.own.model_steps
        for step, weights in enumerate(trained):
            copied = []
            end, method._end = method._end, lambda model: (copied.append(method._training[0]), end(model))  # noqa: B023  (called within this turn)
            assert method.step(generation, step) == pytest.approx(losses[step], rel=1e-9)
            method._end = end
            assert near(copied[0] if copied else method._training[0], weights)
    assert all(torch.equal(untrained[name], value) for name, value in method.encoder.language_model.named_parameters())
    method.refresh(hand.own.generations, no_texts)
    assert method.steps(hand.own.generations) == hand.own.classifier_steps
    trained, losses = hand.distilled()
    for step, weights in enumerate(trained):
        assert method.step(hand.own.generations, step) == pytest.approx(losses[step], rel=1e-9)
        assert near(method.encoder, weights)
        assert torch.allclose(method.classifier.weight, weights["C"], rtol=0, atol=1e-9)
        assert torch.allclose(method.classifier.bias, weights["c"], rtol=0, atol=1e-9)
    assert any(hand.clipped)  # some of the gradients are cut
    if case != "iPET":
        other = as_printed()
        assert len(other) != len(hand.seen) or not all(torch.allclose(a, b, atol=1e-5) for a, b in zip(hand.seen, other, strict=True))


@functools.cache
def as_printed():
    """What the models of the case iPET say after every generation, and the body in the end."""
    hand = ByHand({}, built({}).classifier)
    for generation in range(2):
        hand.generation(generation)
    hand.distilled()
    return hand.seen


def test_every_option_has_a_case():
    tried = {option for options in CASES.values() for option in options}
    assert tried == IPETOptions.model_fields.keys() - {"name"}


def test_the_student_is_the_classifier_on_the_body():
    method = built({})
    found = method.student().predict(["match goal"])[0]
    first = states(method.encoder.E, [2, method.encoder.vocabulary["match"], method.encoder.vocabulary["goal"], 3])[0]
    logits = method.classifier.weight @ torch.tanh(method.encoder.D @ first) + method.classifier.bias
    assert torch.allclose(found, softmax(logits.detach()), rtol=0, atol=1e-12)


def test_dropout_stands_in_front_of_the_classifier_while_training():
    method = built({"generations": 1, "model_steps": 1}, LinearMasked(WORDS, seed=2, dropout=0.5))
    method.refresh(0, no_texts)
    for step in range(method.steps(0)):
        method.step(0, step)
    method.encoder.eval()
    state = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    found = []
    for training in (False, False, True, True):
        method.encoder.load_state_dict(state)
        method.encoder.train(training)
        method.update = lambda clip: method.optimizer.zero_grad()
        found.append(method.step(1, 0)["loss"])
    assert found[0] == found[1] and len({found[0], found[2], found[3]}) == 3


def test_models_learn_in_training_mode_and_are_asked_without(monkeypatch):
    method, seen = built({"generations": 1, "model_steps": 1}), []
    at_mask = method._at_mask
    monkeypatch.setattr(method, "_at_mask", lambda model, rows: seen.append((torch.is_grad_enabled(), model.training)) or at_mask(model, rows))
    method.refresh(0, no_texts)
    for step in range(method.steps(0)):
        method.step(0, step)
    # Two patterns by the untrained model, then of each of four models its one step and its scores.
    assert seen == [(False, False)] * 2 + [(True, True), (False, False)] * 4


def test_documents_may_be_as_long_as_leaves_24_tokens_for_a_pattern():
    assert built({}, LinearMasked(WORDS, max_tokens=40)).encoder.max_tokens == 40
    with pytest.raises(SelfTrainError, match=r"model\.max_tokens must be at most 40.*\(got 41\)"):
        built({}, LinearMasked(WORDS, max_tokens=41))
