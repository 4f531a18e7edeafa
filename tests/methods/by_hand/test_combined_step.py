"""The combination by hand: two rounds of two steps on an encoder W c(x), each switch alone and with the others, from the papers' equations.

Algorithm 1 of SunGen is taken from the package, which test_sungen_step.py works out; what it is given and what is made of its weights is written out here.
"""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_hand import CLASSES, TAILS, WORDS, AdamW, LinearEncoder, counts, embedded, falling, gradient_of, rounds_of, softmax
from by_hand import TEXTS as COMMON

from selftrain import methods
from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import TextRequest, no_texts
from selftrain.data.views import edited
from selftrain.errors import SelfTrainError
from selftrain.methods.bilevel import Net
from selftrain.methods.noisy_labels.sungen import SunGenOptions, learn_weights
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.combined import CombinedOptions
from selftrain.training.loop import train

TEXTS = (*COMMON, "news day match bank")
IDS = tuple(document_id(text) for text in TEXTS)
BASE = {"rounds": 2, "steps_per_round": 2, "per_class": 2, "first_share": 0.3, "last_share": 0.5, "tau": 0.3, "learning_rate": 0.02}
BASE |= {"weight_decay": 0.1, "ns3l_threshold": 0.25, "outer_iterations": 3, "inner_learning_rate": 0.3, "weighted": True}
OFF = {"generated": False, "weighted": False, "negative": False}
SCALE, SEED = 2.5, 3
WORDS_ON = tuple(f"{name} {name}" for name in CLASSES)  # of texts on a class: some read like that class, some like another


class TwoHalves(LinearEncoder):
    """One that two-level methods can differentiate."""

    tensors = True

    def inputs(self, texts):
        return torch.stack([counts(text, self.words, self.max_tokens) for text in texts])

    def of_inputs(self, rows):
        rows = rows @ self.weight.T
        return rows / rows.square().sum(dim=1, keepdim=True).sqrt() if self.normalize else rows


def written(request):
    place = IDS.index(request.document_id)
    if request.kind == "conditional":
        return f"{WORDS_ON[(place + request.label) % len(WORDS_ON)]} {TAILS[(place * 2 + request.label) % 5]}"
    return f"{TAILS[(place + 2 * request.sample) % 5]} {TAILS[(place * 3 + request.sample) % 5]}"


class Channel:
    """`written`, but for documents whose texts are missing; what was asked is kept."""

    def __init__(self, missing=()):
        self.missing, self.asked = missing, []

    def __call__(self, requests):
        self.asked += requests
        return {one: written(one) for one in requests if IDS.index(one.document_id) not in self.missing}


def built(options, samples=1, encoder=None):
    labels = tuple(Label(name, name, "") for name in CLASSES)
    corpus = Corpus("toy", labels, ("about {label}", "news {label} {label} more"), Documents(IDS, TEXTS), Documents())
    document = {"model": {"scale": SCALE}, "augment": {"input_samples": samples}, "method": {"name": "combined", **BASE, **options}}
    return resolve(parse(document)).build(corpus, encoder or TwoHalves(WORDS, seed=1), seed=SEED)


