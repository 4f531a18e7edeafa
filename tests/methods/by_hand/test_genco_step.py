"""GenCo's training by hand: two rounds of two steps on an encoder W c(x), from the paper's equations, with AdamW written out; weights agree to ten digits.

The sums over a batch are means here, which is said in the docs; all else is as printed: equations 2 to 5, 9, 10 and 11, S_t of section 3.4, algorithm 1.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_hand import CLASSES, TAILS, TEXTS, WORDS, AdamW, LinearEncoder, differences_of, embedded, falling, gradient_of, rounds_of, softmax

from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import TextRequest, no_texts
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.genco import GenCoOptions

IDS = tuple(document_id(text) for text in TEXTS)

# What every case starts from; the similarity is scaled, so that P and the raw dot product differ.
BASE = {
    "rounds": 2,
    "steps_per_round": 2,
    "per_class": 2,
    "first_share": 0.5,
    "last_share": 0.8,
    "tau": 0.3,
    "learning_rate": 0.02,
    "weight_decay": 0.1,
}
SCALE, SEED = 2.5, 3
PINNED = [-0.24501488391948426, -0.7707361660873064, -0.6872103061350066, -0.23404598566770424, -0.18164882284616984]


def corpus():
    labels = tuple(Label(name, name, "") for name in CLASSES)
    return Corpus("toy", labels, ("about {label}", "news {label} {label} more"), Documents(IDS, TEXTS), Documents())


def written(request):
    """The language model: another text for every request."""
    place = IDS.index(request.document_id)
    if request.kind == "input":
        return f"{TAILS[(place + 2 * request.sample) % 5]} {TAILS[(place * 3 + request.sample) % 5]}"
    return f"{CLASSES[request.label]} {TAILS[(place + request.label + request.sample) % 5]} {TEXTS[place].split()[0]}"


class Channel:
    """`written`, but for texts that are missing or changed; what was asked is kept."""

    def __init__(self, missing=(), changed=None):
        self.missing, self.changed, self.asked = missing, changed or {}, []

    def __call__(self, requests):
        self.asked += requests
        return {one: self.changed.get(one, written(one)) for one in requests if (one.kind, IDS.index(one.document_id)) not in self.missing}


def built(options, samples=(1, 1), seed=SEED):
    document = {
        "model": {"scale": SCALE},
        "augment": {"input_samples": samples[0], "conditional_samples": samples[1]},
        "method": {"name": "genco", **BASE, **options},
    }
    return resolve(parse(document)).build(corpus(), LinearEncoder(WORDS, seed=1), seed=seed)


class ByHand:
    """The same training, written out. `weight` is W; `answers` are texts by request."""

    def __init__(self, options, samples, answers, derivative=gradient_of):
        self.derivative = derivative
        self.options = SimpleNamespace(**(GenCoOptions(**{**BASE, **options}).model_dump()))
        encoder = LinearEncoder(WORDS, seed=1)
        self.weight, self.words = encoder.weight.detach(), encoder.words
        self.samples, self.answers = samples, answers
        total = self.options.rounds * self.options.steps_per_round
        self.adam = AdamW(falling(self.options.learning_rate, total), self.options.weight_decay)

    def f(self, text, weight=None, longest=12, unit=True):
        return embedded(self.weight if weight is None else weight, self.words, text, longest, unit=unit)

    def prompts(self, name):
        return [f"about {name}", f"news {name} {name} more"]

    def p(self, weight=None, unit=True):
        """f(p_j): the mean over a class's prompts."""
        return torch.stack([sum(self.f(prompt, weight, unit=unit) for prompt in self.prompts(name)) / 2 for name in CLASSES])

    def scores(self, texts, longest=12):
        """What pseudo-labels are made from, of the mean over `texts`: cosines times the scale; `released` takes dot products of W c(x) as they are."""
        if self.options.target_similarity == "released":
            return self.p(unit=False) @ (sum(self.f(text, longest=longest, unit=False) for text in texts) / len(texts))
        mean = sum(self.f(text, longest=longest) for text in texts)
        return SCALE * self.p() @ (mean / mean.square().sum().sqrt())

    def q(self, scores):
        """Equation 4."""
        return softmax(scores / self.options.tau)

    def answered(self, kind, place, label=-1):
        wanted = [TextRequest(IDS[place], kind, label, sample) for sample in range(self.samples[kind == "conditional"])]
        return [self.answers[request] for request in wanted if request in self.answers]

    def refresh(self, round_):
        own, self.about_texts = self.options, {}
        self.confidence, q = [], []
        for place, text in enumerate(TEXTS):
            read, longest = [text], 12
            if own.input_augmentation:  # equation 9; a document without continuations stands for itself
                read, longest = [f"{text} {more}" for more in self.answered("input", place) or [""]], 24
            scores = self.scores(read, longest)
            self.confidence.append(softmax(scores))  # equation 3
            q.append(self.q(scores))
        # Section 3.4: S_t grows from first_share to last_share of the documents a class
        share = own.last_share if own.rounds == 1 else own.first_share + (own.last_share - own.first_share) * round_ / (own.rounds - 1)
        size = max(1, round(share * len(TEXTS) / len(CLASSES)))
        best = [float(row.max()) for row in self.confidence]
        labels = [int(row.argmax()) for row in self.confidence]  # equation 2
        self.groups = [sorted((i for i in range(len(TEXTS)) if labels[i] == label), key=lambda i: -best[i])[:size] for label in range(3)]
        self.label_of = {place: label for label, group in enumerate(self.groups) for place in group}
        self.trained_on = {place: [(TEXTS[place], q[place])] for place in self.label_of}
        self.drawn = {place for step in range(own.steps_per_round) for place in self.batch(np.random.default_rng([SEED, round_, step]))}
        if own.conditional_augmentation:  # section 3.3: every text has the Q of its own embedding
            for place, label in self.label_of.items():
                texts = [(text, self.q(self.scores([text]))) for text in self.answered("conditional", place, label)]
                if own.conditional_filter:
                    texts.sort(key=lambda item: -float(softmax(self.scores([item[0]]))[label]))
                    texts = texts[: own.conditional_filter]
                self.trained_on[place] = texts or self.trained_on[place]
            pairs = [(place, self.label_of[place]) for place in self.drawn]
            agree = [int(self.scores([text]).argmax()) == label for place, label in pairs for text in self.answered("conditional", place, label)]
            self.about_texts = {
                "pairs_drawn": len(pairs),
                "pairs_without_conditional_text": sum(not self.answered("conditional", *pair) for pair in pairs),
                "conditional_texts_filed_under_their_label": sum(agree) / len(agree) if agree else 0.0,
            }

    def batch(self, rng):
        per_class = self.options.per_class
        return [group[i] for group in self.groups if group for i in rng.choice(len(group), per_class, replace=len(group) < per_class)]

    def step(self, round_, step):
        """The losses and, in `weight`, W after the step; draws follow from (seed, round, step) alone."""
        own, rng = self.options, np.random.default_rng([SEED, round_, step])
        batch = self.batch(rng)
        asked = [bool(own.conditional_augmentation and self.answered("conditional", place, self.label_of[place])) for place in batch]
        drawn = [self.trained_on[place][rng.integers(len(self.trained_on[place])) if ask else 0] for place, ask in zip(batch, asked, strict=True)]
        chosen = [self.prompts(name)[rng.integers(2)] for name in CLASSES] if own.label_prompt == "released" else None
        keys = []
        if own.input_augmentation:
            for place in batch:
                if tails := self.answered("input", place):
                    keys.append((tails[rng.integers(len(tails))], self.label_of[place]))

        def main(weight):  # equation 5, or 11 on conditional texts
            p = torch.stack([self.f(prompt, weight) for prompt in chosen]) if chosen else self.p(weight)
            terms = []
            for text, held in drawn:
                scores = SCALE * p @ self.f(text, weight)
                q = self.q(scores) if own.target_gradient else held  # of the present weights: at tau = 1 equation 8
                terms.append(-(q * torch.log(softmax(scores))).sum())
            return sum(terms) / len(terms)

        def t2g(weight):  # equation 10
            texts, generated = [self.f(TEXTS[place], weight) for place in batch], [self.f(text, weight) for text, _ in keys]
            against = texts if own.t2g_denominator == "texts" else generated
            terms = []
            for x, place in zip(texts, batch, strict=True):
                positives = [key for key, (_, label) in zip(generated, keys, strict=True) if label == self.label_of[place]]  # A(i)
                if positives:
                    below = sum(torch.exp(SCALE * x @ other) for other in against)
                    terms.append(-sum(torch.log(torch.exp(SCALE * x @ key) / below) for key in positives) / len(positives))
            return sum(terms) / len(terms)

        parts = [main, t2g] if keys else [main]
        losses = {"g2l" if own.conditional_augmentation else "t2l": float(main(self.weight))} | ({"t2g": float(t2g(self.weight))} if keys else {})
        gradient = self.derivative(lambda weight: sum(part(weight) for part in parts), self.weight)
        self.weight = self.adam.step({"weight": self.weight}, {"weight": gradient})["weight"]
        return losses | {"loss": sum(losses.values())}


