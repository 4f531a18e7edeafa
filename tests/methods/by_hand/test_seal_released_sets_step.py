"""SEAL's released form for candidate sets written out: whole trainings of a linear net, number by number, for every option; omega by differences."""

import copy
import math

import pytest
import torch
from linear import TEXTS, Adam, assert_equal, bags, build, by_differences, corpus_of, differ, drawn, gradient, logits, net_of, softmax, steps_of

from selftrain.data.texts import no_texts
from selftrain.data.views import edited
from selftrain.errors import SelfTrainError
from selftrain.methods.soft_labels import seal

SETS = ((0, 1), (1, 2), (1, 2), (0, 1, 2), (0, 2), (0, 2))  # of the first six documents; the seventh has none
UNITS = 2  # of h's hidden layers here
DEFAULTS = {"weight": 1.0, "ramp": 0.25, "start": 0.05, "objective_ramp": 1.0, "keep": 0.1, "negatives_weight": 0.01, "generator_share": 0.3}
FAST = {"form": "released", "generator_rate": 0.7, "virtual_rate": 1.3, "objective_rate": 0.05, "learning_rate": 0.02}
FAST |= {"rounds": 2, "steps_per_round": 2, "batch_size": 4, "view_pool": 1}


@pytest.fixture(autouse=True)
def few_units(monkeypatch):
    monkeypatch.setattr(seal, "HIDDEN", UNITS)


def corpus():
    return corpus_of(candidates=dict(enumerate(SETS)))


def indicator(places):
    return torch.tensor([[float(label in SETS[place]) for label in range(3)] for place in places])


def h_of(omega, scores, weights, inside):
    """h of (logit, weight, in the set or not) of every class, summed over the classes, the mean over the documents."""
    sizes = ((UNITS, 3), (UNITS, UNITS), (1, UNITS))
    first, second, last = (part.view(*size) for part, size in zip(omega.split([rows * columns for rows, columns in sizes]), sizes, strict=True))
    units = torch.stack([scores.flatten(), weights.flatten(), inside.flatten()])
    for layer in (first, second):
        sums = layer @ units
        units = 0.01 * sums + 0.99 * torch.log(1 + torch.exp(10 * sums)) / 10
    return torch.log(1 + torch.exp(last @ units)).sum() / len(scores)


def divergence(views, weights):
    """The sum over the views of KL(weights || p), the mean over the documents."""
    kept = weights > 0
    entropy = (weights[kept] * torch.log(weights[kept])).sum()
    return sum(entropy - (weights * torch.log(softmax(view))).sum() for view in views) / len(weights)


def negatives(views, inside):
    """The sum over the views of -sum log(1 - p_j) over the classes outside, the mean over the documents."""
    return sum(-((1 - inside) * torch.log(1 - softmax(view))).sum() for view in views) / len(inside)


def agreed(views, inside):
    found = math.prod(softmax(view) for view in views) ** (1 / 3) * inside
    return found / found.sum(1, keepdim=True)


class ByHand:
    """f, g, h and the weights of the candidates."""

    def __init__(self, method, options):
        self.options = DEFAULTS | options
        self.f = net_of(method.encoder, method.classifier)
        self.omega = torch.cat([value.detach().flatten() for value in method.objective.parameters()])
        self.steps = options["rounds"] * options["steps_per_round"]
        self.adamw, self.adam = Adam(options["learning_rate"], 0.01, self.steps), Adam(options["objective_rate"])
        self.weights = torch.tensor([[(label in members) / len(members) for label in range(3)] for members in SETS])
        self.figures = []

    def train(self):
        for done in range(self.steps):
            round_, step = divmod(done, self.options["steps_per_round"])
            if step == 0:
                self.g = [value.clone() for value in self.f]  # each epoch
            self.step(drawn([0, round_, step], 6, self.options["batch_size"]), done / self.steps)

    def step(self, places, progress):
        options, inside, weights = self.options, indicator(places), self.weights[places].clone()
        texts = [TEXTS[place] for place in places]
        rows = [bags(texts), *(bags([edited(text, view) for text in texts]) for view in range(2))]
        lam = options["weight"] * (min(progress / options["ramp"], 1.0) if options["ramp"] else 1.0)

        def of(net):
            return [logits(net, view) for view in rows]

        def loss(net):
            return lam * divergence(of(net), weights) + negatives(of(net), inside)

        def plcr(views):
            return lam * divergence(views, weights) + options["negatives_weight"] * negatives(views, inside)

        seen = agreed(of(self.f), inside)
        self.figures.append(float(loss(self.f)))
        self.f = self.adamw.step(self.f, gradient(loss, self.f))
        if progress < options["start"]:
            self.weights[places] = seen
            return
        share = min(progress / options["objective_ramp"], 1.0) if options["objective_ramp"] else 1.0

        def generator_after(omega):
            def mixed(net):
                learned = sum(h_of(omega, view, weights, inside) for view in of(net)) / 3
                return share * learned + (1 - share + options["keep"]) * plcr(of(net))

            return [value - options["generator_rate"] * slope for value, slope in zip(self.g, gradient(mixed, self.g), strict=True)]

        def judged(omega):
            p = [softmax(view) * inside for view in of([value.detach() for value in generator_after(omega)])]
            soft = [one / one.sum(1, keepdim=True) for one in p]

            def taught(net):
                found = sum(-(one * torch.log(softmax(view))).sum() for one, view in zip(soft, of(net), strict=True)) / len(places)
                return (lam * found + negatives(of(net), inside)) / 3

            f = [value - options["virtual_rate"] * slope for value, slope in zip(self.f, gradient(taught, self.f), strict=True)]
            return plcr(of(f)) / 3

        old = self.omega
        (self.omega,) = self.adam.step([self.omega], [by_differences(judged, self.omega)])
        self.g = [value.detach() for value in generator_after(old)]  # with the old h
        part = options["generator_share"]
        self.weights[places] = (1 - part) * seen + part * agreed(of(self.g), inside)