class ByHand:
    """The training, written out; `weight` is W."""

    def __init__(self, options, samples=1, missing=()):
        self.options, self.samples, self.missing = SimpleNamespace(**CombinedOptions(**{**BASE, **options}).model_dump()), samples, missing
        self.first = TwoHalves(WORDS, seed=1)
        self.weight, self.words = self.first.weight.detach().clone(), self.first.words
        total = self.options.rounds * self.options.steps_per_round
        self.adam = AdamW(falling(self.options.learning_rate, total), self.options.weight_decay)

    def f(self, text, weight=None, longest=12):
        return embedded(self.weight if weight is None else weight, self.words, text, longest)

    def p(self, weight=None):
        return torch.stack([(self.f(f"about {name}", weight) + self.f(f"news {name} {name} more", weight)) / 2 for name in CLASSES])

    def tails(self, place):
        if not self.options.generated or place in self.missing:
            return []
        return [written(TextRequest(IDS[place], "input", sample=sample)) for sample in range(self.samples)]

    def refresh(self, round_):
        own = self.options
        self.q, confidence = [], []
        for place, text in enumerate(TEXTS):
            read = [self.f(f"{text} {tail}", longest=24) for tail in self.tails(place)] or [self.f(text)]  # equation 9
            mean = sum(read)
            scores = SCALE * self.p() @ (mean / mean.square().sum().sqrt())
            confidence.append(softmax(scores))
            self.q.append(softmax(scores / own.tau))
        best, labels = [float(row.max()) for row in confidence], [int(row.argmax()) for row in confidence]
        share = own.first_share + (own.last_share - own.first_share) * round_ / (own.rounds - 1)
        size = max(1, round(share * len(TEXTS) / 3))
        groups = [sorted((i for i in range(len(TEXTS)) if labels[i] == label), key=lambda i: -best[i])[:size] for label in range(3)]
        self.label_of = {place: label for label, group in enumerate(groups) for place in group}
        self.rest = [place for place in range(len(TEXTS)) if place not in self.label_of]
        self.steps = []
        for step in range(own.steps_per_round):
            rng = np.random.default_rng([SEED, round_, step])
            batch = [group[i] for group in groups if group for i in rng.choice(len(group), own.per_class, replace=len(group) < own.per_class)]
            others = rng.choice(self.rest, size=min(len(self.rest), own.unconfident_ratio * len(batch)), replace=False).tolist()
            views = []
            for place in [*batch, *others]:
                numbers, tails = rng.integers(2**31, size=2).tolist(), self.tails(place)
                texts = [f"{tails[i]} {TEXTS[place]}" for i in rng.permutation(len(tails))[:2]]
                views.append(texts + [edited(TEXTS[place], number) for number in numbers[len(texts) :]])
            self.steps.append((batch, others, views, self.on_confused(others)))
        self.sungen = self.by_sungen() if own.weighted else None

    def on_confused(self, others):
        """(text, class) for the two likeliest classes of each unconfident document, with the weights that the round begins with."""
        pairs = []
        for place in others if self.options.written != "nothing" and others else []:
            scores = [float(one) for one in self.p() @ self.f(TEXTS[place])]
            for label in sorted(range(3), key=lambda one: -scores[one])[:2]:
                text = written(TextRequest(IDS[place], "conditional", label))
                there = int((self.p() @ self.f(text)).argmax()) == label
                pairs += [(text, label)] if place not in self.missing and (there or self.options.written == "asked") else []
        return pairs

    def by_sungen(self):
        """(document, text) -> weight: its own over the mean of those with the same pseudo-label, from a classifier of zeros on the encoder as it was."""
        pairs = []
        for batch, _, views, _ in self.steps:
            for column in range(3):
                for number, place in enumerate(batch):
                    pair = (place, TEXTS[place] if column == 0 else views[number][column - 1])
                    pairs += [] if pair in pairs else [pair]
        labels = [self.label_of[place] for place, _ in pairs]
        linear = torch.nn.Linear(3, 3)
        torch.nn.init.zeros_(linear.weight), torch.nn.init.zeros_(linear.bias)
        options = SunGenOptions(outer_iterations=self.options.outer_iterations, inner_learning_rate=self.options.inner_learning_rate)
        rows = torch.stack([counts(text, self.words, 12) for _, text in pairs])
        raw = learn_weights(Net(self.first, linear), rows, torch.tensor(labels), options, seed=SEED).weights
        own = [[float(w) for w, other in zip(raw, labels, strict=True) if other == label] for label in labels]
        return {pair: float(w) / (sum(same) / len(same)) for pair, w, same in zip(pairs, raw, own, strict=True)}

    def step(self, round_, step):
        own, (batch, others, views, pairs) = self.options, self.steps[step]

        def weight_of(place, text):
            return 1.0 if self.sungen is None else self.sungen[place, text]

        def t2l(weight):  # equation 5, by weight
            terms, prompts = [], self.p(weight)
            for place in batch:
                p = softmax(SCALE * prompts @ self.f(TEXTS[place], weight))
                terms.append(-weight_of(place, TEXTS[place]) * (self.q[place] * torch.log(p)).sum())
            return sum(terms) / len(terms)

        def ssc(weight):  # (row, label, weight of the anchor)
            anchors = [(row / row.square().sum().sqrt(), label, 1.0) for label, row in enumerate(self.p(weight))]
            anchors += [(self.f(TEXTS[i], weight), self.label_of[i], weight_of(i, TEXTS[i])) for i in batch]
            for number, (place, texts) in enumerate(zip([*batch, *others], views, strict=True)):
                for text in texts:
                    sure = number < len(batch)
                    label, heavy = (self.label_of[place], weight_of(place, text)) if sure else (("own", number), own.unconfident_weight)
                    anchors.append((self.f(text, weight), label, heavy))
            total, weights, rows = 0.0, 0.0, torch.stack([row for row, _, _ in anchors])
            for a, (row, label, heavy) in enumerate(anchors):
                scores = rows @ row / own.contrastive_temperature
                positives = [b for b, (_, other, _) in enumerate(anchors) if other == label and b != a]
                if positives:
                    below = torch.log(torch.exp(scores).sum() - torch.exp(scores[a]))  # all but itself
                    total = total - heavy * (scores[positives] - below).sum() / len(positives)
                    weights += heavy
            return total / weights

        def ns3l(weight):  # -log of the probability that no negative label has
            terms, prompts = [], self.p(weight)
            for place in others:
                q = softmax(SCALE * prompts @ self.f(TEXTS[place], weight) / own.tau)
                terms.append(-own.ns3l_weight * torch.log(q[q.detach() >= own.ns3l_threshold].sum()))
            return sum(terms) / len(terms)

        def g2l(weight):  # equation 11, with the class that was asked for in the place of Q
            prompts = self.p(weight)
            return sum(-torch.log(softmax(SCALE * prompts @ self.f(text, weight))[label]) for text, label in pairs) / len(pairs)

        parts = {"t2l": t2l, "ssc": ssc} | ({"ns3l": ns3l} if own.negative and others else {}) | ({"g2l": g2l} if pairs else {})
        losses = {name: float(part(self.weight)) for name, part in parts.items()}
        gradient = gradient_of(lambda weight: sum(part(weight) for part in parts.values()), self.weight)
        self.weight = self.adam.step({"weight": self.weight}, {"weight": gradient})["weight"]
        return losses | {"loss": sum(losses.values())}


