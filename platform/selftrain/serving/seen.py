"""What a replica keeps of the texts that it answers, so that `selftrain watch` can say whether they change (runs/seen.py has the files).

An answer costs no more than a place in a list: of every five minutes' texts a bounded number is drawn, each with the same chance. A thread then classifies these
once more, which also gives their embeddings, and writes one file. So the memory is bounded by what is drawn, the disk by `rows_per_day` and `days`, and a text
that is not drawn is counted, and nothing else. Without `texts` no text reaches the disk.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from selftrain.bundle.classifier import Classifier
from selftrain.data.corpus import document_id
from selftrain.runs.seen import Origin, Rows, forget, write_part
from selftrain.serving.batching import isolated
from selftrain.serving.metrics import Metrics

if TYPE_CHECKING:
    from selftrain.serving.models import LoadedModel

INTERVAL_SECONDS = 300.0
_BATCH_TEXTS = 16  # that are classified at a time: answers wait for no more
_DAY = 86_400.0
_log = logging.getLogger("ray.serve")


class SeenSettings(BaseModel):
    """What is kept of texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(description="that every replica reaches; each bundle has a folder in it, by its fingerprint")
    rows_per_day: int = Field(
        default=10_000, ge=100, description="texts of a day that a replica keeps of a model, about, drawn at random all over the day"
    )
    days: int = Field(default=14, ge=1, description="that are kept")
    texts: bool = Field(default=False, description="keep the texts themselves too, and not their embeddings and probabilities alone")


class _Text(NamedTuple):
    text: str
    time: float


class _Drawn:
    """The texts of one model that are drawn of those since the last file. The model may be replaced meanwhile, and is not kept in memory."""

    def __init__(self, origin: Origin, classifier: weakref.ref[Classifier], room: float) -> None:
        self.origin = origin
        self.classifier = classifier
        self.room = room  # texts that may be kept, at most
        self.offered = 0
        self.texts: list[_Text] = []

    def offer(self, text: _Text) -> None:
        """Every text has the same chance (Vitter's algorithm R)."""
        self.offered += 1
        if len(self.texts) < int(self.room):
            self.texts.append(text)
        elif self.texts and (place := random.randrange(self.offered)) < len(self.texts):
            self.texts[place] = text


class Seen:
    """Keeps a sample of the texts of a replica, until `close`.

    Args:
        settings: what is kept, and where.
        metrics: of the replica.
        interval: seconds that a file is of.
    """

    def __init__(self, settings: SeenSettings, metrics: Metrics, *, interval: float = INTERVAL_SECONDS) -> None:
        self._settings, self._metrics, self._interval = settings, metrics, interval
        self._replica = uuid.uuid4().hex[:8]
        self._most = max(1.0, settings.rows_per_day / 24)  # room that is saved up while few texts come: an hour's
        self._lock = threading.Lock()
        self._drawn: dict[tuple[str, str], _Drawn] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="seen", daemon=True)
        self._thread.start()

    def offer(self, loaded: LoadedModel, texts: Sequence[str]) -> None:
        """Note texts that a model has answered."""
        now = time.time()
        with self._lock:
            key = loaded.name, loaded.version
            if key not in self._drawn:
                origin = Origin(name=key[0], version=key[1], fingerprint=loaded.fingerprint, backend=loaded.backend, labels=tuple(loaded.card.labels))
                self._drawn[key] = _Drawn(origin, weakref.ref(loaded.classifier), self._most)
            for text in texts:
                self._drawn[key].offer(_Text(text, now))

    def close(self) -> None:
        """Write what was drawn, and end the thread."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._interval)
            gained = self._settings.rows_per_day * self._interval / _DAY
            with self._lock:
                drawn = self._drawn
                self._drawn = {
                    key: _Drawn(one.origin, one.classifier, min(self._most, one.room - len(one.texts) + gained))
                    for key, one in drawn.items()
                    if one.classifier() is not None  # else the model was replaced
                }
            for one in drawn.values():
                self._keep(one)

    def _keep(self, drawn: _Drawn) -> None:
        """Classify and write what was drawn, and count it."""
        if not drawn.offered:
            return
        classifier, name = drawn.classifier(), drawn.origin.name
        outcomes = self._metrics.seen
        outcomes.labels(name, "left_out").inc(drawn.offered - len(drawn.texts))
        rows = self._rows(classifier, sorted(drawn.texts, key=lambda one: one.time)) if classifier is not None and drawn.texts else None
        del classifier
        written = 0
        if rows is not None:
            try:
                home = Path(self._settings.folder) / drawn.origin.fingerprint
                write_part(home, self._replica, drawn.origin, rows)
                written = len(rows)
                forget(Path(self._settings.folder), self._settings.days, time.time())
            except OSError as error:
                _log.warning("what was seen cannot be written into %s: %s", self._settings.folder, error.strerror or type(error).__name__)
        outcomes.labels(name, "kept").inc(written)
        outcomes.labels(name, "lost").inc(len(drawn.texts) - written)

    def _rows(self, classifier: Classifier, drawn: list[_Text]) -> Rows | None:
        """What the files hold of texts; those that cannot be classified are left out."""

        def classified(texts: list[str]) -> list[tuple[np.ndarray, np.ndarray | None]]:
            probabilities, embeddings = classifier.embed(texts)
            return [(row, None if embeddings is None else embeddings[place]) for place, row in enumerate(probabilities)]

        found: list[tuple[_Text, np.ndarray, np.ndarray | None]] = []
        for start in range(0, len(drawn), _BATCH_TEXTS):
            some = drawn[start : start + _BATCH_TEXTS]
            answers = isolated(classified, [one.text for one in some])
            pairs = [(one, *answer) for one, answer in zip(some, answers, strict=True) if answer is not None]
            found += [one for one in pairs if np.isfinite(one[1]).all() and (one[2] is None or np.isfinite(one[2]).all())]
        if not found:
            return None
        embeddings = [one[2] for one in found if one[2] is not None]
        return Rows(
            [document_id(one.text) for one, _, _ in found],
            np.array([one.time for one, _, _ in found]),
            np.array([row for _, row, _ in found]),
            np.array(embeddings) if embeddings else None,
            [one.text for one, _, _ in found] if self._settings.texts else None,
        )
