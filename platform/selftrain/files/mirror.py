"""A folder of this machine that is copied to an object store while it is written, and copied back from there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from selftrain.errors import ResourceError, SelfTrainError
from selftrain.files.durable import explained
from selftrain.files.remote import ObjectStore, at_once
from selftrain.files.scratch import TEMPORARY

_EVERY_SECONDS = 3.0  # the folder is looked through
_LONGEST_WAIT = 15.0  # after an error
_State = tuple[int, int, int]  # what changes whenever a file does


class Mirror:
    """Copies a folder to a store, in a thread: whole files, and only those that have changed. What is removed here is removed there.

    Files of the folder are written whole (files/durable.py) or line by line (files/journal.py), so that whatever is read of them is of use. Names that begin
    with a dot are no files of the folder's own.

    Args:
        folder: what is copied.
        store: where to.
        may: called before each file; raises a SelfTrainError while nothing may be written, and a ResourceError if never again.
        say: called when the store goes away and when it is back: `say(event, **facts)`.
        last: files that are copied when all others are there.
        apart: whether a name in the store belongs to somebody else, who writes it there.
    """

    def __init__(
        self,
        folder: Path,
        store: ObjectStore,
        may: Callable[[], None],
        say: Callable[..., None],
        *,
        last: Sequence[str],
        apart: Callable[[str], bool],
    ) -> None:
        self.say = say
        self._folder, self._store, self._may, self._last, self._apart = folder, store, may, last, apart
        self._there: dict[str, _State | None] = {}  # what the store has, as far as is known
        self._reason: str | None = None  # why the last attempt failed
        self._steps = 0  # that anything got through
        self._closing = False
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._copy_on, name="selftrain-mirror", daemon=True)

    @property
    def copied(self) -> bool:
        """Whether the store has anything of the folder."""
        return bool(self._there)

    def fetch(self) -> bool:
        """Copy what the store has into the empty folder; returns whether it had anything.

        Raises:
            ServiceError: the store does not answer.
            OutputError: the folder cannot be written.
        """
        names = self._names_there()
        fetch(self._store, names, self._folder)
        self._there = {name: _state(self._folder / name) for name in names}
        return bool(names)

    def look(self) -> None:
        """See what the store has, where the folder is newer: it is replaced, or removed; raises what `fetch` raises of the store."""
        self._there = dict.fromkeys(self._names_there())

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def flush(self, seconds: float) -> str | None:
        """Copy what is left, and give up after `seconds` in which nothing got through. Nothing is copied afterwards.

        Returns:
            Why the store does not have everything, or None.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        steps, deadline = self._steps, time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.05)
            if self._steps != steps:  # slow, but not stuck
                steps, deadline = self._steps, time.monotonic() + seconds
        with self._changed:
            complete, self._ended = self._ended and self._reason is None, True  # a thread that is left behind copies no further file
            self._changed.notify_all()
        return None if complete else self._reason or "it does not answer in time"

    def _copy_on(self) -> None:
        pause = _EVERY_SECONDS
        while True:
            with self._changed:
                if not self._closing:
                    self._changed.wait(pause)
                elif self._reason is not None:
                    self._changed.wait(min(pause, 1.0))
                closing = self._closing
                if self._ended:
                    return
            try:
                self._copy()
            except ResourceError as error:  # somebody else writes there
                self._reason, self._ended = str(error), True
                return
            except Exception as error:
                self._failed(error)
                pause = min(2 * pause, _LONGEST_WAIT)
                continue
            if self._reason is not None:
                self._reason = None
                self._tell("the address is back")
                continue  # what was said is a line of the folder's events
            pause = _EVERY_SECONDS
            if closing:
                self._ended = True
                return

    def _failed(self, error: Exception) -> None:
        before, self._reason = self._reason, " ".join(str(error).split())[:300] or type(error).__name__
        if before is None:
            meanwhile = f"the work goes on in {self._folder}, and what is written there is copied later"
            self._tell("the address is away", reason=self._reason, meanwhile=meanwhile)

    def _tell(self, event: str, **facts: str) -> None:
        with suppress(SelfTrainError):  # the disk is full, which ends the work elsewhere
            self.say(event, address=self._store.location, **facts)

    def _copy(self) -> None:
        """One time through the folder."""
        found = {name: state for name in self._names_here() if (state := _state(self._folder / name)) is not None}
        for name in sorted(found, key=lambda name: (name in self._last, name)):
            if self._there.get(name) != found[name]:
                self._step()
                try:
                    self._store.upload(self._folder / name, name, self._advance)
                except FileNotFoundError:  # removed since
                    continue
                self._there[name] = found[name]
                self._advance()
        for name in [name for name in self._there if name not in found]:
            self._step()
            self._store.remove([name])
            del self._there[name]
            self._advance()

    def _step(self) -> None:
        if self._ended:
            raise ResourceError("it did not answer in time")
        self._may()

    def _advance(self) -> None:
        self._steps += 1

    def _names_here(self) -> list[str]:
        found = []
        for below, folders, files in os.walk(self._folder):  # one that is removed meanwhile is passed over
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [(Path(below) / name).relative_to(self._folder).as_posix() for name in files if not name.startswith(".")]
        return found

    def _names_there(self) -> list[str]:
        return [name for name in self._store.all_names() if not _hidden(name) and not self._apart(name)]


def fetch(store: ObjectStore, names: Sequence[str], folder: Path) -> None:
    """Copy files of a store to the same names below `folder`.

    Args:
        store: has them.
        names: of the files.
        folder: of this machine.

    Raises:
        FileNotFoundError: one is not there.
        ServiceError: the store does not answer.
        OutputError: the folder cannot be written.
    """

    def download(name: str) -> Any:
        file = folder / name
        with explained(file, TEMPORARY):
            file.parent.mkdir(parents=True, exist_ok=True)
            store.download(name, file)

    at_once(download, names)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _state(file: Path) -> _State | None:
    try:
        found = file.stat()
    except OSError:  # removed since
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
