"""The models of a replica, by name: loaded, warmed, watched in the registry, and swapped without a pause.

A registered model follows the alias `champion`: a thread asks for its holder every few seconds, loads and warms a new one beside the old one, and only then
lets it take over. One that cannot be loaded leaves the old one serving, and is said in the log, in GET /v1/models and in the metrics.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, Field, model_validator

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, read_card
from selftrain.bundle.tokens import Continued, Tokens
from selftrain.errors import SelfTrainError, nearest
from selftrain.runtime.memory import settle
from selftrain.serving.batching import Batcher, Closed, Ticket
from selftrain.serving.metrics import Metrics, gauge

WARM_WORDS = (1, 4, 16, 64, 256)
RETRY_SECONDS = (10.0, 300.0)  # after a champion that could not be loaded: doubled from the first to the second
_log = logging.getLogger("ray.serve")


class Source(BaseModel):
    """Where a model comes from: a bundle's folder, or the registry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str | None = Field(default=None, description="folder of a bundle that every node reaches")
    model: str | None = Field(default=None, description="name in the MLflow registry; its champion is served, and followed")
    version: str | None = Field(
        default=None, description="of a registered model: serve this version and follow nothing; of a bundle: what it is called"
    )
    name: str | None = Field(default=None, description="what requests call it; default: the registered or the bundle's own name")

    @model_validator(mode="after")
    def _one_of_both(self) -> Source:
        if (self.bundle is None) == (self.model is None):
            raise ValueError("a model is either `bundle` (a folder) or `model` (a name in the registry); give one of them")
        return self

    @property
    def followed(self) -> bool:
        """Whether it changes with the registry's champion."""
        return self.model is not None and self.version is None


class UnknownModel(Exception):
    """No such name or version; the message lists what there is."""


class Loaded(NamedTuple):
    """One version of a model, warm."""

    name: str
    version: str
    card: BundleCard
    batcher: Batcher
    since: str  # ISO 8601

    @property
    def id(self) -> dict[str, str]:
        """What answers say of it."""
        return {"name": self.name, "version": self.version}


def load(source: Source, tracking_uri: str | None, *, threads: int, max_waiting: int, max_seconds: float, metrics: Metrics) -> Loaded:
    """Open a model and warm it.

    Raises:
        SelfTrainError: no such bundle, model, version or champion, or a damaged one.
    """
    if source.bundle is not None:
        folder, version = Path(source.bundle), source.version
    else:
        from selftrain.tracking import CHAMPION, registered_bundle

        which = f"@{CHAMPION}" if source.version is None else f"/{source.version}"
        folder, version = registered_bundle(f"models:/{source.model}{which}", tracking_uri)
    card = read_card(folder)
    name, version = source.name or source.model or card.name, version or card.created
    classifier = Classifier.load(folder, threads=threads)
    for words in WARM_WORDS:
        if not np.isfinite(classifier.predict_proba(["word " * words])).all():
            raise SelfTrainError(f"The bundle {folder} answers numbers that are not finite; train it again.")

    def observe(texts: int, padding: float, seconds: float) -> None:
        metrics.batch_texts.labels(name).observe(texts)
        metrics.batch_padding.labels(name).observe(padding)
        metrics.batch_seconds.labels(name).observe(seconds)

    def tokenize(texts: list[str | Continued]) -> list[Tokens]:
        alone = iter(classifier.tokenize([one for one in texts if isinstance(one, str)]))
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
    return Loaded(name, version, card, batcher, datetime.now(UTC).isoformat(timespec="seconds"))


class Place:
    """One entry of the configuration, and the version that serves it now."""

    def __init__(self, source: Source, live: Loaded) -> None:
        self.source = source
        self.live = live
        self.problem: str | None = None  # why the registry's champion is not the one that serves
        self.failed: str | None = None  # the version that could not be loaded
        self.failures = 0
        self.retry_at = 0.0