CASES = {
    "GenCo": ({}, (1, 1), ()),
    "GenCo - CA": ({"conditional_augmentation": False}, (1, 1), ()),
    "GenCo - IA": ({"input_augmentation": False}, (1, 1), ()),
    "self-training": ({"input_augmentation": False, "conditional_augmentation": False}, (1, 1), ()),
    "K = 3, M = 2": ({}, (3, 2), ()),
    "K = 3 without CA": ({"conditional_augmentation": False}, (3, 1), ()),
    "texts are missing": ({}, (1, 1), {("input", 0), ("input", 3), ("input", 5), ("conditional", 1), ("conditional", 7)}),
    "a class without continuations": ({}, (1, 1), {("input", 2), ("input", 7), ("input", 10)}),
    "no conditional text": ({}, (1, 1), {("conditional", place) for place in range(len(TEXTS))}),
    "no continuation": ({}, (1, 1), {("input", place) for place in range(len(TEXTS))}),
    "denominator of the released code": ({"t2g_denominator": "generated"}, (2, 1), ()),
    "Q of the raw dot product": ({"target_similarity": "released"}, (1, 1), ()),
    "raw dot products, K = 3, filter": ({"target_similarity": "released", "conditional_filter": 2}, (3, 4), ()),
    "Q with its gradient": ({"target_gradient": True}, (1, 1), ()),
    "equation 8": ({"target_gradient": True, "tau": 1.0, "input_augmentation": False, "conditional_augmentation": False}, (1, 1), ()),
    "one prompt at random": ({"label_prompt": "released"}, (1, 1), ()),
    "filter": ({"conditional_filter": 2}, (1, 4), ()),
    "tau": ({"tau": 0.9}, (1, 1), ()),
    "per_class": ({"per_class": 1}, (1, 1), ()),
    "per_class above what is there": ({"per_class": 5}, (1, 1), ()),
    "first_share": ({"first_share": 0.1}, (1, 1), ()),
    "last_share": ({"last_share": 0.5}, (1, 1), ()),
    "rounds": ({"rounds": 3}, (1, 1), ()),
    "one round": ({"rounds": 1, "first_share": 0.1, "last_share": 0.6}, (1, 1), ()),
    "steps_per_round": ({"steps_per_round": 3}, (1, 1), ()),
    "learning_rate": ({"learning_rate": 0.01}, (1, 1), ()),
    "weight_decay": ({"weight_decay": 0.5}, (1, 1), ()),
}


