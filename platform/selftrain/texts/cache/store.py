"""Where a text cache lies: a folder of this machine (or one that it has mounted), or a prefix of an object store.

Both give the one promise that commits are made of: of those who create a name at once, one succeeds, and what appears under the name is whole and durable.
A folder keeps it by a hard link to a file that is written and synced; `os.link` fails where the name is taken, on NFS too. S3 and Google Cloud Storage
keep it by a conditional put (files/remote.py); other object stores are refused until theirs is known to be exact.
"""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from selftrain.errors import DataError, OutputError
from selftrain.files.durable import check_writable, explained, replacing, sync
from selftrain.files.remote import ObjectStore, is_address, located

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
REMEDY = "free some space, fix the folder's permissions, or set augment.cache; what the cache holds is kept, and a resumed run continues"


class Store(Protocol):
    """Files by name; names have at most one folder in them (`merged/x.parquet`)."""

    location: str

    def names(self, folder: str = "") -> list[str]:
        """Names of what is in `folder`, without it; none where there is no such folder."""

    def read(self, name: str) -> bytes:
        """What a file holds.

        Raises:
            FileNotFoundError: there is none.
            DataError: it cannot be read.
        """

    def open(self, name: str, size: int) -> pa.NativeFile:
        """A file of `size` bytes, to read parts of; errors are those of `read`."""

    def create(self, name: str, content: bytes) -> bool:
        """Have a file, durable, that was not there before; False where the name is taken.

        Raises:
            OutputError: it cannot be written.
        """

    def replace(self, name: str, content: bytes) -> None:
        """Have `name` hold `content`, whole and durable; errors are those of `create`."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""

    def path(self, name: str) -> str:
        """`name` as a user finds it."""


def cache_location(cache: str | Path) -> str:
    """`cache` (`augment.cache`) as `files.remote.located` has it."""
    return located(cache, "augment.cache")


def open_store(location: str) -> Store:
    """The store at `location`, of `cache_location`; a folder is made where it is missing."""
    return RemoteStore(location) if is_address(location) else LocalStore(Path(location))


def check_cache(cache: str | Path) -> None:
    """Raise an `OutputError` unless a text can be written to the cache (`augment.cache`); what was there stays."""
    location, name = cache_location(cache), "the cache of texts (augment.cache)"
    if not is_address(location):
        check_writable(Path(location), name)
        return
    store, probe = RemoteStore(location), f".{uuid.uuid4().hex}.tmp"
    if not store.create(probe, b"probe"):
        raise OutputError(f"{name} {location} does not take new files; set another.", parameter="augment.cache")
    store.remove([probe])


class LocalStore:
    """A folder. On NFS, `os.link` decides on the server, and creating a name renews what this client believes to be in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.location = folder, str(folder)
        with explained(folder, REMEDY):
            folder.mkdir(parents=True, exist_ok=True)

    def names(self, folder: str = "") -> list[str]:
        """See `Store`."""
        try:
            return os.listdir(self.folder / folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unreadable(folder, error) from None

    def read(self, name: str) -> bytes:
        """See `Store`."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unreadable(name, error) from None

    def open(self, name: str, size: int) -> pa.NativeFile:
        """See `Store`."""
        try:
            return pa.OSFile(str(self.folder / name))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unreadable(name, error) from None

    def create(self, name: str, content: bytes) -> bool:
        """See `Store`."""
        file = self.folder / name
        scratch = file.parent / f".{uuid.uuid4().hex}.tmp"
        with self._explained(file):
            if not file.parent.is_dir():
                file.parent.mkdir(exist_ok=True)
                sync(file.parent.parent)
            try:
                scratch.write_bytes(content)
                sync(scratch)
                created = self._link(scratch, file)
            finally:
                with suppress(OSError):
                    scratch.unlink(missing_ok=True)
            sync(file.parent)
        return created

    def _link(self, scratch: Path, file: Path) -> bool:
        try:
            os.link(scratch, file)
        except FileExistsError:
            return scratch.stat().st_nlink > 1  # NFS: the answer of a link that succeeded may get lost, and the client asks again
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise OutputError(
                f"{file} cannot be written: the cache of texts needs a file system with hard links ({os.strerror(error.errno or 0)}); "
                "set augment.cache to a folder on another disk."
            ) from None
        return True

    def replace(self, name: str, content: bytes) -> None:
        """See `Store`."""
        file = self.folder / name
        with self._explained(file), replacing(file) as scratch:
            scratch.write_bytes(content)

    def remove(self, names: Iterable[str]) -> None:
        """See `Store`."""
        for name in names:
            with self._explained(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)

    def path(self, name: str) -> str:
        """See `Store`."""
        return str(self.folder / name)

    def _explained(self, file: Path) -> AbstractContextManager[None]:
        return explained(file, REMEDY)

    def _unreadable(self, name: str, error: OSError) -> DataError:
        return DataError(f"The text cache's {self.folder / name} cannot be read ({error.strerror or error}); fix the cause and repeat the command.")


class RemoteStore(ObjectStore):
    """A prefix of an object store; its addresses and keys are where its own client looks for them (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...)."""

    def __init__(self, location: str) -> None:
        super().__init__(location, "augment.cache", "The text cache's ")

    def open(self, name: str, size: int) -> pa.NativeFile:
        """See `Store`."""
        return pa.PythonFile(_Ranges(lambda start, end: self._range(name, start, end), size), mode="r")

    def _range(self, name: str, start: int, end: int) -> bytes:
        with self._explained(name):
            content: bytes = self._files.cat_file(self._at(name), start=start, end=end)
        return content


class _Ranges(io.RawIOBase):
    """What Parquet's reader needs of a file, by requests for ranges: fsspec's own files read ahead by megabytes."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> Any:
        end = self._size if size < 0 else min(self._position + size, self._size)
        content = self._read(self._position, end) if end > self._position else b""
        self._position += len(content)
        return content
