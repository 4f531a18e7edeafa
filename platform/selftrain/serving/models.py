"""The models of a replica, by name: loaded, warmed, and replaced without a pause when the registry has a new champion.

A registered model follows the alias `champion`: a thread asks the registry every few seconds, loads and warms the new version beside the old one, and then lets it
take over. Where the new version cannot be loaded, the old one stays, and the log, GET /v1/models and the metrics say so.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from selftrain.bundle.checking import fingerprint_of
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, read_card
from selftrain.bundle.promise import stated
from selftrain.bundle.tokens import Continued, Tokens
from selftrain.errors import BundleError, ConfigError, SelfTrainError, nearest
from selftrain.runtime.memory import settle
from selftrain.serving.batching import Batcher, BatcherClosed, Ticket
from selftrain.serving.metrics import Metrics, gauge
from selftrain.serving.sources import ModelSource
from selftrain.serving.together import Together

WARM_WORDS = (1, 4, 16, 64, 256)
RETRY_SECONDS = (10.0, 300.0)  # before a champion that could not be loaded is tried again: from the first, doubled up to the second
_log = logging.getLogger("ray.serve")


class UnknownModel(Exception):
    """There is no such name or version; the message lists the known ones."""


class LoadedModel(NamedTuple):
    """One version of a model, warm."""

    name: str
    version: str
    card: BundleCard
    batcher: Batcher
    since: str  # ISO 8601
    backend: str  # what computes it
    classifier: Classifier
    fingerprint: str  # of the bundle
    none_of_these: dict[str, Any] | None  # what it can say of texts that fit no class; None: nothing
    together: Together | None  # answers without the batcher where it can; None for a model that pads, or reads several windows

    @property
    def waiting(self) -> int:
        """Texts that wait for it."""
        return self.batcher.waiting + (self.together.waiting if self.together is not None else 0)

    @property
    def id(self) -> dict[str, str]:
        """The model as answers name it."""
        return {"name": self.name, "version": self.version}


def load_model(
    source: ModelSource,
    tracking_uri: str | None,
    *,
    threads: int,
    max_waiting: int,
    max_seconds: float,
    metrics: Metrics,
    device: str | None = None,
) -> LoadedModel:
    """Open a model and warm it.

    Args:
        source: where the model comes from.
        tracking_uri: the registry; None for the default.
        threads: torch threads of the model.
        max_waiting: texts that may wait for it.
        max_seconds: seconds that a text may wait.
        metrics: the metrics of the replica.
        device: of PyTorch; default: a GPU where there is one, else the CPU.

    Raises:
        SelfTrainError: there is no such bundle, model, version or champion, or it is damaged.
    """
    folder, version = source.locate(tracking_uri)
    card = read_card(folder)
    name, version = source.name or source.model or card.name, version or card.created
    classifier = Classifier.load(folder, threads=threads, device=device)
    for words in WARM_WORDS:
        if not np.isfinite(classifier.predict_proba(["word " * words])).all():
            raise BundleError(f"The bundle {folder} returns probabilities that are not finite; train it again.")

    def observe(texts: int, padding: float, seconds: float) -> None:
        metrics.batch_texts.labels(name).observe(texts)
        metrics.batch_padding.labels(name).observe(padding)
        metrics.batch_seconds.labels(name).observe(seconds)

    def tokenize(texts: list[str | Continued]) -> list[Tokens]:
        without = [one for one in texts if isinstance(one, str)]
        if len(without) == len(texts):
            return classifier.tokenize(without, checked=True)
        alone = iter(classifier.tokenize(without, checked=True))
        continued = iter(classifier.tokenize_continued([one for one in texts if isinstance(one, Continued)]))
        return [next(alone if isinstance(one, str) else continued) for one in texts]

    batcher = Batcher(
        tokenize,
        classifier.classify,
        max_waiting=max_waiting,
        max_seconds=max_seconds,
        most_padding=classifier.most_padding,
        most_tokens=classifier.most_tokens,
        observe=observe,
    )
    together = None
    if math.isinf(classifier.most_tokens) and card.windows == 1:
        together = Together(partial(classifier.tokenize, checked=True), classifier.classify, max_waiting=max_waiting, observe=observe)
    since, known = datetime.now(UTC).isoformat(timespec="seconds"), _none_of_these(classifier)
    return LoadedModel(name, version, card, batcher, since, classifier.backend, classifier, fingerprint_of(folder), known, together)


def _none_of_these(classifier: Classifier) -> dict[str, Any] | None:
    """The documents that texts are compared with, read now, so that no request waits for it, and the promise; None where there are none, or damaged ones, or a
    text may have no label anyway.
    """
    if classifier.card.multi_label:
        return None
    try:
        documents = len(classifier.known)
    except SelfTrainError:
        return None
    return {"documents": documents, "promise": stated(classifier.card.none_of_these, classifier.backend)}


class ServedModel:
    """One entry of the configuration, and the version that serves it now."""

    def __init__(self, source: ModelSource, live: LoadedModel) -> None:
        self.source = source
        self.live = live
        self.problem: str | None = None  # why the champion does not serve
        self.failed: str | None = None  # the version that could not be loaded
        self.failures = 0
        self.retry_at = 0.0


class Models(Collector):
    """All models of a replica.

    Args:
        sources: the models; requests that name none get the first.
        tracking_uri: the registry; default: MLFLOW_TRACKING_URI, else the local SQLite file.
        threads: torch threads of a model.
        poll_seconds: seconds between two looks at the registry.
        max_waiting: texts that may wait for one model.
        max_seconds: seconds that a text may wait.
        metrics: the metrics of the replica.
        device: of PyTorch; default: a GPU where there is one, else the CPU.

    Raises:
        ConfigError: two models have the same name and version.
        SelfTrainError: a model cannot be loaded.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        *,
        tracking_uri: str | None,
        threads: int,
        poll_seconds: float,
        max_waiting: int,
        max_seconds: float,
        metrics: Metrics,
        device: str | None = None,
    ) -> None:
        # oneDNN keeps 1,024 compiled products, one a shape; batches of all shapes would fill memory for hours. It reads this at its first product.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        self._tracking_uri = tracking_uri
        self._poll_seconds = poll_seconds
        self._load = partial(
            load_model, tracking_uri=tracking_uri, threads=threads, max_waiting=max_waiting, max_seconds=max_seconds, metrics=metrics, device=device
        )
        self._metrics = metrics
        self._stop = threading.Event()
        self._served: list[ServedModel] = []
        for source in sources:
            live = self._load(source)
            if any((one.live.name, one.live.version) == (live.name, live.version) for one in self._served if one.source.followed == source.followed):
                raise ConfigError(
                    f"models: {live.name!r} version {live.version} must not repeat; set another name for one of them.", parameter="models"
                )
            self._served.append(ServedModel(source, live))
        settle()
        metrics.watch(self)
        self._watcher: threading.Thread | None = None
        if any(one.source.followed for one in self._served):
            self._watcher = threading.Thread(target=self._watch, name="registry", daemon=True)
            self._watcher.start()

    @property
    def healthy(self) -> bool:
        """Whether every model answers and the registry is watched."""
        watched = self._watcher is None or self._watcher.is_alive()
        return watched and not self._stop.is_set() and all(one.live.batcher.healthy for one in self._served)

    @property
    def waiting(self) -> int:
        """Texts that wait for any model."""
        return sum(one.live.waiting for one in self._served)

    def get(self, wanted: str | None) -> LoadedModel:
        """The model that a request names: `NAME`, `NAME@VERSION`, or None for the first.

        Raises:
            UnknownModel: no model has this name or version.
        """
        served = self._served
        if wanted is None:
            return served[0].live
        name, _, version = wanted.partition("@")
        for one in served:
            if one.live.name in (name, wanted) and (not version or one.live.name == wanted or one.live.version == version):
                return one.live
        known = [one.live.name for one in served] + [f"{one.live.name}@{one.live.version}" for one in served]
        raise UnknownModel(f"there is no model {wanted[:100]!r}; {nearest(wanted, set(known))}")

    def submit(self, wanted: str | None, texts: Sequence[str]) -> tuple[LoadedModel, Ticket]:
        """Queue texts with the model that serves `wanted` now.

        Raises:
            UnknownModel: no model has this name or version.
            Busy: too many texts wait for it.
            Closed: the replica stops.
        """
        while True:
            loaded = self.get(wanted)
            try:
                return loaded, loaded.batcher.submit(texts)
            except BatcherClosed:
                if self._stop.is_set():
                    raise
                # It was replaced between the two lines above; its successor serves already.

    def facts(self) -> list[dict[str, Any]]:
        """The models for GET /v1/models."""
        found = []
        for one in self._served:
            card = one.live.card
            made = card.model_dump(
                mode="json",
                include={"labels", "parents", "thresholds", "method", "supervision", "data", "max_tokens", "windows", "metrics", "created"},
            )
            promises = {"promise": card.promise, "sets": card.sets, "found_labels": card.found_labels}
            made |= {name: stated(promise, one.live.backend) for name, promise in promises.items()}
            made["none_of_these"] = one.live.none_of_these
            found.append({**one.live.id, "follows_champion": one.source.followed, "since": one.live.since, "problem": one.problem, **made})
        return found

    def collect(self) -> Iterable[Metric]:
        """Metrics whose values are read when Prometheus asks."""
        served = list(self._served)
        info = [([one.live.name, one.live.version, one.live.card.method], 1.0) for one in served]
        yield gauge("selftrain_model_info", "Models that are served", ("model", "version", "method"), info)
        waiting = [([one.live.name, one.live.version], float(one.live.waiting)) for one in served]
        yield gauge("selftrain_waiting_texts", "Texts that wait for a model", ("model", "version"), waiting)
        failing = [([one.live.name, one.live.version], float(one.problem is not None)) for one in served]
        yield gauge("selftrain_model_problem", "1 where the champion could not take over", ("model", "version"), failing)

    def close(self) -> None:
        """Answer the waiting texts, then end all threads."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        for one in self._served:
            one.live.batcher.close()

    def _watch(self) -> None:
        from selftrain.tracking import Champions

        champions = Champions(self._tracking_uri)
        while not self._stop.wait(self._poll_seconds):
            for one in self._served:
                if one.source.model is not None and one.source.followed and not self._stop.is_set():
                    try:
                        version = champions.version(one.source.model)
                    except Exception as error:
                        self._note(one, f"the registry cannot be reached: {_sentence(error)}")
                        continue
                    self._follow(one, version)

    def _follow(self, served: ServedModel, version: str) -> None:
        """Let `version` take over, where it is new and can be loaded."""
        old = served.live
        if version == old.version:
            served.problem, served.failed, served.failures = None, None, 0
            return
        if version == served.failed and time.monotonic() < served.retry_at:
            return
        try:
            new = self._load(served.source.model_copy(update={"version": version}))
        except Exception as error:
            self._note(served, f"version {version} could not be loaded, version {old.version} stays: {_sentence(error)}")
            served.failures = served.failures + 1 if served.failed == version else 1
            served.failed = version
            served.retry_at = time.monotonic() + min(RETRY_SECONDS[0] * 2 ** (served.failures - 1), RETRY_SECONDS[1])
            self._metrics.reloads.labels(old.name, "failed").inc()
            return
        served.live = new
        served.problem, served.failed, served.failures = None, None, 0
        self._metrics.reloads.labels(new.name, "swapped").inc()
        _log.warning("model %s: version %s took over from version %s", new.name, new.version, old.version)
        old.batcher.close()  # answers the texts that wait for it
        del old
        settle()

    def _note(self, served: ServedModel, problem: str) -> None:
        if served.problem != problem:
            _log.warning("model %s: %s", served.live.name, problem)
        served.problem = problem


def _sentence(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
