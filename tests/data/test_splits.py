"""Splits by content hash: the properties that make figures comparable when a source grows."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selftrain.data import splits
from selftrain.data.splits import SALT, hash_keys, hash_order, hash_positions

IDS = st.lists(st.text(alphabet="0123456789abcdef", min_size=1, max_size=6), unique=True, max_size=60)


def hold_out(ids, count, eligible):
    """By ids instead of positions."""
    ids = list(ids)
    ordered = hash_positions(hash_keys(ids), lambda place: ids[place])
    parts = splits.hold_out(ordered, count, np.array([id_ in eligible for id_ in ids], dtype=bool))
    return tuple([ids[place] for place in part] for part in parts)


def test_order_is_that_of_the_sha256_of_salt_and_id():
    ids = ["a", "b", "c", "d", "e"]
    by_hand = sorted(ids, key=lambda id_: hashlib.sha256((SALT + ":" + id_).encode()).hexdigest())
    assert hash_order(ids) == by_hand
    assert hash_order(ids, "another salt") != by_hand


def test_the_salt_never_changes():
    # Published figures depend on it: this order was written down when the salt was chosen.
    assert hash_order(["bbc", "ag", "trec", "imdb"]) == ["ag", "bbc", "trec", "imdb"]


@given(IDS, st.randoms())
def test_order_does_not_depend_on_the_rows_order(ids, random):
    shuffled = list(ids)
    random.shuffle(shuffled)
    assert hash_order(shuffled) == hash_order(ids)


@given(IDS, IDS)
def test_appending_keeps_the_relative_order_of_the_others(ids, more):
    old = set(ids)
    assert [id_ for id_ in hash_order([*ids, *(id_ for id_ in more if id_ not in old)]) if id_ in old] == hash_order(ids)


@given(IDS, IDS, st.integers(0, 70))
def test_appending_never_moves_a_document_into_the_test_split(ids, more, count):
    added = [id_ for id_ in more if id_ not in set(ids)]
    before, _ = hold_out(ids, count, set(ids))
    after, _ = hold_out([*ids, *added], count, {*ids, *added})
    assert set(after) & set(ids) <= set(before)


@given(IDS, st.integers(0, 70), st.integers(0, 70), st.data())
def test_hold_out_parts_the_documents_and_smaller_is_a_subset(ids, one, other, data):
    eligible = set(data.draw(st.lists(st.sampled_from(ids), unique=True))) if ids else set()
    small, large = sorted((one, other))
    test, rest = hold_out(ids, small, eligible)
    more_test, _ = hold_out(ids, large, eligible)
    assert sorted([*test, *rest]) == sorted(ids)
    assert len(test) == min(small, len(eligible))
    assert set(test) <= eligible
    assert more_test[: len(test)] == test
    assert rest == [id_ for id_ in hash_order(ids) if id_ not in test]


@given(IDS, st.integers(0, 64))
def test_large_corpora_have_the_same_order_where_keys_are_equal_too(ids, bits):
    keys = hash_keys(ids)
    few = keys >> np.uint64(bits) << np.uint64(bits) if bits < 64 else keys * np.uint64(0)  # what is left of them is shared by many
    assert [ids[place] for place in hash_positions(few, lambda place: ids[place])] == hash_order(ids)
