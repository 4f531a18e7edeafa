"""Each equation against values worked out by hand or in NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selftrain.methods.losses import distillation, similarity, text_to_generated, text_to_label
from selftrain.methods.zero_shot.genco import soft_targets
from selftrain.methods.zero_shot.lotclass import sharpened_targets


def softmax(rows):
    shifted = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def test_similarity_is_the_scaled_dot_product():
    found = similarity(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, -1.0]]), scale=2.0)
    assert found.tolist() == [[2.0], [-2.0]]


def test_soft_targets_of_two_classes_by_hand():
    # scores 1 and 0 at tau 0.5: the odds are e^2 to 1
    found = soft_targets(torch.tensor([[1.0, 0.0]]), tau=0.5)
    assert found[0, 0].item() == pytest.approx(math.e**2 / (math.e**2 + 1))


def test_soft_targets_become_one_hot_as_tau_falls():
    assert soft_targets(torch.tensor([[0.2, 0.1, 0.0]]), tau=0.001)[0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


def test_soft_targets_pass_no_gradient():
    scores = torch.tensor([[1.0, 0.0]], requires_grad=True)
    assert not soft_targets(scores, 0.1).requires_grad


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.5])
def test_soft_targets_refuse_tau_outside_its_range(tau):
    with pytest.raises(ValueError, match="tau"):
        soft_targets(torch.zeros(1, 2), tau)


def test_equation_5_by_hand():
    # P = (e/(e+1), 1/(e+1)); Q = (1, 0): the loss is -log P_1 = log(1 + 1/e)
    loss = text_to_label(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(math.log(1 + 1 / math.e))


def test_equation_5_at_tau_1_is_the_conditional_entropy_of_equation_8():
    scores = torch.tensor([[0.3, -0.2, 1.1], [0.0, 0.0, 0.0]])
    p = softmax(scores.numpy())
    assert text_to_label(scores, soft_targets(scores, 1.0)).item() == pytest.approx(float(-(p * np.log(p)).sum(axis=1).mean()), rel=1e-6)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, (4, 3), elements=st.floats(-5, 5)), st.floats(0.05, 1.0))
def test_equation_5_in_numpy(scores, tau):
    q, p = softmax(scores / tau), softmax(scores)
    expected = float(-(q * np.log(p)).sum(axis=1).mean())
    assert text_to_label(torch.tensor(scores), soft_targets(torch.tensor(scores), tau)).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def equation_10(texts, generated, text_labels, generated_labels, scale, against):
    """The sum as printed, one term at a time (mean over texts with positives instead of the sum)."""
    terms = []
    for i, label in enumerate(text_labels):
        positives = [j for j, other in enumerate(generated_labels) if other == label]
        if positives:
            denominator = sum(math.exp(scale * float(texts[i] @ other)) for other in against)
            terms.append(-sum(math.log(math.exp(scale * float(texts[i] @ generated[j])) / denominator) for j in positives) / len(positives))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("denominator", ["texts", "generated"])
def test_equation_10_term_by_term(denominator):
    rng = np.random.default_rng(0)
    texts, generated = rng.normal(size=(4, 5)), rng.normal(size=(3, 5))
    text_labels, generated_labels = [0, 1, 1, 2], [0, 1, 1]  # the last text has no positive
    found = text_to_generated(
        torch.tensor(texts), torch.tensor(generated), torch.tensor(text_labels), torch.tensor(generated_labels), 0.7, denominator=denominator
    )
    against = texts if denominator == "texts" else generated
    assert found.item() == pytest.approx(equation_10(texts, generated, text_labels, generated_labels, 0.7, against))


def test_equation_10_without_any_positive_is_zero_and_keeps_the_graph():
    texts = torch.ones(1, 2, requires_grad=True)
    loss = text_to_generated(texts, torch.ones(1, 2), torch.tensor([0]), torch.tensor([1]), 1.0)
    loss.backward()
    assert loss.item() == 0.0
    assert texts.grad.tolist() == [[0.0, 0.0]]


def test_sharpened_targets_by_hand():
    # f = (1.4, 0.6); the first row's weights are 0.64/1.4 and 0.04/0.6, the second's 0.36/1.4 and 0.16/0.6
    found = sharpened_targets(torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64, requires_grad=True))
    first, second = (0.64 / 1.4) / (0.64 / 1.4 + 0.04 / 0.6), (0.36 / 1.4) / (0.36 / 1.4 + 0.16 / 0.6)
    assert found[:, 0].tolist() == pytest.approx([first, second])
    assert second < 0.5 < 0.6  # the class that is predicted less gets the undecided document
    assert found.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert not found.requires_grad


def test_sharpened_targets_of_a_class_without_documents():
    assert sharpened_targets(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_distillation_is_the_divergence_over_the_classes_and_warns_of_nothing(recwarn):
    logits, teacher = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 3.0]]), torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]])
    q, p = softmax(teacher.double().numpy() / 2.0), softmax(logits.double().numpy() / 2.0)
    assert float(distillation(logits, teacher, 2.0)) == pytest.approx(4.0 * float((q * np.log(q / p)).sum()) / 2, rel=1e-5)
    assert [str(one.message) for one in recwarn] == []
