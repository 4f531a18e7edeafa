"""Calls in other threads, for a main thread that must hear signals meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Call(Generic[Result]):
    """`work()`, called in a thread of its own from now on; the thread does not keep the process from ending."""

    def __init__(self, work: Callable[[], Result], name: str) -> None:
        self._work = work
        self._found: list[Result] = []
        self.failed: BaseException | None = None  # what it raised
        self._thread = threading.Thread(target=self._call, name=name, daemon=True)
        self._thread.start()

    def ended(self, seconds: float) -> bool:
        """Whether `work` ends within `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Result:
        """What `work` returned, or raised, once it has ended."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # a signal's handler runs between two waits, and not within one
        if self.failed is not None:
            raise self.failed
        return self._found[0]

    def _call(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:
            self.failed = error


def in_order(works: Iterable[Callable[[], Result]], at_once: int, name: str) -> Iterator[Result]:
    """The results of `works` in their order, `at_once` of them called at the same time; with one at a time, in this thread.

    The first error is raised when its turn comes; what runs then is left to itself.

    Args:
        works: what to call.
        at_once: how many at the same time; as many results wait for their turn at the most.
        name: of the threads.
    """
    if at_once == 1:
        for work in works:
            yield work()
        return
    waiting: deque[Call[Result]] = deque()
    for work in works:
        if len(waiting) == at_once:
            yield waiting.popleft().result()
        waiting.append(Call(work, name))
    while waiting:
        yield waiting.popleft().result()
