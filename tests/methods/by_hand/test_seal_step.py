"""SEAL's algorithm 1 written out: whole trainings of a linear net, number by number, for every option; the gradient in omega by differences."""

import math

import numpy as np
import pytest
import torch
from linear import (
    TEXTS,
    Adam,
    ResidualEncoder,
    assert_equal,
    bags,
    build,
    by_differences,
    corpus_of,
    cross_entropies,
    differ,
    drawn,
    gradient,
    logits,
    net_of,
    softmax,
    steps_of,
)

from selftrain.data.texts import no_texts
from selftrain.data.views import edited
from selftrain.methods.soft_labels import seal
from selftrain.methods.virtual import virtual

LABELS = (0, 1, 2, 1, 2, 0)  # of the first six documents; the seventh has none
SETS = ((0, 1), (1,), (1, 2), (0, 1, 2), (0, 2), (0, 2))
UNITS = 2  # of h's hidden layers here, so that all of its 10 weights can be tried by differences
DEFAULTS = {  # as the documentation states them
    "weight": 1.0,
    "ramp": 0.25,
    "learned": True,
    "form": "paper",
    "generator_rate": None,
    "virtual_rate": 10.0,
    "objective_rate": 1e-3,
    "objective_steps": 300,
    "warm_up_rate": 1e-3,
    "temperature": 1.0,
    "top_k_prior": (0.8, 0.2),
    "agreement": "candidates",
}
# Rates at which a net of counted words moves, and not too far; every other option as it is shipped.
FAST = {"generator_rate": 0.7, "virtual_rate": 1.3, "objective_rate": 0.05, "learning_rate": 0.02, "rounds": 3, "steps_per_round": 1, "batch_size": 4}
FAST |= {"objective_steps": 0, "view_pool": 1}  # the warm-up has tests of its own


@pytest.fixture(autouse=True)
def few_units(monkeypatch):
    monkeypatch.setattr(seal, "HIDDEN", UNITS)


# --- the equations


def h_of(omega, scores, targets):
    """Equation 3: h of every pair (p_k, l_k), summed over the classes, the mean over the documents."""
    layers = omega[: 2 * UNITS].view(UNITS, 2), omega[2 * UNITS : -UNITS].view(UNITS, UNITS), omega[-UNITS:]
    total = 0.0
    for p, label in zip(softmax(scores).T, targets.T, strict=True):  # one class at a time
        units = torch.stack([p, label])
        for layer in layers[:2]:
            sums = layer @ units
            units = 0.01 * sums + 0.99 * torch.log(1 + torch.exp(10 * sums)) / 10  # smooth leaky ReLU, gamma .01 and beta 10
        total = total + torch.log(1 + torch.exp(layers[2] @ units)).sum()
    return total / len(scores)


def equation_13(scores, others, temperature):
    """KL(s || f) + KL(f || s), the mean over the documents, times T^2 at temperature T (the paper has none)."""
    f, s = softmax(scores / temperature), softmax(others / temperature)
    both = s * (torch.log(s) - torch.log(f)) + f * (torch.log(f) - torch.log(s))
    return temperature**2 * both.sum() / len(scores)


def ranks(scores):
    """Q: [place][column] of all documents, the last place the highest: one comparison of two neighbours after the other (odd-even sort, Cauchy, steepness 2)."""
    values = list(scores.T)
    count = len(values)
    chances = [[torch.full_like(values[0], float(place == label)) for label in range(count)] for place in range(count)]
    for layer in range(count):
        for left in range(layer % 2, count - 1, 2):
            right = left + 1
            stays = torch.atan(2.0 * (values[right] - values[left])) / math.pi + 0.5
            values[left], values[right] = stays * values[left] + (1 - stays) * values[right], (1 - stays) * values[left] + stays * values[right]
            first, second = chances[left], chances[right]
            chances[left] = [stays * a + (1 - stays) * b for a, b in zip(first, second, strict=True)]
            chances[right] = [(1 - stays) * a + stays * b for a, b in zip(first, second, strict=True)]
    return chances


def equation_14(scores, labels, prior):
    """The label's score first, the others downwards; the softmax for the first place, the network for the others."""
    total = 0.0
    for row, label in enumerate(labels):
        others = sorted((score for place, score in enumerate(scores[row]) if place != label), key=float, reverse=True)
        ordered = torch.stack([scores[row, label], *others])
        places = ranks(ordered.unsqueeze(0))
        own = [places[-1 - j][0][0] for j in range(len(prior))]  # first, second, ...
        found = prior[0] * torch.exp(ordered[0]) / torch.exp(ordered).sum() + sum(p * sum(own[: k + 1]) for k, p in enumerate(prior) if k)
        total = total - torch.log(found * (1 - 2e-7) + 1e-7)
    return total / len(scores)


