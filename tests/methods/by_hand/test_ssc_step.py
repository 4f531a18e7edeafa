"""Steps by hand: SSC (Gauffre et al. 2024), one SupCon loss over prototypes, labeled, confident and unconfident documents."""

import pytest
import torch
from by_hand import softmax
from few_labels import TEXTS, built, each_changes, follow
from few_labels_equations import SSC, unit

from selftrain.errors import SelfTrainError
from selftrain.methods.few_labels.ns3l import NS3LHostOptions

BASE = {"threshold": 0.6, "confidence_temperature": 0.3}
CASES = [
    BASE,
    BASE | {"threshold": 0.8},
    BASE | {"threshold": 0.0},
    BASE | {"threshold": 1.0},
    BASE | {"temperature": 0.5},
    BASE | {"confidence_temperature": 0.5},
    BASE | {"unconfident": False},
    BASE | {"unconfident_weight": 1.0},
    BASE | {"unconfident_weight": 0.0},
    BASE | {"ns3l_weight": 0.3, "ns3l_threshold": 0.3},
]


@pytest.mark.parametrize("normalize", [True, False])
def test_ssc(normalize):
    results = []
    for options in CASES:
        method = built("ssc", normalize=normalize, **options)
        results.append(follow(method, SSC(method)))
    each_changes("ssc", CASES, results, {*NS3LHostOptions.model_fields, "projection"})
    assert min(SSC.confident, SSC.unconfident) > 0


def test_ssc_serves_its_prototypes_at_the_temperature_of_confidence():
    method = built("ssc", **BASE)
    hand = SSC(method)
    follow(method, hand)
    student = method.student()
    torch.testing.assert_close(student.weights, torch.stack([unit(prototype) for prototype in hand.weights["U"]]))
    assert student.scale == pytest.approx(1 / 0.3) and student.bias is None and not student.weights.requires_grad
    torch.testing.assert_close(student.predict(TEXTS), torch.stack([softmax(hand.logits(hand.weights, text)) for text in TEXTS]))


def test_the_probabilities_that_are_served_are_of_cosines_whatever_the_length_of_an_embedding():
    """`similarity: dot`: the encoder leaves its embeddings as long as they are."""
    method = built("ssc", normalize=False, **BASE)
    hand = SSC(method)
    follow(method, hand)
    lengths = torch.stack([hand.row(hand.weights, text).norm() for text in TEXTS])
    assert (lengths - 1).abs().min() > 0.05
    torch.testing.assert_close(method.student().predict(TEXTS), torch.stack([softmax(hand.logits(hand.weights, text)) for text in TEXTS]))


def test_texts_have_no_projection():
    with pytest.raises(SelfTrainError, match=r"method\.projection must be 0 for texts.*\(got 128\)"):
        built("ssc", projection=128)
    assert built("ssc", projection=0).classifier.projection is None


def test_ssc_has_no_ramp():
    results = []
    for ramp in (0.0, 1.0):
        method = built("ssc", ramp=ramp, **BASE)
        results.append(follow(method, SSC(method)))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
