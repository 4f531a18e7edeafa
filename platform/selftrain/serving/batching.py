"""Dynamic batching: a thread classifies the waiting texts, those of similar length together.

The unit is a window of a text, not a request: a request of 256 texts is spread over batches and shares them with others, and so is a text of several windows. A text
with a continuation is a unit like any other. A batch starts with the text that has waited longest, so that none waits for ever. It takes the neighbours in length as
long as padding all to the longest costs little.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from concurrent.futures import Future
from operator import attrgetter
from typing import NamedTuple, TypeVar

import numpy as np

from selftrain.bundle.tokens import BATCH_START_TOKENS, Continued, Tokens
from selftrain.models.windows import geometric_mean
from selftrain.serving.schemas import TextProbabilities

MAX_BATCH_TEXTS = 64
STUCK_SECONDS = 120.0
_log = logging.getLogger("ray.serve")
Item = TypeVar("Item", bound=Sized)
Output = TypeVar("Output")


class BatcherClosed(Exception):
    """The batcher takes no more texts: its model was replaced, or the replica stops."""


class Busy(Exception):
    """Too many texts wait.

    Attributes:
        retry_after: seconds until they are probably answered.
    """

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} texts are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class Ticket:
    """The texts of one request.

    Attributes:
        done: the answers, in order, as soon as all of them exist.
        cancelled: set by a caller that no longer waits for the answers.
    """

    def __init__(self, texts: Sequence[str | Continued]) -> None:
        self.done: Future[list[TextProbabilities]] = Future()
        self.done.set_running_or_notify_cancel()  # so that a caller cannot cancel it while the thread fills it
        self.cancelled = False
        self._answers: list[TextProbabilities | None] = [None] * len(texts)
        self._left = len(texts)
        self._parts: dict[int, list[list[float] | None]] = {}  # place -> probabilities of the windows that are answered, while others are not

    def fill(self, place: int, answer: TextProbabilities) -> None:
        """Set the answer of one text; only the batcher's thread calls it."""
        self._answers[place] = answer
        self._left -= 1
        if self._left == 0:
            self.done.set_result([one for one in self._answers if one is not None])

    def fill_window(self, place: int, row: list[float] | None, tokens: Tokens) -> None:
        """Set the probabilities of one of several windows of a text, None where there are none; the last one fills in the text's answer. Only the batcher's thread
        calls it.
        """
        rows = self._parts.pop(place, [])
        rows.append(row)
        if len(rows) < len(tokens.windows):
            self._parts[place] = rows
            return
        there = [one for one in rows if one is not None]
        found = None if len(there) < len(rows) else there[0] if len(there) == 1 else geometric_mean(np.array(there)).tolist()
        self.fill(place, TextProbabilities(found, tokens.truncated))


class QueuedText(NamedTuple):
    """One text in the queue, or one window of it."""

    order: int  # of arrival
    length: int  # tokens that the model reads
    ids: list[int]
    tokens: Tokens  # of the whole text
    ticket: Ticket
    place: int  # among the texts of its request


_order, _length = attrgetter("order"), attrgetter("length")


def next_batch(
    queue: list[QueuedText], *, max_texts: int = MAX_BATCH_TEXTS, most_tokens: float = math.inf, most_padding: float = BATCH_START_TOKENS
) -> list[QueuedText]:
    """Remove the next batch from `queue`: the text that came first, and as many neighbours in length as fit with little padding.

    Args:
        queue: waiting texts, sorted by length.
        max_texts: texts that a batch may have.
        most_tokens: tokens that a batch may have, with padding.
        most_padding: tokens of padding that a batch may have.
    """
    first = queue.index(min(queue, key=_order))
    low, high, real = first, first + 1, queue[first].length
    while high - low < max_texts:
        below = queue[first].length - queue[low - 1].length if low > 0 else None
        above = queue[high].length - queue[first].length if high < len(queue) else None
        if below is None and above is None:
            break
        down = above is None or (below is not None and below <= above)
        added = queue[low - 1] if down else queue[high]
        padded = (high - low + 1) * max(queue[high - 1].length, added.length)
        if padded > most_tokens or padded - real - added.length > most_padding:
            break
        low, high, real = (low - 1, high, real + added.length) if down else (low, high + 1, real + added.length)
    batch = queue[low:high]
    del queue[low:high]
    return batch


def isolated(function: Callable[[list[Item]], Iterable[Output]], items: list[Item]) -> list[Output | None]:
    """The outputs of `function`, one an item, and None where it fails: after a failure it is called item by item, so that a bad item fails alone."""
    try:
        outputs: list[Output | None] = list(function(items))
        if len(outputs) != len(items):
            raise ValueError(f"{len(outputs)} answers to {len(items)} texts")
    except Exception as error:
        if len(items) > 1:
            return [output for item in items for output in isolated(function, [item])]
        # Without message and traceback: both may quote the text.
        _log.error("a text of length %d could not be classified: %s", len(items[0]), type(error).__name__)
        return [None]
    return outputs


