"""A learner of the family with few labels in plain numbers: documents, the order in which a step draws them, its loss, AdamW.

`ByHand` goes the way of a method beside it, step by step, and knows nothing of ours but the weights that both start from. A test of a method overrides the
losses, written out from the equations of its paper. All numbers are float64, so that both ways agree to ten digits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from by_hand import SGD, AdamW, LinearEncoder, falling, softmax

from selftrain import methods
from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import no_texts
from selftrain.data.views import edited
from selftrain.methods.recipe import resolve
from selftrain.models.workers import Workers

TEXTS = (  # four of each class
    "goal goal team win coach the",
    "team match goal the player match win",
    "coach player match the goal of bank",
    "player win win team of the film",
    "bank market share the bank of cash",
    "market share cash of the profit share",
    "profit bank cash market the win",
    "share the profit of market film cash",
    "film actor band the song film",
    "actor song of the film album actor",
    "band album song the team of actor",
    "album film of band the market song",
)
WORDS = " ".join(TEXTS)
TRUTH = [number // 4 for number in range(12)]
LABELED = (0, 1, 4, 8, 9)  # a class has one document alone
SHORT = {"rounds": 2, "steps_per_round": 2, "batch_size": 3, "unlabeled_ratio": 2, "learning_rate": 0.05, "ramp": 0.75}
SAME_VIEWS = {"view_pool": 1}  # in every step


class HalvedEncoder(LinearEncoder):
    """The linear encoder in its two halves: word counts, and W of them. It may be perturbed and mixed."""

    tensors = True
    continuous = True

    def inputs(self, documents):
        return torch.stack([counts(self.words, text) for text in documents])

    def of_inputs(self, rows):
        found = rows @ self.weight.T
        return found / found.square().sum(dim=1, keepdim=True).sqrt() if self.normalize else found

    def forward(self, documents, max_tokens=None):
        return self.of_inputs(self.inputs(documents))


def counts(words: dict[str, int], text: str) -> torch.Tensor:
    """How often a text has each word of the vocabulary."""
    return torch.tensor([float(text.split().count(word)) for word in words])


class Watching(Workers):
    """Remembers the gradients that every step is taken with."""

    def average_gradients(self, parameters):
        parameters = list(parameters)
        super().average_gradients(parameters)
        seen = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
        self.__dict__.setdefault("gradients", []).append(seen)


def toy(labeled=LABELED, classes=3, **more: Any) -> Corpus:
    """The documents above; of those in `labeled` the label is granted."""
    ids = tuple(document_id(text) for text in TEXTS)
    names = ("sport", "money", "art", "rest")[:classes]
    granted = {ids[index]: TRUTH[index] for index in labeled}
    return replace(
        Corpus("toy", tuple(Label(name, name, name) for name in names), ("{label}",), Documents(ids, TEXTS), Documents(), granted=granted), **more
    )


def built(
    name: str, corpus: Corpus | None = None, *, seed: int = 0, start: int = 3, normalize: bool = True, workers: Workers | None = None, **options: Any
):
    """The method with the linear encoder; the first weights of what it adds follow from `start`."""
    torch.manual_seed(start)
    encoder = HalvedEncoder(WORDS, dimensions=3, seed=1, normalize=normalize)
    experiment = parse({"method": {**SHORT, "name": name, **options}})
    return resolve(experiment).build(corpus or toy(), encoder, workers=workers or Watching(), seed=seed)


@dataclass
class Drawn:
    """A step's documents, its generator, and the share of all steps that is done."""

    labeled: list[int]
    unlabeled: list[int]
    rng: np.random.Generator
    progress: float