def by_hand(case, derivative=gradient_of):
    """Losses of every step, W after each, and what every refresh chose."""
    options, samples, missing = CASES[case]
    requests = [TextRequest(id_, "input", sample=s) for id_, s in itertools.product(IDS, range(samples[0]))]
    requests += [TextRequest(id_, "conditional", label, s) for id_, label, s in itertools.product(IDS, range(3), range(samples[1]))]
    return rounds_of(ByHand(options, samples, Channel(missing)(requests), derivative))


@pytest.fixture(scope="module")
def as_printed():
    """W at the end of the case GenCo: what all others are compared with."""
    return by_hand("GenCo")[1][-1]


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_the_equations(case, as_printed):
    options, samples, missing = CASES[case]
    method, channel = built(options, samples), Channel(missing)
    losses, weights, refreshed = by_hand(case)
    done = 0
    for round_ in range(method.rounds):
        figures, hand = method.refresh(round_, channel), refreshed[round_]
        best = [float(row.max()) for row in hand.confidence]
        assert method.selection.groups == tuple(map(tuple, hand.groups))
        assert method.selection.label_of == hand.label_of
        assert figures["selected"] == len(hand.label_of)
        assert figures["classes_without_pseudo_labels"] == sum(not group for group in hand.groups)
        assert figures["mean_confidence"] == pytest.approx(sum(best) / len(best), rel=1e-9)
        assert figures.keys() - {"selected", "classes_without_pseudo_labels", "mean_confidence"} == set(hand.about_texts)
        assert {name: figures[name] for name in hand.about_texts} == pytest.approx(hand.about_texts)
        assert method.steps(round_) == hand.options.steps_per_round
        for step in range(hand.options.steps_per_round):
            found = method.step(round_, step)
            assert found == pytest.approx(losses[done], rel=1e-10)
            assert torch.allclose(method.encoder.weight, weights[done], rtol=0, atol=1e-10)
            done += 1
    if case != "GenCo":  # what the case is about counts: its training is another one
        assert not torch.allclose(weights[-1], as_printed, atol=1e-3)


