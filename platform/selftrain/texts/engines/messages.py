"""Prompts that travel together: between processes a message costs more than a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Messages(Generic[Asked, Answer]):
    """What is asked in one turn of the event loop goes out together.

    Args:
        send: answers several at once: an answer or an error for each, in their order; or raises what becomes the error of all.
        most: of one message. An answer waits for the others of its message, so it should be a small part of what is asked at a time.
    """

    def __init__(self, send: Callable[[list[Asked]], Awaitable[Sequence[Answer | Exception]]], most: int) -> None:
        self._send, self._most = send, most
        self._unsent: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._under_way: set[asyncio.Task[None]] = set()  # the event loop itself holds no task

    async def ask(self, one: Asked) -> Answer:
        """The answer; raises its error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self._unsent:
            loop.call_soon(self._post)
        self._unsent.append((one, future))
        return await future

    def _post(self) -> None:
        unsent, self._unsent = self._unsent, []
        for start in range(0, len(unsent), self._most):
            task = asyncio.get_running_loop().create_task(self._exchange(unsent[start : start + self._most]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _exchange(self, asked: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        found: Sequence[Answer | Exception]
        try:
            found = await self._send([one for one, _ in asked])
        except Exception as error:
            found = [error] * len(asked)
        for (_, future), one in zip(asked, found, strict=True):
            if future.done():  # nobody waits for it any more
                continue
            if isinstance(one, Exception):
                future.set_exception(one)
            else:
                future.set_result(one)
