"""The text service of a run as a Ray actor, and how the driver and its workers ask it.

method -> RemoteTexts (a TextChannel, anywhere) -> _TextActor (on the driver's node, with the cache) -> engine (anywhere)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextRequest
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.models.locate import LanguageModel, each_model, name_on_nodes
from selftrain.runtime.devices import alone
from selftrain.runtime.hardware import hardware_of_cluster
from selftrain.runtime.ray_start import is_alone
from selftrain.runtime.watch import ray_is_lost, why_it_died
from selftrain.texts.cache import Completion, cache_location
from selftrain.texts.engines import make_engines, on_cluster
from selftrain.texts.prompts import Prompt
from selftrain.texts.service import Progress, TextSummary
from selftrain.texts.teachers import service_of

CLOSE_SECONDS = 60  # for the engine to end, before its service is killed


def start_actor(config: AugmentConfig, corpus: Corpus, model: LanguageModel, fingerprints: Sequence[str]) -> RemoteTexts:
    """The text service of `channel.open_texts` as an actor on this node; Ray has to be initialized.

    Where nobody has decided yet about `augment.gpus: auto`, the engines are taken to be alone on the cluster.

    Args:
        config: of the language model.
        corpus: documents and classes that requests are about.
        model: of `open_texts`.
        fingerprints: of each language model.

    Raises:
        ray.exceptions.RayActorError: the service cannot start, for instance because the cache cannot be read; the message holds the reason.
    """
    if on_cluster(config) and config.gpus == "auto":
        config = alone(config, hardware_of_cluster())
    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    # As an argument, a large corpus would be in the object store as long as the actor takes to start, and a restarted one would not find it again. A reference
    # that travels as bytes holds it until the session ends (and Ray prints no warning).
    kept = cloudpickle.dumps(ray.put(corpus))
    names = [name_on_nodes(section, one, alone=is_alone()) for section, one in zip(config.language_models, each_model(model), strict=True)]
    actor = _TextActor.options(scheduling_strategy=here).remote(  # type: ignore[attr-defined]
        config, kept, names, list(fingerprints), cache_location(config.cache)
    )
    ray.get(actor.ask.remote("progress"))
    return RemoteTexts(actor)


@ray.remote(num_cpus=0, max_concurrency=64, max_restarts=3, max_task_retries=3)
class _TextActor:
    """A `TextService`, or that of several teachers, on the driver's node, where the cache is.

    Killed, it is restarted and asked again: what it had cached is there, and the engines went on.
    """

    def __init__(self, config: AugmentConfig, kept: bytes, models: list[str], fingerprints: list[str], cache: str) -> None:
        corpus: Corpus = ray.get(cloudpickle.loads(kept))
        actor = ray.get_runtime_context()
        engines = make_engines(config, models, application=f"selftrain-{actor.get_actor_id()}", owner=actor.current_actor)
        self._service = service_of(config, corpus, fingerprints, cache, engines)

    def ask(self, method: str, *asked: Any) -> Any:
        """What a method of the service says."""
        return getattr(self._service, method)(*asked)


class RemoteTexts:
    """A `TextChannel` to the service of this run; it can be sent to Ray workers."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteTexts, (self._actor,)

    def __call__(self, requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
        """See `TextService.usable_texts`."""
        return self._ask("usable_texts", list(requests))

    def complete(self, prompts: Sequence[Prompt]) -> Mapping[Prompt, Completion]:
        """See `TextService.complete`."""
        return self._ask("complete", list(prompts))

    def votes(self, documents: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        """See `TextService.votes`."""
        return self._ask("votes", dict(documents))

    def _ask(self, method: str, asked: list[Any] | dict[str, str]) -> Mapping[Any, Any]:
        if not asked:
            return {}
        try:
            found: Mapping[Any, Any] = ray.get(self._actor.ask.remote(method, asked))
            return found
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SelfTrainError):
                raise type(error.cause)(str(error.cause), parameter=error.cause.parameter) from None
            raise
        except ray.exceptions.RayActorError as error:
            raise ProcessDied(f"The process of the text service {why_it_died(error)}. What was generated is cached.") from None

    def progress(self) -> Progress | None:
        """The state of the present request; None if the service is gone."""
        if ray_is_lost():
            return None
        try:
            result: Progress = ray.get(self._actor.ask.remote("progress"))
        except ray.exceptions.RayError:
            return None
        return result

    def summary(self) -> TextSummary:
        """Counts, examples for the report, and (class index, conditional text) pairs so far."""
        result: TextSummary = ray.get(self._actor.ask.remote("summary"))
        return result

    def close(self) -> None:
        """End engine and service."""
        if ray_is_lost():
            return
        with suppress(ray.exceptions.RayError, TimeoutError):  # gone before, or with its node
            ray.get(self._actor.ask.remote("close"), timeout=CLOSE_SECONDS)
        ray.kill(self._actor)