def test_every_option_has_a_case():
    tried = {option for options, _, _ in CASES.values() for option in options}
    # The two checks choose between trainings that have their cases: test_text_check.py, and training/test_start_check.py.
    assert tried == GenCoOptions.model_fields.keys() - {"name", "text_check", "start_check"}


def test_the_derivatives_of_the_equations_are_those_of_differences():
    for exact, near in zip(by_hand("K = 3, M = 2")[1], by_hand("K = 3, M = 2", differences_of)[1], strict=True):
        assert torch.allclose(exact, near, rtol=0, atol=1e-7)


def trained_weight(options, channel, samples=(1, 1)):
    method = built(options, samples)
    for round_ in range(method.rounds):
        method.refresh(round_, channel)
        for step in range(method.steps(round_)):
            method.step(round_, step)
    return method.encoder.weight.detach()


@pytest.mark.parametrize("conditional", [True, False])
def test_every_text_that_is_asked_for_moves_the_weights(conditional):
    options = {"rounds": 1, "steps_per_round": 4, "per_class": 5, "last_share": 1.0, "conditional_augmentation": conditional}
    channel = Channel()
    weight = trained_weight(options, channel)
    assert {request.kind for request in channel.asked} == ({"input", "conditional"} if conditional else {"input"})
    for request in channel.asked:
        other = trained_weight(options, Channel(changed={request: "film then scene music"}))
        assert (other - weight).abs().max() > 1e-6, request


def test_a_continuation_can_change_the_pseudo_label():
    """Equation 9 against equation 2 alone: the document says one thing, its continuation another."""
    place = TEXTS.index("day more then")
    labels = []
    for tail in ("goal goal match team", "bank share profit bank"):
        method = built({"first_share": 1.0, "last_share": 1.0})
        method.encoder.weight.data = torch.eye(3, dtype=torch.float64)[[WORDS.split().index(word) % 3 for word in WORDS.split()]].T
        method.encoder.weight.data[:, [method.encoder.words[word] for word in ("sport", "match", "goal", "team")]] = torch.eye(3)[:, :1]
        method.encoder.weight.data[:, [method.encoder.words[word] for word in ("money", "bank", "share", "profit")]] = torch.eye(3)[:, 1:2]
        method.refresh(0, Channel(changed={TextRequest(IDS[place], "input", sample=0): tail}))
        labels.append(method.selection.label_of.get(place))
    assert labels == [0, 1]


