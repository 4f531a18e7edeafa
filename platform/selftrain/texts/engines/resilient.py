"""An engine made of processes that may die: it keeps them busy, and asks again for what was in flight when one died.

Prompts go out in portions, as many at a time as keep the engine full (vLLM does the batching), and come back one by one, so that a text is cached as soon as it
is there. When processes keep dying without a text in between, the work ends with the reason. What starts and replaces the processes is a `Deployment`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from selftrain.config import AugmentConfig
from selftrain.errors import ProcessDied, SelfTrainError, ServiceError
from selftrain.texts.engines.base import Generation
from selftrain.texts.prompts import Prompt

POLL_SECONDS = 1.0  # between two looks at the processes
MAX_DEATHS = 3  # processes that die one after the other without a text in between
MAX_TRIES = 3  # of a prompt that the engine fails on, before it counts as failed
_PORTIONS = 4  # at least, that the prompts which an engine works on are asked in: engines are given portions in turn

Written = tuple[str, int, int]  # text, tokens of the prompt, tokens of the text


class EngineGone(Exception):
    """The process died with this prompt in flight; its successor is on its way."""


class PromptRefused(Exception):
    """The engine refuses this prompt, and would again."""


class Deployment(Protocol):
    """Processes of an engine that someone else starts and replaces."""

    def start(self) -> None:
        """Start the first process, and wait until it is ready.

        Raises:
            ProcessDied: it cannot be started.
        """
        ...

    def complete(self, prompt: str, options: dict[str, Any]) -> Awaitable[Written]:
        """What became of a prompt; raises `EngineGone`, `PromptRefused`, a `SelfTrainError` that ends the work, or what the engine raised."""
        ...

    def deaths(self) -> list[str]:
        """Why processes died since the last call, one entry each: the rest of a sentence."""
        ...

    def ready(self) -> bool:
        """Whether a process can be asked."""
        ...

    def waiting(self) -> bool:
        """Whether processes wait for room beside one that can be asked."""
        ...

    def stop(self) -> None:
        """End the processes."""
        ...


def asked_together(config: AugmentConfig) -> int:
    """How many prompts are asked together."""
    return max(1, config.requests_at_once // _PORTIONS)


class ResilientEngine:
    """The `Engine` over a `Deployment`. One `generate` at a time.

    Args:
        config: concurrent requests and the patience with a silent engine.
        model: folder or name of the language model, for messages.
        deployment: what is asked.
    """

    def __init__(self, config: AugmentConfig, model: str, deployment: Deployment) -> None:
        self.notices: list[str] = []
        self._config = config
        self._model = model
        self._deployment = deployment
        self._started = False
        self._deaths_in_a_row = 0
        self._last_poll = 0.0
        self._said_waiting = False

    @property
    def starting(self) -> bool:
        """See `Engine.starting`."""
        return not self._started or not self._deployment.ready()

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Generation]:
        """See `Engine.generate`.

        Raises:
            ProcessDied: the engine cannot be started, or keeps dying.
            ServiceError: no text came for `augment.stall_seconds`.
            SelfTrainError: whatever else the deployment says that ends the work.
        """
        if not self._started:
            self._deployment.start()
            self._started = True
        generations: SimpleQueue[Generation | SelfTrainError] = SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._complete_all(prompts, generations))
        thread = threading.Thread(target=_run, args=(loop, task), name="selftrain-prompts", daemon=True)
        thread.start()
        try:
            yield from self._received(len(prompts), generations)
        finally:
            with suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

    def _received(self, count: int, generations: SimpleQueue[Generation | SelfTrainError]) -> Iterator[Generation]:
        last = time.monotonic()
        while count:
            try:
                generation = generations.get(timeout=POLL_SECONDS)
            except Empty:
                if self._poll():
                    last = time.monotonic()
                if time.monotonic() - last > self._config.stall_seconds:
                    raise ServiceError(
                        f"The language model {self._model} generated no text for {self._config.stall_seconds:.0f} s ({count} are missing); see the engine's "
                        "log in Ray's session folder, give it more memory or cores, or raise augment.stall_seconds. What was generated is cached."
                    ) from None
                continue
            if isinstance(generation, SelfTrainError):
                raise generation
            last = time.monotonic()
            count -= 1
            self._deaths_in_a_row = 0
            self._poll()
            yield generation

    def _poll(self) -> bool:
        """Check the processes, once in `POLL_SECONDS` at most; whether one has died.

        Raises:
            ProcessDied: too many did.
        """
        if time.monotonic() - self._last_poll < POLL_SECONDS:
            return False
        deaths = self._deployment.deaths()
        self._last_poll = time.monotonic()
        for why in deaths:
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= MAX_DEATHS:
                raise ProcessDied(
                    f"The language model's engine died {MAX_DEATHS} times without a text in between; the last one {why}. What was generated is cached."
                )
            self.notices.append(f"The language model's engine {why}; another one is starting, and gets the texts that were in flight.")
        if not self._said_waiting and self._deployment.waiting():
            self._said_waiting = True
            self.notices.append(
                f"More engines of the language model wait for room (augment.most_replicas is {self._config.most_replicas}); those that are there go on writing."
            )
        return bool(deaths)

    async def _complete_all(self, prompts: Sequence[Prompt], generations: SimpleQueue[Generation | SelfTrainError]) -> None:
        # Twice what the engines work on, all that there may be: while texts travel, they have the next prompts.
        free = asyncio.Semaphore(2 * self._config.replicas_at_most * self._config.requests_at_once)
        size = asked_together(self._config)

        async def complete(prompt: Prompt) -> None:
            try:
                generations.put(await self._complete(prompt))
            except SelfTrainError as error:
                generations.put(error)
            finally:
                free.release()

        async with asyncio.TaskGroup() as group:
            for first in range(0, len(prompts), size):
                together = prompts[first : first + size]
                for _ in together:
                    await free.acquire()
                for prompt in together:
                    group.create_task(complete(prompt))

    async def _complete(self, prompt: Prompt) -> Generation:
        tries = 0
        while True:
            try:
                return Generation(prompt, *await self._deployment.complete(prompt.text, prompt.sampling.options()))
            except EngineGone:
                await asyncio.sleep(POLL_SECONDS)
            except SelfTrainError:
                raise
            except PromptRefused as error:
                return Generation(prompt, error=str(error))
            except Exception as error:
                tries += 1
                if tries == MAX_TRIES:
                    return Generation(prompt, error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """End the engine."""
        if self._started:
            self._deployment.stop()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    asyncio.set_event_loop(loop)
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    for left in (tasks := asyncio.all_tasks(loop)):  # messages whose last answer is there, or that nobody waits for any more
        left.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
