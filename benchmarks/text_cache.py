"""What the cache of generated texts costs at scale: `python benchmarks/text_cache.py [--entries 10000000] [--lookups 100000] [--out FILE.csv]`.

Writes synthetic completions with keys of the form that `cache_key` gives and texts of 8 words, opens the cache in a new process, looks up random keys that are there
and as many that are not, and goes through all of it. With `--old` the same by the cache of release 0.1.0 (all in memory, a file for what one call adds), of which
the part that matters is written down here. Each line of the result is one process; memory is the peak of resident memory of that process.

Rates depend on what else the machine does; the load average is in the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from lines import tell

from selftrain.texts.cache import Completion, TextCache
from selftrain.texts.cache.completion import to_table

WORDS = [
    "the",
    "coach",
    "said",
    "that",
    "his",
    "team",
    "would",
    "not",
    "give",
    "up",
    "before",
    "the",
    "last",
    "goal",
    "of",
    "a",
    "long",
    "season",
    "was",
    "scored",
    "in",
    "rain",
]


def key(number: int) -> str:
    """A key, as good as random."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def completions(start: int, end: int) -> Iterator[Completion]:
    """Synthetic completions by number."""
    draw = random.Random(start)
    for number in range(start, end):
        text = f"{' '.join(draw.choices(WORDS, k=8))} {number}"
        yield Completion(key(number), f"document {number // 5}", "input", "", number % 5, text, False, 60, 12)


class OldCache:
    """The cache of release 0.1.0, as far as it is measured."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.known: dict[str, Completion] = {}
        folder.mkdir(exist_ok=True)
        for file in sorted(folder.glob("*.parquet")):
            for row in pq.read_table(file).to_pylist():
                self.known[row["key"]] = Completion(**row)

    def add(self, block: list[Completion]) -> None:
        """One file."""
        self.number += 1
        pq.write_table(to_table(block), self.folder / f"{self.number:08d}-{key(self.number)}.parquet")
        self.known |= {one.key: one for one in block}

    def lookup(self, keys: list[str]) -> dict[str, Completion]:
        """What is known."""
        return {key: self.known[key] for key in keys if key in self.known}

    def completions(self) -> Iterator[Completion]:
        """All of it."""
        return iter(self.known.values())


def measure(step: str, folder: Path, entries: int, block: int, lookups: int, old: bool) -> dict[str, Any]:
    """One step in this process."""
    started = time.perf_counter()
    cache: Any = OldCache(folder) if old else TextCache(folder)
    opened = time.perf_counter() - started
    draw = random.Random(0)
    if step == "write":
        for start in range(0, entries, block):
            cache.add(list(completions(start, min(start + block, entries))))
    elif step == "find":
        found = cache.lookup([key(draw.randrange(entries)) for _ in range(lookups)])
        assert len(found) > 0.9 * lookups or lookups > entries / 10
    elif step == "miss":
        assert not cache.lookup([key(entries + number) for number in range(lookups)])
    elif step == "all":
        assert sum(1 for _ in cache.completions()) == entries
    seconds = time.perf_counter() - started - opened
    return {"open_seconds": opened, "seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Run every step in a process of its own and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--block", type=int, default=50_000, help="completions that one call adds (a run: 32)")
    parser.add_argument("--lookups", type=int, default=100_000)
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--steps", default="write,open,find,miss,all")
    parser.add_argument("--folder", type=Path, help="for the cache, which is then kept; default: a temporary one")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        figures = measure(options.step, options.folder, options.entries, options.block, options.lookups, options.old)
        print(json.dumps(figures))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="text-cache-"))
    try:
        for step in options.steps.split(","):
            command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--entries", str(options.entries)]
            command += ["--block", str(options.block), "--lookups", str(options.lookups), *(["--old"] if options.old else [])]
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            files = [file for file in folder.rglob("*") if file.is_file()]
            line = {
                "cache": "0.1.0" if options.old else "now",
                "entries": options.entries,
                "block": options.block,
                "step": step,
                **{name: round(value, 2) for name, value in figures.items()},
                "files": len(files),
                "disk_mb": round(sum(file.stat().st_size for file in files) / 2**20),
                "load": round(os.getloadavg()[0], 1),
            }
            tell(line, options.out)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
