"""Watches the Ray that was started here: its own processes, the machine's memory, and that nothing of it outlives this process; and says why a process died.

Ray itself notices a lost raylet after some 20 s, and ends this process without a word a minute after its control store was lost. Here both end the work within
seconds, with a sentence. Ray says of a death only what its own memory monitor did. A process that the kernel ended looks like any other SIGKILL, but the kernel
counts its victims.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from selftrain.errors import ProcessDied, say
from selftrain.runtime import reaper
from selftrain.runtime.signals import interrupted_when

_OWN = {"raylet": "Ray's node process (raylet)", "gcs_server": "Ray's control store (gcs_server)"}
_LOOK_SECONDS = 0.5
_STUCK_SECONDS = 30.0  # Ray would end this process after 60, without a word
_SHORT = 0.06  # of the memory; Ray's own monitor kills processes when .05 are left
_SHUTDOWN_SECONDS = 10.0
_BY_RAY = ("address the out of memory issue", "outofmemoryerror", "killed due to memory pressure", "running low on memory")
_GUESSES = ("some common causes", "potential root causes")  # Ray appends them to every death that it knows no cause of
_RECENT_SECONDS = 60.0

_guard: Guard | None = None
_torn = False  # whether a lost Ray has left its threads in this process


class Guard:
    """One session's watch; see `guarded`.

    Args:
        warn: called with a sentence about what is not fatal: little memory.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.mark = secrets.token_hex(8)
        self.warn = warn
        self.lost: str | None = None  # the process that died and that nothing can replace, in a sentence
        self._watched: dict[str, psutil.Process] = {}
        self._short = False
        self._kills = kernel_kills()
        self._over = threading.Event()
        self._heeded = threading.Event()  # the loss has reached the thread that holds the session
        self._main = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._watch, name="selftrain-guard", daemon=True)
        os.environ[reaper.MARK] = self.mark
        self._reaper = reaper.start(self.mark)
        self._thread.start()

    def look(self) -> str | None:
        """Look now; returns what was lost."""
        if self.lost is None and not self._over.is_set():
            if len(self._watched) < len(_OWN):
                with suppress(psutil.Error):
                    self._watched |= {child.name(): child for child in psutil.Process().children() if child.name() in _OWN}
            for name, process in self._watched.items():
                with suppress(psutil.Error):
                    if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                        continue
                self.lost = f"{_OWN[name]} {why_it_died('killed unexpectedly')}."
                break
        return self.lost

    def shut_down(self) -> None:
        """End Ray, even where the processes that would end it in order are gone."""
        import ray

        self._heeded.set()
        if self.lost is None:
            self._over.set()
            ray.shutdown()
            return
        global _torn
        _torn = True
        atexit.unregister(ray.shutdown)
        reaper.kill_all(self.mark, grace=0.0, limit=_SHUTDOWN_SECONDS)
        thread = threading.Thread(target=ray.shutdown, daemon=True)
        thread.start()
        thread.join(_SHUTDOWN_SECONDS)

    def close(self) -> None:
        """End the watch; the reaper ends whatever is left."""
        self._heeded.set()
        self._over.set()
        self._thread.join()
        os.environ.pop(reaper.MARK, None)
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if self.look() is not None:
                # The main thread would wait for Ray without end. Where another thread holds this session, Ray's own errors have to do.
                if self._main and not self._over.is_set():
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    if not self._heeded.wait(_STUCK_SECONDS):  # it waits inside of Ray's own code, which no signal interrupts
                        say(self.lost or "")
                        os._exit(2)
                return
            self._memory()

    def _memory(self) -> None:
        memory = psutil.virtual_memory()
        if not self._short and memory.available < _SHORT * memory.total:
            self._short = True
            self.warn(f"memory is short: {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB are free; processes may be killed")
        elif memory.available > 2 * _SHORT * memory.total:
            self._short = False
        if (kills := kernel_kills()) > self._kills:
            self._kills = kills
            self.warn("the kernel killed a process of this machine for lack of memory")


@contextmanager
def guarded(warn: Callable[[str], None] = say) -> Iterator[Guard]:
    """Put around the start and the use of a local Ray.

    Args:
        warn: as in `Guard`.

    Raises:
        ProcessDied: a process without which Ray cannot continue was lost.
    """
    global _guard
    guard = _guard = Guard(warn)
    try:
        with interrupted_when(lambda: guard.lost is not None):
            yield guard
    except BaseException as error:
        if (cause := cause_of(error)) is not error:
            raise cause from None
        raise
    finally:
        guard.close()
        _guard = None


def cause_of(error: BaseException) -> BaseException:
    """What `error` comes from: the loss of one of Ray's own processes shows as an interrupt, or as one of a dozen errors of Ray."""
    if _guard is not None and not isinstance(error, ProcessDied) and (lost := _guard.look()) is not None:
        return ProcessDied(lost)
    return error


def ray_is_lost() -> bool:
    """Whether waiting for Ray is in vain."""
    return _guard is not None and _guard.look() is not None


def listen(warn: Callable[[str], None]) -> None:
    """Send the warnings of the present session to `warn` from now on."""
    if _guard is not None:
        _guard.warn = warn


def leave(code: int) -> None:
    """Exit with `code` now where a lost Ray would end this process a minute later with a code of its own; otherwise do nothing."""
    if _torn:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kernel_kills() -> int:
    """How many processes the kernel has killed for lack of memory so far, in this control group or on the machine."""
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
    """Whether the kernel has killed a process lately; meant to be asked every now and then."""

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
    """Why a process died, from Ray's `error`, as the rest of a sentence whose subject is the process: "was killed for lack of memory"."""
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
    if "is unavailable:" in lowered:  # what Ray says of a process that it is starting again for the last time
        return "was killed, or crashed"
    if "connection error code" in lowered or "unexpectedly" in lowered or "sigkill" in lowered or "system_error" in lowered:
        return "was killed, or crashed"
    return f"died ({said[:300]})" if said else "died"
