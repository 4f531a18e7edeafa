"""The losses of NS3L, SSC and their baselines: hand-worked values, limits, gradients by finite differences, numerical safety."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from selftrain.methods.few_labels.ns3l import negative_sampling
from selftrain.methods.few_labels.vat import entropy
from selftrain.methods.losses import confident_cross_entropy, supervised_contrastive

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.1, 0.2, 0.3]])


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_ns3l_by_hand():
    # Two equal classes and one that is e^2 times as likely: leaving the two out costs -log(1 - 2 / (e^2 + 2)).
    found = negative_sampling(torch.tensor([[2.0, 0.0, 0.0]]), mask([False, True, True]))
    assert found.item() == pytest.approx(-math.log(1 - 2 / (math.e**2 + 2)), rel=1e-6)


def test_ns3l_in_numpy():
    negatives = mask([False, False, True], [True, False, False])
    p = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(1, keepdims=True)
    expected = -np.log(1 - (p * negatives.numpy()).sum(1)).mean()
    assert negative_sampling(LOGITS, negatives).item() == pytest.approx(float(expected), rel=1e-6)


def test_ns3l_of_two_classes_is_pseudo_labeling_with_threshold_one_minus_t():
    logits = torch.tensor([[3.5, 0.0], [0.2, 0.1], [-1.0, 4.0]])
    threshold = 0.04
    negatives = torch.softmax(logits, dim=1) < threshold
    assert negative_sampling(logits, negatives).item() == pytest.approx(confident_cross_entropy(logits, logits, 1 - threshold).item(), rel=1e-5)


def test_ns3l_without_negatives_or_with_nothing_else_is_zero_with_a_finite_gradient():
    for negatives in (mask([False] * 3, [False] * 3), mask([True] * 3, [True] * 3)):
        logits = LOGITS.clone().requires_grad_()
        loss = negative_sampling(logits, negatives)
        loss.backward()
        assert loss.item() == 0.0
        assert torch.equal(logits.grad, torch.zeros_like(LOGITS))


def test_ns3l_is_safe_where_the_negative_class_has_all_the_probability():
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = negative_sampling(logits, mask([True, False, False]))
    loss.backward()
    assert loss.item() == pytest.approx(200.0 - math.log(2), rel=1e-5)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0].item() == pytest.approx(1.0)  # pushed down, where a clamp would give no gradient


def test_gradients_by_finite_differences():
    logits = LOGITS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: negative_sampling(x, mask([False, True, False], [True, False, False])), logits)
    assert torch.autograd.gradcheck(entropy, logits)
    rows = F.normalize(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
    labels, weights = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: supervised_contrastive(x, labels, 0.3, weights), rows)


def test_supcon_by_hand():
    # Three unit vectors: two equal ones of the same label, one orthogonal to both. For each of the pair: -(1 - log(e + 1)); the third has no positive.
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = supervised_contrastive(rows, torch.tensor([0, 0, 1]), temperature=1.0)
    assert found.item() == pytest.approx(math.log(math.e + 1) - 1, rel=1e-6)


def test_supcon_with_prototypes_at_temperature_1_is_cross_entropy():
    # SSC section 3.3: the example is the anchor, the prototypes are all that it is compared with, its own is the only positive.
    generator = torch.Generator().manual_seed(1)
    prototypes = F.normalize(torch.randn(4, 8, generator=generator), dim=1)
    example = F.normalize(torch.randn(1, 8, generator=generator), dim=1)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])  # the example is the only anchor that counts
    found = supervised_contrastive(torch.cat([example, prototypes]), torch.tensor([2, 0, 1, 2, 3]), 1.0, weights)
    assert found.item() == pytest.approx(F.cross_entropy(example @ prototypes.T, torch.tensor([2])).item(), rel=1e-5)


def test_only_ratios_of_anchor_weights_matter():
    rows = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), dim=1)
    labels, weights = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1.0, 1.0, 0.2, 0.2, 0.2, 0.2])
    assert supervised_contrastive(rows, labels, 0.1, weights).item() == pytest.approx(supervised_contrastive(rows, labels, 0.1, weights * 7).item())
    assert supervised_contrastive(rows, labels, 0.1, weights).item() != pytest.approx(supervised_contrastive(rows, labels, 0.1).item())


def test_supcon_without_any_positive_is_zero():
    rows = torch.eye(3, requires_grad=True)
    loss = supervised_contrastive(rows, torch.tensor([0, 1, 2]), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(rows.grad, torch.zeros(3, 3))


def test_confident_cross_entropy_counts_the_unconfident_in_its_mean():
    logits = torch.tensor([[9.0, 0.0], [0.1, 0.0]])
    assert confident_cross_entropy(logits, logits, 0.9).item() == pytest.approx(F.cross_entropy(logits[:1], torch.tensor([0])).item() / 2)


def test_entropy_of_equal_probabilities_is_the_logarithm_of_the_classes():
    assert entropy(torch.zeros(2, 4)).item() == pytest.approx(math.log(4))
    assert entropy(torch.tensor([[100.0, 0.0]])).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(dtype):
    logits = torch.tensor([[30.0, -30.0, 0.0]], dtype=dtype)
    assert torch.isfinite(negative_sampling(logits, mask([False, True, False])))
    assert torch.isfinite(supervised_contrastive(torch.eye(3, dtype=dtype), torch.tensor([0, 0, 1]), 0.1))