CASES = {
    "all": ({}, 1, ()),
    "none": (OFF, 1, ()),
    **{f"{switch} alone": (OFF | {switch: True}, 1, ()) for switch in OFF},
    **{f"without {switch}": ({switch: False}, 1, ()) for switch in OFF},
    "two continuations": ({}, 2, ()),
    "three continuations": ({}, 3, ()),
    "texts are missing": ({}, 1, (0, 3, 7, 10)),
    "written on confused classes": ({"written": "asked"}, 1, ()),
    "written alone": (OFF | {"written": "asked"}, 1, ()),
    "those that are filed there": ({"written": "filed"}, 1, ()),
    "some are missing": (OFF | {"written": "filed"}, 1, (0, 3, 7, 10)),
    "no unconfident documents in a batch": ({"unconfident_ratio": 0}, 1, ()),
    "more of them than there are": ({"unconfident_ratio": 9}, 1, ()),
    "rounds": ({"rounds": 3}, 1, ()),
    "steps_per_round": ({"steps_per_round": 3}, 1, ()),
    "per_class": ({"per_class": 3}, 1, ()),
    "first_share": ({"first_share": 0.5}, 1, ()),
    "last_share": ({"last_share": 0.8}, 1, ()),
    "tau": ({"tau": 0.5}, 1, ()),
    "contrastive_temperature": ({"contrastive_temperature": 0.5}, 1, ()),
    "unconfident_weight": ({"unconfident_weight": 1.0}, 1, ()),
    "ns3l_weight": ({"ns3l_weight": 0.3}, 1, ()),
    "ns3l_threshold": ({"ns3l_threshold": 0.1}, 1, ()),
    "outer_iterations": ({"outer_iterations": 9}, 1, ()),
    "inner_learning_rate": ({"inner_learning_rate": 0.01}, 1, ()),
    "learning_rate": ({"learning_rate": 0.01}, 1, ()),
    "weight_decay": ({"weight_decay": 0.5}, 1, ()),
}


@pytest.fixture(scope="module")
def all_on():
    torch.set_default_dtype(torch.float64)
    yield rounds_of(ByHand({}))[1][-1]
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_the_equations(case, all_on):
    options, samples, missing = CASES[case]
    method, channel = built(options, samples), Channel(missing)
    losses, weights, refreshed = rounds_of(ByHand(options, samples, missing))
    done = 0
    for round_ in range(method.rounds):
        figures, hand = method.refresh(round_, channel if method.wants_texts else no_texts), refreshed[round_]
        assert method.selection.label_of == hand.label_of
        assert figures["unconfident"] == len(hand.rest) > 0 and figures["selected"] == len(hand.label_of)
        assert ("weight_mean" in figures) == hand.options.weighted
        for step in range(method.steps(round_)):
            assert method.step(round_, step) == pytest.approx(losses[done], rel=1e-9)
            assert torch.allclose(method.encoder.weight, weights[done], rtol=0, atol=1e-9)
            done += 1
    assert done == len(weights)
    if case != "all":  # what the case is about counts
        assert not torch.allclose(weights[-1], all_on, atol=1e-5)


