"""How many threads a training computes with: the cores that other work leaves free.

PyTorch divides every product among its threads and waits for the last of them. Beside other work a thread that waits for a core holds up all others, in every
product of every step. One thread less than that costs a part of the speed.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import psutil

_LEAST_SECONDS = 0.5  # that are looked at
_CHANCE = 0.25  # of a core that does not count as other work: an idle machine is never quite idle


@dataclass(frozen=True)
class Threads:
    """A number of threads, and why it is that."""

    count: int
    why: str


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class OtherWork:
    """Looks at what other processes compute, from its making on.

    The system's load average would not do: a minute after a set-up or a training has ended, it still says that the machine is busy.
    """

    def __init__(self) -> None:
        self._before = self._now()

    def busy_cores(self) -> float:
        """How many of the cores that this process may use other processes have kept busy meanwhile; waits until half a second has gone by."""
        time.sleep(max(0.0, _LEAST_SECONDS - (time.monotonic() - self._before[0])))
        seconds, computed, own = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return max(0.0, computed - own) / seconds * cores_here() / (os.cpu_count() or 1)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """(clock, processor seconds of the whole machine, of this process)."""
        times = psutil.cpu_times()
        # What a hypervisor gives to other machines is not there for this one.
        computed = sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))
        return time.monotonic(), computed, time.process_time()


def choose_threads(asked: int | None, busy: float) -> Threads:
    """Threads of all that trains on this machine at a time.

    Args:
        asked: `training.threads`.
        busy: `OtherWork.busy_cores()` until the work began.
    """
    cores = cores_here()
    if asked is not None:
        return Threads(asked, "training.threads")
    count = min(cores, max(1, math.floor(cores - busy + _CHANCE)))
    return Threads(count, f"other work keeps {busy:.1f} of {cores} cores busy" if count < cores else f"all of {cores} cores, which are free")
