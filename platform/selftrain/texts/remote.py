"""The language model of a run: a Ray Serve deployment that is started at the first text that is missing, asked directly, and replaced when it dies.

    TextService (a Ray actor) --prompt--> Serve's handle --> replica with vLLM (teacher.py) --text--> TextService

Requests go out one by one, as many at a time as keep the engine full (vLLM does the batching), so that an answer is cached as soon as it is there. What was in
flight when an engine dies is asked again of the one that Serve puts in its place; when engines keep dying without a text in between, the run ends and says why.
A seed per request is not passed on: on CPUs it kills the engine.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty as LocalEmpty
from queue import Queue as LocalQueue
from typing import Any, Protocol

import ray

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextRequest
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.runtime.watch import ray_is_lost, why_it_died
from selftrain.texts.cache import Answer, TextCache
from selftrain.texts.service import Counts, EngineAnswer, EngineRequest, Progress, PromptRequest, TextService

LOOK_SECONDS = 1.0  # how often the engine is looked after
DEATHS = 3  # engines that die one after the other without a text in between
TRIES = 3  # of a request that the engine fails on, before the text counts as failed


class EngineGone(Exception):
    """The engine ended with this request in its hands; another one is on its way."""


class Deployment(Protocol):
    """What `ServedEngine` stands on: an engine that someone else starts and replaces."""

    def start(self) -> str:
        """Start the first engine, and wait for it; returns what every prompt begins with."""
        ...

    def ask(self, prompt: str, sampling: dict[str, Any]) -> Awaitable[tuple[str, int, int]]:
        """(text, tokens of the prompt, tokens of the text); raises `EngineGone`, or what the engine raised."""
        ...

    def deaths(self) -> list[str]:
        """Why engines died since the last call, one entry each."""
        ...

    def ready(self) -> bool:
        """Whether an engine is there."""
        ...

    def stop(self) -> None:
        """End the engine."""
        ...


class ServedEngine:
    """The `Engine` of a real run, in the process of the service. One `generate` at a time."""

    def __init__(self, config: AugmentConfig, model_folder: str, deployment: Deployment) -> None:
        self.config = config
        self.model_folder = model_folder
        self.notices: list[str] = []  # what a person should know of: engines that died
        self._deployment = deployment
        self._begin: str | None = None
        self._in_a_row = 0
        self._looked = 0.0

    @property
    def starting(self) -> bool:
        """Whether texts have to wait because no engine is there, for the first time or again."""
        return self._begin is None or not self._deployment.ready()

    def generate(self, requests: Sequence[EngineRequest]) -> Iterator[EngineAnswer]:
        """See `Engine.generate`; the engine starts at the first call.

        Raises:
            ProcessDied: the engine cannot be started, or keeps dying.
            SelfTrainError: no text came for `augment.stall_seconds`.
        """
        if self._begin is None:
            self._begin = self._deployment.start()
        answers: LocalQueue[EngineAnswer] = LocalQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._ask_all(requests, answers))
        asking = threading.Thread(target=_run, args=(loop, task), name="selftrain-asking", daemon=True)
        asking.start()
        try:
            yield from self._heard(len(requests), answers)
        finally:
            with suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(task.cancel)
            asking.join()

    def _heard(self, wanted: int, answers: LocalQueue[EngineAnswer]) -> Iterator[EngineAnswer]:
        heard = time.monotonic()
        while wanted:
            try:
                answer = answers.get(timeout=LOOK_SECONDS)
            except LocalEmpty:
                if self._look():
                    heard = time.monotonic()
                if time.monotonic() - heard > self.config.stall_seconds:
                    raise SelfTrainError(
                        f"The language model {self.model_folder} gave no text for {self.config.stall_seconds:.0f} s ({wanted} wanted); see the engine's log "
                        "under Ray's session folder, give it more memory or cores, or raise augment.stall_seconds. What was generated is cached."
                    ) from None
                continue
            heard = time.monotonic()
            wanted -= 1
            self._in_a_row = 0
            self._look()
            yield answer

    def _look(self) -> bool:
        """Look after the engine, once a second at most; whether one has died.

        Raises:
            ProcessDied: too many did.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        died = self._deployment.deaths()
        self._looked = time.monotonic()
        for why in died:
            self._in_a_row += 1
            if self._in_a_row >= DEATHS:
                raise ProcessDied(
                    f"The language model's engine died {DEATHS} times without a text in between; the last one {why}. What was generated is cached."
                )
            self.notices.append(f"The language model's engine {why}; another one is started, and what it was writing is asked for again.")
        return bool(died)

    async def _ask_all(self, requests: Sequence[EngineRequest], answers: LocalQueue[EngineAnswer]) -> None:
        # Twice what the engine works on: while answers travel, it has the next ones.
        free = asyncio.Semaphore(2 * self.config.concurrent_requests)

        async def ask(request: EngineRequest) -> None:
            try:
                answers.put(await self._ask(request))
            finally:
                free.release()

        async with asyncio.TaskGroup() as group:
            for request in requests:
                await free.acquire()
                group.create_task(ask(request))

    async def _ask(self, request: EngineRequest) -> EngineAnswer:
        tries = 0
        while True:
            try:
                return EngineAnswer(request.key, *await self._deployment.ask(f"{self._begin}{request.prompt}", request.sampling))
            except EngineGone:
                await asyncio.sleep(LOOK_SECONDS)
            except Exception as error:
                tries += 1
                if tries == TRIES:
                    return EngineAnswer(request.key, "", 0, 0, f"{type(error).__name__}: {error}")
                await asyncio.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """End the engine."""
        if self._begin is not None:
            self._deployment.stop()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    asyncio.set_event_loop(loop)
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


