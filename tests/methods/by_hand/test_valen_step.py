"""VALEN written out: warm-up, graph, posterior, reconstruction, and the label distributions of whole trainings, number by number, for every option."""

import numpy as np
import pytest
import torch
from linear import TEXTS, Adam, assert_equal, bags, build, corpus_of, differ, embeddings, gradient, logits, net_of, softmax, steps_of

SETS = ((0, 1), (1,), (1, 2), (0, 1, 2), (0, 2), (0, 2))  # of the first six documents; the seventh has none
SMALL = {"rounds": 2, "steps_per_round": 3, "batch_size": 4, "learning_rate": 0.1}
SHIPPED = {"warm_up": 0.2, "neighbours": 3, "reconstruction_weight": 1.0, "prior_weight": 0.1, "agreement_weight": 10.0, "inferred_share": 1.0}


def corpus():
    return corpus_of(candidates=dict(enumerate(SETS)))


def indicator(places):
    return torch.tensor([[float(label in SETS[place]) for label in range(3)] for place in places])


def kept(values, places):
    """Values of the candidates, which sum to one."""
    values = values * indicator(places)
    return values / values.sum(1, keepdim=True)


def cross_entropy(p, weights):
    return -(weights * torch.log(p)).sum() / len(p)


def squared_distance(a, b):
    return float(((a - b) ** 2).sum())


class ByHand:
    """The order of the authors' code: the classifier learns from d of the document's last step, and a new d is drawn with the seed of this step."""

    def __init__(self, method, options):
        self.options = SHIPPED | options
        self.net, self.others = numbers(method)
        self.steps = options["rounds"] * options["steps_per_round"]
        late = sum(done / self.steps < self.options["warm_up"] for done in range(self.steps))  # steps before the second network learns
        left = self.steps - late
        self.adamw = Adam(options["learning_rate"], 0.01, self.steps)
        self.adamw_of_others = Adam(options["learning_rate"] * left / self.steps, 0.01, left)
        uniform = torch.tensor([[(label in members) / len(members) for label in range(3)] for members in SETS] + [[0.0] * 3])
        self.predicted, self.inferred, self.graph = uniform.clone(), uniform.clone(), None
        self.figures = []

    def train(self):
        for done in range(self.steps):
            rng = np.random.default_rng([0, *divmod(done, self.options["steps_per_round"])])
            places = rng.choice(6, size=self.options["batch_size"], replace=False).tolist()
            rng.choice(1, size=self.options["batch_size"], replace=True)  # the documents without a set, which nothing is learned from
            self.step(places, done / self.steps, lambda rng=rng: torch.manual_seed(int(rng.integers(2**63))))

    def step(self, places, progress, seed):
        rows, inferred, predicted = bags([TEXTS[place] for place in places]), self.inferred[places].clone(), self.predicted[places].clone()
        p = softmax(logits(self.net, rows))
        self.predicted[places] = kept(p, places)
        loss = lambda net: cross_entropy(softmax(logits(net, rows)), inferred)  # noqa: E731
        total = loss(self.net)
        if progress < self.options["warm_up"]:
            self.inferred[places] = kept(p, places)
        else:
            seed()
            state, share = torch.get_rng_state(), self.options["inferred_share"]
            of_others = self.of_others(places, rows, predicted, state)
            total = total + of_others(self.others)
            self.inferred[places] = share * kept(self.drawn(self.others, rows, places, state), places) + (1 - share) * predicted
            self.others = self.adamw_of_others.step(self.others, gradient(of_others, self.others))
        self.figures.append(float(total))
        self.net = self.adamw.step(self.net, gradient(loss, self.net))

    def drawn(self, others, rows, places, state):
        shares = softmax(logits(others, rows)) * indicator(places)
        torch.set_rng_state(state)
        return torch.distributions.Dirichlet(shares / shares.sum(1, keepdim=True).detach() + 0.01).rsample()

    def of_others(self, places, rows, predicted, state):
        """The loss of the second network and the decoder: [W, b, C, c, D1, e1, D2, e2]."""
        options, sets, count = self.options, indicator(places), len(places)
        features, joined = embeddings(self.net, rows), self.joined(places)

        def loss(others):
            scores = logits(others, rows)
            d = self.drawn(others, rows, places, state)
            made = (d @ others[4].T + others[5]).clamp(min=0) @ others[6].T + others[7]
            of_features = ((made - features) ** 2).sum() / count
            taken = 1 / (1 + torch.exp(-d))
            of_sets = -(sets * torch.log(taken) + (1 - sets) * torch.log(1 - taken)).sum() / (3 * count)
            like = softmax(1 / (1 + torch.exp(-d @ d.T)))
            of_graph = ((like - joined) ** 2).sum() / count**2
            alpha = torch.exp(scores / 4)
            alpha = torch.where(alpha < 0.01, 0.01, torch.where(alpha > 30, 30.0, alpha))
            both = alpha.sum(1, keepdim=True)
            apart = (alpha - 1) * (torch.digamma(alpha) - torch.digamma(both))
            divergence = torch.lgamma(both).sum() - torch.lgamma(alpha).sum() - count * torch.lgamma(torch.tensor(3.0)) + apart.sum()
            return (
                options["reconstruction_weight"] * (0.01 * of_features + 0.01 * of_sets + of_graph)
                + options["prior_weight"] * divergence / count
                + options["agreement_weight"] * cross_entropy(softmax(scores), predicted)
            )

        return loss

    def joined(self, places):
        """1 / (k + 1) for each document itself and its k nearest ones, of the embeddings at the end of the warm-up."""
        count = min(self.options["neighbours"], 5)
        if self.graph is None:
            e = embeddings(self.net, bags(TEXTS[:6]))
            others = [[j for j in range(6) if j != i] for i in range(6)]
            self.graph = [sorted(others[i], key=lambda j, i=i: squared_distance(e[i], e[j]))[:count] for i in range(6)]
        return torch.tensor([[float(i == j or j in self.graph[i]) / (count + 1) for j in places] for i in places])


