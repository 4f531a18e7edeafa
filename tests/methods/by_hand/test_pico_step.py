"""PiCO written out: the two losses, prototypes, queue, moving average and weights of whole trainings, number by number, for every option."""

import pytest
import torch
from linear import TEXTS, Adam, assert_equal, bags, build, corpus_of, differ, drawn, embeddings, gradient, net_of, softmax, steps_of

from selftrain.data.views import edited

SETS = ((0, 1), (1,), (1, 2), (0, 1, 2), (0, 2), (0, 2))  # of the first six documents; the seventh has none
SMALL = {"rounds": 3, "steps_per_round": 2, "batch_size": 4, "learning_rate": 0.05, "projected": 3, "queue": 6, "view_pool": 1}
# Where six steps are all that there are, moving averages of the released length would stand still.
SMALL |= {"key_momentum": 0.7, "prototype_momentum": 0.6, "weights_momentum": (0.9, 0.3), "start": 0.3, "temperature": 0.5}


def corpus():
    return corpus_of(candidates=dict(enumerate(SETS)))


def unit(rows):
    return rows / (rows * rows).sum(1, keepdim=True).sqrt()


def projections(net, rows):
    """Length one: A2 relu(A1 e + a1) + a2 of the embedding e. `net` is [W, b, C, c, A1, a1, A2, a2]."""
    hidden = (embeddings(net, rows) @ net[4].T + net[5]).clamp(min=0)
    return unit(hidden @ net[6].T + net[7])


class ByHand:
    """Algorithm 1 of Wang et al. 2022 with the order of the released code: nearest prototype, prototypes, keys, weights, losses, queue."""

    def __init__(self, method, options):
        self.options = options
        self.net = numbers(method)["net"]
        self.copy = self.net
        self.steps = options["rounds"] * options["steps_per_round"]
        self.adamw = Adam(options["learning_rate"], 0.01, self.steps)
        self.weights = torch.tensor([[(label in members) / len(members) for label in range(3)] for members in SETS] + [[0.0] * 3])
        self.prototypes = torch.zeros(3, options["projected"])
        self.queue, self.queue_classes = torch.zeros(0, options["projected"]), []
        self.figures = []

    def train(self):
        for done in range(self.steps):
            places = drawn([0, *divmod(done, self.options["steps_per_round"])], 6, self.options["batch_size"])
            self.step(places, done / self.steps)

    def chosen(self, places, values):
        """The candidate of each document with the largest value."""
        return [max(SETS[place], key=lambda label: float(row[label])) for place, row in zip(places, values, strict=True)]

    def step(self, places, progress):
        options, texts = self.options, [TEXTS[place] for place in places]
        rows, strong = bags(texts), bags([edited(text, 0) for text in texts])
        queries = projections(self.net, rows)
        classes = self.chosen(places, embeddings(self.net, rows) @ self.net[2].T + self.net[3])
        nearest = self.chosen(places, queries @ self.prototypes.T)
        gamma = options["prototype_momentum"]
        for query, label in zip(queries, classes, strict=True):
            self.prototypes[label] = gamma * self.prototypes[label] + (1 - gamma) * query
        self.prototypes = torch.stack([row / row.norm() if row.norm() > 0 else row for row in self.prototypes])
        momentum = options["key_momentum"]
        self.copy = [momentum * old + (1 - momentum) * new for old, new in zip(self.copy, self.net, strict=True)]
        keys = projections(self.copy, strong)
        known = progress >= options["start"]
        if known:
            first, last = options["weights_momentum"]
            phi = (1 - progress) * first + progress * last
            for place, label in zip(places, nearest, strict=True):
                self.weights[place] *= phi
                self.weights[place, label] += 1 - phi
        weights, old = self.weights[places].clone(), self.queue
        pool_classes = [*classes, *classes, *self.queue_classes]

        def contrastive(net):
            queries = projections(net, rows)
            pool = torch.cat([queries, keys, old])
            total, counted = 0.0, 0
            for i, query in enumerate(queries):
                shares = torch.exp(pool @ query / options["temperature"])
                others = [j for j in range(len(pool)) if j != i]
                positives = [j for j in others if pool_classes[j] == classes[i]] if known else [len(queries) + i]
                total = total - sum(torch.log(shares[j] / shares[others].sum()) for j in positives) / len(positives)
                counted += 1
            return total / counted

        def loss(net):
            p = softmax(embeddings(net, rows) @ net[2].T + net[3])
            return -(weights * torch.log(p)).sum() / len(places) + options["weight"] * contrastive(net)

        self.figures.append(float(loss(self.net)))
        self.net = self.adamw.step(self.net, gradient(loss, self.net))
        self.queue = torch.cat([self.queue, keys])[-options["queue"] :]
        self.queue_classes = [*self.queue_classes, *classes][-options["queue"] :]

    def numbers(self):
        found = {"net": self.net, "copy": [self.copy[place] for place in (0, 1, 4, 5, 6, 7)]}
        return found | {"weights": [self.weights], "prototypes": [self.prototypes], "queue": [self.queue]}


