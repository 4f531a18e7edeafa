"""A file of JSON lines that a run or a sweep appends to while it works: what survives a kill and a power cut."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrain.files.durable import explained, sync


class Journal:
    """One JSON object a line, written whole and at once. A line that a kill cut short is passed over, and costs no other line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> list[dict[str, Any]]:
        """Every whole line, oldest first; none where there is no file yet."""
        found: list[dict[str, Any]] = []
        if self._file.is_file():
            for line in self._file.read_bytes().split(b"\n"):
                try:
                    entry = json.loads(line)
                except ValueError:  # cut short (or the empty end of the file)
                    continue
                if isinstance(entry, dict):  # the beginning of a line can be a value of its own
                    found.append(entry)
        return found

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append a line; when this returns, the disk has it.

        Raises:
            OutputError: the disk is full, or the file cannot be written.
        """
        line = json.dumps(dict(entry), ensure_ascii=False).encode() + b"\n"
        with explained(self._file, "free some space and resume; what was finished before is kept"):
            new = not self._file.exists()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a+b") as file:
                # A line that a kill cut short must not swallow this one.
                if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                    line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync(self._file.parent)
