"""Two runs on one machine share its memory, or the second waits; nobody waits for a run that is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import psutil
import pytest

from selftrain.errors import ResourceError
from selftrain.runtime import memory
from selftrain.runtime.memory import share_of_memory

OTHER = "import sys, time; print(flush=True); time.sleep(600)"


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another process that has asked for 8 GiB and holds nothing of it yet."""
    monkeypatch.setattr(memory, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(memory, "held_gb", lambda process: 0.0)
    process = subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE)
    process.stdout.readline()
    entry = {"pid": process.pid, "created": psutil.Process(process.pid).create_time(), "memory_gb": 8.0}
    (tmp_path / f"{process.pid}.json").write_text(json.dumps(entry))
    yield process
    process.kill()
    process.wait()


def test_what_fits_beside_the_other_starts_at_once(tmp_path, other) -> None:
    said: list[str] = []
    with share_of_memory(2.0, folder=tmp_path, free=lambda: 10.0, say=said.append):
        assert json.loads((tmp_path / f"{os.getpid()}.json").read_text())["memory_gb"] == 2.0
    assert not said and not (tmp_path / f"{os.getpid()}.json").exists()


def test_the_second_waits_says_so_and_goes_on_when_the_first_was_killed(tmp_path, other) -> None:
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 1:
            threading.Timer(0.2, lambda: (other.kill(), other.wait())).start()

    with share_of_memory(2.5, folder=tmp_path, free=lambda: 10.0, say=say):
        assert other.poll() is not None
    assert len(said) == 2
    assert (
        f"waiting for memory: about 2.5 GiB are needed, 10.0 GiB are free, and other runs have asked for them: process {other.pid} (8.0 GiB)"
        in said[0]
    )
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_more_than_there_would_be_without_the_others_is_an_error(tmp_path, other) -> None:
    with (
        pytest.raises(ResourceError, match=r"needs about 11.0 GiB of memory and 10.0 GiB are free"),
        share_of_memory(11.0, folder=tmp_path, free=lambda: 10.0),
    ):
        pass


def test_what_the_other_holds_already_is_not_counted_twice(tmp_path, other, monkeypatch) -> None:
    monkeypatch.setattr(memory, "held_gb", lambda process: 7.0)
    with share_of_memory(8.5, folder=tmp_path, free=lambda: 10.0, say=pytest.fail):
        pass


@pytest.mark.parametrize(
    "entry", ["{", '{"pid": 1}', '{"pid": 1, "created": 0.0, "memory_gb": 100.0}', '{"pid": 999999999, "created": 0, "memory_gb": 100}']
)
def test_entries_of_nobody_count_for_nothing(tmp_path, entry) -> None:
    (tmp_path / "1.json").write_text(entry)
    with share_of_memory(9.0, folder=tmp_path, free=lambda: 10.0, say=pytest.fail):
        assert not (tmp_path / "1.json").exists()


def test_free_memory_is_not_more_than_the_machine_has() -> None:
    assert 0 < memory.free_memory_gb() <= psutil.virtual_memory().total / 2**30
