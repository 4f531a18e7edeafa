"""Cells with several labels."""

import csv

import numpy as np
import pytest

from selftrain.config import DataConfig
from selftrain.data.loading import load_corpus
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
