"""What is written into a file of documents comes back from it, and whatever else stands there is rows or one sentence."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selftrain.data.cleaning import SourceRow, UnreadableText
from selftrain.data.reading import file_rows, join_texts
from selftrain.data.records import FILE_SUFFIXES, open_records
from selftrain.errors import SelfTrainError

# Whatever UTF-8 can say but NUL, which makes a CSV file binary; a carriage return inside of quotes is read as it stands.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
documents = st.lists(st.tuples(texts.filter(lambda text: text.strip() != ""), texts), min_size=1, max_size=6)


def read_file(*where):
    return list(file_rows(*where))


def delimited(rows, separator: str) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows(rows)
    return stream.getvalue()


def found(folder, name: str, content: str | bytes) -> list[tuple[object, object]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return [(row.text, row.label) for row in read_file(path, "text", "label")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("documents")


@given(documents)
def test_documents_come_back_from_every_kind_of_file(folder, rows):
    objects = [{"text": text, "label": label} for text, label in rows]
    assert found(folder, "a.csv", delimited(rows, ",")) == rows
    assert found(folder, "a.csv", "\ufeff" + delimited(rows, ";")) == rows
    assert found(folder, "a.tsv", delimited(rows, "\t")) == rows
    assert found(folder, "a.jsonl", "\n".join(json.dumps(one, ensure_ascii=False) for one in objects)) == rows
    assert found(folder, "a.json", json.dumps(objects)) == rows
    pq.write_table(pa.Table.from_pylist(objects), folder / "a.parquet")
    assert [(row.text, row.label) for row in read_file(folder / "a.parquet", "text", "label")] == rows


pieces = st.sampled_from(
    [b"text", b"label", b",", b";", b"\t", b'"', b"\n", b"\r", b"{", b"}", b"[", b"]", b":", b"null", b"\xff", b"\xef\xbb\xbf", b"\0", b"1e9"]
)
some = st.lists(pieces, max_size=25).map(b"".join)
contents = st.one_of(st.binary(max_size=60), some, some.map(lambda rest: b"text,label\n" + rest))


@given(contents, st.sampled_from(FILE_SUFFIXES), st.sampled_from([None, "label"]))
@example(b'"\0\n"\0', ".csv", None)  # a column whose name has two lines
def test_any_bytes_are_rows_or_one_sentence(folder, content, suffix, label):
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    try:
        rows = read_file(path, "text", label)
    except SelfTrainError as error:
        assert str(path) in str(error) and "\n" not in str(error).replace(str(path), "")
    else:
        assert rows and all(isinstance(row, SourceRow) and row.place for row in rows)
        assert len({row.place for row in rows}) == len(rows)  # each is said to stand somewhere else


def test_the_place_of_a_row_is_the_line_that_it_begins_on(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\none,x\n\n"two\nlines",y\nthree,z,too many\nfour\n')
    rows = read_file(tmp_path / "a.csv", "text", "label")
    assert [(row.place, row.text, row.label) for row in rows] == [
        ("line 2", "one", "x"),
        ("line 4", "two\nlines", "y"),
        ("line 6", UnreadableText("too many cells"), None),
        ("line 7", "four", None),
    ]
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": "b"}]')
    assert [row.place for row in read_file(tmp_path / "a.json", "text", None)] == ["item 1", "item 2"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_weak_labels_come_from_their_own_column(tmp_path, name):
    objects = [{"text": "one", "label": "x", "guess": "y"}, {"text": "two", "label": "z", "guess": "x"}]
    if name == "a.csv":
        (tmp_path / name).write_text("guess, text ,label\n" + "".join(f"{one['guess']},{one['text']},{one['label']}\n" for one in objects))
    elif name == "a.jsonl":
        (tmp_path / name).write_text("\n".join(map(json.dumps, objects)))
    else:
        pq.write_table(pa.Table.from_pylist(objects), tmp_path / name)
    rows = read_file(tmp_path / name, "text", "label", "guess")
    assert [row[1:] for row in rows] == [("one", "x", "y"), ("two", "z", "x")]
    assert [row[1:] for row in read_file(tmp_path / name, "text", None, None)] == [("one", None, None), ("two", None, None)]
    with pytest.raises(SelfTrainError, match="has no column 'guessed'; did you mean 'guess'"):
        read_file(tmp_path / name, "text", "label", "guessed")


def test_the_limit_of_the_csv_module_is_put_back(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text\n" + "x" * (before + 10) + "\n")
    assert len(read_file(tmp_path / "a.csv", "text", None)[0].text) == before + 10
    assert csv.field_size_limit() == before
    (tmp_path / "a.csv").write_text("texts\n" + "x" * (before + 10) + "\n")
    with pytest.raises(SelfTrainError):
        read_file(tmp_path / "a.csv", "text", None)
    assert csv.field_size_limit() == before


def test_a_file_that_is_closed_leaves_the_limit_to_those_that_are_open(tmp_path):
    before = csv.field_size_limit()
    long = "x" * (before + 10)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"text\nshort\n{long}\n")
    first, second = (open_records(tmp_path / name, "text").read() for name in ("a.csv", "b.csv"))
    next(first), next(second)
    first.close()
    assert next(second).value == {"text": long}
    second.close()
    assert csv.field_size_limit() == before


def test_columns_are_joined_by_a_newline_without_what_is_no_text():
    assert join_texts([5]) == 5 and join_texts([None]) is None and join_texts([" a "]) == " a "
    assert join_texts([" a ", "b\n"]) == "a\nb"
    assert join_texts(["a", None, " ", 5, "b"]) == "a\nb"
    assert join_texts([None, " "]) == ""
