"""How far `selftrain watch` is with what a bundle has seen: state.json beside its files, so that every text is looked at once, whichever process looks."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from selftrain.errors import DataError, ResourceError
from selftrain.evaluation.drift.look import Alarm
from selftrain.files.durable import explained, write_whole
from selftrain.files.parsing import json_of

STATE, LOCK = "state.json", "watch.lock"
_MOST_POINTS = 400  # of the history


class State(BaseModel, extra="forbid"):
    """state.json."""

    format: int = 1
    reference: str  # SHA-256 of the reference
    backend: str  # that made it
    embedded: bool | None = None  # whether embeddings are compared; None before the first text
    read: list[str] = []  # files that were looked at, or are part of the reference
    detector: dict[str, Any] | None = None
    history: list[tuple[int, float, dict[str, float]]] = []  # (texts, seconds since 1970, kind -> share of an alarm's evidence)
    raised: dict[str, Any] | None = None

    @property
    def alarm(self) -> Alarm | None:
        """The alarm that stands."""
        return None if self.raised is None else Alarm(**self.raised)

    def raise_alarm(self, alarm: Alarm) -> None:
        """Keep the first alarm."""
        if self.raised is None:
            self.raised = asdict(alarm)

    def note(self, texts: int, moment: float, levels: dict[str, float]) -> None:
        """Add a point to the history, which stays short: every other one goes where it would get too long."""
        self.history.append((texts, moment, levels))
        if len(self.history) > _MOST_POINTS:
            self.history = [*self.history[:-1:2], self.history[-1]]

    def moment_after(self, texts: int) -> float:
        """About when the text after so many came; the history holds a later one."""
        return next(moment for count, moment, _ in self.history if count > texts)

    def write(self, home: Path) -> None:
        """Keep it.

        Raises:
            OutputError: the folder cannot be written.
        """
        with explained(home):
            write_whole(home / STATE, json.dumps(self.model_dump(mode="json")))


def read_state(home: Path) -> State | None:
    """The state below `home`; None before the first look.

    Raises:
        DataError: it is damaged.
    """
    file = home / STATE
    if not file.is_file():
        return None
    try:
        state = State.model_validate(json_of(file.read_text(encoding="utf-8")))
        if state.raised is not None:
            Alarm(**state.raised)
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise damaged(file, error) from None
    return state


def damaged(file: Path, error: Exception) -> DataError:
    """What is said of a state that cannot be used."""
    return DataError(f"{file} is damaged ({' '.join(str(error).split())[:150]}); remove it, and the look begins with the first text that is kept.")


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """A `with` block in which no other look writes below `home`.

    Raises:
        ResourceError: one does.
        OutputError: the folder cannot be written.
    """
    with explained(home):
        lock = (home / LOCK).open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(f"Another selftrain watch looks at {home} just now; wait until it has ended.") from None
        yield