def equations_15_and_16(views, sets, *, within):
    """The sum over the views of KL(u || f), u the views' geometric mean (within the set), the mean over the documents."""
    total = 0.0
    for place, members in enumerate(sets):
        p = [softmax(view[place : place + 1])[0] for view in views]
        kept = members if within else range(len(p[0]))
        root = torch.stack([math.prod(row[j] for row in p) ** (1 / len(p)) for j in kept])
        u = root / root.sum()
        total = total + sum((u * (torch.log(u) - torch.log(row[list(kept)]))).sum() for row in p)
    return total / len(sets)


def indicator(sets):
    return torch.tensor([[float(label in members) for label in range(3)] for members in sets])


class ByHand:
    """f, g and h of a method in its first state, and algorithm 1 on them."""

    def __init__(self, method, options, *, sets=False):
        self.options = DEFAULTS | options
        self.sets = sets
        self.f = net_of(method.encoder, method.classifier)
        self.g = [value.detach().clone() for value in method.generator.values()]
        self.omega = torch.cat([value.detach().flatten() for value in method.objective.parameters()])
        steps = self.options["rounds"] * self.options["steps_per_round"]
        self.adamw = Adam(self.options["learning_rate"], self.options.get("weight_decay", 0.01), steps)
        self.adam = Adam(self.options["objective_rate"])
        self.done, self.steps = 0, steps
        self.figures = []

    # what l, l^t and the label vectors are: of one label a document, or of a set

    def targets(self, labels):
        return indicator(labels if self.sets else [(label,) for label in labels])

    def label_loss(self, scores, labels):
        if not self.sets:
            return cross_entropies(scores, labels).mean()
        return torch.stack([-torch.log(sum(p[j] for j in members)) for p, members in zip(softmax(scores), labels, strict=True)]).mean()

    def task_loss(self, f, rows, labels, views):
        prior = self.options["top_k_prior"]
        if self.sets:
            return equations_15_and_16(
                [logits(f, rows), *(logits(f, view) for view in views)], labels, within=self.options["agreement"] == "candidates"
            )
        return equation_14(logits(f, rows), labels, prior) if 1 < len(prior) < 3 else self.label_loss(logits(f, rows), labels)

    def soft_labels(self, rows, labels):
        p = softmax(logits(self.g, rows))
        if self.sets:
            p = p * indicator(labels)
        return p / p.sum(1, keepdim=True)

    # algorithm 1

    def generator_after(self, omega, g, rows, labels, *, graph=False):
        """Equations 8 and 11; cross-entropy in the place of h for SEAL-NM."""
        there = [value.detach().clone().requires_grad_() for value in g]
        scores = logits(there, rows)
        loss = h_of(omega, scores, self.targets(labels)) if self.options["learned"] else self.label_loss(scores, labels)
        slopes = torch.autograd.grad(loss, there, create_graph=graph)
        return [value - self.options["generator_rate"] * slope for value, slope in zip(there, slopes, strict=True)]

    def task_after_both_steps(self, omega, rows, labels, views, weight):
        """Lines 4 to 7, a function of omega."""
        g = [value.detach() for value in self.generator_after(omega, self.g, rows, labels)]

        def bridge(f):
            found = equation_13(logits(f, rows), logits(g, rows), self.options["temperature"])
            return weight * found + self.label_loss(logits(f, rows), labels) if self.options["form"] == "released" else found

        f = [value - self.options["virtual_rate"] * slope for value, slope in zip(self.f, gradient(bridge, self.f), strict=True)]
        return self.task_loss(f, rows, labels, views)

    def step(self, rows, labels, views=()):
        options = self.options
        done = self.done / self.steps
        weight = options["weight"] * (min(done / options["ramp"], 1.0) if options["ramp"] else 1.0)  # equation 12
        old = self.omega
        if options["learned"]:
            slope = by_differences(lambda omega: self.task_after_both_steps(omega, rows, labels, views, weight), self.omega)
            (self.omega,) = self.adam.step([self.omega], [slope])  # equation 10
        kept = old if options["form"] == "released" else self.omega
        self.g = [value.detach() for value in self.generator_after(kept, self.g, rows, labels)]
        soft = self.soft_labels(rows, labels).detach()
        other = logits(self.g, rows).detach()

        def equation_1(f):
            hard = self.label_loss(logits(f, rows), labels)
            if options["form"] == "released":
                return hard + weight * equation_13(logits(f, rows), other, options["temperature"])
            return hard + weight * -(soft * torch.log(softmax(logits(f, rows)))).sum(1).mean()

        self.figures.append(float(equation_1(self.f)))
        self.f = self.adamw.step(self.f, gradient(equation_1, self.f))
        self.done += 1

    def numbers(self):
        return {"f": self.f, "g": self.g, "omega": [self.omega]}


