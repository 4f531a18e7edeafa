"""LOTClass by hand, from docs/methods/lotclass.md and the paper's equations: category vocabulary, masked category prediction, self-training, on a language
model E, U and a body E, D with a linear classifier C, c. The rate's warm-up and decay, clipping and the fresh optimiser of the second phase are written out."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_hand import AdamW, softmax
from masked_by_hand import SPECIAL, LinearMasked, states

from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods import options_of
from selftrain.methods.zero_shot.lotclass import LOTClass, LOTClassOptions, label_names
from selftrain.models.workers import Workers

GROUPS = {"sport": "match goal team", "money": "bank share profit", "film": "actor scene music"}
STOP_WORDS = {"then", "the", "and"}
WORDS = " ".join([*GROUPS, *GROUPS.values(), "day then the x : news"])
LABELS = (Label("s", "Sport and match", ""), Label("m", "money", ""), Label("f", "film", ""))
NAMES = {"sport": 0, "match": 0, "money": 1, "film": 2}
TEXTS = (
    "sport match goal day",
    "goal team Sport x",
    "team match then goal",
    "money bank share",
    "profit bank money day",
    "share profit then bank",
    "film actor scene",
    "scene music film then",
    "music actor then scene",
    "the then day news x : match goal film",  # the last three words are beyond max_tokens
    "goal bank day",
)
SEED = 3
BASE = {
    "top_words": 5,
    "vocabulary": 9,
    "match_threshold": 2,
    "fewest_documents": 1,
    "mcp_epochs": 4,
    "mcp_learning_rate": 0.1,
    "self_training_epochs": 2.2,
    "update_interval": 4,
    "learning_rate": 0.05,
    "weight_decay": 0.1,
    "batch_size": 4,
}


def encoder(dropout=0.0):
    found = LinearMasked(WORDS, dimensions=4, seed=28, dropout=dropout)
    rows = 0.2 * found.language_model.E.detach()  # words of a group share a direction; the others say little
    for number, (name, words) in enumerate(GROUPS.items()):
        for word in [name, *words.split()]:
            rows[found.vocabulary[word], number] += 1.0
    found.language_model.E.data, found.language_model.U.data = rows, rows.clone()
    return found


def corpus(labels=LABELS, texts=TEXTS):
    return Corpus("toy", labels, ("about {label}",), Documents(tuple(map(document_id, texts)), texts), Documents())


def built(options, own=None, **how):
    torch.manual_seed(1)
    given = options_of({"name": "lotclass", **BASE, **options})
    return LOTClass(options=given, corpus=corpus(**how), encoder=own or encoder(), workers=Workers(), seed=SEED)


class ByHand:
    """The training, written out; `body` are E, D and the linear classifier C, c."""

    def __init__(self, options, classifier):
        self.own = SimpleNamespace(**LOTClassOptions(**{**BASE, **options}).model_dump())
        start = encoder()
        self.id_of, self.word_of = start.vocabulary, {place: word for word, place in start.vocabulary.items()}
        self.E, self.U = start.language_model.E.detach(), start.language_model.U.detach()
        self.body = {"E": start.E.detach(), "D": start.D.detach(), "C": classifier.weight.detach().clone(), "c": classifier.bias.detach().clone()}
        self.rows = [[self.id_of["[CLS]"], *(self.id_of[w] for w in text.lower().split()[:6]), self.id_of["[SEP]"]] for text in TEXTS]
        self.clipped = []

    def likeliest(self, row, place):
        logits = (states(self.E, row) @ self.U.T)[place]
        return sorted(range(len(logits)), key=lambda token: -float(logits[token]))[: self.own.top_words]

    def vocabulary(self):
        """Step 1."""
        counts = [Counter() for _ in LABELS]
        for row in self.rows:
            for place, token in enumerate(row):
                if (label := NAMES.get(self.word_of[token])) is not None:
                    counts[label].update(self.likeliest(row, place))
        top = [[token for _, token in sorted((-count, token) for token, count in own.items())[: self.own.vocabulary]] for own in counts]

        def kept(token, label):
            word = self.word_of[token]
            alone = sum(token in other for other in top) == 1
            return NAMES.get(word) == label or (alone and word.isalpha() and len(word) > 1 and word not in STOP_WORDS)

        return [[token for token in tokens if kept(token, label)] for label, tokens in enumerate(top)]

    def indicative(self):
        """Step 2: (document, class, places)."""
        vocabulary, found = self.vocabulary(), []
        for number, row in enumerate(self.rows):
            for label, tokens in enumerate(vocabulary):
                inside = range(1, len(row) - 1)
                places = [place for place in inside if sum(token in tokens for token in self.likeliest(row, place)) > self.own.match_threshold]
                if places:
                    found.append((number, label, places))
        return found

    def predicted(self, w, row, place):
        """p(c | h) of a token."""
        return softmax(w["C"] @ torch.tanh(w["D"] @ states(w["E"], row)[place]) + w["c"])

    def optimiser(self, rate, total):
        """10 % warm-up, then in a line to 0."""
        warm = 0.1 * total
        return AdamW(
            lambda step: rate * ((step + 1) / (warm + 1) if step < warm else (total - step) / (total - warm)), self.own.weight_decay, clip=1.0
        )

    def moved(self, adam, loss):
        variables = {name: value.clone().requires_grad_() for name, value in self.body.items()}
        value = loss(variables)
        gradients = dict(zip(variables, torch.autograd.grad(value, list(variables.values())), strict=True))
        self.clipped.append(sum(float(g.square().sum()) for g in gradients.values()) > 1.0)
        self.body = adam.step(self.body, gradients)
        return float(value.detach()), self.body

    def category_prediction(self):
        """Epochs of (loss, weights) of every step: L_MCP, the mean over a batch's hidden words."""
        own, pairs = self.own, self.indicative()
        batches = -(-len(pairs) // own.batch_size)
        adam = self.optimiser(own.mcp_learning_rate, own.mcp_epochs * batches)
        for epoch in range(own.mcp_epochs):
            order, done = np.random.default_rng([SEED, epoch]).permutation(len(pairs)), []
            for start in range(0, len(pairs), own.batch_size):
                batch = [pairs[i] for i in order[start : start + own.batch_size]]

                def loss(w, batch=batch):
                    terms = []
                    for number, label, places in batch:
                        row = [self.id_of["[MASK]"] if place in places else token for place, token in enumerate(self.rows[number])]
                        terms += [-torch.log(self.predicted(w, row, place)[label]) for place in places]
                    return sum(terms) / len(terms)

                done.append(self.moved(adam, loss))
            yield done

    def self_training(self):
        """Stretches of (targets, agreement, (loss, weights) of every step): L_ST without the entropy of Q."""
        own, count = self.own, len(TEXTS)
        total = max(1, int(count * own.self_training_epochs / own.batch_size))
        order = np.random.default_rng([SEED, 1]).permutation(count)
        adam = self.optimiser(own.learning_rate, total)
        for first in range(0, total, own.update_interval):
            steps = min(own.update_interval, total - first)
            documents = [int(order[i % count]) for i in range(first * own.batch_size, first * own.batch_size + min(count, steps * own.batch_size))]
            p = torch.stack([self.predicted(self.body, self.rows[number], 0) for number in documents])
            f = p.sum(dim=0)
            q = torch.stack([(row**2 / f) / (row**2 / f).sum() for row in p])
            targets = dict(zip(documents, q, strict=True))
            agree = sum(int(a.argmax()) == int(b.argmax()) for a, b in zip(p, q, strict=True)) / len(p)
            done = []
            for step in range(steps):
                batch = [documents[i % len(documents)] for i in range(step * own.batch_size, (step + 1) * own.batch_size)]

                def loss(w, batch=batch, targets=targets):
                    return -sum((targets[number] * torch.log(self.predicted(w, self.rows[number], 0))).sum() for number in batch) / len(batch)

                done.append(self.moved(adam, loss))
            yield documents, targets, agree, done


CASES = {
    "LOTClass": {},
    "top_words": {"top_words": 6},
    "vocabulary": {"vocabulary": 3},
    "match_threshold": {"match_threshold": 1},
    "mcp_epochs": {"mcp_epochs": 3},
    "mcp_learning_rate": {"mcp_learning_rate": 0.05},
    "self_training_epochs": {"self_training_epochs": 1.0},
    "less than one step of self-training": {"self_training_epochs": 0.1},
    "update_interval": {"update_interval": 2},
    "update_interval above a pass": {"update_interval": 5},
    "learning_rate": {"learning_rate": 0.01},
    "weight_decay": {"weight_decay": 0.5},
    "batch_size": {"batch_size": 3},
}


def near(method, weights):
    found = {"E": method.encoder.E, "D": method.encoder.D, "C": method.classifier.weight, "c": method.classifier.bias}
    return all(torch.allclose(found[name], weights[name], rtol=0, atol=1e-9) for name in found)


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_the_equations(case):
    method = built(CASES[case])
    hand = ByHand(CASES[case], method.classifier)
    before = [value.detach().clone() for value in method.encoder.language_model.parameters()]
    pairs = hand.indicative()
    for epoch, done in enumerate(hand.category_prediction()):
        figures = method.refresh(epoch, no_texts)
        assert figures == {"documents_with_indicative_words": len({number for number, _, _ in pairs})}
        assert method.vocabulary == hand.vocabulary()
        assert method._indicative == pairs
        assert method.steps(epoch) == len(done)
        for step, (value, weights) in enumerate(done):
            assert method.step(epoch, step) == {"mcp": pytest.approx(value, rel=1e-9)}
            assert near(method, weights)
    for stretch, (documents, targets, agree, done) in enumerate(hand.self_training()):
        round_ = hand.own.mcp_epochs + stretch
        assert method.refresh(round_, no_texts) == {"targets_agree": pytest.approx(agree)}
        assert method.documents_of(round_) == documents
        assert method._targets.keys() == targets.keys()
        assert all(torch.allclose(method._targets[number], row, rtol=0, atol=1e-9) for number, row in targets.items())
        assert method.steps(round_) == len(done)
        for step, (value, weights) in enumerate(done):
            assert method.step(round_, step) == {"self_training": pytest.approx(value, rel=1e-9)}
            assert near(method, weights)
    assert method.rounds == round_ + 1
    assert any(hand.clipped) and not all(hand.clipped)
    assert all(torch.equal(a, b) for a, b in zip(before, method.encoder.language_model.parameters(), strict=True))
    if case != "LOTClass":
        assert not torch.allclose(hand.body["E"], as_printed()["E"], atol=1e-4)


@functools.cache
def as_printed():
    hand = ByHand({}, built({}).classifier)
    list(hand.category_prediction())
    list(hand.self_training())
    return hand.body


def test_every_option_has_a_case():
    tried = {option for options in CASES.values() for option in options}
    assert tried == LOTClassOptions.model_fields.keys() - {"name", "fewest_documents"}  # that one refuses: below


def test_too_few_documents_with_indicative_words_are_refused_from_the_first_missing_one_on():
    numbers = [{number for number, own, _ in ByHand({}, built({}).classifier).indicative() if own == label} for label in range(3)]
    fewest = min(len(found) for found in numbers)
    built({"fewest_documents": fewest}).refresh(0, no_texts)
    name, found = next((label.name, len(own)) for label, own in zip(LABELS, numbers, strict=True) if len(own) < fewest + 1)
    with pytest.raises(SelfTrainError, match=rf"of the class '{name}' in {found} documents, fewer than method\.fewest_documents {fewest + 1}"):
        built({"fewest_documents": fewest + 1}).refresh(0, no_texts)


def test_before_the_first_refresh_every_document_counts_as_one_with_indicative_words():
    assert built({}).steps(0) == 3  # 11 documents in batches of 4: what a progress bar is told


def test_names_are_words_in_lower_case_without_connecting_ones():
    assert label_names(LABELS) == [["sport", "match"], ["money"], ["film"]]
    assert label_names([Label("a", "The Then", "")]) == [["the then"]]  # nothing but connecting words: the whole name
    assert label_names([Label("a", "Computer System of Interest", "")]) == [["computer", "system", "interest"]]


def test_a_word_of_two_names_is_refused_and_twice_in_one_is_not():
    shared = (Label("a", "water sport", ""), Label("b", "team sport", ""), LABELS[2])
    with pytest.raises(SelfTrainError, match="The word 'sport' is in the names of two classes"):
        LOTClass.check(LOTClassOptions(), corpus(labels=shared))
    LOTClass.check(LOTClassOptions(), corpus(labels=(Label("a", "sport and sport", ""), *LABELS[1:])))


def test_the_student_is_the_classifier_on_the_first_token():
    method = built({})
    hand = ByHand({}, method.classifier)
    found = method.student().predict([TEXTS[0]])[0]
    assert torch.allclose(found, hand.predicted(hand.body, hand.rows[0], 0), rtol=0, atol=1e-12)


def test_a_checkpoint_holds_the_phase_the_vocabulary_and_the_moments():
    whole, hand = built({}), ByHand({}, built({}).classifier)
    rounds = list(hand.category_prediction()) + [done for _, _, _, done in hand.self_training()]
    for round_ in range(whole.rounds):
        whole.refresh(round_, no_texts)
        for step in range(whole.steps(round_)):
            whole.step(round_, step)
            if step == 0 and whole.steps(round_) > 1:  # in the middle of a round: the moments are not those of a fresh optimiser
                state = copy.deepcopy(whole.state())
                rest = built({}, encoder())
                rest.load_state(state)
                assert rest.vocabulary == whole.vocabulary and rest._indicative == whole._indicative
                rest._targets = whole._targets
                rest.step(round_, 1)
                assert near(rest, rounds[round_][1][1])
    untouched = built({})
    untouched.load_state(built({}).state())  # of before the first round
    assert untouched.optimizer is None


def test_pieces_signs_letters_and_connecting_words_say_nothing():
    method = built({}, LinearMasked(WORDS + " ##day interest"))
    says = {word: method._says_something(place) for word, place in method.encoder.vocabulary.items()}
    assert [word for word, something in says.items() if not something] == [*SPECIAL, "then", "the", "x", ":", "##day"]
    assert says["interest"] and says["day"]
