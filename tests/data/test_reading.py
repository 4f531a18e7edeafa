"""Files to rows, and the sentence for each fault of a whole file."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from selftrain.data import records, text_files
from selftrain.data.cleaning import SourceRow, UnreadableText
from selftrain.data.reading import file_rows, table_rows
from selftrain.data.records import open_records
from selftrain.data.text_files import stem_of, suffix_of
from selftrain.errors import DataError, SelfTrainError


def read_file(*where):
    return list(file_rows(*where))


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_with_quotes_newlines_and_a_byte_order_mark(tmp_path):
    path = write(tmp_path, "a.csv", '\ufefftext,label\n"one, two\nthree",x\n\n4,y\nfive\n')
    rows = read_file(path, "text", "label")
    assert [(row.place, row.text, row.label) for row in rows] == [("line 2", "one, two\nthree", "x"), ("line 5", "4", "y"), ("line 6", "five", None)]


def test_csv_with_unquoted_commas_is_no_text_cut_at_the_comma(tmp_path):
    rows = read_file(write(tmp_path, "a.csv", "text,label\none, two,x\nfine,y\n"), "text", "label")
    assert rows[0].text == UnreadableText("too many cells")
    assert rows[1].text == "fine"


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", "\t"), ("a.CSV", ",")])
def test_separators(tmp_path, name, separator):
    rows = read_file(write(tmp_path, name, f"id{separator}text\r\n1{separator}a cat\r\n"), "text", None)
    assert [(row.text, row.label) for row in rows] == [("a cat", None)]


def test_a_cell_longer_than_the_csv_modules_limit(tmp_path):
    long = "x" * 200_000
    assert read_file(write(tmp_path, "a.csv", f"text\n{long}\nshort\n"), "text", None)[0].text == long


def test_json_lines_keep_odd_values_for_cleaning(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "a\\u2028b", "label": 1}\n\n{"text": NaN}\n{"label": 2}\n[1]\n{"text": 5, "label": null}\n')
    rows = read_file(path, "text", "label")
    assert [row.place for row in rows] == ["line 1", "line 3", "line 4", "line 5", "line 6"]
    assert rows[0].text == "a\u2028b" and rows[0].label == 1
    assert rows[1].text != rows[1].text
    assert [row.text for row in rows[2:]] == [None, [1], 5]


def test_json_list_and_json_lines_in_a_json_file(tmp_path):
    objects = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    as_list = read_file(write(tmp_path, "a.json", json.dumps(objects, indent=1)), "text", "label")
    as_lines = read_file(write(tmp_path, "b.json", "\n".join(map(json.dumps, objects))), "text", "label")
    assert [(row.text, row.label) for row in as_list] == [(row.text, row.label) for row in as_lines] == [("a", "x"), ("b", "y")]


def test_parquet(tmp_path):
    table = pyarrow.table({"text": ["a", None, "c"], "label": pyarrow.array(["x", "y", "x"]).dictionary_encode()})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [(row.place, row.text, row.label) for row in read_file(tmp_path / "a.parquet", "text", "label")] == [
        ("row 1", "a", "x"),
        ("row 2", None, "y"),
        ("row 3", "c", "x"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "holds no rows"),
        ("a.jsonl", "\n\n", "holds no rows"),
        ("a.csv", "Texts,label\na,b\n", "no column 'text'; did you mean 'Texts'"),
        ("a.csv", "text,labels\na,b\n", "no column 'label'; did you mean 'labels'"),
        ("a.jsonl", '{"texts": "a", "label": 1}', "no column 'text'; did you mean 'texts'"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "on line 2"),
        ("a.json", '[{"text": "a",\n "label" 1}]', "on line 2"),
        ("a.json", "[" * 100_000, "JSON"),
        ("a.parquet", "no parquet", "not a readable Parquet file"),
        ("a.csv", b"text,label\nfine,x\ncaf\xe9,x\n", "not UTF-8: byte 0xe9 on line 3; convert it, e.g. iconv -f WINDOWS-1252"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "on line 1; convert it, e.g. iconv -f UTF-16"),
        ("a.txt", "text", "must be a .csv, .tsv, .jsonl, .json, .parquet file"),
    ],
)
def test_faults_of_a_file(tmp_path, name, content, message):
    with pytest.raises(SelfTrainError) as caught:
        read_file(write(tmp_path, name, content), "text", "label")
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(SelfTrainError, match="No such file"):
        read_file(tmp_path / "none.csv", "text", None)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SelfTrainError, match=r"must be a file \(got the folder"):
        read_file(tmp_path / "folder.csv", "text", None)


def test_parquet_with_images_gives_their_bytes(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"\xff\xd8"], "label": [0]}), tmp_path / "a.parquet")
    for column in ("text", "image"):
        assert read_file(tmp_path / "a.parquet", column, "label") == [SourceRow("row 1", b"\xff\xd8", 0)]


def test_a_column_called_image_that_holds_texts_is_no_image(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a.png"]}), tmp_path / "a.parquet")
    with pytest.raises(SelfTrainError, match="has no column 'text'"):
        read_file(tmp_path / "a.parquet", "text", None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", "id;text\n1;a cat\n2;caf\u00e9\n"),
        ("a.TSV.GZ", "id\ttext\n1\ta cat\n2\tcaf\u00e9\n"),
        ("a.jsonl.gz", '{"text": "a cat"}\n{"text": "caf\u00e9"}\n'),
        ("a.json.gz", '\n[{"text": "a cat"}, {"text": "caf\u00e9"}]'),
    ],
)
def test_compressed_files_read_like_plain_ones(tmp_path, name, content):
    rows = read_file(write(tmp_path, name, gzip.compress(content.encode())), "text", None)
    plain = read_file(write(tmp_path, name[:-3], content), "text", None)
    assert rows == plain and [row.text for row in rows] == ["a cat", "caf\u00e9"]
    path = tmp_path / name
    assert suffix_of(path) == path.name.lower()[1:-3] and stem_of(path) == "a"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv.gz", b"text\na cat\n", "is not a readable gzip file"),
        ("a.csv.gz", gzip.compress(b"text\na cat\n" * 100)[:-9], "is not a readable gzip file"),
        (
            "a.csv.gz",
            gzip.compress(b"text\nfine\ncaf\xe9\n"),
            "byte 0xe9 on line 3; convert it, e.g. iconv -f WINDOWS-1252 -t UTF-8 a.csv > a.utf8.csv",
        ),
        ("a.csv.gz", gzip.compress(b""), "is empty"),
        ("a.parquet.gz", gzip.compress(b"x"), "data.source must be a .csv"),
    ],
    ids=[
        "not gzip",
        "torn",
        "another encoding",
        "empty",
        "not a text file",
    ],  # gzip writes the time into its bytes, and processes of xdist must agree on names
)
def test_faults_of_a_compressed_file(tmp_path, name, content, message):
    with pytest.raises(DataError) as caught:
        read_file(write(tmp_path, name, content), "text", None)
    assert message in str(caught.value)


def test_a_compressed_file_gives_no_more_than_its_size_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "GZIP_FREE_BYTES", 100_000)
    for kind, row in (("csv", "a text of some length\n"), ("jsonl", '{"text": "a text of some length"}\n')):
        content = ("text\n" if kind == "csv" else "") + row * 10_000
        path = write(tmp_path, f"bomb.{kind}.gz", gzip.compress(content.encode()))
        with pytest.raises(DataError, match=r"bomb\.\w+\.gz holds more than .* 25 times its size"):
            read_file(path, "text", None)
    monkeypatch.setattr(text_files, "GZIP_FREE_BYTES", len(content))
    assert len(read_file(path, "text", None)) == 10_000
    monkeypatch.setattr(text_files, "FREE_ROWS", 9_999)
    with pytest.raises(DataError, match="fewer than 4 bytes a row"):
        read_file(path, "text", None)


def test_a_wrong_byte_far_into_a_file_is_found_on_its_line(tmp_path):
    lines = ["text", *("a" * 1023 for _ in range(2500))]  # 2.4 MiB: in the third block that is read
    content = "\n".join(lines).encode() + b"\nna\xefve\n"
    with pytest.raises(DataError, match=r"byte 0xef on line 2502; "):
        read_file(write(tmp_path, "a.csv", content), "text", None)


def test_a_record_is_as_long_as_all_of_its_lines(tmp_path, monkeypatch):
    content = 'text,label\n"one\ntwo\nthree",x\nfour,y\n'
    path = write(tmp_path, "a.csv", content)
    assert [one.characters for one in open_records(path, "text").read()] == [len('"one\ntwo\nthree",x\n'), len("four,y\n")]
    monkeypatch.setattr(records, "RECORD_CHARACTERS", 15)
    with pytest.raises(DataError, match=r"a\.csv has a quote in the row that begins on line 2"):
        list(open_records(path, "text").read())


def test_a_limit_of_the_csv_module_that_others_lower_meanwhile_is_one_sentence_with_the_file(tmp_path):
    limit = csv.field_size_limit()
    rows = open_records(write(tmp_path, "a.csv", f"text\nshort\n{'x' * 50}\n"), "text").read()
    assert next(rows).value == {"text": "short"}
    csv.field_size_limit(10)
    try:
        with pytest.raises(DataError, match=r"a\.csv is not a readable CSV file: field larger than field limit"):
            next(rows)
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("content", [b'[{"text": "caf\xe9"}, {"text": "fine"}]', b'{"text": "caf\xe9"}\n{"text": "fine"}\n'])
def test_bytes_that_are_not_utf_8_spoil_their_own_record_of_a_json_file_alone(tmp_path, content):
    found = list(open_records(write(tmp_path, "a.json", content), "text", "surrogateescape").read())
    assert [one.value["text"] for one in found] == ["caf\udce9", "fine"]


def test_what_is_wrong_with_json_is_said(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl is not valid JSON: it is nested more than 100 levels deep on line 2;"):
        read_file(write(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": ' + "[" * 101 + "]" * 101 + "}\n"), "text", None)


def test_a_compressed_file_is_bounded_over_all_that_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "GZIP_FREE_BYTES", 3 << 20)  # more than is decompressed at a time
    path = write(tmp_path, "bomb.csv.gz", gzip.compress(b"text\n" + b"a text of some length\n" * 200_000))
    with pytest.raises(DataError, match=r"bomb\.csv\.gz holds more than \d MB in"):
        text_files.check_compressed(path)


def test_rows_of_a_table_are_counted_from_one():
    table = pyarrow.table({"text": ["a", "b"], "label": [0, 1]})
    assert list(table_rows(table, ["text"], "label", "train row")) == [SourceRow("train row 1", "a", 0), SourceRow("train row 2", "b", 1)]