class Batcher:
    """A queue of texts and the thread that answers them.

    Args:
        tokenize: turns texts, some with a continuation, into tokens; only the thread calls it.
        classify: turns token ids of texts into probabilities `[texts, classes]`; only the thread calls it.
        max_waiting: texts that may wait; a request is queued whole or refused.
        max_seconds: seconds that a text may wait; requests that would probably wait longer are refused.
        most_padding: tokens of padding that a batch may have; see `Classifier`.
        most_tokens: tokens that a batch may have, with padding; see `Classifier`. A longer text is a batch of its own.
        observe: called after every batch with its texts, its share of padding and its seconds.
    """

    def __init__(
        self,
        tokenize: Callable[[list[str | Continued]], list[Tokens]],
        classify: Callable[[list[list[int]]], np.ndarray],
        *,
        max_waiting: int,
        max_seconds: float,
        most_padding: float = BATCH_START_TOKENS,
        most_tokens: float = math.inf,
        observe: Callable[[int, float, float], None] = lambda texts, padding, seconds: None,
    ) -> None:
        self._tokenize = tokenize
        self._classify = classify
        self._max_waiting = max_waiting
        self._max_seconds = max_seconds
        self._most_padding = most_padding
        self._most_tokens = most_tokens
        self._observe = observe
        self._pads = math.isfinite(most_padding) or math.isfinite(most_tokens)
        self._condition = threading.Condition()
        self._arrived: list[tuple[Ticket, int, str | Continued]] = []
        self._queue: list[QueuedText] = []  # only the thread touches it; by length where the model pads, else by arrival
        self._waiting = 0
        self._order = 0
        self._closing = False
        self._seconds_a_text = 0.01
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts in the queue, without those of the running batch."""
        return self._waiting

    @property
    def healthy(self) -> bool:
        """Whether the thread runs and does not hang in one batch."""
        since = self._busy_since
        return self._thread.is_alive() and (since is None or time.monotonic() - since < STUCK_SECONDS)

    def submit(self, texts: Sequence[str | Continued]) -> Ticket:
        """Queue the texts of one request.

        Raises:
            Busy: too many texts wait.
            Closed: `close` was called.
        """
        ticket = Ticket(texts)
        if not texts:
            ticket.done.set_result([])
            return ticket
        with self._condition:
            if self._closing:
                raise BatcherClosed
            seconds = self._waiting * self._seconds_a_text
            if self._waiting + len(texts) > self._max_waiting or seconds > self._max_seconds:
                raise Busy(self._waiting, max(1, math.ceil(seconds)))
            self._waiting += len(texts)
            self._arrived.extend((ticket, place, text) for place, text in enumerate(texts))
            self._condition.notify()
        return ticket

    def close(self) -> None:
        """Accept no more texts; returns when the waiting ones are answered."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._arrived and not self._queue and not self._closing:
                    self._condition.wait()
                arrived, self._arrived = self._arrived, []
                if not arrived and not self._queue:
                    return
            self._busy_since = time.monotonic()
            self._sort_in(arrived)
            wanted = [one for one in self._queue if not one.ticket.cancelled]
            batch = self._next(wanted)
            with self._condition:
                self._waiting -= len(self._queue) - len(wanted)
            self._queue = wanted
            self._answer(batch)
            self._busy_since = None

    def _next(self, queue: list[QueuedText]) -> list[QueuedText]:
        """Remove the next batch from `queue`."""
        if queue and self._pads:
            return next_batch(queue, most_padding=self._most_padding, most_tokens=self._most_tokens)
        batch = queue[:MAX_BATCH_TEXTS]  # to look for neighbours takes as long as a static model computes
        del queue[:MAX_BATCH_TEXTS]
        return batch

    def _sort_in(self, arrived: list[tuple[Ticket, int, str | Continued]]) -> None:
        if not arrived:
            return
        for (ticket, place, _), tokens in zip(arrived, isolated(self._tokenize, [text for _, _, text in arrived]), strict=True):
            self._order += 1
            if tokens is None:
                with self._condition:
                    self._waiting -= 1
                ticket.fill(place, TextProbabilities(None))
            else:
                self._queue.append(QueuedText(self._order, len(tokens.ids), tokens.ids, tokens, ticket, place))
                if tokens.further:
                    self._queue.extend(QueuedText(self._order, len(ids), ids, tokens, ticket, place) for ids in tokens.further)
                    with self._condition:
                        self._waiting += len(tokens.further)
        if self._pads:
            self._queue.sort(key=_length)

    def _answer(self, batch: list[QueuedText]) -> None:
        if not batch:
            return
        start = time.monotonic()
        rows = isolated(lambda ids: self._classify(ids).tolist(), [one.ids for one in batch])
        seconds = time.monotonic() - start
        self._seconds_a_text += 0.1 * (seconds / len(batch) - self._seconds_a_text)
        lengths = [one.length for one in batch]
        padded = len(batch) * max(lengths) if self._pads else 0
        self._observe(len(batch), 1 - sum(lengths) / padded if padded else 0.0, seconds)
        for one, row in zip(batch, rows, strict=True):
            found = row if row is not None and math.isfinite(sum(row)) else None  # a sum is finite where all its parts are
            if one.tokens.further:
                one.ticket.fill_window(one.place, found, one.tokens)
            else:
                one.ticket.fill(one.place, TextProbabilities(found, one.tokens.truncated))