class Models(Collector):
    """All models of a replica.

    Args:
        sources: what to load, the first being what a request gets that names none.
        tracking_uri: the registry; default: MLFLOW_TRACKING_URI, else the local SQLite file.
        threads: cores that a model may compute with.
        poll_seconds: how often the registry is asked for the champion.
        max_waiting: texts that may wait for one model.
        max_seconds: how long they may.

    Raises:
        SelfTrainError: one of them cannot be loaded, or two have the same name and version.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        tracking_uri: str | None,
        threads: int,
        poll_seconds: float,
        max_waiting: int,
        max_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._threads = threads
        # oneDNN keeps 1,024 compiled products, one a shape: batches of all sizes and lengths would fill memory for hours. Read at the first product.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        self._tracking_uri = tracking_uri
        self._poll_seconds = poll_seconds
        self._max_waiting = max_waiting
        self._max_seconds = max_seconds
        self._metrics = metrics
        self._stop = threading.Event()
        self._places: list[Place] = []
        for source in sources:
            live = self._load(source)
            if any((one.live.name, one.live.version) == (live.name, live.version) for one in self._places if one.source.followed == source.followed):
                raise SelfTrainError(f"The model {live.name!r} version {live.version} is named twice; give one of them another name.")
            self._places.append(Place(source, live))
        settle()
        metrics.watch(self)
        self._watcher: threading.Thread | None = None
        if any(place.source.followed for place in self._places):
            self._watcher = threading.Thread(target=self._watch, name="registry", daemon=True)
            self._watcher.start()

    @property
    def healthy(self) -> bool:
        """Whether every model answers, and the registry is watched."""
        watched = self._watcher is None or self._watcher.is_alive()
        return watched and not self._stop.is_set() and all(place.live.batcher.healthy for place in self._places)

    @property
    def waiting(self) -> int:
        """Texts that wait, for all models together."""
        return sum(place.live.batcher.waiting for place in self._places)

    def get(self, wanted: str | None) -> Loaded:
        """The model that a request names: `NAME`, `NAME@VERSION`, or none for the first.

        Raises:
            UnknownModel: there is none of this name or version.
        """
        places = self._places
        if wanted is None:
            return places[0].live
        name, _, version = wanted.partition("@")
        for place in places:
            if place.live.name in (name, wanted) and (not version or place.live.name == wanted or place.live.version == version):
                return place.live
        known = [place.live.name for place in places] + [f"{place.live.name}@{place.live.version}" for place in places]
        raise UnknownModel(f"there is no model {wanted[:100]!r}; {nearest(wanted, set(known))}")

    def submit(self, wanted: str | None, texts: Sequence[str]) -> tuple[Loaded, Ticket]:
        """Queue texts with the model that serves `wanted` now.

        Raises:
            UnknownModel: there is none of this name or version.
            Busy: too many texts wait for it.
            Closed: the replica stops.
        """
        while True:
            loaded = self.get(wanted)
            try:
                return loaded, loaded.batcher.submit(texts)
            except Closed:
                if self._stop.is_set():
                    raise
                # It was replaced between the two lines above: the new one stands in its place already.

    def facts(self) -> list[dict[str, Any]]:
        """What is served, for GET /v1/models."""
        found = []
        for place in self._places:
            card = place.live.card
            made = card.model_dump(mode="json", include={"labels", "method", "supervision", "data", "max_tokens", "metrics", "created"})
            found.append({**place.live.id, "follows_champion": place.source.followed, "since": place.live.since, "problem": place.problem, **made})
        return found

    def collect(self) -> Iterable[Metric]:
        """Figures that are read off when Prometheus asks."""
        places = list(self._places)
        info = [([one.live.name, one.live.version, one.live.card.method], 1.0) for one in places]
        yield gauge("selftrain_model_info", "Models that are served", ("model", "version", "method"), info)
        waiting = [([one.live.name, one.live.version], float(one.live.batcher.waiting)) for one in places]
        yield gauge("selftrain_waiting_texts", "Texts that wait for a model", ("model", "version"), waiting)
        failing = [([one.live.name, one.live.version], float(one.problem is not None)) for one in places]
        yield gauge("selftrain_model_problem", "1 where the champion could not take over", ("model", "version"), failing)

    def close(self) -> None:
        """Answer what waits, and end all threads."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        for place in self._places:
            place.live.batcher.close()

    def _load(self, source: Source) -> Loaded:
        return load(
            source,
            self._tracking_uri,
            threads=self._threads,
            max_waiting=self._max_waiting,
            max_seconds=self._max_seconds,
            metrics=self._metrics,
        )

    def _watch(self) -> None:
        from selftrain.tracking import Champions

        champions = Champions(self._tracking_uri)
        while not self._stop.wait(self._poll_seconds):
            for place in self._places:
                if place.source.model is not None and place.source.followed and not self._stop.is_set():
                    try:
                        version = champions.version(place.source.model)
                    except Exception as error:
                        self._note(place, f"the registry could not be asked: {_sentence(error)}")
                        continue
                    self._follow(place, version)

    def _follow(self, place: Place, version: str) -> None:
        """Let `version` take over from what serves, if it is another one and can be loaded."""
        old = place.live
        if version == old.version:
            place.problem, place.failed, place.failures = None, None, 0
            return
        if version == place.failed and time.monotonic() < place.retry_at:
            return
        try:
            new = self._load(place.source.model_copy(update={"version": version}))
        except Exception as error:
            self._note(place, f"version {version} could not be loaded, version {old.version} goes on serving: {_sentence(error)}")
            place.failures = place.failures + 1 if place.failed == version else 1
            place.failed = version
            place.retry_at = time.monotonic() + min(RETRY_SECONDS[0] * 2 ** (place.failures - 1), RETRY_SECONDS[1])
            self._metrics.reloads.labels(old.name, "failed").inc()
            return
        place.live = new
        place.problem, place.failed, place.failures = None, None, 0
        self._metrics.reloads.labels(new.name, "swapped").inc()
        _log.warning("model %s: version %s took over from version %s", new.name, new.version, old.version)
        old.batcher.close()  # answers what waits for it
        del old
        settle()

    def _note(self, place: Place, problem: str) -> None:
        if place.problem != problem:
            _log.warning("model %s: %s", place.live.name, problem)
        place.problem = problem


def _sentence(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
