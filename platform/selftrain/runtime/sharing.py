"""Runs on one machine share its memory: each says what it needs before it starts, and waits while others need what is left.

What is asked for stands in a file a process, in a folder of this user under the temporary folder; a file whose process is gone counts for nothing, so nobody waits
for one that was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from selftrain.errors import SelfTrainError

_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class _Other:
    pid: int
    memory_gb: float  # what it asked for
    to_come_gb: float  # of which it does not hold yet


def _say(sentence: str) -> None:
    print(f"selftrain: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def share_of_memory(
    memory_gb: float, *, folder: Path | None = None, free: Callable[[], float] | None = None, say: Callable[[str], None] = _say
) -> Iterator[None]:
    """Hold `memory_gb` of this machine for the length of a `with` block; waits for other runs where they need the rest.

    Args:
        memory_gb: what this process and those that it starts will hold at most.
        folder: where runs say what they need; default: one a user under the temporary folder.
        free: free memory in GiB; default: the machine's.
        say: told once before a wait, and once after it.

    Raises:
        SelfTrainError: it would not be enough with all other runs gone.
    """
    free = free or free_memory_gb
    folder = folder or Path(tempfile.gettempdir()) / f"selftrain-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    own = folder / f"{os.getpid()}.json"
    said = False
    while True:
        with _alone(folder):
            others, available = _others(folder), free()
            if available - sum(other.to_come_gb for other in others) >= memory_gb:
                own.write_text(json.dumps({"pid": os.getpid(), "created": psutil.Process().create_time(), "memory_gb": memory_gb}), encoding="ascii")
                break
        if available + sum(other.memory_gb - other.to_come_gb for other in others) < memory_gb:
            raise SelfTrainError(
                f"The run needs about {memory_gb:.1f} GiB of memory and {available:.1f} GiB are free; free some, choose a smaller language model, "
                "or lower augment.engine_memory_gb."
            )
        if not said:
            said = True
            whose = " and ".join(f"process {other.pid} ({other.memory_gb:.1f} GiB)" for other in others)
            say(
                f"waiting for memory: about {memory_gb:.1f} GiB are needed, {available:.1f} GiB are free, and other runs have asked for them: {whose}"
            )
        time.sleep(_POLL_SECONDS)
    try:
        if said:
            say("the memory is there; going on")
        yield
    finally:
        own.unlink(missing_ok=True)


def free_memory_gb() -> float:
    """What the machine, or the control group of this process, has left."""
    found = psutil.virtual_memory().available
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        with suppress(OSError, ValueError):  # no such group, or no limit ("max")
            group = Path("/sys/fs/cgroup")
            found = min(found, int((group / limit).read_text()) - int((group / used).read_text()))
    return found / 2**30


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The kernel gives the lock back when its holder dies."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _others(folder: Path) -> list[_Other]:
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            entry = json.loads(file.read_text(encoding="ascii"))
            process = psutil.Process(entry["pid"])
            if process.pid == os.getpid():
                continue  # an earlier session of this process
            if process.create_time() != entry["created"]:  # the number went to another process
                raise psutil.NoSuchProcess(process.pid)
            found.append(_Other(process.pid, entry["memory_gb"], max(0.0, entry["memory_gb"] - _held_gb(process))))
        except (psutil.NoSuchProcess, ValueError, KeyError, TypeError):
            file.unlink(missing_ok=True)
        except (OSError, psutil.Error):
            continue
    return found


def _held_gb(process: psutil.Process) -> float:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            memory = one.memory_info()
            total += memory.rss - memory.shared
    return total / 2**30
