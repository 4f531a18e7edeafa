"""Where the folder of a run or a sweep lies: on this machine, or at an address of an object store (`output: s3://bucket/runs`).

At an address, the work is done in a copy on this machine, and what it writes is copied to the address every few seconds. One process writes there at a time.
At the end the address has everything and the copy is removed; where the address could not be written, the copy stays, and the work can go on from it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selftrain.errors import ResourceError, ServiceError, say
from selftrain.files.durable import check_writable, explained, write_whole
from selftrain.files.lease import Lease
from selftrain.files.mirror import Mirror, fetch
from selftrain.files.parsing import json_of
from selftrain.files.remote import ObjectStore, is_address, located
from selftrain.files.scratch import TEMPORARY, own_folder
from selftrain.runtime.signals import interrupted_when

Command = Literal["run", "sweep"]
_MARK = ".address.json"  # in a copy: whose it is, and which number of the right to write there it was made with
_MARK_CHARACTERS = 10_000
_LAST = ("metrics.json",)  # a folder that holds it is complete
_SCRATCH = "runs"
_PATIENCE = 60.0  # seconds in which nothing gets through, after which finished work ends without its address
_HASTE = 15.0  # the same where the work has failed or was stopped


@dataclass(frozen=True)
class Home:
    """The folder of a run or a sweep.

    Args:
        folder: where the work is done, on this machine.
        address: where it is kept, if that is not the folder.
        tell: takes a function that is called when the address goes away and when it is back: `say(event, **facts)`.
    """

    folder: Path
    address: str | None = None
    tell: Callable[[Callable[..., None]], None] = lambda say: None

    @property
    def place(self) -> Path | str:
        """Where it is kept."""
        return self.address or self.folder

    def at(self, name: str) -> str:
        """The file or folder `name`, where it is kept."""
        return f"{self.place}/{name}"

    @property
    def checkpoints(self) -> Path | str:
        """Where every node of a cluster that sees the folder keeps what Ray Train writes."""
        return self.at("checkpoints") if self.address is not None else self.folder / "checkpoints"


def below(output: str, name: str) -> Path | str:
    """The folder or the address `name` below `output`."""
    return f"{output.rstrip('/')}/{name}" if is_address(output) else Path(output) / name


@contextmanager
def opened(place: Path | str, command: Command, *, new: bool = False) -> Iterator[Home]:
    """The folder at `place` to work in, for the length of a `with` block.

    Args:
        place: a folder, an address, or the copy of one that an earlier start has left because the address could not be written.
        command: that continues what was stopped, for sentences.
        new: whether there is nothing at `place`.

    Raises:
        OutputError: it cannot be written.
        ServiceError: the address does not answer; or, at the end, does not have everything.
        ResourceError: another process writes to the address, or has taken it over.
        ConfigError: an address of an unknown kind, or a copy of what another process has continued since.
    """
    copy = None if is_address(place) else _mark_of(Path(place))
    kept = str(copy["address"] if copy is not None else place)
    kept = located(kept, "output") if is_address(kept) else kept
    if not is_address(kept):
        folder = Path(kept)
        check_writable(folder.parent if new else folder, f"the folder of the {command}s (output)")
        yield Home(folder)
        return
    remote = _Remote(kept, command, Path(place) if copy is not None else None, copy["number"] if copy is not None else None)
    try:
        with interrupted_when(lambda: remote.lease.lost is not None):
            yield remote.home
    except BaseException as error:
        remote.stop()
        if remote.lease.lost is not None and isinstance(error, KeyboardInterrupt):
            raise ResourceError(remote.lease.lost) from None
        raise
    remote.finish()


class _Remote:
    """An address in use, and its copy on this machine."""

    def __init__(self, address: str, command: Command, copy: Path | None, number: int | None) -> None:
        self._command = command
        self._main = threading.current_thread() is threading.main_thread()
        store = ObjectStore(address, "output")
        self.lease = Lease(store, number, self._interrupt)
        folder = copy
        try:
            with explained(tempfile.gettempdir(), TEMPORARY):
                folder = copy = copy or _left_here(address, self.lease.number - 1)
                folder = copy or own_folder(_SCRATCH) / uuid.uuid4().hex[:8] / address.rpartition("/")[2]
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / _MARK, json.dumps({"address": address, "number": self.lease.number}))
            self._mirror = Mirror(folder, store, self.lease.require, _print, last=_LAST, apart=_of_ray_train)
            if copy is None:
                self._mirror.fetch()
            else:
                self._mirror.look()
        except BaseException:
            self.lease.release(trace=self.lease.number > 1)
            if copy is None and folder is not None:
                _remove(folder)
            raise
        self.home = Home(folder, address, self._tell)
        _remove_outdated(address, folder)
        self._mirror.start()

    def finish(self) -> None:
        """The work is done.

        Raises:
            ServiceError: the address does not have everything; the copy stays.
            ResourceError: another process has taken the address over.
        """
        reason = self._flushed(_PATIENCE)
        if reason is not None:
            folder = self.home.folder
            raise ServiceError(
                f"The {self._command} is finished in {folder} of {socket.gethostname()}, but {self.home.address} does not have all of it ({reason}); when it can be "
                f"written again, send the rest with `selftrain {self._command} --resume {folder}`: nothing is trained again."
            )

    def stop(self) -> None:
        """The work has failed or was stopped."""
        with suppress(ResourceError):
            if (reason := self._flushed(_HASTE)) is not None:
                say(
                    f"{self.home.address} does not have all of it ({reason}); what is missing is in {self.home.folder} of {socket.gethostname()}: continue there "
                    f"with `selftrain {self._command} --resume {self.home.folder}`."
                )

    def _flushed(self, seconds: float) -> str | None:
        """Why the address does not have everything, after an attempt; where it has, nothing is left here."""
        complete = False
        try:
            reason = self._mirror.flush(seconds)
            complete = reason is None
        except KeyboardInterrupt:
            if self.lease.lost is None:
                raise
        finally:
            complete = complete or self.lease.lost is not None  # what another process goes on with is not here
            self.lease.release(trace=self._mirror.copied or self.lease.number > 1 or not complete)
            if complete:
                _remove(self.home.folder)
        if self.lease.lost is not None:
            raise ResourceError(self.lease.lost)
        return reason

    def _tell(self, say: Callable[..., None]) -> None:
        self._mirror.say = say

    def _interrupt(self, sentence: str) -> None:
        """The main thread may be in the middle of hours of training that are lost."""
        say(sentence)
        if self._main:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def looked_at(place: Path | str, names: Sequence[str]) -> Iterator[Path]:
    """A folder that holds those of the files `names` that are at `place`, to read before anything is started.

    Args:
        place: a folder, or an address.
        names: of the files.

    Raises:
        ServiceError: the address does not answer.
    """
    if not is_address(place):
        yield Path(place)
        return
    store = ObjectStore(located(place, "resume"), "resume")
    with explained(tempfile.gettempdir(), TEMPORARY), tempfile.TemporaryDirectory(prefix="selftrain-look-") as folder:
        for name in names:
            with suppress(FileNotFoundError):
                fetch(store, [name], Path(folder))
        yield Path(folder)


def is_copy(folder: Path) -> bool:
    """Whether an address does not have all that this folder holds."""
    return _mark_of(folder) is not None


def _mark_of(folder: Path) -> dict[str, Any] | None:
    try:
        found = json_of((folder / _MARK).read_text(encoding="utf-8"), characters=_MARK_CHARACTERS)
        return {"address": str(found["address"]), "number": int(found["number"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_ray_train(name: str) -> bool:
    """Ray Train writes below the address itself, from any node, and reads it there."""
    return name.startswith("checkpoints/") and name.count("/") > 1


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def _left_here(address: str, number: int) -> Path | None:
    """The copy of the process that wrote last, where it was killed on this machine: nothing at the address is newer, and the copy may be.

    It gets another name, which a process that was only frozen does not know.
    """
    for folder in _copies_of(address, number):
        moved = folder.parent.with_name(uuid.uuid4().hex[:8])
        os.rename(folder.parent, moved)
        return moved / folder.name
    return None


def _remove_outdated(address: str, folder: Path) -> None:
    """Remove what other killed processes have left here."""
    for other in _copies_of(address):
        if other != folder:
            _remove(other)


def _copies_of(address: str, number: int | None = None) -> list[Path]:
    """The copies of an address on this machine; of a number, that one's alone."""
    found = {mark.parent: _mark_of(mark.parent) for mark in own_folder(_SCRATCH).glob(f"*/*/{_MARK}")}
    return [folder for folder, mark in found.items() if mark is not None and mark["address"] == address and number in (None, mark["number"])]


def _print(event: str, **facts: str) -> None:
    print(event, *(f"{key}={value}" for key, value in facts.items()), file=sys.stderr, flush=True)
