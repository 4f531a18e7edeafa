"""Texts of a model that computes no padding: classified where they are read, together with those of the other requests that came in the same moment.

A static student takes some tens of microseconds a text. A queue, a thread and the way back, under one lock and on another core, would cost a third of that again
(`benchmarks/serving_lists.py`). So nothing waits here longer than a turn of the event loop, and a turn computes for some milliseconds at most. Where that would not
do, because a request is long or something fails, it goes through the queue (batching.py), in which a bad text fails alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from selftrain.bundle.tokens import Tokens
from selftrain.serving.schemas import MAX_TEXTS, TextProbabilities

MOST_CHARACTERS = 100_000  # of the texts of a turn

Answers = list[TextProbabilities]


class _Asked(NamedTuple):
    """The texts of one request, and what becomes of them: None where the queue has to answer."""

    texts: Sequence[str]
    characters: int
    answers: asyncio.Future[Answers | None]


class Together:
    """The requests of one event loop that wait for its next turn.

    Args:
        tokenize: turns checked texts into tokens.
        classify: turns token ids of texts into probabilities `[texts, classes]`.
        max_waiting: texts that may wait.
        observe: called after every turn with its texts, its share of padding and its seconds.
    """

    def __init__(
        self,
        tokenize: Callable[[list[str]], list[Tokens]],
        classify: Callable[[list[list[int]]], np.ndarray],
        *,
        max_waiting: int,
        observe: Callable[[int, float, float], None],
    ) -> None:
        self._tokenize, self._classify, self._observe = tokenize, classify, observe
        self._max_waiting = max_waiting
        self._asked: deque[_Asked] = deque()
        self.waiting = 0  # texts

    async def answers(self, texts: Sequence[str]) -> Answers | None:
        """The answers to one request's checked texts, in order; None where the queue has to answer."""
        characters = sum(map(len, texts))
        if not texts or len(texts) > MAX_TEXTS or characters > MOST_CHARACTERS or self.waiting + len(texts) > self._max_waiting:
            return None
        loop = asyncio.get_running_loop()
        asked = _Asked(texts, characters, loop.create_future())
        if not self._asked:
            loop.call_soon(self._turn, loop)  # after the requests that are read already
        self._asked.append(asked)
        self.waiting += len(texts)
        return await asked.answers

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        taken: list[_Asked] = []
        number = characters = 0
        while self._asked:
            number, characters = number + len(self._asked[0].texts), characters + self._asked[0].characters
            if taken and (number > MAX_TEXTS or characters > MOST_CHARACTERS):
                loop.call_soon(self._turn, loop)
                break
            asked = self._asked.popleft()
            self.waiting -= len(asked.texts)
            if not asked.answers.done():  # else nobody waits for it any more
                taken.append(asked)
        found = self._answered([text for asked in taken for text in asked.texts])
        place = 0
        for asked in taken:
            asked.answers.set_result(None if found is None else found[place : place + len(asked.texts)])
            place += len(asked.texts)

    def _answered(self, texts: list[str]) -> Answers | None:
        if not texts:
            return None
        start = time.monotonic()
        try:
            read = self._tokenize(texts)
            found = self._classify([tokens.ids for tokens in read])
        except Exception:  # whatever it is, the queue finds out which text it is about
            return None
        if found.shape[0] != len(texts) or not np.isfinite(found).all():
            return None
        self._observe(len(texts), 0.0, time.monotonic() - start)
        return [TextProbabilities(row, tokens.truncated) for row, tokens in zip(found.tolist(), read, strict=True)]
