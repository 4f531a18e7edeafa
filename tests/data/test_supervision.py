"""Which labels are granted: as many as asked for, the same for everybody, and wrong at the stated rate."""

import hashlib
import math
from collections import Counter
from dataclasses import replace

import pytest

from selftrain.config import DataConfig
from selftrain.data.corpus import Corpus, Documents, Label, TrueLabels
from selftrain.data.supervision import describe_supervision, grant
from selftrain.errors import SelfTrainError

CLASSES = ("a", "b", "c")


@pytest.fixture
def corpus():
    ids = tuple(f"{place:016x}" for place in range(600))
    return Corpus("toy", tuple(Label(name, name, name) for name in CLASSES), ("{label}",), Documents(ids, ids), Documents())


@pytest.fixture
def truth(corpus):
    return TrueLabels({id_: place % 3 for place, id_ in enumerate(corpus.unlabeled.ids)}, {})


def granted(corpus, truth, seed=0, **config):
    return grant(corpus, truth, DataConfig(**config), seed).granted


def test_none_and_all(corpus, truth):
    assert granted(corpus, truth) == {}
    assert granted(corpus, truth, supervision="all") == truth.unlabeled


def test_few_of_each_class_by_the_seed(corpus, truth):
    first = granted(corpus, truth, supervision="few", labels_per_class=7)
    assert Counter(first.values()) == {0: 7, 1: 7, 2: 7}
    assert all(truth.unlabeled[id_] == label for id_, label in first.items())
    assert granted(corpus, truth, supervision="few", labels_per_class=7) == first
    assert granted(corpus, truth, seed=1, supervision="few", labels_per_class=7) != first
    assert first.items() <= granted(corpus, truth, supervision="few", labels_per_class=9).items()  # more labels keep the fewer


def test_an_oracle_grants_the_same_few_labels_and_holds_all_apart(corpus, truth):
    config = {"labels_per_class": 7, "label_noise": 0.3}
    found = grant(corpus, truth, DataConfig(supervision="oracle", **config), 0)
    assert found.granted == granted(corpus, truth, supervision="few", **config)
    assert found.oracle == truth.unlabeled  # noise is in what is learned from, not in what an oracle knows
    for supervision in ("none", "few", "all"):
        assert grant(corpus, truth, DataConfig(supervision=supervision, **config), 0).oracle == {}
    assert describe_supervision(DataConfig(supervision="oracle", labels_per_class=4)) == "4 a class and an oracle"
    half = TrueLabels({id_: label for id_, label in truth.unlabeled.items() if id_ > corpus.unlabeled.ids[299]}, {})
    with pytest.raises(SelfTrainError, match="300 documents of toy have no label"):
        granted(corpus, half, supervision="oracle")


def test_a_class_with_fewer_documents_gives_all_it_has(corpus, truth):
    rare = TrueLabels({id_: label for id_, label in truth.unlabeled.items() if label != 2} | {corpus.unlabeled.ids[2]: 2}, {})
    assert Counter(granted(corpus, rare, supervision="few", labels_per_class=5).values()) == {0: 5, 1: 5, 2: 1}


