"""SEAL's task loss, the top-k cross-entropy: its sorting network and its value by hand, and that it does not depend on the number of classes."""

import itertools
import math

import numpy as np
import pytest
import torch

from selftrain.methods.soft_labels import top_k
from selftrain.methods.soft_labels.top_k import rank_probabilities, strongest, top_k_cross_entropy


def softmax(rows):
    shifted = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def test_ranks_of_two_classes_by_hand():
    # one comparison: class 0 stays first with arctan(2 * (1 - 0)) / pi + 1/2
    found = rank_probabilities(torch.tensor([[1.0, 0.0]]), steepness=2.0)[0]
    first = math.atan(2.0) / math.pi + 0.5
    assert found.flatten().tolist() == pytest.approx([first, 1 - first, 1 - first, first], abs=1e-6)


def test_ranks_of_three_classes_by_hand():
    """The network sorts upwards and its first layer compares columns 0 and 1 (diffsort's odd-even network): what column 0 becomes, by a pocket calculator."""
    # scores 1, 2, 0. Layer 1, columns 0 and 1: they stay with arctan(2) / pi + 1/2 = .852416, so column 0 is now 1.147584, column 1 is 1.852416.
    # Layer 2, columns 1 and 2: stay with arctan(-3.704833) / pi + 1/2 = .083918; column 1 is .155450, column 2 is 1.696966.
    # Layer 3, columns 0 and 1: stay with arctan(-1.984266) / pi + 1/2 = .148592.
    # What was column 0 is in 0, 1, 2 with: .852416, .147584, 0; then .852416, .012385, .135199; then .137206, .727595, .135199.
    found = rank_probabilities(torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64))[0, :, 0]
    assert found.tolist() == pytest.approx([0.135199, 0.727595, 0.137206], abs=2e-6)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_rank_probabilities_are_doubly_stochastic(classes):
    torch.manual_seed(classes)
    found = rank_probabilities(torch.randn(5, classes, dtype=torch.float64))
    ones = torch.ones(5, classes, dtype=torch.float64)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(1), ones)
    assert torch.allclose(found.sum(2), ones)


def test_steep_ranks_are_the_hard_sort_of_every_order():
    for order in itertools.permutations([3.0, 1.0, 2.0, 0.0]):
        found = rank_probabilities(torch.tensor([order], dtype=torch.float64), steepness=1e9)[0]
        assert found.argmax(dim=1).tolist() == np.argsort(-np.array(order)).tolist()
        assert found.max(dim=1).values.min() > 1 - 1e-6


def sorted_softly(scores, steepness=2.0):
    """[place][column] of one row, the highest place first: an odd-even network that sorts upwards, one comparison of two neighbours after the other."""
    values, chances = list(scores), np.eye(len(scores))
    for layer in range(len(scores)):
        for left in range(layer % 2, len(scores) - 1, 2):
            stays = math.atan(steepness * (values[left + 1] - values[left])) / math.pi + 0.5
            mix = np.array([[stays, 1 - stays], [1 - stays, stays]])
            values[left : left + 2] = mix @ values[left : left + 2]
            chances[left : left + 2] = mix @ chances[left : left + 2]
    return chances[::-1]


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_the_sorting_network_one_comparison_at_a_time(classes):
    scores = np.random.default_rng(classes).normal(size=(4, classes))
    found = rank_probabilities(torch.tensor(scores), steepness=3.0).numpy()
    assert found == pytest.approx(np.stack([sorted_softly(row, 3.0) for row in scores]), rel=1e-10)


def equation_14(row, label, prior, steepness=2.0):
    """Of one row, as released: the label first, then the seven strongest others downwards; P(1) times the softmax of these, the rest from the network."""
    scores = np.array([row[label], *sorted(np.delete(row, label), reverse=True)[:7]])
    chances = sorted_softly(scores, steepness)
    found = prior[0] * softmax(scores)[0] + sum(p * chances[: k + 1, 0].sum() for k, p in enumerate(prior) if k)
    return -math.log(found * (1 - 2e-7) + 1e-7)


