"""Who is asked what: hands out the questions of a folder, one at a time to each browser, and keeps the answers.

    answers.jsonl   answers and what took them back, one line each, appended to; what was answered is what is left when they are read from the top
    leases.json     which browser has which question, and until when; without it a question may be asked twice, and nothing is lost
    answers.lock    who holds it may read and write the two

Everything stands on the disk and nothing in memory, so that any number of servers (replicas of an endpoint) may ask from one folder. An answer is synced to
the disk before the next question is given out: whoever sees a question knows that the answer before it is kept.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from selftrain.errors import DataError
from selftrain.files.durable import explained
from selftrain.files.journal import Journal
from selftrain.runs.labelling.folder import Folder, Question

ANSWERS, LEASES, LOCK = "answers.jsonl", "leases.json", "answers.lock"
LEASE_SECONDS = 120.0  # a browser that is heard of no more gives its question back; an open page is heard of more often


@dataclass
class Standing:
    """The answers that stand.

    Attributes:
        answers: key of a question -> answer, those of the file of questions first.
        by: browser -> keys that it has answered, the latest last.
    """

    answers: dict[str, str]
    by: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, given: Mapping[str, str], entries: Iterable[Mapping[str, Any]]) -> Standing:
        """What is left of `given` and of the journal's entries, oldest first."""
        found = cls(dict(given))
        for entry in entries:
            key, browser = str(entry["question"]), str(entry["browser"])
            if "answer" in entry:
                found.answers[key] = str(entry["answer"])
                found.by[browser].append(key)
            else:
                found.answers.pop(key, None)
                found.by[browser].remove(key)
        return found


@dataclass(frozen=True)
class Lease:
    """A question that is a browser's until then."""

    browser: str
    until: float  # seconds since 1970


@dataclass(frozen=True)
class Turn:
    """What a browser is told.

    Attributes:
        question: to be answered; None where there is none for this browser.
        before: what the question was answered with, where that was taken back just now.
        late: whether the answer came too late, because another browser has given one; it was not kept.
        answers: all that stand.
        elsewhere: open questions that other browsers have.
        undo: key of the question whose answer this browser may take back, its latest; None where it has given none.
    """

    question: Question | None
    before: str | None
    late: bool
    answers: Mapping[str, str]
    elsewhere: int
    undo: str | None


class Desk:
    """See the module's docstring.

    Args:
        folder: the questions.
        lease_seconds: for which a browser has a question without being heard of.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Folder, *, lease_seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._journal = Journal(folder.path / ANSWERS)
        self._questions = {one.key: one for one in folder.questions}
        with self._locked():
            self._check()

    def next(self, browser: str) -> Turn:
        """A question for a browser: the one that it has, or else the first that is open and that no other has. Also keeps the one that it has from others."""
        with self._locked():
            return self._turn(browser, self._standing())

    def answer(self, browser: str, key: str, answer: str | Sequence[str]) -> Turn:
        """Keep an answer, and give the next question. The same answer once more, from a browser that did not hear us, changes nothing.

        Args:
            browser: who answers.
            key: of the question.
            answer: as in the folder's `answer_of`.

        Raises:
            DataError: there is no such question or answer.
            OutputError: the disk is full, or the folder cannot be written.
        """
        if key not in self._questions:
            raise DataError(f"question must be one of this folder (got {key[:50]!r}); load the page again.")
        kept = self.folder.answer_of(answer)
        with self._locked():
            standing = self._standing()
            if key in standing.answers:
                ours = standing.by[browser][-1:] == [key] and standing.answers[key] == kept
                return self._turn(browser, standing, late=not ours)
            lease = self._leases().get(key)
            if lease is not None and lease.browser != browser:
                return self._turn(browser, standing, late=True)
            self._add(browser, key, answer=kept)
            return self._turn(browser, self._standing())

    def undo(self, browser: str, key: str) -> Turn:
        """Take the browser's latest answer back, and ask it that question again. Once more, from a browser that did not hear us, it changes nothing.

        Args:
            browser: whose answer it is.
            key: of the question, `undo` of the turn before; where that is no more the latest answer, this is `next`.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        with self._locked():
            standing = self._standing()
            if standing.by[browser][-1:] != [key]:
                return self._turn(browser, standing)
            before = standing.answers[key]
            self._add(browser, key)
            # Not the question that it has: the one that it takes back.
            self._keep({kept: lease for kept, lease in self._leases().items() if lease.browser != browser} | {key: self._lease(browser)})
            return self._turn(browser, self._standing(), before=before)

    def leave(self, browser: str) -> None:
        """Give the question of a browser back."""
        with self._locked():
            self._keep({key: lease for key, lease in self._leases().items() if lease.browser != browser})

    def answers(self) -> dict[str, str]:
        """All answers that stand: key -> answer."""
        with self._locked():
            return self._standing().answers

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the two files, among threads and processes; a process that dies lets go."""
        with explained(self.folder.path, "make the folder writable, and ask again"):
            file = (self.folder.path / LOCK).open("a")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _standing(self) -> Standing:
        return Standing.of(self.folder.given, self._journal.read())

    def _check(self) -> None:
        """Raise a `DataError` where the journal is not one of this folder."""
        try:
            standing = self._standing()
        except (KeyError, ValueError):
            standing = None
        if standing is None or any(
            key not in self._questions or not self.folder.knows(standing.answers.get(key, "")) for keys in standing.by.values() for key in keys
        ):
            raise DataError(f"{self.folder.path / ANSWERS} holds answers to other questions, or is damaged; move it away, or start another folder.")

    def _add(self, browser: str, key: str, **answer: str) -> None:
        self._journal.add(
            {"question": key, **answer, "browser": browser, "at": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")}
        )

    def _turn(self, browser: str, standing: Standing, *, before: str | None = None, late: bool = False) -> Turn:
        leases = {key: lease for key, lease in self._leases().items() if key not in standing.answers}
        own = next((key for key, lease in leases.items() if lease.browser == browser), None)
        free = (key for key in self._questions if key not in standing.answers and key not in leases)
        key = own if own is not None else next(free, None)
        if key is not None:
            leases[key] = self._lease(browser)
        self._keep(leases)
        elsewhere = Counter(lease.browser != browser for lease in leases.values())[True]
        return Turn(self._questions.get(key or ""), before, late, standing.answers, elsewhere, next(reversed(standing.by[browser]), None))

    def _lease(self, browser: str) -> Lease:
        return Lease(browser, self._clock() + self.lease_seconds)

    def _leases(self) -> dict[str, Lease]:
        """Those that have not ended; a file that is damaged has none."""
        try:
            kept = json.loads((self.folder.path / LEASES).read_bytes())
            found = {str(key): Lease(str(browser), float(until)) for key, (browser, until) in kept.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}
        now = self._clock()
        return {key: lease for key, lease in found.items() if now < lease.until and key in self._questions}

    def _keep(self, leases: Mapping[str, Lease]) -> None:
        with explained(self.folder.path, "make room, and ask again"):
            (self.folder.path / LEASES).write_text(json.dumps({key: [lease.browser, lease.until] for key, lease in leases.items()}), encoding="utf-8")
