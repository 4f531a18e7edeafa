"""Ends what a session of Ray leaves behind. A program of its own: `python reaper.py MARK PARENT`, whose input the session's process holds open.

When that process ends, in whatever way, every process with the mark in its environment, and every descendant of one, gets a moment to end and is then killed.
Descendants count because Ray's agents write their title over their environment, and lose the mark; they are looked for while the session lasts, since nobody
knows whose they were once their parent is gone. The program imports the standard library alone, so that it takes 10 MB and starts at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

MARK = "SELFTRAIN_SESSION"
GRACE_SECONDS, LIMIT_SECONDS = 5.0, 60.0
LOOK_SECONDS, SELDOM_SECONDS, SETTLED_SECONDS = 1.0, 5.0, 60.0  # between two looks, and from when on they are seldom: the agents start with Ray

Started = dict[int, str]  # process id -> when it started, in clock ticks: together they name one process, while an id alone is given again


def start(mark: str) -> subprocess.Popen[bytes]:
    """The program, for a session of this process; closing its input ends the session."""
    import subprocess  # not in the program itself, which stays small

    return subprocess.Popen(
        [sys.executable, "-I", "-S", os.path.abspath(__file__), mark, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )


def session_of(mark: str) -> Started:
    """This user's processes that were started with the mark in their environment, and the descendants of these; none that is dead already."""
    wanted = f"{MARK}={mark}".encode()
    alive: Started = {}
    children: dict[int, list[int]] = {}
    marked: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent, *more = file.read().rpartition(b")")[2].split()
            if state == b"Z":
                continue
            alive[int(name)] = more[17].decode()
            children.setdefault(int(parent), []).append(int(name))
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    marked.append(int(name))
        except OSError:  # ended meanwhile, or another user's
            continue
    found: Started = {}
    while marked:
        process = marked.pop()
        if process not in found and process in alive:
            found[process] = alive[process]
            marked += children.get(process, [])
    return found


def kill_all(mark: str, *, grace: float, limit: float = LIMIT_SECONDS, known: Mapping[int, str] | None = None) -> bool:
    """Kill every process of a session.

    Args:
        mark: what its processes carry in their environment.
        grace: seconds before the first is killed.
        limit: seconds after which to give up.
        known: processes that belonged to the session earlier, by `session_of`.

    Returns:
        Whether nothing is left.
    """
    start = time.monotonic()
    known = dict(known or {})
    while True:
        known |= session_of(mark)
        left = [process for process, started in known.items() if _started(process) == started]
        if not left or time.monotonic() - start >= limit:
            return not left
        if time.monotonic() - start >= grace:
            for process in left:
                try:
                    os.kill(process, signal.SIGKILL)
                except OSError:
                    continue
        time.sleep(0.2)


def _started(process: int) -> str | None:
    """When a process started; None where it is not alive."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            state, _, *more = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if state == b"Z" else more[17].decode()


def _wait_for_the_end_of(parent: int, mark: str) -> Started:
    """Returns the processes of the session that were seen meanwhile and may still be there."""
    seen: Started = {}
    begun = time.monotonic()
    while os.getppid() == parent:
        seen = {process: started for process, started in (seen | session_of(mark)).items() if _started(process) == started}
        pause = LOOK_SECONDS if time.monotonic() - begun < SETTLED_SECONDS else SELDOM_SECONDS
        if select.select([sys.stdin], [], [], pause)[0] and not os.read(sys.stdin.fileno(), 1):
            break
    return seen


if __name__ == "__main__":
    _seen = _wait_for_the_end_of(int(sys.argv[2]), sys.argv[1])
    sys.exit(0 if kill_all(sys.argv[1], grace=GRACE_SECONDS, known=_seen) else 1)
