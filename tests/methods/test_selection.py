"""Balanced sampling: S_t of the most confident of every predicted class."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selftrain.methods.zero_shot.selection import Ranking, Selection, batch_of, growing_size, most_confident_per_class


def select(rows, size):
    confidence = torch.tensor(rows)
    return most_confident_per_class(confidence, confidence, size)


def test_the_most_confident_of_each_class_by_hand():
    found = select([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.49, 0.51]], 2)
    assert found.groups == ((0, 2), (3, 4))
    assert found.label_of == {0: 0, 2: 0, 3: 1, 4: 1}
    assert found.targets[3].tolist() == torch.tensor([0.3, 0.7]).tolist()


def test_a_class_that_is_never_predicted_stays_empty():
    found = select([[0.9, 0.1], [0.8, 0.2]], 5)
    assert found.groups == ((0, 1), ())
    assert sorted(batch_of(found, 3, np.random.default_rng(0))) in ([0, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 1])


def test_nothing_selected_gives_an_empty_batch():
    assert batch_of(Selection.empty(3), 3, np.random.default_rng(0)) == []


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(2, 5)), elements=st.floats(0, 1, width=32)), st.integers(1, 8))
def test_balanced_and_most_confident(rows, size):
    found = select(rows, size)
    labels = rows.argmax(axis=1)
    for label, group in enumerate(found.groups):
        members = np.flatnonzero(labels == label)
        assert len(group) == min(size, len(members))
        assert set(group) <= set(members)
        left = set(members) - set(group)
        if left and group:
            assert max(rows[i].max() for i in left) <= min(rows[i].max() for i in group)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=4), st.integers(1, 5), st.integers(0, 1000))
def test_a_batch_has_the_same_number_of_every_class(sizes, per_class, seed):
    starts = np.cumsum([0, *sizes])
    groups = tuple(tuple(range(int(a), int(b))) for a, b in pairwise(starts))
    selection = Selection(groups, {}, {index: label for label, group in enumerate(groups) for index in group})
    batch = batch_of(selection, per_class, np.random.default_rng(seed))
    for group in groups:
        inside = [index for index in batch if index in group]
        assert len(inside) == (per_class if group else 0)
        if len(group) >= per_class:
            assert len(set(inside)) == len(inside)  # no repetition where there is enough


def test_only_what_is_kept_has_a_target_and_of_equal_ones_the_earlier_is():
    confidence = torch.tensor([[0.8, 0.2], [0.9, 0.1], [0.8, 0.2], [0.8, 0.2]])
    found = most_confident_per_class(confidence, confidence * 2, 2)
    assert found.groups == ((1, 0), ())
    assert {index: row.tolist() for index, row in found.targets.items()} == {1: pytest.approx([1.8, 0.2]), 0: pytest.approx([1.6, 0.4])}
    assert len(found) == 2 and len(Selection.empty(3)) == 0 and Selection.empty(3).groups == ((), (), ())


@pytest.mark.parametrize(
    ("round_", "rounds", "size"),
    [(0, 1, 35), (0, 2, 10), (1, 2, 35), (0, 5, 10), (1, 5, 16), (2, 5, 22), (3, 5, 29), (4, 5, 35)],  # 50 documents a class, shares .2 to .7
)
def test_s_t_grows_in_a_line(round_, rounds, size):
    assert growing_size(round_, rounds, 0.2, 0.7, 200, 4) == size


def test_s_t_is_at_least_one():
    assert growing_size(0, 3, 0.01, 0.5, 10, 4) == 1


def test_a_batch_takes_every_document_of_a_class_that_is_as_large_as_its_share():
    selection = Selection(((4, 7, 2), (), (1, 3)), {}, dict.fromkeys((4, 7, 2, 1, 3), 0))
    for seed in range(5):
        batch = batch_of(selection, 3, np.random.default_rng(seed))
        assert sorted(batch[:3]) == [2, 4, 7] and set(batch[3:]) <= {1, 3} and len(batch) == 6


@settings(deadline=None, max_examples=100)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(2, 4)), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75])),
    st.integers(1, 8),
    st.randoms(),
)
def test_rankings_of_parts_merge_to_that_of_the_whole(rows, size, random):
    confidence, targets = torch.from_numpy(rows), torch.arange(rows.size).reshape(rows.shape)
    whole = Ranking.of(confidence, targets, size)
    owners = [random.randrange(3) for _ in rows]
    members = [[index for index, owner in enumerate(owners) if owner == part] for part in range(3)]
    parts = [Ranking.of(confidence[part], targets[part], size, part) for part in members]
    random.shuffle(parts)
    found = Ranking.merged(parts, size)
    for name in ("documents", "labels", "confidence", "targets"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert found.seen == len(rows) and found.mean_confidence == pytest.approx(rows.max(axis=1).mean())
    assert all(len(part.documents) <= size * rows.shape[1] for part in parts)  # Q is kept of what may be kept alone
    selection = most_confident_per_class(confidence, targets, size)
    assert found.selection().groups == selection.groups and found.selection().label_of == selection.label_of
    assert [index for group in selection.groups for index in group] == found.documents.tolist()
