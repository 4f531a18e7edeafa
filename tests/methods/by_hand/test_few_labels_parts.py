"""What holds for every method with few labels: where it is resumed, on which device its tensors are, what it reports, what it refuses."""

import copy
import math
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import LinearEncoder
from few_labels import LABELED, SHORT, TEXTS, TRUTH, WORDS, ByHand, HalvedEncoder, built, toy, weights_of

from selftrain import methods
from selftrain.config import parse
from selftrain.data.texts import TextRequest
from selftrain.errors import SelfTrainError
from selftrain.methods.few_labels.ns3l import choose_negatives
from selftrain.methods.losses import confident_cross_entropy
from selftrain.methods.recipe import resolve

ALL = {
    "cross_entropy": {"label_smoothing": 0.1},
    "ns3l": {"ns3l_threshold": 0.3},
    "ns3l uniform": {"ns3l_threshold": 0.3, "ns3l_negatives": "uniform"},
    "ns3l nearest": {"ns3l_threshold": 0.3, "ns3l_negatives": "exclude_nearest"},
    "ns3l furthest": {"ns3l_threshold": 0.3, "ns3l_negatives": "furthest"},
    "ns3l averaged": {"ns3l_threshold": 0.3, "average": 0.6},
    "fixmatch by sgd": {"threshold": 0.5, "optimizer": "sgd", "schedule": "cosine", "average": 0.7, "decayed": "weights"},
    "pseudo_label": {"threshold": 0.5},
    "pi_model": {"weight": 2.0},
    "mean_teacher": {"weight": 2.0, "decay": 0.5},
    "vat": {"entropy_weight": 0.1, "pseudo_weight": 0.1, "pseudo_threshold": 0.5},
    "mixmatch": {"weight": 2.0, "ns3l_weight": 0.1, "ns3l_threshold": 0.3},
    "fixmatch": {"threshold": 0.5, "simclr_weight": 0.2},
    "ssc": {"threshold": 0.6, "confidence_temperature": 0.3},
    "tf_kd": {"variant": "self"},
    "tf_kd reg": {"variant": "reg"},
    "cs_kd": {},
    "ps_kd": {},
    "dlb": {"batch_size": 4},
    "uskd": {},
}


def made(name, **more):
    return built(name.split()[0], **{**ALL[name], **more})


def rounds(method, first, last):
    for round_ in range(first, last):
        method.refresh(round_, None)
        for step in range(method.steps(round_)):
            method.step(round_, step)
    return weights_of(method)


@pytest.mark.parametrize("name", ALL)
def test_a_resumed_method_goes_on_as_the_one_that_was_never_stopped(name):
    """After every round: weights, moments, rate, teachers, averages, the batch before, and distances of the space before training."""
    options = {"rounds": 3}
    whole = made(name, **options)
    states = []
    for round_ in range(whole.rounds):
        rounds(whole, round_, round_ + 1)
        states.append(copy.deepcopy(whole.state()))
    for done, state in enumerate(states, start=1):
        rest = made(name, start=4, **options)
        with torch.no_grad():  # a process that started from other weights
            for parameter in rest.parameters():
                parameter.add_(0.1)
        rest.load_state(state)
        assert all(torch.equal(value, weights_of(whole)[key]) for key, value in rounds(rest, done, whole.rounds).items())
        served = [method.student() for method in (whole, rest)]
        assert torch.equal(served[0].predict(TEXTS), served[1].predict(TEXTS))


@pytest.mark.parametrize("name", ALL)
def test_every_tensor_of_a_step_is_made_where_the_encoder_is(name):
    """Where tensors go by default is another device here, one on which nothing can be computed together with the encoder's."""
    method, plain = (made(name, rounds=3) for _ in range(2))
    rounds(plain, 0, plain.rounds)
    rounds(method, 0, 1)  # the optimiser's own numbers are made in its first step
    method.weak_views([0], np.random.default_rng(0))
    own = HalvedEncoder.inputs

    def on_the_cpu(self, documents):
        with torch.device("cpu"):
            return own(self, documents)

    HalvedEncoder.inputs = on_the_cpu
    try:
        with torch.device("meta"):
            rounds(method, 1, method.rounds)
    finally:
        HalvedEncoder.inputs = own
    assert all(torch.equal(value, weights_of(plain)[key]) for key, value in weights_of(method).items())


@pytest.mark.parametrize("name", ALL)
def test_what_a_round_reports(name):
    method = made(name)
    for round_ in range(method.rounds):
        assert method.refresh(round_, None) == {"labeled": float(len(LABELED)), "unlabeled": float(12 - len(LABELED))}
        assert method.steps(round_) == SHORT["steps_per_round"]
        assert all(isinstance(value, float) and math.isfinite(value) for value in method.step(round_, 0).values())