class ServeDeployment:
    """`Deployment` by Ray Serve (texts/engines/vllm.py).

    Args:
        config: of the engine.
        model_folder: the model.
        application: a name that no other run on the cluster uses, and that the service has again after it was restarted.
        owner: the actor without which the engine is not wanted any more.
    """

    def __init__(self, config: AugmentConfig, model_folder: str, application: str, owner: Any) -> None:
        self._config = config
        self._model_folder = model_folder
        self._application = application
        self._owner = owner
        self._again = ray.get_runtime_context().was_current_actor_reconstructed
        self._handle: Any = None
        self._replicas: dict[str, _Replica] = {}
        self._died: list[str] = []

    def start(self) -> str:
        """See `Deployment.start`."""
        from ray import serve

        # A service that was killed and started again finds the engine of its earlier life.
        if not self._again or self._application not in serve.status().applications:
            self._deploy()
        self._handle = serve.get_app_handle(self._application)
        return str(self._handle.begin.remote().result())

    def _deploy(self) -> None:
        from selftrain.texts.engines.vllm import deploy

        failed: list[BaseException] = []

        def work() -> None:
            try:
                deploy(self._config, self._model_folder, self._application, self._owner)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work, name="selftrain-deploy", daemon=True)
        thread.start()
        died: list[str] = []
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
            died += self.deaths()
            if len(died) >= DEATHS:
                break
        if failed or len(died) >= DEATHS:
            why = f"its engine {died[-1]}" if died else " ".join(str(failed[0]).split())[-600:]
            self.stop()
            raise ProcessDied(f"The language model {self._model_folder} could not be started: {why}.")
        self._died = died

    async def ask(self, prompt: str, sampling: dict[str, Any]) -> tuple[str, int, int]:
        """See `Deployment.ask`."""
        from ray.serve.exceptions import RayServeException

        try:
            found: tuple[str, int, int] = await self._handle.write.remote(prompt, dict(sampling))
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, RayServeException) as error:
            raise EngineGone from error
        return found

    def deaths(self) -> list[str]:
        """See `Deployment.deaths`."""
        found, self._died = self._died, []
        for entry in ray.util.list_named_actors(all_namespaces=True):
            name = entry["name"]
            # Serve names the actors of its replicas so; there is no public way to ask why one died but to have its handle.
            if name.startswith(f"SERVE_REPLICA::{self._application}#") and name not in self._replicas:
                with suppress(ValueError):  # gone already
                    self._replicas[name] = _Replica(ray.get_actor(name, namespace=entry["namespace"]))
        for replica in self._replicas.values():
            if (why := replica.died()) is not None:
                found.append(why)
        return found

    def ready(self) -> bool:
        """See `Deployment.ready`."""
        return any(replica.ready for replica in self._replicas.values())

    def stop(self) -> None:
        """See `Deployment.stop`."""
        from ray import serve

        with suppress(Exception):  # a run that ends may have lost Serve before
            serve.delete(self._application)


