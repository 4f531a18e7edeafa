"""How far long work has got, on the standard error stream: in a terminal and in a log."""

from __future__ import annotations

import sys

from tqdm import tqdm

_TERMINAL_SECONDS, _LOG_SECONDS = 0.5, 30.0  # from one drawing to the next
_SHORT_SECONDS = 2.0  # that work may take without being drawn in a terminal


def progress_bar(what: str, unit: str, total: int | None = None, *, at_once: bool = False) -> tqdm:
    """A bar; use it in a `with` block, or close it.

    In a terminal it moves twice a second. Redirected to a file it is a line every half minute, not thousands. Work that is over before it would first be drawn
    (within two seconds; half a minute) leaves no trace.

    Args:
        what: that goes on, in a word or two.
        unit: of what is counted, one of them.
        total: how many there are, if that is known.
        at_once: draw it from the start, for what may wait long before it counts anything.
    """
    terminal = sys.stderr.isatty()
    every, short = (_TERMINAL_SECONDS, _SHORT_SECONDS) if terminal else (_LOG_SECONDS, _LOG_SECONDS)
    return tqdm(desc=what, unit=unit, total=total, file=sys.stderr, mininterval=every, delay=0.0 if at_once else short, dynamic_ncols=True)
