"""Steps by hand: cross-entropy, NS3L and the options that the whole family with few labels shares."""

import math

import torch
from few_labels import LABELED, SHORT, TRUTH, ByHand, built, each_changes, follow, toy
from few_labels_equations import CrossEntropy

from selftrain.methods.few_labels.ns3l import NS3LHostOptions
from selftrain.methods.optimizers import OptimizerOptions

SHARED = NS3LHostOptions.model_fields.keys()
T = {"ns3l_threshold": 0.3}  # three classes: below 1/3


CASES = [{}, {"label_smoothing": 0.3}, {"label_smoothing": 0.6}]


def test_cross_entropy():
    results = []
    for options in CASES:
        method = built("cross_entropy", **options)
        results.append(follow(method, CrossEntropy(method)))
    each_changes("cross_entropy", CASES, results, SHARED)


NEGATIVES = [
    T,
    T | {"ns3l_weight": 0.4},
    T | {"ns3l_weight": 3.0},
    {"ns3l_threshold": 0.2},
    T | {"ramp": 0.0},
    T | {"ramp": 0.3},
    T | {"ramp": 1.0},
    T | {"rounds": 3},
    T | {"steps_per_round": 3},
    T | {"batch_size": 2},
    T | {"batch_size": 6},  # more than there are labeled documents: with repetitions
    T | {"unlabeled_ratio": 1},
    T | {"learning_rate": 0.02},
    T | {"weight_decay": 0.0},
    T | {"weight_decay": 0.5},
]


def test_ns3l_and_the_options_of_the_family():
    results, found = [], set()

    class NS3L(ByHand):
        def negatives(self, w, step):
            chosen = super().negatives(w, step)
            found.update(len(one) for one in chosen)
            return chosen

    for options in NEGATIVES:
        method = built("ns3l", **options)
        results.append(follow(method, NS3L(method)))
    assert found >= {0, 1, 2}  # documents without, with one and with two negative labels
    elsewhere = {"views", "view_pool", "ns3l_negatives", "ns3l_count", *OptimizerOptions.model_fields} - {"learning_rate", "weight_decay"}
    each_changes("ns3l", NEGATIVES, results, elsewhere)


def distances(hand):
    """Squared, of every document to the nearest labeled one of each class, with the weights before training."""
    rows = [hand.row(hand.first, text) for text in hand.texts]
    return [
        [min(float((row - rows[i]).square().sum()) for i in hand.labeled_ones if hand.labels[i] == label) for label in range(hand.classes)]
        for row in rows
    ]


class Chosen(ByHand):
    """NS3L's appendix B: negative labels that do not come from the model's own probabilities."""

    def negatives(self, w, step):
        how, count = self.options.ns3l_negatives, self.options.ns3l_count
        keys = step.rng.random((len(step.unlabeled), self.classes)).tolist()
        chosen = []
        for i, key in zip(step.unlabeled, keys, strict=True):
            away = distances(self)[i]
            left = {
                "uniform": set(range(self.classes)),
                "furthest": set(range(self.classes)),
                "exclude_nearest": {j for j in range(self.classes) if away[j] > min(away)},
                "oracle": set(range(self.classes)) - {TRUTH[i]},
            }[how]
            ranked = sorted(left, key=lambda j: away[j] if how == "furthest" else key[j], reverse=True)
            chosen.append(set(ranked[: min(count, self.classes - 1)]))
        return chosen


CHOICES = [
    {"ns3l_negatives": "uniform"},
    {"ns3l_negatives": "uniform", "ns3l_count": 2},
    {"ns3l_negatives": "furthest"},
    {"ns3l_negatives": "furthest", "ns3l_count": 2},
    {"ns3l_negatives": "exclude_nearest"},
    {"ns3l_negatives": "oracle"},
    {"ns3l_negatives": "oracle", "ns3l_count": 2},
    {"ns3l_negatives": "uniform", "ns3l_count": 3, "batch_size": 4},  # one class is always left: two negative labels
]


def test_other_choices_of_negative_labels():
    everything = toy()
    corpus = toy(oracle={id_: TRUTH[index] for index, id_ in enumerate(everything.unlabeled.ids)})
    results = []
    for options in CHOICES:
        method = built("ns3l", corpus, **T, **options)
        results.append(follow(method, Chosen(method)))
    each_changes("ns3l", CHOICES, results, SHARED)


def test_where_all_documents_are_labeled_they_are_the_unlabeled_ones_too():
    method = built("ns3l", toy(labeled=range(12)), **T)
    hand = ByHand(method)
    assert hand.unlabeled_ones == list(range(12))
    follow(method, hand)


def test_the_ramp_that_was_never_applied():
    """At the first of four steps with a ramp over all of them the unlabeled loss counts exp(-5), so the gradient is nearly that of cross-entropy alone."""
    first = {name: built(name, ramp=1.0, **options) for name, options in (("ns3l", T), ("cross_entropy", {}))}
    for method in first.values():
        method.step(0, 0)
    with_ns3l, without = (method.workers.gradients[0] for method in first.values())
    full = built("ns3l", ramp=0.0, **T)
    full.step(0, 0)
    for ramped, alone, whole in zip(with_ns3l, without, full.workers.gradients[0], strict=True):
        torch.testing.assert_close(ramped - alone, math.exp(-5) * (whole - alone), rtol=1e-8, atol=1e-12)
        assert (whole - alone).abs().max() > 1e-3


def test_figures_of_a_round():
    method = built("cross_entropy")
    assert method.refresh(0, None) == {"labeled": float(len(LABELED)), "unlabeled": 12.0 - len(LABELED)}
    assert method.rounds == SHORT["rounds"] and method.steps(0) == SHORT["steps_per_round"]