def numbers(method):
    return net_of(method.encoder, method.classifier), [
        *net_of(method.second_encoder, method.second_classifier),
        *net_of(method.decoder, torch.nn.Identity()),
    ]


CASES = [
    {},
    {"warm_up": 0.0},
    {"warm_up": 0.7},
    {"warm_up": 1.0},
    {"neighbours": 1},
    {"neighbours": 9},  # more than there are
    {"reconstruction_weight": 50.0},
    {"reconstruction_weight": 0.0},
    {"prior_weight": 2.0},
    {"agreement_weight": 1.0},
    {"inferred_share": 0.3},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_training_by_hand(options):
    options = SMALL | options
    method = build(corpus(), "valen", **options)
    method.second_classifier.weight.data *= 8  # alpha on both sides of one, and shares that differ
    hand = ByHand(method, options)
    figures = steps_of(method)
    hand.train()
    assert [one["loss"] for one in figures] == pytest.approx(hand.figures, rel=1e-8)
    net, others = numbers(method)
    assert_equal({"net": net, "others": others}, {"net": hand.net, "others": hand.others})
    assert torch.allclose(method.weights, hand.predicted, rtol=1e-7)
    assert torch.allclose(method.inferred, hand.inferred, rtol=1e-7)


@pytest.mark.parametrize("options", [{"warm_up": 0.7}, {"neighbours": 1}, {"reconstruction_weight": 50.0}, {"prior_weight": 2.0}], ids=str)
def test_every_option_of_the_second_network_changes_it(options):
    trained = []
    for more in ({}, options):
        method = build(corpus(), "valen", **SMALL | more)
        steps_of(method)
        trained.append(numbers(method)[1])
    assert differ(*trained)


@pytest.mark.parametrize("options", [{"warm_up": 0.7}, {"agreement_weight": 0.0}, {"inferred_share": 0.3}], ids=str)
def test_what_is_inferred_reaches_the_classifier(options):
    trained = []
    for more in ({}, options):
        method = build(corpus(), "valen", **SMALL | more)
        steps_of(method)
        trained.append(numbers(method)[0])
    assert differ(*trained)


def test_what_is_shipped():
    """The weights of the authors' README for uniform sets on CIFAR-10, and the neighbours of their program."""
    method = build(corpus(), "valen")
    assert {name: getattr(method.options, name) for name in SHIPPED} == SHIPPED
    assert [tuple(value.shape) for value in method.decoder.parameters()] == [(5, 3), (5,), (5, 5), (5,)]
    assert not differ(net_of(method.encoder, method.classifier), net_of(method.second_encoder, method.second_classifier))


def test_the_draw_leaves_torchs_stream_as_it_was():
    method = build(corpus(), "valen", **SMALL | {"warm_up": 0.0})
    method.refresh(0, lambda requests: {})
    before = torch.get_rng_state()
    method.step(0, 0)
    assert torch.equal(before, torch.get_rng_state())
