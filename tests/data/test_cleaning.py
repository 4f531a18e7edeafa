"""Rows to documents: every kind of bad row has its reason, and nothing crashes."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.data import cleaning
from selftrain.data.cleaning import UNKNOWN, SourceRow, UnreadableText, class_index, label_key
from selftrain.data.corpus import UnusedRow, document_id
from selftrain.data.id_set import IdSet, digits_of, numbers_of

INDEX = {"0": 0, "1": 1, "cats": 0, "dogs": 1}


class Document(NamedTuple):
    id: str
    text: str
    label: int | None


def clean(rows, known=(), **options):
    """All batches in one: documents, and what was skipped."""
    elsewhere = IdSet()
    elsewhere.add(numbers_of(known))
    documents, skipped = [], []
    for batch in cleaning.clean(rows, known=elsewhere, **options):
        labels = [None if label == cleaning.NO_LABEL else label for label in batch.labels.tolist()]
        ids = [digits_of(one) for one in batch.ids[:, None]]
        documents += map(Document, ids, batch.contents, labels)
        skipped += batch.skipped
    return SimpleNamespace(documents=documents, skipped=tuple(skipped))


def reasons(*texts, **options):
    result = clean([SourceRow(f"row {number}", text) for number, text in enumerate(texts, start=1)], index=INDEX, **{"max_characters": 50, **options})
    return [item.reason for item in result.skipped]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "empty"),
        (float("nan"), "empty"),
        ("", "empty"),
        (" \n\t\u00a0", "empty"),
        ("NaN", "empty"),
        ("None", "empty"),
        (3.5, "not text"),
        (7, "not text"),
        (b"bytes", "not text"),
        (["a", "list"], "not text"),
        ("12,345.67", "not text"),
        ("-1e9", "not text"),
        ("12 %", "not text"),
        ("PNG\0\0\x01", "binary"),
        ("\x01\x02\x03 abc", "binary"),
        ("\ufffd\ufffd\ufffdabc", "binary"),
        ("x" * 51, "over-long"),
        ("half a pair \ud83d", "wrong encoding"),
        (UnreadableText("too many cells"), "too many cells"),
    ],
)
def test_a_bad_row_is_skipped_for_its_reason(text, reason):
    assert reasons(text) == [reason]


@pytest.mark.parametrize("text", ["x" * 50, "👍", "one\x0bstray " + "word " * 7, "24 hours", "?!", "naïve café", "it costs 5"])
def test_a_good_row_stays(text):
    assert reasons(text) == []


def test_of_equal_texts_the_first_stays_and_places_are_kept():
    rows = [SourceRow("line 2", " a cat "), SourceRow("line 3", "a dog"), SourceRow("line 4", "a cat")]
    result = clean(rows, index=INDEX, max_characters=50)
    assert [document.text for document in result.documents] == ["a cat", "a dog"]
    assert [document.id for document in result.documents] == [document_id("a cat"), document_id("a dog")]
    assert result.skipped == (UnusedRow("line 4", "duplicate"),)


def test_a_row_with_an_unknown_label_does_not_shadow_a_good_one():
    rows = [SourceRow("1", "a cat", "bird"), SourceRow("2", "a cat", "CATS ")]
    result = clean(rows, index=INDEX, max_characters=50)
    assert [(document.text, document.label) for document in result.documents] == [("a cat", 0)]
    assert result.skipped == (UnusedRow("1", "unknown label"),)


def test_documents_known_elsewhere_are_skipped():
    assert reasons("a cat", "a dog", known={document_id("a cat")}, known_reason="in test already") == ["in test already"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("cats", 0),
        (" Dogs", 1),
        (1, 1),
        (1.0, 1),
        ("1", 1),
        ("1.0", 1),
        (True, 1),
        (None, None),
        ("", None),
        (math.nan, None),
        (-1, None),
        (2, UNKNOWN),
        (0.5, UNKNOWN),
    ],
)
def test_labels_are_names_or_indexes(label, expected):
    assert class_index(label, INDEX) == expected


anything = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.booleans(),
    st.binary(),
    st.text(st.characters(codec=None, exclude_categories=())),
    st.lists(st.integers()),
)


@given(st.lists(st.tuples(anything, anything), max_size=20))
def test_whatever_the_rows_hold_each_is_used_or_counted(rows):
    result = clean([SourceRow(str(number), text, label) for number, (text, label) in enumerate(rows)], index=INDEX, max_characters=30)
    assert len(result.documents) + len(result.skipped) == len(rows)
    assert len({document.id for document in result.documents}) == len(result.documents)
    assert all(item.reason for item in result.skipped)
    assert all(document.text == document.text.strip() != "" and document.label in (None, 0, 1) for document in result.documents)


def test_label_key_of_infinity_is_text():
    assert label_key(math.inf) == "inf"
