"""IDGP written out: both networks, the posterior of the label, both priors and the consistency of whole trainings, number by number, for every option."""

import math

import pytest
import torch
from linear import TEXTS, Adam, assert_equal, bags, build, corpus_of, differ, drawn, gradient, logits, net_of, softmax, steps_of

from selftrain.data.views import edited

SETS = ((0, 1), (1,), (1, 2), (0, 1, 2), (0, 2), (0, 2))  # of the first six documents; the seventh has none
SMALL = {"rounds": 2, "steps_per_round": 3, "batch_size": 4, "learning_rate": 0.1, "view_pool": 1}
WEIGHTS = ("prior_weight", "likelihood_weight", "generation_prior_weight", "generation_likelihood_weight", "weight")
SHIPPED = {"warm_up": 0.2, "ramp": 0.2, **dict.fromkeys(WEIGHTS, 1.0)}


def corpus():
    return corpus_of(candidates=dict(enumerate(SETS)))


def indicator(places):
    return torch.tensor([[float(label in SETS[place]) for label in range(3)] for place in places])


def kept(values, places):
    """Values of the candidates, which sum to one."""
    values = values * indicator(places)
    return values / values.sum(1, keepdim=True)


def sigmoid(scores):
    return 1 / (1 + torch.exp(-scores))


def binary(z, targets):
    """Cross-entropy with what is taken, summed over the classes."""
    return -(targets * torch.log(z) + (1 - targets) * torch.log(1 - z)).sum() / len(z)


class ByHand:
    """f is the net's first four numbers, g its last four."""

    def __init__(self, method, options):
        self.options = SHIPPED | options
        self.net = numbers(method)
        self.steps = options["rounds"] * options["steps_per_round"]
        self.adamw = Adam(options["learning_rate"], 0.01, self.steps)
        self.d = torch.tensor([[(label in members) / len(members) for label in range(3)] for members in SETS] + [[0.0] * 3])
        self.b = torch.tensor([[float(label in members) for label in range(3)] for members in SETS] + [[0.0] * 3])
        self.figures = []

    def train(self):
        for done in range(self.steps):
            places = drawn([0, *divmod(done, self.options["steps_per_round"])], 6, self.options["batch_size"])
            texts = [TEXTS[place] for place in places]
            views = [bags(texts), *(bags([edited(text, view) for text in texts]) for view in range(2))]
            loss = self.loss(places, views, done / self.steps)
            p, z = softmax(logits(self.net[:4], views[0])), sigmoid(logits(self.net[4:], views[0]))
            self.d[places], self.b[places] = kept(p, places), z * indicator(places)
            self.figures.append(float(loss(self.net)))
            self.net = self.adamw.step(self.net, gradient(loss, self.net))

    def posterior(self, z, places, d):
        """The likelihood of the set with each candidate as the label, z as the authors' code has it: 1 - z of the candidate that is believed."""
        found = torch.zeros(len(places), 3)
        for row, place in enumerate(places):
            believed = max(SETS[place], key=lambda label: float(d[row, label]))
            odd = {k: float(1 - z[row, k] if k == believed else z[row, k]) for k in SETS[place]}
            for j in SETS[place]:
                found[row, j] = (1 - odd[j]) * math.prod(odd[k] for k in SETS[place] if k != j)
        return found / found.sum(1, keepdim=True)

    def loss(self, places, views, progress):
        options, sets, d, b = self.options, indicator(places), self.d[places].clone(), self.b[places].clone()
        count = len(places)
        after = progress - options["warm_up"]
        share = options["weight"] * (min(after / options["ramp"], 1.0) if options["ramp"] else 1.0)
        now = [(softmax(logits(self.net[:4], rows)), sigmoid(logits(self.net[4:], rows))) for rows in views]
        weights = [(self.posterior(z, places, d), kept(p, places)) for p, z in now]  # no gradient reaches them

        def loss(net):
            total = 0.0
            for rows, (of_f, of_g) in zip(views, weights, strict=True):
                p, z = softmax(logits(net[:4], rows)), sigmoid(logits(net[4:], rows))
                priors = -(d * torch.log(p)).sum() / count, binary(z, b)
                if progress < options["warm_up"]:
                    total = total + sum(priors)
                    continue
                total = total + options["prior_weight"] * priors[0] + options["generation_prior_weight"] * priors[1]
                total = total - options["likelihood_weight"] * (of_f * torch.log(p)).sum() / count
                total = total + options["generation_likelihood_weight"] * (binary(z, sets) - (of_g * torch.log(1 - z)).sum() / count)
                for taught, target in ((p, d), (z, b)):
                    some = target.clamp(min=1e-300)
                    total = total + share * torch.where(target > 0, target * (torch.log(some) - torch.log(taught)), 0.0).sum() / count
            return total

        return loss


def numbers(method):
    return [*net_of(method.encoder, method.classifier), *net_of(method.second_encoder, method.second_classifier)]


CASES = [{}, {"warm_up": 0.0}, {"warm_up": 0.7}, {"warm_up": 1.0}, {"ramp": 0.0}, {"ramp": 1.0}, *({name: 3.0} for name in WEIGHTS), {"weight": 0.0}]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_training_by_hand(options):
    options = SMALL | options
    method = build(corpus(), "idgp", **options)
    method.second_classifier.weight.data *= 4
    hand = ByHand(method, options)
    figures = steps_of(method)
    hand.train()
    assert [one["loss"] for one in figures] == pytest.approx(hand.figures, rel=1e-9)
    assert all(sum(value for name, value in one.items() if name != "loss") == pytest.approx(one["loss"], rel=1e-12) for one in figures)
    assert_equal({"nets": numbers(method)}, {"nets": hand.net})
    assert torch.allclose(method.weights, hand.d, rtol=1e-8)
    assert torch.allclose(method.chances, hand.b, rtol=1e-8)


@pytest.mark.parametrize("options", [case for case in CASES if case and case != {"weight": 0.0}], ids=str)
def test_every_option_changes_a_net(options):
    trained = []
    for more in ({}, options):
        method = build(corpus(), "idgp", **SMALL | more)
        steps_of(method)
        trained.append(numbers(method))
    assert differ(*trained)


def test_what_is_shipped():
    """The defaults of the authors' program."""
    method = build(corpus(), "idgp")
    assert {name: getattr(method.options, name) for name in SHIPPED} == SHIPPED
    assert not differ(numbers(method)[:2], numbers(method)[4:6]) and differ(numbers(method)[2:4], numbers(method)[6:])  # classifiers of their own