def numbers(method):
    found = {
        "net": [*net_of(method.encoder, method.classifier), *net_of(method.projection, torch.nn.Identity())],
        "copy": net_of(method.key_encoder, method.key_projection),
        "weights": [method.weights],
        "prototypes": [method.class_prototypes],
        "queue": [method.keys],
    }
    return {name: [value.detach().clone() for value in values] for name, values in found.items()}


CASES = [
    {},
    {"weight": 2.0},
    {"weight": 0.0},
    {"temperature": 0.07},
    {"queue": 3},
    {"queue": 100},
    {"key_momentum": 0.2},
    {"prototype_momentum": 0.1},
    {"weights_momentum": (0.5, 0.8)},
    {"start": 0.0},
    {"start": 1.0},
    {"projected": 2},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_training_by_hand(options):
    options = {"weight": 0.5} | SMALL | options
    method = build(corpus(), "pico", **options)
    hand = ByHand(method, options)
    figures = steps_of(method)
    hand.train()
    assert [one["loss"] for one in figures] == pytest.approx(hand.figures, rel=1e-8)
    assert all(
        set(one) == {"ce", "contrastive", "loss"} and one["ce"] + one["contrastive"] == pytest.approx(one["loss"], rel=1e-12) for one in figures
    )
    assert_equal(numbers(method), hand.numbers())
    assert method.key_classes.tolist() == hand.queue_classes


def test_what_is_shipped():
    """The released values for CIFAR-10."""
    method = build(corpus(), "pico")
    options = method.options
    assert (options.weight, options.temperature, options.queue, options.key_momentum) == (0.5, 0.07, 8192, 0.999)
    assert (options.prototype_momentum, options.weights_momentum, options.start, options.projected) == (0.99, (0.95, 0.8), 0.1, 128)
    assert [tuple(value.shape) for value in method.projection.parameters()] == [(5, 5), (5,), (128, 5), (128,)]


# What an option reaches: the net (and its moving copy with it), the weights of the candidates, the prototypes.
REACHES = [
    ({"weight": 2.0}, "net"),
    ({"temperature": 0.07}, "net"),
    ({"queue": 3}, "net"),
    ({"key_momentum": 0.2}, "net"),
    ({"prototype_momentum": 0.1}, "prototypes"),
    ({"weights_momentum": (0.5, 0.8)}, "net weights"),
    ({"start": 0.0}, "net weights"),
]


@pytest.mark.parametrize(("options", "reached"), REACHES, ids=str)
def test_every_option_changes_what_its_equation_says(options, reached):
    """After all steps nearly everything hears of everything; an option must be seen where it acts."""
    trained = []
    for more in ({}, options):
        method = build(corpus(), "pico", **SMALL | more)
        steps_of(method)
        trained.append(numbers(method))
    assert all(differ(trained[0][part], trained[1][part]) for part in reached.split())


def test_the_contrastive_loss_reaches_encoder_and_projection_and_not_the_classifier():
    slopes = []
    for weight in (0.0, 2.0):
        method = build(corpus(), "pico", **SMALL | {"weight": weight})
        method.update = lambda: None  # the gradients stay
        method.step(0, 0)
        slopes.append([parameter.grad for parameter in method.parameters()])
        assert all(parameter.grad is None for parameter in [*method.key_encoder.parameters(), *method.key_projection.parameters()])
    assert [differ([one], [other]) for one, other in zip(*slopes, strict=True)] == [True, True, False, False, True, True, True, True]
    assert all(slope.abs().max() == 0 for slope in slopes[0][4:])
