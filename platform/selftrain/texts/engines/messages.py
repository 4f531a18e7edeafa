"""Prompts and answers that travel together: between processes a message costs more than a prompt.

What is asked within a hundredth of a second goes out as one message, and what is answered within one comes back so: a slow engine gets its next prompt at once,
and a fast one is not held up by messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic, TypeVar

TOGETHER_SECONDS = 0.01

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Messages(Generic[Asked, Answer]):
    """The end that asks.

    Args:
        send: answers several at once, in portions as they are there: (place in the message, answer or error); or raises what becomes the error of all that have
            no answer yet.
        most: of one message.
    """

    def __init__(self, send: Callable[[list[Asked]], AsyncIterator[Sequence[tuple[int, Answer | Exception]]]], most: int) -> None:
        self._send, self._most = send, most
        self._unsent: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: set[asyncio.Task[None]] = set()  # the event loop itself holds no task

    async def ask(self, one: Asked) -> Answer:
        """The answer; raises its error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._unsent.append((one, future))
        if len(self._unsent) == self._most:
            self._post()
        elif len(self._unsent) == 1:
            self._timer = loop.call_later(TOGETHER_SECONDS, self._post)
        return await future

    def _post(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        unsent, self._unsent = self._unsent, []
        task = asyncio.get_running_loop().create_task(self._exchange(unsent))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _exchange(self, asked: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        problem: Exception = RuntimeError("no answer")
        try:
            async for portion in self._send([one for one, _ in asked]):
                for place, found in portion:
                    _settle(asked[place][1], found)
        except Exception as error:
            problem = error
        for _, future in asked:
            _settle(future, problem)


def _settle(future: asyncio.Future[Answer], found: Answer | Exception) -> None:
    if future.done():  # answered, or nobody waits for it any more
        return
    if isinstance(found, Exception):
        future.set_exception(found)
    else:
        future.set_result(found)


class Answers(Generic[Answer]):
    """The end that answers one message; `put` is called from any thread, the rest in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: deque[tuple[int, Answer | Exception]] = deque()
        self._some = asyncio.Event()
        self._told = False  # the event is set, or will be

    def put(self, place: int, answer: Answer | Exception) -> None:
        """The answer to what has this place in the message."""
        self._ready.append((place, answer))
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._some.set)

    async def portions(self, count: int) -> AsyncIterator[list[tuple[int, Answer | Exception]]]:
        """All `count` answers as they come."""
        while count:
            await self._some.wait()
            if len(self._ready) < count:
                await asyncio.sleep(TOGETHER_SECONDS)
            self._some.clear()
            self._told = False  # before they are taken: what comes from now on says so again
            portion = [self._ready.popleft() for _ in range(len(self._ready))]
            if portion:
                count -= len(portion)
                yield portion
