"""The right to write below an address of an object store, which one process has at a time.

The right has a number, and the file `.writer/00000003.json` with the highest one says who has it. A number is taken by a conditional put, so of those who want it
at once one succeeds; only the process that took a number writes its file again: every few seconds with a higher beat, and at the end to say that it has ended.

A file whose beat stands still for `STALE_SECONDS` belongs to a process that is gone, and the next number may be taken. No clocks of two machines are compared: a
file's age is what the store says of it and of a file that was written just now. A process that could not write its beat for a while writes nothing else either
(`require`), and one that finds a higher number than its own has lost the right for good.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from selftrain.errors import ConfigError, ResourceError, SelfTrainError, ServiceError, say
from selftrain.files.parsing import json_of
from selftrain.files.remote import ObjectStore

BEAT_SECONDS = 5.0
STALE_SECONDS = 40.0  # without a beat
_DOUBT = 0.5  # of STALE_SECONDS without a beat, after which its owner writes nothing
_FOLDER = ".writer"
_CHARACTERS = 10_000  # of a file there, at most
_CLOCK_SECONDS = 1.0  # to which stores round the time of a file


class Lease:
    """The right to write below the address of `store`; it is held until `release`.

    Args:
        store: of the address.
        expected: the number that must still be the highest one, where nobody else may have written since; None: whoever wrote last is gone.
        lost: called, in another thread, when another process has taken the right over.

    Raises:
        ResourceError: another process has it.
        ConfigError: another process had it since `expected`.
        ServiceError, OutputError: the store cannot be written.
    """

    def __init__(self, store: ObjectStore, expected: int | None, lost: Callable[[str], None]) -> None:
        self._store, self._on_lost = store, lost
        self._over = threading.Event()
        self.lost: str | None = None  # why the right is gone, in a sentence
        highest = self._highest()
        if expected is not None and highest != expected:
            raise ConfigError(
                f"{store.location} was continued by another process since this copy of it was made, so the copy is out of date; resume the address itself."
            )
        if highest:
            self._wait_for_the_end_of(highest)
        self.number = highest + 1
        self._state: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "beat": 0,
            "ended": False,
        }
        self._beaten = time.monotonic()
        if not store.create(_name(self.number), self._content()):
            raise ResourceError(f"{store.location} was taken by another process just now; wait until that has ended.")
        self._thread = threading.Thread(target=self._beat_on, name="selftrain-lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Return where this process surely has the right.

        Raises:
            ResourceError: another process has taken it over.
            ServiceError: the last beat that arrived is too long ago to know.
        """
        if self.lost is not None:
            raise ResourceError(self.lost)
        if time.monotonic() - self._beaten > _DOUBT * STALE_SECONDS:
            raise ServiceError(f"{self._store.location} has not answered for {_DOUBT * STALE_SECONDS:.0f} seconds")

    def release(self, *, trace: bool = True) -> None:
        """Give the right back, so that the next process need not wait; where the store does not answer, that waits.

        Args:
            trace: whether a file stays that says who had it; without one nothing of this process is left.
        """
        self._over.set()
        self._thread.join(BEAT_SECONDS)
        if self.lost is not None:
            return
        try:
            if trace:
                self._state["ended"] = True
                self._store.replace(_name(self.number), self._content())
            self._store.remove(_name(number) for number in self._numbers() if number < self.number + (not trace))
        except (SelfTrainError, FileNotFoundError):
            return

    def _beat_on(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            started = time.monotonic()
            try:
                if (highest := self._highest()) > self.number:
                    self.lost = f"{self._store.location} was taken over by another process{self._owner(highest)}, which goes on with it; this one has stopped."
                    self._on_lost(self.lost)
                    return
                self._state["beat"] += 1
                self._store.replace(_name(self.number), self._content())
                self._beaten = started
            except (SelfTrainError, FileNotFoundError):
                continue  # `require` says so when it has lasted too long

    def _wait_for_the_end_of(self, number: int) -> None:
        """Return once the owner of `number` has ended, or was silent for long enough.

        Raises:
            ResourceError: it writes.
        """
        name = _name(number)
        first = self._read(number)
        if first.get("ended"):
            return
        left = STALE_SECONDS + _CLOCK_SECONDS - self._age(name)
        if left > 0:
            say(
                f"{self._store.location} was written by a process{self._owner(number)} a moment ago; it is seen within {left:.0f} seconds whether that goes on."
            )
        end = time.monotonic() + left
        while (now := time.monotonic()) < end:
            time.sleep(min(1.0, end - now))
            found = self._read(number)
            if found.get("ended"):
                return
            if found.get("beat") != first.get("beat") or self._highest() > number:
                raise ResourceError(
                    f"{self._store.location} is being written by another process{self._owner(number)}; wait until that has ended, or stop it."
                )

    def _age(self, name: str) -> float:
        """Seconds since a file was written, by the clock of the store alone."""
        probe = f"{_FOLDER}/{uuid.uuid4().hex}.probe"
        self._store.replace(probe, b"now")
        try:
            return (self._store.modified(probe) - self._store.modified(name)).total_seconds()
        except FileNotFoundError:  # its owner has ended in the meantime
            return STALE_SECONDS
        finally:
            self._store.remove([probe])

    def _owner(self, number: int) -> str:
        found = self._read(number)
        return f" ({found.get('host')}, process {found.get('process')}, since {found.get('since')})" if found else ""

    def _read(self, number: int) -> dict[str, Any]:
        try:
            return dict(json_of(self._store.read(_name(number)).decode(), characters=_CHARACTERS))
        except (FileNotFoundError, ValueError, TypeError):  # gone, or nothing of ours
            return {}

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        stems = (name.removesuffix(".json") for name in self._store.names(_FOLDER) if name.endswith(".json"))
        return [int(stem) for stem in stems if stem.isdigit()]

    def _content(self) -> bytes:
        return json.dumps(self._state).encode()


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:08}.json"