class ByHand:
    """The family's step: cross-entropy on the labeled documents and the ramped losses on the unlabeled ones, by AdamW with a falling rate.

    A step draws views of its documents anew where there are more than it compares (`view_pool`), two different ones of each document.
    Losses are dictionaries by name; `w` holds the weights of a step: `W` of the encoder, `U` and `b` of the classifier.
    """

    def __init__(self, method: Any) -> None:
        self.options, self.seed = method.options, method.seed
        self.texts, self.words, self.normalize = method.corpus.unlabeled.contents, method.encoder.words, method.encoder.normalize
        ids = method.corpus.unlabeled.ids
        self.classes = len(method.corpus.labels)
        self.labels = {index: method.corpus.granted[id_] for index, id_ in enumerate(ids) if id_ in method.corpus.granted}
        self.labeled_ones = list(self.labels)
        self.unlabeled_ones = [index for index in range(len(ids)) if index not in self.labels] or self.labeled_ones
        names = {"encoder.weight": "W", "classifier.weight": "U", "classifier.bias": "b"}
        parts = {"encoder": method.encoder, "classifier": method.classifier}
        self.weights = {
            names[f"{part}.{name}"]: value.detach().clone() for part, module in parts.items() for name, value in module.named_parameters()
        }
        self.first = dict(self.weights)
        self.continuations: dict[tuple[int, int], str] = {}
        self.numbers: dict[int, list[int]] = {}  # of the views that a step draws, by document
        self.drawn: list[dict[int, list[int]]] = []  # the same of every step
        self.optimizer = self.fresh_optimizer()

    # What a method's equations say

    compared = 0  # views of an unlabeled document

    def labeled(self, w: dict, step: Drawn) -> dict[str, torch.Tensor]:
        return {"ce": mean(-softmax(self.logits(w, self.texts[i])).log()[self.labels[i]] for i in step.labeled)}

    def unlabeled(self, w: dict, step: Drawn) -> dict[str, torch.Tensor]:
        return {}

    def negatives(self, w: dict, step: Drawn) -> list[set[int]]:
        """NS3L, algorithm 1: the classes below T."""
        probabilities = [softmax(self.logits(w, self.texts[i])).tolist() for i in step.unlabeled]
        return [{j for j, p in enumerate(row) if p < self.options.ns3l_threshold} for row in probabilities]

    def ns3l(self, w: dict, step: Drawn) -> torch.Tensor:
        terms = []
        for i, negative in zip(step.unlabeled, self.negatives(w, step), strict=True):
            p = softmax(self.logits(w, self.texts[i]))
            terms.append(-(1 - sum((p[j] for j in negative), torch.zeros(()))).log())
        return mean(terms)

    def ramp(self, progress: float) -> float:
        """exp(-5 (1 - t)^2) over the first share of the steps (Tarvainen & Valpola 2017)."""
        done = 1.0 if progress >= self.options.ramp else progress / self.options.ramp
        return math.exp(-5 * (1 - done) * (1 - done))

    def begin(self, round_: int) -> None:
        """Before a round's first step."""

    def after(self) -> None:
        """After a step."""

    def draw(self, rng: np.random.Generator) -> list[int]:
        return self.chosen(self.labeled_ones, self.options.batch_size, rng)

    # What they are worked out with

    @property
    def total(self) -> int:
        return self.options.rounds * self.options.steps_per_round

    def fresh_optimizer(self) -> AdamW | SGD:
        options, kept = self.options, ["b"] if self.options.decayed == "weights" else []
        if options.optimizer == "sgd":
            return SGD(self.rate, options.weight_decay, options.momentum, options.nesterov, kept)
        return AdamW(self.rate, options.weight_decay, kept=kept)

    def rate(self, step: int) -> float:
        """Of a step, from 0."""
        options = self.options
        if options.schedule == "linear":
            return falling(options.learning_rate, self.total)(step)
        if options.schedule == "cosine":  # Sohn et al. 2020, section 2.4
            return options.learning_rate * math.cos(7 * math.pi * step / (16 * self.total))
        passed = [share for share in options.milestones if options.schedule == "steps" and step >= share * self.total]
        return options.learning_rate * options.drop ** len(passed)

    def row(self, w: dict, text: str) -> torch.Tensor:
        return self.of_counts(w, counts(self.words, text))

    def of_counts(self, w: dict, row: torch.Tensor) -> torch.Tensor:
        found = w["W"] @ row
        return found / found.square().sum().sqrt() if self.normalize else found

    def logits(self, w: dict, text: str) -> torch.Tensor:
        return w["U"] @ self.row(w, text) + w["b"]

    def strong(self, index: int, place: int) -> str:
        view = self.numbers[index][place] if self.numbers else place
        continuation = self.continuations.get((index, view))
        return f"{continuation} {self.texts[index]}" if continuation else edited(self.texts[index], view)

    @staticmethod
    def chosen(places: list[int], size: int, rng: np.random.Generator) -> list[int]:
        return [places[int(number)] for number in rng.choice(len(places), size=size, replace=size > len(places))]

    def step(self, round_: int, number: int) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, round_, number])
        labeled = self.draw(rng)
        unlabeled = self.chosen(self.unlabeled_ones, self.options.batch_size * self.options.unlabeled_ratio, rng)
        self.numbers = self.draw_views(unlabeled, rng)
        self.drawn.append(self.numbers)
        step = Drawn(labeled, unlabeled, rng, self.progress(round_, number))
        w = {name: value.clone().requires_grad_() for name, value in self.weights.items()}
        losses, added = self.labeled(w, step), self.unlabeled(w, step)
        if self.options.ns3l_weight:
            added["ns3l"] = self.options.ns3l_weight * self.ns3l(w, step)
        loss = sum(losses.values(), torch.zeros(())) + self.ramp(step.progress) * sum(added.values(), torch.zeros(()))
        self.gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
        self.weights = self.optimizer.step(self.weights, self.gradients)
        self.after()
        return {name: float(value.detach()) for name, value in (losses | added).items()} | {"loss": float(loss.detach())}

    def draw_views(self, unlabeled: list[int], rng: np.random.Generator) -> dict[int, list[int]]:
        """The numbers of every document's views; none where there are no more than are compared, and then they are the first ones."""
        pool = self.options.view_pool
        if not self.compared or (pool is not None and pool <= self.compared) or (pool is None and self.options.views == "continuations"):
            return {}
        assert len(set(unlabeled)) == len(unlabeled)
        if pool is None:  # of a full encoder, which embeds them anyway
            return {index: rng.integers(2**31, size=self.compared).tolist() for index in unlabeled}
        return {index: rng.choice(pool, size=self.compared, replace=False).tolist() for index in unlabeled}

    def progress(self, round_: int, number: int) -> float:
        return (round_ * self.options.steps_per_round + number) / self.total


