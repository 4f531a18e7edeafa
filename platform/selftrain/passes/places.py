"""Where a pass reads and writes: folders that all nodes see, and prefixes of object stores.

What a pass writes appears under its name when it is whole: in a folder by a rename, in an object store by the end of its upload. So what is there is finished.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from selftrain.errors import ConfigError, OutputError
from selftrain.files.durable import check_folder, explained, whole_file
from selftrain.files.remote import PACKAGES, ObjectStore, file_system, is_address, reached
from selftrain.files.scratch import TEMPORARY, own_folder


def open_store(address: str, parameter: str) -> tuple[Any, str]:
    """`files.remote.file_system` of an address that a user gave.

    Args:
        address: `s3://bucket/folder`, or of Google Cloud Storage with `gs://`.
        parameter: that holds it, for the error.

    Raises:
        ConfigError: an address of something else.
        MissingExtraError: the package for it is not installed.
        ServiceError: the client cannot be made.
    """
    _check_address(address, parameter)
    with reached(address):
        files, root = file_system(address, parameter)
    return files, root.rstrip("/")


def _check_address(address: str, parameter: str) -> None:
    if address.partition("://")[0] not in PACKAGES:
        raise ConfigError(f"{parameter} must be a path, or an address that begins with s3:// or gs:// (got {address[:300]!r}).", parameter=parameter)


class Output(Protocol):
    """Where the results of a pass go."""

    location: str

    def names(self) -> list[str]:
        """Of the files that are there."""

    def found(self, name: str) -> bytes | None:
        """What a file holds; None where there is none."""

    def replace(self, name: str, content: bytes) -> None:
        """Have a file, whole; one that is there is replaced.

        Raises:
            OutputError, ServiceError: it cannot be written.
        """

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """A `with` block that gives a path of this machine to write to; `name` appears at its end. Errors are those of `replace`."""

    def reading(self, name: str) -> AbstractContextManager[Any]:
        """A `with` block that gives a file object for `name`; FileNotFoundError where there is none."""

    def rename(self, name: str, new: str) -> None:
        """Give a file another name."""

    def remove_unfinished(self) -> None:
        """Remove what killed processes have left; nobody else may be writing."""


def open_output(location: str) -> Output:
    """The output at `location`, a path or an address, with its errors about the parameter `out`."""
    return _Store(location) if is_address(location) else _Folder(location)


class _Folder:
    def __init__(self, location: str) -> None:
        self.folder = Path(os.path.abspath(location))
        self.location = str(self.folder)
        check_folder(self.folder, "out")

    def names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder) if not name.endswith(".tmp"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"out cannot be read (got {self.location!r}): {error.strerror}.", parameter="out") from None

    def found(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, name: str, content: bytes) -> None:
        with self.writing(name) as file:
            file.write_bytes(content)

    def writing(self, name: str) -> AbstractContextManager[Path]:
        return whole_file(self.folder / name, "out")

    def reading(self, name: str) -> AbstractContextManager[Any]:
        return (self.folder / name).open("rb")

    def rename(self, name: str, new: str) -> None:
        os.replace(self.folder / name, self.folder / new)

    def remove_unfinished(self) -> None:
        for file in self.folder.glob(".*.tmp"):
            with suppress(OSError):
                file.unlink()


class _Store(ObjectStore):
    def __init__(self, location: str) -> None:
        _check_address(location, "out")
        super().__init__(location.rstrip("/"), "out")

    def names(self, folder: str = "") -> list[str]:
        return sorted(super().names(folder))

    def found(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with explained(tempfile.gettempdir(), TEMPORARY), tempfile.TemporaryDirectory(prefix="selftrain-part-") as folder:
            yield Path(folder) / name
            self.upload(Path(folder) / name, name, lambda: None)

    def reading(self, name: str) -> AbstractContextManager[Any]:
        with self._explained(name):
            stream: AbstractContextManager[Any] = self._files.open(self._at(name), "rb")
        return stream

    def rename(self, name: str, new: str) -> None:
        with self._explained(name):
            self._files.mv(self._at(name), self._at(new))

    def remove_unfinished(self) -> None:
        """An upload that was not finished left nothing that has a name."""

    def _no_bucket(self, name: str) -> OutputError:
        return OutputError(f"out {self.location} cannot be written: there is no such bucket; create it, or set another.", parameter="out")

    def _explained(self, name: str) -> AbstractContextManager[None]:
        return reached(self._named(name))


class Scratch:
    """A folder of this process for copies of what lies in an object store, which holds one file at a time.

    Folders of processes that were killed are removed by the next process that makes one.
    """

    def __init__(self) -> None:
        home = own_folder("passes")
        for left in home.iterdir():
            if left.name.isdigit() and not Path(f"/proc/{left.name}").exists():
                shutil.rmtree(left, ignore_errors=True)
        self._folder = home / str(os.getpid())
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def copy(self, address: str) -> Path:
        """A copy of the file at `address`, with its name; the copy before it is removed."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        file = self._folder / address.rpartition("/")[2]
        files, path = open_store(address, "source")
        with reached(address), explained(file, TEMPORARY):
            files.get_file(path, str(file))
        return file
