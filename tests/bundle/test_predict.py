"""Files are classified whole, row by row, whatever a row holds."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selftrain.bundle import predict
from selftrain.bundle.predict import predict_file
from selftrain.data import text_files
from selftrain.errors import DataError, OutputError, SelfTrainError


class Counting:
    """Says "long" for a text of more than four letters, with a probability that can be worked out by hand."""

    classes_ = np.array(["short", "long"])
    card = SimpleNamespace(levels=0, multi_label=False)

    def predict_proba(self, texts):
        return np.array([[0.25, 0.75] if len(text) > 4 else [0.875, 0.125] for text in texts]).reshape(len(texts), 2)


def read_csv(file: Path) -> list[dict]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def read_jsonl(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_csv_to_csv(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(predict, "BATCH_ROWS", 2)
    source = tmp_path / "x.csv"
    source.write_bytes(b'\xef\xbb\xbfid,text\n1,"word, and ""quotes"""\n2,tiny\n3,\n4,caf\xe9\n\n5,tiny,extra\n6\n7,na\xc3\xafve text\n')
    assert predict_file(Counting(), source, tmp_path / "y.csv", "text") == 7
    rows = read_csv(tmp_path / "y.csv")
    assert list(rows[0]) == ["id", "text", "label", "probability", "error", "p_short", "p_long"]
    assert rows[0] == {
        "id": "1",
        "text": 'word, and "quotes"',
        "label": "long",
        "probability": "0.75",
        "error": "",
        "p_short": "0.25",
        "p_long": "0.75",
    }
    assert [row["label"] for row in rows] == ["long", "short", "", "", "", "", "long"]
    assert [row["error"] for row in rows] == ["", "", "empty", "not valid Unicode", "more cells than the header", "not a string but NoneType", ""]
    assert rows[3]["text"] == "caf\ufffd"
    assert rows[3]["p_long"] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "y.csv"]


