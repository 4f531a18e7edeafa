"""What a sweep has finished: one JSON line a cell, by the cell's fingerprint. This, and not a pickle of Tune's, is what a killed sweep goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selftrain.sweeps.space import Cell


class Store:
    """Results of cells, in memory and in a file that is appended to; a failed cell is kept with its reason and counts as not done."""

    def __init__(self, file: Path, code: str) -> None:
        self._file = file
        self._code = code
        self._found: dict[str, dict[str, Any]] = {}
        if file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the line that was being written when the sweep was killed
                    continue
                self._found[entry["cell"]] = entry

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """The result of `cell`, or {"error": why}; None where it was not run."""
        entry = self._found.get(cell.fingerprint)
        return entry["result"] if entry is not None else None

    def done(self, cell: Cell) -> bool:
        """Whether there is a result."""
        result = self.result(cell)
        return result is not None and "error" not in result

    def entries(self) -> list[dict[str, Any]]:
        """Every finished cell, in the order in which they ended."""
        return [entry for entry in self._found.values() if "error" not in entry["result"]]

    def add(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Keep a result."""
        entry = {
            "cell": cell.fingerprint,
            "setting": cell.setting,
            "data set": cell.column,
            "seed": cell.seed,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": self._code,
            "result": dict(result),
        }
        self._found[cell.fingerprint] = entry
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+b") as file:
            # A line that a kill cut short must not swallow the next one.
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write(json.dumps(entry).encode() + b"\n")
