"""A training run that is started from the page, one at a time for a folder, in a process of its own (`retrainer.py`).

    retraining.json   how it stands (`Record`), written when it starts and when it ends
    retraining.lock   held by the process as long as it lives: the system lets go of it whatever ends the process
    retraining.step   its round and step
    retraining.log    what it prints

Everything stands on the disk, as the answers do: a page that is loaded again, another browser and another replica see the same. When the server ends, the run
ends too: at once where the server is stopped, within seconds where it is killed.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from selftrain.errors import OutputError, ResourceError, printable
from selftrain.files.durable import explained, write_whole
from selftrain.files.parsing import json_of
from selftrain.runs.labelling.folder import Folder
from selftrain.runs.labelling.successor import check_answers
from selftrain.runtime.children import Child

RECORD, LOCK, STEP, LOG = "retraining.json", "retraining.lock", "retraining.step", "retraining.log"
_LINE_CHARACTERS, _TAIL_BYTES = 300, 4096
_TRIES, _PAUSE_SECONDS = 20, 0.05  # for the lock, which a look at it holds for a moment


class Record(BaseModel):
    """retraining.json."""

    model_config = ConfigDict(frozen=True)

    state: Literal["running", "done", "failed"]
    started: float  # seconds since 1970
    answers: int  # that are learned from
    seconds: float | None = None  # that it took, at its end
    error: str | None = None  # the sentence with which it failed
    bundle: str | None = None
    serve: str | None = None  # the command that serves the bundle
    compared: dict[str, Any] | None = None  # `comparing.Compared`
    not_compared: str | None = None  # why there is no comparison


@dataclass(frozen=True)
class Standing:
    """How a retraining stands.

    Attributes:
        state: `none` before the first; `killed` where its process ended without a word.
        record: of the latest; None before the first.
        seconds: since its start, or that it took.
        round: that it is in, from one; None before the first step, and when it is over.
        rounds: of its training.
        line: the last one that it printed.
    """

    state: Literal["none", "running", "done", "failed", "killed"]
    record: Record | None = None
    seconds: float | None = None
    round: int | None = None
    rounds: int | None = None
    line: str = ""


class Retraining:
    """Starts retrainings of a folder, and says how the latest stands.

    Args:
        folder: the questions.
        home: working directory of the run: where `runs/` and the tracking file are.
        program: what is started, before the folder; for tests.
    """

    def __init__(
        self, folder: Folder, home: Path, *, program: tuple[str, ...] = (sys.executable, "-m", "selftrain.runs.labelling.retrainer")
    ) -> None:
        self._folder = folder
        self._home = home
        self._program = program
        self._child: Child | None = None

    def start(self, answers: Mapping[str, str]) -> None:
        """Train on answers.

        Args:
            answers: key of a row -> answer, all that stand.

        Raises:
            DataError: the folder is an audit's, or there is no answer of some class.
            ResourceError: one runs already.
            OutputError: the folder cannot be written, or the process cannot be started.
        """
        check_answers(self._folder, answers)
        path = self._folder.path
        with self._locked() as lock:
            self._folder.write(answers)
            (path / STEP).unlink(missing_ok=True)
            learned = sum(answer in self._folder.classes for answer in answers.values())
            write_record(path, Record(state="running", started=time.time(), answers=learned))
            try:
                self._child = Child([*self._program, str(path.absolute())], folder=self._home, log=path / LOG, keeps=lock.fileno())
            except OSError as error:
                raise OutputError(f"The run cannot be started ({error.strerror}); free some memory or disk, and try again.") from None

    def standing(self) -> Standing:
        """How the latest stands."""
        path = self._folder.path
        running = self._runs()  # before the record is read: one that ends between the two has written its end
        record = read_record(path)
        if record is None:
            return Standing("none")
        if record.state != "running":
            return Standing(record.state, record, record.seconds)
        if not running:
            return Standing("killed", record, line=_last_line(path / LOG))
        round_, rounds = _step(path / STEP)
        return Standing("running", record, time.time() - record.started, round_, rounds, _last_line(path / LOG))

    def stop(self) -> None:
        """End the run that was started here, if it runs."""
        if self._child is not None:
            self._child.stop()

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """The file of the lock, locked; a process that inherits it keeps it so."""
        path = self._folder.path / LOCK
        with explained(self._folder.path, "make the folder writable, and try again"), path.open("ab") as file:
            for left in reversed(range(_TRIES)):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not left:
                        raise ResourceError("A run with these answers is going on already; wait until it is over.") from None
                    time.sleep(_PAUSE_SECONDS)
            yield file

    def _runs(self) -> bool:
        """Whether a process holds the lock."""
        try:
            with (self._folder.path / LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def read_record(path: Path) -> Record | None:
    """The record in a folder; None where there is none that can be read."""
    try:
        return Record.model_validate(json_of((path / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all; raises an `OutputError` where that cannot be."""
    with explained(path, "free some space, and try again"):
        write_whole(path / RECORD, record.model_dump_json(indent=1) + "\n")


def _step(file: Path) -> tuple[int | None, int | None]:
    try:
        round_, rounds, *_ = json.loads(file.read_text(encoding="ascii"))
        return int(round_), int(rounds)
    except (OSError, ValueError, TypeError):
        return None, None


def _last_line(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, 2) - _TAIL_BYTES))
            said = opened.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in said.replace("\r", "\n").split("\n")]
    return printable(next((line for line in reversed(lines) if line), ""))[:_LINE_CHARACTERS]
