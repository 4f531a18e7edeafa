"""VALEN and IDGP: their equations by hand, and where their second networks begin and end."""

import math

import numpy as np
import pytest
import torch
from linear import TEXTS, build, corpus_of, differ, net_of, steps_of

from selftrain.methods.candidate_labels import valen
from selftrain.methods.candidate_labels.idgp import generation_likelihood, label_posterior
from selftrain.methods.candidate_labels.valen import dirichlet_divergence, reconstruction

pytestmark = pytest.mark.usefixtures("one_thread", "float64")

SCORES = torch.tensor([[0.2, -1.0, 0.7], [1.5, 0.0, -0.3]], dtype=torch.float64)
SETS = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


# --- IDGP


def test_the_posterior_of_the_label_by_hand():
    found = label_posterior(SCORES, torch.tensor([2, 0]), SETS).tolist()
    z = [[sigmoid(value) for value in row] for row in SCORES.tolist()]
    z[0][2], z[1][0] = 1 - z[0][2], 1 - z[1][0]  # of the believed ones
    first = [(1 - z[0][0]) * z[0][2], 0.0, (1 - z[0][2]) * z[0][0]]
    second = [(1 - z[1][j]) * math.prod(z[1][k] for k in range(3) if k != j) for j in range(3)]
    assert found == [[pytest.approx(value / sum(row), rel=1e-12) for value in row] for row in (first, second)]


def test_a_set_of_one_leaves_no_doubt_and_certain_scores_leave_numbers():
    alone = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert label_posterior(SCORES[:1], torch.tensor([1]), alone).tolist() == [[0.0, 1.0, 0.0]]
    certain = torch.tensor([[800.0, -800.0, 800.0]])
    assert torch.isfinite(label_posterior(certain, torch.tensor([0]), torch.ones(1, 3))).all()
    assert torch.isfinite(generation_likelihood(certain, torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([[1.0, 0.0, 1.0]])))


def test_the_likelihood_of_the_set_by_hand():
    shares = torch.tensor([[0.25, 0.0, 0.75], [0.2, 0.3, 0.5]], dtype=torch.float64)
    z = [[sigmoid(value) for value in row] for row in SCORES.tolist()]
    total = 0.0
    for row in range(2):
        for j in range(3):
            total -= math.log(z[row][j]) if SETS[row, j] else math.log(1 - z[row][j])
            total -= float(shares[row, j]) * math.log(1 - z[row][j])
    assert generation_likelihood(SCORES, shares, SETS).item() == pytest.approx(total / 2, rel=1e-12)


# --- VALEN


def test_the_divergence_from_the_prior_by_hand():
    alpha = [[min(30.0, max(0.01, math.exp(value / 4))) for value in row] for row in (SCORES * 10).tolist()]
    by_hand = 0.0
    for row in alpha:
        both = sum(row)
        digamma = [float(torch.digamma(torch.tensor(value, dtype=torch.float64))) for value in (*row, both)]
        by_hand += (
            math.lgamma(both)
            - sum(map(math.lgamma, row))
            - math.lgamma(3)
            + sum((a - 1) * (d - digamma[3]) for a, d in zip(row, digamma, strict=False))
        )
    assert dirichlet_divergence(SCORES * 10).item() == pytest.approx(by_hand / 2, rel=1e-9)
    assert dirichlet_divergence(torch.zeros(2, 3)).item() == pytest.approx(0.0, abs=1e-6)  # alpha of one is the prior
    far = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    dirichlet_divergence(far).backward()
    assert torch.isfinite(far.grad).all()  # kept between .01 and 30


def test_the_reconstruction_by_hand():
    d = torch.tensor([[0.7, 0.1, 0.2], [0.3, 0.3, 0.4]], dtype=torch.float64)
    decoded, features = torch.tensor([[1.0, 2.0], [0.5, 0.0]]).double(), torch.tensor([[0.6, 0.8], [1.0, 0.0]]).double()
    adjacency = torch.tensor([[0.5, 0.5], [0.0, 0.5]], dtype=torch.float64)
    of_features = ((0.4**2 + 1.2**2) + 0.5**2) / 2
    of_sets = -sum(math.log(sigmoid(v) if taken else 1 - sigmoid(v)) for v, taken in zip(d.flatten().tolist(), SETS.flatten().tolist(), strict=True))
    like = [[sigmoid(sum(a * b for a, b in zip(one, other, strict=True))) for other in d.tolist()] for one in d.tolist()]
    shares = [[math.exp(value) / sum(map(math.exp, row)) for value in row] for row in like]
    of_graph = sum((shares[i][j] - float(adjacency[i, j])) ** 2 for i in range(2) for j in range(2)) / 4
    found = reconstruction(d, decoded, features, SETS, adjacency).item()
    assert found == pytest.approx(0.01 * of_features + 0.01 * of_sets / 6 + of_graph, rel=1e-12)


