"""Files that are there whole or not at all: written beside their place, synced to the disk, renamed, and the folder synced.

After a kill, a power cut or a full disk a reader finds what was there before, or what is new, and never half of either.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selftrain.errors import SelfTrainError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What libraries without error numbers of their own say (safetensors, torch, SQLite under SQLAlchemy under MLflow).
_FULL_WORDS = ("no space left on device", "os error 28", "file too large", "os error 27", "disk quota exceeded", "disk is full", "file write failed")
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY}


def disk_problem(error: BaseException) -> str | None:
    """What of the disk `error` is about, in a few words; None where it is about something else."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk is full ({os.strerror(error.errno)})" if error.errno != errno.EFBIG else "the file would be larger than is allowed"
    words = str(error).lower()
    if any(known in words for known in _FULL_WORDS):
        return "the disk is full"
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return os.strerror(error.errno)
    return None


@contextmanager
def explained(path: Path | str, remedy: str = "free some space or fix the folder's permissions, and repeat the command") -> Iterator[None]:
    """Inside, an error of the disk becomes one sentence that names `path`.

    Args:
        path: what is written.
        remedy: what the user can do, after a semicolon.

    Raises:
        SelfTrainError: the disk is full, or the path cannot be written to.
    """
    try:
        yield
    except SelfTrainError:
        raise
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        raise SelfTrainError(f"{path} cannot be written: {problem}; {remedy}.") from error


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to, in the folder of `file`; what it holds at the end of the block takes the place of `file`.

    If the block raises, the file that was there stays and nothing else is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.parent / f".{uuid.uuid4().hex}.tmp"  # no part of the name: one that is nearly too long would become so
    try:
        yield scratch
        sync(scratch)
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)
    sync(file.parent)


def write_whole(file: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `file`, whole or not at all."""
    with replacing(file) as scratch:
        scratch.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


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


def check_writable(folder: Path, name: str) -> None:
    """Make `folder` and a file in it, before anything long starts, and take both away again; a folder that was there stays.

    Args:
        folder: where something is going to be written.
        name: what the folder is, for the sentence, e.g. "the folder of the runs (output)".

    Raises:
        SelfTrainError: it cannot be written to.
    """
    missing = folder.absolute()
    made: list[Path] = []
    while not missing.exists():
        made.append(missing)
        missing = missing.parent
    with explained(folder, f"{name} must be a folder that can be written to: free some space, fix its permissions, or set another"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{uuid.uuid4().hex}.tmp"
            try:
                probe.write_bytes(b"\0" * 4096)
                sync(probe)
            finally:
                probe.unlink(missing_ok=True)
        finally:
            for one in made:
                if one.is_dir() and not any(one.iterdir()):
                    shutil.rmtree(one, ignore_errors=True)
