"""Texts as Arrow columns: sequences like tuples of strings, whose buffers travel and are cut without a copy."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.data.columns import BLOCK, SkippedBuilder, TextBuilder, TextColumn
from selftrain.data.corpus import Corpus, Documents, Label, UnusedRow
from selftrain.data.describing import skipped_by_reason
from selftrain.data.id_set import IdSet, LabelsById, digits_of, numbers_of
from selftrain.data.index import DocumentIndex

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=20)


def address(column):
    """Where the first text of a column is in memory."""
    return np.frombuffer(column._content, np.uint8).__array_interface__["data"][0] + column._ends[0]


def builder_of(texts):
    builder = TextBuilder()
    builder.extend(texts)
    return builder


@given(TEXTS, st.slices(20), st.slices(20))
def test_a_column_is_a_sequence_like_a_tuple(texts, cut, again):
    column, plain = TextColumn.of(texts), tuple(texts)
    for mine, its in ((column, plain), (column[cut], plain[cut]), (column[cut][again], plain[cut][again])):
        assert len(mine) == len(its) and list(mine) == list(its) and [mine[place] for place in range(-len(its), len(its))] == [*its, *its]
        assert mine == its and its == mine and list(its) == mine and mine == TextColumn.of(its)
        assert bool(mine) == bool(its)
        for place in (len(its), -len(its) - 1):
            with pytest.raises(IndexError):
                mine[place]


@given(TEXTS, st.slices(20), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_what_is_pickled_comes_back(texts, cut, protocol):
    column = TextColumn.of(texts)[cut]
    assert pickle.loads(pickle.dumps(column, protocol)) == column == texts[cut]


def test_another_sequence_is_another():
    column = TextColumn.of(["a", "b"])
    assert column != ("a", "c") and column != ("a",) and column != "ab" and column != 5 and column != ("b", "a")
    assert TextColumn.of(["ab"]) != TextColumn.of(["a", "b"])
    assert repr(column) == "TextColumn(2 items)"
    with pytest.raises(TypeError):
        hash(column)


def test_iteration_goes_on_behind_a_block():
    texts = [f"text {number}" for number in range(2 * BLOCK + 3)]
    assert list(TextColumn.of(iter(texts))) == texts


def test_a_slice_a_copy_and_what_is_unpickled_copy_nothing():
    column = TextColumn.of([f"text {number:04}" for number in range(1000)])
    assert address(column[10:]) == address(column) + 90
    assert copy.deepcopy(column) is column and copy.copy(column) is column
    buffers = []
    packed = pickle.dumps(column[100:900], 5, buffer_callback=buffers.append)
    assert len(packed) < 500 and sum(len(one.raw()) for one in buffers) == 800 * 9 + 801 * 8  # of the slice alone
    again = pickle.loads(packed, buffers=[one.raw() for one in buffers])
    assert again == column[100:900] and address(again) == address(column) + 900


def test_a_builder_keeps_some_rows_and_goes_on():
    builder = TextBuilder()
    builder.extend(["a", "bb", "", "dddd"])
    builder = builder.keep(np.array([3, 0]))
    builder.extend(["é"])
    assert len(builder) == 3 and builder.column() == ("dddd", "a", "é")
    empty = TextBuilder().keep(np.empty(0, dtype=np.int64))
    empty.extend(["a"])
    assert empty.column() == ("a",)


def test_a_column_is_appended_to_another():
    builder = TextBuilder()
    builder.append(TextColumn.of(["a", "bb", "ccc"])[1:])
    builder.append(TextColumn.of([]))
    builder.extend(["d"])
    builder.append(builder_of(["", "e"]).column())
    assert len(builder) == 5 and builder.column() == ("bb", "ccc", "d", "", "e")


def test_rows_are_taken_in_pieces():
    texts = [f"text {number}" for number in range(2 * BLOCK + 3)]
    rows = np.random.default_rng(0).permutation(len(texts))
    assert TextColumn.of(texts).take(rows) == [texts[row] for row in rows] and len(TextColumn.of(texts).take(rows[:0])) == 0


@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_column_in_a_file_is_the_same(monkeypatch, count):
    texts = [f"t\u00e9xt {number}" for number in range(count)]
    here = builder_of(texts).column()
    monkeypatch.setattr("selftrain.files.mapped.MAPPED", 16)
    there = builder_of(texts).column()
    assert here == there == texts and pickle.dumps(here) == pickle.dumps(there) == pickle.dumps(pickle.loads(pickle.dumps(there)))
    rows = np.arange(count)[::-1]
    assert there.take(rows) == here.take(rows) == texts[::-1] and there[1:][3:9] == texts[1:][3:9]
    assert builder_of(texts).keep(rows[:3]).column() == texts[::-1][:3]


def test_skipped_rows_are_listed_and_counted():
    rows = [UnusedRow("line 2", "empty"), UnusedRow("f\udce9 3", "binary"), UnusedRow("line 4", "empty")]
    builder = SkippedBuilder()
    builder.extend(rows[:1])
    builder.extend(rows[1:])
    skipped = builder.column()
    assert skipped == (rows[0], UnusedRow("f? 3", "binary"), rows[2]) and skipped[-1] == rows[2] and len(skipped) == 3
    assert skipped.counts == {"empty": 2, "binary": 1} and skipped[1:2].counts == {"binary": 1}
    assert pickle.loads(pickle.dumps(skipped)) == skipped and SkippedBuilder().column() == ()


def test_a_record_counts_all_skipped_rows_and_lists_some_of_every_reason():
    rows = [UnusedRow(str(number), ["empty", "binary"][number % 2]) for number in range(9)]
    counts, listed = skipped_by_reason(rows, 2)
    assert counts == {"empty": 5, "binary": 4} and [one["row"] for one in listed] == ["0", "1", "2", "3"]
    assert listed[1] == {"row": "1", "reason": "binary"} and skipped_by_reason(rows)[1][8]["row"] == "8" and skipped_by_reason(()) == ({}, [])


def test_millions_of_skipped_rows_are_small():
    builder = SkippedBuilder()
    for start in range(0, 100_000, 1000):
        builder.extend([UnusedRow(f"line {place}", "duplicate") for place in range(start, start + 1000)])
    assert len(pickle.dumps(builder.column())) < 25 * 100_000


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=9), max_size=9))
def test_a_set_of_ids_holds_what_was_added(batches):
    held, plain = IdSet(), set()
    for batch in batches:
        ids = np.array(batch, dtype=np.uint64)
        assert held.holds(ids).tolist() == [one in plain for one in batch]
        new = np.array(sorted(set(batch) - plain), dtype=np.uint64)
        held.add(new)
        plain |= set(batch)
        assert held.holds(ids).all()


def test_a_set_of_ids_has_few_runs():
    held = IdSet()
    for start in range(0, 3000, 3):
        held.add(np.arange(start, start + 3, dtype=np.uint64))
    lengths = [len(run) for run in held._runs]
    assert sum(lengths) == 3000 and len(lengths) <= 11 and all(before >= 2 * after for before, after in itertools.pairwise(lengths))


def test_ids_are_numbers_and_back():
    ids = ["00000000000000ff", "ff00000000000000"]
    assert numbers_of(ids).tolist() == [255, 255 << 56] and digits_of(numbers_of(ids)) == "".join(ids)
    assert len(numbers_of([])) == 0 and digits_of(numbers_of([])) == ""


@given(st.dictionaries(st.integers(0, 2**64 - 1), st.integers(-1, 9), max_size=9), st.integers(0, 2**64 - 1))
def test_labels_by_id_are_a_dictionary(plain, other):
    labels = LabelsById(np.array(list(plain), dtype=np.uint64), np.array(list(plain.values()), dtype=np.int32))
    expected = {f"{number:016x}": label for number, label in plain.items()}
    assert labels == expected and list(labels.items()) == list(expected.items()) and len(labels) == len(expected)
    assert (f"{other:016x}" in labels) == (other in plain) and pickle.loads(pickle.dumps(labels)) == expected
    assert all(type(label) is int for label in labels.values())


def test_what_is_no_id_has_no_label():
    labels = LabelsById(np.array([255, 171], dtype=np.uint64), np.array([3, 4], dtype=np.int32))
    assert labels["00000000000000ab"] == 4
    for other in ("ab", "00000000000000AB", "0x000000000000ab", "an id", "", "0" * 15 + "1", "f" * 16):
        assert other not in labels
        with pytest.raises(KeyError):
            labels[other]


def test_labels_by_id_go_on_behind_a_block():
    ids = np.random.default_rng(0).permutation(10_000).astype(np.uint64)
    assert list(LabelsById(ids, ids.astype(np.int32))) == [f"{number:016x}" for number in ids]


def test_documents_are_found_by_any_id(monkeypatch):
    ids = tuple(f"id {number}" for number in range(50))
    first = Documents(ids, tuple(f"text {number}" for number in range(50)))
    second = Documents(TextColumn.of(["other", "id 3"]), TextColumn.of(["o", "three"]))
    index = DocumentIndex([first, Documents(), second])
    assert [index[id_] for id_ in ("id 0", "id 49", "other", "id 3")] == ["text 0", "text 49", "o", "three"]
    with pytest.raises(KeyError, match="id 50"):
        index["id 50"]
    assert pickle.loads(pickle.dumps(index))["id 7"] == "text 7" and "_sorted" not in pickle.loads(pickle.dumps(index)).__dict__
    monkeypatch.setattr("selftrain.data.index.hash", lambda id_: len(id_), raising=False)
    alike = DocumentIndex([first])  # many ids share a hash
    assert [alike[id_] for id_ in ids] == list(first.contents)
    with pytest.raises(KeyError):
        alike["id xx"]


def test_a_corpus_equals_one_of_tuples():
    def corpus(kind):
        documents = Documents(kind(["1", "2"]), kind(["a", "b"]))
        return Corpus("toy", (Label("x", "x", "x"),), ("{label}",), documents, Documents())

    assert corpus(tuple) == corpus(TextColumn.of) and corpus(TextColumn.of) == corpus(list)