def numbers(method):
    return {
        "f": net_of(method.encoder, method.classifier),
        "g": [value.detach() for value in method.generator.values()],
        "omega": [torch.cat([value.detach().flatten() for value in method.objective.parameters()])],
        "weights": [method.weights[:6]],
    }


OTHERS = [
    {},
    {"weight": 2.5},
    {"ramp": 0.0},
    {"start": 0.0},
    {"start": 0.6},
    {"objective_ramp": 0.5},
    {"objective_ramp": 0.0},
    {"keep": 0.5},
    {"negatives_weight": 0.5},
    {"generator_share": 0.8},
    {"generator_rate": 2.0},
    {"virtual_rate": 0.2},
    {"objective_rate": 0.01},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_a_training_by_hand(options):
    options = FAST | options
    method = build(corpus(), "seal_partial", **options)
    hand = ByHand(method, options)
    hand.train()
    figures = steps_of(method)
    assert [one["loss"] for one in figures] == pytest.approx(hand.figures, rel=1e-7)
    assert all(set(one) == {"negatives", "consistency", "loss"} for one in figures)
    found = numbers(method)
    # Adam divides by the size of slopes that are a hundredth of the loss, so differences leave omega fewer digits than the rest; it moves by .05 a step.
    assert (found.pop("omega")[0] - hand.omega).abs().max() < 5e-4
    assert_equal(found, {"f": hand.f, "g": hand.g, "weights": [hand.weights]}, relative=1e-6)


def test_the_gradient_of_h_by_differences():
    method = build(corpus(), "seal_partial", **FAST | {"start": 0.0, "negatives_weight": 1.0})
    seen = []
    learn = method._learn_from_sets
    method._learn_from_sets = lambda one: seen.append(one) or learn(one)
    method.refresh(0, no_texts)
    for step in range(2):
        method.step(0, step)
    last = seen[-1]
    rows = [method.encoder.inputs(last.batch.labeled_views), *method._views]
    parameters = list(method.objective.parameters())

    def judged(omega):
        torch.nn.utils.vector_to_parameters(omega, parameters)
        return method.virtual_agreement(rows, last.candidates, last.weights, last.batch)[0]

    at = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
    slopes = torch.cat([slope.flatten() for slope in torch.autograd.grad(judged(at.clone()), parameters)])
    assert slopes.abs().max() > 2e-5
    assert torch.allclose(slopes, by_differences(judged, at), rtol=1e-5, atol=1e-7 * float(slopes.abs().max()))


@pytest.mark.parametrize("options", OTHERS[1:], ids=str)
def test_an_option_makes_a_difference(options):
    trained = []
    for more in ({}, options):
        method = build(corpus(), "seal_partial", **FAST | more)
        steps_of(method)
        trained.append([value for part in numbers(method).values() for value in part])
    assert differ(*trained)


def test_there_is_no_warm_up():
    """As released: h begins with its first weights, whatever `objective_steps` says."""
    method = build(corpus(), "seal_partial", **FAST)
    before = numbers(method)["omega"]
    method.refresh(0, no_texts)
    assert_equal({"omega": numbers(method)["omega"]}, {"omega": before})


def test_a_run_goes_on_as_the_one_that_was_never_stopped():
    whole, stopped, rest = (build(corpus(), "seal_partial", **FAST) for _ in range(3))
    steps_of(whole)
    steps_of(stopped, rounds=1)
    rest.load_state(copy.deepcopy(stopped.state()))
    rest.refresh(1, no_texts)
    for step in range(2):
        rest.step(1, step)
    assert_equal(numbers(rest), numbers(whole), relative=0.0)


def test_the_papers_form_keeps_no_weights_and_its_states_have_none():
    method = build(corpus(), "seal_partial", **FAST | {"form": "paper", "objective_steps": 0})
    assert "weights" not in method.state() and not hasattr(method, "weights")


def test_without_h_the_released_form_is_refused():
    with pytest.raises(SelfTrainError, match="learned must be true with form: released"):
        build(corpus(), "seal_partial", **FAST | {"learned": False})
