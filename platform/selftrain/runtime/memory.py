"""Memory that a process no longer uses goes back to the system.

glibc keeps what is freed between blocks that are still used, and only asks itself about the end of its heap: after a model was loaded that is hundreds of MiB.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import threading
import time

atexit.register(gc.unfreeze)  # what `settle` hid; libraries in C++ complain of objects that are left when Python ends


def trim() -> None:
    """Give back whole free pages; takes some hundredths of a second. Does nothing where the C library is not glibc."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def settle() -> None:
    """Collect garbage, and let the collector pass over all that is left from now on; takes tenths of a second, in which nothing else runs.

    A process with torch and transformers in it holds half a million objects, and Python goes through all of them each time that a quarter as many new ones have
    lived for a while: where each text makes some, that is most of a small model's time. Call it again when much of what was left has been dropped.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def keep_trimming(seconds: float) -> None:
    """`trim` every so many seconds, in the background, as long as the process lives: for one whose loading nobody can see the end of."""

    def loop() -> None:
        while True:
            time.sleep(seconds)
            trim()

    threading.Thread(target=loop, name="trim", daemon=True).start()
