"""Ends what a session of Ray leaves behind. A program of its own: `python reaper.py MARK PARENT`, whose input the session's process holds open.

When that process ends, in whatever way, every process with the mark in its environment gets a moment to end, and is then killed. The program imports the
standard library alone, so that it takes 10 MB and starts at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator

MARK = "SELFTRAIN_SESSION"
GRACE_SECONDS, LIMIT_SECONDS = 5.0, 60.0


def marked(mark: str) -> Iterator[int]:
    """Process ids of this user's processes that were started with the mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        yield int(name)
            except OSError:  # ended meanwhile, or another user's
                continue


def kill_all(mark: str, *, grace: float, limit: float = LIMIT_SECONDS) -> bool:
    """Kill every process that carries the mark.

    Args:
        mark: what the processes carry in their environment.
        grace: seconds before the first is killed.
        limit: seconds after which to give up.

    Returns:
        Whether nothing is left.
    """
    start = time.monotonic()
    while (left := list(marked(mark))) and time.monotonic() - start < limit:
        if time.monotonic() - start >= grace:
            for process in left:
                try:
                    os.kill(process, signal.SIGKILL)
                except OSError:
                    continue
        time.sleep(0.2)
    return not left


def _wait_for_the_end_of(parent: int) -> None:
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], 1.0)[0] and not os.read(sys.stdin.fileno(), 1):
            return


if __name__ == "__main__":
    _wait_for_the_end_of(int(sys.argv[2]))
    sys.exit(0 if kill_all(sys.argv[1], grace=GRACE_SECONDS) else 1)
