"""Memory: runs on one machine share it, and a process gives back what it no longer uses.

Each run says what it needs before it starts, and waits while other runs need what is left. The amount stands in a file of the process, in a folder of this user
below the temporary folder. A file whose process is gone counts for nothing, so nobody waits for a run that was killed.

glibc keeps memory that is freed between blocks in use, and gives back by itself only the end of its heap: after a model was loaded, hundreds of MiB stay.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from selftrain.errors import ResourceError, say

_POLL_SECONDS = 2.0

atexit.register(gc.unfreeze)  # what `settle` hid; libraries in C++ complain of objects that are left when Python ends


@dataclass(frozen=True)
class _Other:
    pid: int
    memory_gb: float  # what it asked for
    to_come_gb: float  # what it does not hold of that yet


@contextmanager
def share_of_memory(
    memory_gb: float,
    *,
    remedy: str = "ask for less",
    folder: Path | None = None,
    free: Callable[[], float] | None = None,
    say: Callable[[str], None] = say,
) -> Iterator[None]:
    """Hold `memory_gb` of this machine for the length of a `with` block; wait where other runs need what is left.

    Args:
        memory_gb: GiB that this process and those that it starts will hold at most.
        remedy: how to need less, for the error.
        folder: holds a file for each run; default: one a user below the temporary folder.
        free: free memory in GiB; default: the machine's.
        say: called with a sentence before a wait, and with one after it.

    Raises:
        ResourceError: it would not be enough with all other runs gone.
    """
    free = free or free_memory_gb
    folder = folder or Path(tempfile.gettempdir()) / f"selftrain-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    own = folder / f"{os.getpid()}.json"
    waited = False
    while True:
        with _alone(folder):
            others, available = _others(folder), free()
            if available - sum(other.to_come_gb for other in others) >= memory_gb:
                own.write_text(json.dumps({"pid": os.getpid(), "created": psutil.Process().create_time(), "memory_gb": memory_gb}), encoding="ascii")
                break
        if available + sum(other.memory_gb - other.to_come_gb for other in others) < memory_gb:
            raise ResourceError(f"The run needs about {memory_gb:.1f} GiB of memory and {available:.1f} GiB are free; free some, or {remedy}.")
        if not waited:
            waited = True
            whose = " and ".join(f"process {other.pid} ({other.memory_gb:.1f} GiB)" for other in others)
            say(
                f"waiting for memory: about {memory_gb:.1f} GiB are needed, {available:.1f} GiB are free, and other runs have asked for them: {whose}"
            )
        time.sleep(_POLL_SECONDS)
    try:
        if waited:
            say("the memory is free now; continuing")
        yield
    finally:
        own.unlink(missing_ok=True)


def free_memory_gb() -> float:
    """GiB that the machine, or the control group of this process, has left."""
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
            found.append(_Other(process.pid, entry["memory_gb"], max(0.0, entry["memory_gb"] - held_gb(process))))
        except (psutil.NoSuchProcess, ValueError, KeyError, TypeError):
            file.unlink(missing_ok=True)
        except (OSError, psutil.Error):
            continue
    return found


def held_gb(process: psutil.Process) -> float:
    """GiB of private memory that a process and its descendants hold."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            memory = one.memory_info()
            total += memory.rss - memory.shared
    return total / 2**30


def trim() -> None:
    """Give back whole free pages, in some hundredths of a second; nothing where the C library is not glibc."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def settle() -> None:
    """Collect garbage, and have the collector skip everything that is left from now on; takes tenths of a second, in which nothing else runs.

    A process with torch and transformers in it holds half a million objects, and Python goes through all of them each time that a quarter as many new ones have
    lived for a while. Where each text makes some, that is most of a small model's time. Call it again when much of what was left has been dropped.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def keep_trimming(seconds: float) -> None:
    """`trim` every `seconds` in the background as long as the process lives: for a process that nobody can tell when it has finished loading."""

    def loop() -> None:
        while True:
            time.sleep(seconds)
            trim()

    threading.Thread(target=loop, name="trim", daemon=True).start()
