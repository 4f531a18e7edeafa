"""Where a pass reads and writes: folders that all nodes see, and prefixes of object stores.

What a pass writes appears under its name when it is whole: in a folder by a rename, in an object store by the end of its upload. So what is there is finished.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from selftrain.errors import ConfigError, MissingExtraError, OutputError, SelfTrainError, ServiceError
from selftrain.files.durable import check_folder, explained, whole_file
from selftrain.files.remote import is_address
from selftrain.files.scratch import TEMPORARY, own_folder

_PACKAGES = {"s3": ("s3fs", "'selftrain[s3]'"), "gs": ("gcsfs", "gcsfs")}  # protocol -> package, and what to install for it


def open_store(address: str, parameter: str) -> tuple[Any, str]:
    """(the fsspec file system of an address, the path in it); its client looks for keys where it always does (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).

    Args:
        address: `s3://bucket/folder`, or of Google Cloud Storage with `gs://`.
        parameter: that holds it, for the error.

    Raises:
        ConfigError: an address of something else.
        MissingExtraError: the package for it is not installed.
        ServiceError: the client cannot be made.
    """
    protocol = address.partition("://")[0]
    if protocol not in _PACKAGES:
        raise ConfigError(
            f"{parameter} must be a path, or an address that begins with {' or '.join(f'{one}://' for one in _PACKAGES)} (got {address[:300]!r}).",
            parameter=parameter,
        )
    try:
        from fsspec.core import url_to_fs

        with reaching(address):
            files, root = url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        package, installed = _PACKAGES[protocol]
        raise MissingExtraError(f"{parameter} {address} needs the package {package}; pip install {installed}.", parameter=parameter) from error
    return files, root.rstrip("/")


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Inside, what the client of an object store raises, of whatever kind, becomes a `ServiceError`; a file that is not there stays a FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, ImportError, SelfTrainError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ServiceError(f"{address} cannot be reached ({reason}); check the address, the credentials and the network.") from error


class Output(Protocol):
    """Where the results of a pass go."""

    location: str

    def names(self) -> list[str]:
        """Of the files that are there."""

    def read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Have a file, whole; one that is there is replaced.

        Raises:
            OutputError, ServiceError: it cannot be written.
        """

    def writing(self, name: str) -> Any:
        """A `with` block that gives a path of this machine to write to; `name` appears at its end. Errors are those of `write`."""

    def reading(self, name: str) -> Any:
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

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as file:
            file.write_bytes(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with whole_file(self.folder / name, "out") as file:
            yield file

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        with (self.folder / name).open("rb") as stream:
            yield stream

    def rename(self, name: str, new: str) -> None:
        os.replace(self.folder / name, self.folder / new)

    def remove_unfinished(self) -> None:
        for file in self.folder.glob(".*.tmp"):
            with suppress(OSError):
                file.unlink()


class _Store:
    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._files, self._root = open_store(self.location, "out")

    def names(self) -> list[str]:
        try:
            with reaching(self.location):
                found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != self._root)

    def read(self, name: str) -> bytes | None:
        try:
            with reaching(self._named(name)):
                content: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        with self._bucket_there(), reaching(self._named(name)):
            self._files.pipe_file(f"{self._root}/{name}", content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with explained(tempfile.gettempdir(), TEMPORARY), tempfile.TemporaryDirectory(prefix="selftrain-part-") as folder:
            yield Path(folder) / name
            with self._bucket_there(), reaching(self._named(name)):
                self._files.put_file(str(Path(folder) / name), f"{self._root}/{name}")

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        with reaching(self._named(name)):
            stream = self._files.open(f"{self._root}/{name}", "rb")
        with stream:
            yield stream

    def rename(self, name: str, new: str) -> None:
        with reaching(self._named(name)):
            self._files.mv(f"{self._root}/{name}", f"{self._root}/{new}")

    def remove_unfinished(self) -> None:
        """An upload that was not finished left nothing that has a name."""

    def _named(self, name: str) -> str:
        return f"{self.location}/{name}"

    @contextmanager
    def _bucket_there(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise OutputError(
                f"out {self.location} cannot be written: there is no such bucket; create it, or set another.", parameter="out"
            ) from error


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
        with reaching(address), explained(file, TEMPORARY):
            files.get_file(path, str(file))
        return file
