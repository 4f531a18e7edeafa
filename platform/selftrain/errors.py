"""The one kind of error that a user is meant to read.

Whatever a user can mend (a missing column, an unknown option, a port that is taken) is raised as `UserError` with one sentence that says what is
wrong, where, and how to mend it. The command line prints that sentence and exits with code 2; everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

SENTENCE_CHARACTERS = 2000  # of an error: a file may put a key of a megabyte where a name belongs
_NEAREST_CHARACTERS, _NEAREST_NAMES = 100, 1000  # beyond which no spelling is looked for: comparing takes time with the product of the lengths
# What moves a terminal's cursor, changes its colours or the order of what is read, or cannot be encoded: control characters, line and paragraph separators,
# overrides of the direction of writing, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """Something that the user asked for cannot be done as asked; the message says how to mend it."""


class ProcessDied(UserError):
    """A process that the work stood on is gone; the message says which and why. The work can be continued, and whoever knows how adds that."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known spelling nearest to `name`, or all of them when none is near; empty when nothing is known."""
    choices = sorted(known)
    near = [choice for choice in choices[:_NEAREST_NAMES] if len(choice) <= _NEAREST_CHARACTERS]
    close = get_close_matches(name, near, n=1, cutoff=0.5) if len(name) <= _NEAREST_CHARACTERS else []
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices)}" if choices else ""


def unprintable(text: str) -> str | None:
    """The first character of `text` that no terminal should get, as it is escaped (`\\x1b`); None where there is none."""
    found = _UNPRINTABLE.search(text)
    return _escaped(found) if found else None


def printable(text: str) -> str:
    """`text` as a terminal may get it: whatever could move its cursor is escaped."""
    return _UNPRINTABLE.sub(_escaped, text)


def sentence(error: UserError) -> str:
    """What the command line prints of an error: on one line, printable, and not longer than a screen."""
    text = printable(" ".join(str(error).splitlines()))
    return text if len(text) <= SENTENCE_CHARACTERS else f"{text[: SENTENCE_CHARACTERS // 2]} ... {text[-SENTENCE_CHARACTERS // 2 :]}"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