def test_what_is_asked_for():
    method, channel = built({}, (2, 3)), Channel()
    method.refresh(0, channel)
    assert channel.asked[:22] == [TextRequest(id_, "input", -1, sample) for id_ in IDS for sample in range(2)]
    pairs = sorted(method.selection.label_of.items())
    assert channel.asked[22:] == [TextRequest(IDS[place], "conditional", label, sample) for place, label in pairs for sample in range(3)]
    before = len(channel.asked)
    method.refresh(1, channel)
    assert {request.kind for request in channel.asked[before:]} == {"conditional"}


def test_texts_are_asked_for_of_what_the_batches_draw_and_of_nothing_else():
    """Every batch is drawn again here, from (seed, round, step) as the step does."""
    method, channel = built({"per_class": 1, "first_share": 1.0, "last_share": 1.0}), Channel()
    method.refresh(0, channel)
    drawn = set()
    for step in range(2):
        rng = np.random.default_rng([SEED, 0, step])
        drawn |= {group[int(rng.choice(len(group), 1, replace=False)[0])] for group in method.selection.groups if group}
    asked = [request for request in channel.asked if request.kind == "conditional"]
    assert asked == [TextRequest(IDS[place], "conditional", method.selection.label_of[place], 0) for place in sorted(drawn)]
    assert len(asked) < len(method.selection)


def test_the_weights_are_those_of_when_every_kept_pair_was_written_for():
    """Digits as trained before texts were asked for after the draw; a text is embedded by itself, since its last digit depends on what shares its pass."""
    options = {"rounds": 3, "steps_per_round": 2, "per_class": 1, "first_share": 0.8, "last_share": 1.0}
    method, channel = built(options, (1, 2)), Channel()
    method.encoder.batch_size = 1
    for round_ in range(method.rounds):
        method.refresh(round_, channel)
        for step in range(method.steps(round_)):
            method.step(round_, step)
    assert method.encoder.weight.flatten()[:5].tolist() == pytest.approx(PINNED, rel=1e-12)
    pairs = {(request.document_id, request.label) for request in channel.asked if request.kind == "conditional"}
    assert len(pairs) == 9  # of 10 that were kept in some round


@pytest.mark.parametrize(
    ("options", "samples", "wanted"),
    [
        ({}, (2, 3), 11 * 2 + 15 * 3),  # S_t is 2 and 3 of each of 3 classes: 15 pairs together, fewer than twice the last 9, and a round may draw 12
        ({"rounds": 4}, (1, 1), 11 + 18),  # 2, 2, 3, 3 make 30
        ({"conditional_augmentation": False}, (2, 3), 22),
        ({"input_augmentation": False}, (2, 3), 45),
        ({"input_augmentation": False, "conditional_augmentation": False}, (2, 3), 0),
        ({"rounds": 0}, (2, 3), 0),
        ({"per_class": 1, "steps_per_round": 1, "last_share": 1.0}, (2, 3), 22 + 6 * 3),  # S_t is 2 and 4, and a round draws one of each class
    ],
)
def test_texts_wanted_before_anything_is_asked_for(options, samples, wanted):
    method = built(options, samples)
    assert method.texts_wanted() == wanted
    assert method.wants_texts == (wanted > 0)


def test_nothing_that_is_selected_takes_no_step():
    method = built({"input_augmentation": False, "conditional_augmentation": False})
    assert method.steps(0) == 0  # before the first refresh
    method.refresh(0, no_texts)
    assert method.steps(0) == 2
