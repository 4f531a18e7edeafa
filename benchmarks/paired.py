"""Two sides of a question measured in one process, taking turns: what the machine does besides falls on both, and every pair of turns gives a ratio.

Seconds are processor time of this process, which other work on the machine hardly changes. One thread computes. Each side has one turn first that does not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
from lines import add

Turn = Callable[[], Any]  # the work that is timed
Side = Callable[[int], Turn]  # the number of the pair to a turn: what it prepares is not timed


@dataclass(frozen=True)
class Compared:
    """What two sides took for the same work.

    Args:
        question: its name in `performance.py`.
        unit: of a rate, such as `documents a second`.
        items: of one turn, in that unit.
        ours, theirs: seconds of each turn.
    """

    question: str
    unit: str
    items: int
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Our rate as a share of theirs, of every pair: above 1 is faster."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    def line(self, command: str) -> dict[str, Any]:
        """A line of docs/results/performance.csv."""
        low, middle, high = quantiles(self.ratios, n=4, method="inclusive")
        return {
            "question": self.question,
            "unit": self.unit,
            "ours": _rounded(self.items / median(self.ours)),
            "theirs": _rounded(self.items / median(self.theirs)),
            "ratio": f"{middle:.3f}",
            "q1": f"{low:.3f}",
            "q3": f"{high:.3f}",
            "n": len(self.ours),
            "command": command,
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "load": f"{os.getloadavg()[0]:.1f}",
        }


def _rounded(rate: float) -> str:
    """Four digits."""
    return f"{float(f'{rate:.4g}'):g}"


def compare(question: str, unit: str, items: int, ours: Side, theirs: Side, repeats: int) -> Compared:
    """Let both sides take turns, the one that begins changing from pair to pair.

    Args:
        question: its name.
        unit: of a rate.
        items: of one turn.
        ours: a turn of the library.
        theirs: a turn of what it is compared with.
        repeats: pairs that count, at least two.
    """
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    for pair in range(-1, repeats):
        sides = {"ours": ours, "theirs": theirs}
        for name in sides if pair % 2 else reversed(sides):
            turn = sides[name](pair if pair >= 0 else repeats)  # a number of its own: nothing that is kept of it may help
            start = time.process_time()
            turn()
            seconds = time.process_time() - start
            if pair >= 0:
                taken[name].append(seconds)
    return Compared(question, unit, items, taken["ours"], taken["theirs"])


def machine() -> str:
    """This machine in words: cores that may be used, their make, memory."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{cores} cores of {models[0] if models else platform.machine()}, {memory:.0f} GiB, one thread"


def arguments(description: str | None, names: Sequence[str], repeats: int) -> argparse.Namespace:
    """What every program with paired questions takes: `--only NAME`, `--repeats N`, `--out FILE.csv`.

    Args:
        description: the program's docstring.
        names: of its questions.
        repeats: the default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=names, action="append", help="this question alone; may be given several times")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"pairs of turns (default: {repeats})")
    parser.add_argument("--out", type=Path, help="CSV that a line a question is added to")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error(f"--repeats must be at least 2, for a spread (got {options.repeats})")
    options.only = options.only or list(names)
    return options


def tell(compared: Compared, program: str, options: argparse.Namespace) -> None:
    """Print a question's answer, and add it to the CSV."""
    line = compared.line(f"python benchmarks/{program} --only {compared.question} --repeats {options.repeats}")
    print(
        f"{line['question']:12} {line['ratio']} (quartiles {line['q1']} to {line['q3']}, n {line['n']}): "
        f"{line['ours']} against {line['theirs']} {line['unit']}, load {line['load']}",
        flush=True,
    )
    if options.out is not None:
        add(options.out, line)
