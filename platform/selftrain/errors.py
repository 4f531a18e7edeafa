"""Every error that a caller is meant to read, as a small hierarchy, and how an error is shown in a terminal.

    SelfTrainError
    |-- ConfigError (ValueError)            an option, a key or an argument
    |-- DataError (ValueError)              documents, labels, a table, an image
    |-- BundleError (ValueError)            a bundle or a model folder
    |-- OutputError                         a file or a folder that cannot be written
    |-- MissingExtraError (ImportError)     a package that an extra of ours installs
    |-- ServiceError (ConnectionError)      a tracking store, a cluster or a server that cannot be reached, or refuses
    |-- ResourceError                       memory, processors, GPUs or a port that are not there, an address that another process writes to
    `-- ProcessDied                         a process that the work needs is gone; the work can be continued

A message is one sentence: what is wrong, where, and how to fix it. It names parameters (`per_class`), never flags. Where it begins with one, `parameter` says
which, and the command line puts its flag there. The command line prints the sentence and exits with code 2; any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches

SENTENCE_CHARACTERS = 2000  # of an error: a file may put a key of a megabyte where a name belongs
_NEAREST_CHARACTERS, _NEAREST_NAMES = 100, 1000  # beyond these no spelling is compared: the time grows with the product of the lengths
# What moves a terminal's cursor, changes its colours or the order of what is read, or cannot be encoded: control characters, line and paragraph separators,
# overrides of the direction of writing, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class SelfTrainError(Exception):
    """Something that was asked for cannot be done as asked; the message says how to fix it.

    Args:
        message: one sentence, subject first.
        parameter: the parameter that is wrong, if the message begins with it; spelled as there.
    """

    def __init__(self, message: str = "", *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class ConfigError(SelfTrainError, ValueError):
    """An option, a configuration key or an argument is wrong."""


class DataError(SelfTrainError, ValueError):
    """Documents, labels or a file that holds them cannot be used."""


class BundleError(SelfTrainError, ValueError):
    """A bundle or a model folder is damaged, or is not one."""


class OutputError(SelfTrainError):
    """A file or a folder cannot be written."""


class MissingExtraError(SelfTrainError, ImportError):
    """A package that one of our extras installs is missing; the message gives the `pip install` command."""


class ServiceError(SelfTrainError, ConnectionError):
    """A tracking store, a cluster or a server cannot be reached, or refuses."""


class ResourceError(SelfTrainError):
    """Memory, processors, GPUs, a port or an address are not there, or are taken."""


class ProcessDied(SelfTrainError):
    """A process that the work needs is gone; the message says which and why. The work can be continued, and the caller who knows how adds that."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the known spelling nearest to `name`, or with all of them where none is near; one line, empty where nothing is known."""
    choices = sorted(known)
    near = [choice for choice in choices[:_NEAREST_NAMES] if len(choice) <= _NEAREST_CHARACTERS]
    close = get_close_matches(name, near, n=1, cutoff=0.5) if len(name) <= _NEAREST_CHARACTERS else []
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {printable(', '.join(choices))}" if choices else ""


def unprintable(text: str) -> str | None:
    """The first character of `text` that no terminal should get, as it is escaped (`\\x1b`); None where there is none."""
    found = _UNPRINTABLE.search(text)
    return _escaped(found) if found else None


def printable(text: str) -> str:
    """`text` as a terminal may get it: whatever could move its cursor is escaped."""
    return _UNPRINTABLE.sub(_escaped, text)


def sentence(error: SelfTrainError | str) -> str:
    """An error, or its words, as a terminal gets it: on one line, printable, and not longer than a screen."""
    text = printable(" ".join(str(error).splitlines()))
    return text if len(text) <= SENTENCE_CHARACTERS else f"{text[: SENTENCE_CHARACTERS // 2]} ... {text[-SENTENCE_CHARACTERS // 2 :]}"


def say(text: SelfTrainError | str) -> None:
    """Tell the person at the terminal, on the standard error stream, as `sentence` writes it."""
    print(f"selftrain: {sentence(text)}", file=sys.stderr, flush=True)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
