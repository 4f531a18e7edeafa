"""Reading as a stream against a plain reading of everything: the same ids, splits, labels, skipped rows and fingerprint, with texts dropped on the way."""

import hashlib
import itertools
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selftrain.config import DataConfig
from selftrain.data import cleaning, gathering, loading
from selftrain.data.cleaning import SourceRow, clean
from selftrain.data.columns import SkippedBuilder, TextColumn
from selftrain.data.corpus import document_id
from selftrain.data.gathering import Cut, gather
from selftrain.data.loading import corpus_fingerprint, corpus_of, load_corpus
from selftrain.data.splits import hash_order
from selftrain.errors import DataError

CLASSES = ("cat", "dog", "hen")


def tricky(seed, *, labeled):
    """(text, label, weak label) of rows among which a text comes again, before and after it has a usable label, and some are no documents."""
    draw = random.Random(seed)
    rows = []
    for number in range(draw.randrange(300, 400)):
        text = draw.choice([f"text {number}", f"  text {draw.randrange(60)} ", f"naïve {number} 日本", None, "", "nan", "17", "x\0y", "w " * 200])
        if text is not None and text.startswith("w "):
            text += str(number)
        label = draw.choice([*CLASSES, " DOG", "bird"]) if draw.random() < labeled else draw.choice([None, ""])
        rows.append((text, label, draw.choice([None, "cat", "fox"] if draw.random() < 0.1 else [None, "hen"])))
    return rows


def plain(rows, known=(), why="duplicate", place="row {}"):
    """{id: (text, label, weak)} of the usable rows, and the (place, reason) of the others."""
    documents, skipped = {}, []
    index = {name: number for number, name in enumerate(CLASSES)} | {None: None, "": None, "dog ": 1}
    for number, (text, label, weak) in enumerate(rows, start=1):
        text = (text or "").strip()
        labels = [value if value is None else value.strip().lower() for value in (label, weak)]
        reason = ""
        if text in ("", "nan"):
            reason = "empty"
        elif "\0" in text:
            reason = "binary"
        elif len(text) > 100:
            reason = "over-long"
        elif text == "17":
            reason = "not text"
        elif any(one not in index for one in labels):
            reason = "unknown label"
        elif document_id(text) in known:
            reason = why
        elif document_id(text) in documents:
            reason = "duplicate"
        if reason:
            skipped.append((place.format(number), reason))
        else:
            documents[document_id(text)] = (text, index[labels[0]], index[labels[1]])
    return documents, skipped


def ordered(ids):
    return sorted(ids, key=lambda id_: hashlib.sha256(f"selftrain split 1:{id_}".encode()).hexdigest())


