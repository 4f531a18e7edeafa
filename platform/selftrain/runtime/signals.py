"""Stop signals: SIGTERM, by which `ray job stop`, containers and batch systems end a process, does what Ctrl-C does.

KeyboardInterrupt unwinds the work, so that it can say what it leaves behind, close its MLflow runs as killed and end the processes that it started.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOP = (signal.SIGINT, signal.SIGTERM)
_reasons: list[Callable[[], bool]] = []


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise KeyboardInterrupt; afterwards both do what they did before."""
    with _restored():
        if _may_handle():
            for number in _STOP:
                signal.signal(number, signal.default_int_handler)
        yield


@contextmanager
def interrupted_when(reason: Callable[[], bool]) -> Iterator[None]:
    """Inside, a SIGINT that this process sends itself interrupts its main thread also where SIGINT is ignored, as in what a script starts with `&`.

    Args:
        reason: whether this process has something to interrupt the main thread for; any other SIGINT stays ignored.
    """
    ignored = _may_handle() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    _reasons.append(reason)
    if ignored:
        signal.signal(signal.SIGINT, _interrupt_with_reason)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _reasons.remove(reason)


def _interrupt_with_reason(number: int, frame: FrameType | None) -> None:
    if any(reason() for reason in _reasons):
        signal.default_int_handler(number, frame)


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