def test_jsonl_to_parquet_and_back(tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    lines = [
        {"text": "a longer text", "n": 1, "tags": ["a"]},
        {"text": 7, "n": 2.5, "huge": 2**80},
        {"n": None, "text": "\ud800"},
        {"text": "tiny", "ok": True},
    ]
    source.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert predict_file(Counting(), source, tmp_path / "y.parquet", "text") == 4
    table = pq.read_table(tmp_path / "y.parquet")
    assert table.column("n").to_pylist() == [1.0, 2.5, None, None]
    assert table.column("tags").to_pylist() == ['["a"]', None, None, None]
    assert table.column("huge").to_pylist() == [None, str(2**80), None, None]
    assert table.column("ok").to_pylist() == [None, None, None, True]
    assert table.column("text").to_pylist() == ["a longer text", "7", "\ufffd", "tiny"]
    assert table.column("label").to_pylist() == ["long", None, None, "short"]
    assert table.column("p_short").to_pylist() == [0.25, None, None, 0.875]
    assert table.column("error").to_pylist() == [None, "not a string but int", "not valid Unicode", None]

    predict_file(Counting(), source, tmp_path / "y.jsonl", "text")
    rows = read_jsonl(tmp_path / "y.jsonl")
    assert rows[0]["tags"] == ["a"] and rows[0]["label"] == "long" and rows[1]["label"] is None


def test_parquet_keeps_its_types_and_a_true_label(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 6, tzinfo=UTC)
    table = pa.table(
        {
            "text": ["a longer text", "tiny"],
            "label": ["true", "other"],
            "when": pa.array([moment, None], pa.timestamp("us", "UTC")),
            "x": [float("nan"), 1.0],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert predict_file(Counting(), tmp_path / "x.parquet", tmp_path / "y.parquet", "text") == 2
    found = pq.read_table(tmp_path / "y.parquet")
    assert found.schema.field("when").type == pa.timestamp("us", "UTC")
    assert found.column("label").to_pylist() == ["true", "other"]
    assert found.column("predicted_label").to_pylist() == ["long", "short"]
    predict_file(Counting(), tmp_path / "x.parquet", tmp_path / "y.jsonl", "text")
    rows = read_jsonl(tmp_path / "y.jsonl")  # strict JSON: NaN became null
    assert rows[0]["x"] is None and rows[1]["x"] == 1.0 and rows[0]["when"].startswith("2024-05-06")


@pytest.mark.parametrize(
    ("name", "content", "out", "words"),
    [
        ("x.csv", "id,txt\n1,a\n", "y.csv", "text_column 'text' is not a column of .*did you mean 'txt'"),
        ("x.csv", "", "y.csv", "is empty"),
        ("x.csv", "text,text\na,b\n", "y.csv", "has two columns of one name"),
        ("x.jsonl", "", "y.csv", "is empty"),
        ("x.jsonl", '{"text": "a"}\nnonsense\n', "y.csv", "is not valid JSON: .* on line 2"),
        ("x.jsonl", "[1]\n", "y.csv", "Line 1 of .* is a list"),
        ("x.parquet", "text\n", "y.csv", "is not a readable Parquet file"),
        ("x.txt", "text\n", "y.csv", "source must be a .csv, .tsv, .jsonl, .json, .parquet file"),
        ("x.csv", "text\na\n", "y.xlsx", "out must end in .csv, .tsv, .jsonl, .parquet .got .*xlsx"),
        ("x.csv", "text\na\n", "x.csv", "out must be another file than source"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, name, content, out, words) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SelfTrainError, match=words):
        predict_file(Counting(), tmp_path / name, tmp_path / out, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SelfTrainError, match="No such file"):
        predict_file(Counting(), tmp_path / "x.csv", tmp_path / "y.csv", "text")


def test_a_failure_leaves_nothing_half_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(predict, "BATCH_ROWS", 1)
    (tmp_path / "x.csv").write_text("text\na\nb\n")
    (tmp_path / "y.csv").write_text("of yesterday")

    class Failing(Counting):
        def predict_proba(self, texts):
            if "b" in texts:
                raise MemoryError
            return super().predict_proba(texts)

    with pytest.raises(MemoryError):
        predict_file(Failing(), tmp_path / "x.csv", tmp_path / "y.csv", "text")
    assert (tmp_path / "y.csv").read_text() == "of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "y.csv"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "text;id\na longer text;1\ntiny;2\n"),
        ("x.csv", "id\ttext\n1\ta longer text\n2\ttiny\n"),
        ("x.tsv", "text\tid\na longer text\t1\ntiny\t2\n"),
        ("x.json", '[{"text": "a longer text", "id": "1"},\n {"text": "tiny", "id": "2"}]'),
        ("x.json", '{"text": "a longer text", "id": "1"}\n{"text": "tiny", "id": "2"}\n'),
        ("x.csv.gz", "id,text\n1,a longer text\n2,tiny\n"),
        ("x.jsonl.gz", '{"text": "a longer text", "id": "1"}\n{"text": "tiny", "id": "2"}\n'),
    ],
)
@pytest.mark.parametrize("out", ["y.csv", "y.tsv"])
def test_whatever_a_run_reads_is_classified(tmp_path: Path, name, content, out) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    assert predict_file(Counting(), tmp_path / name, tmp_path / out, "text") == 2
    with (tmp_path / out).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if out == "y.tsv" else ","))
    assert [(row["id"], row["text"], row["label"], row["error"]) for row in rows] == [("1", "a longer text", "long", ""), ("2", "tiny", "short", "")]


def test_a_compressed_file_that_is_much_larger_than_its_size_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "GZIP_FREE_BYTES", 100_000)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"text\n" + b"a longer text\n" * 100_000))
    with pytest.raises(DataError, match="25 times its size"):
        predict_file(Counting(), tmp_path / "x.csv.gz", tmp_path / "y.csv", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv.gz"]


class Untouched(Counting):
    """Fails where it is asked for anything."""

    def predict_proba(self, texts):
        raise AssertionError("a text was classified")


def test_a_compressed_file_is_checked_before_its_first_row_is_classified(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "GZIP_FREE_BYTES", 1 << 16)
    for content in (gzip.compress(b"text\n" + b"a longer text\n" * 100_000), gzip.compress(b"text\na longer text\n")[:-9]):
        (tmp_path / "x.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"times its size|not a readable gzip file"):
            predict_file(Untouched(), tmp_path / "x.csv.gz", tmp_path / "y.csv", "text")


def test_errors_say_which_parameter_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("txt\na\n")
    for error, parameter, arguments in (
        (DataError, "text_column", ("x.csv", "y.csv")),
        (DataError, "source", ("x.txt", "y.csv")),
        (OutputError, "out", ("x.csv", "y.xlsx")),
        (OutputError, "out", ("x.csv", "x.csv/y.csv")),
    ):
        source, out = (tmp_path / name for name in arguments)
        with pytest.raises(error) as caught:
            predict_file(Counting(), source, out, "text")
        assert caught.value.parameter == parameter and str(caught.value).startswith(parameter)