def held_out(documents, ids, count, learns):
    labeled = [id_ for id_ in ids if documents[id_][1] is not None]
    if learns and any(label is None for _, label, _ in documents.values()):
        groups = [[id_ for id_ in labeled if documents[id_][1] == label] for label in range(len(CLASSES))]
        labeled = [id_ for id_ in labeled if any(id_ in group[: len(group) // 2] for group in groups)]
    return labeled[:count], [id_ for id_ in ids if id_ not in labeled[:count]]


def reference(rows, tests, config):
    """Everything that is compared, the plain way."""
    learns = config.supervision in ("few", "all", "candidates")
    given, skipped_test = plain(tests, place="test row {}")
    given = {id_: one for id_, one in given.items() if one[1] is not None}
    documents, skipped = plain(rows, given, "in test already", "train row {}")
    test, rest = (ordered(given), ordered(documents)) if given else held_out(documents, ordered(documents), config.test_documents, learns)
    validation = []
    if config.validation_documents:
        validation, rest = held_out(documents, rest, config.validation_documents, learns)
    if config.unlabeled_documents is not None:
        first = sorted(rest, key=lambda id_: learns and documents[id_][1] is None)[: config.unlabeled_documents]
        rest = [id_ for id_ in rest if id_ in first]
    everything = {**documents, **given}
    splits = [list(CLASSES), rest, test, *([validation] if validation else [])]
    return {
        "ids": [*splits[1:3], validation],
        "texts": [[everything[id_][0] for id_ in split] for split in (rest, test, validation)],
        "labels": [{id_: everything[id_][1] for id_ in split if everything[id_][1] is not None} for split in (rest, test, validation)],
        "weak": {id_: everything[id_][2] for id_ in rest if everything[id_][2] is not None},
        "skipped": (skipped_test if given else []) + skipped,
        "fingerprint": hashlib.sha256(json.dumps(splits).encode()).hexdigest(),
    }


def loaded(config):
    corpus, truth = load_corpus(config)
    parts = (corpus.unlabeled, corpus.test, corpus.validation)
    assert all(isinstance(column, TextColumn) for part in parts for column in (part.ids, part.contents))
    return {
        "ids": [list(part.ids) for part in parts],
        "texts": [list(part.contents) for part in parts],
        "labels": [truth.unlabeled, truth.test, truth.validation],
        "weak": truth.weak,
        "skipped": [(row.row, row.reason) for row in corpus.skipped],
        "fingerprint": corpus.fingerprint,
    }


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of a few rows, and texts that are dropped a few at a time."""
    monkeypatch.setattr(cleaning, "_BATCH_ROWS", 7)
    monkeypatch.setattr(gathering, "_LEAST_DROPPED", 3)
    monkeypatch.setattr(loading, "_HASHED_IDS", 5)
    dropped = []
    keep = gathering.TextBuilder.keep
    monkeypatch.setattr(gathering.TextBuilder, "keep", lambda self, rows: dropped.append(len(self) - len(rows)) or keep(self, rows))
    return dropped


@pytest.mark.slow
@pytest.mark.parametrize("supervision", ["none", "few", "weak"])
@pytest.mark.parametrize("labeled", [1.0, 0.4])
@pytest.mark.parametrize("tested", ["own test split", "test split without labels", "none"])
def test_a_stream_gives_what_a_plain_reading_gives(tmp_path, monkeypatch, small_batches, supervision, labeled, tested):
    monkeypatch.setenv("SELFTRAIN_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": CLASSES}))
    for seed, limit, validation in itertools.product(range(3), (None, 5, 40), (0, 6)):
        rows = tricky(seed, labeled=labeled)
        tests = [] if tested == "none" else tricky(100 + seed, labeled=0.7 if tested == "own test split" else 0)[:40] + rows[:10]
        if tested == "test split without labels":
            tests = [(text, None, None) for text, _, _ in tests]
        for split, content in (("train", rows), ("test", tests)):
            texts, labels, weak = zip(*content, strict=True) if content else ((), (), ())
            if content:
                pq.write_table(
                    pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.string()), "weak": pa.array(weak, pa.string())}),
                    tmp_path / "set" / f"{split}.parquet",
                    row_group_size=50,
                )
        config = DataConfig(
            source="set",
            weak_label_column="weak",
            supervision=supervision,
            test_documents=5,
            validation_documents=validation,
            unlabeled_documents=limit,
            max_characters=100,
            min_documents=2,
        )
        expected = reference(rows, [(text, label, None) for text, label, _ in tests], config)
        assert loaded(config) == expected
    assert sum(small_batches) > 0 and min(small_batches) > 0  # texts were dropped


def test_texts_that_no_split_can_want_are_dropped_while_they_come(small_batches):
    rows = (SourceRow(str(number), f"text {number}", ["cat", "dog", None][number % 3]) for number in range(3000))
    held = []

    def counted():
        for batch in clean(rows, index={"cat": 0, "dog": 1}, max_characters=100):
            yield batch
            held.append(sum(small_batches))

    found = gather(counted(), SkippedBuilder(), cut=Cut(20, by_class=True))
    assert len(found) == 3000 and len(found._contents) <= 2 * 3 * 20 + 10
    assert max(7 * (number + 1) - gone for number, gone in enumerate(held)) <= 2 * 3 * 20 + 10  # at any time
    wanted = found.ordered[:20]
    assert list(found.documents(wanted).contents) == [f"text {number}" for number in wanted]
    with pytest.raises(AssertionError, match="was dropped"):
        found.documents(np.setdiff1d(found.ordered, found._kept)[:1])


def test_texts_in_memory_are_gathered_likewise(small_batches):
    texts = [f"text {number % 90}" for number in range(300)]
    config = DataConfig(classes=("cat", "dog"), min_documents=2, unlabeled_documents=10)
    corpus = corpus_of(texts, config)
    ids = hash_order(document_id(f"text {number}") for number in range(90))[:10]
    assert corpus.unlabeled.ids == ids and [document_id(text) for text in corpus.unlabeled.contents] == ids
    assert len(corpus.skipped) == 210 and corpus.skipped[0].row == "text 90" and sum(small_batches) > 0
    assert corpus.fingerprint == hashlib.sha256(json.dumps([["cat", "dog"], ids, []]).encode()).hexdigest()
    with pytest.raises(DataError, match=r"texts has 90 usable documents \(210 rows were skipped: 210 duplicate\)"):
        corpus_of(texts, DataConfig(classes=("cat", "dog"), min_documents=91))


def test_a_corpus_in_files_is_the_one_in_memory(tmp_path, monkeypatch, small_batches):
    rows = [(f"text {number % 300}", ["cat", "dog", None][number % 3]) for number in range(400)]
    texts, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "rows.parquet")
    for limit in (None, 20):
        config = DataConfig(
            source=str(tmp_path / "rows.parquet"), label_column="label", classes=("cat", "dog"), test_documents=9, unlabeled_documents=limit
        )
        here = loaded(config)
        with monkeypatch.context() as patch:
            patch.setattr("selftrain.files.mapped.MAPPED", 100)
            assert loaded(config) == here


@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 0, 2), (4096, 0, 0), (5000, 4097, 1)])
def test_the_fingerprint_is_that_of_all_of_it_at_once(sizes):
    names = ("caf\u00e9", 'a "b"')
    splits = [[document_id(f"{split} {number}") for number in range(size)] for split, size in enumerate(sizes)]
    whole = json.dumps([list(names), *(split for place, split in enumerate(splits) if place < 2 or split)])
    assert corpus_fingerprint(names, *splits) == hashlib.sha256(whole.encode()).hexdigest()
