"""PESCO's training by hand: rounds of steps on an encoder W c(x), from the formulas in docs/methods/pesco.md, with AdamW written out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_hand import AdamW, LinearEncoder, differences_of, embedded, falling, gradient_of, rounds_of, softmax

from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import no_texts
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.pesco import PESCOOptions

CLASSES = ("sport", "money", "film")
WORDS = "sport money film about news match goal team bank share profit actor scene music more then day"
SENTENCES = (  # of every document
    ("match goal team day.", "bank then share more"),
    ("day more then match.", "goal goal match team.", "actor then bank day"),
    ("team match more goal",),
    ("bank share day profit.", "team more then day"),
    ("then day match more.", "profit bank more bank."),
    ("share profit then bank",),
    ("actor scene film day.", "music actor more film.", "profit share team then"),
    ("more day goal then.", "scene scene music day"),
    ("team bank scene music",),
    ("day more then news.", "about then day more"),
)
TEXTS = tuple(" ".join(parts) for parts in SENTENCES)
BASE = {"rounds": 2, "steps_per_round": 2, "per_class": 2, "first_share": 0.5, "last_share": 0.9, "learning_rate": 0.02, "weight_decay": 0.1}
SCALE, SEED = 2.5, 3


def prompts(name):
    return [f"about {name}", f"news {name} {name} more"]


def built(options, encoder=None):
    labels = tuple(Label(name, name, "") for name in CLASSES)
    corpus = Corpus("toy", labels, ("about {label}", "news {label} {label} more"), Documents(tuple(map(document_id, TEXTS)), TEXTS), Documents())
    document = {"model": {"scale": SCALE}, "method": {"name": "pesco", **BASE, **options}}
    return resolve(parse(document)).build(corpus, encoder or LinearEncoder(WORDS, seed=1, max_tokens=20), seed=SEED)


class ByHand:
    """The training, written out; `weight` is W."""

    def __init__(self, options, derivative=gradient_of):
        self.derivative, self.options = derivative, SimpleNamespace(**PESCOOptions(**{**BASE, **options}).model_dump())
        encoder = LinearEncoder(WORDS, seed=1)
        self.weight, self.words = encoder.weight.detach(), encoder.words
        total = self.options.rounds * self.options.steps_per_round
        self.adam = AdamW(falling(self.options.learning_rate, total), self.options.weight_decay)

    def f(self, text, weight=None):
        return embedded(self.weight if weight is None else weight, self.words, text, 20)

    def p(self, weight=None):
        return torch.stack([sum(self.f(prompt, weight) for prompt in prompts(name)) / 2 for name in CLASSES])

    def refresh(self, round_):
        own = self.options
        self.confidence = [softmax(SCALE * self.p() @ self.f(text)) for text in TEXTS]
        best, labels = [float(row.max()) for row in self.confidence], [int(row.argmax()) for row in self.confidence]
        share = own.last_share if own.rounds == 1 else own.first_share + (own.last_share - own.first_share) * round_ / (own.rounds - 1)
        size = max(1, round(share * len(TEXTS) / 3))
        self.groups = [sorted((i for i in range(len(TEXTS)) if labels[i] == label), key=lambda i: -best[i])[:size] for label in range(3)]
        self.label_of = {place: label for label, group in enumerate(self.groups) for place in group}
        rng, p = np.random.default_rng([SEED, round_]), self.p()
        self.sentence = {}
        for place, label in sorted(self.label_of.items()):
            parts = SENTENCES[place]
            if own.sentence == "first":
                self.sentence[place] = parts[0]
            elif own.sentence == "random":
                self.sentence[place] = parts[rng.integers(len(parts))]
            else:
                self.sentence[place] = max(parts, key=lambda part: float(self.f(part) @ p[label]))

    def step(self, round_, step):
        own, rng = self.options, np.random.default_rng([SEED, round_, step])
        batch = [group[i] for group in self.groups if group for i in rng.choice(len(group), own.per_class, replace=len(group) < own.per_class)]
        labels = [self.label_of[place] for place in batch]
        drawn = [prompts(CLASSES[label])[rng.integers(2)] for label in labels] if own.t2t_weight else []
        front = drawn if own.prompt_in_positive else [""] * len(batch)
        positives = [f"{prompt} {self.sentence[place]}" for prompt, place in zip(front, batch, strict=True)] if drawn else []

        def t2p(weight):
            terms = [-torch.log(softmax(SCALE * self.p(weight) @ self.f(TEXTS[i], weight))[label]) for i, label in zip(batch, labels, strict=True)]
            return sum(terms) / len(terms)

        def t2t(weight):
            plus, terms = [self.f(text, weight) for text in positives], []
            for place, label in zip(batch, labels, strict=True):
                x = self.f(TEXTS[place], weight)
                below = sum(torch.exp(SCALE * x @ other) for other in plus)
                own_class = [other for other, its in zip(plus, labels, strict=True) if its == label]
                terms.append(-sum(torch.log(torch.exp(SCALE * x @ other) / below) for other in own_class) / len(own_class))
            return sum(terms) / len(terms)

        losses = {"t2p": float(t2p(self.weight))} | ({"t2t": float(t2t(self.weight))} if positives else {})

        def both(weight):
            return t2p(weight) + own.t2t_weight * t2t(weight) if positives else t2p(weight)

        losses["loss"] = float(both(self.weight))
        self.weight = self.adam.step({"weight": self.weight}, {"weight": self.derivative(both, self.weight)})["weight"]
        return losses


CASES = {
    "PESCO": {},
    "first sentence": {"sentence": "first"},
    "any sentence": {"sentence": "random"},
    "no prompt in the positive": {"prompt_in_positive": False},
    "t2t_weight": {"t2t_weight": 0.3},
    "without t2t": {"t2t_weight": 0.0},
    "per_class": {"per_class": 1},
    "per_class above what is there": {"per_class": 5},
    "first_share": {"first_share": 0.1},
    "last_share": {"last_share": 0.5},
    "rounds": {"rounds": 3},
    "one round": {"rounds": 1, "first_share": 0.1, "last_share": 0.6},
    "steps_per_round": {"steps_per_round": 3},
    "learning_rate": {"learning_rate": 0.01},
    "weight_decay": {"weight_decay": 0.5},
}


def by_hand(case, derivative=gradient_of):
    return rounds_of(ByHand(CASES[case], derivative))


@pytest.fixture(scope="module")
def as_printed():
    return by_hand("PESCO")[1][-1]


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_the_formulas(case, as_printed):
    method = built(CASES[case])
    losses, weights, refreshed = by_hand(case)
    done = 0
    for round_ in range(method.rounds):
        assert method.steps(round_) == (0 if round_ == 0 else len(losses) // method.rounds)  # nothing is known before the first refresh
        figures, hand = method.refresh(round_, no_texts), refreshed[round_]
        assert method.selection.groups == tuple(map(tuple, hand.groups))
        assert figures == pytest.approx(
            {
                "selected": len(hand.label_of),
                "classes_without_pseudo_labels": sum(not group for group in hand.groups),
                "mean_confidence": sum(float(row.max()) for row in hand.confidence) / len(TEXTS),
            }
        )
        assert {place: method.positive(place, "") for place in hand.label_of} == {
            place: f" {text}" if method.options.prompt_in_positive else text for place, text in hand.sentence.items()
        }
        for step in range(method.steps(round_)):
            assert method.step(round_, step) == pytest.approx(losses[done], rel=1e-10)
            assert torch.allclose(method.encoder.weight, weights[done], rtol=0, atol=1e-10)
            done += 1
    assert done == len(weights)
    if case != "PESCO":
        assert not torch.allclose(weights[-1], as_printed, atol=1e-3)


def test_every_option_has_a_case():
    tried = {option for options in CASES.values() for option in options}
    assert tried == PESCOOptions.model_fields.keys() - {"name", "tau"}  # tau is of the reported probabilities: below


def test_the_derivatives_of_the_formulas_are_those_of_differences():
    for exact, near in zip(by_hand("PESCO")[1], by_hand("PESCO", differences_of)[1], strict=True):
        assert torch.allclose(exact, near, rtol=0, atol=1e-7)


def test_tau_is_of_the_reported_probabilities_alone():
    """Q of GenCo's equation 4 at the prototypes, which are the means of the prompts' embeddings."""
    for tau in (0.2, 1.0):
        method, hand = built({"tau": tau}), ByHand({})
        found = method.student().predict([TEXTS[0]])[0]
        assert torch.allclose(found, softmax(SCALE * hand.p() @ hand.f(TEXTS[0]) / tau), rtol=0, atol=1e-12)


class Frozen(LinearEncoder):
    """One whose trunk's embeddings are kept: it is told of the texts that a round needs before the first step."""

    frozen = True

    def __init__(self):
        super().__init__(WORDS, seed=1, max_tokens=20)
        self.told = []

    def encode(self, texts, max_tokens=None):
        self.told.append(list(texts))
        return super().encode(texts, max_tokens)


def test_a_head_reads_the_positives_of_a_round_beforehand():
    method, hand = built({}, Frozen()), ByHand({})
    method.refresh(0, no_texts)
    hand.refresh(0)
    wanted = [f"{prompt} {hand.sentence[place]}" for place, label in sorted(hand.label_of.items()) for prompt in prompts(CLASSES[label])]
    assert method.encoder.told[-1] == wanted
    assert all(text not in told for text in wanted for told in method.encoder.told[:-1])
    whole = built({})
    whole.refresh(0, no_texts)
    assert torch.equal(whole.encoder.weight, method.encoder.weight)


def test_every_sentence_that_is_chosen_moves_the_weights():
    """The second term reaches the encoder: another sentence for one document, other weights."""

    def weight(changed=None):
        method = built({"rounds": 1, "steps_per_round": 6, "per_class": 5, "last_share": 1.0})
        method.refresh(0, no_texts)
        if changed is not None:
            method._sentences[changed] = "film then scene music"
        for step in range(6):
            method.step(0, step)
        return method.encoder.weight.detach(), sorted(method.selection.label_of)

    plain, kept = weight()
    assert len(kept) > 6
    for place in kept:
        assert (weight(place)[0] - plain).abs().max() > 1e-6, place
