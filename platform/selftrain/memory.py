"""Memory that a process no longer uses goes back to the system.

glibc keeps what is freed between blocks that are still used, and only asks itself about the end of its heap: after a model was loaded that is hundreds of MiB.
"""

from __future__ import annotations

import ctypes
import threading
import time


def trim() -> None:
    """Give back whole free pages; takes some hundredths of a second. Does nothing where the C library is not glibc."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def keep_trimming(seconds: float) -> None:
    """`trim` every so many seconds, in the background, as long as the process lives: for one whose loading nobody can see the end of."""

    def loop() -> None:
        while True:
            time.sleep(seconds)
            trim()

    threading.Thread(target=loop, name="trim", daemon=True).start()
