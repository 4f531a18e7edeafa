"""Files and folders that are there whole or not at all, and whether they can be written: found out by writing, before the work that they are the result of.

What is written stands beside its place first, is synced to the disk, and is renamed. After a kill, a power cut or a full disk a reader finds what was there
before, or what is new, and never half of either.

    replacing, write_whole   a file, from where the caller knows what an error means
    replacing_folder         the same for a new folder
    continued_folder         the same for one that takes hours, and is continued after a kill
    whole_file               a file that a user asked for: every error is one sentence
    check_file, check_folder, check_writable   before the work
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from selftrain.errors import OutputError, SelfTrainError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # the disk takes no more
# What libraries without error numbers of their own say (safetensors, torch, SQLite under SQLAlchemy under MLflow).
_FULL_WORDS = ("no space left on device", "os error 28", "file too large", "os error 27", "disk quota exceeded", "disk is full", "file write failed")
_FIXES = {
    errno.ENAMETOOLONG: "shorten the name",
    errno.EROFS: "set a folder on another disk",
    errno.EACCES: "set another folder, or change its permissions",
    errno.EPERM: "set another folder, or change its permissions",
    errno.ENOTDIR: "a part of the path is a file; set another folder",
}
_REFUSED = frozenset({*_FIXES, errno.EISDIR, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY})
_PROBE_CHARACTERS = 40  # that the names of unfinished results are longer than those of finished ones


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to, in the folder of `file`; what it holds at the end of the block takes the place of `file`.

    If the block raises, the file that was there stays, and nothing else is left behind: folders that were made for it are removed.
    """
    with _beside(file) as scratch:
        yield scratch
        sync(scratch)
        os.replace(scratch, file)
    sync(file.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to write into; it gets that name at the end of the block, with everything in it synced.

    If the block raises, nothing is left behind.

    Raises:
        OSError: `folder` is there already and is not empty (ENOTEMPTY), or cannot be written.
    """
    with _beside(folder) as scratch:
        scratch.mkdir()
        yield scratch
        sync_tree(scratch)
        os.replace(scratch, folder)
    sync(folder.parent)


@contextmanager
def continued_folder(folder: Path, key: str) -> Iterator[Path]:
    """`replacing_folder`, but what the block has written stays where it does not come to its end, and is there again for the same key.

    Meanwhile it lies beside `folder`, with the key in its name. What is written into it has to be whole or absent; names that begin with a dot are removed.

    Args:
        folder: a new or empty one.
        key: a hash of all that the content depends on.
    """
    made = _make_folders(folder.parent)
    work = folder.with_name(f"{folder.name}.{key[:8]}.partial")
    try:
        work.mkdir(exist_ok=True)
        _remove_hidden(work)
        yield work
        _remove_hidden(work)
        sync_tree(work)
        os.replace(work, folder)
        made = []
    finally:
        with suppress(OSError):
            _remove_hidden(work)
            work.rmdir()  # nothing was finished
        _remove_folders(made)
    sync(folder.parent)


def _remove_hidden(folder: Path) -> None:
    for path in folder.glob(".*"):
        shutil.rmtree(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A free name in the folder of `path`, which is made where it is missing; whatever stands at that name in the end is removed."""
    made = _make_folders(path.absolute().parent)
    scratch = path.parent / f".{uuid.uuid4().hex}.tmp"  # no part of the name: one that is nearly too long would become so
    try:
        yield scratch
        made = []
    finally:
        with suppress(OSError):
            if scratch.is_dir():
                shutil.rmtree(scratch, ignore_errors=True)
            else:
                scratch.unlink(missing_ok=True)
        _remove_folders(made)


def write_whole(file: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `file`, whole or not at all."""
    with replacing(file) as scratch:
        scratch.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path, parameter: str) -> Iterator[Path]:
    """`replacing` for a file that a user asked for.

    Args:
        path: of the file.
        parameter: that holds it, for the error.

    Raises:
        OutputError: it cannot be written; inside, every `OSError` counts as that.
    """
    try:
        with replacing(path) as scratch:
            yield scratch
    except SelfTrainError:  # a ServiceError and a MissingExtraError are OSErrors or ImportErrors too
        raise
    except OSError as error:
        raise _refused(path, parameter, error) from None


@contextmanager
def explained(path: Path | str, remedy: str = "free some space or fix the folder's permissions, and repeat the command") -> Iterator[None]:
    """Inside, an error of the disk becomes one sentence that names `path`.

    Args:
        path: what is written.
        remedy: what the user can do, after a semicolon.

    Raises:
        OutputError: the disk is full, or the path cannot be written to.
    """
    try:
        yield
    except SelfTrainError:
        raise
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        raise OutputError(f"{path} cannot be written: {problem}; {remedy}.") from error


def disk_problem(error: BaseException) -> str | None:
    """What of the disk `error` is about, in a few words; None where it is about something else."""
    if isinstance(error, OSError) and is_full(error):
        return f"the disk is full ({os.strerror(error.errno or 0)})" if error.errno != errno.EFBIG else "the file would be larger than is allowed"
    words = str(error).lower()
    if any(known in words for known in _FULL_WORDS):
        return "the disk is full"
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return os.strerror(error.errno)
    return None


def is_full(error: OSError) -> bool:
    """Whether the disk takes no more."""
    return error.errno in _FULL


def is_no_name(error: OSError) -> bool:
    """Whether a path cannot be one of a file: its name is too long, or it is a link to itself."""
    return error.errno in (errno.ENAMETOOLONG, errno.ELOOP)


def reason(error: OSError) -> str:
    """Why something cannot be written, in half a sentence that says how to fix it."""
    said = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{said}; {'free some space, or set another disk' if is_full(error) else _FIXES.get(error.errno or 0, 'set another path')}"


def sync(path: Path) -> None:
    """Have the disk hold what a file or folder holds (of a folder: its names)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` everything below `folder`, and the folder itself."""
    for below, _, files in os.walk(folder, topdown=False):
        for name in files:
            if (Path(below) / name).is_file():
                sync(Path(below) / name)
        sync(Path(below))


def check_file(path: Path, parameter: str) -> None:
    """Raise an `OutputError` unless a file can be written at `path`; nothing is left behind.

    Args:
        path: of the file; one that is there is replaced in the end. Missing folders above it are made when it is written.
        parameter: that holds it, for the error.
    """
    _refuse_links(path, parameter)
    if path.is_dir():
        raise OutputError(f"{parameter} must be a file (got the folder {str(path)!r}).", parameter=parameter)
    if _there(path, parameter) and not path.is_file():
        raise OutputError(f"{parameter} must be a plain file (got {str(path)!r}, which is none); set another.", parameter=parameter)
    _probe(path, parameter)


def check_folder(path: Path, parameter: str) -> None:
    """Raise an `OutputError` unless a new folder can be written at `path`; what may be in one that is there already is the caller's to say.

    Args:
        path: of the folder.
        parameter: that holds it, for the error.
    """
    _refuse_links(path, parameter)
    if _there(path, parameter) and not path.is_dir():
        raise OutputError(f"{parameter} must be a new folder (got the file {str(path)!r}).", parameter=parameter)
    _probe(path, parameter)


def check_writable(folder: Path, name: str) -> None:
    """Make `folder` and a file in it, before anything long starts, and remove both; a folder that was there stays.

    Args:
        folder: where something is going to be written.
        name: what the folder is, for the sentence, e.g. "the folder of the runs (output)".

    Raises:
        OutputError: it cannot be written to.
    """
    with explained(folder, f"{name} must be a folder that can be written to: free some space, fix its permissions, or set another"):
        made = _make_folders(folder.absolute())
        probe = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            probe.write_bytes(b"\0" * 4096)
            sync(probe)
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
            _remove_folders(made)


def _there(path: Path, parameter: str) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise _refused(path, parameter, error) from None


def _refuse_links(path: Path, parameter: str) -> None:
    # A link would be replaced, and not the file that it leads to, which is not what a user means.
    try:
        link = path.is_symlink()
    except (OSError, ValueError) as error:
        raise _refused(path, parameter, error) from None
    if link:
        raise OutputError(f"{parameter} must not be a link (got {str(path)!r}); set what it leads to, or another path.", parameter=parameter)


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
            one.mkdir(exist_ok=True)  # another process may have made it in the meantime
            made.append(one)
        if not missing and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    except OSError:
        _remove_folders(made)
        raise
    return made


def _remove_folders(made: Sequence[Path]) -> None:
    for folder in reversed(made):
        with suppress(OSError):  # somebody else has put something there
            folder.rmdir()


def _refused(path: Path, parameter: str, error: OSError | ValueError) -> OutputError:
    why = reason(error) if isinstance(error, OSError) else f"{error}; set another path"
    return OutputError(f"{parameter} cannot be written (got {str(path)[:300]!r}): {why}.", parameter=parameter)
