"""What a run still has to send to tracking, kept on disk: a tracking server that is away, or slow, stops no training, and gets everything when it is back.

The run adds an entry and goes on. One thread sends the entries in their order, and notes each that has arrived. What a run could not send stays in its folder,
and the next start of the run sends it. An entry that is sent twice (the process was killed before it noted the first time) is stored once: it carries its time,
and a child run its key.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from selftrain.errors import SelfTrainError
from selftrain.files.journal import Journal
from selftrain.passwords import without_passwords
from selftrain.tracking.address import check_tracking, is_refusal
from selftrain.tracking.runs import RoundFigures, Status, Tracker

SPOOL = Path("checkpoints") / "tracking.jsonl"  # below the folder of a run or a sweep
KEY_TAG = "selftrain.key"
_LONGEST_WAIT = 15.0
_PATIENCE = 20.0  # seconds that the end of a run waits for a server


class Spool:
    """Sends the figures and files of one run, or one sweep, to tracking.

    Args:
        tracker: with its parent run started.
        folder: of the run or the sweep; entries are kept in its `SPOOL`, and those that an earlier start could not send are sent first.
        say: called when tracking goes away, comes back or refuses something: `say(event, **facts)`.
    """

    def __init__(self, tracker: Tracker, folder: Path, say: Callable[..., None]) -> None:
        self._tracker = tracker
        self._folder = Path(folder).absolute()
        self._journal = Journal(folder / SPOOL)
        self._say = say
        entries = self._journal.read()
        self._entries = _unsent(entries)
        self._number = max((entry["number"] for entry in entries if "number" in entry), default=0)
        self._time = max((entry["time"] for entry in entries if "time" in entry), default=0)
        self._changed = threading.Condition()
        self._closing = False
        self._given_up = False
        self._reason: str | None = None  # why the last attempt failed
        self._thread = threading.Thread(target=self._send_on, name="selftrain-tracking", daemon=True)
        self._thread.start()

    def child(
        self,
        name: str,
        *,
        key: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any] | None = None,
        rounds: Sequence[RoundFigures] = (),
        metrics: Mapping[str, float | None] | None = None,
        status: Status = "FINISHED",
    ) -> None:
        """A run below the parent, with all its figures.

        Args:
            name: as MLflow shows it.
            key: tells it from its siblings; the same key is the same run.
            params: settings.
            tags: MLflow's tags.
            rounds: figures of the self-training rounds.
            metrics: final figures; those that are None are left out.
            status: how it ended.
        """
        entry = {"name": name, "key": key, "params": dict(params), "tags": dict(tags or {}), "rounds": list(rounds)}
        self._add("child", {**entry, "metrics": dict(metrics or {}), "status": status})

    def metrics(self, metrics: Mapping[str, float | None]) -> None:
        """Final figures of the parent."""
        self._add("metrics", {"metrics": dict(metrics)})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file of the run's folder, or what a folder in it holds; it is read when it is sent, by a later start maybe, whose folder lies elsewhere."""
        self._add("artifact", {"path": str(Path(path).absolute().relative_to(self._folder)), "folder": folder})

    def finish(self, status: Status) -> None:
        """The parent run is over."""
        self._add("finish", {"status": status})

    def owe(self, what: str) -> None:
        """Note something that this start could not do and no entry can; the next start of the run does it."""
        if not any(entry.get("owed") == what for entry in self._entries):
            self._add("owed", {"owed": what})

    def settle(self, what: str) -> None:
        """Note that what was owed is done."""
        for entry in [entry for entry in self._entries if entry.get("owed") == what]:
            self._sent(entry)

    def keys(self) -> set[str]:
        """The keys of children that still wait to be sent."""
        with self._changed:
            return {entry["key"] for entry in self._entries if entry["op"] == "child"}

    def close(self, seconds: float | None = None) -> str | None:
        """Send what is left, and give up after `seconds` in which nothing got through.

        Returns:
            Why something could not be sent, or None.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            left = len(self._entries)
        seconds = _PATIENCE if seconds is None else seconds
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.05)
            with self._changed:
                if len(self._entries) < left:  # slow, but not stuck
                    left, deadline = len(self._entries), time.monotonic() + seconds
        with self._changed:
            self._given_up = True  # the thread that is left behind tries nothing more
            self._changed.notify_all()
            return (self._reason or "it does not answer in time") if self._entries else None

    def _add(self, operation: str, entry: Mapping[str, Any]) -> None:
        with self._changed:
            self._number += 1
            # The wall clock may have been set back: what comes later must not be dated earlier, or MLflow shows an older figure as the latest.
            self._time = max(self._time + 1, int(time.time() * 1000))
            whole = {"op": operation, "number": self._number, "time": self._time, **entry}
            self._journal.add(whole)
            self._entries.append(whole)
            self._changed.notify_all()

    def _send_on(self) -> None:
        pause = 0.5
        while (entry := self._next()) is not None:
            try:
                check_tracking(self._tracker.uri)  # MLflow itself would try for a minute
                self._send(entry)
            except Exception as error:
                if is_refusal(error):
                    self._say("refused by tracking", entry=entry["op"], reason=_words(error))
                    self._sent(entry)
                    continue
                if self._reason is None:
                    where = without_passwords(self._tracker.uri)
                    self._say(
                        "tracking is away", address=where, reason=_words(error), meanwhile="the run continues; its figures are kept and sent later"
                    )
                self._reason = _words(error)
                with self._changed:
                    self._changed.wait(min(pause, 1.0) if self._closing else pause)
                pause = min(2 * pause, _LONGEST_WAIT)
                continue
            if self._reason is not None:
                self._say("tracking is back", waiting=len(self._entries) - 1)
            self._reason, pause = None, 0.5
            self._sent(entry)

    def _next(self) -> dict[str, Any] | None:
        with self._changed:
            while not self._given_up:
                ready = next((entry for entry in self._entries if entry["op"] != "owed"), None)
                if ready is not None or self._closing:
                    return ready
                self._changed.wait()
            return None

    def _sent(self, entry: dict[str, Any]) -> None:
        with self._changed:
            with suppress(SelfTrainError):  # a full disk: it may be sent a second time, which does no harm
                self._journal.add({"sent": entry["number"]})
            self._entries = [other for other in self._entries if other is not entry]

    def _send(self, entry: Mapping[str, Any]) -> None:
        tracker, when = self._tracker, entry["time"]
        if entry["op"] == "child":
            key = hashlib.sha256(entry["key"].encode()).hexdigest()[:16]  # a variant's name may hold what a query cannot
            child = tracker.child(entry["name"], entry["params"], {**entry["tags"], KEY_TAG: key}, key=(KEY_TAG, key))
            child.log_rounds(entry["rounds"], when=when)
            child.log_metrics(entry["metrics"], when=when)
            child.finish(entry["status"])
        elif entry["op"] == "metrics":
            tracker.run.log_metrics(entry["metrics"], when=when)
        elif entry["op"] == "artifact":
            if (path := self._folder / entry["path"]).exists():  # an earlier version wrote whole paths
                tracker.run.log_artifact(path, entry["folder"])
        else:
            tracker.run.finish(entry["status"])


def unsent_sentence(tracker: Tracker, folder: Path | str, reason: str, command: Literal["run", "sweep"]) -> str:
    """What a user is told where tracking did not get everything.

    Args:
        tracker: of the run or the sweep.
        folder: its folder, or its address.
        reason: why it did not.
        command: sends the rest, with `--resume`.
    """
    return (
        f"The results are complete in {folder}, but the tracking store {without_passwords(tracker.uri)} did not take all of them ({reason}); "
        f"when it answers again, send the rest with `selftrain {command} --resume {folder}`: nothing is trained again."
    )


def waiting(file: Path) -> int:
    """How much of a spool has not been sent."""
    return len(_unsent(Journal(file).read()))


def _unsent(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    sent = {entry["sent"] for entry in entries if "sent" in entry}
    return [dict(entry) for entry in entries if "number" in entry and entry["number"] not in sent]


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
