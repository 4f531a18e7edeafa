"""The one kind of error that a user is meant to read.

Whatever a user can mend (a missing column, an unknown option, a port that is taken) is raised as `UserError` with one sentence that says what is
wrong, where, and how to mend it. The command line prints that sentence and exits with code 2; everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something that the user asked for cannot be done as asked; the message says how to mend it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known spelling nearest to `name`, or all of them when none is near; empty when nothing is known."""
    choices = sorted(known)
    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices)}" if choices else ""
