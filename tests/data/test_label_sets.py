"""Cells with several labels."""

import csv

import numpy as np
import pytest

from selftrain.config import DataConfig
from selftrain.data import label_sets
from selftrain.data.cleaning import SourceRow
from selftrain.data.label_sets import labels_in, sets_of, with_single_labels
from selftrain.data.loading import load_corpus
from selftrain.data.sources import DataSource
from selftrain.errors import ConfigError

ROWS = [
    ("o p", ""),
    ("a b", "sport"),
    ("c d", "money, Sport"),
    ("e f", ","),
    ("g h", ""),
    ("i j", "sport, weather"),
    ("k l", " sport ,, sport"),
    ("m n", "MONEY,sport"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("text", "labels"), *ROWS])
    return path


def config(file, **changes):
    given = {"source": str(file), "label_column": "labels", "multi_label": True, "min_documents": 2, "test_documents": 3}
    return DataConfig.model_validate(given | {"classes": ["sport", "money"]} | changes)


def test_a_cell_holds_none_one_or_several(file):
    corpus, truth = load_corpus(config(file, test_documents=5))
    held = dict(zip(corpus.test.contents, truth.memberships(corpus.test.ids, 2).tolist(), strict=True))
    assert held == {"a b": [True, False], "c d": [True, True], "e f": [False, False], "k l": [True, False], "m n": [True, True]}
    assert sorted(corpus.unlabeled.contents) == ["g h", "o p"]  # an empty cell is a document without a label
    assert corpus.skipped.counts == {"unknown label": 1}


def test_documents_that_are_learned_from_keep_their_sets_apart(file):
    corpus, truth = load_corpus(config(file, test_documents=0))
    known = [id_ for id_ in corpus.unlabeled.ids if id_ in truth.unlabeled]
    assert truth.memberships(known, 2).sum() == 6 and not corpus.granted and not truth.test


def test_classes_are_found_in_the_cells(file):
    corpus, truth = load_corpus(config(file, classes=None, test_documents=4))
    assert corpus.class_names == ("money", "sport", "weather") and len(truth.sets) == 4
    with pytest.raises(ConfigError, match=r"data\.supervision must be none with data\.multi_label: true"):
        load_corpus(config(file, supervision="all"))


def test_another_separator(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,labels\none two,a|b\nthree four,|\nfive six,b\n")
    corpus, truth = load_corpus(config(path, label_separator="|", classes=["a", "b"], test_documents=0))
    found = truth.memberships(corpus.unlabeled.ids, 2)
    assert sorted(map(tuple, found.tolist())) == [(False, False), (False, True), (True, True)] and found.dtype == np.bool_


@pytest.mark.parametrize(
    ("cell", "labels"),
    [("a", ["a"]), (" B ,, a,b ", ["b", "a"]), (",", []), (" , ,", []), ("", None), (None, None), (-1, None), ("a, -1", ["a"]), (2.0, ["2"])],
)
def test_the_labels_of_a_cell(cell, labels):
    assert labels_in(cell, ",") == labels


def test_each_set_has_one_number_whatever_the_order_of_its_labels():
    rows = [SourceRow(str(place), "x", cell) for place, cell in enumerate(["b, a", "a,b", "c", ",", "a, d", "", None, "b,  A", " B, a "])]
    cells, sets = sets_of(rows, {"a": 0, "b": 1, "c": 2}, ",")
    assert cells == {"b, a": 0, "a,b": 0, "c": 1, ",": 2, "b,  a": 0} and sets == ((0, 1), (2,), ())


def test_a_column_of_too_many_sets_is_no_column_of_labels(monkeypatch):
    monkeypatch.setattr(label_sets, "MOST_SETS", 2)
    rows = [SourceRow(str(place), "x", cell) for place, cell in enumerate(["a", "b", "a,b", "a"])]
    assert sets_of(rows, {"a": 0, "b": 1}, ",")[0] == {"a": 0, "b": 1}


def test_classes_are_found_in_both_splits():
    rows = [SourceRow("line 1", "x", "a, b"), SourceRow("line 2", "y", ""), SourceRow("line 3", "z", "c,d")]
    found = with_single_labels(DataSource("s", rows, rows[2:], class_names=("a",)), ",")
    assert [(row.place, row.text, row.label.strip()) for row in found.train] == [
        ("line 1", "x", "a"),
        ("line 1", "x", "b"),
        ("line 3", "z", "c"),
        ("line 3", "z", "d"),
    ]
    assert [row.label for row in found.test] == ["c", "d"] and found.class_names == ("a",)
    assert list(found.train) == list(found.train)  # more than once
    assert with_single_labels(DataSource("s", rows), ",").test is None


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("supervision", "few", "must be none"),
        ("weak_label_column", "weak", "must be left out"),
        ("validation_documents", 3, "must be 0"),
        ("test_source", "other.csv", "must be left out"),
    ],
)
def test_what_documents_with_several_labels_do_not_have_is_refused(file, key, value, says):
    with pytest.raises(ConfigError, match=rf"data\.{key} {says} with data\.multi_label: true \(got {value!r}\)") as refused:
        load_corpus(config(file, **{key: value}))
    assert refused.value.parameter == f"data.{key}"