def numbers(method):
    return {
        "f": net_of(method.encoder, method.classifier),
        "g": [value.detach() for value in method.generator.values()],
        "omega": [torch.cat([value.detach().flatten() for value in method.objective.parameters()])],
    }


def granted(count=6):
    return corpus_of(granted=dict(enumerate(LABELS[:count])))


def both(name, corpus, options, *, sets=False):
    """The method after its whole training, and the same by hand."""
    method = build(corpus, name, **options)
    hand = ByHand(method, options, sets=sets)
    figures = steps_of(method)
    given = SETS if sets else LABELS
    for round_ in range(options["rounds"]):
        for step in range(options["steps_per_round"]):
            places = drawn([0, round_, step], len(given), options["batch_size"])
            texts = [TEXTS[place] for place in places]
            views = [bags([edited(text, view) for text in texts]) for view in range(2)] if sets else []
            hand.step(bags(texts), [given[place] for place in places], views)
    assert [one["loss"] for one in figures] == pytest.approx(hand.figures, rel=1e-7)
    assert all(set(one) == {"ce", "seal", "loss"} for one in figures)
    return method, hand


OTHERS = [
    {},
    {"weight": 2.5},
    {"weight": 0.0},
    {"ramp": 1.0, "rounds": 2, "steps_per_round": 2},
    {"ramp": 0.0},
    {"learned": False},
    {"form": "released"},
    {"form": "released", "weight": 0.4, "ramp": 1.0, "temperature": 3.0},
    {"generator_rate": 2.0},
    {"virtual_rate": 0.2},
    {"objective_rate": 0.01},
    {"temperature": 2.0},
    {"top_k_prior": (0.3, 0.7)},
    {"top_k_prior": (1.0,)},
    {"top_k_prior": (0.5, 0.3, 0.2)},
    {"learning_rate": 0.05, "weight_decay": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_a_training_by_hand(options):
    method, hand = both("seal", granted(), FAST | options)
    assert_equal(numbers(method), hand.numbers(), relative=1e-5)  # as far as differences can tell, where a slope is small


# What an option reaches with lambda above zero. Equation 1 touches neither g nor h, and they are blind to lambda in the paper's form: what is about f alone
# reaches them with the next step only.
REACHES = [
    ({"weight": 2.5}, "f"),
    ({"ramp": 1.0}, "f"),
    ({"form": "released"}, "f g omega"),
    ({"learned": False}, "f g omega"),
    ({"generator_rate": 2.0}, "f g omega"),
    ({"virtual_rate": 0.2}, "f g omega"),
    ({"objective_rate": 0.01}, "f g omega"),
    ({"temperature": 2.0}, "f g omega"),
    ({"top_k_prior": (0.3, 0.7)}, "f g omega"),
    ({"learning_rate": 0.05}, "f"),
]


@pytest.mark.parametrize(("options", "reached"), REACHES, ids=str)
def test_an_option_reaches_what_its_equation_says_and_nothing_else(options, reached):
    after = []
    for more in ({}, options):
        method = build(granted(), "seal", **FAST | more)
        for step in range(1 if reached == "f" else 2):  # Adam's first step knows signs alone
            method.step(2, step)
        after.append(numbers(method))
    assert " ".join(part for part in ("f", "g", "omega") if differ(after[0][part], after[1][part])) == reached


def test_the_first_step_of_the_shipped_form_is_cross_entropy_alone():
    """Equation 12 at t = 0: f does not hear of g, which moves all the same."""
    quiet, loud = (build(granted(), "seal", **FAST | {"weight": weight}) for weight in (0.0, 5.0))
    for method in (quiet, loud):
        start = numbers(method)
        method.step(0, 0)
        assert differ(start["g"], numbers(method)["g"]) and differ(start["omega"], numbers(method)["omega"])
    assert_equal(numbers(quiet), numbers(loud))


def test_what_is_shipped():
    defaults = seal.SEALOptions().model_dump()
    assert {name: defaults[name] for name in DEFAULTS if name in defaults} == {name: value for name, value in DEFAULTS.items() if name != "agreement"}


# --- the warm-up, the first phase of the released code


@pytest.mark.parametrize("sets", [False, True])
def test_the_warm_up_by_hand(sets):
    """`objective_steps`: a generator made anew in every step, judged on the other half of the draw: by cross-entropy, for sets by their likelihood."""
    options = FAST | {"objective_steps": 3, "warm_up_rate": 0.03, "batch_size": 3}
    given = SETS if sets else LABELS
    method = build(corpus_of(candidates=dict(enumerate(SETS))) if sets else granted(), "seal_partial" if sets else "seal", **options)
    hand = ByHand(method, options, sets=sets)
    adam = Adam(options["warm_up_rate"])
    stream = torch.get_rng_state()
    rng = np.random.default_rng([0, 2**32])
    for _ in range(3):
        places = rng.choice(6, size=6, replace=False).tolist()
        torch.manual_seed(int(rng.integers(2**63)))
        fresh = torch.nn.Linear(5, 3)  # a head's layer starts at zero
        start = [torch.zeros(5, 5), torch.zeros(5), fresh.weight.detach(), fresh.bias.detach()]
        one, two = places[:3], places[3:]

        def judged(omega, start=start, one=one, two=two):
            g = hand.generator_after(omega, start, bags([TEXTS[i] for i in one]), [given[i] for i in one])
            return hand.label_loss(logits(g, bags([TEXTS[i] for i in two])), [given[i] for i in two])

        (hand.omega,) = adam.step([hand.omega], [by_differences(judged, hand.omega)])
    torch.set_rng_state(stream)
    method.refresh(0, no_texts)
    assert torch.equal(torch.get_rng_state(), stream)  # workers must not drift apart
    assert_equal(numbers(method), hand.numbers())
    method.refresh(1, no_texts)  # h is warmed once
    assert_equal(numbers(method), hand.numbers())
    for step in range(2):  # and Adam starts anew in the training
        places = drawn([0, 0, step], 6, 3)
        texts = [TEXTS[place] for place in places]
        method.step(0, step)
        hand.step(
            bags(texts), [given[place] for place in places], [bags([edited(text, view) for text in texts]) for view in range(2)] if sets else []
        )
    assert_equal(numbers(method), hand.numbers())


def test_without_a_learned_objective_there_is_no_first_phase():
    method = build(granted(), "seal", **FAST | {"objective_steps": 3, "learned": False})
    before = numbers(method)
    method.refresh(0, no_texts)
    assert_equal(numbers(method), before)


def test_a_new_generator_is_a_head_at_its_start_with_its_own_classifier():
    method = build(granted(), "seal", **FAST)
    assert list(method.generator) == [name for name, _ in method.net.named_parameters()]
    weight, bias, classifier, shift = method.generator.values()
    assert weight.abs().max() == bias.abs().max() == 0.0
    assert differ([classifier, shift], list(method.classifier.parameters())) and all(value.requires_grad for value in method.generator.values())


# --- candidate sets


SETS_OPTIONS = [
    {},
    {"weight": 2.5, "ramp": 1.0},
    {"agreement": "all"},
    {"learned": False},
    {"generator_rate": 2.0, "virtual_rate": 0.2, "objective_rate": 0.01, "temperature": 2.0},
]


@pytest.mark.parametrize("options", SETS_OPTIONS, ids=str)
def test_a_training_on_candidate_sets_by_hand(options):
    options = FAST | {"ramp": 0.5} | options
    method, hand = both("seal_partial", corpus_of(candidates=dict(enumerate(SETS))), options, sets=True)
    assert_equal(numbers(method), hand.numbers())


def test_within_the_set_or_over_all_classes_is_not_the_same():
    corpus = corpus_of(candidates=dict(enumerate(SETS)))
    trained = []
    for agreement in ("candidates", "all"):
        method = build(corpus, "seal_partial", **FAST | {"agreement": agreement})
        steps_of(method)
        trained.append(numbers(method))
    assert all(differ(trained[0][part], trained[1][part]) for part in ("f", "g", "omega"))


# --- h


def test_h_has_the_papers_units_and_kaimings_spread(monkeypatch):
    monkeypatch.undo()
    assert [tuple(layer.weight.shape) for layer in seal.LearnedObjective().layers] == [(40, 2), (40, 40), (1, 40)]
    torch.manual_seed(0)
    spread = torch.stack([seal.LearnedObjective().layers[1].weight for _ in range(20)]).std().item()
    assert spread == pytest.approx(math.sqrt(2 / 40), rel=0.02)
    assert all(layer.bias is None for layer in seal.LearnedObjective().layers)


def test_a_second_encoder_makes_no_difference_to_the_first():
    """f and g are called with parameters handed in: the modules that are trained are f's alone."""
    encoder = ResidualEncoder()
    method = build(granted(), "seal", encoder=encoder, **FAST)
    before = [value.clone() for value in encoder.parameters()]
    rows = bags(TEXTS[:4])
    loss, _ = method.virtual_task_loss(virtual(method.net, method.generator, [rows]), rows, torch.tensor(LABELS[:4]), 1.0)
    method.update_objective(loss)
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in [*method.net.parameters(), *method.objective.parameters()])
