"""A tiny bundle, and files of all kinds."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from many_files import Here, rows_of, write_parquet, write_toy_bundle

from selftrain.passes import parts, prediction
from selftrain.passes.worker import Predictor


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("passes") / "bundle")


@pytest.fixture
def docs(tmp_path) -> Path:
    """A folder with a file of every kind, which all have the same columns, and with what is no document."""
    folder = tmp_path / "docs"
    (folder / "more").mkdir(parents=True)
    write_parquet(folder / "a.parquet", rows_of("a", 45), row_group_size=10)
    write_parquet(folder / "more" / "large.parquet", rows_of("large", 100))
    lines = ["id,text", *(f'{row["id"]},"{row["text"]}"' for row in rows_of("b", 21)), "b-21,a text, that slipped"]
    (folder / "b.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows_of("c", 17))), encoding="utf-8")
    (folder / "d.json").write_text(json.dumps(rows_of("d", 9)), encoding="utf-8")
    (folder / "e.tsv.gz").write_bytes(gzip.compress("\n".join(["id\ttext", *(f"{row['id']}\t{row['text']}" for row in rows_of("e", 8))]).encode()))
    (folder / "_SUCCESS").touch()
    (folder / "readme.txt").write_text("no table")
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 12)


@pytest.fixture
def here(monkeypatch, tmp_path):
    made = Here()
    for name in ("answers", "session"):
        monkeypatch.setattr(prediction, name, getattr(made, name))
    monkeypatch.setattr(prediction, "is_alone", lambda: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = Predictor._classified

    def counting(self, part):
        made.classified.append(part.name)
        return whole(self, part)

    monkeypatch.setattr(Predictor, "_classified", counting)
    return made
