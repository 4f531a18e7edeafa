"""Results of benchmarks: a CSV that every measurement adds a line to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def add(file: Path, line: dict[str, Any]) -> None:
    """A line of the CSV, with its head where it is new."""
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(line), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)
