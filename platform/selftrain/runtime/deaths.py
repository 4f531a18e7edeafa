"""Why a process died, in words; memory is named as such.

Ray says so of what its own memory monitor ended. What the kernel ended looks to everyone like any other SIGKILL, but the kernel counts its victims.
"""

from __future__ import annotations

import time
from pathlib import Path

_BY_RAY = ("address the out of memory issue", "outofmemoryerror", "killed due to memory pressure", "running low on memory")
_GUESSES = ("some common causes", "potential root causes")  # Ray appends them to every death that it knows no cause of
_RECENT_SECONDS = 60.0


def kernel_kills() -> int:
    """How many processes the kernel has killed for lack of memory so far, here or anywhere on the machine."""
    total = 0
    for file, key in (
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
        ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
        ("/proc/vmstat", "oom_kill"),
    ):
        try:
            lines = Path(file).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(value) for name, _, value in (line.partition(" ") for line in lines) if name == key and value.isdigit())
    return total


class KernelKills:
    """Whether the kernel has killed something lately; ask it every now and then."""

    def __init__(self) -> None:
        self._count = kernel_kills()
        self._when = float("-inf")

    def lately(self) -> bool:
        """Whether a process was killed for lack of memory since this object was made, and in the last minute."""
        now = kernel_kills()
        if now > self._count:
            self._count, self._when = now, time.monotonic()
        return time.monotonic() - self._when < _RECENT_SECONDS


_KERNEL = KernelKills()


def why_it_died(error: BaseException | str) -> str:
    """The rest of a sentence whose subject is the process that `error` of Ray is about: "was killed for lack of memory"."""
    said = " ".join(str(error).split())
    lowered = said.lower()
    for guess in _GUESSES:
        lowered = lowered.partition(guess)[0]
    if any(word in lowered for word in _BY_RAY):
        return "was killed for lack of memory (by Ray's memory monitor)"
    if _KERNEL.lately():
        return "was killed for lack of memory (by the kernel)"
    if "ray.kill" in lowered:
        return "was ended by Ray (ray.kill), which it does when a process no longer answers"
    if "node" in lowered and ("crashed" in lowered or "node died" in lowered or "node was terminated" in lowered):
        return "was lost with its node"
    if "connection error code" in lowered or "unexpectedly" in lowered or "sigkill" in lowered or "system_error" in lowered:
        return "was killed, or crashed"
    return f"died ({said[:300]})" if said else "died"
