"""Stop signals: SIGTERM, by which `ray job stop`, containers and batch systems end a process, does what Ctrl-C does.

KeyboardInterrupt unwinds the work, so that it can say what it leaves behind, close its MLflow runs as killed and end the processes that it started.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOP = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise KeyboardInterrupt; afterwards both do what they did before."""
    with _restored():
        if _may_handle():
            for number in _STOP:
                signal.signal(number, signal.default_int_handler)
        yield


@contextmanager
def own_handlers_kept() -> Iterator[None]:
    """Put around `ray.init`, whose handler of SIGTERM prints a stack as after a crash and exits; that handler stays only where there was none before."""
    with _restored(unless_default=True):
        yield


@contextmanager
def _restored(*, unless_default: bool = False) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _STOP}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: not set from Python, and nothing that it could set again
            if handler is not None and _may_handle() and not (unless_default and handler is signal.SIG_DFL):
                signal.signal(number, handler)


def _may_handle() -> bool:
    return threading.current_thread() is threading.main_thread()
