"""The finished cells of a sweep: one JSON line a cell, by the cell's fingerprint. A killed sweep continues from this file, and not from a pickle of Tune's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selftrain.files.journal import Journal
from selftrain.sweeps.space import Cell


class Results:
    """Results of cells, in memory and in a file that is appended to; a failed cell is kept with its reason and counts as not done.

    Args:
        file: `results.jsonl` of the sweep's folder.
        code: version of the code, noted with every result.
    """

    def __init__(self, file: Path, code: str) -> None:
        self._journal = Journal(file)
        self._code = code
        self._entries: dict[str, dict[str, Any]] = {entry["cell"]: entry for entry in self._journal.read()}

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """The result of `cell`, or {"error": why}; None where it was not run."""
        entry = self._entries.get(cell.fingerprint)
        return entry["result"] if entry is not None else None

    def done(self, cell: Cell) -> bool:
        """Whether `cell` has a result that is not an error."""
        result = self.get(cell)
        return result is not None and "error" not in result

    def finished(self) -> list[dict[str, Any]]:
        """The result of every finished cell, in the order in which they ended."""
        return [entry["result"] for entry in self._entries.values() if "error" not in entry["result"]]

    def tried(self) -> list[dict[str, Any]]:
        """Those of an adaptive search, each with the values that it has tried."""
        return [result for result in self.finished() if "values" in result]

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
        self._entries[cell.fingerprint] = entry
        self._journal.add(entry)