def test_neighbours_are_found_without_all_pairs_at_once(monkeypatch):
    """As many numbers as one block of documents has with the labeled ones, and no more: not documents times labeled ones times dimensions."""
    sizes = []
    own = torch.cdist

    def watched(block, members, **how):
        sizes.append(tuple(block.shape))
        return own(block, members, **how)

    monkeypatch.setattr(torch, "cdist", watched)
    method = built("ns3l", ns3l_negatives="furthest", ns3l_threshold=0.3)
    texts = TEXTS * 250  # 3,000 documents
    method.corpus = replace(method.corpus, unlabeled=replace(method.corpus.unlabeled, ids=tuple(map(str, range(len(texts)))), contents=texts))
    tracemalloc.start()
    method.refresh(0, None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2e6  # bytes of numpy's; half of the rows times labeled ones times dimensions in float64 would be half a megabyte a class
    assert sizes == [(1024, 3), (1024, 3), (952, 3)] * 3
    first, again = method._distances[:12], method._distances[-12:]
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", sorted({name.split()[0] for name in ALL} - {"ssc", "mean_teacher"}))
def test_the_linear_classifier_is_what_is_served(name):
    method = made(name)
    hand = ByHand(method)
    student = method.student()
    assert student.encoder is method.encoder and student.scale == 1.0
    assert not student.weights.requires_grad and not student.bias.requires_grad
    logits = torch.stack([hand.logits(hand.weights, text) for text in TEXTS])
    torch.testing.assert_close(student.predict(TEXTS), logits.exp() / logits.exp().sum(dim=1, keepdim=True))


def test_the_rate_of_a_head_of_a_full_encoder_and_of_the_experiment():
    def rate(encoder, **options):
        experiment = parse({"method": {"name": "cross_entropy", **options}})
        return resolve(experiment).build(toy(), encoder).optimizer.param_groups[0]["lr"]

    class Head(HalvedEncoder):
        frozen = True

        def encode(self, texts, max_tokens=None):
            return super().encode(texts, max_tokens)

    assert rate(LinearEncoder(WORDS)) == 5e-5
    assert rate(Head(WORDS)) == 1e-2
    assert rate(LinearEncoder(WORDS), learning_rate=0.3) == 0.3


def test_a_head_embeds_all_documents_and_views_at_once_and_only_once():
    calls = []

    class Head(HalvedEncoder):
        frozen = True

        def encode(self, texts, max_tokens=None):
            calls.append(list(texts))
            return super().encode(texts, max_tokens)

    from selftrain.data.views import edited

    method = resolve(parse({"method": {**SHORT, "name": "fixmatch"}})).build(toy(), Head(WORDS))
    for round_ in range(2):
        method.refresh(round_, None)
    assert calls == [[*TEXTS, *(edited(TEXTS[index], view) for index in range(12) if index not in LABELED for view in range(4))]]
    assert {view for index in (2, 3) for _ in range(99) for view in method._view_numbers(2, np.random.default_rng())} == set(range(4))


@pytest.mark.parametrize("name", ["vat", "mixmatch"])
def test_an_encoder_that_cannot_be_perturbed_is_refused(name):
    with pytest.raises(SelfTrainError, match=rf"model\.train must be 'head': the method {name} "):
        resolve(parse({"method": {"name": name}})).build(toy(), LinearEncoder(WORDS))


def test_mixmatch_takes_negative_labels_from_its_guesses_alone():
    with pytest.raises(SelfTrainError, match=r"method\.ns3l_negatives must be 'threshold' with mixmatch"):
        built("mixmatch", ns3l_weight=0.1, ns3l_threshold=0.2, ns3l_negatives="uniform")
    built("mixmatch", ns3l_negatives="uniform")  # without a weight nothing is chosen
    built("mixmatch", ns3l_weight=0.1, ns3l_threshold=0.2)
    with pytest.raises(SelfTrainError, match="needs labels"):  # and what all of the family need
        built("mixmatch", toy(labeled=()))


def test_two_classes_are_told_that_ns3l_is_pseudo_labeling():
    two = toy(labeled=(0, 4), classes=2)
    with pytest.warns(UserWarning, match="pseudo-labeling with threshold 1 - T"):
        built("ns3l", two)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built("ns3l")
        built("cross_entropy", two)


@pytest.mark.parametrize(
    ("options", "corpus", "refused"),
    [
        ({"ns3l_weight": 0.1, "ns3l_threshold": 1 / 3}, toy(), r"ns3l_threshold must be below 1/3.*\(got 0\.333333\)"),
        ({"ns3l_weight": 0.1, "ns3l_threshold": 0.33}, toy(), None),
        ({"ns3l_threshold": 0.9}, toy(), None),  # unused
        ({"ns3l_weight": 0.1, "ns3l_negatives": "oracle"}, toy(), r"a bound and no method; set data\.supervision: oracle"),
        ({"ns3l_weight": 0.1, "ns3l_negatives": "uniform"}, toy(), None),
        ({"ns3l_negatives": "oracle"}, toy(), None),
        ({}, toy(labeled=()), r"needs labels; set data\.supervision: few"),
        ({}, toy(candidates={toy().unlabeled.ids[0]: (0, 1)}), r"data\.supervision is 'candidates'"),
        ({"views": "continuations"}, toy(kind="image"), r"method\.views must be 'edits' for images"),
        ({"views": "continuations"}, toy(), None),
        ({"view_pool": 3}, toy(kind="image"), r"method\.view_pool is for texts: images get new views in every step; leave it out \(got 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(options, corpus, refused):
    cls = methods.method_class("cross_entropy")
    given = methods.options_of({"name": "cross_entropy", **options})
    if refused is None:
        cls.check(given, corpus)
    else:
        with pytest.raises(SelfTrainError, match=refused):
            cls.check(given, corpus)


def test_strong_views_with_and_without_a_continuation():
    from selftrain.data.views import edited

    method = built("fixmatch", views="continuations", simclr_weight=0.2)
    ids = method.corpus.unlabeled.ids
    method.refresh(0, lambda requests: {TextRequest(ids[2], "input", sample=1): "song album"})
    assert method.strong_view(2, 1) == f"song album {TEXTS[2]}"
    assert method.strong_view(2, 0) == edited(TEXTS[2], 0) != edited(TEXTS[2], 1)
    assert method.strong_view(3, 1) == edited(TEXTS[3], 1)
    assert method.strong_view(0, 0) == edited(TEXTS[0], 0)  # a labeled document, of which nothing was asked for


def test_negative_labels_for_classes_without_a_labeled_document():
    """No document of the third class is labeled: it is the furthest of all, and never the nearest."""
    corpus = toy(labeled=(0, 1, 4))
    for how, expected in (("furthest", {2}), ("exclude_nearest", {0, 1, 2})):
        method = built("ns3l", corpus, ns3l_threshold=0.3, ns3l_negatives=how, batch_size=9, unlabeled_ratio=1)
        method.refresh(0, None)
        masks, own = [], method.ns3l_rows
        method.ns3l_rows = lambda batch, own=own, masks=masks: masks.append(own(batch)) or masks[-1]
        for step in range(4):
            method.step(0, step)
        assert {int(label) for _, mask in masks for label in torch.nonzero(mask)[:, 1]} == expected


def test_a_pseudo_label_needs_at_least_the_threshold():
    even = torch.zeros(1, 2)
    assert float(confident_cross_entropy(even, even, 0.5)) == pytest.approx(math.log(2))
    assert float(confident_cross_entropy(even, even, 0.5 + 1e-9)) == 0.0


@pytest.mark.parametrize("name", ["fixmatch", "ssc"])
def test_at_the_threshold_a_document_is_confident(name):
    """All classes have probability 1/3, and the threshold is that: every document gets a pseudo-label, and none is left for SimCLR or a label of its own."""
    third = float(torch.softmax(torch.zeros(3), dim=0)[0])
    figures = []
    for threshold in (third, third - 1e-3):
        method = built(name, threshold=threshold, **({"simclr_weight": 1.0} if name == "fixmatch" else {}))
        with torch.no_grad():
            for parameter in method.classifier.parameters():
                parameter.zero_()
        figures.append(method.step(0, 0))
    assert figures[0] == figures[1]
    if name == "fixmatch":
        assert figures[0]["simclr"] == 0.0 and figures[0]["fixmatch"] == pytest.approx(math.log(3))


def test_the_nearest_class_is_excluded_and_the_number_of_draws_is_the_same():
    """Random numbers are drawn for every choice, so that choices differ in nothing else."""
    distances, truth = np.array([[1.0, 2.0, 3.0]] * 4), np.array(TRUTH[:4])
    left = []
    for how in ("uniform", "exclude_nearest", "furthest", "oracle"):
        rng = np.random.default_rng(0)
        mask = choose_negatives(how, 4, 3, 2, rng, distances, truth)
        assert mask.sum(dim=1).tolist() == [2] * 4
        left.append(rng.random())
    assert len(set(left)) == 1


def test_weights_of_two_seeds_differ():
    found = [rounds(built("ns3l", seed=seed, ns3l_threshold=0.3), 0, 1) for seed in (0, 1)]
    assert not torch.equal(found[0]["W"], found[1]["W"])
    assert replace(toy(), name="other").granted == toy().granted
