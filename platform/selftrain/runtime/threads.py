"""How many threads a training computes with: the cores that other work leaves free.

PyTorch divides every product among its threads and waits for the last of them. Beside other work a thread that waits for a core holds up all others, in every
product of every step. One thread less than that costs a part of the speed.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

_LOAD_SECONDS = 60.0  # over which the system's first load average fades
_CHANCE = 0.25  # of a core that does not count as other work: an idle machine is never quite idle


@dataclass(frozen=True)
class Threads:
    """A number of threads, and why it is that."""

    count: int
    why: str


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def busy_cores() -> float:
    """How many of the cores that this process may use other work has kept busy lately, by the system's load average; 0 where the system has none.

    What this process itself has computed is in the average too, and is taken off as if all of it were the latest.
    """
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 0.0
    own = 1.0 - math.exp(-time.process_time() / _LOAD_SECONDS)
    return max(0.0, load - own) * cores_here() / (os.cpu_count() or 1)


def choose_threads(asked: int | None, busy: float) -> Threads:
    """Threads of all that trains on this machine at a time.

    Args:
        asked: `training.threads`.
        busy: `busy_cores()` before the work began.
    """
    cores = cores_here()
    if asked is not None:
        return Threads(asked, "training.threads")
    count = min(cores, max(1, math.floor(cores - busy + _CHANCE)))
    return Threads(count, f"other work keeps {busy:.1f} of {cores} cores busy" if count < cores else f"all of {cores} cores, which are free")
