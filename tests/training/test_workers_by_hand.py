"""Two workers against trainings worked out by hand for one process: nothing of ours says what is right.

One pair of processes trains every method below and reports whether losses, gradients and weights were those by hand (tests/few_labels.py).
"""

from __future__ import annotations

import traceback

import few_labels_equations as equations
import pytest
from few_labels import TEXTS, ByHand, Watching, built, follow
from worker_groups import results_of_group

FEW = {"batch_size": 5, "unlabeled_ratio": 1}  # shares of a batch differ in size
T = {"ns3l_threshold": 0.3}
METHODS = {  # name: by hand, options
    "cross_entropy": (equations.CrossEntropy, FEW),
    "ns3l": (ByHand, FEW | T),
    "mean_teacher": (equations.MeanTeacher, FEW | {"weight": 2.0}),
    "fixmatch": (equations.FixMatch, FEW | {"threshold": 0.5, "simclr_weight": 0.2}),
    "ssc": (equations.SSC, FEW | {"threshold": 0.6, "confidence_temperature": 0.3}),
    "tf_kd": (equations.SelfTeacher, FEW),
    "cs_kd": (equations.Classwise, FEW),
    "ps_kd": (equations.Progressive, FEW),
    "dlb": (equations.LastBatch, FEW | {"batch_size": 4}),
    "uskd": (equations.Customized, FEW),
    "one document": (
        equations.SSC,
        {"batch_size": 1, "unlabeled_ratio": 1, "threshold": 0.6, "confidence_temperature": 0.3},
    ),  # more workers than documents
}


def followed(name, workers):
    """Whether the method's training agrees with that by hand; if not, where."""
    hand_of, options = METHODS[name]
    method = built("ssc" if name == "one document" else name, workers=workers, **options)
    hand, shares, forward = hand_of(method), [], method.encoder.forward
    method.encoder.forward = lambda texts, longest=None: shares.append(len(texts)) or forward(texts, longest)
    try:
        follow(method, hand)
        assert max(shares) <= -(-len(TEXTS) // workers.size), shares  # the work is divided
    except AssertionError:
        return traceback.format_exc()
    return "agrees"


def every_method(rank, size):
    return {name: followed(name, Watching(rank, size)) for name in METHODS}


@pytest.fixture(scope="module")
def pair():
    """[rank] -> [method] -> "agrees", or where it does not."""
    return results_of_group(every_method, 2, preload=["few_labels_equations"])


@pytest.mark.parametrize("name", METHODS)
def test_the_steps_of_two_workers_are_those_by_hand(pair, name):
    for found in pair.values():
        assert found[name] == "agrees", found[name]
