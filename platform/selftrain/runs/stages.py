"""Seconds and peak memory of each stage of a run, and the log of what happened when."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from selftrain.files.journal import Journal
from selftrain.runtime.memory import held_gb


class Events:
    """events.jsonl: one JSON object a line, flushed at once, so that a killed run shows how far it came."""

    def __init__(self, file: Path) -> None:
        self._journal = Journal(file)

    def __call__(self, event: str, **facts: Any) -> None:
        """Append an event, and tell the person at the terminal."""
        self._journal.add({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts})
        shown = " ".join(f"{key}={value}" for key, value in facts.items() if isinstance(value, str | int | float))
        print(f"[{datetime.now().strftime('%H:%M:%S')}] {event} {shown}".rstrip(), file=sys.stderr, flush=True)

    def stopped(self, event: str, error: BaseException) -> None:
        """Append an event that says why the work ended before its end."""
        self(event, reason="told to" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}")


class Stages:
    """Measures named stages; the same name may come back, its seconds add up."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Any]] = {}

    @contextmanager
    def __call__(self, name: str, *, say: bool = True) -> Iterator[None]:
        """Measure a `with` block, and `say` at once that it has begun.

        Memory is the private resident memory of this process and all its descendants, sampled every second.
        """
        stop, me = threading.Event(), psutil.Process()
        peak = [1024 * held_gb(me)]

        def sample() -> None:
            while not stop.wait(1.0):
                peak[0] = max(peak[0], 1024 * held_gb(me))

        if say:
            print(f"[{datetime.now().strftime('%H:%M:%S')}] {name} ...", file=sys.stderr, flush=True)
        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        start = time.monotonic()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            stage = self._found.setdefault(name, {"name": name, "seconds": 0.0, "peak_memory_mb": 0.0})
            stage["seconds"] = round(stage["seconds"] + time.monotonic() - start, 3)
            stage["peak_memory_mb"] = round(max(stage["peak_memory_mb"], peak[0]), 1)

    def to_json(self) -> list[Any]:
        """The stages in the order of their first start."""
        return list(self._found.values())