def mean(terms: Any) -> torch.Tensor:
    """Of numbers."""
    found = list(terms)
    return sum(found, torch.zeros(())) / len(found)


def weights_of(method: Any) -> dict[str, torch.Tensor]:
    """The method's weights by the names of `ByHand`."""
    found = {"W": method.encoder.weight, "U": method.classifier.weight}
    if getattr(method.classifier, "bias", None) is not None:
        found["b"] = method.classifier.bias
    return {name: value.detach().clone() for name, value in found.items()}


def follow(method: Any, hand: ByHand, texts: Any = no_texts) -> dict[str, torch.Tensor]:
    """Train `method` and go its way by hand: losses, gradients and weights agree after every step. Returns the last weights."""
    for round_ in range(method.rounds):
        method.refresh(round_, texts)
        method.encoder.train()
        hand.begin(round_)
        for number in range(method.steps(round_)):
            place = f"round {round_}, step {number}"
            found, expected = method.step(round_, number), hand.step(round_, number)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-12), f"{name} is {found[name]}, not {value} ({place})"
            taken = dict(zip(weights_of(method), method.workers.gradients[-1], strict=True))
            for name, value in hand.gradients.items():
                torch.testing.assert_close(
                    taken[name], value, rtol=1e-8, atol=1e-11, msg=lambda text, n=name, p=place: f"gradient of {n}, {p}: {text}"
                )
            for name, value in weights_of(method).items():
                torch.testing.assert_close(value, hand.weights[name], rtol=1e-8, atol=1e-9, msg=lambda text, n=name, p=place: f"{n}, {p}: {text}")
        method.encoder.eval()
    return weights_of(method)


def each_changes(name: str, cases: Sequence[dict[str, Any]], results: Sequence[dict[str, torch.Tensor]], common: Collection[str]) -> None:
    """Every option of the method is in a case, and no two cases end with the same weights."""
    tried = {key for case in cases for key in case} | set(common)
    assert tried >= methods.method_class(name).Options.model_fields.keys() - {"name"}
    for number, one in enumerate(results):
        for other in results[:number]:
            assert any(not torch.allclose(one[key], other[key], rtol=0, atol=1e-6) for key in one), cases[number]
