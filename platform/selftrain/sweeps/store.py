"""What a sweep has finished: one JSON line a cell, by the cell's fingerprint. This, and not a pickle of Tune's, is what a killed sweep goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selftrain.files.journal import Journal
from selftrain.sweeps.space import Cell


class Store:
    """Results of cells, in memory and in a file that is appended to; a failed cell is kept with its reason and counts as not done."""

    def __init__(self, file: Path, code: str) -> None:
        self._journal = Journal(file)
        self._code = code
        self._found: dict[str, dict[str, Any]] = {entry["cell"]: entry for entry in self._journal.read()}

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
        self._journal.add(entry)
