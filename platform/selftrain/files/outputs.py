"""Whether a result can be written where it was asked for: found out by writing, and before the work that it is the result of."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from selftrain.errors import OutputError, SelfTrainError

# What a disk says when it takes no more, and what may become better when the user does something about it.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PROBE_CHARACTERS = 40  # that the names of unfinished results are longer than those of finished ones


def check_file(path: Path, parameter: str) -> None:
    """Raise an `OutputError` unless a file can be written at `path`; missing folders above it are made when it is written, and not here.

    Args:
        path: of the file; one that is there is replaced in the end.
        parameter: of the caller that holds it, for the error.
    """
    _refuse_links(path, parameter)
    if path.is_dir():
        raise OutputError(f"{parameter} {str(path)!r} is a folder; pass a file.", parameter=parameter)
    if _there(path, parameter) and not path.is_file():
        raise OutputError(f"{parameter} {str(path)!r} is not a plain file; pass another one.", parameter=parameter)
    _probe(path, parameter)


def check_folder(path: Path, parameter: str) -> None:
    """The same for a new folder; what may be in one that is there already is the caller's to say."""
    _refuse_links(path, parameter)
    if _there(path, parameter) and not path.is_dir():
        raise OutputError(f"{parameter} {str(path)!r} is a file; pass a new folder.", parameter=parameter)
    _probe(path, parameter)


@contextmanager
def whole_file(path: Path, parameter: str) -> Iterator[Path]:
    """A name beside `path` to write to; the file gets its own name in the end, and where something goes wrong, nothing is left.

    Raises:
        OutputError: it cannot be written; inside, every `OSError` counts as that.
    """
    made: list[Path] = []
    partial = path.parent / f".{path.name}.partial-{os.getpid()}"
    try:
        made = _make_folders(path.absolute().parent)
        yield partial
        partial.replace(path)
        made = []
    except SelfTrainError:  # some of ours are OSErrors too
        raise
    except OSError as error:
        raise _refused(path, parameter, error) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        _remove_folders(made)


def is_full(error: OSError) -> bool:
    """Whether the disk takes no more."""
    return error.errno in _FULL


def is_no_name(error: OSError) -> bool:
    """Whether a name that was given cannot be one of a file: it is too long, or a link to itself."""
    return error.errno in (errno.ENAMETOOLONG, errno.ELOOP)


def reason(error: OSError) -> str:
    """Why something cannot be written, in half a sentence that says how to fix it."""
    said = (error.strerror or str(error) or type(error).__name__).lower()
    fix = {
        errno.ENAMETOOLONG: "shorten the name",
        errno.EROFS: "choose a folder on another disk",
        errno.EACCES: "choose another folder, or change its permissions",
        errno.EPERM: "choose another folder, or change its permissions",
        errno.ENOTDIR: "a part of the path is a file; choose another folder",
    }
    return f"{said}; {'free some space, or choose another disk' if is_full(error) else fix.get(error.errno or 0, 'choose another place')}"


def _there(path: Path, parameter: str) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise _refused(path, parameter, error) from None


def _refuse_links(path: Path, parameter: str) -> None:
    # A link would be replaced, and not the file that it leads to: nobody means that.
    try:
        link = path.is_symlink()
    except (OSError, ValueError) as error:
        raise _refused(path, parameter, error) from None
    if link:
        raise OutputError(f"{parameter} {str(path)!r} is a link; pass what it leads to, or another place.", parameter=parameter)


def _probe(path: Path, parameter: str) -> None:
    """Make and remove what the result will be, under a name as long as the longest that is used; folders that were missing are missing again."""
    made: list[Path] = []
    home = path.absolute()
    try:
        made = _make_folders(home.parent)
        probe = home.parent / f".{home.name}.{str(os.getpid()).rjust(_PROBE_CHARACTERS, 'x')}"
        with probe.open("xb"):
            pass
        probe.unlink()
    except (OSError, ValueError) as error:
        raise _refused(path, parameter, error) from None
    finally:
        _remove_folders(made)


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder` and those above it that are missing; returns them, or makes none."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for one in reversed(missing):
            one.mkdir()
            made.append(one)
    except OSError:
        _remove_folders(made)
        raise
    return made


def _remove_folders(made: Sequence[Path]) -> None:
    for folder in reversed(made):
        with suppress(OSError):  # somebody else has put something there
            folder.rmdir()


def _refused(path: Path, parameter: str, error: OSError | ValueError) -> OutputError:
    why = reason(error) if isinstance(error, OSError) else f"{error}; choose another place"
    return OutputError(f"{parameter} {str(path)[:300]!r} cannot be written: {why}.", parameter=parameter)