def test_every_option_has_a_case():
    tried = {option for options, _, _ in CASES.values() for option in options}
    assert tried == CombinedOptions.model_fields.keys() - {"name", "start_check"}  # the check: training/test_start_check.py


def test_weights_differ_within_a_pseudo_label_and_have_mean_one():
    hand = ByHand({})
    hand.refresh(0)
    for label in range(3):
        own = [weight for (place, _), weight in hand.sungen.items() if hand.label_of[place] == label]
        assert np.mean(own) == pytest.approx(1) and max(own) - min(own) > 1e-3


def test_what_is_asked_for():
    """The continuations of all documents, once; nothing where they are not used."""
    method, channel = built({}, 2), Channel()
    assert method.texts_wanted() == 2 * len(TEXTS)
    for round_ in range(2):
        method.refresh(round_, channel)
    assert channel.asked == [TextRequest(id_, "input", sample=sample) for id_, sample in itertools.product(IDS, range(2))]
    assert built({"generated": False}).texts_wanted() == 0


def test_what_is_asked_for_on_confused_classes():
    """Two texts of each document that is unconfident in a batch, on the classes that it is between; how many of them the encoder files there is reported."""
    method, channel, hand = built(OFF | {"written": "asked"}), Channel(), ByHand(OFF | {"written": "asked"})
    assert method.texts_expected() == {"input": 0.0, "conditional": 2.0 * len(TEXTS)} and method.texts_wanted() == 2 * len(TEXTS)
    assert built({"written": "filed", "unconfident_ratio": 0}, 2).texts_expected() == {"input": 2.0 * len(TEXTS), "conditional": 0.0}
    figures = method.refresh(0, channel)
    hand.refresh(0)
    drawn = {place for _, others, _, _ in hand.steps for place in others}
    assert len(channel.asked) == 2 * len(drawn) == figures["texts_on_confused_classes"] and {one.kind for one in channel.asked} == {"conditional"}
    pairs = {(written(one), one.label) for one in channel.asked}
    assert pairs == {pair for *_, of_step in hand.steps for pair in of_step}
    nobody = built(OFF | {"written": "asked", "unconfident_ratio": 0}).refresh(0, channel)
    assert (nobody["texts_on_confused_classes"], nobody["filed_under_the_class_asked_for"]) == (0, 0)
    hand.options.written = "filed"
    there = sum(len(hand.on_confused([place])) for place in drawn)
    assert 0 < there < len(channel.asked) and figures["filed_under_the_class_asked_for"] == there / len(channel.asked)


def test_embeddings_of_any_length_are_compared_by_their_angle():
    """`similarity: dot`: SSC's loss is of rows of length one all the same."""
    short, long = (built(OFF, encoder=TwoHalves(WORDS, seed=1, normalize=False)) for _ in range(2))
    long.encoder.weight.data *= 3.0
    short.refresh(0, no_texts)
    long.selection, long.drawn = short.selection, short.drawn
    found = [method.step(0, 0) for method in (short, long)]
    assert found[0]["ssc"] == pytest.approx(found[1]["ssc"], rel=1e-9) and found[0]["t2l"] != pytest.approx(found[1]["t2l"], rel=1e-3)


def test_weights_by_default_where_virtual_steps_are_affordable():
    assert built({"weighted": None}).weighted
    full = LinearEncoder(WORDS, seed=1)
    assert not built({"weighted": None}, encoder=full).weighted
    with pytest.raises(SelfTrainError, match=r"method\.weighted must be false for a full encoder"):
        built({"weighted": True}, encoder=full)


def test_a_threshold_that_leaves_an_undecided_document_no_class():
    with pytest.raises(SelfTrainError, match=r"method\.ns3l_threshold must be below 1/3.*\(got 0\.34\)"):
        built({"ns3l_threshold": 0.34})
    assert methods.options_of({"name": "combined", "ns3l_threshold": 0.34}).ns3l_threshold == 0.34
    assert built({"ns3l_threshold": 0.34, "negative": False}).rounds == 2


def test_a_resumed_training_ends_in_the_same_weights():
    states = []
    whole = train(built({}), texts=Channel(), report=lambda figures, state: states.append(copy.deepcopy(state)), seed=SEED)
    resumed = built({})
    train(resumed, texts=Channel(), report=lambda figures, state: None, seed=SEED, resume=states[0])
    assert torch.equal(whole.method.encoder.weight, resumed.encoder.weight)