class _Replica:
    """One process of the engine, as seen from outside."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._probe: Any = None
        self._over = False
        self.ready = False

    def died(self) -> str | None:
        """Why it died, once."""
        if self._over:
            return None
        self._probe = self._probe or self._actor.__ray_ready__.remote()
        if not ray.wait([self._probe], timeout=0)[0]:
            return None
        try:
            ray.get(self._probe)
            self.ready = True
        except ray.exceptions.ActorUnavailableError:
            pass
        except ray.exceptions.RayError as error:
            self._over, self.ready = True, False
            return why_it_died(error)
        self._probe = None
        return None


@ray.remote(num_cpus=0, max_concurrency=64, max_restarts=3, max_task_retries=3)
class _TextActor:
    """`TextService` as a Ray actor on the driver's node, where the cache is; the engine may run anywhere.

    Killed, it is started again and asked again: what it had cached is there, and the engine went on.
    """

    def __init__(self, config: AugmentConfig, corpus: Corpus, model_folder: str, model_fingerprint: str, cache_folder: str) -> None:
        from pathlib import Path

        me = ray.get_runtime_context()
        deployment = ServeDeployment(config, model_folder, f"selftrain-{me.get_actor_id()}", me.current_actor)
        self._engine = ServedEngine(config, model_folder, deployment)
        self._service = TextService(config, corpus, model_fingerprint, TextCache(Path(cache_folder)), self._engine)
        self._one_at_a_time = threading.Lock()

    def answer(self, requests: Sequence[TextRequest]) -> dict[TextRequest, str]:
        with self._one_at_a_time:
            return self._service.answer(requests)

    def complete(self, requests: Sequence[PromptRequest]) -> dict[PromptRequest, Answer]:
        with self._one_at_a_time:
            return self._service.complete(requests)

    def progress(self) -> Progress:
        found = self._service.progress()
        return replace(found, starting=bool(found.wanted) and self._engine.starting, notices=tuple(self._engine.notices))

    def summary(self) -> tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]]:
        return self._service.counts, self._service.examples, self._service.conditional

    def close(self) -> None:
        self._service.close()


class RemoteTexts:
    """A `TextChannel` to the service of this run; it can be sent to Ray workers."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteTexts, (self._actor,)

    @classmethod
    def start(cls, config: AugmentConfig, corpus: Corpus, model_folder: str, model_fingerprint: str, cache_folder: str) -> RemoteTexts:
        """Start the service; the engine itself starts when the first text is missing in the cache."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
        actor = _TextActor.options(  # type: ignore[attr-defined]
            scheduling_strategy=here
        ).remote(config, corpus, model_folder, model_fingerprint, cache_folder)
        ray.get(actor.progress.remote())
        return cls(actor)

    def __call__(self, requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
        """See `TextService.answer`."""
        answers: Mapping[TextRequest, str] = self._asked(self._actor.answer, requests)
        return answers

    def complete(self, requests: Sequence[PromptRequest]) -> Mapping[PromptRequest, Answer]:
        """See `TextService.complete`."""
        answers: Mapping[PromptRequest, Answer] = self._asked(self._actor.complete, requests)
        return answers

    @staticmethod
    def _asked(method: Any, requests: Sequence[Any]) -> Any:
        if not requests:
            return {}
        try:
            return ray.get(method.remote(list(requests)))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SelfTrainError):
                raise type(error.cause)(str(error.cause)) from None
            raise
        except ray.exceptions.RayActorError as error:
            raise ProcessDied(f"The process that keeps the generated texts {why_it_died(error)}. What was generated is cached.") from None

    def progress(self) -> Progress | None:
        """Where the present request stands; None if the service is gone."""
        if ray_is_lost():
            return None
        try:
            result: Progress = ray.get(self._actor.progress.remote())
        except ray.exceptions.RayError:
            return None
        return result

    def summary(self) -> tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]]:
        """Counts, examples for the report, and (class, conditional text) pairs so far."""
        result: tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]] = ray.get(self._actor.summary.remote())
        return result

    def close(self) -> None:
        """End engine and service."""
        if ray_is_lost():
            return
        with suppress(ray.exceptions.RayError, TimeoutError):  # gone before, or with what it stood on
            ray.get(self._actor.close.remote(), timeout=60)
        ray.kill(self._actor)
