"""The bar of long work: soon and often in a terminal, seldom in a log, and nothing of what is over at once."""

from __future__ import annotations

import io
import sys

import pytest

from selftrain.runtime import progress
from selftrain.runtime.progress import progress_bar


class Stream(io.StringIO):
    """What a terminal or a file is written."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def drawn(monkeypatch, *, terminal: bool, seconds: float, at_once: bool = False) -> list[str]:
    """The bars that 1,000 texts leave, counted one by one while time passes."""
    now = [1000.0]
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)
    with progress_bar("teacher", "text", 1000, at_once=at_once) as bar:
        for _ in range(1000):
            now[0] += seconds / 1000
            bar.update()
    return [one for one in stream.getvalue().replace("\n", "\r").split("\r") if one.strip()]


def test_a_log_has_a_line_every_half_minute(monkeypatch):
    found = drawn(monkeypatch, terminal=False, seconds=300.0)
    assert 8 <= len(found) <= 12
    assert found[-1].startswith("teacher: 100%") and "1000/1000" in found[-1] and "text/s" in found[-1]


def test_a_terminal_is_drawn_on_twice_a_second(monkeypatch):
    assert 400 <= len(drawn(monkeypatch, terminal=True, seconds=300.0)) <= 700


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 1.9), (False, 29.0)])
def test_what_is_over_at_once_is_not_drawn(monkeypatch, terminal, seconds):
    assert drawn(monkeypatch, terminal=terminal, seconds=seconds) == []


def test_what_may_wait_is_drawn_from_the_start(monkeypatch):
    found = drawn(monkeypatch, terminal=False, seconds=1.0, at_once=True)
    assert found[0].startswith("teacher:   0%") and found[-1].startswith("teacher: 100%")
