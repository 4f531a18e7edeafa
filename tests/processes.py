"""The processes that a test has started, looked at while some of them may be ending."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import psutil


def started_by(pid: int | None = None, title: str = "") -> Iterator[psutil.Process]:
    """All processes below `pid` (None: below this one) whose command line holds `title`. One that ends meanwhile has none."""
    with suppress(psutil.Error):
        for one in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):  # gone, or nobody has asked for its exit code yet
                if title in " ".join(one.cmdline()):
                    yield one


def alive(processes: Iterable[psutil.Process | int]) -> list[psutil.Process]:
    """Those (or those with these ids) that run; one that has ended, and whose exit code nobody has asked for, does not."""
    found = []
    for each in processes:
        with suppress(psutil.Error):
            one = psutil.Process(each) if isinstance(each, int) else each
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def sockets_of(processes: Iterable[psutil.Process]) -> list[Any]:
    """Their internet sockets."""
    found = []
    for one in processes:
        with suppress(psutil.Error):
            found += one.net_connections("inet")
    return found


def end_all(processes: Iterable[psutil.Process]) -> None:
    """Kill each by its id, and wait."""
    left = list(processes)
    for one in left:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(left, timeout=10)
