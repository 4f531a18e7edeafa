"""Several language models behind one text channel: each writes its share of the texts, and all of them choose classes where a vote is wanted.

Who writes a text follows from the request and the shares alone. So a run that goes on, or another one with the same teachers, finds its texts in the cache, and
the teacher of a text can be told again at any time.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import chain, zip_longest
from typing import TypeVar

from selftrain.config import AugmentConfig, TeacherConfig
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextRequest
from selftrain.runtime.background import Call
from selftrain.texts.cache import Completion, TextCache
from selftrain.texts.engines.base import Engine
from selftrain.texts.prompts import Prompt
from selftrain.texts.service import MAX_CONDITIONAL, Progress, TextCounts, TextService, TextSummary

_PERIOD = 1000  # of the turns, at one of which the samples of a document begin

_Asked = TypeVar("_Asked", TextRequest, Prompt)
_Result = TypeVar("_Result")


class Turns:
    """Which teacher writes a text: they take turns in proportion to their shares.

    The samples about one document are turns in a row, from a place that follows from the document. So of all texts each teacher writes its share, and of n samples
    about one document its share of n, give or take one: with two teachers of equal shares and two continuations a document, each teacher writes one.

    Args:
        teachers: in order, with their shares.
    """

    def __init__(self, teachers: Sequence[TeacherConfig]) -> None:
        self._names = [one.called for one in teachers]
        shares = [Fraction(str(one.share)) for one in teachers]  # exact, so that 7 and 3 are what 0.7 and 0.3 are
        self._turns: list[int] = []
        taken = [0] * len(teachers)
        for number in range(1, 2 * _PERIOD + 1):  # the next one is whoever is furthest behind
            behind = [number * share / sum(shares) - count for share, count in zip(shares, taken, strict=True)]
            self._turns.append(behind.index(max(behind)))
            taken[self._turns[-1]] += 1

    def teacher(self, asked: TextRequest | Prompt) -> str:
        """The name of the teacher that writes the text `asked` for."""
        about = [asked.document_id, asked.kind, str(asked.label), asked.text if isinstance(asked, Prompt) else ""]
        digest = hashlib.blake2b("\0".join(about).encode("utf-8"), digest_size=8).digest()
        place = int.from_bytes(digest, "big") % _PERIOD + asked.sample
        return self._names[self._turns[place % len(self._turns)]]


class TeacherService:
    """What a `TextService` is, of several language models. It works on one request at a time; `progress` may be called meanwhile.

    Args:
        teachers: in order.
        services: of each teacher.
    """

    def __init__(self, teachers: Sequence[TeacherConfig], services: Sequence[TextService]) -> None:
        self._turns = Turns(teachers)
        self._services = {teacher.called: service for teacher, service in zip(teachers, services, strict=True)}
        self._seconds = 0.0  # in which any teacher wrote
        self._request_lock, self._progress_lock = threading.Lock(), threading.Lock()
        self._done_before: int | None = None  # texts before the present request; None between requests
        self._totals: Counter[str] = Counter()  # texts of the present request, by teacher
        self._notices: list[str] = []
        self._noticed: Counter[str] = Counter()

    def usable_texts(self, requests: Sequence[TextRequest]) -> dict[TextRequest, str]:
        """See `TextService.usable_texts`; each text is written by the teacher whose turn it is."""
        return self._shared(requests, lambda service, own: service.usable_texts(own))

    __call__ = usable_texts

    def complete(self, prompts: Sequence[Prompt]) -> dict[Prompt, Completion]:
        """See `TextService.complete`; each text is written by the teacher whose turn it is."""
        return self._shared(prompts, lambda service, own: service.complete(own))

    def votes(self, documents: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """See `TextService.votes`; every teacher chooses a class for every document."""
        return self._at_once({name: partial(service.chosen, documents) for name, service in self._services.items()})

    def _shared(self, asked: Sequence[_Asked], work: Callable[[TextService, list[_Asked]], dict[_Asked, _Result]]) -> dict[_Asked, _Result]:
        own: dict[str, list[_Asked]] = {}
        for one in asked:
            own.setdefault(self._turns.teacher(one), []).append(one)
        found = self._at_once({name: partial(work, self._services[name], some) for name, some in own.items()})
        together = {one: result for results in found.values() for one, result in results.items()}
        return {one: together[one] for one in asked if one in together}

    def _at_once(self, works: Mapping[str, Callable[[], _Result]]) -> dict[str, _Result]:
        """What each teacher's work comes to; raises the first error."""
        with self._request_lock:
            started, writing = time.monotonic(), self._writing_seconds()
            with self._progress_lock:
                self._done_before, self._totals = self._done(), Counter()
            try:
                calls = {name: Call(work, f"selftrain-{name}") for name, work in works.items()}
                return {name: call.result() for name, call in calls.items()}
            finally:
                if self._writing_seconds() > writing:
                    self._seconds += time.monotonic() - started
                with self._progress_lock:
                    self._done_before = None

    def _writing_seconds(self) -> float:
        return sum(service.counts.seconds for service in self._services.values())

    def _done(self) -> int:
        return sum(service.progress().done_so_far for service in self._services.values())

    def progress(self) -> Progress:
        """The state of the present request, of all teachers together."""
        with self._progress_lock:
            now = {name: service.progress() for name, service in self._services.items()}
            for name, one in now.items():
                self._totals[name] = max(self._totals[name], one.total)
                self._notices += [f"{name}: {notice}" for notice in one.notices[self._noticed[name] :]]
                self._noticed[name] = len(one.notices)
            done = sum(one.done_so_far for one in now.values())
            if self._done_before is None:
                return Progress(done_so_far=done, notices=tuple(self._notices))
            return Progress(
                total=self._totals.total(),
                done=done - self._done_before,
                generated_tokens=sum(one.generated_tokens for one in now.values()),
                seconds=max(one.seconds for one in now.values()),
                starting=any(one.starting for one in now.values()),
                done_so_far=done,
                notices=tuple(self._notices),
            )

    def summary(self) -> TextSummary:
        """Counts, of all teachers and of each, and samples of all that was requested so far."""
        found = {name: service.summary() for name, service in self._services.items()}
        counts = TextCounts(seconds=self._seconds, teachers={name: one.counts for name, one in found.items()})
        for one in found.values():
            for key in ("requested", "generated", "cached", "prompt_tokens", "generated_tokens"):
                setattr(counts, key, getattr(counts, key) + getattr(one.counts, key))
            counts.filtered.update(one.counts.filtered)
        examples = _in_turn([{**example, "teacher": name} for example in one.examples] for name, one in found.items())
        conditional = _in_turn(one.conditional for one in found.values())
        return TextSummary(counts, examples, conditional[:MAX_CONDITIONAL])

    def close(self) -> None:
        """End the engines."""
        for service in self._services.values():
            service.close()


def _in_turn(lists: Iterable[Sequence[_Result]]) -> list[_Result]:
    """The first of each, then the second of each, and so on."""
    missing = object()
    return [one for one in chain.from_iterable(zip_longest(*lists, fillvalue=missing)) if one is not missing]  # type: ignore[misc]


def service_of(
    config: AugmentConfig, corpus: Corpus, fingerprints: Sequence[str], cache: str, engines: Sequence[Engine]
) -> TextService | TeacherService:
    """The text service of one language model, or of several teachers over the one cache.

    Args:
        config: of the language model, or of several.
        corpus: documents and classes that requests are about.
        fingerprints: of each language model.
        cache: its location; each teacher opens it.
        engines: of each language model.
    """
    parts = zip(config.language_models, fingerprints, engines, strict=True)
    services = [TextService(section, corpus, fingerprint, TextCache(cache), engine) for section, fingerprint, engine in parts]
    return TeacherService(config.teachers, services) if config.teachers else services[0]
