"""Object stores by address (`s3://bucket/folder`), through fsspec's packages.

Addresses and keys are where a store's own client looks for them (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from selftrain.errors import ConfigError, MissingExtraError, OutputError, SelfTrainError, ServiceError

# The package behind a protocol, and what to install for it; memory: of this process, for tests.
PACKAGES = {"s3": ("s3fs", "'selftrain[s3]'"), "gs": ("gcsfs", "gcsfs"), "memory": ("fsspec", "fsspec")}
_THREADS = 16  # requests to an object store at once
_CONFLICTS = 100  # puts under the same name that are under way at once; a server refuses all but one, and says so before it knows which
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def located(place: str | Path, parameter: str) -> str:
    """`place` as it is from any working folder: an address as it stands, a folder with its whole path.

    Args:
        place: a folder or an address.
        parameter: that holds it, for the error.

    Raises:
        ConfigError: an address of something else than S3, Google Cloud Storage or a folder.
    """
    text = str(place)
    if not is_address(text):
        return os.path.abspath(text)
    protocol, _, rest = text.partition("://")
    if protocol == "file":
        return os.path.abspath(rest)
    if protocol not in PACKAGES:
        raise ConfigError(f"{parameter} must be a folder, or an address that begins with s3:// or gs:// (got {text!r}).", parameter=parameter)
    return text.rstrip("/")


def is_address(place: str | Path) -> bool:
    """Whether `place` is an address, and not a path."""
    return "://" in str(place)


def file_system(location: str, parameter: str) -> tuple[Any, str]:
    """(fsspec's file system of an address, the path in it).

    Args:
        location: an address that begins with one of `PACKAGES`.
        parameter: that holds it, for the error.

    Raises:
        MissingExtraError: the package of this kind of store is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(location, use_listings_cache=False)
    except ImportError as error:
        package, installed = PACKAGES[location.partition("://")[0]]
        raise MissingExtraError(f"{parameter} {location} needs the package {package}; pip install {installed}.", parameter=parameter) from error
    return files, str(root)


@contextmanager
def reached(name: str, remedy: str = "") -> Iterator[None]:
    """What a client of a store raises, as a `ServiceError`; that a file is not there, or is, stays what it is.

    Args:
        name: what is read or written, as the sentence begins.
        remedy: the sentence's end, besides the address, the credentials and the network.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, BlockingIOError, ImportError, SelfTrainError):
        raise
    except Exception as error:  # clients of object stores raise errors of their own kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ServiceError(f"{name} cannot be reached ({reason}); check the address, the credentials and the network{remedy}.") from error


@contextmanager
def named_as(address: str, copied: Path) -> Iterator[None]:
    """Inside, errors about the copy of a file or folder name its address."""
    try:
        yield
    except SelfTrainError as error:
        raise type(error)(str(error).replace(str(copied), address), parameter=error.parameter) from None


def at_once(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """`work` of every item, several at a time; the first error is raised."""
    listed = list(items)
    if len(listed) < 2:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, listed))


class ObjectStore:
    """Files by name below an address. What appears under a name is whole, and of those who create a name at once one succeeds.

    S3 and Google Cloud Storage promise the latter by a conditional put. pyarrow's own file systems have none, fsspec's (s3fs, gcsfs) do.

    Args:
        location: the address, of `located`.
        parameter: that holds it, for errors.
        whose: how a sentence about a file begins, before its address.
    """

    def __init__(self, location: str, parameter: str, whose: str = "") -> None:
        self.location = location
        self._parameter, self._whose = parameter, whose
        with self._explained(""):
            self._files, self._root = file_system(location, parameter)

    def names(self, folder: str = "") -> list[str]:
        """Names of what is in `folder`, without it; none where there is no such folder."""
        try:
            with self._explained(folder):
                found = self._files.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        places = (place.rstrip("/") for place in found)
        return [place.rpartition("/")[2] for place in places if place != self._at(folder)]  # some stores list the folder itself

    def all_names(self) -> list[str]:
        """Of all files, those in folders too, with the folders in front."""
        try:
            with self._explained(""):
                found = self._files.find(self._root)
        except FileNotFoundError:
            return []
        return [name.removeprefix(self._root).lstrip("/") for name in found if not name.endswith("/")]

    def read(self, name: str) -> bytes:
        """What a file holds.

        Raises:
            FileNotFoundError: there is none.
            ServiceError: the store does not answer.
        """
        with self._explained(name):
            content: bytes = self._files.cat_file(self._at(name))
        return content

    def modified(self, name: str) -> datetime:
        """When a file was written, by the clock of the store; errors are those of `read`."""
        with self._explained(name):
            found: datetime = self._files.modified(self._at(name))
        return found

    def create(self, name: str, content: bytes) -> bool:
        """Have a file that was not there before; False where the name is taken.

        Raises:
            OutputError: there is no such bucket.
            ServiceError: the store does not answer, or refuses.
        """
        for _ in range(_CONFLICTS):
            try:
                with self._explained(name):
                    self._put_new(name, content)
            except FileExistsError:
                with suppress(FileNotFoundError):
                    return self.read(name) == content  # the answer of a put that succeeded may get lost, and the client asks again
                return False
            except BlockingIOError:
                continue
            except FileNotFoundError as error:
                raise self._no_bucket(name) from error
            return True
        raise ServiceError(f"{self._named(name)} is being written by others all the time; repeat the command.")

    def replace(self, name: str, content: bytes) -> None:
        """Have `name` hold `content`; errors are those of `create`."""
        try:
            with self._explained(name):
                self._files.pipe_file(self._at(name), content)
        except FileNotFoundError as error:
            raise self._no_bucket(name) from error

    def upload(self, file: Path, name: str, progress: Callable[[], None]) -> None:
        """Have `name` hold what `file` holds; errors are those of `create`.

        Args:
            file: of this machine.
            name: of the file in the store.
            progress: called whenever a part of it has arrived.

        Raises:
            FileNotFoundError: `file` is not there.
        """
        from fsspec.callbacks import Callback

        class Progress(Callback):
            def call(self, *_: Any, **__: Any) -> None:
                progress()

        try:
            with self._explained(name):
                self._files.put_file(str(file), self._at(name), callback=Progress())
        except FileNotFoundError as error:
            if not file.exists():
                raise
            raise self._no_bucket(name) from error

    def download(self, name: str, file: Path) -> None:
        """Write what `name` holds to `file`; errors are those of `read`."""
        with self._explained(name):
            self._files.get_file(self._at(name), str(file))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""
        at_once(self._remove, names)

    def path(self, name: str) -> str:
        """`name` as a user finds it."""
        return f"{self.location}/{name}"

    def _put_new(self, name: str, content: bytes) -> None:
        """Put by a condition; FileExistsError where the name is taken, BlockingIOError where somebody else's put is under way."""
        try:
            self._files.pipe_file(self._at(name), content, mode="create")
        except OSError as error:  # s3fs knows the answer of Amazon's servers alone
            answer = getattr(error.__cause__, "response", None) or {}
            code = (answer.get("Error") or {}).get("Code")
            if code in ("PreconditionFailed", "412"):
                raise FileExistsError(name) from error
            if code in ("ConditionalRequestConflict", "409"):
                raise BlockingIOError(name) from error
            raise

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError), self._explained(name):
            self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")

    def _named(self, name: str) -> str:
        return f"{self._whose}{self.path(name) if name else self.location}"

    def _no_bucket(self, name: str) -> OutputError:
        return OutputError(f"{self.path(name)} cannot be written: there is no such bucket; create it, or set {self._parameter}.")

    def _explained(self, name: str) -> AbstractContextManager[None]:
        return reached(self._named(name), f", or set {self._parameter}")
