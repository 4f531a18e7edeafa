"""Watches over the Ray that was started here: its own processes, the machine's memory, and that nothing of it outlives this process.

Ray itself notices a lost raylet after some 20 s, and ends this process without a word a minute after its control store was lost. Here both end the work within
seconds, with a sentence.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from selftrain.errors import ProcessDied
from selftrain.runtime import reaper
from selftrain.runtime.deaths import kernel_kills, why_it_died

_OWN = {"raylet": "Ray's node process (raylet)", "gcs_server": "Ray's control store (gcs_server)"}
_LOOK_SECONDS = 0.5
_SHORT = 0.06  # of the memory; Ray's own monitor kills processes when .05 are left
_SHUTDOWN_SECONDS = 10.0

_guard: Guard | None = None
_torn = False  # whether a Ray that was lost has left its threads in this process


class Guard:
    """One session's watch; see `guarded`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.mark = secrets.token_hex(8)
        self.tell = tell  # told of what is not fatal: little memory
        self.lost: str | None = None  # what died that nothing can replace
        self._watched: dict[str, psutil.Process] = {}
        self._short = False
        self._kills = kernel_kills()
        self._over = threading.Event()
        self._main = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._watch, name="selftrain-guard", daemon=True)
        os.environ[reaper.MARK] = self.mark
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(reaper.__file__)), self.mark, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
        self._thread.start()

    def look(self) -> str | None:
        """What was lost, looked at now."""
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
        """End Ray, even where what would end it in order is gone."""
        import ray

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
        """End the watch; the reaper looks whether anything is left."""
        self._over.set()
        self._thread.join()
        os.environ.pop(reaper.MARK, None)
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if self.look() is not None:
                # What waits for Ray in the main thread would wait on; where another thread has this session, Ray's own errors have to do.
                if self._main and not self._over.is_set():
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            self._memory()

    def _memory(self) -> None:
        memory = psutil.virtual_memory()
        if not self._short and memory.available < _SHORT * memory.total:
            self._short = True
            self.tell(f"memory is short: {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB are free; processes may be killed for it")
        elif memory.available > 2 * _SHORT * memory.total:
            self._short = False
        if (kills := kernel_kills()) > self._kills:
            self._kills = kills
            self.tell("the kernel killed a process of this machine for lack of memory")


@contextmanager
def guarded(tell: Callable[[str], None] | None = None) -> Iterator[Guard]:
    """Put around the start and the use of a local Ray.

    Raises:
        ProcessDied: a process without which Ray cannot go on was lost.
    """
    global _guard
    guard = _guard = Guard(tell or (lambda sentence: print(f"selftrain: {sentence}", file=sys.stderr, flush=True)))
    try:
        yield guard
    except BaseException as error:
        if (cause := cause_of(error)) is not error:
            raise cause from None
        raise
    finally:
        guard.close()
        _guard = None


def cause_of(error: BaseException) -> BaseException:
    """What `error` comes from: the loss of a process that Ray stands on shows as an interrupt, or as one of a dozen errors of Ray."""
    if _guard is not None and not isinstance(error, ProcessDied) and (lost := _guard.look()) is not None:
        return ProcessDied(lost)
    return error


def ray_is_lost() -> bool:
    """Whether what waits for Ray waits in vain."""
    return _guard is not None and _guard.look() is not None


def listen(tell: Callable[[str], None]) -> None:
    """Have the present session's warnings told to `tell`."""
    if _guard is not None:
        _guard.tell = tell


def leave(code: int) -> None:
    """End this process now where a lost Ray would end it with a code of its own, a minute later; elsewhere do nothing."""
    if _torn:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
