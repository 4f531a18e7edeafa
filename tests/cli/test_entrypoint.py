"""What a submitted job starts on its node: it keeps its files, works on the storage, and leaves the nodes' tracking address alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selftrain import cli
from selftrain.cli.entrypoint import main
from selftrain.runtime.upload import Upload


@pytest.fixture
def started(tmp_path, monkeypatch):
    """(storage, what the command line was started with, in which folder, with which tracking address)."""
    found: list[tuple[list[str], Path, str]] = []
    monkeypatch.setattr(cli, "main", lambda words: found.append((list(words), Path.cwd(), os.environ["MLFLOW_TRACKING_URI"])) or 7)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for name in ("working", "storage"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "working")
    return tmp_path / "storage", found


def test_the_command_runs_on_the_storage_with_the_files_that_travelled(started):
    storage, found = started
    upload = Upload(storage, here=False)
    place = Path(upload.keep("x.yaml", b"name: x\n", "experiment"))
    upload.write(Path.cwd())
    assert main([str(storage), "run", str(place), "--address=auto"]) == 7
    assert found == [(["run", str(place), "--address=auto"], storage, f"sqlite:///{storage}/mlflow.db")]
    assert place.read_text() == "name: x\n"


def test_the_address_of_the_nodes_stays(started, monkeypatch):
    storage, found = started
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert main([str(storage), "run"]) == 7 and found[0][2] == "http://mlflow:5000"


def test_a_node_without_the_storage_is_one_sentence(started, capsys):
    storage, found = started
    assert main([str(storage / "missing"), "run"]) == 2 and found == []
    said = capsys.readouterr().err
    assert said.startswith("selftrain: storage '") and "mount it on all nodes" in said and said.count("\n") == 1


def test_a_job_without_a_storage_works_where_it_was_started(started):
    _, found = started
    assert main(["", "run", "--resume=s3://bucket/runs/x"]) == 7
    assert found == [(["run", "--resume=s3://bucket/runs/x"], Path.cwd(), "")] and Path.cwd().name == "working"