@pytest.mark.parametrize(
    ("classes", "prior"), [(5, (0.5, 0.3, 0.2)), (3, (0.8, 0.2)), (8, (0.5, 0.0, 0.3, 0.0, 0.2)), (20, (0.5, 0.0, 0.3, 0.0, 0.2))]
)
def test_equation_14_in_numpy(classes, prior):
    logits, labels = np.random.default_rng(1).normal(size=(6, classes)), [0, 1, 2, classes - 1, classes - 2, 0]
    expected = np.mean([equation_14(row, label, prior) for row, label in zip(logits, labels, strict=True)])
    assert top_k_cross_entropy(torch.tensor(logits), torch.tensor(labels), prior).item() == pytest.approx(expected, rel=1e-12)


def test_equation_14_by_hand():
    # scores 1 (the label), 2, 0: softmax .244728, and among the first two with .135199 + .727595 (above): .8 * .244728 + .2 * .862794 = .368341
    loss = top_k_cross_entropy(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64), torch.tensor([1]), (0.8, 0.2))
    assert loss.item() == pytest.approx(-math.log(0.368341), abs=1e-5)


def test_equation_14_is_near_zero_for_a_clear_winner_among_a_hundred_classes_wherever_it_stands():
    """A network over all classes in the order of their numbers, which it was, found the label first with .225 where it is class 0, and with .000 at the end."""
    found = []
    for label in (0, 1, 50, 98, 99):
        logits = torch.zeros(1, 100)
        logits[0, label] = 8.0
        found.append(top_k_cross_entropy(logits, torch.tensor([label]), (0.8, 0.2)).item())
    assert max(found) < 0.1
    assert max(found) - min(found) < 1e-6
    few = torch.zeros(1, 8)
    few[0, 3] = 8.0
    assert found[0] == pytest.approx(top_k_cross_entropy(few, torch.tensor([3]), (0.8, 0.2)).item(), abs=1e-6)


def test_equation_14_sorts_eight_scores_however_many_classes_there_are(monkeypatch):
    sizes = []
    original = top_k.rank_probabilities
    monkeypatch.setattr(top_k, "rank_probabilities", lambda scores, *more, **named: sizes.append(scores.shape[1]) or original(scores, *more, **named))
    for classes in (3, 8, 9, 1000):
        top_k_cross_entropy(torch.zeros(2, classes), torch.tensor([0, classes - 1]), (0.8, 0.2))
    assert sizes == [3, 8, 8, 8]


def test_the_strongest_others_follow_the_label_downwards():
    scores = torch.arange(10.0).unsqueeze(0)
    assert strongest(scores, torch.tensor([1])).tolist() == [[1, 9, 8, 7, 6, 5, 4, 3]]
    assert strongest(scores, torch.tensor([9])).tolist() == [[9, 8, 7, 6, 5, 4, 3, 2]]
    assert strongest(scores[:, :3], torch.tensor([0])).tolist() == [[0, 2, 1]]


def test_equation_14_counts_second_places_by_the_prior():
    # steep, so that the label is second for sure, which the prior gives .2; the part for the first place is a softmax: e^2 / (e^3 + e^2 + e)
    scores = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    loss = top_k_cross_entropy(scores, torch.tensor([1]), (0.8, 0.2), steepness=1e9)
    assert loss.item() == pytest.approx(-math.log(0.2 + 0.8 / (math.e + 1 + 1 / math.e)), rel=1e-6)
    loss = top_k_cross_entropy(scores, torch.tensor([2]), (0.8, 0.2), steepness=1e9)
    assert loss.item() == pytest.approx(-math.log(0.8 / (math.e**2 + math.e + 1)), rel=1e-5)


def test_equation_14_gradients_and_finite_far_out():
    torch.manual_seed(2)
    for classes in (4, 12):
        logits, labels = torch.randn(3, classes, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 3])
        assert torch.autograd.gradcheck(lambda one, labels=labels: top_k_cross_entropy(one, labels, (0.8, 0.2)), logits)
    far = torch.tensor([[-1e6, 0.0, 1e6]], requires_grad=True)
    loss = top_k_cross_entropy(far, torch.tensor([0]), (0.8, 0.2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(far.grad).all()


@pytest.mark.parametrize("prior", [(0.5, 0.3, 0.2), (0.8, 0.1), (1.2, -0.2)])
def test_equation_14_refuses_priors_that_say_nothing(prior):
    with pytest.raises(ValueError, match="prior"):
        top_k_cross_entropy(torch.zeros(1, 3), torch.tensor([0]), prior)
    with pytest.raises(ValueError, match="8 of 20 classes"):
        top_k_cross_entropy(torch.zeros(1, 20), torch.tensor([0]), (0.125,) * 8)