def test_label_distributions_are_drawn_in_proportion_to_the_second_networks_shares():
    method = build(corpus_of(candidates={0: (0, 1), 1: (1, 2)}), "valen")
    scores = torch.tensor([[1.0, 0.0, 5.0]], dtype=torch.float64).expand(4000, -1).clone().requires_grad_()
    candidates = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64).expand(4000, -1)
    drawn = method.draw(scores, candidates, np.random.default_rng(0))
    shares = [1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0.0]
    expected = [(share + 0.01) / 1.03 for share in shares]
    assert drawn.mean(dim=0).tolist() == [pytest.approx(value, abs=0.02) for value in expected]
    drawn[:, 0].sum().backward()
    assert torch.isfinite(scores.grad).all() and scores.grad[:, 0].sum() > 0 > scores.grad[:, 1].sum()
    again = method.draw(scores, candidates, np.random.default_rng(0))
    assert torch.equal(drawn, again) and not torch.equal(drawn, method.draw(scores, candidates, np.random.default_rng(1)))


@pytest.mark.parametrize("rows", [2, 256])
def test_neighbours_are_the_nearest_documents_with_a_set(monkeypatch, rows):
    """Of the first, third and later documents; the second and the last have no set, are nobody's neighbours and have none."""
    monkeypatch.setattr(valen, "ROWS", rows)  # distances in blocks are those of all at once
    places = [0, 2, 3, 4, 5]
    method = build(corpus_of(candidates=dict.fromkeys(places, (0, 1))), "valen", neighbours=2)
    e = method.encoder.encode(TEXTS).tolist()
    graph = method.nearest().tolist()
    for place in range(7):
        nearest = sorted((other for other in places if other != place), key=lambda other, place=place: math.dist(e[place], e[other]))
        assert graph[place] == (nearest[:2] if place in places else [-1, -1])
    method.graph = None
    third = 1 / 3
    joined = [[third * (i == j or j in graph[i]) for j in (2, 5, 2)] for i in (2, 5, 2)]  # a document that was drawn twice is itself twice
    assert method.adjacency([2, 5, 2]).tolist() == joined


@pytest.mark.parametrize("name", ["valen", "idgp"])
def test_neither_network_is_reached_by_the_others_loss(name):
    """With the weights of the second network's losses at zero it stands still, and the classifier moves."""
    sets = dict(enumerate(((0, 1), (1, 2), (0, 2), (1,), (0, 1, 2), (2,))))
    none = (
        ("reconstruction_weight", "prior_weight", "agreement_weight")
        if name == "valen"
        else ("generation_prior_weight", "generation_likelihood_weight", "weight")
    )
    options = {"rounds": 1, "steps_per_round": 3, "batch_size": 4, "learning_rate": 0.1, "weight_decay": 0.0, "warm_up": 0.0}
    method = build(corpus_of(candidates=sets), name, **options | dict.fromkeys(none, 0.0))
    first, second = net_of(method.encoder, method.classifier), net_of(method.second_encoder, method.second_classifier)
    steps_of(method)
    assert differ(first, net_of(method.encoder, method.classifier))
    assert not differ(second, net_of(method.second_encoder, method.second_classifier), least=1e-12)


def test_the_second_network_of_idgp_starts_from_weights_of_its_own_where_the_encoders_are_drawn(monkeypatch):
    from linear import ResidualEncoder

    fresh = {name: torch.full_like(value, 0.25) for name, value in ResidualEncoder().named_parameters()}
    monkeypatch.setattr(ResidualEncoder, "drawn", True)
    monkeypatch.setattr(ResidualEncoder, "fresh", lambda self: fresh)
    method = build(corpus_of(candidates={0: (0, 1), 1: (1, 2)}), "idgp")
    assert all((value == 0.25).all() for value in method.second_encoder.parameters())
    assert not any((value == 0.25).all() for value in method.encoder.parameters())


@pytest.mark.parametrize("name", ["valen", "idgp"])
def test_the_first_classifier_starts_as_that_of_every_other_method(name):
    corpus = corpus_of(candidates={0: (0, 1), 1: (1, 2)})
    one, other = build(corpus, name), build(corpus, "cc")
    assert torch.equal(one.classifier.weight, other.classifier.weight) and torch.equal(one.classifier.bias, other.classifier.bias)