def number(text, first=0):
    """Eight bytes of the SHA-256 of `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[first : first + 8], "big")


def test_noise_is_symmetric_and_follows_the_seed(corpus, truth):
    """Published figures depend on every draw: which labels are wrong, and what they are instead."""
    for seed, rate in ((0, 0.3), (0, 0.7), (1, 0.3)):
        noisy = granted(corpus, truth, seed=seed, supervision="all", label_noise=rate)
        words = {id_: f"selftrain noise 1, seed {seed}: {id_}" for id_ in corpus.unlabeled.ids}
        wrong = {id_ for id_ in noisy if number(words[id_]) < rate * 2**64}
        for id_, label in noisy.items():
            right = truth.unlabeled[id_]
            others = [(right + step) % 3 for step in (1, 2)]
            assert label == (others[number(words[id_], 8) % 2] if id_ in wrong else right)
        assert len(wrong) / 600 == pytest.approx(rate, abs=0.05)
        shifts = Counter((noisy[id_] - truth.unlabeled[id_]) % 3 for id_ in wrong)
        assert shifts.keys() == {1, 2} and min(shifts.values()) > 0.4 * len(wrong)
    assert granted(corpus, truth, supervision="all", label_noise=0.0) == truth.unlabeled


def test_few_labels_are_the_first_in_the_order_of_a_hash(corpus, truth):
    for seed, count in ((0, 7), (5, 3)):
        salt = f"selftrain labels 1, seed {seed}"
        ordered = sorted(corpus.unlabeled.ids, key=lambda id_: hashlib.sha256(f"{salt}:{id_}".encode()).hexdigest())
        expected = [id_ for label in range(3) for id_ in [one for one in ordered if truth.unlabeled[one] == label][:count]]
        assert list(granted(corpus, truth, seed=seed, supervision="few", labels_per_class=count)) == expected  # classes one after the other


def test_labels_that_are_not_there(corpus, truth):
    with pytest.raises(SelfTrainError, match="supervision is 'all', but toy has no labels"):
        granted(corpus, TrueLabels({}, {}), supervision="all")
    without = TrueLabels({id_: label for id_, label in truth.unlabeled.items() if label != 1}, {})
    with pytest.raises(SelfTrainError, match="no document of toy is labeled 'b'"):
        granted(corpus, without, supervision="few")


def test_in_words():
    assert describe_supervision(DataConfig()) == "none"
    assert describe_supervision(DataConfig(supervision="few", labels_per_class=4)) == "4 a class"
    assert describe_supervision(DataConfig(supervision="all", label_noise=0.3)) == "all, 30% noise"


def sets_of(corpus, rate, seed=0, count=2000, classes=3):
    """The label and the candidate set of many documents, by their ids."""
    ids = tuple(f"{place:016x}" for place in range(count))
    labels = tuple(Label(str(place), str(place), "") for place in range(classes))
    many = replace(corpus, unlabeled=Documents(ids, ids), labels=labels)
    truth = TrueLabels({id_: index % classes for index, id_ in enumerate(ids)}, {})
    found = grant(many, truth, DataConfig(supervision="candidates", flip_probability=rate), seed)
    assert not found.granted and set(found.candidates) == set(ids)
    return truth.unlabeled, found.candidates


def test_candidate_sets_hold_the_label_and_follow_the_seed(corpus):
    truth, found = sets_of(corpus, 0.3)
    kept = 0
    for id_, group in found.items():
        drawn = {other for other in range(3) if number(f"selftrain candidates 1, seed 0, {other}: {id_}") < 0.3 * 2**64} - {truth[id_]}
        if drawn:  # the first draw, where it has a wrong class
            kept += 1
            assert group == tuple(sorted(drawn | {truth[id_]}))
    assert kept / len(found) == pytest.approx(1 - 0.7**2, abs=0.03)
    assert sets_of(corpus, 0.3)[1] == found != sets_of(corpus, 0.3, seed=1)[1]
    assert describe_supervision(DataConfig(supervision="candidates", flip_probability=0.3)) == "candidates, q = 0.3"
    with pytest.raises(SelfTrainError, match=r"label_noise 0\.1 replaces single labels"):
        grant(corpus, TrueLabels(truth, {}), DataConfig(supervision="candidates", label_noise=0.1), seed=0)


@pytest.mark.parametrize(("rate", "classes"), [(0.1, 3), (0.3, 4), (0.7, 4), (1e-9, 4)])
def test_candidate_sets_are_drawn_until_there_is_a_wrong_class_among_them(corpus, rate, classes):
    """As the papers draw: uniform flips, given that at least one came. The shares are those of a loop of draws, worked out from the binomial distribution."""
    truth, found = sets_of(corpus, rate, count=6000, classes=classes)
    assert all(len(group) > 1 and truth[id_] in group and group == tuple(sorted(set(group))) for id_, group in found.items())
    others = classes - 1
    some = 1 - (1 - rate) ** others if rate > 1e-6 else others * rate
    sizes = Counter(len(group) - 1 for group in found.values())
    for size in range(1, classes):
        share = math.comb(others, size) * rate**size * (1 - rate) ** (others - size) / some
        assert sizes[size] / 6000 == pytest.approx(share, abs=0.025)
    for other in range(classes):  # no class is likelier than another
        away = [id_ for id_ in found if truth[id_] != other]
        assert sum(other in found[id_] for id_ in away) / len(away) == pytest.approx(rate / some, abs=0.03)


def test_candidate_sets_that_would_say_nothing_are_refused(corpus, truth):
    with pytest.raises(SelfTrainError, match="flip_probability must be above 0"):
        grant(corpus, truth, DataConfig(supervision="candidates", flip_probability=0.0), seed=0)
    two = replace(corpus, labels=corpus.labels[:2])
    with pytest.raises(SelfTrainError, match="where there are 2 classes: every set would hold them all"):
        grant(two, truth, DataConfig(supervision="candidates"), seed=0)


def test_weak_labels_are_granted_and_the_truth_is_not(corpus):
    ids = corpus.unlabeled.ids
    truth = TrueLabels(dict.fromkeys(ids, 0), {}, weak=dict.fromkeys(ids[:5], 1))
    found = grant(corpus, truth, DataConfig(supervision="weak"), seed=0)
    assert found.granted == dict.fromkeys(ids[:5], 1)
    assert describe_supervision(DataConfig(supervision="weak")) == "weak labels"
    with pytest.raises(SelfTrainError, match="weak_label_column"):
        grant(corpus, TrueLabels(dict.fromkeys(ids, 0), {}), DataConfig(supervision="weak"), seed=0)
