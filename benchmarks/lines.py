"""Results of benchmarks: a CSV that every measurement adds a line to."""

from __future__ import annotations

import csv
import time
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


def tell(line: dict[str, Any], out: Path | None) -> None:
    """Print a measurement with its date, and add it to the CSV where there is one."""
    dated = line | {"date": time.strftime("%Y-%m-%d")}
    print(dated, flush=True)
    if out:
        add(out, dated)
