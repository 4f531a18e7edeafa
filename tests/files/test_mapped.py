"""Bytes that are in memory while they are few, and in a mapped file without a name from then on."""

import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.files import mapped
from selftrain.files.mapped import GrowingBytes


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder, and files from ten bytes on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mapped, "MAPPED", 10)
    return tmp_path


@given(st.lists(st.binary(max_size=6), max_size=8))
def test_what_was_appended_comes_back(pieces):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "MAPPED", 10)
        growing = GrowingBytes()
        for number, piece in enumerate(pieces, 1):
            growing.append(memoryview(piece) if number % 2 else piece)
            assert len(growing) == len(b"".join(pieces[:number]))
        assert growing.whole() == b"".join(pieces)


def test_numbers_are_counted_in_bytes():
    growing = GrowingBytes()
    growing.append(np.array([1, 2]).data)
    growing.append(np.array([], dtype=np.int64).data)
    assert len(growing) == 16 and np.frombuffer(growing.whole(), np.int64).tolist() == [1, 2]


def test_many_are_in_a_file_that_has_no_name(temporary):
    few, many = GrowingBytes(), GrowingBytes()
    few.append(b"123456789")
    many.append(b"123456789")
    many.append(b"0")
    here, there = few.whole(), many.whole()
    assert isinstance(here.obj, bytearray) and isinstance(there.obj, mmap.mmap) and here.readonly and there.readonly
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(temporary) in line]
    assert len(maps) == 1 and maps[0].endswith("(deleted)") and list(temporary.iterdir()) == []
    assert not many._held


def test_a_file_that_takes_less_than_it_is_given_is_given_the_rest(temporary):
    growing = GrowingBytes()
    growing.append(b"0123456789")
    file = growing._file
    growing._file = type("Slow", (), {"write": lambda self, view: file.write(view[:3]), "fileno": lambda self: file.fileno()})()
    growing.append(b"abcdefgh")
    assert growing.whole() == b"0123456789abcdefgh"


def test_the_texts_of_a_large_column_are_not_in_memory_of_its_own(tmp_path):
    """A column of 240 MB, and another with its texts in another order: not a third of one of them."""
    code = """
import numpy as np
from selftrain.data.columns import TextColumn
def own():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))
few = TextColumn.of(["a", "b"]).take(np.array([1]))
before = own()
column = TextColumn.of(f"{number:0600}" for number in range(400_000))
held = own() - before
other = column.take(np.arange(400_000)[::-1])
assert other[0] == column[-1] and other[-1] == column[0]
print(max(held, own() - before))
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80 << 20
