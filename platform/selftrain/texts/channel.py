"""The text channel of one language model, or of several: what methods, runs and data sets ask for texts, and the one way to open it.

With a language model on the cluster, or where Ray trains, the text service is an actor (actor.py) that driver and workers ask. A server's language model
needs no Ray: without one the service is an object of this process.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Protocol

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextRequest
from selftrain.models.locate import LanguageModel, contents_fingerprint, each_model
from selftrain.texts.cache import Completion
from selftrain.texts.engines import make_engines, on_cluster
from selftrain.texts.progress import ProgressBar
from selftrain.texts.prompts import Prompt
from selftrain.texts.service import Progress, TextSummary
from selftrain.texts.teachers import service_of


class Texts(Protocol):
    """An open channel; it is a `TextChannel` for methods."""

    def __call__(self, requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
        """See `TextService.usable_texts`."""
        ...

    def complete(self, prompts: Sequence[Prompt]) -> Mapping[Prompt, Completion]:
        """See `TextService.complete`."""
        ...

    def votes(self, documents: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        """See `TextService.votes`."""
        ...

    def progress(self) -> Progress | None:
        """The state of the present request; None if the service is gone."""
        ...

    def summary(self) -> TextSummary:
        """Counts, examples for the report, and (class index, conditional text) pairs so far."""
        ...

    def close(self) -> None:
        """End engine and service."""
        ...


@contextmanager
def open_texts(
    config: AugmentConfig,
    corpus: Corpus,
    model: LanguageModel,
    *,
    model_fingerprint: str | None = None,
    progress: bool = True,
    notify: Callable[[str], None] | None = None,
) -> Iterator[Texts]:
    """The text channel of one language model, or of several teachers, for the length of a `with` block.

    Ray has to be initialized unless all models are servers'.

    The engine itself starts when the first text is missing in the cache `config.cache`.

    Args:
        config: of the language model.
        corpus: documents and classes that requests are about.
        model: of `models.locate.language_model_of`.
        model_fingerprint: of a single language model, where it is known; default: computed.
        progress: draw a bar on stderr while texts are generated.
        notify: with `progress`: called with each sentence about what failed and was repaired; default: write it above the bar.

    Raises:
        OutputError: the cache cannot be written.
        DataError: the cache cannot be read.
        ray.exceptions.RayActorError: the same, or another reason, where the service is an actor; the message holds the reason.
    """
    fingerprints = [model_fingerprint] if model_fingerprint is not None else [contents_fingerprint(one) for one in each_model(model)]
    with closing(_opened(config, corpus, model, fingerprints)) as texts, ProgressBar(texts.progress, notify=notify) if progress else nullcontext():
        yield texts


def _opened(config: AugmentConfig, corpus: Corpus, model: LanguageModel, fingerprints: Sequence[str]) -> Texts:
    ray = sys.modules.get("ray")
    if on_cluster(config) or (ray is not None and ray.is_initialized()):
        from selftrain.texts.actor import start_actor

        return start_actor(config, corpus, model, fingerprints)
    engines = make_engines(config, [str(one) for one in each_model(model)], application=f"selftrain-{uuid.uuid4().hex}", owner=None)
    return service_of(config, corpus, fingerprints, config.cache, engines)
